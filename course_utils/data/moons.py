"""Two moons: points, and the exact density that they are drawn from."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from course_utils.validation import is_number, is_whole, require

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


class TwoMoons(NamedTuple):
    """Points x (n, 2), float32; moon (n,), int64: 0 is the upper half circle, 1 the lower."""

    x: Tensor
    moon: Tensor


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
        ValueError: If ``n`` or ``noise`` is not positive, the noise more than a million, or the
            seed negative.

    Example:
        >>> make_two_moons(5, noise=0.05, seed=0).x.shape
        torch.Size([5, 2])
    """
    import numpy as np
    import torch

    require(is_whole(n, 1), "n", "a positive integer", n)
    small = is_number(noise, 0, 1e6) and noise > 0
    require(small, "noise", "a positive number up to a million", noise)
    require(is_whole(seed, 0), "seed", "a non-negative integer", seed)
    rng = np.random.default_rng(seed)
    moon = rng.integers(0, 2, size=n)
    angle = rng.uniform(0, np.pi, size=n)
    upper, lower = _half_circles(angle)
    x = np.where(moon[:, None] == 0, upper, lower) + rng.normal(0, noise, size=(n, 2))
    return TwoMoons(torch.from_numpy(x.astype(np.float32)), torch.from_numpy(moon))


def _half_circles(angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points of the upper and of the lower moon without noise, each (n, 2)."""
    import numpy as np

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
    import numpy as np
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
