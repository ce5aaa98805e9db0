"""Plots: what is drawn, not how it looks."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal

from course_utils import plotting
from tests.bad_input import INF, JUNK, META, NAN, NO_COUNT, NO_NUMBER, no_floats, refusals


@pytest.fixture(autouse=True)
def fresh_figure():
    with plt.rc_context():
        plotting.use_course_style()
        yield plt.figure()
        plt.close("all")


def bowl(x):
    return -x.square().sum(-1)


Y, DRAWS, GREY, BOX = torch.ones(3), torch.rand(2, 3), torch.full((4, 9), 0.5), (-1.0, 1, -1, 1)
NO_PAIR = {"observed": no_floats(3), "draws": [*no_floats(2, 3), DRAWS.T]}
NO_CURVE = ["text", None, [], 3.0, ["1", "2"], [[1, 2], [3, 4]], [1, [2]], [1j], Y.to(META)]
NO_CURVES = [None, {}, [], "text", [[1.0, 2.0]], *({"a": [1], "b": curve} for curve in NO_CURVE)]
NO_IMAGES = {"images": [*no_floats(4, 9), GREY + 1, -GREY, GREY[0]], "rows": [*NO_COUNT, 5, 10**9]}
NO_LOG_PROB = [*JUNK, Y, lambda x: None, lambda x: x, lambda x: 0.0, lambda x: bowl(x)[:3]]
NO_LOG_PROB += [lambda x: bowl(x).numpy(), lambda x: bowl(x) * NAN, lambda x: 1e6 + bowl(x)]
NO_EXTENT = [*JUNK, BOX[:3], (*BOX, 0.0), (1, -1, -1, 1), (-1, 1, 0, 0), (-INF, INF, -1, 1)]
NO_DENSITY = {"log_prob": NO_LOG_PROB, "extent": [*NO_EXTENT, (NAN, 1, -1, 1), list("abcd")]}
NO_DENSITY |= {"points": [*NO_COUNT, 1, 10**6], "vmax": [*NO_NUMBER[1:], 0, -1]}
CURVES = {"curves": {"a": [2.0, 1.0]}, "xlabel": "step", "ylabel": "nats"}
PAIR = {"observed": Y, "draws": DRAWS}

test_a_bad_argument_is_refused_by_name = refusals(
    (plotting.plot_loss, CURVES, {"curves": NO_CURVES, "floor": NO_NUMBER[1:]}),
    (plotting.plot_intervals, {**PAIR, "unit": "points"}, {**NO_PAIR, "mass": NO_NUMBER}),
    (plotting.plot_calibration, PAIR, NO_PAIR),
    (plotting.plot_images, {"images": GREY, "rows": 2}, NO_IMAGES),
    (plotting.plot_density, {"log_prob": bowl, "extent": BOX, "points": 5}, NO_DENSITY),
)


def test_every_plot_takes_and_returns_axes_and_labels_them():
    y, draws = torch.randn(20), torch.randn(200, 20)
    for draw in (
        lambda ax: plotting.plot_loss({"train": [3, 2, 1]}, xlabel="step", ylabel="nats", ax=ax),
        lambda ax: plotting.plot_intervals(y, draws, unit="points", ax=ax),
        lambda ax: plotting.plot_calibration(y, draws, ax=ax),
        lambda ax: plotting.plot_density(bowl, extent=(-3, 3, -3, 3), points=20, ax=ax),
    ):
        _, (left, right) = plt.subplots(1, 2)
        assert draw(left) is left and not right.has_data()
        assert left.get_xlabel() and left.get_ylabel()
        assert draw(None) is right  # the current Axes
    ax = plotting.plot_loss({"a": [2.0, 1.0]}, xlabel="step", ylabel="nats", floor=0.5)
    assert ax.lines[-1].get_ydata()[0] == 0.5


def test_intervals_are_central_and_in_the_order_of_the_means():
    mean = torch.tensor([2.0, 0.0, 1.0])
    draws = mean + torch.linspace(-1, 1, 101)[:, None]
    ax = plotting.plot_intervals(mean, draws, unit="points", mass=0.9)
    bars = np.array([path.vertices[:, 1] for path in ax.collections[0].get_paths()])
    assert bars == pytest.approx(np.array([[-0.9, 0.9], [0.1, 1.9], [1.1, 2.9]]), abs=1e-5)
    assert ax.get_title() == "100% lie inside"


def test_calibrated_draws_lie_on_the_diagonal():
    y, draws = (Normal(0.0, 1.0).icdf((torch.arange(n) + 0.5) / n) for n in (500, 200))
    ax = plotting.plot_calibration(y, draws[:, None].expand(200, 500))
    x, share = ax.lines[-1].get_data()
    assert np.abs(np.array(share) - x).max() < 0.01


def test_mosaic_is_filled_row_by_row_and_the_last_row_may_be_short():
    images = torch.arange(5.0)[:, None].expand(5, 4) / 4
    mosaic = plotting.plot_images(images, rows=2).images[0].get_array()
    assert mosaic.shape == (4, 6)
    assert mosaic[::2, ::2].tolist() == [[0, 0.25, 0.5], [0.75, 1, 0]]


@pytest.mark.mistake("F5")
def test_density_is_the_right_way_up():
    """A narrow peak in the upper left corner is drawn there."""
    peak = Independent(Normal(torch.tensor([-2.0, 2.0]), torch.full((2,), 0.1)), 1)
    ax = plotting.plot_density(peak.log_prob, extent=(-3, 3, -3, 3), points=61)
    image = ax.images[-1]
    row, column = np.unravel_index(image.get_array().argmax(), (61, 61))
    assert image.origin == "lower" and list(image.get_extent()) == [-3, 3, -3, 3]
    assert (column, row) == (10, 50)  # x1 = -2, x2 = 2
