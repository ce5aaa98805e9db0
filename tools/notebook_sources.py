"""The sources of the notebooks, ``notebooks/NAME.py``, as notebooks without outputs."""

import hashlib
import re
from pathlib import Path

import jupytext
import nbformat
from jupytext.config import load_jupytext_config
from nbformat import NotebookNode

from tools import catalogue
from tools.quoted import QUOTED

FIRST_CELL = Path(__file__).with_name("first_cell.py")
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
FIRST = "picture-first"  # tag of the cell whose picture stands on a notebook's first screen
CHECK = re.compile(r"^(?:assert )?(?P<check>[\w.]*\bcheck_\w+)\((?P<answer>\w+)\)", re.MULTILINE)


def tags(cell: NotebookNode) -> list[str]:
    """The tags of a cell."""
    return cell.metadata.get("tags", [])


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The code cells of a notebook, in their order."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def read(name: str) -> NotebookNode:
    """The notebook that a source describes, with cell ids that follow the text.

    What stands in double braces comes from the catalogue (``{{title}}``, ``{{timetable}}`` and
    ``{{ways}}``) or from a stored measurement (see ``tools.quoted``). Before the first cell of
    code stands that of ``tools/first_cell.py``.
    """
    return parse(catalogue.find(name))


def parse(entry: catalogue.Notebook, seconds: dict[str, float] | None = None) -> NotebookNode:
    """As ``read``, for an entry of the catalogue, and with other seconds in the timetable."""
    notebook = jupytext.read(entry.source, config=load_jupytext_config(__file__))
    notebook.metadata = NotebookNode(kernelspec=KERNEL)
    generated = {
        "title": f"{entry.title}: {entry.topic}",
        "timetable": catalogue.timetable(entry, seconds or entry.seconds),
        "ways": catalogue.ways(entry),
    }
    generated |= {key: text() for key, text in QUOTED.items()}
    for cell in code_cells(notebook):
        if FIRST in tags(cell):
            generated["picture"] = f"![{cell.metadata.alt}](attachment:picture.png)"
    notebook.cells.insert(notebook.cells.index(code_cells(notebook)[0]), first_cell())
    seen: set[str] = set()
    for cell in notebook.cells:
        cell.id = hashlib.sha256(cell.source.encode()).hexdigest()[:8]
        while cell.id in seen:
            cell.id = hashlib.sha256(cell.id.encode()).hexdigest()[:8]
        seen.add(cell.id)
        if cell.cell_type == "markdown":
            for key, text in generated.items():
                cell.source = cell.source.replace("{{" + key + "}}", text)
    check_sections(entry, notebook)
    mark_sections(entry, notebook)
    if entry.built.is_file():
        attach_picture(notebook, nbformat.read(entry.built, as_version=4))
    return notebook


def mark_sections(entry: catalogue.Notebook, notebook: NotebookNode) -> None:
    """Say in each heading whether its section belongs to the core."""
    ways = {part.title: catalogue.path(part) for part in entry.sections}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = catalogue.HEADING.sub(
                lambda found: f"## {found[1]} {found[2]} · {ways[found[2]]}", cell.source
            )


def attach_picture(notebook: NotebookNode, stored: NotebookNode) -> None:
    """Give the first cell, which shows it, the picture of a stored run."""
    for cell in code_cells(stored):
        for output in cell.outputs if FIRST in tags(cell) else ():
            if "image/png" in output.get("data", {}):
                image = {"image/png": output.data["image/png"]}
                notebook.cells[0].attachments = NotebookNode({"picture.png": image})


def core(notebook: NotebookNode) -> NotebookNode:
    """Leave only what stands before the first section, and the sections of the core."""
    kept, way = [], "core"
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (found := catalogue.HEADING.search(cell.source)):
            way = found[0].rpartition(" · ")[2]
        kept += [cell] if way == "core" else []
    notebook.cells = kept
    return notebook


def first_cell() -> NotebookNode:
    """What fetches the course for a notebook that was opened alone."""
    code = FIRST_CELL.read_text(encoding="utf-8").rstrip()
    code = code.replace("{{address}}", catalogue.published().address)
    code = code.replace("{{tag}}", f"v{catalogue.version()}")
    folded = {"tags": ["alone"], "jupyter": {"source_hidden": True}}
    return nbformat.v4.new_code_cell(code, metadata=folded | {"slideshow": {"slide_type": "skip"}})


def check_sections(entry: catalogue.Notebook, notebook: NotebookNode) -> None:
    """Stop where the numbered headings are not the sections of the catalogue."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    found = [(int(number), title) for number, title in catalogue.HEADING.findall(text)]
    wanted = [(part.number, part.title) for part in entry.sections]
    if found != wanted:
        other = sorted(set(found) ^ set(wanted)) or "their order"
        raise SystemExit(
            f"course: {entry.source.name} and notebooks/catalogue.toml differ in {other}."
        )


def type_in(notebook: NotebookNode) -> NotebookNode:
    """Put each solution into its stub, as a student would who has solved everything.

    A stub ends in ``check_…(my_answer)``; the solution that asserts the same check answers it, or
    the course's own version, which the student's version of the notebook keeps.
    What is typed in must pass: the stub's cell fails if its check is not content.
    """
    solved = {}
    for cell in code_cells(notebook):
        if {"solution", "reference"} & set(tags(cell)):
            for found in CHECK.finditer(cell.source):
                solved[found["check"]] = cell.source[: found.start()].rstrip(), found["answer"]
    for cell in code_cells(notebook):
        if "exercise" in tags(cell):
            for found in list(CHECK.finditer(cell.source)):
                check, answer = found["check"], found["answer"]
                if check not in solved:
                    raise SystemExit(f"course: {check} has no solution that asserts it")
                solution, name = solved[check]
                typed = f"{solution}\n\n{answer} = {name}\nassert {check}({answer})"
                cell.source = cell.source.replace(found[0], typed)
    return notebook


def write(notebook: NotebookNode, path: Path) -> None:
    """Write so that an interrupted write leaves the old file."""
    draft = path.with_suffix(".draft")
    nbformat.write(notebook, draft)
    draft.replace(path)
