"""Scores that a notebook has derived before it calls them; draws ``s`` are the leading axis."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from course_utils.validation import is_number, require, require_numbers


def mean_and_error(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard error over the first axis.

    Args:
        values: Repetitions ``(r, ...)`` with r at least 2, for instance one value per seed.

    Returns:
        Mean and standard error, both ``(...)``.

    Raises:
        ValueError: If there are fewer than two repetitions, or they are not finite numbers.

    Example:
        >>> mean_and_error(torch.tensor([1.0, 3.0]))
        (tensor(2.), tensor(1.))
    """
    require_numbers(values=values)
    repeated = values.ndim > 0 and len(values) > 1
    require(repeated, "values", "at least two repetitions along the first axis", values)
    return values.mean(0), values.std(0) / math.sqrt(len(values))


def rmse(observed: Tensor, mean: Tensor) -> float:
    """Root mean squared error of one prediction ``(n,)`` per target ``(n,)``, in their unit.

    Raises:
        ValueError: If the shapes differ (draws must be averaged before), or a number is not finite.
    """
    require_numbers(observed=observed, mean=mean)
    single = f"one prediction per target, of shape {tuple(observed.shape)}"
    require(observed.shape == mean.shape, "mean", single, mean)
    return (observed - mean).square().mean().sqrt().item()


def _check_draws(observed: Tensor, **parts: Tensor) -> None:
    require_numbers(observed=observed, **parts)
    for name, part in parts.items():
        fits = part.ndim == 2 and observed.shape == part.shape[1:]
        require(fits, name, f"draws (s, n) for targets (n,) of shape {tuple(observed.shape)}", part)
        require(name != "scale" or (part > 0).all(), name, "positive throughout", part)


def mixture_log_density(observed: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Log density of targets under an equal mixture of Gaussians, one per draw of the weights.

    Args:
        observed: Targets ``(n,)``.
        mean: Means ``(s, n)``, in the targets' unit.
        scale: Standard deviations ``(s, n)``, in the targets' unit.

    Returns:
        Log mean exp over the draws, ``(n,)``, nats.

    Raises:
        ValueError: If the shapes do not fit, a number is not finite or a scale not positive.
    """
    _check_draws(observed, mean=mean, scale=scale)
    log_prob = torch.distributions.Normal(mean, scale).log_prob(observed)
    return log_prob.logsumexp(0) - math.log(len(mean))


def mixture_crps(observed: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Continuous ranked probability score under an equal mixture of Gaussians.

    Args:
        observed: Targets ``(n,)``.
        mean: Means ``(s, n)``, in the targets' unit.
        scale: Standard deviations ``(s, n)``, in the targets' unit.

    Returns:
        CRPS ``(n,)`` in the targets' unit; smaller is better, the absolute error for a point mass.

    Raises:
        ValueError: If the shapes do not fit, a number is not finite or a scale not positive.

    Source:
        Grimit, Gneiting, Berrocal and Johnson (2006), eq. 5, doi:10.1256/qj.05.235.
    """
    _check_draws(observed, mean=mean, scale=scale)
    spread = torch.stack(  # E|X - X'| has s² terms: one row of them at a time
        [
            _mean_abs(mean - m, (scale.square() + c.square()).sqrt()).mean(0)
            for m, c in zip(mean, scale, strict=True)
        ]
    )
    return _mean_abs(observed - mean, scale).mean(0) - spread.mean(0) / 2


def _mean_abs(mean: Tensor, scale: Tensor) -> Tensor:
    """E|X| of X ~ N(mean, scale²)."""
    ratio = mean / scale
    density = torch.exp(-ratio.square() / 2) * math.sqrt(2 / math.pi)
    return scale * density + mean * torch.erf(ratio / math.sqrt(2))


def central_interval(draws: Tensor, *, mass: float) -> tuple[Tensor, Tensor]:
    """Ends ``(n,)`` of the central interval that holds ``mass`` of the draws ``(s, n)``.

    Raises:
        ValueError: If ``mass`` is not between 0 and 1, or ``draws`` are not finite numbers.
    """
    require_numbers(draws=draws)
    require(is_number(mass) and 0 < mass < 1, "mass", "a number between 0 and 1", mass)
    return draws.quantile((1 - mass) / 2, dim=0), draws.quantile((1 + mass) / 2, dim=0)


def coverage(observed: Tensor, draws: Tensor, *, mass: float) -> float:
    """Share of targets ``(n,)`` inside the central intervals of their predictive draws ``(s, n)``.

    Raises:
        ValueError: If the shapes do not fit or ``mass`` is not between 0 and 1.
    """
    _check_draws(observed, draws=draws)
    lower, upper = central_interval(draws, mass=mass)
    return ((lower <= observed) & (observed <= upper)).double().mean().item()


def pit(observed: Tensor, draws: Tensor) -> Tensor:
    """Probability integral transform: the share of predictive draws ``(s, n)`` below each target.

    Returns:
        Values ``(n,)`` in [0, 1]; uniform if the predictions are calibrated.

    Raises:
        ValueError: If the shapes do not fit.
    """
    _check_draws(observed, draws=draws)
    return (draws < observed).double().mean(0)
