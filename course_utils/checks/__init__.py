"""Checks of the exercises, one module per notebook: they say what is wrong, and they never raise.

A notebook imports its own module. ``checks.check_coverage`` finds a check wherever it is, and loads
the modules only then, so that a changed check leaves the other notebooks as they are.
"""

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from course_utils.checks.judge import UNTRIED, Verdict

__all__ = ["UNTRIED", "Verdict"]


def _modules() -> Iterator[ModuleType]:
    for module in pkgutil.iter_modules(__path__):
        yield importlib.import_module(f"{__name__}.{module.name}")


def __getattr__(name: str) -> Any:
    if name.startswith("check_"):
        for module in _modules():
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    found = (name for module in _modules() for name in vars(module) if name.startswith("check_"))
    return sorted([*__all__, *found])
