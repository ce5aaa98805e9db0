"""The known mistakes and what guards against each, from ``tests/mistakes.toml`` and the guards.

A guard is a test with ``@pytest.mark.mistake("B2")`` or a cell of a notebook with the tag
``mistake-B2``. They are found without running anything.
"""

import ast
import re
import tomllib
from collections import defaultdict
from pathlib import Path

from tools import catalogue, notebook_sources
from tools.notebook_sources import tags

TESTS = Path(__file__).resolve().parents[1] / "tests"
SECTION = re.compile(r"^##+ (?!Exercise)(.+)$", re.MULTILINE)


def groups() -> dict[str, dict]:
    """Titles of the groups, and their mistakes by row; "open" holds the rows without a guard."""
    return tomllib.loads((TESTS / "mistakes.toml").read_text(encoding="utf-8"))


def rows_of(node: ast.AST) -> list[str]:
    """Rows that the decorators of a definition name."""
    return [
        row.value
        for decorator in getattr(node, "decorator_list", [])
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.mistake"
        for row in decorator.args
    ]


def guards() -> dict[str, list[str]]:
    """For each row that is guarded the tests and the sections of notebooks, as Markdown."""
    found = defaultdict(list)
    for notebook in catalogue.load():
        place = notebook.title
        for cell in notebook_sources.parse(notebook).cells:
            if cell.cell_type == "markdown":
                for heading in SECTION.findall(cell.source):
                    place = f"{notebook.nickname}: *{heading}*"
            for tag in tags(cell):
                row = tag.removeprefix("mistake-")
                if row != tag and place not in found[row]:
                    found[row].append(place)
    for path in sorted(TESTS.glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for row in rows_of(node):
                found[row].append(f"`{path.name}::{node.name}`")
    return dict(found)


def tables() -> str:
    """A table for each group, for the site's page."""
    known, head = guards(), ["row", "mistake", "what fails if it comes back"]
    text = ""
    for title, group in groups().items():
        if title != "open":
            places = {row: "; ".join(known.get(row, ["*open: second edition*"])) for row in group}
            rows = [[row, words, places[row]] for row, words in group.items()]
            text += f"\n## {title}\n\n{catalogue.table(head, rows)}\n"
    return text
