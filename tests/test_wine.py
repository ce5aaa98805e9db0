"""The mathematics of the wine notebook, lifted out of it."""

import inspect
import math
import types

import pyro
import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, Normal

from benchmarks import measure, wine_splits
from course_utils.metrics import mixture_log_density, rmse
from tools.notebook_definitions import definitions

BOOK = definitions("bayesian_neural_networks_wine")
FITS = {name: fit for name, fit in vars(BOOK).items() if name.startswith("fit_")}


def line(n, d, dtype=torch.float32, seed=0):
    """A noisy plane, standardised."""
    noise = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=noise, dtype=dtype)
    y = x.sum(1) + 0.5 * torch.randn(n, generator=noise, dtype=dtype)
    return x, (y - y.mean()) / y.std()


@pytest.mark.parametrize("name", FITS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_fit_gives_means_and_scales_that_its_seed_decides(name, dtype):
    x, y = line(40, 3, dtype)
    trained = "steps" in inspect.signature(FITS[name]).parameters
    options = {"steps": 20} if trained else {}
    first, again, other = (FITS[name](x, y, seed=s, **options)(x[:7], 4) for s in (1, 1, 2))
    for part in first:
        assert part.shape == (4, 7) and part.dtype == dtype and not part.requires_grad
    assert first[0].isfinite().all() and (first[1] > 0).all()
    assert torch.equal(first[0], again[0])
    assert not trained or not torch.equal(first[0], other[0])


def test_network_is_two_dense_layers():
    x, w = torch.randn(5, 3), torch.randn(2, 3 * 4 + 4 + 4 * 2 + 2)
    first, bias, second, other_bias = w[1].split([12, 4, 8, 2])
    expected = torch.relu(x @ first.reshape(3, 4) + bias) @ second.reshape(4, 2) + other_bias
    torch.testing.assert_close(BOOK.network(w, x, 4, 2)[1], expected)


@pytest.mark.parametrize("hidden", [20, 400])
def test_prior_variance_does_not_grow_with_the_width(hidden):
    torch.manual_seed(0)
    x = torch.randn(50, 11)
    scale = BOOK.prior_scale(x, hidden)
    f = BOOK.network(scale * torch.randn(2000, len(scale)), x, hidden)[..., 0]
    # Var f = Var b2 + E[relu(z)²] and z has variance 1 + |x|² / 11, half of it survives relu.
    expected = 1 + (1 + x.square().mean(1)) / 2
    torch.testing.assert_close(f.var(0), expected, rtol=0.2, atol=0)


@pytest.mark.mistake("B8")
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


@pytest.mark.mistake("B9")
def test_variance_parts_add_up_to_the_variance_of_the_mixture():
    torch.manual_seed(0)
    mean, scale = torch.randn(5, 3).double(), torch.rand(5, 3).double() + 0.2
    total = BOOK.course_parts(mean, scale).sum(0)
    draws = (mean + scale * torch.randn(200_000, 5, 3).double()).flatten(0, 1)
    torch.testing.assert_close(total, draws.var(0), rtol=0.02, atol=0)


@pytest.mark.mistake("D1")
def test_folds_keep_twins_together_and_are_balanced():
    groups = torch.randint(0, 300, (1000,))
    groups = groups.unique(return_inverse=True)[1]
    fold = BOOK.deal_folds(groups, folds=5, seed=3)
    assert all(len(fold[groups == g].unique()) == 1 for g in groups.unique())
    assert fold.bincount().min() > 120 and len(fold.unique()) == 5
    assert not torch.equal(fold, BOOK.deal_folds(groups, folds=5, seed=4))


@pytest.mark.mistake("B2")
def test_a_batch_counts_as_all_wines_only_by_the_plate():
    """The log likelihood of 32 of 64 wines, at fixed weights: once, or twice."""
    x, y = line(64, 3)
    w, given = torch.zeros(len(BOOK.weight_prior(x, 50, False))), {}
    for by_plate in (True, False):
        model = pyro.condition(BOOK.batch_model(by_plate), {"w": w})
        traces = [pyro.poutine.trace(model).get_trace(x, y) for _ in range(300)]
        for trace in traces:
            trace.compute_log_prob()
        given[by_plate] = sum(t.nodes["y"]["log_prob_sum"] for t in traces) / len(traces)
    whole = Normal(0.0, 1.0).log_prob(y).sum()
    assert given[True] == pytest.approx(whole.item(), rel=0.03)
    assert given[False] == pytest.approx(whole.item() / 2, rel=0.03)


@pytest.mark.mistake("B8")
@pytest.mark.parametrize("noisy", [False, True])
def test_the_noise_scale_has_one_prior_as_a_number_and_as_an_output(noisy):
    """log sigma ~ N(0, 1), and about that much at every wine when it is an output."""
    torch.manual_seed(0)
    x = torch.randn(200, 11)
    prior = BOOK.weight_prior(x, 50, noisy)
    scale = BOOK.mean_and_scale(prior * torch.randn(3000, len(prior)), x, 50, noisy)[1]
    assert 0.7 < scale.log().std(0).mean() < 1.3


def test_laplace_finds_width_and_noise_of_a_line():
    """On a noisy line the noise scale is that of the residuals, and coverage is right."""
    x, y = line(300, 3)
    mean, scale = BOOK.fit_laplace(x, y, seed=0)(x, 400)
    truth = 0.5 / (x.sum(1) + 0.5 * torch.randn(300)).std()
    assert scale[0, 0].item() == pytest.approx(truth.item(), rel=0.15)
    assert (mean.mean(0) - y).std() < 1.1 * scale[0, 0]


@pytest.mark.mistake("B14")
def test_the_width_of_an_interval_is_that_of_its_quantiles():
    """One Gaussian in closed form; two far apart by symmetry."""
    mean, scale = torch.tensor([[1.0, -5.0], [1.0, 5.0]]).double(), torch.ones(2, 2).double()
    width = BOOK.width_of(mean, scale)
    assert width[0].item() == pytest.approx(2 * 1.6449, abs=1e-3)
    assert width[1].item() == pytest.approx(10 + 2 * 1.2816, abs=0.01)


# --------------------------------------------------------- made-up wines, where the truth is known


@pytest.fixture
def book():
    """The notebook's functions on their own, so that a test may change what they see."""
    return definitions("bayesian_neural_networks_wine")


@pytest.fixture
def wine(book):
    """Wines with y = 5 + x_0 + noise 0.5; those of fold 0 are far away from the others."""
    noise = torch.Generator().manual_seed(0)
    x = torch.randn(1000, 11, generator=noise).double()
    y = 5 + x[:, 0] + 0.5 * torch.randn(1000, generator=noise).double()
    fold = torch.arange(1000) % 5
    x[fold == 0, 1:] += 100
    known = types.SimpleNamespace(book=book, x=x, y=y, fold=fold)
    book.test_once.__globals__.update(wine=known, device=torch.device("cpu"), DRAWS=800)
    return known


def known_fit(wine, spread=0.0, log=None):
    """A fit whose draws are the true mean ± spread, with the true noise, in quality points."""
    used = wine.fold != 0
    centre, unit = wine.y[used].mean(), wine.y[used].std()
    x0, scale0 = wine.x[used, 0].mean(), wine.x[used, 0].std()

    def predict(x_new, s):
        side = torch.where(torch.arange(s) % 2 == 0, spread, -spread)[:, None]
        mean = (5 + x_new[:, 0] * scale0 + x0 - centre + side) / unit
        return mean, torch.full_like(mean, 0.5 / unit.item())

    def fit(x, y, *, seed):
        if log is not None:
            log.extend((x, y))
        return predict

    return fit


@pytest.mark.mistake("D2", "D3")
def test_test_wines_touch_neither_scale_nor_fit(wine):
    """Exactly the training wines arrive, with mean 0 and scale 1; in the benchmark, too."""
    table, benchmark = [], []
    wine.book.test_once(known_fit(wine, log=table), 0, wine.fold)
    wine_splits.score(known_fit(wine, log=benchmark), 3)
    for seen, n in ((table, 800), (benchmark, 1439)):
        assert [part.shape for part in seen] == [(n, 11), (n,)]
        for values in seen:
            assert values.mean(0).abs().max() < 1e-4 and (values.std(0) - 1).abs().max() < 1e-4


@pytest.mark.mistake("B4", "B5", "B7", "B12")
def test_the_table_scores_the_average_over_draws_in_quality_points(wine):
    """A model whose draws are the truth plus and minus one point, beside what they would score."""
    row, each = wine.book.test_once(known_fit(wine, spread=1.0), 0, wine.fold)
    held = wine.fold == 0
    y, truth = wine.y[held], 5 + wine.x[held, 0]
    right = rmse(y, truth)
    assert row[0].item() == pytest.approx(right, abs=1e-4)
    assert right < 0.6 < math.sqrt(2) * right  # one noisy draw scores 0.7 or more, one draw 1.1
    draws = torch.stack([truth - 1, truth + 1], -1)
    mixture = MixtureSameFamily(Categorical(torch.ones(2)), Normal(draws, 0.5)).log_prob(y)
    torch.testing.assert_close(each[1], mixture, rtol=0, atol=1e-4)
    assert row[1].item() == pytest.approx(mixture.mean().item(), abs=1e-4)
    assert row[1] < Normal(truth, 0.5).log_prob(y).mean() - 0.5  # not that of the mean prediction


@pytest.mark.mistake("B10")
@pytest.mark.parametrize("fit", ["fit_deep_ensemble", "fit_mean_field_bnn"])
def test_an_ensemble_keeps_its_members_apart(fit):
    """Draws are members, each with its own mean and its own noise for every wine."""
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    options = {"noisy": True} if "field" in fit else {}
    mean, scale = FITS[fit](x, x[:, 0], seed=0, steps=5, members=4, **options)(x[:6], 4)
    for part in (mean, scale):
        assert (part.std(0) > 1e-4).all() and (part.std(1) > 1e-4).all()


# ----------------------------------------------------------------- stored scores on random splits

STORED = measure.load("wine_splits")["runs"]


@pytest.mark.parametrize("model", wine_splits.MODELS)
def test_stored_scores_on_random_splits_are_those_of_the_code(model):
    assert wine_splits.score(FITS[model], 3) == pytest.approx(STORED[model]["first"][3], abs=0.01)
