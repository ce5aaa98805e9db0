"""Building: only what has changed is executed, and what is carried over stays as it was."""

import nbformat
import pytest

from tools import build_notebooks, catalogue, notebook_sources
from tools.marked import fill

CATALOGUE = """[published]
repository = ""
branch = "main"
hub = ""
[[notebook]]
file = "lesson"
nickname = "short"
title = "Add"
topic = "numbers"
level = "begin here"
promise = "Add two numbers"
[notebook.sections]
"Sums" = { minutes = 5, core = true }
"Further sums" = { minutes = 10 }
"""
SOURCE = """# %% [markdown]
# # {{title}}
# {{timetable}}
#
# {{exercises}}.

# %% tags=["parameters"]
SEED = 0

# %% [markdown]
# ## 1 Sums
# ### Exercise 1: add (3 minutes)

# %%
from course_utils import numbers

path = "table.csv"

# %% tags=["exercise"]
def my_sum(a, b):
    return ...


check_sum(my_sum)

# %% tags=["solution"]
# Solution
def solution_sum(a, b):
    return a + b


assert check_sum(solution_sum)

# %% [markdown]
# ## 2 Further sums
"""


@pytest.fixture
def runs():
    """What was executed."""
    return []


@pytest.fixture
def course(tmp_path, monkeypatch, runs):
    """A course with one small notebook; executing it gives every cell a new output."""

    def execute(notebook, on_cell=None, **options):
        runs.append(notebook)
        for number, cell in enumerate(notebook_sources.code_cells(notebook), 1):
            cell.execution_count = number
            text = f"run {len(runs)}, cell {number}\n"
            cell.outputs = [nbformat.v4.new_output("stream", text=text)]
            on_cell(cell, 2.0)

    monkeypatch.setattr(build_notebooks, "execute", execute)
    monkeypatch.setattr(build_notebooks, "ROOT", tmp_path)
    monkeypatch.setattr(catalogue, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setattr(catalogue, "CATALOGUE", tmp_path / "notebooks" / "catalogue.toml")
    files = {
        "notebooks/catalogue.toml": CATALOGUE,
        "notebooks/lesson.py": SOURCE,
        "course_utils/__init__.py": "",
        "course_utils/numbers.py": "from course_utils.digits import ONE\n",
        "course_utils/digits.py": 'ONE = "1"\n',
        "course_utils/other.py": "TWO = 2\n",
        "data/table.csv": "1\n",
        "data/other.csv": "2\n",
        "constraints.txt": "numpy==2.0\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def change(path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def outputs(course) -> list:
    notebook = nbformat.read(course / "notebooks" / "lesson.ipynb", as_version=4)
    return [cell.outputs for cell in notebook_sources.code_cells(notebook)]


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("notebooks/lesson.py", "# ### Exercise", "# Some prose, with a comma.\n# ### Exercise"),
        ("notebooks/lesson.py", 'path = "table.csv"', 'path = "table.csv"  # a comment'),
        ("notebooks/catalogue.toml", "minutes = 10", "minutes = 20"),
        ("notebooks/catalogue.toml", 'repository = ""', 'repository = "we/course"'),
        ("course_utils/digits.py", 'ONE = "1"', '"""The digits."""\n\nONE = "1"  # a comment'),
        ("course_utils/other.py", "2", "3"),
        ("data/other.csv", "2", "3"),
    ],
)
def test_what_no_output_depends_on_executes_nothing(course, runs, path, old, new):
    assert build_notebooks.build("lesson")
    before = outputs(course)
    change(course / path, old, new)
    assert not build_notebooks.build("lesson")
    assert outputs(course) == before and len(runs) == 1
    notebook = nbformat.read(course / "notebooks" / "lesson.ipynb", as_version=4)
    fresh = notebook_sources.read("lesson")
    assert [c.source for c in notebook.cells] == [c.source for c in fresh.cells]


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("notebooks/lesson.py", "SEED = 0", "SEED = 1"),
        ("notebooks/lesson.py", "return a + b", "return b + a"),
        ("course_utils/__init__.py", "", "import os\n"),
        ("course_utils/digits.py", '"1"', '"one"'),
        ("data/table.csv", "1", "3"),
        ("constraints.txt", "2.0", "2.1"),
        ("notebooks/lesson.ipynb", "run 1, cell 2", "run 1, cell 3"),  # saved after another run
    ],
)
def test_what_outputs_depend_on_executes_the_notebook(course, path, old, new):
    build_notebooks.build("lesson")
    change(course / path, old, new)
    assert build_notebooks.build("lesson")
    assert outputs(course)[0][0].text == "run 2, cell 1\n"


def test_a_second_build_changes_no_byte_and_force_executes(course):
    build_notebooks.build("lesson")
    path = course / "notebooks" / "lesson.ipynb"
    before = path.read_bytes()
    build_notebooks.build("lesson")
    assert path.read_bytes() == before
    assert build_notebooks.build("lesson", force=True)


def test_title_timetable_and_exercises_come_from_the_catalogue(course):
    build_notebooks.build("lesson")
    head = nbformat.read(course / "notebooks" / "lesson.ipynb", as_version=4).cells[0].source
    assert head.startswith("# Add: numbers\n| section |")
    assert "| 1 Sums | 5 | 6 |\n| 2 Further sums | 10 |" in head  # three cells of 2 s
    assert head.endswith("The exercise takes another 3 minutes.")


def test_sections_that_differ_from_the_catalogue_are_named(course):
    change(course / "notebooks" / "lesson.py", "## 2 Further sums", "## 2 More sums")
    with pytest.raises(SystemExit, match="More sums"):
        build_notebooks.build("lesson")


def test_a_notebook_that_warns_is_refused_and_nothing_is_written(course, monkeypatch):
    build_notebooks.build("lesson")
    before = outputs(course)

    def warn(notebook, on_cell=None):
        warning = nbformat.v4.new_output("stream", name="stderr", text="50%|##\nUserWarning: no\n")
        notebook_sources.code_cells(notebook)[0].outputs = [warning]

    monkeypatch.setattr(build_notebooks, "execute", warn)
    with pytest.raises(SystemExit, match="UserWarning"):
        build_notebooks.build("lesson", force=True)
    assert outputs(course) == before


def test_an_unknown_name_is_told_the_choice(course):
    with pytest.raises(SystemExit, match="'lessons' is no notebook. Remedy: one of lesson"):
        build_notebooks.build("lessons")


# ------------------------------------------------------------------ solutions in their stubs


def run(notebook, check) -> dict:
    """The names that the cells of an exercise leave behind."""
    names = {"check_sum": check}
    for cell in notebook_sources.code_cells(notebook)[3:]:
        exec(cell.source, names)
    return names


def test_typed_in_solutions_answer_the_stub_and_must_pass(course):
    solved = notebook_sources.type_in(notebook_sources.read("lesson"))
    assert run(solved, lambda answer: answer(1, 2) == 3)["my_sum"](3, 4) == 7
    assert run(notebook_sources.read("lesson"), lambda answer: True)["my_sum"](3, 4) is ...
    with pytest.raises(AssertionError):
        run(solved, lambda answer: answer(1, 2) == 4)


def test_a_stub_without_a_solution_is_named(course):
    change(course / "notebooks" / "lesson.py", "assert check_sum(solution_sum)", "")
    with pytest.raises(SystemExit, match="check_sum has no solution"):
        notebook_sources.type_in(notebook_sources.read("lesson"))


# ------------------------------------------------------------------ generated parts of pages


def test_a_part_is_replaced_between_its_marks():
    text = "a\n<!-- x -->\nold\n<!-- /x -->\nb\n"
    assert fill(text, {"x": r"new \1"}) == "a\n<!-- x -->\nnew \\1\n<!-- /x -->\nb\n"
    for wrong in ("nothing", text + text):
        with pytest.raises(ValueError, match="places for <!-- x -->"):
            fill(wrong, {"x": "new"})
