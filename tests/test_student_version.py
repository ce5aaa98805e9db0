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


def code(cells) -> set[str]:
    """Lines of code that say something of their own."""
    found = {line.strip() for cell in cells for line in cell.source.splitlines()}
    return {line for line in found if len(line) > 12 and not line.startswith("#")}


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
    lesson = [cell for cell in whole if "solution" not in notebook_sources.tags(cell)]
    solutions = [cell for cell in whole if "solution" in notebook_sources.tags(cell)]
    assert [cell.source for cell in bare.cells] == [cell.source for cell in lesson]
    secret = code(solutions) - code(lesson)
    assert len(secret) > 15 and not secret & code(bare.cells)
    assert set(bare.metadata) == {"kernelspec"}
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in bare.cells)
    names = set(re.findall(r"def (solution_\w+)", "\n".join(cell.source for cell in solutions)))
    for path in written.rglob("*"):
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
        "from pathlib import Path\nimport course_utils\n"
        "from course_utils.data import load_wine_quality\n"
        "assert Path(course_utils.__file__).parents[1] == Path.cwd().parent\n"
        "assert len(load_wine_quality('red').y) == 1599"
    )
    with zipfile.ZipFile(archive) as packed:
        assert {"student/notebooks/lesson.ipynb", "student/README.md"} <= set(packed.namelist())
        assert not [name for name in packed.namelist() if "cache" in name]
        text = packed.read("student/notebooks/lesson.ipynb").decode()
    assert not any(cell.get("outputs") for cell in nbformat.reads(text, as_version=4).cells)


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("last", "complaint"),
    [
        ("print(solution_sum(1, 2))", "solution_sum"),
        ("from course_utils import data\ndata.load_wine_quality('red')", "winequality-red.csv"),
    ],
)
def test_what_needs_a_solution_or_a_file_that_is_missing_is_not_packed(
    lesson, monkeypatch, last, complaint
):
    monkeypatch.setattr(student, "NEEDED", [name for name in student.NEEDED if name != "data"])
    with pytest.raises(CellExecutionError, match=complaint):
        lesson(last)
    assert not student.TARGET.with_suffix(".zip").exists()
