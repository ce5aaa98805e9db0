"""The engine of the exercise checks: it says what is wrong, not what is right, and never raises."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Verdict(NamedTuple):
    """What a check found; true if the answer passed."""

    passed: bool
    message: str

    def __bool__(self) -> bool:
        return self.passed

    def __repr__(self) -> str:
        return self.message


UNTRIED = Verdict(False, "… Not tried yet: replace the stub and run the cell again.")


def _wrong(message: str) -> Verdict:
    return Verdict(False, f"✗ Not yet: {message}")


def _fault(got: Any, expected: Tensor, rtol: float) -> str | None:
    """What is wrong with one returned value; None if it is right."""
    kind = type(got).__name__
    try:
        got = torch.as_tensor(got)
        got = None if got.is_complex() else got.to("cpu", torch.double).to_dense()
    except Exception:  # text, a ragged list, a tensor without values: whatever was returned
        got = None
    if got is None:
        return f"it should return real numbers, not {kind}."
    if got.shape != expected.shape:
        return f"its shape is {tuple(got.shape)}, expected {tuple(expected.shape)}."
    if not got.isfinite().all():
        return "it contains NaN or infinity."
    if not torch.allclose(got, expected.double(), rtol=rtol, atol=rtol):
        return "the shape is right, but a value is off."
    return None


def judge(
    answer: Callable | None,
    reference: Callable[..., Tensor],
    cases: Sequence[tuple],
    *,
    traps: Sequence[tuple[Callable, str]],
    praise: str,
    rtol: float = 1e-4,
) -> Verdict:
    """Run an answer beside a reference on every case.

    Args:
        answer: What the student wrote; may be anything.
        reference: Gives the right value for a case.
        cases: Tuples of arguments.
        traps: Plausible wrong functions with the message that helps.
        praise: What the student may now believe.
        rtol: Relative and absolute tolerance.

    Returns:
        The verdict; never raises whatever the answer does.
    """
    if answer is None or answer is ...:
        return UNTRIED
    if not callable(answer):
        return _wrong(f"give the function itself, not {type(answer).__name__}.")
    expected = [torch.as_tensor(reference(*case)) for case in cases]
    got = []
    for number, case in enumerate(cases, 1):
        try:
            got.append(answer(*copy.deepcopy(case)))
        except NotImplementedError:
            return UNTRIED
        except (Exception, SystemExit) as error:  # what a student's code raises is a message
            return _wrong(f"on case {number} it raised {type(error).__name__}: {error}")
        if got[-1] is None or got[-1] is ...:
            return UNTRIED
    faults = [_fault(g, e, rtol) for g, e in zip(got, expected, strict=True)]
    if not any(faults):
        return Verdict(True, f"✓ Right: {praise}")
    for trap, message in traps:
        wrong = [torch.as_tensor(trap(*case)) for case in cases]
        if not any(_fault(g, w, rtol) for g, w in zip(got, wrong, strict=True)):
            return _wrong(message)
    number = next(i for i, fault in enumerate(faults, 1) if fault)
    return _wrong(f"on case {number} of {len(cases)}, {faults[number - 1]}")
