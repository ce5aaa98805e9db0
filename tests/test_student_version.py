"""The version without solutions: nothing of them is left, and it runs."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from tools import catalogue, notebook_sources
from tools import student_version as student

NAMES = catalogue.files()
CODE, TEXT = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell
SOURCE = """# %% [markdown]
# # A lesson
# ### Exercise 1: add (5 minutes)

# %% tags=["parameters"]
SEED = 0

# %% tags=["exercise"]
def my_sum(a, b):
    return ...

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Think.
#
# </details>

# %% tags=["solution"] jupyter={"source_hidden": true}
# Solution
def solution_sum(a, b):
    return a + b

# %%
LAST
"""


def lines(cells) -> set[str]:
    """Lines of code that say something of their own."""
    found = {line.strip() for cell in cells for line in cell.source.splitlines()}
    return {line for line in found if len(line) > 12 and not line.startswith("#")}


def solutions(name: str) -> list:
    return [
        c for c in notebook_sources.read(name).cells if "solution" in c.metadata.get("tags", [])
    ]


@pytest.fixture
def lesson(tmp_path, monkeypatch):
    """A course with one small notebook; returns what writes it with another last cell."""
    monkeypatch.setattr(tool, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(student, "TARGET", tmp_path / "build" / "student")

    def write(last: str) -> None:
        (tmp_path / "lesson.py").write_text(SOURCE.replace("LAST", last), encoding="utf-8")

    return write


def test_solutions_outputs_and_notes_of_the_build_are_gone():
    output = nbformat.v4.new_output("stream", text="secret 42\n")
    cells = [
        TEXT("# Title"),
        CODE("f = 1", metadata={"tags": ["exercise"]}, execution_count=1, outputs=[output]),
        TEXT("<details><summary>Hint 1</summary>\n\nhelp\n\n</details>"),
        CODE("# Solution\nsecret = 42", metadata={"tags": ["solution"]}, outputs=[output]),
        CODE("print(f)", execution_count=3, outputs=[output]),
    ]
    metadata = {"kernelspec": notebook_sources.KERNEL, "course": {"source_sha256": "secret"}}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=metadata)
    bare = student.strip(notebook)
    assert "secret" not in nbformat.writes(bare) and "help" in nbformat.writes(bare)
    assert [c.source for c in bare.cells] == ["# Title", "f = 1", cells[2].source, "print(f)"]
    assert len(notebook.cells) == 5 and notebook.cells[1].outputs  # the original stays


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_a_solution_is_left(name):
    """But for lines that the lesson itself has, in a cell that is no solution."""
    whole = notebook_sources.read(name)
    lesson = [c for c in whole.cells if "solution" not in c.metadata.get("tags", [])]
    bare = student.strip(whole)
    secret = lines(solutions(name)) - lines(lesson)
    assert len(secret) > 15 and not secret & lines(bare.cells)
    text = nbformat.writes(bare)
    assert not re.search(r"solution_|# Solution|source_sha256", text)
    assert not any(c.get("outputs") or c.get("execution_count") for c in bare.cells)


@pytest.mark.parametrize("name", NAMES)
def test_exercises_checks_and_hints_are_kept(name):
    whole, bare = notebook_sources.read(name), student.strip(notebook_sources.read(name))
    for pattern in ("### Exercise", "<summary>Hint", r"checks\.check_\w+\(my_"):
        found = [len(re.findall(pattern, "\n".join(c.source for c in n.cells)))
                 for n in (whole, bare)]  # fmt: skip
        assert found[0] == found[1] > 0, pattern


def test_what_is_written_is_complete_and_clean(tmp_path):
    """No name is undefined, no solution lies in another file, and the course is ready."""
    target = tmp_path / "student"
    written = student.write(target)
    assert sorted(path.stem for path in written) == NAMES
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821", target]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    names = {
        name
        for notebook in NAMES
        for cell in solutions(notebook)
        for name in re.findall(r"def (solution_\w+)", cell.source)
    }
    assert len(names) > 15
    for path in target.rglob("*"):
        if path.suffix in {".py", ".md", ".ipynb", ".toml"}:
            text = path.read_text(encoding="utf-8")
            assert not any(name in text for name in names), path
    command = [sys.executable, "-m", "course_utils"]
    done = subprocess.run(command, cwd=target, capture_output=True, text=True)
    assert "failure" not in done.stdout.lower() and done.returncode == 0, done.stdout


def test_the_start_page_of_the_students_names_what_is_there(tmp_path):
    student.copy_course(tmp_path / "student")
    text = (tmp_path / "student" / "README.md").read_text()
    paths = re.findall(r"(?:tools|slides)[/\\]\w*\.?\w*", text)
    assert len(paths) >= 3
    for path in paths:
        assert (tmp_path / "student" / path.replace("\\", "/")).exists(), path


def test_it_runs_and_is_packed(lesson, tmp_path, monkeypatch, capsys):
    lesson("print(my_sum(1, 2))")
    monkeypatch.setattr(sys, "argv", ["student.py"])
    student.main()
    assert "lesson.ipynb without solutions" in capsys.readouterr().out
    written = nbformat.read(student.TARGET / "notebooks" / "lesson.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in written.cells)
    with zipfile.ZipFile(f"{student.TARGET}.zip") as packed:
        assert {"student/notebooks/lesson.ipynb", "student/README.md"} <= set(packed.namelist())


def test_it_runs_with_its_own_files_alone(lesson, monkeypatch):
    """Package and data come from the folder that is handed out, and nothing is left in it."""
    lesson(
        "from pathlib import Path\nimport course_utils\n"
        "from course_utils.data import load_wine_quality\n"
        "assert Path(course_utils.__file__).parents[1] == Path.cwd().parent\n"
        "assert len(load_wine_quality('red').y) == 1599"
    )
    monkeypatch.setattr(sys, "argv", ["student.py"])
    student.main()
    with zipfile.ZipFile(f"{student.TARGET}.zip") as packed:
        assert not [name for name in packed.namelist() if "cache" in name]
    Path(f"{student.TARGET}.zip").unlink()
    monkeypatch.setattr(student, "NEEDED", [name for name in student.NEEDED if name != "data"])
    with pytest.raises(CellExecutionError, match="FileNotFoundError.*winequality-red.csv"):
        student.main()
    assert not Path(f"{student.TARGET}.zip").exists()


def test_students_need_not_install_what_the_tests_need(tmp_path):
    student.copy_course(tmp_path)
    whole, bare = (
        tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        for folder in (student.ROOT, tmp_path)
    )
    assert len(whole["optional-dependencies"]["test"]) > 10
    assert bare == whole | {"optional-dependencies": {"test": []}}


def test_a_lesson_that_needs_its_solution_is_not_handed_out(lesson, monkeypatch):
    lesson("print(solution_sum(1, 2))")
    monkeypatch.setattr(sys, "argv", ["student.py"])
    with pytest.raises(CellExecutionError, match="solution_sum"):
        student.main()
    assert not Path(f"{student.TARGET}.zip").exists()
