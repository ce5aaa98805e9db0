"""Mathematics of the flows notebook: bijections, densities and fits."""

import math

import pyro
import pytest
import torch

from benchmarks import flow_dimensions, flow_table, measure
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


@pytest.mark.mistake("F9")
def test_the_three_tests_return_the_size_of_a_mistake():
    torch.manual_seed(0)
    f, x = bent(nb.Chain(nb.Coupling(2, flip=True)), std=0.05), torch.randn(200, 2)
    assert nb.there_and_back(f, x) < 1e-5 and nb.beside_autograd(f, x) < 1e-5
    assert nb.total(f, (-12, 12, -12, 12)) == pytest.approx(1, abs=1e-3)
    off = nb.Mutant(f, lambda f, x: (f(x)[0], f(x)[1] - 0.3), lambda f, z: f.inverse(z) - 0.01)
    assert nb.there_and_back(off, x) == pytest.approx(0.01, rel=1e-3)
    assert nb.beside_autograd(off, x) == pytest.approx(0.3, rel=1e-3)
    assert nb.total(off, (-12, 12, -12, 12)) == pytest.approx(math.exp(-0.3), abs=1e-3)
    quarter = nb.Mutant(f, nb.positive, lambda f, z: f.inverse(z.expm1().log()))
    assert nb.there_and_back(quarter, x) < 1e-4 and nb.beside_autograd(quarter, x) < 1e-4
    assert nb.total(quarter, (-18, 12, -18, 12)) == pytest.approx(0.25, abs=1e-3)


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


POINTS = torch.randn(100, 2, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    ("train", "val", "options", "message"),
    [
        (POINTS, POINTS, {"kind": "planar"}, "kind must be"),
        (POINTS * torch.tensor([1.0, 0.0]), POINTS, {}, "vary"),
        (POINTS[:, 0], POINTS, {}, "x_train must be points"),
        (POINTS, POINTS[:, :1], {}, "x_val must be points"),
        (POINTS, POINTS.double(), {}, "x_val must be points"),
        (POINTS, POINTS.numpy(), {}, "x_val must be a floating-point tensor"),
        (POINTS.int(), POINTS, {}, "x_train must be a floating-point tensor"),
        (POINTS[:0], POINTS, {}, "x_train must be a floating-point tensor"),
        (POINTS, POINTS.log(), {}, "x_val must be finite"),
        (POINTS / 0.0, POINTS, {}, "x_train must be finite"),
    ],
)
def test_what_cannot_be_fitted_is_refused_in_one_line(train, val, options, message):
    with pytest.raises(ValueError, match=message) as refused:
        nb.fit_flow(train, val, **options)
    assert "\n" not in str(refused.value)


def test_a_coupling_layer_needs_two_coordinates():
    with pytest.raises(ValueError, match="two coordinates"):
        nb.realnvp(1)


@pytest.mark.mistake("F2")
def test_a_stretch_is_at_least_what_two_pieces_demand():
    """Half-planes under a linear map: equality across the direction that it stretches most."""
    torch.manual_seed(0)
    matrix = torch.randn(2, 2).double()  # f⁻¹
    u, stretch, _ = torch.linalg.svd(matrix)
    directions = [u[:, 0], u[:, 1], *torch.nn.functional.normalize(torch.randn(20, 2)).double()]
    demanded = []
    for direction in directions:  # of the normal of both lines; one leaves a, the other b outside
        scale = (direction @ matrix).norm()
        a, b = (torch.special.ndtr(-distance / scale) for distance in (0.03, 0.11))
        demanded.append(nb.least_stretch(a, b, 0.14))
    assert demanded[:2] == pytest.approx(stretch.tolist())
    assert max(demanded) < stretch[0] * (1 + 1e-9)


def test_the_stretch_found_is_that_of_a_linear_map():
    class Linear(torch.nn.Module):
        def inverse(self, z):
            return z @ torch.tensor([[0.0, 2.0], [-3.0, 0.0]]).to(z)

    shift, scale = torch.zeros(2), torch.tensor([5.0, 0.1])  # x = (-15 z_2, 0.2 z_1)
    flow = nb.Flow(Linear(), torch.nn.Identity(), shift, scale)
    assert nb.found_stretch(flow) == pytest.approx(15, rel=1e-5)


def test_the_distance_from_a_half_circle_is_the_least_to_its_points():
    torch.manual_seed(0)
    angle = torch.linspace(0, math.pi, 4001)
    x = 2 * torch.randn(500, 2)
    least = torch.cdist(x, torch.stack([angle.cos(), angle.sin()], -1)).min(1).values
    torch.testing.assert_close(nb.to_half_circle(x), least, atol=2e-3, rtol=0)


@pytest.mark.mistake("F2")
def test_the_knothe_rosenblatt_map_of_the_moons_has_no_gap():
    """Draws of the moons become standard normal and independent."""
    n, box = 400, (-1.5, 2.5, -1.0, 1.5)
    nb.true_log_prob.__globals__["NOISE"] = 0.05
    x = nb.draw_moons(0, 20_000)
    z = nb.course_rosenblatt(nb.true_log_prob, box, n).reshape(n, n, 2)
    column, row = (x - torch.tensor([-1.5, -1.0])).div(torch.tensor([4 / n, 2.5 / n])).long().T
    z = z[column, row]
    assert z.mean(0).abs().max() < 0.03 and (z.T.cov() - torch.eye(2)).abs().max() < 0.04
    assert (z.square().T.corrcoef()[0, 1]).abs() < 0.03


@pytest.mark.parametrize(
    "x", [POINTS[:, :1], POINTS[:, 0], POINTS[None], POINTS.double(), POINTS.numpy(), POINTS.int()]
)
def test_a_flow_scores_points_of_its_own_shape_and_type_only(x):
    flow = nb.Flow(nb.Chain(), nb.GaussianBase(2), torch.zeros(2), torch.ones(2))
    assert flow.log_prob(POINTS).shape == (100,)
    with pytest.raises(ValueError, match="x must be points"):
        flow.log_prob(x)


def test_a_fit_that_diverges_returns_nothing():
    with pytest.raises(RuntimeError, match="training diverged"):
        nb.fit_flow(POINTS, POINTS, kind="realnvp", components=1, batch=50, steps=60, rate=1e4)


def test_steps_without_a_finite_gradient_are_counted(monkeypatch):
    def every_third(flow, batch, optimiser, calls=[]):  # noqa: B006 - it counts
        calls.append(1)
        spoilt = (batch[0] * (math.nan if len(calls) % 3 == 0 else 1.0),)
        return train_step(flow, spoilt, optimiser)

    train_step = nb.train_step
    monkeypatch.setitem(nb.fit_flow.__globals__, "train_step", every_third)
    flow = nb.fit_flow(POINTS, POINTS, kind="realnvp", components=1, batch=50, steps=10)
    assert flow.skipped == 3 and flow.log_prob(POINTS).isfinite().all()


@pytest.mark.mistake("F10")
def test_in_the_plane_a_masked_block_is_an_affine_coupling():
    """z_1 is affine in x_1; given x_1, z_2 is affine in x_2: second differences vanish."""
    torch.manual_seed(0)
    block = nb.Autoregressive(torch.arange(2)).double()
    x_1 = torch.randn(50).double()
    z = torch.stack([block(torch.stack([x_1, 0 * x_1 + c], 1))[0] for c in (-1.0, 0.5, 2.0)])
    torch.testing.assert_close(z[0] + z[2], 2 * z[1])
    assert torch.equal(z[0, :, 0], z[1, :, 0])
    slope = (z[0, :, 0] - z[0, 0, 0])[1:] / (x_1 - x_1[0])[1:]
    torch.testing.assert_close(slope, slope[:1].expand(49))


@pytest.mark.mistake("D6", "F10")
def test_flows_are_compared_at_equal_settings_with_the_control_beside():
    stored = measure.load("flow_table")
    given = stored["settings"]
    names = ("RealNVP by hand", "masked autoregressive", "spline")
    equal = [{key: given[name][key] for key in ("components", "steps", "batch")} for name in names]
    assert equal[0] == equal[1] == equal[2]
    assert given[names[0]]["layers"] == given[names[1]]["layers"]
    assert all(len(runs) == 5 for runs in stored["runs"].values())


def test_stored_gaps_of_quick_rows_are_those_of_the_code():
    x_test, stored = nb.draw_moons(300, nb.N_TEST), measure.load("flow_table")["runs"]
    found = flow_table.fitted("one Gaussian", 1, x_test)["gap"]
    assert found == pytest.approx(stored["one Gaussian"]["1"]["gap"], abs=1e-3)
    parts = stored["mixture of Gaussians"]["0"]["parts"]
    found = flow_table.fitted_gaussians((parts,), 0, x_test)["gap"]
    assert found == pytest.approx(stored["mixture of Gaussians"]["0"]["gap"], abs=1e-3)
    flow = flow_table.fitted_flow({"kind": "realnvp", "components": 1, "steps": 20}, 0, x_test[:99])
    assert 0 < flow["gap"] < 2 and flow["inverse"] > 0 and flow["skipped"] == 0


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


@pytest.mark.parametrize("dtype", [torch.float, torch.double])
@pytest.mark.parametrize("kind", ["realnvp", "maf", "spline"])
def test_every_kind_takes_three_dimensions_and_both_precisions_and_repeats_itself(kind, dtype):
    x = (torch.randn(500, 3) @ torch.randn(3, 3)).to(dtype)
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


# ------------------------------------------------------------------ section 9


@pytest.mark.mistake("F12")
def test_the_chain_has_the_entropy_that_its_steps_have():
    """Mean of -log p over samples: half log(2πe), and seven times that of two lanes."""
    r = torch.linspace(-4, 4, 4001).double()
    p = torch.distributions.Normal(torch.tensor([-0.4, 0.4]).double(), 0.25)
    p = p.log_prob(r[:, None]).exp().mean(1)
    assert torch.trapezoid(p, r) == pytest.approx(1, abs=1e-6)
    exact = math.log(2 * math.pi * math.e) / 2 - 7 * torch.trapezoid(torch.xlogy(p, p), r).item()
    found = -nb.chain_log_prob(nb.draw_chain(0, 50_000))
    assert abs(found.mean() - exact) < 4 * found.std() / math.sqrt(50_000)


@pytest.mark.parametrize("place", ["chain", *flow_dimensions.OTHERS])
def test_points_and_slope_of_a_density_in_eight_dimensions_belong_together(place):
    """Integrating by parts: E[x_i ∂ log p / ∂x_j] is -1 for i = j, and 0 for others."""
    draw, log_prob = {"chain": flow_dimensions.CHAIN, **flow_dimensions.OTHERS}[place]
    x = draw(40_000, 1).double().requires_grad_()
    (slope,) = torch.autograd.grad(log_prob(x).sum(), x)
    each = x.detach()[:, :, None] * slope[:, None, :]  # (n, 8, 8)
    error = each.std(0) / math.sqrt(len(x))
    assert ((each.mean(0) + torch.eye(8)).abs() < 5 * error + 1e-3).all()


def test_heavy_tails_are_those_of_a_library():
    x = flow_dimensions.draw_heavy(50, 0)
    law = pyro.distributions.MultivariateStudentT(
        4.0, torch.zeros(8).double(), flow_dimensions.HEAVY
    )
    torch.testing.assert_close(flow_dimensions.heavy_log_prob(x), law.log_prob(x))


@pytest.mark.mistake("F13")
def test_a_bound_of_a_cell_is_below_its_probability_and_exact_where_the_density_is_flat():
    torch.manual_seed(0)
    x, step = torch.tensor([[0.0, 1.0], [0.5, -1.0]]).double(), torch.tensor([0.5, 1.0]).double()
    normal = torch.distributions.Normal(torch.zeros(2).double(), 0.7)
    exact = (normal.cdf(x + step / 2) - normal.cdf(x - step / 2)).log().sum(1)
    bound = nb.course_cell_bound(lambda v: normal.log_prob(v).sum(1), x, step, 4000)
    assert (bound < exact).all() and (bound > exact - 0.2).all()
    flat = nb.course_cell_bound(lambda v: torch.full((len(v),), -math.log(8)), x, step, 3)
    torch.testing.assert_close(flat.exp().double(), torch.full((2,), 0.5 / 8).double())


def test_filled_cells_round_to_what_they_were_filled_for():
    x = torch.tensor([[3.0, -2.0], [0.0, 7.0]]).double()
    points = nb.fill_cells(x, 500, 0)
    assert torch.equal(points.round(), x.repeat(500, 1))
    assert points.reshape(500, 2, 2).mean(0).sub(x).abs().max() < 0.06


STORED = measure.load("flow_dimensions")


def test_the_flow_is_ahead_of_the_mixture_with_every_seed_and_near_the_truth():
    ours, mixture = (
        [run["gap"] for run in STORED["runs"]["chain"][name].values()]
        for name in (flow_dimensions.OURS, "mixture of Gaussians")
    )
    assert len(ours) == len(mixture) == 5
    assert all(g > f + 0.5 for f, g in zip(ours, mixture, strict=True)) and max(ours) < 0.2


def test_stored_figures_of_the_chain_are_those_of_the_code():
    found = flow_dimensions.fitted("one Gaussian", flow_dimensions.CHAIN, 0)["gap"]
    stored = STORED["runs"]["chain"]["one Gaussian"]["0"]["gap"]
    assert found == pytest.approx(stored, abs=1e-3)


def test_every_wine_is_scored_once_by_a_model_that_has_not_seen_it(monkeypatch):
    wine, seen = nb.load_wine_quality("red"), []

    def remember(train, val, steps, seed):
        seen.append((train, val))
        return {"flow": lambda x: 0 * x[:, 0], "mixture of Gaussians": lambda x: 0 * x[:, 0]}

    monkeypatch.setattr(flow_dimensions.nb, "fit_wines", remember)
    scores = flow_dimensions.wine_scores(draws=1)
    counted = (wine.x / torch.tensor(nb.STEP).double()).round()
    sizes = [len(counted) - len(train) - len(val) for train, val in seen]
    assert sum(sizes[:5]) == sum(sizes[5:]) == len(counted) == len(scores["together"]["flow"])
    labels, many = nb.duplicate_groups(counted).unique(), 0
    for train, val in seen[:5]:
        rows = torch.cat((train, val))
        whole = nb.duplicate_groups(torch.cat((rows, counted)))[: len(rows)].unique()
        many += len(whole)
    assert many == 4 * len(labels)  # a wine with its twins is known to four of five folds


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
