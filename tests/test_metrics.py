"""Scores against closed forms, Monte Carlo and quadrature."""

import math

import pytest
import torch
from torch.distributions import Normal

from course_utils import metrics
from tests.bad_input import NO_NUMBER, no_floats, refusals

Y, DRAWS = torch.ones(3), torch.rand(2, 3)
NO_TARGETS, NO_MEAN = no_floats(3), [*no_floats(3), DRAWS, Y[:2]]
NO_DRAWS = [*no_floats(2, 3), DRAWS.T, DRAWS[0], DRAWS[None]]
NO_MASS = [*NO_NUMBER, 0, 1, -0.1, 1.5]
MIXTURE = {"observed": Y, "mean": DRAWS, "scale": DRAWS + 1}
NO_MIXTURE = {"observed": NO_TARGETS, "mean": NO_DRAWS, "scale": [*NO_DRAWS, 0 * DRAWS, -DRAWS]}
PAIR, NO_PAIR = {"observed": Y, "draws": DRAWS}, {"observed": NO_TARGETS, "draws": NO_DRAWS}

test_a_bad_argument_is_refused_by_name = refusals(
    (metrics.mean_and_error, {"values": Y}, {"values": [*NO_TARGETS, Y[0], Y[:1]]}),
    (metrics.rmse, {"observed": Y, "mean": Y}, {"observed": NO_TARGETS, "mean": NO_MEAN}),
    (metrics.mixture_log_density, MIXTURE, NO_MIXTURE),
    (metrics.mixture_crps, MIXTURE, NO_MIXTURE),
    (metrics.central_interval, {"draws": DRAWS, "mass": 0.9}, {"mass": NO_MASS}),
    (metrics.coverage, {**PAIR, "mass": 0.9}, {**NO_PAIR, "mass": NO_MASS}),
    (metrics.pit, PAIR, NO_PAIR),
)


def mixture(s: int, n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    y, mean, log_scale = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((n,), (s, n), (s, n))
    )
    return y, mean, (0.5 * log_scale).exp()


@pytest.mark.mistake("B5")
def test_mean_and_error_and_rmse():
    mean, error = metrics.mean_and_error(torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]]))
    assert mean.tolist() == [2, 0]
    assert error.tolist() == pytest.approx([1 / math.sqrt(3), 0])
    off_by_two = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0])
    assert metrics.rmse(*off_by_two) == pytest.approx(math.sqrt(2))


@pytest.mark.mistake("B7")
def test_log_density_integrates_to_one_and_is_not_that_of_the_mean():
    _, mean, scale = mixture(5, 1)
    grid = torch.linspace(-30, 30, 20001, dtype=torch.float64)
    log_p = metrics.mixture_log_density(grid, mean.expand(5, 20001), scale.expand(5, 20001))
    assert torch.trapezoid(log_p.exp(), grid).item() == pytest.approx(1, abs=1e-9)
    of_the_mean = Normal(mean.mean(0), scale.mean(0)).log_prob(grid)
    assert (log_p - of_the_mean).abs().max() > 0.1


def test_crps_of_a_mixture_is_the_integral_of_its_definition():
    y, mean, scale = mixture(4, 3)
    grid = torch.linspace(-25, 25, 50001, dtype=torch.float64)[:, None]
    cdf = Normal(mean[:, None], scale[:, None]).cdf(grid).mean(0)  # (grid, n)
    integrand = (cdf - (grid >= y).double()).square()
    expected = torch.trapezoid(integrand, grid[:, 0], dim=0)
    torch.testing.assert_close(metrics.mixture_crps(y, mean, scale), expected, atol=1e-3, rtol=0)


def test_interval_coverage_and_pit_of_known_draws():
    draws = torch.arange(101.0)[:, None].expand(101, 4)
    lower, upper = metrics.central_interval(draws, mass=0.9)
    assert lower.tolist() == pytest.approx([5] * 4) and upper.tolist() == pytest.approx([95] * 4)
    observed = torch.tensor([-1.0, 7.5, 94.0, 100.5])
    assert metrics.coverage(observed, draws, mass=0.9) == 0.5
    assert metrics.pit(observed, draws).tolist() == pytest.approx([0, 8 / 101, 94 / 101, 1])
