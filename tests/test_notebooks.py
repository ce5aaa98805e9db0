"""The notebooks as files: built from their sources, executed, in the course's shape.

Their cells are executed by nbval (see pyproject.toml), their mathematics is tested in test_nb_*.py.
"""

import ast
import json
import re
import statistics
from pathlib import Path

import nbformat
import pytest

from tools import build_notebooks, catalogue, notebook_sources

ROOT = Path(__file__).resolve().parents[1]
NAMES = catalogue.files()
TAGS = {"parameters", "exercise", "solution", "nbval-check-output", "raises-exception"}
SLIDES = {"slide", "subslide", "fragment", "skip", "notes", "-"}
ABSOLUTE = re.compile(r"(?<![\w.:/])/(home|root|tmp|usr|opt|work|mnt|Users)/|\b[A-Z]:\\")


def built(name: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def code(name: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in built(name).cells if cell.cell_type == "code"]


def tags(cell: nbformat.NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def statements(cell: nbformat.NotebookNode) -> list[str]:
    """Lines of code, without comments and blank lines."""
    lines = (line.strip() for line in cell.source.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def test_every_source_has_a_notebook_and_the_reverse():
    assert NAMES == sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    assert NAMES


@pytest.mark.parametrize("name", NAMES)
def test_in_step_with_the_source(name):
    source, notebook = notebook_sources.read(name), built(name)
    nbformat.validate(notebook)
    assert [c.cell_type for c in source.cells] == [c.cell_type for c in notebook.cells]
    for wanted, found in zip(source.cells, notebook.cells, strict=True):
        assert (wanted.source, wanted.id) == (found.source, found.id)
        assert wanted.metadata == found.metadata


@pytest.mark.parametrize("name", NAMES)
def test_executed_from_this_source_in_order_without_error_or_warning(name):
    assert built(name).metadata.course.source_sha256 == build_notebooks.digest(name)
    cells = code(name)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type != "error" and output.get("name") != "stderr"


@pytest.mark.parametrize("name", NAMES)
def test_small_and_free_of_this_machine(name):
    path = ROOT / "notebooks" / f"{name}.ipynb"
    assert path.stat().st_size < 1e6
    for cell in built(name).cells:
        outputs = [
            {k: v for k, v in output.get("data", {}).items() if not k.startswith("image/")}
            or output.get("text", "")
            for output in cell.get("outputs", [])
        ]
        assert not ABSOLUTE.search(cell.source + json.dumps(outputs))


@pytest.mark.parametrize("name", NAMES)
def test_cells_are_short_and_prose_outweighs_code(name):
    cells = [cell for cell in code(name) if "solution" not in tags(cell)]
    lengths = [len(statements(cell)) for cell in cells]
    assert max(lengths) <= 25, [c.source for c in cells if len(statements(c)) > 25]
    assert statistics.median(lengths) <= 8
    prose = [cell.source for cell in built(name).cells if cell.cell_type == "markdown"]
    words = [
        len(re.findall(r"\w+", text))
        for text in (" ".join(prose), " ".join(c.source for c in cells))
    ]
    assert words[0] >= words[1]


@pytest.mark.parametrize("name", NAMES)
def test_tags_and_slides_are_known(name):
    for cell in built(name).cells:
        assert set(tags(cell)) <= TAGS
        assert cell.metadata.get("slideshow", {}).get("slide_type", "-") in SLIDES


@pytest.mark.parametrize("name", NAMES)
def test_stored_results_are_compared_with_new_ones(name):
    """A change of course_utils would leave old results in place; nbval sees it in these cells."""
    compared = [cell for cell in code(name) if "nbval-check-output" in tags(cell)]
    assert len(compared) >= 3
    for cell in compared:
        texts = [o.get("text") or o.get("data", {}).get("text/markdown", "") for o in cell.outputs]
        assert re.search(r"\d", "".join(texts)), cell.source


@pytest.mark.parametrize("name", NAMES)
def test_head(name):
    """Title; course_utils before torch; all imports; parameters."""
    notebook, cells = built(name), code(name)
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# ")
    assert ast.parse(cells[0].source).body[0].names[0].name == "course_utils"
    assert "torch" not in re.sub("#.*", "", cells[0].source)
    for cell in cells[2:]:
        nodes = ast.walk(ast.parse(cell.source))
        assert not any(isinstance(n, (ast.Import, ast.ImportFrom)) for n in nodes), cell.source
    assert [i for i, cell in enumerate(cells) if "parameters" in tags(cell)] == [2]
    values = {}
    for node in ast.parse(cells[2].source).body:
        assert isinstance(node, ast.Assign) and node.targets[0].id.isupper()
        values[node.targets[0].id] = ast.literal_eval(node.value)
    assert isinstance(values["SEED"], int) and values["DEVICE"] == "auto"


@pytest.mark.parametrize("name", NAMES)
def test_exercises_have_stub_check_hints_and_a_folded_solution(name):
    cells = built(name).cells
    stubs = [i for i, cell in enumerate(cells) if "exercise" in tags(cell)]
    solutions = [i for i, cell in enumerate(cells) if "solution" in tags(cell)]
    assert len(stubs) >= 6 and len(stubs) <= len(solutions)
    for begin, end in zip(stubs, [*stubs[1:], len(cells)], strict=True):
        assert re.search(r"\bcheck_\w+\(", cells[begin].source)
        assert any(begin < i < end for i in solutions)
        hints = [c.source for c in cells[begin:end] if "<details>" in c.source]
        assert hints and all("<summary>" in hint for hint in hints)
    for cell in (cells[i] for i in solutions):
        assert cell.source.startswith("# Solution") and cell.metadata.jupyter.source_hidden
        assert re.search(r"^assert (checks\.)?check_\w+\(", cell.source, re.MULTILINE)


@pytest.mark.parametrize("name", NAMES)
def test_asserts_what_it_claims(name):
    checkpoints = [cell for cell in code(name) if re.search(r"^assert ", cell.source, re.MULTILINE)]
    assert len([cell for cell in checkpoints if "solution" not in tags(cell)]) >= 8


def test_kernels_of_the_tests_have_no_network():
    from nbclient import NotebookClient

    source = (
        "import urllib.request\n"
        "try:\n    urllib.request.urlopen('http://192.0.2.1/', timeout=5)\n"
        "except OSError as error:\n    print(error)"
    )
    cell = nbformat.v4.new_code_cell(source)
    NotebookClient(nbformat.v4.new_notebook(cells=[cell])).execute()
    assert "the tests run without a network" in cell.outputs[0].text
