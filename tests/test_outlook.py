"""Mathematics of the notebook on diffusion: the exact field, the parts of the gap, the ODE."""

import math

import pytest
import torch

from course_utils.data import make_two_moons, two_moons_log_prob
from tools.notebook_definitions import definitions

nb = definitions("outlook_diffusion")
SPACE = nb.exact.__globals__  # the notebook sets these in cells
MEAN = torch.tensor([0.5, 0.25], dtype=torch.double)
SPACE |= {"device": torch.device("cpu"), "centre": MEAN, "scale": 0.7}
SIGMAS = [0.02, 0.1, 0.5, 3.0]


def noisy(sigma: float, n: int = 50, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    x = make_two_moons(n, noise=nb.NOISE, seed=seed).x.double()
    return x + sigma * torch.randn_like(x)


@pytest.fixture(scope="module")
def curves():
    """The error of the best denoiser, and the entropy, as the notebook interpolates them."""
    u = nb.np.linspace(0, math.asinh(nb.TOP / nb.NOISE), 61)
    error, entropy = nb.np.array([nb.known(nb.NOISE * math.sinh(each)) for each in u]).T
    relative = nb.np.append(1.0, error[1:] / (nb.NOISE * nb.np.sinh(u[1:])) ** 2)
    moons = 2 * nb.NOISE**2 + 0.75 + 0.3125 - (MEAN**2).sum().item() + 0.1875
    SPACE["relative_error"] = nb.CubicSpline(u, relative)
    SPACE["entropy_of"] = nb.CubicSpline(u, entropy)
    x = make_two_moons(1_000_000, noise=nb.NOISE, seed=1).x.double()
    SPACE["x_spread"] = ((x - MEAN) ** 2).sum(-1).mean().item()
    return u, error, entropy, moons


# ------------------------------------------------------------------ the exact field


@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_score_is_the_gradient_of_the_log_density_by_differences(sigma):
    z, h = noisy(sigma), 1e-5
    width = math.hypot(nb.NOISE, sigma)
    for j, shift in enumerate(h * torch.eye(2).double()):
        ends = (two_moons_log_prob(z + sign * shift, noise=width) for sign in (1, -1))
        slope = (next(ends) - next(ends)) / (2 * h)
        expected = ((nb.exact(z, sigma)[0] - z) / sigma**2)[:, j]
        torch.testing.assert_close(slope, expected, rtol=1e-4, atol=1e-3 / width)


@pytest.mark.parametrize("moon", [None, 0, 1])
@pytest.mark.parametrize("sigma", [0.2, 1.0])
def test_the_denoiser_is_the_mean_of_the_posterior_by_brute_force(sigma, moon):
    """Mean and covariance of x given z, by weighting 400,000 draws of x."""
    draws = make_two_moons(400_000, noise=nb.NOISE, seed=3)
    x = draws.x.double() if moon is None else draws.x[draws.moon == moon].double()
    z = noisy(sigma, 8, seed=4)
    mean, covariance = nb.exact(z, sigma, moon)
    for each, m, c in zip(z, mean, covariance, strict=True):
        weight = torch.softmax(-((x - each) ** 2).sum(-1) / (2 * sigma**2), 0)
        found = weight @ x
        centred = x - found
        square = (weight[:, None] * centred).T @ centred
        wide, few = square.diagonal().max().sqrt(), (weight**2).sum().sqrt()
        assert (found - m).abs().max() < 5 * wide * few  # standard errors
        assert (square - c).abs().max() < 10 * wide**2 * few


@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_covariance_is_the_derivative_of_the_denoiser(sigma):
    z = noisy(sigma, 20)
    _, covariance = nb.exact(z, sigma)
    v, slope = nb.exact_field(z, sigma)
    h = 1e-5 * math.hypot(nb.NOISE, sigma)
    for j, shift in enumerate(h * torch.eye(2).double()):
        up, down = nb.exact(z + shift, sigma)[0], nb.exact(z - shift, sigma)[0]
        derivative = (up - down) / (2 * h)  # of both coordinates by the j-th
        torch.testing.assert_close(derivative, covariance[:, :, j] / sigma**2, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(v, (z - nb.exact(z, sigma)[0]) / sigma)
    eye = torch.eye(2).double()
    torch.testing.assert_close(slope, (eye - covariance / sigma**2) / sigma)


def test_without_noise_nothing_is_unknown_and_with_much_everything_is():
    z = noisy(0.0)
    mean, covariance = nb.exact(z, 0.0)
    torch.testing.assert_close(mean, z)
    assert covariance.abs().max() == 0
    mean, _ = nb.exact(1000 + noisy(1000.0), 1000.0)
    assert (mean - MEAN).abs().max() < 0.01


@pytest.mark.parametrize("sigma", SIGMAS)
def test_error_and_entropy_by_quadrature_are_those_of_draws(sigma):
    z = noisy(sigma, 20_000, seed=5)
    error, entropy = nb.known(sigma)
    x = make_two_moons(20_000, noise=nb.NOISE, seed=5).x.double()
    square = ((nb.exact(z, sigma)[0] - x) ** 2).mean(-1)
    assert abs(square.mean() - error) < 5 * square.std() / 20_000**0.5
    surprise = -two_moons_log_prob(z, noise=math.hypot(nb.NOISE, sigma))
    assert abs(surprise.mean() - entropy) < 5 * surprise.std() / 20_000**0.5


# ------------------------------------------------------------------ the bound


def test_a_step_back_times_what_is_below_is_the_step_up_times_what_is_above():
    """Bayes' theorem: q(b | z, x) q(z | x) = q(z | b) q(b | x)."""
    x, b, z = (noisy(1.0, 30, seed=seed) for seed in (1, 2, 3))
    mean, variance = nb.step_back(z, x, 0.8, 0.3)

    def log_normal(value, mean, variance):
        return torch.distributions.Normal(mean, variance**0.5).log_prob(value).sum(-1)

    left = log_normal(b, mean, variance) + log_normal(z, x, 0.8**2)
    right = log_normal(z, b, 0.8**2 - 0.3**2) + log_normal(b, x, 0.3**2)
    torch.testing.assert_close(left, right)


@pytest.mark.parametrize("wide", [False, True])
def test_the_parts_sum_to_the_gap_between_bound_and_truth(curves, wide):
    sigmas, x = nb.levels(30), noisy(0.0, 20_000, seed=6)
    variances = nb.variances(sigmas)[wide]
    torch.manual_seed(0)
    bound = nb.elbo(nb.exact_denoiser, x, sigmas, variances)
    gap = two_moons_log_prob(x, noise=nb.NOISE) - bound
    parts = nb.parts(sigmas)
    expected = parts["steps"] + parts["top"] + wide * parts["variance"]
    assert abs(gap.mean() - expected) < 5 * gap.std() / len(gap) ** 0.5
    assert parts["variance"] > 10 * gap.std() / len(gap) ** 0.5  # or it would not show


def test_the_parts_vanish_with_more_steps_and_the_best_variance_is_best(curves):
    few, many = (nb.parts(nb.levels(steps)) for steps in (100, 1000))
    assert 0 < many["steps"] < 0.01
    assert 0.07 < many["steps"] / few["steps"] < 0.14
    assert min(few["variance"], many["variance"]) > 0
    assert 0 < nb.parts(nb.levels(100))["top"] < nb.parts(nb.levels(100, 2.0))["top"] < 0.02


def test_the_bound_is_exact_for_a_gaussian_denoised_linearly(curves):
    """Every step back is Gaussian then: nothing is lost but at the top."""
    s, sigmas = 0.6, nb.levels(40, 30.0)
    torch.manual_seed(0)
    x = MEAN + s * torch.randn(20_000, 2).double()
    high, low = sigmas[1:], sigmas[:-1]
    left = high**2 * s**2 / (high**2 + s**2)  # variance of x given z
    share = (low / high) ** 2
    variances = share * (high**2 - low**2) + (1 - share) ** 2 * left
    linear = lambda z, sigma: MEAN + s**2 / (s**2 + sigma**2) * (z - MEAN)  # noqa: E731
    gap = nb.log_normal(x, MEAN, s) - nb.elbo(linear, x, sigmas, variances)
    assert abs(gap.mean()) < 5 * gap.std() / len(gap) ** 0.5 + 1e-3


# ------------------------------------------------------------------ the network


def test_an_untrained_denoiser_is_the_best_linear_one_and_costs_one():
    torch.manual_seed(0)
    model = nb.Denoiser(MEAN.float(), 0.7)
    x = MEAN.float() + 0.7 * torch.randn(200_000, 2)
    for sigma in (0.01, 0.3, 8.0):
        z = x + sigma * torch.randn_like(x)
        expected = MEAN + 0.49 / (0.49 + sigma**2) * (z - MEAN)
        torch.testing.assert_close(model(z, sigma), expected.float())
        level = torch.full((len(x), 1), sigma)
        cost = nb.denoising_loss(model, x, level, torch.randn_like(x), 0.7)
        assert cost.item() == pytest.approx(1, abs=0.02)


def test_levels_of_a_batch_are_spread_evenly_between_data_and_top():
    torch.manual_seed(0)
    u = (nb.random_levels(1000, torch.zeros(1).double())[:, 0] / nb.NOISE).asinh()
    top = math.asinh(nb.TOP / nb.NOISE)
    assert (u * 1000 / top).floor().tolist() == list(range(1000))
    sigmas = nb.levels(7)
    assert sigmas[0] == 0 and sigmas[-1].item() == pytest.approx(nb.TOP) and len(sigmas) == 8


def test_the_loss_of_a_learnt_field_has_the_exact_one_as_its_minimum():
    x = make_two_moons(20_000, noise=nb.NOISE, seed=7).x.double()
    torch.manual_seed(0)
    eps, sigma = torch.randn_like(x), torch.full((len(x), 1), 0.3).double()
    best = nb.denoising_loss(lambda z, s: nb.exact_denoiser(z, 0.3), x, sigma, eps, 0.7)
    for factor in (0.9, 1.1):
        other = nb.denoising_loss(
            lambda z, s, f=factor: z + f * (nb.exact_denoiser(z, 0.3) - z), x, sigma, eps, 0.7
        )
        assert other > best


# ------------------------------------------------------------------ the ODE


def test_heun_is_of_second_order_on_a_gaussian():
    """There z - m grows like the width of what is blurred."""
    linear = lambda z, sigma: MEAN + 0.25 / (0.25 + sigma**2) * (z - MEAN)  # noqa: E731
    z = MEAN + 4 * torch.randn(20, 2, generator=torch.Generator().manual_seed(0)).double()
    expected = MEAN + (z - MEAN) * math.sqrt((0.25 + 0.2**2) / (0.25 + 4**2))
    errors = []
    for steps in (40, 80):
        sigmas = torch.linspace(4.0, 0.2, steps + 1, dtype=torch.double)
        errors.append((nb.ode(linear, z, sigmas) - expected).abs().max().item())
    assert errors[0] < 0.01 and 3 < errors[0] / errors[1] < 5


def test_the_density_by_the_ode_is_exact_on_a_gaussian():
    s, x = 0.5, MEAN + torch.randn(30, 2, generator=torch.Generator().manual_seed(1)).double()

    def velocity(z, sigma):
        return sigma * (z - MEAN) / (s**2 + sigma**2)

    width = math.hypot(s, nb.TOP)
    base = lambda z: nb.log_normal(z, MEAN, width)  # noqa: E731
    found = nb.flow_log_prob(velocity, x, nb.levels(60), base)
    torch.testing.assert_close(found, nb.log_normal(x, MEAN, s), rtol=1e-4, atol=1e-4)


def test_the_exact_ode_finds_the_density_of_the_moons():
    x = noisy(0.0, 2000, seed=8)
    gap = two_moons_log_prob(x, noise=nb.NOISE) - nb.exact_log_prob(x, nb.levels(25))
    assert abs(gap.mean()) < 1e-3
    by_autograd = nb.flow_log_prob(
        lambda z, sigma: nb.exact_field(z, sigma)[0], x[:5], nb.levels(25), nb.log_top
    )
    assert (nb.exact_log_prob(x[:5], nb.levels(25)) - x.new_zeros(5)).shape == by_autograd.shape


def test_the_steepness_is_that_of_a_map_known_in_closed_form():
    """z - m is scaled by the width at the top over that of the data."""
    s = 0.5

    def field(z, sigma):
        slope = sigma / (s**2 + sigma**2) * torch.eye(2).double()
        return (z - MEAN) @ slope, slope.expand(len(z), 2, 2)

    found = nb.steepness(field, noisy(0.0, 5), nb.levels(60))
    expected = nb.TOP * s / math.hypot(s, nb.TOP)
    torch.testing.assert_close(found, torch.full((5,), expected).double(), rtol=1e-4, atol=0)


# ------------------------------------------------------------------ flow matching, guidance


@pytest.mark.parametrize("t", [0.1, 0.4, 0.8])
def test_the_marginal_velocity_is_the_mean_of_the_conditional_ones(t):
    """By brute force: weight pairs of x and eps by how near they pass."""
    x = make_two_moons(400_000, noise=nb.NOISE, seed=9).x.double()
    torch.manual_seed(0)
    z = (1 - t) * x[:8] + t * torch.randn(8, 2).double()
    exact = (z - nb.exact(z / (1 - t), t / (1 - t))[0]) / t
    for place, v in zip(z, exact, strict=True):
        eps = (place - (1 - t) * x) / t  # the noise with which each x passes through the place
        weight = torch.softmax(-(eps**2).sum(-1) / 2, 0)
        near = 6 * (weight**2).sum().sqrt() * (eps - x).std()
        assert (weight @ (eps - x) - v).abs().max() < near


def test_flow_matching_has_the_marginal_velocity_as_its_minimum():
    x = make_two_moons(20_000, noise=nb.NOISE, seed=10).x.double()
    torch.manual_seed(0)
    eps, t = torch.randn_like(x), torch.full((len(x), 1), 0.4).double()

    def velocity(z, factor=1.0):
        return factor * (z - nb.exact(z / 0.6, 0.4 / 0.6)[0]) / 0.4

    best = nb.matching(lambda z, t: velocity(z), x, eps, t)
    assert best < min(nb.matching(lambda z, t, f=f: velocity(z, f), x, eps, t) for f in (0.9, 1.1))


def test_a_guess_with_the_label_is_the_exact_one_of_that_moon_and_both_make_the_whole():
    """E[x | z] is the mean over both moons, weighted by how probable each is."""
    z, sigma = noisy(0.5, 30), 0.5
    both = [nb.exact(z, sigma, moon)[0] for moon in (0, 1)]
    log_p = []
    for moon in (0, 1):
        c, weight = nb.on_curves(sigma, moon, z)
        v = nb.NOISE**2 + sigma**2
        log_p.append(torch.logsumexp(weight.log() - torch.cdist(z, c) ** 2 / (2 * v), -1))
    upper = torch.sigmoid(log_p[0] - log_p[1])[:, None]
    torch.testing.assert_close(upper * both[0] + (1 - upper) * both[1], nb.exact(z, sigma)[0])
    guided = nb.guided(z, sigma, nb.exact_denoiser, nb.upper, 1.0)
    torch.testing.assert_close(guided, both[0])
