"""Devices, seeds, threads, and what importing the package costs."""

import io
import os
import random
import subprocess
import sys

import numpy as np
import pyro
import pytest
import torch
from joblib.externals.loky.backend import context

from course_utils.runtime import (
    MOST_THREADS,
    available_cores,
    get_device,
    present_devices,
    seed_everything,
    set_threads,
)


def python(code: str, **environment: str) -> str:
    """What a fresh interpreter prints."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("OMP_")} | environment
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout


def test_importing_the_package_loads_no_library():
    heavy = "{'torch', 'numpy', 'pyro', 'matplotlib', 'sklearn'}"
    assert python(f"import sys, course_utils; print({heavy} & set(sys.modules))") == "set()\n"
    assert python("import sys, course_utils.data; print('torch' in sys.modules)") == "False\n"


def test_importing_the_package_sets_the_wait_policy_but_respects_the_users():
    code = "import course_utils, os; print(os.environ['OMP_WAIT_POLICY'])"
    assert python(code) == "PASSIVE\n"
    assert python(code, OMP_WAIT_POLICY="ACTIVE") == "ACTIVE\n"


def test_auto_device_is_the_first_present_one():
    assert str(get_device()) == str(get_device("auto")) == present_devices()[0]
    assert present_devices()[-1] == "cpu"
    assert torch.zeros(1, device=get_device()).isfinite()


def test_auto_prefers_cuda_then_mps(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert get_device() == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert get_device() == torch.device("cuda:0")
    assert get_device("cuda") == torch.device("cuda")
    assert get_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ValueError, match="cuda:2.*cuda:0.*cuda:1.*mps.*cpu"):
        get_device("cuda:2")


@pytest.mark.parametrize("absent", ["cuda:99", "xpu", "", "gpu", "CPU"])
def test_an_absent_device_names_those_present(absent):
    with pytest.raises(ValueError, match="not present.*'cpu'"):
        get_device(absent)


def test_seed_reaches_every_generator():
    def draw():
        return (
            random.random(),
            np.random.rand(),  # noqa: NPY002 - the generator under test
            torch.rand(1).item(),
            pyro.sample("x", pyro.distributions.Normal(0.0, 1.0)).item(),
        )

    seed_everything(7)
    first = draw()
    seed_everything(7)
    assert draw() == first
    seed_everything(8)
    assert all(a != b for a, b in zip(draw(), first, strict=True))
    seed_everything(np.int64(7))
    assert draw() == first


@pytest.mark.parametrize("bad", [-1, 2**32, 1.5, "0", None])
def test_bad_seed(bad):
    with pytest.raises(ValueError, match="between 0 and"):
        seed_everything(bad)


THREADS = "from course_utils.runtime import set_threads; print(set_threads())"


def test_threads_follow_affinity():
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system has no CPU affinity")
    one_core = f"import os; os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}}); {THREADS}"
    assert python(one_core) == "1\n"


def test_threads_follow_the_containers_limit(monkeypatch):
    limit = "/sys/fs/cgroup/cpu.max"
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(context, "_cpu_count_affinity", lambda cores: cores)
    monkeypatch.setattr(context.os.path, "exists", lambda path: path == limit)
    before = torch.get_num_threads()
    for quota, cores in (("250000", 3), ("100000", 1), ("max", 8)):
        text = f"{quota} 100000\n"
        monkeypatch.setattr(context, "open", lambda path, t=text: io.StringIO(t), raising=False)
        assert available_cores() == cores
        assert set_threads() == min(cores, MOST_THREADS)
    set_threads(before)


def test_threads_follow_the_users_variable_and_have_a_limit():
    assert python(THREADS, OMP_NUM_THREADS="3") == "3\n"
    assert python(THREADS, OMP_NUM_THREADS="many") == f"{min(available_cores(), MOST_THREADS)}\n"
    assert int(python(THREADS)) == min(available_cores(), MOST_THREADS)


def test_set_threads():
    before = torch.get_num_threads()
    assert set_threads(1) == torch.get_num_threads() == 1
    with pytest.raises(ValueError, match="positive"):
        set_threads(0)
    set_threads(before)
