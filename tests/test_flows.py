"""Mathematics of the flows notebook: bijections, densities and fits."""

import math

import pyro
import pytest
import torch

from benchmarks.baselines import densities
from tools.notebook_definitions import definitions

nb = definitions("flows")
nb.grid.__globals__["device"] = torch.device("cpu")  # the notebook sets it in a cell


def bent(f, std: float = 0.1):
    """Give the last layer of every coupling network random weights, so that the map bends."""
    torch.manual_seed(1)
    for layer in f.layers:
        torch.nn.init.normal_(layer.net[-1].weight, std=std)
    return f


def mixture(d: int, components: int = 3):
    torch.manual_seed(2)
    return nb.Mixture(torch.randn(components, d), 0.3 + torch.rand(components, d), torch.ones(3))


BIJECTIONS = {
    "coupling": lambda d: bent(nb.Chain(nb.Coupling(d, flip=False))),
    "flipped": lambda d: bent(nb.Chain(nb.Coupling(d, flip=True))),
    "realnvp": lambda d: bent(nb.realnvp(d)),
    "maf": nb.maf,
    "spline": nb.Spline,
}


@pytest.mark.mistake("F4", "F9")
@pytest.mark.parametrize("d", [2, 3, 5])
@pytest.mark.parametrize("name", BIJECTIONS)
def test_round_trip_and_jacobian(name, d):
    torch.manual_seed(0)
    f = BIJECTIONS[name](d)
    x = 3 * torch.randn(10_000, d)
    with torch.no_grad():
        z, log_det = f(x)
        assert z.shape == x.shape and log_det.shape == (len(x),)
        torch.testing.assert_close(f.inverse(z.clone()), x, atol=1e-4, rtol=1e-5)
        assert not torch.allclose(z, x, atol=1e-2)  # the identity would pass everything here
    f = f.double()
    for row in x[:5].double():
        jacobian = torch.autograd.functional.jacobian(lambda r: f(r[None])[0][0], row)
        expected = torch.linalg.slogdet(jacobian).logabsdet
        torch.testing.assert_close(f(row[None])[1][0], expected, atol=1e-6, rtol=1e-6)


@pytest.mark.mistake("F7", "F9")
@pytest.mark.parametrize("name", BIJECTIONS)
@pytest.mark.parametrize("base", [nb.GaussianBase, mixture])
def test_density_at_any_scale_integrates_to_one_and_is_that_of_the_samples(name, base):
    """The mean of -log q over samples is the entropy by quadrature."""
    torch.manual_seed(0)
    shift, scale = torch.tensor([5.0, -1.0]), torch.tensor([0.1, 3.0])
    flow = nb.Flow(BIJECTIONS[name](2), base(2), shift, scale).requires_grad_(False)
    x = flow.sample(20_000)
    low, high = x.min(0).values - scale, x.max(0).values + scale
    points, cell = nb.grid((low[0].item(), high[0].item(), low[1].item(), high[1].item()), 400)
    log_q = flow.log_prob(points).double()
    assert abs(log_q.exp().sum() * cell - 1) < 0.005
    entropy, found = -(log_q.exp() * log_q).sum() * cell, -flow.log_prob(x).double()
    assert abs(found.mean() - entropy) < 4 * found.std() / math.sqrt(len(x)) + 0.01


@pytest.mark.mistake("F4")
def test_a_flow_without_layers_is_the_gaussian_of_its_scale():
    shift, scale, x = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0]), torch.randn(100, 2)
    expected = torch.distributions.Normal(shift, scale).log_prob(x).sum(-1)
    flow = nb.Flow(nb.Chain(), nb.GaussianBase(2), shift, scale)
    torch.testing.assert_close(flow.log_prob(x), expected)


def test_same_mask_never_moves_the_kept_coordinate():
    f = bent(nb.Chain(*(nb.Coupling(2, flip=False) for _ in range(4))))
    x = torch.randn(50, 2)
    assert torch.equal(f(x)[0][:, 0], x[:, 0])
    assert not torch.allclose(bent(nb.realnvp(2))(x)[0][:, 0], x[:, 0])


@pytest.mark.mistake("F9")
def test_autoregressive_round_trip_is_not_the_cache():
    """Pyro's transform remembers its last input: damage the memory, the answer must not change."""
    torch.manual_seed(0)
    f, x = nb.Autoregressive(torch.arange(3)), torch.randn(20, 3)
    with torch.no_grad():
        z, _ = f(x)
        remembered, _ = f.block._cached_x_y
        remembered += 1  # this is x itself
        torch.testing.assert_close(f.inverse(z), remembered - 1, atol=1e-5, rtol=1e-5)


def test_unknown_kind_and_flat_data():
    x = torch.randn(100, 2)
    with pytest.raises(ValueError, match="kind"):
        nb.fit_flow(x, x, kind="planar")
    with pytest.raises(ValueError, match="vary"):
        nb.fit_flow(x * torch.tensor([1.0, 0.0]), x)
    with pytest.raises(ValueError, match="two coordinates"):
        nb.realnvp(1)


HEAVY = pyro.distributions.MultivariateStudentT(3.0, torch.zeros(2).double(), torch.eye(2).double())
RINGS = densities.DENSITIES["rings"]


@pytest.mark.mistake("F7")
@pytest.mark.parametrize(
    ("draw", "log_prob"),
    [
        (lambda n: RINGS.sample(n, n).double(), RINGS.log_prob),
        (lambda n: HEAVY.sample((n,)), HEAVY.log_prob),
    ],
)
def test_fits_other_densities_at_any_scale_in_double_precision(draw, log_prob):
    torch.manual_seed(0)
    scale, shift = torch.tensor([100.0, 0.1]).double(), torch.tensor([-1e3, 2.0]).double()
    train, val, test = (draw(n) for n in (4000, 1000, 4001))
    flow = nb.fit_flow(train * scale + shift, val * scale + shift, steps=70)
    log_q = flow.log_prob(test * scale + shift) + scale.log().sum()
    gap = (log_prob(test) - log_q).mean()
    assert -0.01 < gap < 0.2
    samples = flow.sample(1000)
    assert samples.shape == (1000, 2) and samples.dtype == torch.double
    assert samples.isfinite().all() and not log_q.requires_grad


@pytest.mark.parametrize("kind", ["realnvp", "maf", "spline"])
def test_every_kind_takes_three_dimensions_and_repeats_itself(kind):
    x = torch.randn(500, 3) @ torch.randn(3, 3)
    first, again, other = (
        nb.fit_flow(x, x, kind=kind, components=1, steps=20, seed=seed) for seed in (0, 0, 1)
    )
    assert torch.equal(first.log_prob(x), again.log_prob(x))
    assert not torch.equal(first.log_prob(x), other.log_prob(x))
    assert first.log_prob(first.sample(100)).isfinite().all()


@pytest.mark.mistake("D2")
def test_best_validation_weights_are_kept():
    torch.manual_seed(0)
    few, val = torch.randn(30, 2), torch.randn(500, 2)  # overfits thirty points
    flow = nb.fit_flow(few, val, kind="realnvp", components=1, batch=30, steps=100)
    best = min(score for _, score in flow.history)
    assert -flow.log_prob(val).mean() <= best + 1e-5 and flow.history[-1][1] > best + 1e-3


@pytest.mark.mistake("D3")
def test_a_flow_standardises_with_its_training_points():
    x = torch.tensor([3.0, -1.0]) + torch.tensor([2.0, 0.1]) * torch.randn(500, 2)
    flow = nb.fit_flow(x, 9 * x, kind="realnvp", components=1, steps=2)
    torch.testing.assert_close(flow.shift, x.mean(0))
    torch.testing.assert_close(flow.scale, x.std(0))


@pytest.mark.mistake("F6")
def test_the_gap_is_paired():
    """A model that is 0.1 nats off everywhere has that gap, and no standard error."""
    book, x = definitions("flows"), torch.randn(200, 2)
    book.gap_to_truth.__globals__["x_test"] = x
    gap, error = book.gap_to_truth(book.true_log_prob(x) - 0.1)
    assert gap == pytest.approx(0.1, abs=1e-5) and error < 1e-6


# ------------------------------------------------------------------ posteriors


def test_the_density_of_the_crescents_is_that_of_their_simulator():
    """It integrates to one over y, and the mean of -log p over draws is its entropy."""
    theta = torch.tensor([[0.5, -0.2]]).double()
    y, cell = nb.grid((-0.2, 0.2, -0.8, -0.2), 600)
    log_p = nb.log_joint_crescents(theta, y.double()) + math.log(4)
    assert abs(log_p.exp().sum() * cell - 1) < 1e-3
    torch.manual_seed(0)
    many = nb.draw_crescents(50_000)
    drawn = nb.log_joint_crescents(*(each.double() for each in many)) + math.log(4)
    entropy = -(torch.xlogy(log_p.exp(), log_p.exp())).sum() * cell
    assert abs(-drawn.mean() - entropy) < 4 * drawn.std() / 50_000**0.5 + 1e-3


def test_kl_at_is_zero_for_the_posterior_and_right_for_a_gaussian_beside_it():
    """theta ~ N(0, I), y ~ N(theta_1, 1/2): the posterior is Gaussian."""

    def log_joint(theta, y):
        prior = nb.dist.Normal(0.0, 1.0).log_prob(theta).sum(-1)
        return prior + nb.dist.Normal(theta[:, 0], 0.5**0.5).log_prob(y)

    class Off:
        def __init__(self, by):
            self.by = by

        def log_prob(self, theta, y):
            mean = torch.stack((y[:, 0] / 1.5 + self.by, 0 * y[:, 0]), -1)
            scale = torch.tensor([(1 / 3) ** 0.5, 1.0])
            return nb.dist.Normal(mean, scale).log_prob(theta).sum(-1)

    y, box = torch.tensor([0.7]), (-6.0, 6.0, -6.0, 6.0)
    for by in (0.0, 0.3):
        found = nb.kl_at(Off(by), log_joint, y, box)
        assert abs(found - 3 * by**2 / 2) < 1e-4  # squared distance over twice the variance


@pytest.mark.mistake("F11")
@pytest.mark.parametrize("k", [0.3, 0.6, 0.9])
def test_importance_on_pareto_weights(k):
    torch.manual_seed(0)
    log_w = -k * torch.rand(100_000).double().log() - 800
    log_evidence, share, found = nb.course_importance(log_w)
    assert abs(found - k) < 0.12
    if k < 0.5:  # the variance is finite: mean 1/(1 - k), second moment 1/(1 - 2 k)
        assert abs(log_evidence + 800 + math.log(1 - k)) < 0.02
        assert abs(share - (1 - 2 * k) / (1 - k) ** 2) < 0.1
    assert nb.course_importance(log_w + 1600)[1:] == pytest.approx((share, found), abs=1e-6)
