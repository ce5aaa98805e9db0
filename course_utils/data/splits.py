"""Random splits that keep equal rows on one side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from course_utils.validation import as_array, is_number, is_whole, require

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


class Split(NamedTuple):
    """Row indices (int64), each sorted."""

    train: Tensor
    validation: Tensor
    test: Tensor


def duplicate_groups(x: Tensor | np.ndarray) -> Tensor:
    """Give equal rows the same label.

    Args:
        x: Rows ``(n, d)``.

    Returns:
        Labels ``(n,)``, int64; two rows share a label exactly if they are equal.

    Raises:
        ValueError: If x is not two-dimensional or not finite.

    Example:
        >>> duplicate_groups([[1, 2], [0, 0], [1, 2]])
        tensor([1, 0, 1])
    """
    import numpy as np
    import torch

    rows = as_array(x, "x")
    numeric = rows.ndim == 2 and rows.shape[1] > 0 and rows.dtype.kind in "biuf"
    require(numeric and np.isfinite(rows).all(), "x", "a finite array of shape (n, d)", rows)
    _, label = np.unique(rows, axis=0, return_inverse=True)
    return torch.from_numpy(label.reshape(-1).astype(np.int64))


def split_indices(
    n: int,
    *,
    fractions: Sequence[float] = (0.7, 0.15, 0.15),
    groups: Tensor | np.ndarray | None = None,
    stratify: Tensor | np.ndarray | None = None,
    seed: int,
) -> Split:
    """Split n rows at random into training, validation and test rows.

    Args:
        n: Number of rows.
        fractions: Of training, validation and test; non-negative, sum 1. With ``groups`` they are
            fractions of the groups.
        groups: Labels ``(n,)``; rows with the same label stay on one side.
        stratify: Labels ``(n,)``; each side gets about the same share of every label. With
            ``groups``, a group counts with the label of its first row.
        seed: Of the split; the same seed gives the same split.

    Returns:
        Three index tensors, disjoint, together all of 0 … n - 1.

    Raises:
        ValueError: If fractions, lengths or labels do not allow such a split.

    Source:
        scikit-learn's ``train_test_split`` on the groups, first for the test rows, then for the
        validation rows.

    Example:
        >>> [len(part) for part in split_indices(100, seed=0)]
        [70, 15, 15]
    """
    import numpy as np
    import torch

    require(is_whole(n, 1), "n", "a positive integer", n)
    require(is_whole(seed, 0, 2**32 - 1), "seed", "an integer between 0 and 2**32 - 1", seed)
    three = isinstance(fractions, Sequence) and len(fractions) == 3
    shares = three and all(is_number(fraction, 0) for fraction in fractions)
    whole = shares and math.isclose(sum(fractions), 1)
    require(whole, "fractions", "three non-negative numbers of sum 1", fractions)
    group = np.arange(n) if groups is None else as_array(groups, "groups")
    label = None if stratify is None else as_array(stratify, "stratify")
    for name, labels in (("groups", group), ("stratify", label)):
        if labels is not None and labels.shape != (n,):
            raise ValueError(f"{name} must have shape ({n},), not {labels.shape}")
        known = labels is None or not (labels != labels).any()  # only NaN differs from itself
        require(known, name, "labels without NaN", labels)
    _, first, member = np.unique(group, return_index=True, return_inverse=True)
    label = None if label is None else label[first]
    sizes = [round(fraction * len(first)) for fraction in fractions[1:]]
    rest, parts = np.arange(len(first)), []
    for size in reversed(sizes):
        rest, part = _take(rest, size, label, seed)
        parts.append(part)
    test, validation = parts
    sides = (np.flatnonzero(np.isin(member, part)) for part in (rest, validation, test))
    return Split(*(torch.from_numpy(side.astype(np.int64)) for side in sides))


def _take(
    rows: np.ndarray, size: int, label: np.ndarray | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Move ``size`` of the rows to the other side: what stays, what goes."""
    from sklearn.model_selection import train_test_split

    if size == 0 or size == len(rows):
        return (rows, rows[:0]) if size == 0 else (rows[:0], rows)
    labels = None if label is None else label[rows]
    try:
        return tuple(train_test_split(rows, test_size=size, stratify=labels, random_state=seed))
    except ValueError as error:
        raise ValueError(f"stratify must leave every label on every side: {error}") from error
