"""The mathematics of notebooks/var_mod: bounds against exact answers, gradients, contracts.

Tiny models on tiny data: the scores of the fitted notebook are asserted in the notebook itself.
"""

import copy
import itertools
import math

import pyro
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO
from sklearn.metrics import roc_auc_score
from torch import nn

from benchmarks import all_of_mnist, learnt_priors
from benchmarks.baselines.vae import StockVae, stock
from tools.notebook_definitions import definitions

nb = definitions("var_mod")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def two_clusters(n: int, d: int = 6, seed: int = 0) -> torch.Tensor:
    """Binary rows (n, d): half of them mostly on, half of them mostly off."""
    noise = torch.Generator().manual_seed(seed)
    rate = torch.where(torch.arange(n) % 2 == 0, 0.9, 0.15)[:, None].expand(n, d)
    return (torch.rand(n, d, generator=noise) < rate).float()


@pytest.fixture(scope="module")
def small_vae():
    x = two_clusters(400)
    return nb.fit_vae(x, two_clusters(100, seed=1), k=1, seed=0, hidden=16, steps=300, lr=1e-2)


@pytest.fixture(scope="module")
def all_rows():
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=6)))  # (64, 6)


def log_evidence(vae, x: torch.Tensor) -> torch.Tensor:
    """Exact log p(x) of a one-dimensional latent, by quadrature: (n, d) -> (n,)."""
    z = torch.linspace(-8, 8, 4001)[:, None]
    with torch.no_grad():
        log_p = -nn.functional.binary_cross_entropy_with_logits(
            vae.decoder(z)[:, None].expand(-1, len(x), -1),
            x.expand(len(z), -1, -1),
            reduction="none",
        ).sum(-1)
    log_prior = torch.distributions.Normal(0.0, 1.0).log_prob(z)
    return (log_p + log_prior).logsumexp(0) + math.log(16 / 4000)


# Closed forms and bounds


@pytest.mark.mistake("V7")
def test_rate_is_the_divergence_from_the_standard_normal():
    mu, sigma = torch.randn(5, 3, dtype=torch.double), torch.rand(5, 3, dtype=torch.double) + 0.1
    q, p = torch.distributions.Normal(mu, sigma), torch.distributions.Normal(0.0, 1.0)
    exact = torch.distributions.kl_divergence(q, p).sum(-1)
    torch.testing.assert_close(nb.gaussian_kl(mu, sigma), exact)


@pytest.mark.mistake("V7")
def test_evidence_sums_to_one_over_all_images(small_vae, all_rows):
    assert log_evidence(small_vae, all_rows).exp().sum().item() == pytest.approx(1, abs=1e-4)
    assert nb.bound(small_vae, all_rows, 5000).exp().sum().item() == pytest.approx(1, abs=0.01)


@pytest.mark.mistake("V8")
def test_bounds_climb_to_the_exact_log_likelihood(small_vae, all_rows):
    seeds, exact = range(200), log_evidence(small_vae, all_rows).mean()
    elbo = sum(small_vae.elbo(all_rows, seed).mean() for seed in seeds) / 200
    one, five, fifty = (
        sum(nb.bound(small_vae, all_rows, draws, seed).mean() for seed in seeds) / 200
        for draws in (1, 5, 50)
    )
    assert abs(elbo - one) < 0.05  # both estimate the same bound
    assert one < five < fifty < exact + 0.005 < fifty + 0.055


@pytest.mark.mistake("V5")
def test_samples_have_the_distribution_of_the_model(small_vae, all_rows):
    drawn = small_vae.sample(20_000)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    means = small_vae.sample(20_000, seed=1, means=True)
    assert ((0 < means) & (means < 1)).all()
    assert torch.allclose(drawn.mean(0), means.mean(0), atol=0.02)
    code = (drawn @ (2.0 ** torch.arange(5, -1, -1))).long()
    share = torch.bincount(code, minlength=64) / len(drawn)
    assert torch.allclose(share, log_evidence(small_vae, all_rows).exp(), atol=0.012)


@pytest.mark.mistake("V2")
def test_pyro_and_the_plain_loss_are_the_same_with_the_same_gradients():
    vae, x, found = nb.Vae(6, 2, hidden=8), two_clusters(30), []
    for loss in (
        lambda: TraceMeanField_ELBO().differentiable_loss(nb.model, nb.guide, vae, x, 2) / 30,
        lambda: nb.loss_of(vae, x),
    ):
        pyro.clear_param_store()
        torch.manual_seed(1)
        value = loss()
        found.append([value, *torch.autograd.grad(value, [*vae.parameters()])])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_the_buggy_loss_weighs_the_rate_by_the_number_of_pixels():
    vae, x = nb.Vae(6, 2, hidden=8), two_clusters(30)
    mu, sigma = vae.posterior(x)
    logits = vae.decoder(mu)
    weighed = (6 * nb.gaussian_kl(mu, sigma) - nb.log_bernoulli(x, logits)).mean() / 6
    torch.testing.assert_close(nb.buggy_loss(x, logits, mu, sigma), weighed)


@pytest.mark.mistake("V3")
def test_the_decoder_gives_logits():
    """One that is sure and right costs nothing; with a second sigmoid each pixel cost 0.3 nats."""
    vae, image = nb.ScoredVae(6, 2, hidden=5), torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0, 1.0])
    with torch.no_grad():
        vae.decoder[-1].weight.zero_()
        vae.decoder[-1].bias.copy_(40 * image - 20)
    distortion, rate = vae.terms(image.expand(9, -1))
    assert distortion.max() < 1e-4
    assert nb.loss_of(vae, image.expand(9, -1)).item() == pytest.approx(rate.mean().item())
    torch.testing.assert_close(vae.sample(1, means=True)[0], image)


@pytest.mark.mistake("V4")
def test_there_is_no_training_mode_to_forget():
    """train() and eval() give the same scores, and no module remembers a batch."""
    vae, x = nb.ScoredVae(6, 2, hidden=5), two_clusters(9)
    before = copy.deepcopy(vae.state_dict())
    assert torch.equal(vae.train().elbo(x), vae.eval().elbo(x))
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())


# Learnt priors, completions, exact posteriors


def test_the_aggregate_posterior_is_the_mean_of_the_gaussians():
    mu, sigma = torch.randn(7, 3), torch.rand(7, 3) + 0.2
    z, normal = torch.randn(5, 3), torch.distributions.Normal(mu, sigma)
    exact = normal.log_prob(z[:, None]).sum(-1).exp().mean(-1).log()
    torch.testing.assert_close(nb.log_aggregate(z, mu, sigma), exact, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("apart", [0.0, 100.0])
def test_codes_tell_nothing_or_which_of_n_digits_they_belong_to(apart):
    """The rate is that of the closed form; the information is 0 or at its ceiling, log N."""
    codes = apart * torch.arange(50.0)[:, None], torch.full((50, 1), 0.5)
    paid, told = nb.split_rate(*codes, codes)
    assert told.mean().item() == pytest.approx(math.log(50) if apart else 0.0, abs=1e-3)
    codes = (0.3 * torch.randn(4000, 2), torch.full((4000, 2), 0.5))
    paid, told = nb.split_rate(*codes, codes, rows=4000)
    assert paid.mean().item() == pytest.approx(nb.gaussian_kl(*codes).mean().item(), abs=0.06)
    exact = torch.tensor(0.34 / 0.25).log().item()  # of Gaussian means: log of a ratio of scales
    assert told.mean().item() == pytest.approx(exact, abs=0.06)


def test_a_mixture_has_the_covariances_that_its_roots_say():
    roots = torch.tensor([[[2.0, 9.0], [1.0, -0.5]], [[1.0, 0.0], [0.0, 1.0]]])
    found = nb.mixture(torch.tensor([0.0, math.log(3)]), torch.zeros(2, 2), roots)
    torch.testing.assert_close(found.mixture_distribution.probs, torch.tensor([0.25, 0.75]))
    lower = torch.tensor([[2.0, 0.0], [1.0, 0.5]])
    covariance = found.component_distribution.covariance_matrix
    torch.testing.assert_close(covariance[0], lower @ lower.T)


@pytest.fixture(scope="module")
def shifted():
    """A learnt prior for the small VAE that is far from N(0, 1)."""
    return nb.mixture(torch.zeros(2), torch.tensor([[-1.5], [1.0]]), 0.5 * torch.ones(2, 1, 1))


@pytest.mark.mistake("V8")
def test_bounds_of_each_prior_climb_to_the_exact_log_likelihood(small_vae, shifted, all_rows):
    unit = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(1), 1.0), 1)
    found = nb.prior_scores(small_vae, {"unit": unit, "shifted": shifted}, all_rows, 3000)
    z = torch.linspace(-8, 8, 4001)[:, None]
    for name, prior in {"unit": unit, "shifted": shifted}.items():
        log_p = nb.log_bernoulli(all_rows, small_vae.decoder(z)[:, None].expand(-1, 64, -1))
        exact = (log_p + prior.log_prob(z)[:, None]).logsumexp(0) + math.log(16 / 4000)
        elbo, bound = found[name]
        assert (bound - exact).abs().mean() < 0.05 and (elbo < bound).all()
    torch.testing.assert_close(
        found["unit"][1], log_evidence(small_vae, all_rows), atol=0.2, rtol=0
    )
    closed = sum(small_vae.elbo(all_rows, seed).mean() for seed in range(50)) / 50
    assert found["unit"][0].mean().item() == pytest.approx(closed.item(), abs=0.05)


def test_prior_and_network_improve_together_and_the_old_ones_stay(small_vae, shifted):
    x, before = two_clusters(400), copy.deepcopy(small_vae.state_dict())
    vae, prior = nb.train_together(small_vae, shifted, x, steps=100)
    assert all(torch.equal(value, before[name]) for name, value in small_vae.state_dict().items())
    old = nb.prior_scores(small_vae, {"": shifted}, x, 20)[""][0].mean()
    new = nb.prior_scores(vae, {"": prior}, x, 20)[""][0].mean()
    assert new > old + 0.1
    assert not torch.equal(prior.component_distribution.loc, shifted.component_distribution.loc)


@pytest.mark.mistake("V14")
def test_the_grid_gives_the_standard_deviation_of_the_posterior():
    vae, x = nb.Vae(6, 2, hidden=8), two_clusters(20)
    with torch.no_grad():
        vae.decoder[0].weight.mul_(4)
        vae.decoder[-1].weight.mul_(4)
        z = torch.randn(100_000, 2)
        weight = nb.log_bernoulli(x, vae.decoder(z)[:, None].expand(-1, 20, -1)).softmax(0)
        mean = weight.T @ z
        exact = (weight.T @ z.square() - mean.square()).sqrt()
        torch.testing.assert_close(nb.exact_sigma(vae, x), exact, atol=0.02, rtol=0)
        assert (exact < 0.95).any()
        vae.decoder[-1].weight.zero_()  # the image says nothing: the prior is left
    torch.testing.assert_close(nb.exact_sigma(vae, x), torch.ones(20, 2), atol=1e-3, rtol=0)


# Contracts


def test_batches_visit_every_row_once_per_pass():
    x = torch.arange(10)[:, None]
    rows = list(nb.batches(x, 5, 4))
    for part in (rows[:2], rows[2:]):
        assert sorted(torch.cat(part).flatten().tolist()) == list(range(10))
    assert not torch.equal(torch.cat(rows[:2]), torch.cat(rows[2:]))
    assert [len(rows) for rows in nb.batches(x, 99, 3)] == [10, 10, 10]


def test_a_fit_is_watched_ten_times_and_keeps_the_best_weights():
    x, seen = two_clusters(100), []

    def watch(vae, step):
        seen.append((step, vae.elbo(x).mean().item()))

    vae = nb.fit_vae(x, x, k=2, seed=0, hidden=8, steps=50, lr=0.5, watch=watch)
    assert [step for step, _ in seen] == list(range(5, 51, 5))
    assert vae.elbo(x).mean().item() == pytest.approx(max(score for _, score in seen))


@pytest.mark.mistake("V9")
def test_binarise_keeps_black_and_white_and_samples_grey():
    x = torch.tensor([0.0, 1.0, 0.25]).expand(40_000, 3)
    drawn = nb.binarise(x)
    assert (drawn[:, 0] == 0).all() and (drawn[:, 1] == 1).all()
    assert drawn[:, 2].mean().item() == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8, torch.bool])
@pytest.mark.parametrize("n", [1, 50, 450])
def test_a_fit_takes_other_sizes_and_types_and_constant_pixels(n, dtype):
    x = torch.cat([two_clusters(n), torch.zeros(n, 2), torch.ones(n, 1)], 1).to(dtype)
    vae = nb.fit_vae(x, x, k=3, seed=0, hidden=8, steps=10, lr=0.1)
    wanted = dtype if dtype.is_floating_point else torch.float32
    for score in (vae.elbo(x), nb.bound(vae, x, 7)):
        assert score.shape == (n,) and score.dtype == wanted and score.isfinite().all()
    assert vae.sample(4).shape == (4, 9) and vae.sample(4).dtype == wanted


def test_the_seed_decides_fit_and_scores_whatever_was_drawn_before():
    x, scores = two_clusters(100), []
    for seed in (0, 0, 1):
        torch.rand(3)
        vae = nb.fit_vae(x, x, k=2, seed=seed, hidden=8, steps=10)
        scores.append(nb.bound(vae, x, 5))
    assert torch.equal(scores[0], scores[1]) and not torch.equal(scores[0], scores[2])


NO_IMAGES = [torch.full((3, 6), value) for value in (2.0, -1.0, math.nan)]
NO_IMAGES += [torch.zeros(shape) for shape in ((6,), (0, 6), (3, 2, 3))]


@pytest.mark.parametrize("x", NO_IMAGES)
def test_what_is_no_image_is_refused(small_vae, x):
    for call in (
        small_vae.elbo,
        lambda x: nb.bound(small_vae, x, 3),
        lambda x: nb.fit_vae(x, x, k=2, seed=0, steps=10),
        lambda x: nb.fit_vae(two_clusters(9), x, k=2, seed=0, steps=10),
    ):
        with pytest.raises(ValueError, match="binarise|pixels must be|shape"):
            call(x)


def test_validation_rows_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"shape \(n, 6\), not \(3, 5\)"):
        nb.fit_vae(two_clusters(9), torch.zeros(3, 5), k=2, seed=0, steps=10)


@pytest.mark.mistake("V1")
def test_no_grey_image_is_scored(small_vae):
    grey = torch.full((3, 6), 0.5)
    for score in (small_vae.elbo, lambda x: nb.bound(small_vae, x, 3)):
        with pytest.raises(ValueError, match="binarise"):
            score(grey)


# Where everything is known: the linear VAE, gradients, latents


def linear_data(n: int = 500) -> torch.Tensor:
    x = torch.randn(n, 5, dtype=torch.double) @ torch.randn(5, 5, dtype=torch.double)
    return x - x.mean(0)


def set_linear(x: torch.Tensor, k: int) -> nn.Module:
    """The best linear VAE, its guide exact up to the posterior's correlations, which are none."""
    w, s, _ = nb.best_linear(x, k)
    mean, covariance = nb.ppca_posterior(torch.eye(x.shape[1]).to(x), w, s.item())
    vae = nb.LinearVae(x.shape[1], k).double()
    with torch.no_grad():
        vae.decoder.weight.copy_(w)
        vae.encoder.weight.copy_(mean.T)
        vae.log_noise.copy_(s.log())
        vae.log_width.copy_(covariance.diagonal().log() / 2)
    return vae


@pytest.mark.mistake("V8")
def test_the_best_linear_vae_has_no_gap_and_none_is_better():
    x = linear_data()
    vae, best = set_linear(x, 2), nb.best_linear(x, 2)[-1]
    assert nb.linear_log_likelihood(vae, x).mean().item() == pytest.approx(best)
    torch.testing.assert_close(nb.linear_elbo(vae, x), nb.linear_log_likelihood(vae, x))
    for weights in vae.parameters():
        with torch.no_grad():
            kept = weights.clone()
            weights.add_(0.03 * torch.randn_like(weights))
        bound, exact = nb.linear_elbo(vae, x), nb.linear_log_likelihood(vae, x)
        assert (bound < exact + 1e-9).all() and bound.mean() < best
        with torch.no_grad():
            weights.copy_(kept)


def test_the_closed_form_of_the_linear_bound_is_that_of_its_model_and_guide():
    vae, x = nb.LinearVae(5, 2).double(), linear_data(3)
    with torch.no_grad():
        vae.log_noise.fill_(0.3)
        vae.log_width.copy_(torch.tensor([-0.5, 0.2]))
    rows = x.repeat(40_000, 1)
    loss = TraceMeanField_ELBO().loss(nb.LinearVae.model, nb.guide, vae, rows, 2) / len(rows)
    assert nb.linear_elbo(vae, x).mean().item() == pytest.approx(-loss, abs=0.03)


@pytest.mark.mistake("V13")
def test_leaving_one_out_is_unbiased_and_the_mean_of_all_is_not():
    """Every pair of draws from three values, with their probabilities: no noise is left."""
    p = torch.tensor([0.2, 0.3, 0.5], dtype=torch.double)
    f, score = torch.tensor([[4.0, -1.0, 7.0], [3.0, 1.0, -1.8]], dtype=torch.double)
    assert (p * score).sum().abs() < 1e-9
    expected = biased = 0
    for i, j in itertools.product(range(3), repeat=2):
        pair = f[[i, j]], score[[i, j], None]
        expected += p[i] * p[j] * nb.leave_one_out(*pair).mean()
        biased += p[i] * p[j] * ((pair[0] - pair[0].mean())[:, None] * pair[1]).mean()
    exact = (p * f * score).sum()
    torch.testing.assert_close(expected, exact)
    torch.testing.assert_close(biased, exact / 2)


def test_gradients_are_those_of_the_linear_model():
    x = linear_data()
    w, s, _ = nb.best_linear(x, 2)
    exact, f, score, slope = nb.draw_gradients(x[0], w, s.item(), 200_000)
    for values in (nb.leave_one_out(f, score), slope):
        error = values.std(0) / len(values) ** 0.5
        assert ((values.mean(0) - exact).abs() < 5 * error + 1e-6).all()


@pytest.mark.mistake("V15")
def test_the_rate_is_shared_among_latents_and_a_dead_one_has_none(small_vae, all_rows):
    vae = nb.Vae(6, 3, hidden=5)
    with torch.no_grad():
        vae.encoder[-1].weight[[1, 4]] = 0.0
        vae.encoder[-1].bias[[1, 4]] = torch.tensor([0.0, math.log(math.e - 1)])  # N(0, 1)
        vae.encoder[-1].weight[[0, 2]] *= 9
    share = nb.kl_per_latent(vae, all_rows)
    rate = nb.gaussian_kl(*vae.posterior(all_rows)).mean()
    assert share.shape == (3,) and share.sum().item() == pytest.approx(rate.item(), rel=1e-5)
    assert share[1].abs() < 1e-6 and nb.active_units(vae, all_rows) == 2


def test_a_bound_repeats_itself_and_leaves_the_noise_alone(small_vae, all_rows):
    state = torch.get_rng_state()
    first = nb.bound(small_vae, all_rows, 900)  # four rows in a portion
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, nb.bound(small_vae, all_rows, 900))
    assert not torch.equal(first, nb.bound(small_vae, all_rows, 900, seed=1))


def test_area_under_the_roc_curve_counts_ties_half():
    noise = torch.Generator().manual_seed(0)
    strange, usual = (torch.randint(v, (50,), generator=noise).float() for v in (9, 7))
    labels = [1] * 50 + [0] * 50
    expected = roc_auc_score(labels, torch.cat([strange, usual]).tolist())
    assert nb.roc_area(strange, usual)[0] == pytest.approx(expected)


# The benchmark on all of MNIST, on tiny data


def test_benchmark_fits_and_scores_the_stock_model():
    x = two_clusters(600)
    found = all_of_mnist.fitted(lambda seed: stock(x, x, seed, 30, 0)[0], x, x[:100])
    before = StockVae(6).elbo(x).mean() + 0.1
    assert before < found["elbo"] < found["bound_500"] + 0.05 < 0 < found["training_seconds"]


def test_benchmark_scores_each_prior_and_its_control():
    x, settings = two_clusters(400), {"k": 2, "hidden": 16, "steps": 60, "draws": (4, 20)}
    found = learnt_priors.fitted(x, two_clusters(100, seed=1), x[:50], 0, **settings)
    assert len(found["scores"]) == len(found["processor_seconds"]) == 5
    assert all(elbo < bound + 0.05 < 0 for elbo, bound in found["scores"].values())


def test_benchmark_leaves_one_part_out_at_a_time():
    x, settings = two_clusters(400), {"k": 3, "hidden": 16, "steps": 60, "seeds": range(2)}
    found = learnt_priors.ablation(x, two_clusters(100, seed=1), x[:50], **settings)
    assert list(found) == list(learnt_priors.LESS)
    assert len({tuple(elbos) for elbos in found.values()}) == 5  # each setting changes the fit
    whole = nb.fit_vae(x, two_clusters(100, seed=1), k=3, seed=1, hidden=16, steps=60)
    elbo = sum(whole.elbo(x[:50], seed).mean().item() for seed in range(8)) / 8
    assert found["nothing"][1] == pytest.approx(elbo, abs=1e-3)


def test_a_fit_of_too_few_steps_is_refused():
    with pytest.raises(ValueError, match="steps must be a whole number of at least 10, not 9"):
        nb.fit_vae(two_clusters(9), two_clusters(9), k=2, seed=0, steps=9)
