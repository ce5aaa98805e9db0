"""Cut a notebook into slides of one screen: say where sub-slides begin, and what is skipped.

    python tools/slidecut.py NAME [--write]

The heights of the cells were measured in a browser by tests/test_presenting.py, which keeps them in
build/presenting/NAME.json. ``--write`` puts the result into notebooks/NAME.py, and into the built
notebook too, whose outputs stay right: no code changes. What a section begins with (``slide``)
stays as it is.
"""

import argparse
import json
import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from tools import build_notebooks as notebooks

HEIGHTS = Path(__file__).resolve().parents[1] / "build" / "presenting"
MARK = re.compile(r' slideshow=\{"slide_type": "(\w+)"\}')


def skipped(cell: NotebookNode) -> bool:
    """Solutions and hints are for readers, not for an audience."""
    return "solution" in cell.metadata.get("tags", []) or "<details>" in cell.source


def cut(cells: list[NotebookNode], heights: list[float], room: float) -> list[str]:
    """The kind of slide that each cell begins; "" for one that goes on with the slide before.

    Text stays with the code below it where both fit.

    Args:
        cells: All cells of the notebook.
        heights: Their heights on the screen, in pixels.
        room: The height of a slide, in pixels.
    """
    kinds, used = [], 0.0
    for i, cell in enumerate(cells):
        kind = cell.metadata.get("slideshow", {}).get("slide_type", "")
        if skipped(cell):
            kinds.append("skip")
            continue
        need = heights[i]
        follower = cells[i + 1] if i + 1 < len(cells) else None
        if cell.cell_type == "markdown" and follower and follower.cell_type == "code":
            both = need + (0 if skipped(follower) else heights[i + 1])
            need = both if both <= room else need
        if kind != "slide":
            headed = cell.source.startswith("### ")
            kind = "subslide" if headed or used + need > room else ""
        used = heights[i] if kind else used + heights[i]
        kinds.append(kind)
    return kinds


def marked(source: str, kinds: list[str]) -> str:
    """The text of a source with these kinds in the lines that begin its cells."""
    wanted = iter(kinds)

    def mark(line: re.Match) -> str:
        kind = next(wanted)
        return MARK.sub("", line[0]) + (f' slideshow={{"slide_type": "{kind}"}}' if kind else "")

    text = re.sub(r"^# %%.*$", mark, source, flags=re.MULTILINE)
    if next(wanted, None) is not None:
        raise SystemExit("course: the source has fewer cells than the notebook that was measured")
    return text


def write(name: str, kinds: list[str]) -> None:
    """Mark the source, and take its marks over into the notebook that was built from it."""
    source, target = (notebooks.NOTEBOOKS / f"{name}.{kind}" for kind in ("py", "ipynb"))
    built = nbformat.read(target, as_version=4)
    if built.metadata.course.source_sha256 != notebooks.digest(name):
        raise SystemExit(f"course: {target.name} is older than its source. Remedy: make notebooks")
    source.write_text(marked(source.read_text(encoding="utf-8"), kinds), encoding="utf-8")
    for cell, fresh in zip(built.cells, notebooks.read_source(name).cells, strict=True):
        cell.metadata = fresh.metadata
    built.metadata.course.source_sha256 = notebooks.digest(name)
    nbformat.write(built, target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", metavar="NAME", choices=notebooks.names())
    parser.add_argument("--write", action="store_true", help="change source and notebook")
    arguments = parser.parse_args()
    measured = HEIGHTS / f"{arguments.name}.json"
    if not measured.is_file():
        raise SystemExit(f"course: {measured} is missing. Remedy: pytest tests/test_presenting.py")
    facts = json.loads(measured.read_text())
    cells = notebooks.read_source(arguments.name).cells
    if [cell.source for cell in cells] != facts["sources"]:
        raise SystemExit(
            "course: the notebook has changed. Remedy: pytest tests/test_presenting.py"
        )
    kinds = cut(cells, facts["heights"], facts["room"])
    for cell, kind, height in zip(cells, kinds, facts["heights"], strict=True):
        title = cell.source.splitlines()[0][:70]
        high = "  HIGHER THAN A SLIDE" if height > facts["room"] and kind != "skip" else ""
        print(f"{kind or '.':9} {height:5.0f} px  {title}{high}")
    if arguments.write:
        write(arguments.name, kinds)


if __name__ == "__main__":
    main()
