"""Handwritten digits: a bundled part of MNIST, and all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from course_utils.data.files import locate
from course_utils.data.splits import split_indices
from course_utils.validation import require

if TYPE_CHECKING:
    from torch import Tensor


class Mnist(NamedTuple):
    """Images x (n, 784), float32 grey values in [0, 1]; digits y (n,), int64 in 0 … 9."""

    x_train: Tensor
    y_train: Tensor
    x_val: Tensor
    y_val: Tensor
    x_test: Tensor
    y_test: Tensor


def load_mnist(full: bool = False) -> Mnist:
    """Load handwritten digits in three fixed, stratified parts.

    Args:
        full: False for the bundled 16,000, 2,000 and 2,000; True for 50,000, 10,000 and 10,000,
            which downloads all of MNIST (11 MB) once.

    Returns:
        Images ``(n, 784)``, grey values in [0, 1], and digits ``(n,)``. Training and validation
        images come from the official training part, test images from the official test part.

    Raises:
        FileNotFoundError: If the file is missing and cannot be downloaded.
        ValueError: If ``full`` is no truth value, or the file was altered.

    Source:
        LeCun, Cortes and Burges, The MNIST database of handwritten digits, CC BY-SA 3.0.

    Example:
        >>> load_mnist().x_test.shape
        torch.Size([2000, 784])
    """
    import numpy as np
    import torch

    require(isinstance(full, bool), "full", "True or False", full)
    with np.load(locate("mnist.npz" if full else "mnist-20000.npz")) as file:
        parts = {name: file[name] for name in file.files}
    if full:
        split = split_indices(
            60_000, fractions=(5 / 6, 1 / 6, 0), stratify=parts["y_train"], seed=0
        )
        for letter in "xy":
            official = parts[f"{letter}_train"]
            parts[f"{letter}_train"] = official[split.train]
            parts[f"{letter}_val"] = official[split.validation]

    def images(part: str) -> Tensor:
        return torch.from_numpy(parts[f"x_{part}"].reshape(-1, 784).astype(np.float32) / 255)

    def digits(part: str) -> Tensor:
        return torch.from_numpy(parts[f"y_{part}"].astype(np.int64))

    return Mnist(*(load(part) for part in ("train", "val", "test") for load in (images, digits)))
