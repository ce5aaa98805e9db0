"""Devices, seeds and threads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from course_utils.validation import is_whole, require

if TYPE_CHECKING:
    import torch
    from tqdm import tqdm

# More threads than this only add waiting to networks of the course's size.
MOST_THREADS = 4
THREADS_LIMIT = 1024  # OpenMP would try to start as many as it is told


def present_devices() -> list[str]:
    """Names of the devices that PyTorch can use here, fastest first; the last one is ``"cpu"``."""
    import torch

    cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return [*cuda, *mps, "cpu"]


def get_device(name: str = "auto") -> torch.device:
    """Choose the device to compute on.

    Args:
        name: ``"auto"`` (CUDA, then MPS, then CPU), or a device that must be present, such as
            ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``.

    Returns:
        The device.

    Raises:
        ValueError: If the device is not present; the message names those that are.

    Example:
        >>> get_device("cpu")
        device(type='cpu')
    """
    import torch

    present = present_devices()
    if name == "auto":
        return torch.device(present[0])
    if not isinstance(name, str) or (name not in present and f"{name}:0" not in present):
        raise ValueError(f'device {name!r} is not present; use "auto" or one of {present}')
    return torch.device(name)


def seed_everything(seed: int) -> None:
    """Seed the random generators of Python, NumPy, PyTorch and Pyro.

    Args:
        seed: Between 0 and 2**32 - 1.

    Raises:
        ValueError: If the seed is not an integer in that range.
    """
    require(is_whole(seed, 0, 2**32 - 1), "seed", "an integer between 0 and 2**32 - 1", seed)
    import pyro

    pyro.set_rng_seed(int(seed))  # of Python, NumPy and PyTorch, on every device


def available_cores() -> int:
    """Cores this process may use; CPU affinity and container limits count."""
    from joblib import cpu_count

    return cpu_count()


def set_threads(n: int | None = None) -> int:
    """Set the number of PyTorch's threads.

    Args:
        n: Number of threads; None for ``OMP_NUM_THREADS`` if that is set, else for the available
            cores, at most ``MOST_THREADS``.

    Returns:
        The number that is now in use.

    Raises:
        ValueError: If ``n`` is not a positive integer, or absurdly large.

    Example:
        >>> set_threads(1)
        1
    """
    import os

    import torch

    if n is None:
        asked = os.environ.get("OMP_NUM_THREADS", "")
        usable = asked.isdecimal() and 0 < int(asked) <= THREADS_LIMIT
        n = int(asked) if usable else min(available_cores(), MOST_THREADS)
    require(is_whole(n, 1, THREADS_LIMIT), "n", f"positive, at most {THREADS_LIMIT}", n)
    torch.set_num_threads(int(n))
    return torch.get_num_threads()


def bar(values: Iterable, **options: Any) -> tqdm:
    """Show how far a loop has come; ``set_postfix(loss=...)`` of what it returns shows more.

    Args:
        values: What to loop over.
        options: Of ``tqdm``, such as ``desc`` or ``disable``.

    Returns:
        The same values, on ordinary output: that of errors has the colour of one. A loop inside of
        another takes the same line, so that nothing is left when both are through.
    """
    import sys

    from tqdm import tqdm

    usual = {"file": sys.stdout, "leave": False, "position": 0, "mininterval": 0.5}
    return tqdm(values, **usual | options)
