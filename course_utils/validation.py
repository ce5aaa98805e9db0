"""Validators of arguments: NAME must be WHAT WAS EXPECTED, not WHAT CAME."""

from __future__ import annotations

import math
import numbers
import reprlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


def require(fine: bool, name: str, expected: str, got: Any) -> None:
    """Refuse an argument in the same words everywhere.

    Args:
        fine: Whether the argument is as it should be.
        name: Of the argument.
        expected: Completes "NAME must be …".
        got: What came; an array is described by its type and shape.

    Raises:
        ValueError: If it is not fine.
    """
    if not fine:
        came = reprlib.repr(got)
        if hasattr(got, "shape") and hasattr(got, "dtype"):
            came = f"{type(got).__name__} of {got.dtype} and shape {tuple(got.shape)}"
        raise ValueError(f"{name} must be {expected}, not {came}")


def is_whole(value: Any, low: int, high: float = math.inf) -> bool:
    """Whether this is an integer (NumPy's, too, but no truth value) between two bounds."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return whole and low <= value <= high


def is_number(value: Any, low: float = -math.inf, high: float = math.inf) -> bool:
    """Whether this is a finite real number (no truth value) between two bounds."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return real and math.isfinite(value) and low <= value <= high


def as_array(values: Any, name: str) -> np.ndarray:
    """Turn a tensor, an array or a sequence into an array.

    Args:
        values: With or without gradient, on any device.
        name: Of the argument.

    Returns:
        A NumPy array of the same shape.

    Raises:
        ValueError: If that is impossible.
    """
    import numpy as np

    try:
        return values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:  # sparse, ragged, without values
        raise ValueError(f"{name} must be a tensor, an array or a sequence: {error}") from error


def require_numbers(**tensors: Tensor) -> None:
    """Refuse what is not a floating-point tensor with finite entries, all on one device.

    Args:
        tensors: Arguments by name.

    Raises:
        ValueError: If one is something else, or has no entries.
    """
    import torch

    device = None
    for name, tensor in tensors.items():
        floating = isinstance(tensor, torch.Tensor) and tensor.is_floating_point()
        require(floating and tensor.numel(), name, "a floating-point tensor with entries", tensor)
        device = device or tensor.device
        require(tensor.device == device, name, f"on the device {device}", tensor.device)
        finite = not tensor.is_meta and tensor.isfinite().all()
        require(finite, name, "finite throughout, without NaN and infinity", tensor)
