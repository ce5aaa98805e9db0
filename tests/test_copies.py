"""Students' own copies: without results, never overwritten; a new one arrives with the answers."""

import copy
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from ipykernel.ipkernel import IPythonKernel
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from course_utils import copies
from tests.requirements import with_git
from tools import catalogue, notebook_sources, present

ROOT = Path(__file__).resolve().parents[1]
STUB = "def my_rate(x):\n    return None\n\n\nvae.check_rate(my_rate)"
OTHER = "def my_mask(d):\n    return None\n\n\nflows.check_mask(my_mask)"
ANSWER = STUB.replace("None", "x.sum(1)")


def lesson(*sources: str) -> nbformat.NotebookNode:
    """A notebook of the course as it is built, with results."""
    cells = [new_markdown_cell("# Lesson")]
    for number, source in enumerate(sources):
        out = new_output("stream", text="the result\n")
        tags = ["exercise"] if "check_" in source else []
        cells.append(new_code_cell(source, execution_count=number, outputs=[out]))
        cells[-1].metadata["tags"] = tags
    return new_notebook(cells=cells, metadata={"kernelspec": notebook_sources.KERNEL})


@pytest.fixture
def course(tmp_path):
    """A folder with a small notebook and a first page."""
    folder = tmp_path / "course"
    (folder / "notebooks").mkdir(parents=True)
    page = "# Start\n\n[Lesson](lesson.ipynb)\n\n`python -m course_utils`, "
    page += "`python -m course_utils.copies`\n"
    (folder / "notebooks" / "START.md").write_text(page, encoding="utf-8")
    nbformat.write(lesson("1 + 1", STUB, OTHER), folder / "notebooks" / "lesson.ipynb")
    return folder


def edit(path: Path, old: str, new: str) -> bytes:
    """What a student types into a copy."""
    notebook = nbformat.read(path, as_version=4)
    [cell] = [cell for cell in notebook.cells if cell.source == old]
    cell.source = new
    nbformat.write(notebook, path)
    return path.read_bytes()


@pytest.mark.parametrize("name", catalogue.files())
def test_a_copy_is_the_notebook_without_its_results(tmp_path, name):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "START.md").touch()
    built = catalogue.find(name).built
    shutil.copy(built, tmp_path / "notebooks")
    copies.make(tmp_path)
    ours = nbformat.read(tmp_path / "work" / f"{name}.ipynb", as_version=4)
    nbformat.validate(ours)
    theirs = nbformat.read(built, as_version=4).cells
    assert [cell.source for cell in ours.cells] == [cell.source for cell in theirs]
    code = notebook_sources.code_cells(ours)
    assert not any(cell.outputs or cell.execution_count for cell in code)
    assert ours.metadata.language_info == IPythonKernel.language_info  # nothing to save
    stubs = [cell for cell in code if "exercise" in notebook_sources.tags(cell)]
    names = [cell.metadata.exercise.name for cell in stubs]
    assert len(set(names)) == len(names) == len(stubs) > 0  # each can be told from the others


def test_a_copy_is_made_once_and_again_when_it_was_deleted(course):
    assert copies.make(course) == ["lesson.ipynb: new"]
    path = course / "work" / "lesson.ipynb"
    written = edit(path, STUB, ANSWER)
    path.rename(path.with_name("meine Lösung.ipynb"))
    assert copies.make(course) == []  # known by what it is, not by its name
    assert "](meine%20L%C3%B6sung.ipynb)" in (course / "work" / "START.md").read_text("utf-8")
    assert path.with_name("meine Lösung.ipynb").read_bytes() == written
    path.with_name("meine Lösung.ipynb").unlink()
    assert copies.make(course) == ["lesson.ipynb: new"]


@pytest.mark.parametrize(
    "taken",
    [b"", b'{"cells": [1]}', b"[]", b"\xff", b'{"cells": [], "metadata": null}', None],
)
def test_a_file_that_is_no_copy_is_left_alone(course, taken):
    path = course / "work" / "lesson.ipynb"
    path.parent.mkdir()
    if taken is None:
        path.symlink_to("nowhere")
    else:
        path.write_bytes(taken)
    assert len(copies.make(course)) == 1 and len(list(path.parent.glob("*.ipynb"))) == 2
    assert copies.make(course) == []
    assert path.is_symlink() if taken is None else path.read_bytes() == taken


def test_a_damaged_notebook_of_the_course_is_named_and_the_others_are_there(course):
    (course / "notebooks" / "broken.ipynb").write_text("<<<<<<< HEAD")
    told = copies.make(course)
    assert len(told) == 2 and "broken.ipynb is damaged. Remedy: " in told[0]
    assert {path.name for path in (course / "work").iterdir()} == {"START.md", "lesson.ipynb"}


def update(course: Path, *sources: str) -> tuple[str, nbformat.NotebookNode]:
    """Change the course's notebook; what is said, and the newest copy."""
    nbformat.write(lesson(*sources), course / "notebooks" / "lesson.ipynb")
    told = copies.make(course)
    assert copies.make(course) == []
    page = (course / "work" / "START.md").read_text(encoding="utf-8")
    newest = course / "work" / unquote(re.search(r"\]\((.*?)\)", page)[1])
    notebook = nbformat.read(newest, as_version=4)
    nbformat.validate(notebook)
    return " ".join(told), notebook


def test_a_changed_notebook_arrives_beside_the_copy_with_the_answers(course):
    copies.make(course)
    path = course / "work" / "lesson.ipynb"
    edit(path, OTHER, OTHER.replace("None", "[0, 1]"))
    written = edit(path, STUB, ANSWER)
    changed = OTHER.replace("(d)", "(d, layer)")
    told, notebook = update(course, "2 + 2", changed, STUB)
    assert told.endswith("that came along: 2") and path.read_bytes() == written
    _, _, other, earlier, rate = [cell.source for cell in notebook.cells]
    assert rate == ANSWER  # the exercise is the same
    assert other == changed and "[0, 1]" in earlier  # it is not, so the new one is to be done
    assert notebook.cells[3].cell_type == "raw"
    # And once more: what came along is an answer, and goes on.
    told, notebook = update(course, "3 + 3", changed, STUB)
    assert told.endswith("that came along: 2") and len(list(path.parent.glob("*.ipynb"))) == 3
    assert [cell.source for cell in notebook.cells[2:]] == [other, earlier, rate]


def test_answers_are_found_in_every_copy_and_in_cells_that_were_split(course):
    copies.make(course)
    path = course / "work" / "week 1" / "lesson.ipynb"
    path.parent.mkdir()
    (course / "work" / "lesson.ipynb").rename(path)
    notebook = nbformat.read(path, as_version=4)
    first, second = copy.deepcopy(notebook.cells[2]), notebook.cells[2]
    first.source, second.source, first.id = "rate = 1", ANSWER, "split"
    notebook.cells.insert(2, first)
    nbformat.write(notebook, path)
    _, newer = update(course, "2 + 2", STUB, OTHER)
    assert newer.cells[2].source == f"rate = 1\n\n{ANSWER}"
    newest = max((course / "work").rglob("*.ipynb"), key=lambda each: each.stat().st_mtime)
    edit(newest, OTHER, OTHER.replace("None", "[0, 1]"))
    os.utime(path, (2e9, 2e9))  # the old one was saved last, and knows one answer only
    _, both = update(course, "3 + 3", STUB, OTHER)
    assert "rate = 1" in both.cells[2].source and "[0, 1]" in both.cells[3].source


@pytest.mark.parametrize("use", ["nothing", "output", "note", "first cell"])
def test_only_a_copy_that_was_not_used_makes_room(course, use):
    alone = new_code_cell("ADDRESS = ''", metadata={"tags": ["alone"]})
    built = lesson("1 + 1", STUB)
    built.cells.insert(1, alone)
    nbformat.write(built, course / "notebooks" / "lesson.ipynb")
    copies.make(course)
    path = course / "work" / "lesson.ipynb"
    notebook = nbformat.read(path, as_version=4)
    if use == "output":
        notebook.cells[2].outputs = [new_output("stream", text="2")]
    elif use != "nothing":
        notebook.cells[{"note": 0, "first cell": 1}[use]].source += "  # mine"
    nbformat.write(notebook, path)
    written = path.read_bytes()
    update(course, "2 + 2", STUB)
    assert len(list(path.parent.glob("*.ipynb"))) == 1 + (use != "nothing")
    assert (path.read_bytes() == written) == (use != "nothing")


@with_git
def test_bringing_the_course_up_to_date_never_meets_a_students_work(course, tmp_path):
    """Git's view, in a clone: nothing tracked changes, and a pull goes through."""

    def git(*words: str, where: Path = course) -> str:
        own = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        command = ["git", *own, *words]
        return subprocess.run(
            command, cwd=where, stdout=subprocess.PIPE, check=True
        ).stdout.decode()

    shutil.copy(ROOT / ".gitignore", course)
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "first")
    student = tmp_path / "student"
    git("clone", "--quiet", str(course), str(student))
    copies.make(student)
    written = edit(student / "work" / "lesson.ipynb", STUB, ANSWER)
    assert git("status", "--porcelain", where=student) == ""
    nbformat.write(lesson("2 + 2", STUB), course / "notebooks" / "lesson.ipynb")
    git("commit", "--quiet", "-a", "-m", "second")
    git("pull", "--quiet", "--ff-only", where=student)
    assert "came along: 1" in copies.make(student)[0]
    assert (student / "work" / "lesson.ipynb").read_bytes() == written
    assert git("status", "--porcelain", where=student) == ""


def test_what_the_first_page_says_to_type_works_in_any_folder(course, tmp_path):
    """And means this course, where another one is installed."""
    copies.make(course)
    page = (course / "work" / "START.md").read_text(encoding="utf-8")
    check, again = re.findall("`(.*?)`", page)
    (course / "work" / "lesson.ipynb").unlink()
    for line in (f"{check} python", again):
        subprocess.run(line, shell=True, cwd=tmp_path, check=True)
    assert (course / "work" / "lesson.ipynb").is_file()
    shutil.rmtree(course / "work")
    (course / "work").touch()
    done = subprocess.run(again, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("course: no copies in ")


def test_an_old_copy_says_so(course, capsys, monkeypatch):
    (course / "pyproject.toml").write_text('[project]\nversion = "2.1"\n')
    monkeypatch.setattr(copies, "ROOT", course)
    copies.make(course)
    monkeypatch.setenv("JPY_SESSION_NAME", str(course / "work" / "lesson.ipynb"))
    copies.notice("v2.0")  # the copy is as it would be made today: nothing to do
    assert capsys.readouterr().out == ""
    nbformat.write(lesson("2 + 2", STUB), course / "notebooks" / "lesson.ipynb")
    copies.notice("v2.1")
    assert "older than the course" in capsys.readouterr().out
    monkeypatch.setenv("JPY_SESSION_NAME", str(course / "notebooks" / "lesson.ipynb"))
    copies.notice("v2.1")
    assert "is the course's own" in capsys.readouterr().out
    for other in ("", "gone.ipynb"):
        monkeypatch.setenv("JPY_SESSION_NAME", other)
        copies.notice("v2.1")
        assert capsys.readouterr().out == ""
        copies.notice("v2.0")
        assert "v2.0 of the course, but v2.1" in capsys.readouterr().out


def test_what_is_presented_has_results_and_is_used_again(course):
    original, work = course / "notebooks" / "lesson.ipynb", course / "work"
    path = present.copy_with_results(original, work)
    assert json.loads(path.read_text())["cells"] == json.loads(original.read_text())["cells"]
    written = edit(path, STUB, ANSWER)
    assert present.copy_with_results(original, work) == path and path.read_bytes() == written
    assert copies.make(course) == ["lesson.ipynb: new"]  # no student's copy
    nbformat.write(lesson("2 + 2", STUB), original)
    assert present.copy_with_results(original, work) != path and path.read_bytes() == written
