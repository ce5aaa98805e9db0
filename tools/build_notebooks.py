"""Build the notebooks from their sources; execute only those whose code has changed.

    python -m tools.build_notebooks [--force] [NAME ...]

Writes ``notebooks/NAME.ipynb`` from ``notebooks/NAME.py``. A stamp in its metadata covers what its
outputs depend on: the code of its cells, the modules of ``course_utils`` that they import, the
files that this code names, and the constraints. Where the stamp holds, outputs are carried over as
they are. The cell tagged ``alone`` puts out nothing here, and does not count. A notebook that warns
is refused, and nothing is written.
"""

import argparse
import ast
import base64
import hashlib
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from PIL import Image, ImageChops

from tools import catalogue, notebook_sources
from tools.notebook_sources import code_cells
from tools.run_notebook import execute

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "course_utils"
PROGRESS = re.compile(r"^[^\n]*\d+%\|.*$|^\s*$|^[^\n]*\d+it \[.*$")
BAR = re.compile(r".*\d+%\||.*\d+it \[|[\r ]+$")  # of progress, or what wiped it out
LANGUAGE = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python"}


# ------------------------------------------------------------------ what outputs depend on


def bare(code: str) -> str:
    """Code without comments, docstrings and layout."""
    try:
        tree = ast.parse(code)
    except SyntaxError:  # a cell with a command for IPython
        return code
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef)
        if documented and ast.get_docstring(node) is not None and len(node.body) > 1:
            del node.body[0]
    return ast.dump(tree)


def imported(code: str) -> Iterator[str]:
    """Names of the modules of ``course_utils`` that some code imports."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules(code: str) -> set[Path]:
    """Files of ``course_utils`` that some code needs, however indirectly."""
    found: set[Path] = set()
    open_ends = [code]
    while open_ends:
        for name in imported(open_ends.pop()):
            parts = name.split(".")
            if parts[0] != PACKAGE:
                continue
            for end in range(1, len(parts) + 1):  # a package comes before its modules
                place = ROOT.joinpath(*parts[:end])
                path = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
                if path.is_file() and path not in found:
                    found.add(path)
                    open_ends.append(path.read_text(encoding="utf-8"))
    return found


def named_files(code: str) -> set[Path]:
    """Files of the course that some code names, from the root or from data/."""
    texts = {
        node.value
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    names = [text for text in texts if re.fullmatch(r"[\w./-]{1,100}\.\w+", text)]
    places = (folder / name for folder in (ROOT, ROOT / "data") for name in names)
    return {path.resolve() for path in places if path.is_file()}


def code_stamp(notebook: NotebookNode) -> str:
    """Digest of everything that decides what the cells of a notebook put out."""
    cells = [
        "" if "alone" in notebook_sources.tags(cell) else cell.source
        for cell in code_cells(notebook)
    ]
    plain = "\n".join(cell for cell in cells if bare(cell) != cell)  # without IPython's commands
    used = modules(plain)
    texts = {path: path.read_text(encoding="utf-8") for path in used}
    files = set().union(*map(named_files, [plain, *texts.values()])) | {ROOT / "constraints.txt"}
    parts = [bare(cell) for cell in cells]
    parts += [f"{path.relative_to(ROOT)} {bare(texts[path])}" for path in sorted(used)]
    parts += [f"{p.relative_to(ROOT)} {hashlib.sha256(p.read_bytes()).hexdigest()}"
              for p in sorted(files)]  # fmt: skip
    return digest(parts)


def outputs_stamp(notebook: NotebookNode) -> str:
    """Digest of the outputs, so that those of another run are not taken for the build's."""
    return digest([[c.execution_count, c.outputs] for c in code_cells(notebook)])


def digest(parts: list) -> str:
    """Sixteen hexadecimal digits."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


# ------------------------------------------------------------------ building


def tidy(notebook: NotebookNode) -> None:
    """Drop what is gone with the kernel (widgets, progress bars); refuse warnings.

    A picture gets the alternative text that its cell has in the metadata ``alt``, and a palette.
    """
    for cell in code_cells(notebook):
        kept = []
        for output in cell.outputs:
            if output.get("name") == "stderr":
                lines = re.split(r"[\r\n]+", output.text)
                loud = [line for line in lines if not PROGRESS.match(line)]
                if loud:
                    raise SystemExit(f"a cell writes to stderr: {loud[:3]}\n{cell.source}")
                continue
            if "text" in output:
                output.text = "".join(
                    line for line in re.split(r"(?<=[\r\n])", output.text) if not BAR.match(line)
                )
                if not output.text:
                    continue
            data = output.get("data", {})
            widget = data.pop("application/vnd.jupyter.widget-view+json", None)
            if widget and "text/html" not in data:  # nothing that can be seen without its kernel
                continue
            if "image/png" in data:
                if not cell.metadata.get("alt"):
                    raise SystemExit(f'a cell with a picture needs alt="…":\n{cell.source}')
                data["image/png"] = smaller(data["image/png"])
                output.metadata["image/png"] = {"alt": cell.metadata.alt}
            kept.append(output)
        # How far somebody has come is a reader's own.
        cell.outputs = [] if "progress" in notebook_sources.tags(cell) else kept


def smaller(picture: str) -> str:
    """The same PNG, in base 64, with a palette of 16 greys or 64 colours where that saves space."""
    image, buffer = Image.open(io.BytesIO(base64.b64decode(picture))), io.BytesIO()
    image, dpi = image.convert("RGB"), image.info.get("dpi")
    grey = ImageChops.difference(image, image.convert("L").convert("RGB")).getbbox() is None
    method = Image.Quantize.MAXCOVERAGE  # keeps colours that are rare
    small = image.quantize(16 if grey else 64, method, dither=Image.Dither.NONE)
    small.save(buffer, "PNG", optimize=True, dpi=dpi)
    found = base64.b64encode(buffer.getvalue()).decode()
    return min(found, picture.replace("\n", ""), key=len)


def seconds_of_sections(notebook: NotebookNode, spent: dict[str, float]) -> dict[str, float]:
    """Seconds of the cells of each section, from those of each cell by its id."""
    found: dict[str, float] = {}
    section = None
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (head := catalogue.HEADING.search(cell.source)):
            section = head[2]
        if section:
            found[section] = found.get(section, 0) + spent.get(cell.id, 0)
    return {title: round(value, 1) for title, value in found.items()}


def current(entry: catalogue.Notebook, stamp: str) -> NotebookNode | None:
    """The notebook that is there, if its outputs are those of this code."""
    if not entry.built.is_file():
        return None
    there = nbformat.read(entry.built, as_version=4)
    noted = there.metadata.get("course", {})
    same = noted.get("code") == stamp and noted.get("outputs") == outputs_stamp(there)
    return there if same else None


def build(name: str, force: bool = False) -> bool:
    """Write a notebook; execute it if it must be; tell whether it was executed."""
    entry = catalogue.find(name)
    notebook = notebook_sources.parse(entry)
    stamp = code_stamp(notebook)
    solved = None if force else current(entry, stamp)
    executed = solved is None
    if executed:
        spent: dict[str, float] = {}
        execute(notebook, lambda cell, seconds: spent.update({cell.id: seconds}))
        tidy(notebook)
        course = {"code": stamp, "outputs": outputs_stamp(notebook)}
        course["seconds"] = seconds_of_sections(notebook, spent)
        # The timetable knows the seconds only now.
        solved, notebook = notebook, notebook_sources.parse(entry, course["seconds"])
    else:
        course = solved.metadata.course
    for old, new in zip(code_cells(solved), code_cells(notebook), strict=True):
        new.outputs, new.execution_count = old.outputs, old.execution_count
    notebook_sources.attach_picture(notebook, notebook)
    notebook.metadata |= {"course": course, "language_info": LANGUAGE}
    nbformat.validate(notebook)
    notebook_sources.write(notebook, entry.built)
    return executed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {catalogue.files()}; or all")
    parser.add_argument("--force", action="store_true", help="execute even if nothing has changed")
    arguments = parser.parse_args()
    for name in arguments.names or catalogue.files():
        executed = build(name, arguments.force)
        print(f"{name}.ipynb: {'executed' if executed else 'outputs carried over'}", flush=True)


if __name__ == "__main__":
    main()
