"""Predictions and progress: kept in the student's folder, whatever else is in it."""

import json
import os
import shutil

import ipywidgets
import pytest

from course_utils import __main__ as command
from course_utils import predictions, progress
from course_utils.checks import flows as checks
from tools import catalogue

FIRST = catalogue.find("flows")


def by_hand(x):
    """The solution of the first exercise on flows."""
    return -x.log().square() / 2 - x.log() - 0.5 * 1.8378770664093453


@pytest.fixture
def work(tmp_path, monkeypatch):
    """The folder of a student's copies, in a course's folder."""
    shutil.copytree(catalogue.NOTEBOOKS, tmp_path / "notebooks")
    for name in ("pyproject.toml", "course_utils/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(progress, "_now", {})
    return tmp_path / "work"


@pytest.fixture
def shown(monkeypatch) -> list[dict[str, str]]:
    """What is displayed, by its form."""
    found: list = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: found.append(data))
    return found


def states() -> dict[str, str]:
    return {task.check: task.state for task in progress.tasks(FIRST.file)}


def test_own_answers_count_and_the_courses_do_not(work, monkeypatch):
    assert set(states().values()) == {"open"} and len(states()) == len(FIRST.exercises)
    checks.check_lognormal(by_hand)
    assert states()["check_lognormal"] == "open" and not (work / "progress.json").exists()
    mine = globals()
    for answer, state in ((lambda x: ..., "open"), (lambda x: x, "tried"), (by_hand, "solved")):
        monkeypatch.setitem(mine, "my_lognormal", answer)
        checks.check_lognormal(mine["my_lognormal"])
        assert states()["check_lognormal"] == state
    checks.check_lognormal(mine.setdefault("my_lognormal", None) and (lambda x: 0 * x))
    assert states()["check_lognormal"] == "solved"


def test_nothing_is_kept_outside_of_the_students_folder(work, monkeypatch):
    monkeypatch.chdir(work.parent / "notebooks")
    progress.note_verdict("check_lognormal", True)
    assert states()["check_lognormal"] == "solved"  # for as long as the kernel runs
    assert not list(work.parent.rglob("progress*"))


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"exercises": 3}', '{"exercises": {"a": 1}}'])
def test_a_damaged_file_is_kept_aside_and_does_not_stop_a_lesson(work, text):
    (work / "progress.json").write_text(text)
    progress.note_verdict("check_lognormal", False)
    progress.note_verdict("check_lognormal", False)
    [task] = [task for task in progress.tasks() if task.check == "check_lognormal"]
    assert (task.state, task.tries) == ("tried", 2)
    aside = [path.read_text() for path in work.glob("progress-damaged*")]
    assert aside == ([text] if text in ("", "{") else [])


@pytest.mark.skipif(os.name == "nt" or not os.geteuid(), reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to(work):
    work.chmod(0o500)
    progress.note_verdict("check_lognormal", True)


def test_the_command_tells_students_and_teachers(work, capsys):
    progress.note_verdict("check_lognormal", True)
    progress.note_prediction("steep", "higher", True)
    assert command.main(["progress"]) == 0
    told = capsys.readouterr().out
    assert "✓ solved  1 " in told and f"1 of {len(FIRST.exercises)} exercises solved" in told
    assert "so far: 1, 1 of them right" in told
    assert command.main(["progress", "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert len(table["exercises"]) == sum(len(each.exercises) for each in catalogue.load())
    [row] = [row for row in table["exercises"] if row["state"] == "solved"]
    assert (row["notebook"], row["exercise"], row["tries"]) == (FIRST.file, "1", 1)
    assert table["predictions"]["steep"]["said"] == "higher"


def test_a_notebooks_last_cell_shows_what_comes_next(work, shown):
    progress.note_verdict("check_lognormal", True)
    progress.show(FIRST.file)
    following = f"exercise {FIRST.exercises[1].number}, {FIRST.exercises[1].title}."
    for text in shown[0].values():
        assert "✓ solved" in text and text.count("… open") == len(FIRST.exercises) - 1
        assert following in text


def test_an_answer_is_open_to_those_who_predicted(work, shown, monkeypatch):
    made: list = []

    class Buttons(ipywidgets.RadioButtons):
        def __init__(self, **options):
            super().__init__(**options)
            made.append(self)

    monkeypatch.setattr(ipywidgets, "RadioButtons", Buttons)

    def chosen(name: str, said: str | None) -> str:
        predictions.predict(name, "up", "down")
        assert "( ) up" in shown[-1]["text/plain"] and shown[-1]["text/html"].count("radio") == 2
        made[-1].value = said
        predictions.answer(name, "up", "It is $x$.")
        return shown[-1]["text/markdown"]

    assert chosen("a", None).startswith("<details><summary>Answer</summary>\n\n**Answer: up.**")
    assert "You said: down. **Answer: up.** It is $x$." in (opened := chosen("a", "down"))
    assert opened.startswith("<details open>") and "You were right." in chosen("b", "up")
    kept = progress.load()["predictions"]
    assert {name: fact["right"] for name, fact in kept.items()} == {"a": False, "b": True}


def test_an_answer_needs_its_choices(capsys, shown):
    predictions.answer("never asked", "up")
    assert "Run the cell with the choices first" in capsys.readouterr().out
    for choices in ((), ("one",), ("same", "same")):
        with pytest.raises(ValueError, match="choices must be at least two"):
            predictions.predict("bad", *choices)
    predictions.predict("fine", "up", "down")
    with pytest.raises(ValueError, match="right must be one of"):
        predictions.answer("fine", "left")
