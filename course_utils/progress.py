"""What a student has solved and predicted: kept in the own folder ``work``, sent nowhere.

``python -m course_utils progress [--json]`` shows it, and so does the last cell of each notebook.
"""

from __future__ import annotations

import contextlib
import datetime
import html
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from course_utils.saved import free_name, write

HEADING = re.compile(r"^### Exercise (\w+): (.+) \((\d+) minutes\)", re.MULTILINE)
CHECK = re.compile(r"\bcheck_\w+")
ROOT = Path(__file__).resolve().parents[1]
SIGNS = {"solved": "✓ solved", "tried": "✗ tried", "open": "… open"}
_now: dict[str, dict] = {}  # of this session, where there is no folder to keep it in


class Task(NamedTuple):
    """An exercise, and how far a student has come with it."""

    notebook: str
    exercise: str
    title: str
    minutes: int
    check: str
    state: str  # a key of SIGNS
    tries: int


def _file() -> Path | None:
    """Where verdicts are kept: beside the student's copies, and only there."""
    with contextlib.suppress(OSError):  # the current folder may be gone
        here = Path.cwd()
        for folder in (here, *here.parents):
            if folder.name == "work" and (folder.parent / "notebooks" / "START.md").is_file():
                return folder / "progress.json"
    return None


def load(path: Path | None = None) -> dict[str, dict]:
    """What is known: ``exercises`` by the name of their check, and ``predictions`` by theirs."""
    path = path or _file()
    kept: Any = _now
    if path:
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            kept = {}
        except (OSError, ValueError):  # damaged: kept aside, so that nothing is lost
            kept = {}
            with contextlib.suppress(OSError):
                path.replace(free_name(path.with_name("progress-damaged.json")))
    whole = kept if isinstance(kept, dict) else {}
    parts = {part: whole.get(part) for part in ("exercises", "predictions")}
    return {
        part: {k: v for k, v in noted.items() if isinstance(v, dict)}
        if isinstance(noted, dict)
        else {}
        for part, noted in parts.items()
    }


def _note(part: str, name: str, known: dict[str, dict], **facts: Any) -> None:
    known[part][name] = {**facts, "when": datetime.datetime.now().isoformat(timespec="seconds")}
    _now.update(known)
    if path := _file():  # a full disk must not stop a lesson
        with contextlib.suppress(OSError):
            write(path, json.dumps(known, indent=1, ensure_ascii=False) + "\n")


def note_verdict(check: str, passed: bool) -> None:
    """Keep that an exercise was tried; what was solved once stays solved."""
    known = load()
    before = known["exercises"].get(check, {})
    tries = before["tries"] + 1 if isinstance(before.get("tries"), int) else 1
    solved = passed or before.get("solved") is True
    _note("exercises", check, known, solved=solved, tries=tries)


def note_prediction(name: str, said: str, right: bool) -> None:
    """Keep what was predicted, once its answer was seen."""
    _note("predictions", name, load(), said=said, right=right)


def _exercises(course: Path) -> Iterator[tuple[str, str, str, int, str]]:
    """Notebook, number, title, minutes and check of every exercise, in the course's order."""
    path = course / "notebooks" / "catalogue.toml"  # in parts: no output follows from its minutes
    catalogue = tomllib.loads(path.read_text(encoding="utf-8"))
    for entry in catalogue["notebook"]:
        heading, cells = None, []
        path = course / "notebooks" / f"{entry['file']}.ipynb"
        # One that a student has thrown away or damaged leaves the others.
        with contextlib.suppress(OSError, ValueError):
            cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        for cell in cells:
            text = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                heading = ([heading] + HEADING.findall(text))[-1]
            elif "exercise" in cell["metadata"].get("tags", []) and heading:
                if name := CHECK.search(text):
                    yield entry["file"], heading[0], heading[1], int(heading[2]), name[0]


def tasks(notebook: str = "", course: Path | None = None) -> list[Task]:
    """Exercises with their state, of one notebook or of all.

    Args:
        notebook: File name without its ending; all when empty.
        course: Its folder; the one around the current folder, else the installed one, when None.
    """
    path = course / "work" / "progress.json" if course else _file()
    course = course or (path.parents[1] if path else ROOT)
    known, found = load(path)["exercises"], []
    for file, *facts, check in _exercises(course):
        noted = known.get(check, {})
        state = "solved" if noted.get("solved") is True else "tried" if noted else "open"
        if notebook in ("", file):
            found.append(Task(file, *facts, check, state, noted.get("tries", 0)))
    return found


def _sentence(found: list[Task]) -> str:
    """How many are solved, and what comes next."""
    left = [task for task in found if task.state != "solved"]
    solved = f"{len(found) - len(left)} of {len(found)} exercises solved."
    if not left:
        return f"{solved} What is open elsewhere says: python -m course_utils progress."
    return f"{solved} What comes next: exercise {left[0].exercise}, {left[0].title}."


def _predicted(course: Path | None = None) -> str:
    known = load(course / "work" / "progress.json" if course else None)["predictions"].values()
    right = sum(noted.get("right") is True for noted in known)
    return (
        f"Predictions in all notebooks so far: {len(known)}, {right} of them right."
        if known
        else ""
    )


def show(notebook: str) -> None:
    """Show in a notebook's last cell which of its exercises are solved, and what comes next."""
    from IPython.display import display

    found = tasks(notebook)
    rows = "".join(
        f"<tr><th scope='row' style='text-align: left'>{task.exercise} "
        f"{html.escape(task.title)}</th><td style='text-align: left'>{SIGNS[task.state]}</td></tr>"
        for task in found
    )
    told = " ".join(filter(None, [_sentence(found), _predicted()]))
    text = "\n".join([*map(_line, found), told])
    display({"text/html": f"<table>{rows}</table><p>{told}</p>", "text/plain": text}, raw=True)


def _line(task: Task) -> str:
    return f"{SIGNS[task.state]:9s} {task.exercise} {task.title}"


def report(course: Path, as_json: bool) -> None:
    """Print the state of every exercise of a course's folder, for a student or for a teacher."""
    found = tasks(course=course)
    if as_json:
        known = load(course / "work" / "progress.json")["predictions"]
        exercises = [task._asdict() for task in found]
        print(json.dumps({"exercises": exercises, "predictions": known}, indent=1))
        return
    for notebook in dict.fromkeys(task.notebook for task in found):
        here = [task for task in found if task.notebook == notebook]
        print(notebook, *(f"  {_line(task)}" for task in here), f"  {_sentence(here)}", sep="\n")
    if told := _predicted(course):
        print(told)
