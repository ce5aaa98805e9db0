"""Who has solved what: a table of students and exercises from the notebooks that they handed in.

    python -m course_utils collect FOLDER [--csv FILE] [--run-their-code [--limit SECONDS]]

A student is a folder in FOLDER with all that lies below it, or a notebook in FOLDER itself. The
verdicts are those that the files store; nothing is executed. With --run-their-code every notebook
is executed from its top, in a folder of its own, and the new verdicts count. THEIR CODE THEN RUNS
ON YOUR MACHINE WITH YOUR RIGHTS: take a machine or an account on which it can do no harm.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from course_utils import copies, progress
from course_utils.progress import Task

CALL = re.compile(r"^(?:checks\.)?(check_\w+)\(\s*[Mm]y", re.MULTILINE)  # with an own answer
VERDICT = re.compile(r"^(✓ Right|✗ Not yet|… Not tried)", re.MULTILINE)
STATES = {"✓ Right": "solved", "✗ Not yet": "tried", "… Not tried": "open"}
SIGNS = {  # what is better stands further down: of several copies the best counts
    "open": ("…", "open"),
    "written": ("w", "written, but no verdict stored"),
    "tried": ("✗", "tried"),
    "odd": ("?", "a stored verdict of success under an untouched stub"),
    "solved": ("✓", "solved"),
}
LARGEST = 50_000_000  # bytes of a notebook; the course's own have three million
STORED = """This is what the files say. Whoever can edit a file can write a verdict into it.
To have the checks judge again: --run-their-code, which executes the students' code here."""
RAN = "The students' code ran here, and the checks judged it. It could have replaced the checks."
NEVER = "No table shows who wrote an answer, nor whether the solution was unfolded before."


class Refused(Exception):
    """Why a file is left out, in a line."""


def _plain(text: str) -> str:
    """Text of others, without what would steer a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _read(path: Path) -> dict:
    """A notebook from somebody else."""
    if path.is_symlink() or not path.is_file():
        raise Refused("no file of its own, but a link or a folder")
    try:
        if path.stat().st_size > LARGEST:
            raise Refused(f"larger than {LARGEST // 10**6} MB")
        notebook = copies.read(path)
    except (OSError, RecursionError) as error:
        raise Refused(f"cannot be read ({type(error).__name__})") from None
    if not notebook:
        raise Refused("no notebook of Jupyter, or damaged")
    return notebook


def _said(cell: dict) -> str:
    """The text that a code cell has put out."""
    data = [output.get("data", {}).get("text/plain", "") for output in cell.get("outputs", [])]
    told = [output.get("text", "") for output in cell.get("outputs", [])]
    return "\n".join("".join(part) for part in [*told, *data])


def states(notebook: dict, stubs: dict[str, str]) -> dict[str, str]:
    """State of the exercises in a notebook, by the name of their check.

    Args:
        notebook: As handed in.
        stubs: Digests of the course's own stubs, by the same names.
    """
    found: dict[str, str] = {}
    for cell in notebook["cells"]:
        if cell.get("cell_type") != "code":
            continue
        text, task = copies._text(cell), cell["metadata"].get("exercise", {})
        calls = CALL.findall(text)
        verdicts = VERDICT.findall(_said(cell))
        for name in dict.fromkeys([task.get("name"), *calls]):
            if name not in stubs:
                continue
            state = "open" if copies._digest(cell) in (stubs[name], task.get("stub")) else "written"
            if verdicts and calls[-1:] == [name]:  # a cell shows what its last line says
                judged = STATES[verdicts[-1]]
                state = "odd" if (state, judged) == ("open", "solved") else judged
            found[name] = max(found.get(name, "open"), state, key=[*SIGNS].index)
    return found


def run(notebook: dict, course: Path, limit: int) -> str:
    """Execute a notebook in a folder of its own; its outputs are replaced.

    Args:
        notebook: What is untrusted is executed.
        course: Whose checks judge.
        limit: Seconds for all cells together; then the kernel is killed.

    Returns:
        What ended it early, in words, or nothing.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from traitlets.config import Config

    cells = [cell for cell in notebook["cells"] if cell.get("cell_type") == "code"]
    fresh = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(copies._text(cell)) for cell in cells]
    )
    ended, path = "", os.pathsep.join(filter(None, [str(course), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory(prefix="collect-", ignore_cleanup_errors=True) as folder:
        files = {"transport": "ipc", "ip": f"{folder}/socket"} if os.name == "posix" else {}
        end = time.monotonic() + limit
        client = NotebookClient(
            fresh,
            kernel_name="python3",  # whatever the file asks for
            config=Config({"KernelManager": files}),
            timeout_func=lambda cell: max(1, math.ceil(end - time.monotonic())),
            allow_errors=True,
            shutdown_kernel="immediate",
            resources={"metadata": {"path": folder}},
        )
        try:
            client.execute(env={**os.environ, "PYTHONPATH": path})
        except CellTimeoutError:
            ended = f"stopped after {limit} seconds; what stands below was not run"
        except DeadKernelError:
            ended = "its kernel died; what stands below was not run"
    for cell, done in zip(cells, fresh.cells, strict=True):
        cell["outputs"] = done.outputs
    return ended


def students(folder: Path) -> Iterator[tuple[str, Path]]:
    """Who handed in which notebook."""
    for path in sorted(folder.rglob("*.ipynb")):
        parts = path.relative_to(folder).parts
        if not any(part.startswith(".") or part == "__MACOSX" for part in parts):
            yield (parts[0] if len(parts) > 1 else path.stem), path


def lines(table: dict[str, dict[str, str]], tasks: Sequence[Task]) -> Iterator[str]:
    """The table to read, a block for each notebook of which somebody handed in a part."""
    for notebook in dict.fromkeys(task.notebook for task in tasks):
        here = [task for task in tasks if task.notebook == notebook]
        rows = {
            who: [SIGNS[found.get(task.check, "open")][0] for task in here]
            for who, found in table.items()
            if any(task.check in found for task in here)
        }
        if not rows:
            continue
        wide = max(map(len, [notebook, *rows]))
        yield f"{notebook:{wide}s} " + "".join(f"{task.exercise:>4s}" for task in here) + "  solved"
        for who, signs in rows.items():
            yield f"{who:{wide}s} " + "".join(f"{s:>4s}" for s in signs) + f"{signs.count('✓'):8d}"
        solved = [sum(signs[i] == "✓" for signs in rows.values()) for i in range(len(here))]
        yield f"{f'of {len(rows)}':{wide}s} " + "".join(f"{count:4d}" for count in solved) + "\n"


def save(path: Path, table: dict[str, dict[str, str]], tasks: Sequence[Task]) -> None:
    """Write the table for a spreadsheet; a name that begins like a formula is none there."""
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        sheet = csv.writer(file)
        sheet.writerow(["student", *(f"{task.notebook} {task.exercise}" for task in tasks)])
        for who, found in table.items():
            name = f"'{who}" if who.startswith(("=", "+", "-", "@")) else who
            sheet.writerow([name, *(found.get(task.check, "open") for task in tasks)])


def main(words: Sequence[str], course: Path) -> int:
    """Print the table of a folder; return 1 if there was nothing to read."""
    parser = argparse.ArgumentParser(
        prog="python -m course_utils collect", description=__doc__.splitlines()[0]
    )
    parser.add_argument("folder", type=Path, help="a folder for each student, or a notebook")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table there, too")
    parser.add_argument(
        "--run-their-code", action="store_true", help="judge anew: runs it here, with your rights"
    )
    parser.add_argument("--limit", type=int, default=600, help="seconds for each notebook (600)")
    given = parser.parse_args(words)
    if not given.folder.is_dir():
        raise SystemExit(f"course: {given.folder} is no folder")
    tasks = progress.tasks(course=course)
    own = [copies.fresh(path) for path in (course / "notebooks").glob("*.ipynb")]
    cells = [cell for notebook in own for cell in notebook.get("cells", [])]
    marked = [cell["metadata"]["exercise"] for cell in cells if "exercise" in cell["metadata"]]
    stubs = {task["name"]: task["stub"] for task in marked}
    table: dict[str, dict[str, str]] = {}
    for who, path in students(given.folder):
        name = _plain(str(path.relative_to(given.folder)))
        try:
            notebook = _read(path)
            found = states(notebook, stubs)
            if not found:
                raise Refused("no exercise of the course in it")
            if given.run_their_code:
                print(f"running {name}", file=sys.stderr, flush=True)
                if ended := run(notebook, course, given.limit):
                    print(f"{name}: {ended}")
                found = states(notebook, stubs)
        except (Refused, TypeError, AttributeError, KeyError, ValueError) as error:
            why = error if isinstance(error, Refused) else "damaged"
            print(f"{name}: left out, {why}")
            continue
        best = table.setdefault(_plain(who), {})
        for check, state in found.items():
            best[check] = max(best.get(check, "open"), state, key=[*SIGNS].index)
    if not table:
        print(f"course: no notebook of the course was found in {given.folder}")
        return 1
    print(*lines(table, tasks), sep="\n")
    print(*(f"{sign} {words}" for sign, words in SIGNS.values()), sep="; ")
    print(RAN if given.run_their_code else STORED, NEVER, sep="\n")
    if given.csv:
        save(given.csv, table, tasks)
    return 0
