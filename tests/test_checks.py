"""The engine of the exercise checks; the checks themselves are tested with their notebooks."""

import pytest
import torch

from course_utils.checks import UNTRIED, Verdict, _judge

CASES = [(torch.tensor([1.0, 2.0, 4.0]),), (torch.tensor([3.0]),)]
TRAPS = [(lambda x: x.sum(), "a sum"), (lambda x: x.median(), "a median")]


def verdict(answer) -> Verdict:
    return _judge(answer, torch.Tensor.mean, CASES, traps=TRAPS, praise="that is the mean.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x: x.sum() / len(x), "✓ Right: that is the mean."),
        (lambda x: float(x.mean()), "✓ Right"),
        (lambda x: x.sum(), "✗ Not yet: a sum"),
        (lambda x: x.median(), "✗ Not yet: a median"),
        (lambda x: x.max(), "on case 1 of 2, the shape is right, but a value is off"),
        (lambda x: x, r"shape is (3,), expected ()"),
        (lambda x: x.mean() * torch.nan, "NaN"),
        (lambda x: "mean", "not str"),
        (lambda x: {}, "not dict"),
        (lambda x: x[10], "on case 1 it raised IndexError"),
        (lambda: 0, "raised TypeError"),
        (lambda x: None, "Not tried yet"),
        (lambda x: ..., "Not tried yet"),
        (None, "Not tried yet"),
        (..., "Not tried yet"),
        (3.0, "give the function itself, not float"),
    ],
)
def test_messages(answer, message):
    found = verdict(answer)
    assert message in repr(found)
    assert bool(found) == message.startswith("✓")


def test_a_stub_that_raises_is_untried():
    def stub(x):
        raise NotImplementedError

    assert verdict(stub) == UNTRIED


def test_an_answer_cannot_change_the_cases():
    def vandal(x):
        mean = x.mean().clone()
        x.zero_()
        return mean

    assert verdict(vandal) and verdict(torch.Tensor.mean)
