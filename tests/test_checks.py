"""What holds for every exercise check; what each accepts is tested with its notebook."""

import pkgutil
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from course_utils import checks
from course_utils.checks.judge import UNTRIED, Verdict, judge
from tests.bad_input import ANYTHING, INF, META, NAN, raising
from tools import build_notebooks

CASES = [(torch.tensor([1.0, 2.0, 4.0]),), (torch.tensor([3.0]),)]
TRAPS = [(lambda x: x.sum(), "a sum"), (lambda x: x.median(), "a median")]
CHECKS = {name: getattr(checks, name) for name in dir(checks) if name.startswith("check_")}


def verdict(answer) -> Verdict:
    return judge(answer, torch.Tensor.mean, CASES, traps=TRAPS, praise="that is the mean.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x: x.sum() / len(x), "✓ Right: that is the mean."),
        (lambda x: float(x.mean()), "✓ Right"),
        (lambda x: x.mean().double(), "✓ Right"),
        (lambda x: x.sum(), "✗ Not yet: a sum"),
        (lambda x: x.median(), "✗ Not yet: a median"),
        (lambda x: x.mean() + 0.01, "on case 1 of 2, the shape is right, but a value is off"),
        (lambda x: x, r"shape is (3,), expected ()"),
        (lambda x: x.mean() * torch.nan, "NaN"),
        (lambda x: "mean", "not str"),
        (lambda x: x[10], "on case 1 it raised IndexError"),
        (raising(NotImplementedError), "Not tried yet"),
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
    assert (found == UNTRIED) == message.startswith("Not tried")


def test_an_answer_cannot_change_the_cases():
    assert verdict(lambda x: x.mean() + x.zero_().sum())
    assert CASES[0][0].tolist() == [1, 2, 4]


def test_a_student_can_interrupt_a_check():
    with pytest.raises(KeyboardInterrupt):
        verdict(raising(KeyboardInterrupt()))


def test_a_check_is_found_in_its_module_and_a_notebook_depends_only_on_its_own():
    for name in {module.name for module in pkgutil.iter_modules(checks.__path__)} - {"judge"}:
        code = f"from course_utils.checks import {name} as checks"
        needed = {path.name for path in build_notebooks.modules(code)}
        assert needed == {"__init__.py", "judge.py", f"{name}.py"}
    assert checks.check_coverage.__module__ == "course_utils.checks.wine"
    with pytest.raises(AttributeError, match="check_nothing"):
        checks.check_nothing  # noqa: B018 - raises


class Strange:
    """Says that it can become an array, and cannot."""

    def __array__(self, *args, **kwargs):
        raise KeyError("no array")


NO_FUNCTIONS = [0, 1.5, NAN, -INF, [], {}, b"", Strange(), torch.zeros(9, 9, 9)]
FUNCTIONS = [int, print, Strange, lambda: 0, lambda *, key: 0]
ERRORS = [MemoryError(), StopIteration(), AssertionError(), KeyError("k"), OSError(28, "x")]
ERRORS += [SystemExit(1), UnicodeError("ü"), RecursionError(), torch.OutOfMemoryError("cuda")]
RETURNED = [INF, 1e308, 10**400, 1j, "nan", {1.0}, range(3), Strange(), type, [[1], [1, 2]], [None]]
RETURNED += [np.array(["a"]), np.array([object()]), torch.zeros(0), torch.full((3,), 1j), torch]
RETURNED += [torch.zeros(3, device=META), torch.eye(3).to_sparse(), torch.zeros(1, 1, 1, 1)]
ANSWERS = [*NO_FUNCTIONS, *FUNCTIONS, *map(raising, ERRORS)]
ANSWERS += [lambda *args, value=value: value for value in RETURNED]


@pytest.mark.parametrize("name", CHECKS)
def test_a_check_turns_everything_into_a_verdict(name):
    def is_wrong(answer):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a warning would be no help to a student
            verdict = CHECKS[name](answer)
        assert isinstance(verdict, Verdict) and not verdict
        assert verdict.message[0] in "✗…" and len(verdict.message) < 400

    before = torch.get_num_threads(), torch.get_default_dtype()
    for answer in ANSWERS:
        is_wrong(answer)

    @given(ANYTHING)
    @settings(max_examples=10, deadline=None)
    def returns_anything(value):
        is_wrong(lambda *args: value)

    returns_anything()
    assert (torch.get_num_threads(), torch.get_default_dtype()) == before
