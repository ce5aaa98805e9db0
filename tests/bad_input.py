"""Families of values that no argument should take, and what it means to refuse one."""

import math
import random
import re
from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

NAN, INF = math.nan, math.inf
META = torch.device("meta")  # a second device that every machine has; its tensors hold no values
JUNK = [None, "0.5", b"0.5", [0.5], {}, 1j, object()]
NO_NUMBER = [*JUNK, NAN, INF, -INF, True]
NO_COUNT = [*NO_NUMBER, -1, 0, 2.5, np.float64(2)]
NO_SEED = [*NO_NUMBER, -1, 0.5, torch.tensor(0)]

SHORT = st.lists(st.floats(), max_size=4) | st.text(max_size=5) | st.binary(max_size=5)
ANYTHING = st.none() | st.integers(-(10**6), 100) | st.floats() | st.complex_numbers() | SHORT


def no_floats(*shape: int) -> list:
    """What is no tensor of finite floats of this shape."""
    good = torch.full(shape, 0.5)
    last = torch.arange(good.numel()).reshape(shape) == good.numel() - 1
    spoilt = [good.masked_fill(last, value) for value in (NAN, INF, -INF)]
    return [*JUNK, *spoilt, good.long(), good + 1j, good[:0], good.to(META), good.numpy()]


def raising(error: BaseException | type[BaseException]) -> Callable:
    """A function that takes anything and raises this."""

    def function(*args, **kwargs):
        raise error

    return function


def refusals(*table: tuple[Callable, dict, dict[str, list]]) -> Callable:
    """A test of functions, arguments that are fine, and values that they refuse by name."""
    cases = [
        pytest.param(function, fine, name, values, id=f"{function.__name__}-{name}")
        for function, fine, bad in table
        for name, values in bad.items()
    ]

    @pytest.mark.parametrize(("function", "fine", "name", "values"), cases)
    def test(function, fine, name, values):
        function(**fine)
        plt.close("all")
        before = state()
        for value in values:
            assert refuses(function, fine | {name: value}, name), f"{value!r} was accepted"
            assert state() == before, "a refused call changed something"

        @given(ANYTHING)
        @settings(max_examples=15, deadline=None)
        def uses_or_refuses(value):
            refuses(function, fine | {name: value}, name)

        uses_or_refuses()
        torch.set_num_threads(before[0])

    return test


def refuses(function: Callable, arguments: dict, name: str) -> bool:
    """Whether a call is refused; the message is about the argument, and no dump of the data."""
    try:
        function(**arguments)
    except ValueError as error:
        fits = re.search(rf"(?<!\w){name}\b.* must\b", str(error)) and len(str(error)) < 500
        assert fits, f"{name}: {error}"
        return True
    return False


def state() -> list:
    """What a refused call must not change: threads, figures, generators."""
    artists = [len(ax.get_children()) for n in plt.get_fignums() for ax in plt.figure(n).axes]
    numbers = np.random.get_state()[1].tolist()  # noqa: NPY002 - the generator that may change
    seeds = [random.getstate(), numbers, torch.get_rng_state().tolist()]
    return [torch.get_num_threads(), plt.get_fignums(), artists, seeds]
