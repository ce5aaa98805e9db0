"""Students' own copies of the notebooks, in ``work/``: made where missing; what was written stays.

    python -m course_utils.copies

A copy has no outputs, so that a prediction can be made before its answer is on the screen. When the
course has changed a notebook, the new one arrives beside the old copy, with the answers in it; it
takes the place of a copy into which nothing was written.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import re
import shlex
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WHAT = re.compile(r"\bcheck_\w+")  # names an exercise
EARLIER = "Your answer to this exercise as it was before:\n\n"


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def _text(cell: dict) -> str:
    return "".join(cell["source"])


def read(path: Path) -> dict:
    """A notebook; empty if the file is damaged."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        whole = all(isinstance(c["metadata"], dict) and _text(c) + "." for c in notebook["cells"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return notebook if whole else {}


def origin(notebook: dict) -> dict:
    """Which notebook of the course something is a copy of, and of which version."""
    return notebook.get("metadata", {}).get("course_copy", {})


def _lesson(notebook: dict) -> str:
    """Digest of what a notebook says; its first cell only tells where the course is."""
    cells = (cell for cell in notebook["cells"] if "alone" not in cell["metadata"].get("tags", []))
    return _digest(*map(_text, cells))


def fresh(path: Path) -> dict:
    """A copy of a notebook of the course, without outputs; its exercises are marked."""
    notebook = read(path)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
            name = WHAT.search(_text(cell))
            if "exercise" in cell["metadata"].get("tags", []) and name:
                cell["metadata"]["exercise"] = {"name": name[0], "stub": _digest(_text(cell))}
    source = _lesson(notebook)
    kernel = notebook["metadata"].get("kernelspec", {})
    notebook["metadata"] = {
        "kernelspec": kernel,
        "course_copy": {"file": path.stem, "source": source},
    }
    return notebook


def carry_over(old: dict, new: dict) -> int:
    """Put the answers of an old copy into a new one.

    Args:
        old: A copy in which a student has answered exercises.
        new: A copy of a later version; changed in place. Where an exercise itself has changed, the
            answer stands below it as text.

    Returns:
        How many answers were found.
    """
    answers = {
        cell["metadata"]["exercise"]["name"]: cell
        for cell in old["cells"]
        if "exercise" in cell["metadata"]
        and _digest(_text(cell)) != cell["metadata"]["exercise"]["stub"]
    }
    cells, found = [], 0
    for cell in new["cells"]:
        cells.append(cell)
        task = cell["metadata"].get("exercise", {})
        if task.get("name") in answers:
            found += 1
            answer = answers[task["name"]]
            if answer["metadata"]["exercise"]["stub"] == task["stub"]:
                cell["source"] = answer["source"]
            else:
                note = {"cell_type": "raw", "id": _digest(_text(answer))[:8], "metadata": {}}
                cells.append(note | {"source": EARLIER + _text(answer)})
    new["cells"] = cells
    return found


def write(path: Path, text: str) -> None:
    """Write all of a file, or nothing."""
    draft = path.with_name(path.name + ".draft")
    try:
        draft.write_text(text, encoding="utf-8", newline="\n")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def free_name(path: Path) -> Path:
    """This file name, or if it is taken the next with today's date in it."""
    today, number = f"{path.stem}-{datetime.date.today().isoformat()}", 1
    found = path
    while found.exists():
        found = path.with_stem(today if number == 1 else f"{today}-{number}")
        number += 1
    return found


def make(course: Path = ROOT) -> list[str]:
    """Make the copies that are missing in ``work/`` of a course's folder, and the first page there.

    Args:
        course: A folder with ``notebooks/``.

    Returns:
        One line for each copy that was made.

    Raises:
        OSError: If ``work/`` cannot be written.
    """
    work = course / "work"
    work.mkdir(exist_ok=True)
    mine = sorted(work.glob("*.ipynb"), key=lambda path: path.stat().st_mtime)
    mine = [(path, notebook) for path in mine if (notebook := read(path))]
    page = (course / "notebooks" / "START.md").read_text(encoding="utf-8")
    told = []
    for original in sorted((course / "notebooks").glob("*.ipynb")):
        new = fresh(original)
        copies = [each for each in mine if origin(each[1]).get("file") == original.stem]
        current = [path for path, old in copies if origin(old) == origin(new)]
        if not current:
            untouched = [path for path, old in copies if origin(old)["source"] == _lesson(old)]
            path = (untouched or [free_name(work / original.name)])[-1]
            line = f"{path.name}: the course has changed" if copies else f"{path.name}: new"
            if copies and (answers := carry_over(copies[-1][1], new)):
                line += f"; {answers} answers carried over"
            write(path, json.dumps(new, indent=1, ensure_ascii=False) + "\n")
            current, told = [path], [*told, line]
        page = page.replace(f"]({original.name})", f"]({current[-1].name})")
    # A terminal may know another Python, or none.
    python = f'& "{sys.executable}"' if os.name == "nt" else shlex.quote(sys.executable)
    write(work / "START.md", page.replace("python -m course_utils", f"{python} -m course_utils"))
    return told


def notice(tag: str) -> None:
    """Say in one line when the notebook that runs is not of the course's present version.

    Args:
        tag: The version to which the notebook belongs, such as ``v0.1.0``.
    """
    version = origin(read(Path(os.environ.get("JPY_SESSION_NAME", ""))))
    original = ROOT / "notebooks" / f"{version.get('file')}.ipynb"
    if original.is_file():
        if origin(fresh(original)) != version:
            print(
                f"This copy of {original.name} is older than the course. The first page, START.md,"
                " has a link to the new one; your answers are in it."
            )
        return
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    if tag != f"v{project['version']}":
        print(f"This notebook belongs to {tag} of the course, but v{project['version']} is here.")


if __name__ == "__main__":
    print(*make() or ["all copies are there"], f"open {ROOT / 'work' / 'START.md'}", sep="\n")
