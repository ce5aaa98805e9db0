"""Devices, seeds, threads, and what importing the package costs."""

import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from course_utils import runtime
from tests.bad_input import JUNK, NO_COUNT, NO_SEED, refusals

test_a_bad_argument_is_refused_by_name = refusals(
    (runtime.seed_everything, {"seed": 0}, {"seed": [*NO_SEED, 2**32, 2**64]}),
    (runtime.set_threads, {"n": 1}, {"n": [*NO_COUNT[1:], 10**6, -(2**63)]}),
)


@pytest.fixture(autouse=True)
def same_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def python(code: str, **environment: str) -> str:
    """What a fresh interpreter prints."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("OMP_")} | environment
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout


def test_importing_the_package_loads_no_library():
    heavy = "{'torch', 'numpy', 'pyro', 'matplotlib', 'sklearn'}"
    code = f"import sys, course_utils, course_utils.validation; print({heavy} & set(sys.modules))"
    later = "; import course_utils.data, course_utils.runtime; print('torch' in sys.modules)"
    assert python(code + later).split() == ["set()", "False"]


def test_importing_the_package_sets_the_wait_policy_but_respects_the_users():
    code = "import course_utils, os; print(os.environ['OMP_WAIT_POLICY'])"
    assert python(code) == "PASSIVE\n"
    assert python(code, OMP_WAIT_POLICY="ACTIVE") == "ACTIVE\n"


def test_auto_prefers_cuda_then_mps_and_an_absent_device_names_those_present(monkeypatch):
    present = runtime.present_devices()
    assert str(runtime.get_device()) == present[0] and present[-1] == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert runtime.get_device() == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert runtime.get_device() == torch.device("cuda:0")
    for name in ("cuda", "cuda:1"):
        assert runtime.get_device(name) == torch.device(name)
    for absent in ("cuda:2", "cuda:-1", "cpu:0", "meta", "", "CPU", "cpu\n", *JUNK, ["cpu"]):
        with pytest.raises(ValueError, match="not present.*cuda:0.*cuda:1.*mps.*cpu"):
            runtime.get_device(absent)


def test_seed_reaches_every_generator():
    def draw():
        return [random.random(), np.random.rand(), torch.rand(1).item()]  # noqa: NPY002 - under test

    runtime.seed_everything(7)
    first = draw()
    runtime.seed_everything(8)
    assert all(a != b for a, b in zip(draw(), first, strict=True))
    for seven in (7, np.int64(7)):
        runtime.seed_everything(seven)
        assert draw() == first


def test_cores_follow_affinity():
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system has no CPU affinity")
    one_core = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"
    code = "; from course_utils.runtime import available_cores; print(available_cores())"
    assert python(one_core + code) == "1\n"


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (3, 3), (64, runtime.MOST_THREADS)])
def test_threads_follow_the_cores(cores, threads, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(runtime, "available_cores", lambda: cores)
    assert runtime.set_threads() == torch.get_num_threads() == threads


@pytest.mark.parametrize("asked", ["3", "", "0", "-1", "many", "²", "1e3", "4,2", "9" * 30])
def test_threads_follow_the_users_variable_unless_it_is_nonsense(asked, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    usual = min(runtime.available_cores(), runtime.MOST_THREADS)
    assert runtime.set_threads() == torch.get_num_threads() == (3 if asked == "3" else usual)
