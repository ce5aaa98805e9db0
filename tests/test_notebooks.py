"""The notebooks as files: built from their sources, executed, in the course's shape.

Their cells are executed by nbval (see conftest.py); their mathematics is tested in a file for each.
"""

import ast
import base64
import copy
import json
import re
import struct

import nbformat
import pytest

from tools import build_notebooks, build_site, catalogue, fill_pages, notebook_sources, run_notebook
from tools.notebook_sources import code_cells, tags

NAMES = catalogue.files()
TAGS = {"alone", "parameters", "exercise", "solution", "reference", "answer", "progress"}
TAGS |= {"slides", "nbval-check-output", "raises-exception"}
MARKS = re.compile(r"(picture|mistake)-\w+")
SLIDES = {"slide", "subslide", "fragment", "skip", "notes", "-"}
ABSOLUTE = re.compile(r"(?<![\w.:/])/(home|root|tmp|usr|opt|work|mnt|Users)/|\b[A-Z]:\\")
SCREEN = 25  # lines of code that can be seen at once, with the text above them


def built(name: str) -> nbformat.NotebookNode:
    return nbformat.read(catalogue.find(name).built, as_version=4)


def test_the_catalogue_lists_every_notebook_once():
    for ending in ("py", "ipynb"):
        assert sorted(NAMES) == sorted(p.stem for p in catalogue.NOTEBOOKS.glob(f"*.{ending}"))
    names = [name for each in catalogue.load() for name in {each.file, each.nickname}]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("page", fill_pages.PAGES)
def test_generated_parts_of_the_pages_are_up_to_date(page):
    text = (fill_pages.ROOT / page).read_text(encoding="utf-8")
    assert fill_pages.filled(page) == text, "Remedy: make pages"


def test_the_picture_of_the_readme_is_the_notebooks():
    committed = (build_site.DOCS / "picture.png").read_bytes()
    assert committed == build_site.picture(), "Remedy: make site"


@pytest.mark.parametrize("name", NAMES)
def test_in_step_with_the_source(name):
    source, notebook = notebook_sources.read(name), built(name)
    nbformat.validate(notebook)
    assert len(source.cells) == len(notebook.cells), "Remedy: make notebooks"
    for wanted, found in zip(source.cells, notebook.cells, strict=True):
        for part in ("cell_type", "source", "id", "metadata"):
            assert wanted[part] == found[part], "Remedy: make notebooks"


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_those_of_this_code(name):
    """Of the code, of what it imports and reads, and of the versions; and not of another run."""
    notebook = built(name)
    noted, cells = notebook.metadata.course, code_cells(notebook)
    assert noted.code == build_notebooks.code_stamp(notebook), "Remedy: make notebooks"
    assert noted.outputs == build_notebooks.outputs_stamp(notebook), "Remedy: make notebooks"
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]


@pytest.mark.parametrize("name", NAMES)
def test_small_and_free_of_this_machine(name):
    assert catalogue.find(name).built.stat().st_size < 1e6  # or a browser loads it slowly
    for cell in built(name).cells:
        outputs = [
            {k: v for k, v in output.get("data", {}).items() if not k.startswith("image/")}
            or output.get("text", "")
            for output in cell.get("outputs", [])
        ]
        assert not ABSOLUTE.search(cell.source + json.dumps(outputs))


@pytest.mark.parametrize("name", NAMES)
def test_a_cell_fits_on_the_screen(name):
    for cell in code_cells(built(name)):
        lines = [line for line in cell.source.splitlines() if line.strip()]
        code = [line for line in lines if not line.lstrip().startswith("#")]
        folded = {"solution", "reference"} & set(tags(cell))
        assert folded or len(code) <= SCREEN, cell.source


@pytest.mark.parametrize("name", NAMES)
def test_tags_and_slides_are_known(name):
    for cell in built(name).cells:
        assert not [tag for tag in tags(cell) if tag not in TAGS and not MARKS.fullmatch(tag)]
        assert cell.metadata.get("slideshow", {}).get("slide_type", "-") in SLIDES


@pytest.mark.parametrize("name", NAMES)
def test_head(name):
    """Title; course_utils before torch; a cell of numbers that anybody may change."""
    notebook = built(name)
    assert notebook.cells[0].source.startswith("# ")
    code = "\n".join(cell.source for cell in code_cells(notebook))
    imports = [n for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Import)]
    names = [alias.name for node in imports for alias in node.names]
    assert names.index("course_utils") < names.index("torch")
    (parameters,) = (cell for cell in code_cells(notebook) if "parameters" in tags(cell))
    values = {}
    for node in ast.parse(parameters.source).body:
        assert isinstance(node, ast.Assign) and node.targets[0].id.isupper()
        values[node.targets[0].id] = ast.literal_eval(node.value)
    assert isinstance(values["SEED"], int) and values["DEVICE"] == "auto"


@pytest.mark.parametrize("name", NAMES)
def test_first_screen_and_pictures(name):
    """The best picture stands first, also in a copy without results; every picture has a text."""
    notebook = built(name)
    first = notebook.cells[0]
    assert (
        first.attachments["picture.png"]["image/png"]
        and "](attachment:picture.png)" in first.source
    )
    for cell in code_cells(notebook):
        for output in (o for o in cell.outputs if "image/png" in o.get("data", {})):
            width, height = png_size(output.data["image/png"])
            assert len(output.metadata["image/png"].alt.split()) >= 5 and width >= 400, cell.source


def png_size(picture: str) -> tuple[int, int]:
    return struct.unpack(">II", base64.b64decode(picture)[16:24])


@pytest.mark.parametrize("name", NAMES)
def test_a_prediction_is_asked_first_and_answered_once_out_of_sight(name):
    open_questions: dict[str, tuple] = {}
    for cell in code_cells(built(name)):
        for call in (n for n in ast.walk(ast.parse(cell.source)) if isinstance(n, ast.Call)):
            match (
                getattr(call.func, "id", ""),
                [ast.literal_eval(a) for a in call.args if isinstance(a, ast.Constant)],
            ):
                case "predict", [question, *choices]:
                    assert question not in open_questions and 2 <= len(choices) <= 4
                    open_questions[question] = tuple(choices)
                case "answer", [question, right, *_]:
                    assert right in open_questions.pop(question)
                    assert "answer" in tags(cell) and cell.metadata.jupyter.source_hidden
                    assert cell.source.startswith("# Answer\n")  # a folded cell shows this line
    assert not open_questions


def test_predictions_and_checks_have_names_of_their_own():
    """They are kept under these names, for all notebooks together."""
    code = [cell.source for name in NAMES for cell in code_cells(built(name))]
    asked = [found for text in code for found in re.findall(r"^predict\(\s*\"(.+?)\"", text, re.M)]
    assert len(set(asked)) == len(asked) > 20


@pytest.mark.parametrize("each", catalogue.load(), ids=lambda each: each.nickname)
def test_the_core_is_short(each):
    assert 0 < each.core_minutes <= 45
    assert sum(part.minutes for part in each.sections if part.demo) in (0, 10)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_core_alone_runs_every_cell_of_it_twice_with_the_solutions(name):
    notebook = notebook_sources.type_in(notebook_sources.core(notebook_sources.read(name)))
    twice = [copy.deepcopy(cell) for cell in notebook.cells for _ in range(2)]
    for number, cell in enumerate(twice):
        cell.id = f"cell-{number}"
    notebook.cells = twice
    run_notebook.execute(notebook)


@pytest.mark.parametrize("name", NAMES)
def test_exercises_have_stub_check_hints_and_a_folded_solution(name):
    cells = built(name).cells
    stubs = [i for i, cell in enumerate(cells) if "exercise" in tags(cell)]
    assert len(stubs) == len(catalogue.find(name).exercises)
    for begin, end in zip(stubs, [*stubs[1:], len(cells)], strict=True):
        (check,) = notebook_sources.CHECK.finditer(cells[begin].source)
        folded = {"solution": "# Solution", "reference": "# The course's own version"}
        solutions = [cell for cell in cells[begin:end] if set(folded) & set(tags(cell))]
        asserted = [f"assert {check['check']}(" in cell.source for cell in solutions]
        assert any(asserted)
        for cell in solutions:
            assert cell.source.startswith(folded[tags(cell)[0]])
            assert cell.metadata.jupyter.source_hidden
        hints = [cell.source for cell in cells[begin:end] if "<details>" in cell.source]
        assert hints and all("<summary>" in hint for hint in hints)
