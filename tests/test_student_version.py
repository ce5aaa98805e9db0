"""The version without solutions: nothing of them is left, and it works with its own files alone."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from tools import catalogue, create_venv, notebook_sources
from tools import student_version as student

# A notebook of its own; tests/test_browser.py runs those of the course.
LESSON = """# %% tags=["parameters"]
SEED = 0

# %% tags=["exercise"]
def my_sum(a, b):
    return ...

# %% tags=["solution"]
def solution_sum(a, b):
    return a + b

# %%
LAST
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Folder of the student's version."""
    target = tmp_path_factory.mktemp("handed-out") / "student"
    student.write(target)
    return target


@pytest.mark.parametrize("name", catalogue.files())
def test_nothing_of_a_solution_is_left_and_nothing_else_is_gone(written, name):
    whole = notebook_sources.read(name).cells
    bare = nbformat.read(written / "notebooks" / f"{name}.ipynb", as_version=4)
    solutions = [cell for cell in whole if "solution" in notebook_sources.tags(cell)]
    lesson = [cell.source for cell in whole if cell not in solutions]
    assert [cell.source for cell in bare.cells] == lesson
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in bare.cells)
    assert set(bare.metadata) == {"kernelspec"}
    names = {name for cell in solutions for name in re.findall(r"def (solution_\w+)", cell.source)}
    assert names
    for path in written.rglob("*"):  # in no other file, either
        if path.suffix in {".py", ".md", ".ipynb", ".toml"}:
            assert not names & set(re.findall(r"\w+", path.read_text(encoding="utf-8"))), path


def test_no_name_is_undefined_and_the_course_is_ready(written):
    command = ["ruff", "check", "--isolated", "--select", "F821", written]
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    command = [sys.executable, "-m", "course_utils"]
    done = subprocess.run(command, cwd=written, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_start_page_names_every_notebook_and_what_is_there(written):
    text = (written / "README.md").read_text(encoding="utf-8")
    paths = re.findall(r"\b(?:notebooks|tools|slides)[/\\][\w.]*", text)
    assert {f"notebooks/{name}.ipynb" for name in catalogue.files()} < set(paths)
    for path in paths:
        assert (written / path.replace("\\", "/")).exists(), path


def test_students_install_their_folder_without_what_the_tests_need(written, monkeypatch):
    installed = []
    monkeypatch.setattr(create_venv, "ROOT", written)
    monkeypatch.setattr(create_venv, "STAMP", written / "stamp")
    monkeypatch.setattr(create_venv, "pip_install", lambda python, *words: installed.append(words))
    create_venv.install("default", fresh=False)
    assert installed[-1][-1] == "."


# ------------------------------------------------------------------ running and packing


@pytest.fixture
def lesson(tmp_path, monkeypatch):
    """A course of one small notebook; returns what hands it out with another last cell."""
    entry = catalogue.Notebook("lesson", "lesson", "Add", "sums", "begin here", "", [])
    monkeypatch.setattr(catalogue, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(catalogue, "load", lambda: [entry])
    monkeypatch.setattr(student, "TARGET", tmp_path / "build" / "student")
    monkeypatch.setattr(sys, "argv", ["student_version.py"])

    def hand_out(last: str) -> Path:
        (tmp_path / "lesson.py").write_text(LESSON.replace("LAST", last), encoding="utf-8")
        student.main()
        return student.TARGET.with_suffix(".zip")

    return hand_out


@pytest.mark.kernel
def test_it_runs_with_its_own_files_alone_and_is_packed_as_it_was(lesson):
    archive = lesson(
        "import course_utils, pathlib\n"
        "assert pathlib.Path(course_utils.__file__).parents[1] == pathlib.Path.cwd().parent"
    )
    with zipfile.ZipFile(archive) as packed:
        assert {"student/notebooks/lesson.ipynb", "student/README.md"} <= set(packed.namelist())
        assert not [name for name in packed.namelist() if "cache" in name]
        assert '"outputs": []' in packed.read("student/notebooks/lesson.ipynb").decode()


READ = "from course_utils import data\ndata.load_wine_quality('red')"


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("last", "missing"), [("solution_sum(1, 2)", "solution_sum"), (READ, "winequality-red.csv")]
)
def test_what_needs_a_solution_or_a_file_that_is_missing_is_not_packed(
    lesson, monkeypatch, last, missing
):
    monkeypatch.setattr(student, "NEEDED", [name for name in student.NEEDED if name != "data"])
    with pytest.raises(CellExecutionError, match=missing):
        lesson(last)
    assert not student.TARGET.with_suffix(".zip").exists()
