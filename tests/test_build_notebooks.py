"""Building: only what has changed is executed, and what is carried over stays as it was."""

import itertools

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
# {{ways}}.
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
def course(tmp_path, monkeypatch):
    """A course with one small notebook; executing it gives every cell a new output."""
    turns = itertools.count(1)

    def execute(notebook, on_cell=None, **options):
        turn = next(turns)
        for number, cell in enumerate(notebook_sources.code_cells(notebook), 1):
            cell.execution_count = number
            text = f"run {turn}, cell {number}\n"
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


def built():
    return nbformat.read(catalogue.find("lesson").built, as_version=4)


def outputs() -> list:
    return [cell.outputs for cell in notebook_sources.code_cells(built())]


@pytest.mark.parametrize(
    ("executed", "path", "old", "new"),
    [
        (False, "notebooks/lesson.py", "# ### Exercise", "# Prose, with a comma.\n# ### Exercise"),
        (False, "notebooks/lesson.py", '"table.csv"', '"table.csv"  # a comment'),
        (False, "notebooks/catalogue.toml", "minutes = 10", "minutes = 20"),
        (False, "notebooks/catalogue.toml", 'repository = ""', 'repository = "we/course"'),
        (False, "course_utils/digits.py", 'ONE = "1"', '"""Digits."""\n\nONE = "1"  # a comment'),
        (False, "course_utils/other.py", "2", "3"),
        (False, "data/other.csv", "2", "3"),
        (True, "notebooks/lesson.py", "SEED = 0", "SEED = 1"),
        (True, "notebooks/lesson.py", "return a + b", "return b + a"),
        (True, "course_utils/__init__.py", "", "import os\n"),
        (True, "course_utils/digits.py", '"1"', '"one"'),
        (True, "data/table.csv", "1", "3"),
        (True, "constraints.txt", "2.0", "2.1"),
        (True, "notebooks/lesson.ipynb", "run 1, cell 2", "run 1, cell 3"),  # of another run
    ],
)
def test_only_what_outputs_depend_on_executes_the_notebook(course, executed, path, old, new):
    assert build_notebooks.build("lesson")
    before = outputs()
    change(course / path, old, new)
    assert build_notebooks.build("lesson") == executed
    assert (outputs() != before) == executed
    fresh = notebook_sources.read("lesson")
    assert [cell.source for cell in built().cells] == [cell.source for cell in fresh.cells]


def test_a_second_build_changes_no_byte(course):
    build_notebooks.build("lesson")
    before = catalogue.find("lesson").built.read_bytes()
    build_notebooks.build("lesson")
    assert catalogue.find("lesson").built.read_bytes() == before


def test_title_timetable_and_exercises_come_from_the_catalogue(course):
    build_notebooks.build("lesson")
    head = built().cells[0].source
    assert head.startswith("# Add: numbers\n| section |")
    assert (
        "| 1 Sums | core | 5 | 6 |\n| 2 Further sums | deeper | 10 |" in head
    )  # three cells of 2 s
    assert "**Core:** 5 minutes." in head and "All sections: 15 minutes." in head
    assert head.endswith("The exercise takes another 3 minutes.")


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("## 2 Further sums", "## 2 More sums", "More sums"),  # the catalogue says Further
        ("assert check_sum(solution_sum)", "", "check_sum has no solution"),
    ],
)
def test_what_does_not_fit_together_is_named(course, old, new, named):
    change(course / "notebooks" / "lesson.py", old, new)
    with pytest.raises(SystemExit, match=named):
        notebook_sources.type_in(notebook_sources.read("lesson"))


def test_a_notebook_that_warns_is_refused_and_nothing_is_written(course, monkeypatch):
    build_notebooks.build("lesson")
    before = outputs()

    def warn(notebook, on_cell=None):
        warning = nbformat.v4.new_output("stream", name="stderr", text="50%|##\nUserWarning: no\n")
        notebook_sources.code_cells(notebook)[0].outputs = [warning]

    monkeypatch.setattr(build_notebooks, "execute", warn)
    with pytest.raises(SystemExit, match="UserWarning"):
        build_notebooks.build("lesson", force=True)
    assert outputs() == before


def run(notebook, check) -> dict:
    """The names that the cells of the exercise leave behind."""
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


def test_a_part_is_replaced_between_its_marks():
    text = "a\n<!-- x -->\nold\n<!-- /x -->\nb\n"
    assert fill(text, {"x": r"new \1"}) == "a\n<!-- x -->\nnew \\1\n<!-- /x -->\nb\n"
    for wrong in ("nothing", text + text):
        with pytest.raises(ValueError, match="places for <!-- x -->"):
            fill(wrong, {"x": "new"})
