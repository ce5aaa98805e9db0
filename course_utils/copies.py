"""Students' own copies of the notebooks, in ``work/``: made where missing; what was written stays.

    python -m course_utils.copies [FOLDER OF THE COURSE]

A copy has no outputs, so that a prediction can be made before its answer is on the screen. When the
course has changed a notebook, the new one arrives beside the old copy, with what was typed into the
exercises' cells; it takes the place of a copy that was neither written into nor run.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import sys
import tomllib
from pathlib import Path
from urllib.parse import quote

from course_utils.data.files import command
from course_utils.saved import free_name, write

ROOT = Path(__file__).resolve().parents[1]
WHAT = re.compile(r"\bcheck_\w+")  # names an exercise
# As the kernel says it, else JupyterLab would call a copy unsaved as soon as it is opened.
LANGUAGE = {
    "name": "python",
    "version": platform.python_version(),
    "mimetype": "text/x-python",
    "codemirror_mode": {"name": "ipython", "version": 3},
    "pygments_lexer": "ipython3",
    "nbconvert_exporter": "python",
    "file_extension": ".py",
}
EARLIER = "Your answer to this exercise as it was before:\n\n"


def _text(cell: dict) -> str:
    return "".join(cell["source"])


def _digest(*cells: dict) -> str:
    return hashlib.sha256("\0".join(map(_text, cells)).encode()).hexdigest()[:16]


def read(path: Path) -> dict:
    """A notebook; empty if the file is damaged."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8-sig"))
        parts = [notebook["metadata"], *(cell["metadata"] for cell in notebook["cells"])]
        whole = all(isinstance(part, dict) for part in parts) and _digest(*notebook["cells"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return notebook if whole else {}


def _used(copied: dict) -> bool:
    """Whether something was written into a copy, or run in it."""
    ran = any(cell.get("outputs") or cell.get("execution_count") for cell in copied["cells"])
    return ran or copied["metadata"]["course_copy"].get("whole") != _digest(*copied["cells"])


def origin(notebook: dict) -> tuple[str, str]:
    """Name and version of the notebook of the course that something is a copy of."""
    found = notebook.get("metadata", {}).get("course_copy", {})
    return found.get("file", ""), found.get("version", "")


def fresh(path: Path) -> dict:
    """A copy of a notebook of the course, without outputs; empty if that is damaged.

    Its exercises are marked. What the first cell tells, where the course is, makes no version.
    """
    notebook = read(path)
    for cell in notebook.get("cells", []):
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
            name = WHAT.search(_text(cell))
            if "exercise" in cell["metadata"].get("tags", []) and name:
                cell["metadata"]["exercise"] = {"name": name[0], "stub": _digest(cell)}
    if notebook:
        kernel = notebook["metadata"].get("kernelspec", {})
        cells = notebook["cells"]
        lesson = [cell for cell in cells if "alone" not in cell["metadata"].get("tags", [])]
        facts = {"file": path.stem, "version": _digest(*lesson), "whole": _digest(*cells)}
        notebook["metadata"] = {"kernelspec": kernel, "course_copy": facts}
    return notebook


def _answers(copies: list[dict]) -> dict[str, list[dict]]:
    """By exercise the cells that hold an answer, in the copy that was saved last with one."""
    found: dict[str, list[dict]] = {}
    for notebook in copies:
        here: dict[str, list[dict]] = {}
        for cell in notebook["cells"]:
            task = cell["metadata"].get("exercise", {})
            if task and _digest(cell) != task["stub"]:
                here.setdefault(task["name"], []).append(cell)
        found |= here
    return found


def carry_over(copies: list[dict], new: dict) -> int:
    """Put the answers of old copies into a new one.

    Args:
        copies: Copies in which a student has answered exercises; the one that counts is last.
        new: A copy of a later version; changed in place. Where an exercise itself has changed, the
            answer stands below it as text.

    Returns:
        How many answers were found.
    """
    answers, cells, found = _answers(copies), [], 0
    for cell in new["cells"]:
        cells.append(cell)
        task = cell["metadata"].get("exercise", {})
        for answer in (given := answers.get(task.get("name"), [])):
            same = answer["metadata"]["exercise"]["stub"] == task["stub"]
            if same and answer["cell_type"] == "code":
                # A cell that was split is put together again.
                parts = [_text(part) for part in given if part["cell_type"] == "code"]
                cell["source"] = "\n\n".join(parts)
            else:
                text = EARLIER + _text(answer).removeprefix(EARLIER)
                note = {"cell_type": "raw", "id": _digest(answer)[:8], "source": text}
                cells.append(note | {"metadata": {"exercise": answer["metadata"]["exercise"]}})
        found += bool(given)
    new["cells"] = cells
    return found


def save(path: Path, notebook: dict) -> None:
    """Write a notebook, as Jupyter would."""
    write(path, json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


def make(course: Path = ROOT) -> list[str]:
    """Make the copies that are missing in ``work/`` of a course's folder, and the first page there.

    Args:
        course: A folder with ``notebooks/``.

    Returns:
        One line for each copy that was made, and for each notebook that is damaged.

    Raises:
        OSError: If ``work/`` cannot be written.
    """
    work = course / "work"
    work.mkdir(exist_ok=True)
    found = [path for path in work.rglob("[!.]*.ipynb") if path.is_file()]
    found = [path for path in found if ".ipynb_checkpoints" not in path.parts]
    found.sort(key=lambda path: path.stat().st_mtime)
    mine = [(path, notebook) for path in found if (notebook := read(path))]
    page = (course / "notebooks" / "START.md").read_text(encoding="utf-8")
    told = []
    for original in sorted((course / "notebooks").glob("*.ipynb")):
        new = fresh(original)
        if not new:
            told.append(f"{original} is damaged. Remedy: fetch the course again")
            continue
        copies = [each for each in mine if origin(each[1])[0] == original.stem]
        current = [path for path, old in copies if origin(old) == origin(new)]
        if not current:
            unused = [path for path, old in copies if not _used(old)]
            path = (unused or [free_name(work / original.name)])[-1]
            line = f"{path.name}: {'the course has changed' if copies else 'new'}"
            if answers := carry_over([old for _, old in copies], new):
                line += f"; answers to exercises that came along: {answers}"
            new["metadata"]["language_info"] = LANGUAGE
            save(path, new)
            current, told = [path], [*told, line]
        link = quote(current[-1].relative_to(work).as_posix())
        page = page.replace(f"]({original.name})", f"]({link})")
    if news := [line for line in told if not line.endswith(": new")]:
        title, _, rest = page.partition("\n")
        page = "\n\n".join([title, "**New since you were here:**", *news, rest.strip(), ""])
    # A terminal may know another Python, or none, and another course.
    for words in ("course_utils.copies", "course_utils progress", "course_utils"):
        typed = [*words.split(), *([str(course)] if words.endswith("copies") else [])]
        page = page.replace(f"`python -m {words}`", f"`{command(sys.executable, '-m', *typed)}`")
    write(work / "START.md", page)
    return told


def notice(tag: str) -> None:
    """Say in one line when the notebook that runs is not the student's copy of this version.

    Args:
        tag: The version to which the notebook belongs, such as ``v0.1.0``.
    """
    here = Path(os.environ.get("JPY_SESSION_NAME", ""))
    name, version = origin(read(here))
    original = ROOT / "notebooks" / f"{name}.ipynb"
    if name and original.is_file():
        if origin(fresh(original)) != (name, version):
            print(f"This copy of {original.name} is older than the course.")
            print("START.md has a link to the new one, with your answers to the exercises.")
        return
    if here.parent == ROOT / "notebooks":
        print(f"This file is the course's own; yours is in {ROOT / 'work'}, see START.md there.")
        return
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    if tag != f"v{project['version']}":
        print(f"This notebook belongs to {tag} of the course, but v{project['version']} is here.")


def main() -> None:
    """Make what is missing, and say where the first page is."""
    course = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT
    try:
        told = make(course)
    except OSError as error:
        raise SystemExit(f"course: no copies in {course / 'work'} ({error})") from None
    print(*told or ["all copies are there"], f"open {course / 'work' / 'START.md'}", sep="\n")


if __name__ == "__main__":
    main()
