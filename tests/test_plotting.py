"""Plots: what is drawn, not how it looks."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal

from course_utils import plotting


@pytest.fixture(autouse=True)
def fresh_figure():
    with plt.rc_context():
        plotting.use_course_style()
        yield plt.figure()
        plt.close("all")


def test_every_plot_takes_and_returns_axes_and_labels_them():
    y, draws = torch.randn(20), torch.randn(200, 20)
    log_prob = Independent(Normal(torch.zeros(2), torch.ones(2)), 1).log_prob
    for draw in (
        lambda ax: plotting.plot_loss({"train": [3, 2, 1]}, xlabel="step", ylabel="nats", ax=ax),
        lambda ax: plotting.plot_intervals(y, draws, unit="points", ax=ax),
        lambda ax: plotting.plot_calibration(y, draws, ax=ax),
        lambda ax: plotting.plot_density(log_prob, extent=(-3, 3, -3, 3), points=20, ax=ax),
    ):
        _, (left, right) = plt.subplots(1, 2)
        assert draw(left) is left and not right.has_data()
        assert left.get_xlabel() and left.get_ylabel()
        assert draw(None) is right  # the current Axes


def test_floor_is_drawn():
    ax = plotting.plot_loss({"a": [2.0, 1.0]}, xlabel="step", ylabel="nats", floor=0.5)
    assert ax.lines[-1].get_ydata()[0] == 0.5
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "best possible"]


def test_intervals_are_central_and_in_the_order_of_the_means():
    mean = torch.tensor([2.0, 0.0, 1.0])
    draws = mean + torch.linspace(-1, 1, 101)[:, None]
    ax = plotting.plot_intervals(mean, draws, unit="points", mass=0.9)
    bars = np.array([path.vertices[:, 1] for path in ax.collections[0].get_paths()])
    assert bars == pytest.approx(np.array([[-0.9, 0.9], [0.1, 1.9], [1.1, 2.9]]), abs=1e-5)
    assert ax.get_title() == "100% lie inside"
    with pytest.raises(ValueError, match=r"draws \(s, n\)"):
        plotting.plot_intervals(mean, draws.T, unit="points")


def test_calibrated_draws_lie_on_the_diagonal():
    generator = torch.Generator().manual_seed(0)
    y, draws = torch.randn(5000, generator=generator), torch.randn(500, 1, generator=generator)
    ax = plotting.plot_calibration(y, draws.expand(500, 5000))
    x, share = ax.lines[-1].get_data()
    assert np.abs(np.array(share) - x).max() < 0.05


def test_mosaic_is_filled_row_by_row_and_the_last_row_may_be_short():
    images = torch.arange(5.0)[:, None].expand(5, 4) / 4
    mosaic = plotting.plot_images(images, rows=2).images[0].get_array()
    assert mosaic.shape == (4, 6)
    assert mosaic[::2, ::2].tolist() == [[0, 0.25, 0.5], [0.75, 1, 0]]


@pytest.mark.parametrize("shape", [(3, 5), (0, 4), (4,)])
def test_mosaic_refuses(shape):
    with pytest.raises(ValueError, match="images must be"):
        plotting.plot_images(torch.zeros(shape), rows=1)


def test_density_is_the_right_way_up():
    """A narrow peak in the upper left corner is drawn there."""
    peak = Independent(Normal(torch.tensor([-2.0, 2.0]), torch.full((2,), 0.1)), 1)
    ax = plotting.plot_density(peak.log_prob, extent=(-3, 3, -3, 3), points=61)
    image = ax.images[-1]
    row, column = np.unravel_index(image.get_array().argmax(), (61, 61))
    assert image.origin == "lower" and list(image.get_extent()) == [-3, 3, -3, 3]
    assert (column, row) == (10, 50)  # x1 = -2, x2 = 2
