"""Answers to the exercises: the notebooks' stubs and solutions, and a file for each notebook."""

import re
import types
from collections.abc import Callable

from tools import catalogue, notebook_sources
from tools.notebook_definitions import definitions

OWN = r"^(?:def|class) {}\b.*?(?=\n\n\n|\n\n# %%)"  # an answer's text in its notebook


def answers() -> dict[str, list]:
    """By exercise: what the notebook's stub answers, and its solution."""
    found: dict[str, list] = {}
    for name in catalogue.files():
        names = vars(definitions(name))
        for cell in notebook_sources.code_cells(notebook_sources.read(name)):
            if {"exercise", "solution", "reference"} & set(notebook_sources.tags(cell)):
                for call in notebook_sources.CHECK.finditer(cell.source):
                    exercise = call["check"].removeprefix("checks.check_")
                    found.setdefault(exercise, []).append(names.get(call["answer"]))
    return found


ANSWERS = answers()
right = types.SimpleNamespace(**{exercise: both[1] for exercise, both in ANSWERS.items()})


def slip(exercise: str, *changes: str) -> Callable:
    """The course's own answer, with pieces of its text replaced: old, new, old, new."""
    own = getattr(right, exercise)
    book, name = own.__module__, own.__name__
    text = catalogue.find(book).source.read_text(encoding="utf-8")
    code = re.search(OWN.format(name), text, re.M | re.S)[0]
    for old, new in zip(changes[::2], changes[1::2], strict=True):
        assert old in code, f"{old} is not in {name}"
        code = code.replace(old, new)
    exec(code, space := vars(definitions(book)))
    return space[name]
