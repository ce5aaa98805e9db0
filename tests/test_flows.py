"""Mathematics of the flows notebook: bijections, densities, fits and exercise checks."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch.distributions import ComposeTransform

from course_utils import checks
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
@pytest.mark.parametrize("base", [nb.Normal, mixture])
def test_integrates_to_one_also_after_scaling(name, base):
    torch.manual_seed(0)
    shift, scale = torch.tensor([5.0, -1.0]), torch.tensor([0.1, 3.0])
    flow = nb.Flow(BIJECTIONS[name](2), base(2), shift, scale).requires_grad_(False)
    x = flow.sample(20_000)
    low, high = x.min(0).values - scale, x.max(0).values + scale
    box = (low[0].item(), high[0].item(), low[1].item(), high[1].item())
    assert abs(nb.integrate(flow.log_prob, box, 400) - 1) < 0.005


def test_samples_follow_the_density():
    """E_q[-log q] over samples equals the entropy by quadrature."""
    torch.manual_seed(0)
    flow = nb.Flow(bent(nb.realnvp(2)), mixture(2), torch.zeros(2), torch.ones(2))
    flow.requires_grad_(False)
    samples = flow.sample(50_000)
    reach = samples.abs().max().item() + 1
    x, cell = nb.grid((-reach, reach, -reach, reach), 400)
    log_q = flow.log_prob(x).double()
    entropy = -(log_q.exp() * log_q).sum() * cell
    found = -flow.log_prob(samples).double()
    assert abs(found.mean() - entropy) < 4 * found.std() / math.sqrt(len(found)) + 0.002


@pytest.mark.mistake("F4")
def test_affine_flow_is_the_gaussian_and_pyro_and_zuko_agree_on_direction():
    """f maps x -> z; torch's transforms map z -> x."""
    shift, scale = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])
    flow = nb.Flow(nb.Chain(), nb.Normal(2), shift, scale)
    x = torch.randn(100, 2)
    library = torch.distributions.TransformedDistribution(
        torch.distributions.Normal(torch.zeros(2), 1.0),
        [torch.distributions.AffineTransform(shift, scale, event_dim=1)],
    )
    expected = torch.distributions.Normal(shift, scale).log_prob(x).sum(-1)
    torch.testing.assert_close(flow.log_prob(x), expected)
    torch.testing.assert_close(library.log_prob(x), expected)


def test_same_mask_never_moves_the_kept_coordinate():
    f = bent(nb.Chain(*(nb.Coupling(2, flip=False) for _ in range(4))))
    x = torch.randn(50, 2)
    assert torch.equal(f(x)[0][:, 0], x[:, 0])
    assert not torch.allclose(bent(nb.realnvp(2))(x)[0][:, 0], x[:, 0])


def test_autoregressive_block_is_triangular_in_its_order():
    torch.manual_seed(0)
    order = torch.tensor([2, 0, 1])
    jacobian = nb.jacobian_of(nb.Autoregressive(order), torch.tensor([0.3, -0.2, 0.5]))
    ordered = jacobian[order][:, order]
    assert torch.equal(ordered.triu(1), torch.zeros(3, 3))
    assert ordered[[1, 2, 2], [0, 0, 1]].abs().min() > 0


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


def ring(n, generator):
    angle = 2 * math.pi * torch.rand(n, generator=generator, dtype=torch.double)
    noise = 0.1 * torch.randn(n, 2, generator=generator, dtype=torch.double)
    return 2 * torch.stack((angle.cos(), angle.sin()), -1) + noise


def ring_log_prob(x):
    """A circle of radius 2 blurred by 0.1: a Bessel function."""
    radius, variance = x.norm(dim=-1).numpy(), 0.01
    return torch.from_numpy(
        np.log(scipy.special.i0e(2 * radius / variance))
        - (radius - 2) ** 2 / (2 * variance)
        - math.log(2 * math.pi * variance)
    )


def heavy(n, generator):
    z = torch.randn(n, 5, generator=generator, dtype=torch.double)
    return z[:, :2] / (z[:, 2:].square().mean(-1, keepdim=True)).sqrt()


def heavy_log_prob(x):
    student = scipy.stats.multivariate_t(np.zeros(2), np.eye(2), df=3)
    return torch.from_numpy(student.logpdf(x.numpy()))


@pytest.mark.mistake("F7")
@pytest.mark.parametrize(("draw", "log_prob"), [(ring, ring_log_prob), (heavy, heavy_log_prob)])
def test_fits_other_densities_at_any_scale_in_double_precision(draw, log_prob):
    generator = torch.Generator().manual_seed(0)
    scale, shift = torch.tensor([100.0, 0.01]).double(), torch.tensor([-1e3, 2.0]).double()
    train, val, test = (draw(n, generator) for n in (4000, 1000, 4000))
    flow = nb.fit_flow(train * scale + shift, val * scale + shift, steps=120)
    log_q = flow.log_prob(test * scale + shift) + scale.log().sum()
    gap = (log_prob(test) - log_q).mean()
    assert -0.01 < gap < 0.1
    samples = flow.sample(1000)
    assert samples.shape == (1000, 2) and samples.dtype == torch.double
    assert samples.isfinite().all() and not log_q.requires_grad


@pytest.mark.parametrize("kind", ["realnvp", "maf", "spline"])
def test_every_kind_beats_one_gaussian_in_three_dimensions_and_repeats_itself(kind):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3000, 3, generator=generator)
    x[:, 2] = x[:, 0] ** 2 + 0.3 * x[:, 1]
    x = x + 0.2 * torch.randn(3000, 3, generator=generator)
    train, val, test = x.split(1000)
    flows = [nb.fit_flow(train, val, kind=kind, components=1, steps=60) for _ in range(2)]
    gaussian = torch.distributions.MultivariateNormal(train.mean(0), train.T.cov())
    assert flows[0].log_prob(test).mean() > gaussian.log_prob(test).mean() + 0.02
    assert torch.equal(flows[0].log_prob(test), flows[1].log_prob(test))


@pytest.mark.mistake("D2")
def test_best_validation_weights_are_kept():
    torch.manual_seed(0)
    few, val = torch.randn(30, 2), torch.randn(500, 2)
    flow = nb.fit_flow(few, val, components=1, steps=150)  # overfits thirty points
    assert -flow.log_prob(val).mean() <= min(score for _, score in flow.history) + 1e-5
    assert flow.history[-1][1] > min(score for _, score in flow.history)


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


@pytest.mark.mistake("D6")
def test_five_seeds_or_more():
    assert nb.SEEDS >= 5


def test_elbo_of_a_gaussian_posterior_reaches_the_evidence():
    """theta ~ N(0, I), y = 1 of theta_1 + theta_2 with noise 1: evidence N(1; 0, 3)."""
    normal = torch.distributions.Normal

    def joint(theta):
        prior = normal(0.0, 1.0).log_prob(theta).sum(-1)
        return prior + normal(theta.sum(-1), 1.0).log_prob(torch.tensor(1.0))

    nb.maximise_elbo.__globals__["log_joint"], kept = joint, nb.log_joint
    try:
        torch.manual_seed(0)
        g = nb.maximise_elbo(nb.realnvp(2, layers=2), 300)
        theta, log_q = nb.draw_q(g, 20_000)
    finally:
        nb.maximise_elbo.__globals__["log_joint"] = kept
    evidence = normal(0.0, math.sqrt(3)).log_prob(torch.tensor(1.0))
    elbo = (joint(theta) - log_q).mean()
    assert evidence - 0.03 < elbo < evidence + 0.01


SOLVED = {
    "check_lognormal": nb.solution_lognormal,
    "check_transformed_log_prob": nb.solution_log_prob,
    "check_entropy": nb.solution_entropy,
    "check_coupling_log_det": nb.solution_log_det,
    "check_coupling_inverse": nb.solution_inverse,
    "check_conditional": nb.solution_conditional,
}
NORMAL = torch.distributions.Normal(0.0, 1.0)
WRONG = {
    "check_lognormal": [
        (lambda x: NORMAL.log_prob(x.log()), "Jacobian"),
        (lambda x: NORMAL.log_prob(x.log()) + x.log(), "slope"),
    ],
    "check_transformed_log_prob": [
        (
            lambda x, ts: (
                2 * NORMAL.log_prob(ComposeTransform(ts).inv(x)) - nb.solution_log_prob(x, ts)
            ),
            "integrate",
        ),
        (lambda x, ts: NORMAL.log_prob(ComposeTransform(ts).inv(x)), "missing"),
    ],
    "check_entropy": [
        (lambda x: (nb.solution_entropy(x) - 1.7219) / 2 + 1.7219, "off"),
        (lambda x: nb.solution_entropy(x) - 0.5772157, "Euler"),
    ],
    "check_coupling_log_det": [
        (lambda x, steer: -nb.solution_log_det(x, steer), "sign"),
        (lambda x, steer: nb.solution_log_det(x, steer).sum(), "one number per row"),
    ],
    "check_coupling_inverse": [
        (lambda z, steer: nb.solution_inverse(z.flip(-1), steer), "off"),
        (lambda z, steer: nb.solution_inverse(z, lambda a: (-steer(a)[0], steer(a)[1])), "off"),
    ],
    "check_conditional": [
        (lambda x, m, s, t: nb.solution_conditional(x, 1 - m, s, t), "swapped"),
        (lambda x, m, s, t: nb.solution_conditional(x, m, s, t) - s[m].sum(-1), "missing"),
    ],
}


@pytest.mark.parametrize("name", SOLVED)
def test_check_accepts_the_solution(name):
    assert getattr(checks, name)(SOLVED[name])


@pytest.mark.parametrize(("name", "case"), [(n, c) for n, cases in WRONG.items() for c in cases])
def test_check_rejects_and_says_why(name, case):
    wrong, message = case
    verdict = getattr(checks, name)(wrong)
    assert not verdict and message in verdict.message


def test_check_of_the_same_mask():
    angle = torch.rand(2_000_000, generator=torch.Generator().manual_seed(0)).double() * math.pi
    side = torch.where(torch.arange(len(angle)) % 2 == 0, angle.cos(), 1 - angle.cos())
    noise = torch.randn(len(angle), generator=torch.Generator().manual_seed(1)).double()
    x = side + 0.05 * noise
    share = torch.histc(x, 400, -1.5, 2.5) / len(x)
    entropy = -(share * (share / 0.01).log()).nansum()
    right = (0.5 * torch.log(2 * math.pi * math.e * x.var()) - entropy).item()
    assert checks.check_same_mask(right)
    assert "negative" in checks.check_same_mask(-right).message
    assert "entropy" in checks.check_same_mask(entropy.item()).message
    assert not checks.check_same_mask(right + 0.05)
