"""Clean notebooks before a commit: drop what JupyterLab writes into them beside the lesson.

    python tools/clean.py NOTEBOOK.ipynb ...

Results stay. Widgets, progress bars, times, the state of cells on the screen and the version of
this machine's Python go. A file that is clean already is not touched.
"""

import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from tools import build_notebooks as notebooks

OF_THE_NOTEBOOK = ("kernelspec", "course", "language_info")
OF_A_CELL = ("tags", "slideshow", "jupyter", "lines_to_next_cell")


def keep(metadata: NotebookNode, names: tuple[str, ...]) -> NotebookNode:
    """The part of the metadata that the sources describe."""
    return NotebookNode({name: value for name, value in metadata.items() if name in names})


def clean(path: Path) -> None:
    """Rewrite a notebook as ``make notebooks`` would have written it."""
    before = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(before, as_version=4)
    notebooks.tidy(notebook)
    notebook.metadata = keep(notebook.metadata, OF_THE_NOTEBOOK)
    for cell in notebook.cells:
        cell.metadata = keep(cell.metadata, OF_A_CELL)
    after = nbformat.writes(notebook) + "\n"
    if after != before:
        path.write_text(after, encoding="utf-8")
        print(f"cleaned {path}")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        clean(Path(name))
