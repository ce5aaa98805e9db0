"""Answers to the exercises: the notebooks' stubs and solutions, and a file for each notebook."""

import types

from tools import catalogue, notebook_sources
from tools.notebook_definitions import definitions


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
