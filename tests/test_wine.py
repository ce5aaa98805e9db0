"""The mathematics of the wine notebook, lifted out of it, and the checks of its exercises."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch.distributions import Normal

from benchmarks import wine_splits
from course_utils import checks
from course_utils.metrics import mixture_log_density
from tools.notebook_definitions import definitions

ROOT = Path(__file__).resolve().parents[1]
SOURCE = (ROOT / "notebooks" / "bayesian_neural_networks_wine.py").read_text(encoding="utf-8")
BOOK = definitions("bayesian_neural_networks_wine")
FITS = {
    name: getattr(BOOK, name)
    for name in (
        "fit_constant",
        "fit_linear",
        "fit_network",
        "fit_mc_dropout",
        "fit_deep_ensemble",
        "fit_laplace",
        "fit_mean_field_bnn",
        "fit_heteroscedastic_bnn",
        "fit_bnn_ensemble",
        "fit_nearest",
    )
}
SHORT = {"steps": 20}


def line(n, d, dtype=torch.float32, seed=0):
    """A noisy plane, standardised."""
    noise = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=noise, dtype=dtype)
    y = x.sum(1) + 0.5 * torch.randn(n, generator=noise, dtype=dtype)
    return x, (y - y.mean()) / y.std()


@pytest.mark.parametrize("name", FITS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fits_keep_the_contract(name, dtype):
    x, y = line(40, 3, dtype)
    options = {} if name in ("fit_constant", "fit_linear", "fit_nearest") else SHORT
    mean, scale = FITS[name](x, y, seed=1, **options)(x[:7], 4)
    assert mean.shape == scale.shape == (4, 7)
    assert mean.dtype == scale.dtype == dtype
    assert mean.isfinite().all() and (scale > 0).all()
    assert not mean.requires_grad and not scale.requires_grad


@pytest.mark.parametrize("name", ["fit_mean_field_bnn", "fit_laplace", "fit_bnn_ensemble"])
def test_a_seed_decides_everything(name):
    x, y = line(40, 3)
    first, again, other = (FITS[name](x, y, seed=s, **SHORT)(x, 6)[0] for s in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_network_is_two_dense_layers():
    x, hidden = torch.randn(5, 3), 4
    w = torch.randn(2, 3 * hidden + hidden + hidden * 2 + 2)
    first, second = torch.nn.Linear(3, hidden), torch.nn.Linear(hidden, 2)
    with torch.no_grad():
        first.weight.copy_(w[1, :12].reshape(3, 4).T)
        first.bias.copy_(w[1, 12:16])
        second.weight.copy_(w[1, 16:24].reshape(4, 2).T)
        second.bias.copy_(w[1, 24:])
        expected = second(torch.relu(first(x)))
    torch.testing.assert_close(BOOK.network(w, x, hidden, 2)[1], expected)


@pytest.mark.parametrize("hidden", [20, 400])
def test_prior_variance_does_not_grow_with_the_width(hidden):
    torch.manual_seed(0)
    x = torch.randn(50, 11)
    scale = BOOK.prior_scale(x, hidden)
    f = BOOK.network(scale * torch.randn(2000, len(scale)), x, hidden)[..., 0]
    # Var f = Var b2 + E[relu(z)²] and z has variance 1 + |x|² / 11, half of it survives relu.
    expected = 1 + (1 + x.square().mean(1)) / 2
    torch.testing.assert_close(f.var(0), expected, rtol=0.2, atol=0)


def test_linear_is_the_exact_posterior():
    """Predictive draws against the Student t of the normal-inverse-gamma model."""
    x, y = line(30, 2, torch.float64)
    ones = torch.cat([x, torch.ones(30, 1).double()], 1)
    precision = ones.T @ ones + torch.eye(3).double()
    m = torch.linalg.solve(precision, ones.T @ y)
    rate = (1 + y @ y - m @ precision @ m) / 2
    new = torch.tensor([[0.5, -1.0], [3.0, 3.0]]).double()
    row = torch.cat([new, torch.ones(2, 1).double()], 1)
    spread = 1 + (row @ torch.linalg.inv(precision) * row).sum(1)
    student = torch.distributions.StudentT(31.0, row @ m, (rate / 15.5 * spread).sqrt())
    mean, scale = BOOK.fit_linear(x, y, seed=0)(new, 40_000)
    for offset in (-1.5, 0.0, 1.0):
        target = row @ m + offset * student.scale
        found = mixture_log_density(target, mean, scale)
        torch.testing.assert_close(found, student.log_prob(target), rtol=0, atol=0.03)


def test_laplace_recovers_bayesian_linear_regression_where_the_network_is_linear():
    """On data that carry no curvature its noise is the true one, and doubt grows outside."""
    x, y = line(400, 2)
    mean, scale = BOOK.fit_laplace(x, y, seed=0)(torch.tensor([[0.0, 0.0], [6.0, -6.0]]), 500)
    noise = (y - x @ torch.linalg.lstsq(x, y[:, None]).solution[:, 0]).std()
    assert abs(scale[0, 0] / noise - 1) < 0.15
    assert mean[:, 1].std() > 2 * mean[:, 0].std()


def test_variance_parts_add_up_to_the_variance_of_the_mixture():
    torch.manual_seed(0)
    mean, scale = torch.randn(5, 3).double(), torch.rand(5, 3).double() + 0.2
    total = BOOK.variance_parts(mean, scale).sum(0)
    draws = (mean + scale * torch.randn(200_000, 5, 3).double()).flatten(0, 1)
    torch.testing.assert_close(total, draws.var(0), rtol=0.02, atol=0)


def test_folds_keep_twins_together_and_are_balanced():
    groups = torch.randint(0, 300, (1000,))
    groups = groups.unique(return_inverse=True)[1]
    fold = BOOK.deal_folds(groups, folds=5, seed=3)
    assert all(len(fold[groups == g].unique()) == 1 for g in groups.unique())
    assert fold.bincount().min() > 120 and len(fold.unique()) == 5
    assert not torch.equal(fold, BOOK.deal_folds(groups, folds=5, seed=4))


def test_linear_asinh_is_the_line_in_other_features():
    x, y = line(40, 3)
    first = BOOK.fit_linear_asinh(x, y, seed=1)(x, 5)[0]
    assert torch.equal(first, BOOK.fit_linear(x.asinh(), y, seed=1)(x.asinh(), 5)[0])


def test_a_batch_counts_as_all_wines_only_with_the_factor():
    """The likelihood's share of the loss is that of the batch, times the factor."""
    x, y = line(64, 3)
    losses = []
    for factor in (1.0, 2.0, 3.0):
        BOOK.pyro.clear_param_store()
        BOOK.pyro.set_rng_seed(0)
        losses.append(BOOK.negative_elbo(BOOK.batch_model(factor), x, y, 50, False).item())
    assert losses[2] - losses[1] == pytest.approx(losses[1] - losses[0], rel=1e-3)
    assert losses[1] > losses[0]


def test_guide_of_is_diagonal_or_full():
    raw = torch.randn(4, 4)
    diagonal = BOOK.guide_of(torch.zeros(4), raw, False).covariance_matrix
    torch.testing.assert_close(diagonal, torch.diag((2 * raw.diag()).exp()))
    full = BOOK.guide_of(torch.zeros(4), raw, True).covariance_matrix
    assert (full - torch.diag(full.diag())).abs().max() > 0.01


def test_spikes_raise_the_log_density_without_bound():
    torch.manual_seed(0)
    observed = torch.tensor([5.0, 6.0]).double()
    mean, scale = torch.full((200, 2), 5.5).double(), torch.full((200, 2), 0.7).double()
    values = [
        mixture_log_density(observed, *BOOK.spiked(mean, scale, width)).mean()
        for width in (1e-2, 1e-4)
    ]
    assert values[1] - values[0] == pytest.approx(math.log(100), abs=0.2)


STORED = json.loads((ROOT / "benchmarks" / "wine_splits.json").read_text(encoding="utf-8"))


def twenty(model, group):
    """Mean RMSE and log density over the twenty stored splits of a group."""
    return torch.tensor(STORED[model][group]).mean(0).tolist()


@pytest.mark.parametrize("model", wine_splits.MODELS)
def test_stored_scores_on_random_splits_are_those_of_the_code(model):
    for split in (3, 17):
        score = wine_splits.score(FITS[model], split)
        assert score == pytest.approx(STORED[model]["first"][split], abs=0.01)


def test_published_protocol():
    """The literature's line has 0.654 and -0.997; these splits are a little harder."""
    assert twenty("fit_linear", "first") == pytest.approx([0.654, -0.997], abs=0.008)
    rmse_, density = twenty("fit_mean_field_bnn", "first")
    assert rmse_ <= 0.64 and density >= -0.965
    for group in wine_splits.GROUPS:
        line_, field = twenty("fit_linear", group), twenty("fit_mean_field_bnn", group)
        assert field[0] < line_[0] - 0.015 and field[1] > line_[1] + 0.03
        assert twenty("fit_bnn_ensemble", group)[1] > line_[1] + 0.08
    rmse_, density = twenty("fit_bnn_ensemble", "first")
    assert rmse_ <= 0.625 and density >= -0.92


def test_prose_quotes_the_stored_scores():
    text = " ".join(SOURCE.split()).replace("# ", "")
    for model, name in (
        ("fit_mean_field_bnn", "mean-field network"),
        ("fit_laplace", "Laplace"),
        ("fit_bnn_ensemble", "mixture of ten"),
    ):
        rmse_, density = twenty(model, "first")
        assert f"{name} {rmse_:.3f} and −{-density:.3f}" in text
    for model, group, name in (
        ("fit_linear", "first", "the straight line has"),
        ("fit_linear", "second", "another twenty the line has"),
        ("fit_mean_field_bnn", "second", "the mean-field network"),
        ("fit_bnn_ensemble", "second", "and the mixture"),
    ):
        rmse_, density = twenty(model, group)
        assert f"{name} {rmse_:.3f} and −{-density:.3f}" in text


SOLUTIONS = {
    "mixture_log_density": "solution_log_density",
    "kl_between_gaussians": "solution_kl",
    "minibatch_loss": "solution_loss",
    "variance_parts": "solution_parts",
    "prior_prediction": "solution_prediction",
    "coverage": "solution_coverage",
    "score_probabilities": "solution_probabilities",
}
WRONG = {
    "mixture_log_density": [
        lambda y, m, s: Normal(m, s).log_prob(y).mean(0),
        lambda y, m, s: Normal(m.mean(0), s.mean(0)).log_prob(y),
        lambda y, m, s: BOOK.solution_log_density(y, m, s**2),
    ],
    "kl_between_gaussians": [
        lambda a, b, c, d: BOOK.solution_kl(c, d, a, b),
        lambda a, b, c, d: BOOK.solution_kl(a, b, c, d) + 0.5,
        lambda a, b, c, d: torch.log(d / b) + (b + (a - c) ** 2) / (2 * d) - 0.5,
    ],
    "minibatch_loss": [
        lambda p, kl, n: (kl - p.sum()) / n,
        lambda p, kl, n: kl - p.mean(),
        lambda p, kl, n: p.mean() - kl / n,
    ],
    "variance_parts": [
        lambda m, s: torch.stack([s.mean(0) ** 2, m.var(0, correction=0)]),
        lambda m, s: torch.stack([m.var(0, correction=0), s.square().mean(0)]),
        lambda m, s: torch.stack([s.square().mean(0), m.var(0)]),
    ],
    "prior_prediction": [lambda: torch.tensor([1, 1, 1]), lambda: torch.tensor([-1, -1, 1])],
    "coverage": [
        lambda y, d, m: (y <= d.quantile(m, dim=0)).double().mean(),
        lambda y, d, m: 1 - BOOK.solution_coverage(y, d, m),
        lambda y, d, m: ((d.amin(0) <= y) & (y <= d.amax(0))).double().mean(),
    ],
    "score_probabilities": [
        lambda m, s, k: Normal(m[..., None], s[..., None]).log_prob(k).exp().mean(0),
        lambda m, s, k: BOOK.solution_probabilities(m.mean(0)[None], s.mean(0)[None], k),
    ],
}


@pytest.mark.parametrize("name", SOLUTIONS)
def test_check_accepts_the_solution(name):
    verdict = getattr(checks, f"check_{name}")(getattr(BOOK, SOLUTIONS[name]))
    assert verdict, verdict


@pytest.mark.parametrize("name", WRONG)
def test_check_refuses_plausible_mistakes(name):
    check = getattr(checks, f"check_{name}")
    for wrong in WRONG[name]:
        verdict = check(wrong)
        assert not verdict and verdict.message.startswith("✗")


@pytest.mark.parametrize("name", SOLUTIONS)
@pytest.mark.parametrize(
    "nonsense",
    [None, ..., "yes", 3, lambda *a: None, lambda *a: "x", lambda *a: torch.zeros(9, 9, 9)]
    + [lambda *a: float("nan"), lambda: 1 / 0],
)
def test_check_survives_nonsense(name, nonsense):
    assert not getattr(checks, f"check_{name}")(nonsense)


def test_wider_prior_does_what_the_exercise_says():
    """Ten times wider prior scales, 54 data: more epistemic doubt, more KL, less ELBO."""
    x, y = line(54, 11)
    found = []
    for factor in (1.0, 10.0):
        book = definitions("bayesian_neural_networks_wine")
        narrow = book.weight_prior
        scope = book.train_svi.__globals__
        scope["weight_prior"] = lambda *a, f=factor, narrow=narrow: f * narrow(*a)
        loc, scale, losses = book.train_svi(
            x, y, seed=0, hidden=50, steps=800, rate=0.03, noisy=False
        )
        prior = factor * narrow(x, 50, False)
        kl = torch.distributions.kl_divergence(Normal(loc, scale), Normal(0 * prior, prior)).sum()
        w = loc + scale * torch.randn(200, len(loc))
        doubt = book.mean_and_scale(w, x, 50, False)[0].var(0).mean()
        found.append(torch.tensor([doubt, kl, -sum(losses[-100:]) / 100]))
    assert (found[1] - found[0]).sign().tolist() == [1, 1, -1]
