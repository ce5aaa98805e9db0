"""Spell-check the course's texts in British English; exit status 1 if a word is unknown.

    python tools/spelling.py

Texts: the Markdown files, the Markdown cells of the notebooks, and the phrases in code that readers
see: labels of pictures, printed lines, messages of the checks. The checker is cspell: npm ci, in
the folder docs, installs it.
"""

import ast
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tools import build_notebooks as notebooks

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
TEXTS = (
    *("*.md", "docs/*.md", "slides/*.md", "data/*.md", "benchmarks/*.md"),
    *("notebooks/*.md", "binder/*.md", "binder/jupyterhub/*.md"),
)
CODE = ("notebooks/*.py", "course_utils/checks.py", "course_utils/plotting.py")
NO_PROSE = re.compile(
    r"^ *```.*?^ *```|`[^`]*`|\$\$.*?\$\$|\$[^$]+\$|https?:[^\s)>]+|\]\([^)]*\)|</?[a-z][^>]*>|"
    r"\A---.*?^---$|<!-- _class.*?-->",
    re.DOTALL | re.MULTILINE,
)


def texts() -> dict[str, str]:
    """Name and prose of everything that is checked."""
    found = {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for pattern in TEXTS
        for path in sorted(ROOT.glob(pattern))
    }
    for name in notebooks.names():
        cells = notebooks.read_source(name).cells
        prose = [cell.source for cell in cells if cell.cell_type == "markdown"]
        found[f"notebooks/{name}.md"] = "\n\n".join(prose)
    for path in sorted(path for pattern in CODE for path in ROOT.glob(pattern)):
        name = path.relative_to(ROOT).as_posix()
        found[f"{name}.md"] = phrases(path.read_text(encoding="utf-8"))
    return found


def phrases(code: str) -> str:
    """String literals of several words, but no docstrings; each in the line where it begins."""
    lines = [""] * (code.count("\n") + 1)
    nodes = list(ast.walk(ast.parse(code)))
    silent = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if " " in node.value and id(node) not in silent:
                lines[node.lineno - 1] += " " + node.value.replace("\n", " ")
    return "\n".join(lines)


def blank(text: str) -> str:
    """The text without code, formulas and addresses; every line stays where it is."""
    return NO_PROSE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)


def unknown(prose: dict[str, str]) -> list[str]:
    """Words that neither the dictionary nor docs/words.txt knows, with file and line."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in prose.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(blank(text), encoding="utf-8")
        program = DOCS / "node_modules" / "cspell" / "bin.mjs"
        command = [shutil.which("node"), program, "--no-progress", "--no-summary", "--no-color"]
        command += ["--config", DOCS / "cspell.json", "--root", folder, *sorted(prose)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8")
    if done.returncode not in (0, 1) or (done.returncode and not done.stdout):
        raise RuntimeError(f"cspell failed: {done.stderr}")
    return done.stdout.splitlines()


def main() -> None:
    if not (shutil.which("node") and (DOCS / "node_modules" / "cspell").is_dir()):
        raise SystemExit("course: cspell is not installed. Remedy: npm ci, in the folder docs")
    found = unknown(texts())
    print(*found, sep="\n")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
