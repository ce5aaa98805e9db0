"""Lift definitions out of a notebook's source without running the notebook."""

import ast
import types

from tools import catalogue


def _keeps(node: ast.stmt) -> bool:
    if isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)):
        return True
    if isinstance(node, ast.Assign):
        try:
            ast.literal_eval(node.value)
        except ValueError:
            return False
        return all(isinstance(target, ast.Name) for target in node.targets)
    return False


def definitions(notebook: str) -> types.SimpleNamespace:
    """Execute only the imports, definitions and literal assignments of ``notebooks/NAME.py``.

    A function that works in this namespace can be copied out of the notebook together with the
    definitions it names.
    """
    path = catalogue.find(notebook).source
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if _keeps(node)]
    namespace: dict = {"__name__": notebook}
    exec(compile(tree, path, "exec"), namespace)
    return types.SimpleNamespace(**namespace)
