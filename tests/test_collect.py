"""What a class has handed in: read as it is, whatever it is, and executed only when asked."""

import csv
import json
import os
import shutil

import pytest

from course_utils import __main__ as command
from course_utils import collect, copies
from tools import catalogue

FLOWS = catalogue.find("flows")
RIGHT = """import torch


def my_lognormal(x):
    return -x.log().square() / 2 - x.log() - 0.5 * 1.8378770664093453


checks.check_lognormal(my_lognormal)"""
IMPORTS = "from course_utils.checks import flows as checks"


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A folder with the course's notebooks."""
    folder = tmp_path_factory.mktemp("course")
    shutil.copytree(catalogue.NOTEBOOKS, folder / "notebooks")
    return folder


@pytest.fixture(scope="module")
def copied(course) -> str:
    """A copy that nobody has written into."""
    return json.dumps(copies.fresh(course / "notebooks" / FLOWS.built.name))


@pytest.fixture
def handed_in(tmp_path, copied):
    """Returns what writes a notebook with one cell changed."""

    def write(place: str, source: str = "", said: str = "", *, name: str = "check_lognormal"):
        notebook = json.loads(copied)
        for cell in notebook["cells"]:
            if cell["metadata"].get("exercise", {}).get("name") == name:
                cell["source"] = source or cell["source"]
                data = {"data": {"text/plain": said}, "metadata": {}}
                cell["outputs"] = [{"output_type": "execute_result", "execution_count": 1} | data]
        path = tmp_path / "class" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(notebook), encoding="utf-8")
        return path

    return write


@pytest.fixture
def told(tmp_path, course, capsys):
    """Returns what prints the table, as lines."""

    def report(*words: str, rc: int = 0) -> list[str]:
        assert collect.main([str(tmp_path / "class"), *words], course) == rc
        return capsys.readouterr().out.splitlines()

    return report


def marks(printed: list[str], who: str) -> str:
    """The signs in somebody's row."""
    (row,) = [line for line in printed if line.startswith(f"{who} ")]
    return "".join(row.removeprefix(who).split()[:-1])


REST = "…" * (len(FLOWS.exercises) - 1)
STORED = {  # by who handed it in: source and output of the first exercise's cell, and the sign
    "solved": (RIGHT, "✓ Right: so it is.", "✓"),
    "wrong": (RIGHT.replace("-x.log() ", ""), "✗ Not yet: a value is off.", "✗"),
    "untouched": ("", "… Not tried yet: replace the stub", "…"),
    "cleared": (RIGHT, "", "w"),
    "forged": ("", "✓ Right: I say so.", "?"),
}


def test_the_verdicts_that_the_files_store_make_the_table(handed_in, told, tmp_path):
    for who, (source, said, _) in STORED.items():
        handed_in(f"{who}/deep/{FLOWS.file}.ipynb", source, said)
    handed_in("alone.ipynb", RIGHT, "✓ Right: so it is.")
    shutil.copytree(tmp_path / "class" / "solved", tmp_path / "class" / ".trash")
    printed = told("--csv", str(tmp_path / "table.csv"))
    for who, (_, _, sign) in STORED.items():
        assert marks(printed, who) == sign + REST
    assert marks(printed, "alone") == "✓" + REST
    (counts,) = [line for line in printed if line.startswith("of 6 ")]
    assert counts.split()[2:4] == ["2", "0"]
    with (tmp_path / "table.csv").open(encoding="utf-8-sig", newline="") as file:
        sheet = {row["student"]: row for row in csv.DictReader(file)}
    assert sheet["wrong"][f"{FLOWS.file} 1"] == "tried" and len(sheet) == 6
    tasks = sum(len(each.exercises) for each in catalogue.load() if each.built.exists())
    assert all(len(row) == 1 + tasks for row in sheet.values())


def test_of_several_copies_the_best_counts_and_a_cell_may_be_split(handed_in, told):
    handed_in("anna/a.ipynb", RIGHT, "✓ Right: so it is.")
    handed_in("anna/b.ipynb", "", "… Not tried yet")
    path = handed_in("ben/a.ipynb", *STORED["wrong"][:2])
    notebook = json.loads(path.read_text())
    (place,) = (
        n for n, c in enumerate(notebook["cells"]) if "my_lognormal)" in "".join(c["source"])
    )
    cell = notebook["cells"][place]
    code, _, call = cell["source"].rpartition("\n\n\n")
    notebook["cells"].insert(place, cell | {"source": code, "outputs": []})
    cell |= {"source": call, "metadata": {}}
    path.write_text(json.dumps(notebook))
    printed = told()
    assert marks(printed, "anna") == "✓" + REST and marks(printed, "ben") == "✗" + REST


DEEP = '{"cells": ' + "[" * 100_000


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", DEEP, '{"nbformat": 3, "worksheets": []}', '{"metadata": {}, "cells": [{}]}']
    + [
        json.dumps({"metadata": {}, "cells": [{"cell_type": "code", "source": RIGHT} | more]})
        for more in (
            {"metadata": {"exercise": 3}},
            {"metadata": {"exercise": {"name": []}}},
            {"metadata": {}, "outputs": [1]},
            {"metadata": {}, "outputs": [{"data": {"text/plain": 7}}]},
            {"metadata": {}, "outputs": None},
            {"metadata": {}, "source": "print()"},
        )
    ],
)
def test_a_bad_file_gets_one_line_and_the_others_are_read(handed_in, told, text):
    bad = handed_in("anna/bad\x1b[31m.ipynb")
    bad.write_text(text)
    handed_in("ben/flows.ipynb", RIGHT, "✓ Right: so it is.")
    printed = told()
    (line,) = [line for line in printed if "bad" in line]
    assert "left out, " in line and "\x1b" not in line
    assert marks(printed, "ben") == "✓" + REST
    assert not any(line.startswith("anna ") for line in printed)


def test_links_and_files_without_an_end_are_left_out(handed_in, told, monkeypatch, tmp_path):
    """What is read is what somebody handed in, not what a link of theirs leads to."""
    shutil.move(handed_in("secret.ipynb", RIGHT, "✓ Right: so it is."), tmp_path / "secret")
    place = tmp_path / "class" / "anna"
    place.mkdir()
    for name, goal in (("link", tmp_path / "secret"), ("nowhere", "nowhere")):
        (place / f"{name}.ipynb").symlink_to(goal)
    (place / "folder.ipynb").mkdir()
    printed = told(rc=1)
    assert len([line for line in printed if "left out" in line]) == 3 == len(printed) - 1
    handed_in("ben/large.ipynb", RIGHT, "✓ Right: so it is.")
    monkeypatch.setattr(collect, "LARGEST", 1000)
    assert len(told(rc=1)) == 5


def test_a_name_is_no_formula_in_a_spreadsheet(handed_in, told, tmp_path):
    handed_in("=1+1/flows.ipynb", RIGHT, "✓ Right: so it is.")
    told("--csv", str(tmp_path / "table.csv"))
    assert "\n'=1+1," in (tmp_path / "table.csv").read_text(encoding="utf-8-sig")


def test_a_folder_that_is_none_and_an_empty_one(tmp_path, told, course):
    with pytest.raises(SystemExit, match="is no folder"):
        collect.main([str(tmp_path / "class")], course)
    (tmp_path / "class").mkdir()
    assert len(told(rc=1)) == 1


def test_the_command_reads_and_runs_nothing_unless_asked(handed_in, tmp_path, capsys, monkeypatch):
    handed_in("anna/flows.ipynb", RIGHT, "✓ Right: so it is.")
    monkeypatch.setattr(collect, "run", lambda *given: pytest.fail("executed"))
    assert command.main(["collect", str(tmp_path / "class")]) == 0
    assert marks(capsys.readouterr().out.splitlines(), "anna") == "✓" + REST


def lesson(path, *sources: str, said: str = "") -> None:
    """Write a notebook of code cells, all with one output."""
    path.parent.mkdir(parents=True, exist_ok=True)
    outputs = [{"output_type": "stream", "name": "stdout", "text": said}]
    cells = [
        {"cell_type": "code", "metadata": {}, "outputs": outputs, "source": source}
        for source in sources
    ]
    kernel = {"kernelspec": {"name": "another", "display_name": "another"}}
    path.write_text(json.dumps({"metadata": kernel, "cells": cells}))


@pytest.mark.kernel
def test_what_is_run_is_judged_anew(tmp_path, told):
    """A cell that fails, or asks, or ends the kernel, costs what follows from it and no more."""
    place, forged = tmp_path / "class", "✓ Right: I say so."
    wrong = RIGHT.replace("- x.log() ", "")
    lesson(place / "anna" / "a.ipynb", "1 / 0", "input()", "open('left', 'w')", IMPORTS, RIGHT)
    lesson(place / "ben" / "a.ipynb", IMPORTS, wrong, said=forged)
    lesson(place / "cleo" / "a.ipynb", "import os\nos.kill(os.getpid(), 9)", RIGHT, said=forged)
    before, here = sorted(tmp_path.rglob("*")), sorted(os.listdir())
    printed = told("--run-their-code")
    assert {who: marks(printed, who)[0] for who in ("anna", "ben", "cleo")} == {
        **{"anna": "✓", "ben": "✗", "cleo": "w"}
    }
    assert [line for line in printed if line.startswith("cleo/a.ipynb: its kernel died")]
    assert sorted(tmp_path.rglob("*")) == before and sorted(os.listdir()) == here


@pytest.mark.kernel
def test_a_notebook_that_takes_too_long_is_stopped(tmp_path):
    """All its cells have one limit together."""
    nap = "import time\ntime.sleep(2)"
    lesson(tmp_path / "a.ipynb", nap, nap, nap, nap, nap, "print('late')", said="before")
    notebook = json.loads((tmp_path / "a.ipynb").read_text())
    assert "stopped after 4 seconds" in collect.run(notebook, tmp_path, 4)
    assert notebook["cells"][-1]["outputs"] == []
