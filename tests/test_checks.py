"""The exercise checks: each accepts the solution, knows the usual mistakes, and never raises."""

import importlib
import pkgutil
import re
import signal
import time
import warnings

import numpy as np
import pyro
import pytest
import torch
from hypothesis import given, settings

from course_utils import checks
from course_utils.checks.judge import UNTRIED, Verdict, judge
from tests.answers import ANSWERS, right
from tests.bad_input import ANYTHING, INF, META, NAN, raising
from tools import build_notebooks, catalogue

CHECKS = {name[6:]: getattr(checks, name) for name in dir(checks) if name.startswith("check_")}


# ------------------------------------------------------------------ what each check says

FILES = [importlib.import_module(f"tests.answers.{each.nickname}") for each in catalogue.load()]
WRONG = [row for file in FILES for row in file.WRONG]
ODD = [row for file in FILES for row in file.ODD]


@pytest.mark.parametrize("exercise", CHECKS)
def test_a_check_accepts_the_solution_and_leaves_the_stub_in_peace(exercise):
    stub, solution = ANSWERS[exercise][0], getattr(right, exercise)
    assert CHECKS[exercise](stub) == UNTRIED
    assert CHECKS[exercise](solution), CHECKS[exercise](solution)
    assert exercise in {row[0] for row in WRONG}, "which mistakes does the check know?"


@pytest.mark.parametrize(("exercise", "answer"), ODD)
def test_a_check_accepts_what_is_odd_but_right(exercise, answer):
    with torch.no_grad():  # whatever the notebook does around it
        verdict = CHECKS[exercise](answer)
    assert verdict, verdict


@pytest.mark.parametrize(("exercise", "wrong", "words"), WRONG)
def test_a_check_refuses_a_mistake_and_says_why(exercise, wrong, words):
    verdict = CHECKS[exercise](wrong)
    assert not verdict and words in verdict.message


# ------------------------------------------------------------------ what holds for all of them


CASES = [(torch.tensor([1.0, 2.0, 4.0]),), (torch.tensor([3.0]),)]
TRAPS = [(lambda x: x.sum(), "a sum"), (lambda x: x.median(), "a median")]


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
        (lambda x: x[10], "it raised IndexError: index 10 is out of bounds"),
        (raising(NotImplementedError), "Not tried yet"),
        (lambda x: None, "is a `return` missing?"),
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
        assert needed == {"__init__.py", "judge.py", "progress.py", "saved.py", f"{name}.py"}
    assert checks.check_coverage.__module__ == "course_utils.checks.wine"
    with pytest.raises(AttributeError, match="check_nothing"):
        checks.check_nothing  # noqa: B018 - raises


class Average(torch.nn.Module):
    def forward(self, x):
        return [x.mean()][0]


@pytest.mark.parametrize(
    "honest",
    [
        lambda x: np.mean(x.numpy()),
        lambda x: x.float().mean(),
        lambda x: sum(x.tolist()) / len(x),
        lambda x: (x @ torch.ones(len(x))) / len(x),  # 32-bit constants
        lambda x: torch.mean(x).requires_grad_(),
        Average(),
    ],
)
def test_any_honest_form_is_accepted(honest):
    cases = [tuple(value.double() for value in case) for case in CASES]
    assert judge(honest, torch.Tensor.mean, cases, traps=TRAPS, praise="fine.")


def slips(x):
    weight = torch.ones(2)
    return x @ weight


def test_an_error_is_told_with_its_line_and_the_shapes_there():
    told = verdict(slips).message
    assert "it raised RuntimeError" in told
    assert (
        "in line 3 of slips, `return x @ weight`; there x has shape (3,), weight has shape (2,)"
        in told
    )


def never_ends(x):
    while True:
        try:
            time.sleep(60)
        except Exception:  # nothing that an answer catches keeps it alive
            pass


def spins(x):
    while True:
        pass


def test_an_endless_answer_is_interrupted_and_a_student_may_interrupt(monkeypatch):
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr("course_utils.checks.judge.LIMIT", 0.2)
    for endless in (never_ends, spins):
        assert "endless loop" in verdict(endless).message
    assert verdict(lambda x: time.sleep(0.4) or x.mean())  # as where other work holds the machine
    monkeypatch.setattr("course_utils.checks.judge.LIMIT", 60)
    with pytest.raises(KeyboardInterrupt):
        verdict(lambda x: signal.raise_signal(signal.SIGINT) or time.sleep(1))
    assert signal.getsignal(signal.SIGINT) is before


def test_a_check_leaves_random_numbers_and_parameters_alone():
    def restless(x):
        pyro.param("loc", torch.tensor(1.0))
        torch.manual_seed(5)
        return x.mean() + 0 * torch.randn(())

    pyro.clear_param_store()
    pyro.param("mine", torch.tensor(2.0))
    state = torch.get_rng_state()
    assert verdict(restless)
    assert torch.equal(torch.get_rng_state(), state)
    assert list(pyro.get_param_store().keys()) == ["mine"]


def test_a_verdict_is_shown_in_colour_words_and_sign():
    found = [verdict(answer) for answer in (torch.mean, torch.sum, ...)]
    pages = [each._repr_html_() for each in found]
    colours = [re.search(r"#\w{6}", page)[0] for page in pages]
    assert len(set(colours)) == 3
    for page, words in zip(pages, ("Right:", "Not yet:", "Not tried yet:"), strict=True):
        assert f"<strong>{words}</strong>" in page and 'role="status"' in page
    assert "&lt;b&gt; <code>x</code>" in Verdict(False, "✗ Not yet: <b> `x`")._repr_html_()


def test_infinity_is_recognised_before_it_is_refused():
    traps = [(lambda x: x.mean() / 0, "a division by zero")]
    found = judge(lambda x: x.mean() / 0, torch.Tensor.mean, CASES, traps=traps, praise="")
    assert "a division by zero" in found.message


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
NONSENSE = [*NO_FUNCTIONS, *FUNCTIONS, *map(raising, ERRORS)]
NONSENSE += [lambda *args, value=value: value for value in RETURNED]


@pytest.mark.parametrize("exercise", CHECKS)
def test_a_check_turns_everything_into_a_verdict(exercise):
    def is_wrong(answer):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a warning would be no help to a student
            verdict = CHECKS[exercise](answer)
        assert isinstance(verdict, Verdict) and not verdict
        assert verdict.message[0] in "✗…" and len(verdict.message) < 400

    before = torch.get_num_threads(), torch.get_default_dtype()
    for answer in NONSENSE:
        is_wrong(answer)

    @given(ANYTHING)
    @settings(max_examples=10, deadline=None)
    def returns_anything(value):
        is_wrong(lambda *args: value)

    returns_anything()
    assert (torch.get_num_threads(), torch.get_default_dtype()) == before
