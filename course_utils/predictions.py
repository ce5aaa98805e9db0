"""Predict first: choices to click before a cell is run, and an answer that waits for them."""

from __future__ import annotations

import html
from typing import Any

from course_utils import progress
from course_utils.validation import require

_choices: dict[str, tuple[str, ...]] = {}
_said: dict[str, str] = {}


def predict(name: str, *choices: str) -> None:
    """Show choices to click; where nothing can be clicked, they can be read.

    Args:
        name: Of the prediction, for its ``answer``.
        choices: At least two different texts.

    Raises:
        ValueError: If there are fewer.
    """
    import ipywidgets
    from IPython.display import display

    fine = len(choices) > 1 and len(set(choices)) == len(choices)
    require(fine, "choices", "at least two different texts", choices)
    _choices[name] = choices
    _said.pop(name, None)
    layout = ipywidgets.Layout(width="max-content", max_width="100%")
    buttons = ipywidgets.RadioButtons(options=choices, value=None, layout=layout)

    def note(change: dict[str, Any]) -> None:
        _said[name] = change["new"]

    buttons.observe(note, "value")
    labels = "".join(
        f'<label style="display: block"><input type="radio" name="{html.escape(name)}"> '
        f"{html.escape(choice)}</label>"
        for choice in choices
    )
    shown = buttons._repr_mimebundle_() | {
        "text/html": f"<fieldset><legend>Your prediction</legend>{labels}</fieldset>",
        "text/plain": "\n".join(["Your prediction:", *(f"( ) {choice}" for choice in choices)]),
    }
    display(shown, raw=True)


def answer(name: str, right: str, why: str = "") -> None:
    """Show the answer of a prediction: open to those who have predicted, folded to others.

    Args:
        name: As in ``predict``.
        right: The choice that is right.
        why: What else there is to say, in Markdown.

    Raises:
        ValueError: If ``right`` is none of the choices.
    """
    from IPython.display import display

    choices = _choices.get(name)
    if choices is None:
        print("Run the cell with the choices first.")
        return
    require(right in choices, "right", f"one of {choices}", right)
    said = _said.get(name)
    told = ""
    if said:
        progress.note_prediction(name, said, said == right)
        told = "You were right. " if said == right else f"You said: {said}. "
    folded = f"<details{' open' if said else ''}><summary>Answer</summary>\n\n"
    bold = f"{told}**Answer: {right}.** {why}".strip()
    plain = f"{told}Answer: {right}. {why}".strip()
    shown = {"text/markdown": f"{folded}{bold}\n\n</details>", "text/plain": plain}
    display(shown, raw=True)
