"""Data of the course: bundled, downloaded on request or simulated, and splits without twins."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from course_utils.validation import as_array, is_number, is_whole, require

if TYPE_CHECKING:
    from torch import Tensor

DATA_DIR = Path(__file__).resolve().parents[1] / "data"


class Source(NamedTuple):
    """Where a file comes from and what it must hash to."""

    url: str
    sha256: str
    bundled: bool


SOURCES = {
    "winequality-red.csv": Source(
        "https://doi.org/10.24432/C56S3T",
        "34a629542e4b23f86998e887f068b66eef4c797d2d48a1a3b46c6bfebd7e06e4",
        bundled=True,
    ),
    "winequality-white.csv": Source(
        "https://archive.ics.uci.edu/ml/machine-learning-databases/wine-quality/winequality-white.csv",
        "76c3f809815c17c07212622f776311faeb31e87610d52c26d87d6e361b169836",
        bundled=False,
    ),
    "mnist-20000.npz": Source(
        "http://yann.lecun.com/exdb/mnist/",
        "97aa4d15d1e3c1090729aba049f07b9e8251e87d0fe12984cc9990f083a8988a",
        bundled=True,
    ),
    "mnist.npz": Source(
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz",
        "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1",
        bundled=False,
    ),
}

WINE_FEATURES = {
    "fixed acidity": "g/L tartaric acid",
    "volatile acidity": "g/L acetic acid",
    "citric acid": "g/L",
    "residual sugar": "g/L",
    "chlorides": "g/L sodium chloride",
    "free sulfur dioxide": "mg/L",
    "total sulfur dioxide": "mg/L",
    "density": "g/mL",
    "pH": "pH units",
    "sulphates": "g/L potassium sulphate",
    "alcohol": "% by volume",
}


class WineQuality(NamedTuple):
    """x (n, 11) in ``units``; y (n,) in quality points; one name and one unit per feature."""

    x: Tensor
    y: Tensor
    feature_names: tuple[str, ...]
    units: tuple[str, ...]


class Mnist(NamedTuple):
    """Images x (n, 784), float32 grey values in [0, 1]; digits y (n,), int64 in 0 … 9."""

    x_train: Tensor
    y_train: Tensor
    x_val: Tensor
    y_val: Tensor
    x_test: Tensor
    y_test: Tensor


class TwoMoons(NamedTuple):
    """Points x (n, 2), float32; moon (n,), int64: 0 is the upper half circle, 1 the lower."""

    x: Tensor
    moon: Tensor


class Split(NamedTuple):
    """Row indices (int64), each sorted."""

    train: Tensor
    validation: Tensor
    test: Tensor


def _tensor(values: np.ndarray) -> Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(values))


def cache_dir() -> Path:
    """Folder of downloaded files: ``COURSE_DATA_DIR``, or the user's cache when that is not set."""
    import pooch

    return Path(
        os.environ.get("COURSE_DATA_DIR") or pooch.os_cache("bayesian-deep-learning-course")
    )


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def locate(name: str) -> Path:
    """Find a data file and check its hash; download it when it is not a bundled one.

    Args:
        name: A key of ``SOURCES``.

    Returns:
        The path of a file whose SHA-256 is the one in ``SOURCES``.

    Raises:
        FileNotFoundError: If a bundled file is missing, or a download fails (nothing stays behind).
        ValueError: If the name is unknown, or the file was altered. An altered download is
            removed, a bundled file is not.
    """
    require(isinstance(name, str) and name in SOURCES, "name", f"one of {[*SOURCES]}", name)
    source = SOURCES[name]
    path = (DATA_DIR if source.bundled else cache_dir()) / name
    if not os.path.isfile(path):  # unlike Path.is_file, false also for a path that cannot exist
        if source.bundled:
            raise FileNotFoundError(
                f"{path} is missing. It belongs to the course (source: {source.url}). "
                f"Remedy: git checkout -- data/{name}"
            )
        _download(source, path)
    found = sha256(path)
    if found != source.sha256:
        if source.bundled:
            remedy = f"git checkout -- data/{name}"
        else:
            with contextlib.suppress(OSError):  # gone already, or not ours to remove
                path.unlink()
            removed = "remove the file" if path.exists() else "the file has been removed"
            remedy = f"{removed}; call again to download it"
        raise ValueError(
            f"{path} was altered: expected SHA-256 {source.sha256}, found {found}. Remedy: {remedy}"
        )
    return path


def _download(source: Source, path: Path) -> None:
    """Download beside ``path``; the file takes that name only when its hash is right."""
    import pooch

    try:
        pooch.retrieve(
            source.url, f"sha256:{source.sha256}", path.name, path.parent, progressbar=True
        )
    except ValueError as error:  # pooch's message names the expected and the found hash
        raise ValueError(
            f"{source.url} delivered something else: {error} Nothing was kept. "
            f"Remedy: try again later, or put the right file at {path}"
        ) from error
    except (OSError, RuntimeError) as error:  # no network, permission or space; a loop of links
        raise FileNotFoundError(
            f"{path} is missing and could not be downloaded from {source.url} "
            f"({type(error).__name__}: {error}). Remedy: connect and call again, or put the file "
            "there by hand; the environment variable COURSE_DATA_DIR chooses another folder"
        ) from error


def load_wine_quality(colour: str = "red") -> WineQuality:
    """Load the Wine Quality data: measurements of Portuguese vinho verde and a taster's score.

    Args:
        colour: ``"red"`` (1,599 wines, bundled) or ``"white"`` (4,898 wines, downloaded).

    Returns:
        x ``(n, 11)`` in the units of ``WINE_FEATURES`` and y ``(n,)`` in quality points, the median
        score of at least three tasters between 0 and 10; both float64.

    Raises:
        ValueError: If ``colour`` is neither, or the file was altered.
        FileNotFoundError: If the file is missing and cannot be downloaded.

    Source:
        Cortez et al. (2009), Modeling wine preferences by data mining from physicochemical
        properties, doi:10.1016/j.dss.2009.05.016. UCI, doi:10.24432/C56S3T, CC BY 4.0.

    Example:
        >>> load_wine_quality("red").x.shape
        torch.Size([1599, 11])
    """
    known = isinstance(colour, str) and colour in ("red", "white")
    require(known, "colour", '"red" or "white"', colour)
    table = np.loadtxt(locate(f"winequality-{colour}.csv"), delimiter=";", skiprows=1)
    names, units = tuple(WINE_FEATURES), tuple(WINE_FEATURES.values())
    return WineQuality(_tensor(table[:, :-1]), _tensor(table[:, -1]), names, units)


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
        return _tensor(parts[f"x_{part}"].reshape(-1, 784).astype(np.float32) / 255)

    def digits(part: str) -> Tensor:
        return _tensor(parts[f"y_{part}"].astype(np.int64))

    return Mnist(*(load(part) for part in ("train", "val", "test") for load in (images, digits)))


def make_two_moons(n: int, *, noise: float, seed: int) -> TwoMoons:
    """Draw independent points from two interleaved half circles with Gaussian noise.

    Each point picks a moon at random, an angle t uniform on [0, π], and adds noise to
    (cos t, sin t) or to (1 - cos t, 1/2 - sin t). scikit-learn's ``make_moons`` has the same curves
    but spaces the angles evenly, so that its points are not independent.

    Args:
        n: Number of points.
        noise: Standard deviation of the noise on each coordinate.
        seed: Seed of NumPy's generator.

    Returns:
        Points ``(n, 2)``, without unit, and the moon of each ``(n,)``.

    Raises:
        ValueError: If ``n`` or ``noise`` is not positive, or the seed negative.

    Example:
        >>> make_two_moons(5, noise=0.05, seed=0).x.shape
        torch.Size([5, 2])
    """
    require(is_whole(n, 1), "n", "a positive integer", n)
    require(is_number(noise, 0) and noise > 0, "noise", "a positive finite number", noise)
    require(is_whole(seed, 0), "seed", "a non-negative integer", seed)
    rng = np.random.default_rng(seed)
    moon = rng.integers(0, 2, size=n)
    angle = rng.uniform(0, np.pi, size=n)
    upper, lower = _half_circles(angle)
    x = np.where(moon[:, None] == 0, upper, lower) + rng.normal(0, noise, size=(n, 2))
    return TwoMoons(_tensor(x.astype(np.float32)), _tensor(moon))


def _half_circles(angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points of the upper and of the lower moon without noise, each (n, 2)."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([cos, sin], -1), np.stack([1 - cos, 0.5 - sin], -1)


def two_moons_log_prob(x: Tensor, *, noise: float) -> Tensor:
    """Compute the exact log density that ``make_two_moons`` draws from.

    p(x) is the mean over both moons and over the angle t, uniform on [0, π], of
    N(x; c(t), noise² I). The integral is a Gauss–Legendre sum in float64 with nodes a third of
    the noise apart or closer.

    Args:
        x: Points ``(n, 2)``.
        noise: Standard deviation of the noise on each coordinate, at least 0.005.

    Returns:
        Log density ``(n,)`` in nats, of x's dtype and on x's device.

    Raises:
        ValueError: If x is not ``(n, 2)``, not floating-point or holds NaN, or noise is not
            between 0.005 and a million.

    Example:
        >>> import torch
        >>> two_moons_log_prob(torch.tensor([[0.0, 1.0]]), noise=0.05).round(decimals=3)
        tensor([0.2390])
    """
    import torch

    floating = isinstance(x, torch.Tensor) and x.is_floating_point() and not x.is_meta
    shaped = floating and x.ndim == 2 and x.shape[1] == 2
    require(shaped and not x.isnan().any(), "x", "floats of shape (n, 2) without NaN", x)
    require(is_number(noise, 0.005, 1e6), "noise", "a number from 0.005 to a million", noise)
    node, weight = np.polynomial.legendre.leggauss(max(64, math.ceil(3 * math.pi / noise)))
    centres = torch.as_tensor(np.concatenate(_half_circles(np.pi * (node + 1) / 2)))  # (2t, 2)
    log_weight = torch.as_tensor(np.log(np.tile(weight, 2) / 4))  # weights sum to 2, two moons
    centres, log_weight = centres.to(x.device), log_weight.to(x.device)
    log_normaliser = math.log(2 * math.pi * noise**2)
    log_p = x.new_empty(len(x))
    for start in range(0, len(x), 1024):  # in place: a list of small results scatters over the heap
        rows = x[start : start + 1024].double()
        square = torch.cdist(rows, centres, compute_mode="donot_use_mm_for_euclid_dist").square()
        exponent = log_weight - square / (2 * noise**2)  # (1024, 2t)
        log_p[start : start + 1024] = exponent.logsumexp(-1) - log_normaliser
    return log_p


def duplicate_groups(x: Tensor | np.ndarray) -> Tensor:
    """Give equal rows the same label.

    Args:
        x: Rows ``(n, d)``.

    Returns:
        Labels ``(n,)``, int64; two rows share a label exactly if they are equal.

    Raises:
        ValueError: If x is not two-dimensional or not finite.

    Example:
        >>> duplicate_groups(np.array([[1, 2], [0, 0], [1, 2]]))
        tensor([1, 0, 1])
    """
    rows = as_array(x, "x")
    numeric = rows.ndim == 2 and rows.shape[1] > 0 and rows.dtype.kind in "biuf"
    require(numeric and np.isfinite(rows).all(), "x", "a finite array of shape (n, d)", rows)
    _, label = np.unique(rows, axis=0, return_inverse=True)
    return _tensor(label.reshape(-1).astype(np.int64))


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
    return Split(*(_tensor(side.astype(np.int64)) for side in sides))


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
