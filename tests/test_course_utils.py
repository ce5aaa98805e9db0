"""Every public function of the package says what it takes, returns and raises."""

import importlib
import inspect
import pkgutil

import pytest

import course_utils

MODULES = [
    importlib.import_module(module.name)
    for module in pkgutil.walk_packages(course_utils.__path__, "course_utils.")
]
FUNCTIONS = [
    pytest.param(function, id=f"{module.__name__}.{name}")
    for module in MODULES
    for name, function in inspect.getmembers(module, inspect.isfunction)
    if function.__module__ == module.__name__ and not name.startswith("_")
]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_public_functions_are_typed_and_documented(function):
    signature, text = inspect.signature(function), inspect.getdoc(function) or ""
    assert text.split("\n")[0].strip().endswith((".", ":"))
    annotations = [parameter.annotation for parameter in signature.parameters.values()]
    assert inspect.Signature.empty not in [*annotations, signature.return_annotation]
    source = inspect.getsource(function)
    assert "Raises:" in text or not ("raise ValueError" in source or " require" in source)
