"""The engine of the exercise checks: it says what is wrong, not what is right, and never raises."""

from __future__ import annotations

import contextlib
import copy
import functools
import html
import linecache
import re
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyro
import torch
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from course_utils import progress

LIMIT = 10.0  # seconds of computing; then an answer is interrupted, or after PATIENCE times as many
PATIENCE = 6  # by the clock: other work may share the machine
COURSE = str(Path(__file__).resolve().parents[1])
COLOURS = {"✓": "#2e8b57", "✗": "#d1495b", "…": "#e08e0b"}  # of the bar; words and sign say it, too


class Verdict(NamedTuple):
    """What a check found; true if the answer passed. Jupyter shows it in colour."""

    passed: bool
    message: str

    def __bool__(self) -> bool:
        return self.passed

    def __repr__(self) -> str:
        return self.message

    def _repr_html_(self) -> str:
        sign, _, text = self.message.partition(" ")
        head, colon, rest = text.partition(":")
        style = f"border-left: 8px solid {COLOURS[sign]}; padding: 0.4em 0.8em; margin: 0.3em 0"
        rest = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(rest, quote=False))
        return (
            f'<div role="status" style="{style}"><span aria-hidden="true">{sign}</span> '
            f"<strong>{html.escape(head + colon, quote=False)}</strong>{rest}</div>"
        )


UNTRIED = Verdict(False, "… Not tried yet: replace the stub and run the cell again.")


class Wrong(Exception):
    """What is wrong with an answer, in a sentence that helps."""


class Untried(Exception):
    """The answer is still the stub."""


class _TooLong(BaseException):
    """Not an Exception, so that an answer that catches everything does not catch it."""


# ------------------------------------------------------------------ running an answer


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Interrupt what runs too long, where signals can: in the main thread, on every system."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    late, over, main = threading.Event(), threading.Event(), threading.get_ident()
    computed = time.process_time() + seconds * torch.get_num_threads()
    waited = time.monotonic() + seconds * PATIENCE

    def stop(number, frame):
        raise _TooLong if late.is_set() else KeyboardInterrupt

    def watch():
        while not over.wait(1.0 if late.is_set() else 0.1):  # again, if it was ignored
            if time.process_time() < computed and time.monotonic() < waited:
                continue
            late.set()
            if hasattr(signal, "pthread_kill"):
                signal.pthread_kill(main, signal.SIGINT)
            else:  # Windows: this also wakes the main thread up
                signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, stop)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Leave random numbers, Pyro's parameters and PyTorch's modes as they were."""
    state, threads = pyro.util.get_rng_state(), torch.get_num_threads()
    kind = torch.get_default_dtype()
    try:
        with pyro.get_param_store().scope(), torch.enable_grad():
            pyro.set_rng_seed(0)
            yield
    finally:
        pyro.util.set_rng_state(state)
        torch.set_default_dtype(kind)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


def _shape(value: Any) -> str:
    shape = getattr(value, "shape", None)  # a method, if it is a distribution of Pyro's
    return f"shape {tuple(shape)}" if isinstance(shape, tuple) else ""


def _described(error: BaseException) -> str:
    """An error in a student's code: its line, and the shapes of what stands there."""
    text = " ".join(str(error).split())
    said = f"it raised {type(error).__name__}: {text[:160]}".rstrip(": ")
    own = [
        (frame, number)
        for frame, number in traceback.walk_tb(error.__traceback__)
        if not frame.f_code.co_filename.startswith((COURSE, sys.prefix, sys.base_prefix, "<frozen"))
    ]
    if not own:
        return f"{said}."
    frame, number = own[-1]
    line = linecache.getline(frame.f_code.co_filename, number).strip()
    inside = number - frame.f_code.co_firstlineno + 1
    said += f" in line {inside} of {frame.f_code.co_name}"
    if line:
        names = dict.fromkeys(re.findall(r"[^\W\d]\w*", line))
        shapes = [f"{n} has {s}" for n in names if (s := _shape(frame.f_locals.get(n)))]
        said += f", `{line[:80]}`" + (f"; there {', '.join(shapes[:4])}" if shapes else "")
    return f"{said}."


def trial(answer: Any, examine: Callable[[Any], str | None], *, praise: str) -> Verdict:
    """Let a function try what a student wrote: run the model, train the guide, invert the layer.

    Args:
        answer: What the student wrote; may be anything.
        examine: Gets the answer. It raises ``Wrong`` with the sentence that helps, ``Untried`` for
            a stub; what else is raised is told with the student's line and the shapes there. It
            may return another praise.
        praise: What the student may now believe.

    Returns:
        The verdict; never raises whatever the answer does. Random numbers, Pyro's parameters and
        PyTorch's settings are afterwards as before. What computes for ten seconds is interrupted.
    """
    if answer is None or answer is ...:
        return UNTRIED
    try:
        with _undisturbed(), _limited(LIMIT), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the verdict says it
            praise = examine(answer) or praise
    except Untried:
        return UNTRIED
    except Wrong as wrong:
        return _wrong(str(wrong))
    except NotImplementedError:
        return UNTRIED
    except _TooLong:
        return _wrong(
            f"it was interrupted after {LIMIT:.0f} seconds of computing: is there an endless loop?"
        )
    except (Exception, SystemExit) as error:  # what a student's code raises is a message
        return _wrong(_described(error))
    return Verdict(True, f"✓ Right: {praise}")


def _wrong(message: str) -> Verdict:
    return Verdict(False, f"✗ Not yet: {message}")


def exercise(check: Callable[[Any], Verdict]) -> Callable[[Any], Verdict]:
    """Note the verdict on a student's own answer, one whose name begins with ``my``."""

    @functools.wraps(check)
    def noted(answer: Any) -> Verdict:
        verdict = check(answer)
        names = sys._getframe(1).f_globals.items()
        if verdict != UNTRIED and any(
            v is answer and n.startswith(("my_", "My")) for n, v in names
        ):
            progress.note_verdict(check.__name__, verdict.passed)
        return verdict

    return noted


# ------------------------------------------------------------------ comparing numbers


def numbers(got: Any, shape: Sequence[int] | None = None, *, finite: bool = True) -> Tensor:
    """What an answer returned, as a tensor of 64-bit floats without gradient.

    Args:
        got: A tensor, an array, a number, or lists and tuples of such.
        shape: What it must have; any when None.
        finite: Whether NaN and infinity are refused.

    Raises:
        Untried: If it is the ellipsis of a stub.
        Wrong: If it is nothing, no numbers, of another shape, or not finite.
    """
    if got is ... or got is NotImplemented:
        raise Untried
    if got is None:
        raise Wrong("it returned nothing (None): is a `return` missing?")
    try:
        tensor = _tensor(got)
    except Exception:  # text, a ragged list, a tensor without values: whatever was returned
        tensor = None
    if tensor is None:
        raise Wrong(f"it should return real numbers, not {type(got).__name__}.")
    if shape is not None and tuple(tensor.shape) != tuple(shape):
        raise Wrong(f"its shape is {tuple(tensor.shape)}, expected {tuple(shape)}.")
    if finite and not tensor.isfinite().all():
        raise Wrong("it contains NaN or infinity.")
    return tensor


def _tensor(got: Any) -> Tensor | None:
    if isinstance(got, list | tuple):
        parts = [_tensor(part) for part in got]
        return torch.stack(parts) if parts else torch.zeros(0).double()
    tensor = torch.as_tensor(got).detach()
    return None if tensor.is_complex() else tensor.to("cpu", torch.double).to_dense()


def refuse_what_cannot_be_called(answer: Any) -> None:
    """Raise ``Wrong`` for an answer that is no function, such as the result of a call."""
    if not callable(answer):
        raise Wrong(f"give the function itself, not {type(answer).__name__}.")


def drawn(trace: pyro.poutine.Trace) -> dict[str, dict]:
    """The sample sites of a run of Pyro by name, without those that pick a plate's batch."""
    nodes = trace.nodes.items()
    return {k: v for k, v in nodes if v["type"] == "sample" and not site_is_subsample(v)}


def call(function: Callable, *case: Any) -> Any:
    """Call an answer with copies of a case, in the precision that it computes in."""
    refuse_what_cannot_be_called(function)
    try:
        return function(*copy.deepcopy(case))
    except RuntimeError as error:
        if "dtype" not in str(error) and "type" not in str(error):
            raise
        single = [v.float() if _is_double(v) else v for v in copy.deepcopy(case)]
        return function(*single)  # mixed with 32-bit tensors of its own


def _is_double(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.double


def close(got: Tensor, expected: Any, rtol: float) -> bool:
    """Whether two tensors agree, infinities and NaN included, and have one shape."""
    expected = torch.as_tensor(expected).detach().double()
    return got.shape == expected.shape and torch.allclose(
        got, expected, rtol=rtol, atol=rtol, equal_nan=True
    )


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

    def examine(function: Any) -> None:
        expected = [torch.as_tensor(reference(*case)).double() for case in cases]
        got = []
        for number, case in enumerate(cases, 1):
            try:
                got.append(numbers(call(function, *case), finite=False))
            except Wrong as wrong:
                raise Wrong(_on(number, cases, str(wrong))) from None
        if all(close(g, e, rtol) for g, e in zip(got, expected, strict=True)):
            return
        for trap, message in traps:
            wrong = [trap(*case) for case in cases]
            if all(close(g, w, rtol) for g, w in zip(got, wrong, strict=True)):
                raise Wrong(message)
        for number, (g, e) in enumerate(zip(got, expected, strict=True), 1):
            if not close(g, e, rtol):
                try:
                    numbers(g, e.shape)
                except Wrong as wrong:
                    raise Wrong(_on(number, cases, str(wrong))) from None
                raise Wrong(_on(number, cases, "the shape is right, but a value is off."))

    return trial(answer, examine, praise=praise)


def _on(number: int, cases: Sequence, message: str) -> str:
    return f"on case {number} of {len(cases)}, {message}" if len(cases) > 1 else message


def gradients(function: Callable, inputs: dict[str, Tensor], *fixed: Any) -> list[Tensor]:
    """Derivatives of the sum of what an answer returns, by each of its inputs.

    Args:
        function: The answer.
        inputs: By name, in the order in which it takes them.
        fixed: Further arguments, by which nothing is derived.

    Returns:
        One tensor for each input.

    Raises:
        Wrong: If no gradient passes; the message says where it is lost.
    """
    leaves = {name: value.clone().requires_grad_() for name, value in inputs.items()}
    try:
        value = function(*(leaf.clone() for leaf in leaves.values()), *copy.deepcopy(fixed))
    except RuntimeError as error:
        if "numpy()" in str(error):
            raise Wrong("no gradient passes through NumPy: compute with PyTorch.") from None
        raise
    if not isinstance(value, Tensor):
        kind = type(value).__name__
        raise Wrong(f"no gradient passes through {kind}: compute with PyTorch.")
    if not value.requires_grad:
        raise Wrong("no gradient comes out: what detaches the result?")
    found = torch.autograd.grad(value.sum(), [*leaves.values()], allow_unused=True)
    for name, gradient in zip(leaves, found, strict=True):
        if gradient is None:
            raise Wrong(f"no gradient reaches `{name}`.")
    return list(found)
