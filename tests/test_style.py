"""Lint, format, size and docstrings of the code."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from course_utils import arguments, checks, data, metrics, plotting, runtime

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]])
def test_ruff(command):
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *command, "."], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def lines_of_code(path: Path) -> int:
    """Lines that are neither blank, nor comment, nor docstring."""
    text = path.read_text(encoding="utf-8")
    prose: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        documented = isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef))
        if documented and ast.get_docstring(node) is not None:
            prose |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines = enumerate(text.splitlines(), 1)
    return sum(bool(t.strip()) and t.strip()[0] != "#" and i not in prose for i, t in lines)


def test_the_plumbing_stays_small():
    sizes = {path.name: lines_of_code(path) for path in (ROOT / "course_utils").glob("*.py")}
    exercises = sizes.pop("checks.py")
    assert sum(sizes.values()) <= 600, sizes
    assert exercises <= 350  # a dozen lines for each of more than twenty exercises


def public_functions():
    for module in (arguments, checks, data, metrics, plotting, runtime):
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ == module.__name__ and not name.startswith("_"):
                yield pytest.param(function, id=f"{module.__name__}.{name}")


@pytest.mark.parametrize("function", list(public_functions()))
def test_public_functions_are_typed_and_documented(function):
    signature, text = inspect.signature(function), inspect.getdoc(function) or ""
    assert text.split("\n")[0].strip().endswith((".", ":"))
    assert signature.return_annotation is not inspect.Signature.empty
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty
    source = inspect.getsource(function)
    if "raise ValueError" in source or " require" in source:
        assert "Raises:" in text
