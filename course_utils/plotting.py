"""Colours, style and the plots that several notebooks share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython import get_ipython
from matplotlib.axes import Axes
from torch import Tensor

from course_utils.metrics import central_interval, coverage
from course_utils.validation import as_array, is_number, is_whole, require, require_numbers

# Okabe and Ito (2008), Color universal design: told apart with every kind of colour vision.
PALETTE = {
    "blue": "#0072B2",
    "orange": "#D55E00",
    "green": "#009E73",
    "pink": "#CC79A7",
    "sky": "#56B4E9",
    "yellow": "#E69F00",
    "black": "#000000",
    "grey": "#767676",
}


def use_course_style() -> None:
    """Set the style of every later figure: readable from the last row, colour-safe.

    In a notebook figures are shown in it, whatever a user's own settings say.
    """
    shell = get_ipython()
    if hasattr(shell, "kernel"):
        shell.run_line_magic("matplotlib", "inline")
    plt.rcdefaults()
    plt.rcParams.update(
        {
            "figure.figsize": (8, 4),
            "figure.dpi": 100,
            "figure.constrained_layout.use": True,
            "font.size": 12,
            "axes.grid": True,
            "axes.prop_cycle": plt.cycler(color=list(PALETTE.values())),
            "axes.axisbelow": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "grid.alpha": 0.3,
            "image.cmap": "viridis",
            "legend.frameon": False,
            "lines.linewidth": 2,
        }
    )


def plot_loss(
    curves: Mapping[str, Sequence[float]],
    *,
    xlabel: str,
    ylabel: str,
    floor: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw one labelled curve per entry.

    Args:
        curves: Label and values, one value per step or epoch; NaN leaves a gap.
        xlabel: What one value is, e.g. ``"step"``.
        ylabel: Quantity and unit, e.g. ``"ELBO (nats per wine)"``.
        floor: The best possible value, drawn as a dashed line.
        ax: Axes to draw on; the current Axes when None.

    Returns:
        The Axes drawn on.

    Raises:
        ValueError: If there is no curve, or a value or ``floor`` is not a number.
    """
    named = isinstance(curves, Mapping) and len(curves)
    require(named, "curves", "a mapping from labels to values, at least one", curves)
    lines = {label: as_array(values, f"curves[{label!r}]") for label, values in curves.items()}
    for label, line in lines.items():
        numeric = line.ndim == 1 and line.size and line.dtype.kind in "biuf"
        require(numeric, f"curves[{label!r}]", "a sequence of numbers", line)
    require(floor is None or is_number(floor), "floor", "a finite number or None", floor)
    ax = plt.gca() if ax is None else ax
    for label, values in lines.items():
        ax.plot(range(1, len(values) + 1), values, label=label)
    if floor is not None:
        ax.axhline(floor, color=PALETTE["black"], linestyle="--", label="best possible")
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.legend()
    return ax


def plot_intervals(
    observed: Tensor, draws: Tensor, *, unit: str, mass: float = 0.9, ax: Axes | None = None
) -> Axes:
    """Draw central predictive intervals against observed targets.

    Args:
        observed: Targets ``(n,)``, in ``unit``.
        draws: Predictive draws ``(s, n)``, in ``unit``.
        unit: Printed on the axis, e.g. ``"quality points"``.
        mass: Probability inside each interval, between 0 and 1.
        ax: Axes to draw on; the current Axes when None.

    Returns:
        The Axes drawn on; the targets are sorted by their predictive mean.

    Raises:
        ValueError: If ``draws`` is not ``(s, n)`` or ``mass`` not between 0 and 1.
    """
    inside = coverage(observed, draws, mass=mass)
    observed, draws = observed.detach().cpu(), draws.detach().cpu()
    ax = plt.gca() if ax is None else ax
    order = draws.mean(0).argsort()
    lower, upper = (end[order].numpy() for end in central_interval(draws, mass=mass))
    rank = np.arange(1, len(order) + 1)
    ax.vlines(rank, lower, upper, color=PALETTE["sky"], label=f"{mass:.0%} interval")
    ax.plot(rank, draws.mean(0)[order], color=PALETTE["blue"], label="predictive mean")
    ax.plot(rank, observed[order], ".", color=PALETTE["orange"], label="observed")
    ax.set(xlabel="rank of the predictive mean", ylabel=unit, title=f"{inside:.0%} lie inside")
    ax.legend(ncols=3, loc="upper left", fontsize="small", columnspacing=1, handlelength=1)
    return ax


def plot_calibration(observed: Tensor, draws: Tensor, *, ax: Axes | None = None) -> Axes:
    """Draw the share of targets inside central intervals against the mass of the intervals.

    Args:
        observed: Targets ``(n,)``.
        draws: Predictive draws ``(s, n)``.
        ax: Axes to draw on; the current Axes when None.

    Returns:
        The Axes drawn on.

    Raises:
        ValueError: If ``draws`` is not ``(s, n)``.
    """
    masses = np.linspace(0.05, 0.95, 19)
    inside = [coverage(observed, draws, mass=mass) for mass in masses]
    ax = plt.gca() if ax is None else ax
    ax.plot([0, 1], [0, 1], "--", color=PALETTE["black"], label="calibrated")
    ax.plot(masses, inside, "o-", color=PALETTE["blue"], label="model")
    ax.set(xlabel="mass of the interval", ylabel="share of targets inside", aspect="equal")
    ax.legend()
    return ax


def plot_images(images: Tensor, *, rows: int, ax: Axes | None = None) -> Axes:
    """Draw square grey images as one mosaic, row by row.

    Args:
        images: Images ``(n, side * side)`` with values in [0, 1]; 0 is drawn white.
        rows: Number of rows of the mosaic; the last row may be incomplete.
        ax: Axes to draw on; the current Axes when None.

    Returns:
        The Axes drawn on.

    Raises:
        ValueError: If the images are not square, not in [0, 1] or there are none, or ``rows`` is
            not between 1 and their number.
    """
    require_numbers(images=images)
    side = math.isqrt(images.shape[-1]) if images.ndim == 2 else 0
    require(side and side**2 == images.shape[1], "images", "of shape (n, side * side)", images)
    require(((images >= 0) & (images <= 1)).all(), "images", "in [0, 1] throughout", images)
    require(is_whole(rows, 1, len(images)), "rows", f"between 1 and {len(images)}", rows)
    columns = -(-len(images) // rows)
    mosaic = torch.zeros(rows * columns, side, side)
    mosaic[: len(images)] = images.detach().cpu().reshape(-1, side, side)
    mosaic = mosaic.reshape(rows, columns, side, side).swapaxes(1, 2).reshape(rows * side, -1)
    ax = plt.gca() if ax is None else ax
    ax.imshow(mosaic.numpy(), cmap="gray_r", vmin=0, vmax=1)
    ax.set_axis_off()
    return ax


def plot_density(
    log_prob: Callable[[Tensor], Tensor],
    *,
    extent: tuple[float, float, float, float],
    points: int = 200,
    vmax: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a two-dimensional density as a heat map, the right way up.

    Args:
        log_prob: Maps points ``(n, 2)`` to log densities ``(n,)`` in nats.
        extent: Left, right, bottom and top of the picture.
        points: Grid points along each axis.
        vmax: Density of the brightest colour; the largest on the grid when None.
        ax: Axes to draw on; the current Axes when None.

    Returns:
        The Axes drawn on; its image is ``ax.images[-1]``, for a colour bar.

    Raises:
        ValueError: If an argument is out of range, or ``log_prob`` returns something else.
    """
    require(callable(log_prob), "log_prob", "a function of points (n, 2)", log_prob)
    four = isinstance(extent, Sequence) and len(extent) == 4
    four = four and all(is_number(end, -1e30, 1e30) for end in extent)  # of 32 bits
    ordered = four and extent[0] < extent[1] and extent[2] < extent[3]
    require(ordered, "extent", "(left, right, bottom, top), left < right, bottom < top", extent)
    require(is_whole(points, 2, 2000), "points", "an integer between 2 and 2000", points)
    require(vmax is None or (is_number(vmax) and vmax > 0), "vmax", "positive or None", vmax)
    left, right, bottom, top = extent
    x1, x2 = torch.linspace(left, right, points), torch.linspace(bottom, top, points)
    grid = torch.cartesian_prod(x1, x2)  # (points * points, 2), x2 runs fastest
    with torch.no_grad():
        log_p = log_prob(grid)
    one_each = isinstance(log_p, Tensor) and log_p.shape == (points**2,)
    require(one_each, "log_prob", f"a function that returns shape ({points**2},)", log_p)
    density = log_p.exp().cpu().reshape(points, points).T  # rows are x2
    require(density.isfinite().all(), "log_prob", "free of NaN and infinite densities", log_p)
    ax = plt.gca() if ax is None else ax
    ax.imshow(density.numpy(), origin="lower", extent=extent, vmin=0, vmax=vmax)
    ax.set(xlabel="$x_1$", ylabel="$x_2$")
    ax.grid(False)
    return ax
