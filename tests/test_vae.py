"""The mathematics of notebooks/var_mod: bounds against exact answers, gradients, contracts, checks.

Tiny models on tiny data: the scores of the fitted notebook are asserted in the notebook itself.
"""

import copy
import itertools
import math

import pyro
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import nn

from benchmarks import all_of_mnist, measure
from course_utils import checks
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
    assert torch.allclose(nb.gaussian_kl(mu, sigma), exact)
    assert nb.gaussian_kl(torch.zeros(1, 3), torch.ones(1, 3)).item() == 0
    z = q.sample((200_000,))
    draws = (q.log_prob(z) - p.log_prob(z)).sum(-1)
    error = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - exact).abs() < 5 * error).all()


@pytest.mark.mistake("V2")
def test_log_bernoulli_sums_to_one_over_all_images(all_rows):
    logits = 3 * torch.randn(1, 6)
    total = nb.log_bernoulli(all_rows, logits.expand(64, -1)).exp().sum()
    assert total.item() == pytest.approx(1, abs=1e-5)


@pytest.mark.mistake("V7")
def test_evidence_sums_to_one_over_all_images(small_vae, all_rows):
    assert log_evidence(small_vae, all_rows).exp().sum().item() == pytest.approx(1, abs=1e-4)
    assert small_vae.bound(all_rows, 5000).exp().sum().item() == pytest.approx(1, abs=0.01)


@pytest.mark.mistake("V8")
def test_bounds_climb_to_the_exact_log_likelihood(small_vae, all_rows):
    exact = log_evidence(small_vae, all_rows)
    levels = [
        torch.stack([small_vae.bound(all_rows, draws, seed) for seed in range(200)]).mean(0)
        for draws in (1, 5, 50)
    ]
    elbo = torch.stack([small_vae.elbo(all_rows, seed) for seed in range(200)]).mean(0)
    assert (elbo - levels[0]).abs().max() < 0.5  # both estimate the same bound
    means = [elbo.mean(), *(level.mean() for level in levels), exact.mean()]
    assert abs(means[0] - means[1]) < 0.05
    assert means[1] < means[2] < means[3] < means[4] + 0.005
    assert means[4] - means[3] < 0.05


@pytest.mark.mistake("V2")
def test_training_approaches_the_entropy_of_the_data(small_vae):
    """Two clusters of independent pixels: the best possible score is known."""
    x = two_clusters(2000, seed=2)
    log_p = [
        torch.distributions.Bernoulli(torch.tensor(r)).log_prob(x).sum(-1) for r in (0.9, 0.15)
    ]
    best = (torch.stack(log_p).logsumexp(0) - math.log(2)).mean()
    assert 0 < best - small_vae.bound(x, 50).mean() < 0.1


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


def test_linear_elbo_touches_the_exact_log_likelihood_at_the_exact_posterior():
    x, log_s = torch.randn(20, 5).double(), torch.tensor(-1.0).double()
    w = torch.linalg.qr(torch.randn(5, 2).double())[0] * torch.tensor([2.0, 1.0])
    s2 = (2 * log_s).exp()
    m = w.T @ w + s2 * torch.eye(2)  # diagonal: the columns of w are orthogonal
    right, log_sigma = torch.linalg.solve(m, w.T), 0.5 * (s2 / m.diagonal()).log()
    exact = nb.exact_log_likelihood(x, w, log_s)
    closed = [nb.linear_elbo_exact(x, w, v, log_s, log_sigma) for v in (right, 0 * right)]
    torch.testing.assert_close(closed[0], exact)
    assert closed[1].mean() < exact.mean() - 1
    for v, expected in zip((right, 0 * right), closed, strict=True):
        draws = torch.stack([nb.linear_elbo(x, w, v, log_s, log_sigma) for _ in range(1000)])
        assert ((draws.mean(0) - expected).abs() < 6 * draws.std(0) / len(draws) ** 0.5).all()


def test_gradient_estimators_agree_with_the_exact_gradient():
    x, w, mu, sigma = torch.randn(7), torch.randn(7, 3), torch.randn(3), torch.rand(3) + 0.2
    s = torch.tensor(0.8)
    exact = w.T @ (x - w @ mu) / s**2
    found = nb.gradients(x, w, s, mu, sigma, 100_000)
    for values in found.values():
        error = values.std(0) / len(values) ** 0.5
        assert ((values.mean(0) - exact).abs() < 5 * error).all()
    assert found["reparametrised"].std() < found["score function"].std()


@pytest.mark.mistake("V2")
def test_pyro_and_plain_step_give_the_same_loss_and_the_same_gradients():
    vae, x = nb.Vae(6, 2, hidden=8), two_clusters(30)
    twin, start = copy.deepcopy(vae), copy.deepcopy(vae)
    pyro.clear_param_store()
    torch.manual_seed(1)
    loss = TraceMeanField_ELBO().differentiable_loss(nb.model, nb.guide, vae, x, 2) / 30
    loss.backward()
    torch.manual_seed(1)
    plain = nb.plain_step(twin, x, torch.optim.SGD(twin.parameters(), 1.0))
    assert plain == pytest.approx(loss.item(), abs=1e-5)
    for ours, theirs, before in zip(
        twin.parameters(), vae.parameters(), start.parameters(), strict=True
    ):
        assert torch.allclose(before - ours, theirs.grad, atol=1e-5)


@pytest.mark.mistake("V3")
def test_the_decoder_gives_logits():
    """One that is sure and right costs nothing; with a second sigmoid each pixel cost 0.3 nats."""
    vae, image = nb.ScoredVae(6, 2, hidden=5), torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0, 1.0])
    with torch.no_grad():
        vae.decoder[-1].weight.zero_()
        vae.decoder[-1].bias.copy_(40 * image - 20)
    distortion, rate = vae.terms(image.expand(9, -1))
    assert distortion.max() < 1e-4
    still = torch.optim.SGD(vae.parameters(), 0.0)
    assert nb.plain_step(vae, image.expand(9, -1), still) == pytest.approx(rate.mean().item())
    torch.testing.assert_close(vae.sample(1, means=True)[0], image)


@pytest.mark.mistake("V4")
def test_there_is_no_training_mode_to_forget():
    """train() and eval() give the same scores, and no module remembers a batch."""
    vae, x = nb.ScoredVae(6, 2, hidden=5), two_clusters(9)
    before = copy.deepcopy(vae.state_dict())
    assert torch.equal(vae.train().elbo(x), vae.eval().elbo(x))
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())


@pytest.mark.mistake("V5")
def test_generated_images_have_not_seen_an_image():
    vae = nb.ScoredVae(6, 2, hidden=5)
    vae.encoder = None
    assert vae.sample(4).shape == (4, 6)


@pytest.mark.mistake("D6")
def test_five_choices_of_labels_or_more():
    assert nb.LABEL_SEEDS >= 5


# Contracts


def test_minibatches_visit_every_row_once_per_pass():
    x = torch.arange(10)[:, None]
    first = torch.cat(list(nb.minibatches(x, 5, 2)))
    assert sorted(first.flatten().tolist()) == list(range(10))
    assert [len(rows) for rows in nb.minibatches(x, 99, 3)] == [10, 10, 10]


@pytest.mark.mistake("V9")
def test_binarise_keeps_black_and_white_and_samples_grey():
    x = torch.tensor([0.0, 1.0, 0.25]).expand(40_000, 3)
    drawn = nb.binarise(x)
    assert (drawn[:, 0] == 0).all() and (drawn[:, 1] == 1).all()
    assert drawn[:, 2].mean().item() == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8, torch.bool])
@pytest.mark.parametrize("n", [1, 50, 450])
def test_fit_takes_other_sizes_and_types(n, dtype):
    x = two_clusters(n, d=9).to(dtype)
    vae = nb.fit_vae(x, x, k=3, seed=0, hidden=8, steps=5)
    wanted = dtype if dtype.is_floating_point else torch.float32
    assert vae.elbo(x).shape == vae.bound(x, 7).shape == (n,)
    assert vae.elbo(x).dtype == vae.bound(x, 7).dtype == wanted
    assert vae.sample(4).shape == (4, 9) and vae.sample(4).dtype == wanted


def test_grey_images_are_binarised_afresh():
    vae = nb.fit_vae(torch.full((300, 4), 0.5), torch.full((50, 4), 0.5), k=1, seed=0, steps=60)
    rows = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)))
    assert torch.allclose(vae.bound(rows, 50), torch.tensor(0.5).log() * 4, atol=0.5)


def test_same_seed_same_fit_and_scores_do_not_depend_on_other_draws():
    x = two_clusters(100)
    first, again, other = (
        nb.fit_vae(x, x, k=2, seed=seed, hidden=8, steps=10) for seed in (0, 0, 1)
    )
    torch.rand(3)
    assert torch.equal(first.bound(x, 5), again.bound(x, 5))
    assert not torch.equal(first.elbo(x), other.elbo(x))


def test_constant_pixels_and_extreme_learning_rates_stay_finite():
    x = torch.cat([two_clusters(100), torch.zeros(100, 2), torch.ones(100, 2)], 1)
    vae = nb.fit_vae(x, x, k=2, seed=0, hidden=8, steps=50, lr=0.1)
    assert vae.elbo(x).isfinite().all() and vae.bound(x, 10).isfinite().all()


def test_bound_of_many_draws_fits_into_portions(small_vae):
    """250 draws are three portions; the estimate is near the one of a single portion."""
    x = two_clusters(50)
    assert torch.allclose(small_vae.bound(x, 250), small_vae.bound(x, 100, seed=3), atol=0.3)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.full((3, 6), 0.5), "binarise"),
        (torch.full((3, 6), 2.0), "binarise"),
        (torch.full((3, 6), math.nan), "pixels must be"),
        (torch.zeros(6), "shape"),
        (torch.zeros(0, 6), "shape"),
        (torch.zeros(3, 2, 3), "shape"),
    ],
)
@pytest.mark.mistake("V1")
def test_scores_refuse_what_is_not_black_and_white(small_vae, x, message):
    with pytest.raises(ValueError, match=message):
        small_vae.elbo(x)
    with pytest.raises(ValueError, match=message):
        small_vae.bound(x, 3)


@pytest.mark.parametrize("x", [torch.full((3, 6), 2.0), torch.full((3, 6), -1.0), torch.zeros(6)])
def test_fit_refuses_what_is_not_an_image(x):
    with pytest.raises(ValueError, match="pixels|shape"):
        nb.fit_vae(x, x, k=2, seed=0, steps=2)


@pytest.mark.mistake("V10")
def test_active_units_and_alarm():
    class Fixed(nn.Module):
        def posterior(self, x):
            return x * torch.tensor([1.0, 0.0, 0.01]), torch.ones_like(x)

    assert nb.active_units(Fixed(), torch.randn(500, 3)) == 1
    low, high = torch.tensor([0.0, 1.0]), torch.tensor([2.0, 3.0])
    assert nb.alarm_rate(low, high) == 1 and nb.alarm_rate(high, low) == 0


# Exercises: every check accepts the solution and knows the wrong answers

WRONG = {
    "gaussian_kl": [
        lambda m, s: 0.5 * (m**2 + s - 1 - s.log()).sum(-1),
        lambda m, s: (m**2 + s**2 - 1 - 2 * s.log()).sum(-1),
        lambda m, s: 0.5 * (m**2 + s**2 - 1 - 2 * s.log()).mean(-1),
        lambda m, s: -0.5 * (m**2 + s**2 - 1 - 2 * s.log()).sum(-1),
        lambda m, s: 0.5 * (m**2 + s**2 - 1 - 2 * s.log()).sum(),
    ],
    "reparametrise": [
        lambda m, r, e: m + r * e,
        lambda m, r, e: m + (2 * r).exp() * e,
        lambda m, r, e: m + (0.5 * r).exp() * e,
        lambda m, r, e: m + r.exp() * e[0],
    ],
    "ppca_posterior": [
        lambda x, w, s: nb.solution_ppca_posterior(x, w, s**0.5),
        lambda x, w, s: nb.solution_ppca_posterior(x, w, s)[: len(x)],
        lambda x, w, s: nb.solution_ppca_posterior(x, w.T, s),
    ],
    "vae_loss": [
        lambda x, t, m, s: (
            nn.functional.binary_cross_entropy_with_logits(t, x) + nb.gaussian_kl(m, s).mean()
        ),
        lambda x, t, m, s: (nb.gaussian_kl(m, s) - nb.log_bernoulli(x, t)).sum(),
        lambda x, t, m, s: (nb.gaussian_kl(m, s) - nb.log_bernoulli(x, t.sigmoid())).mean(),
        lambda x, t, m, s: (nb.gaussian_kl(m, s) / m.shape[1] - nb.log_bernoulli(x, t)).mean(),
    ],
    "importance_bound": [
        lambda p, q: (p - q).mean(0),
        lambda p, q: (p - q).logsumexp(0),
        lambda p, q: (p - q).exp().mean(0).log(),
        lambda p, q: p.logsumexp(0) - math.log(len(p)),
    ],
    "active_units": [
        lambda m: (m.std(0) > 0.01).sum(),
        lambda m: (m.var(1) > 0.01).sum(),
        lambda m: (m.abs().mean(0) > 0.01).sum(),
    ],
    "continuous_bernoulli": [
        lambda x, t: nb.log_bernoulli(x, t),
        lambda x, t: nb.solution_continuous_bernoulli(x, t) / x.shape[1],
        lambda x, t: 2 * nb.log_bernoulli(x, t) - nb.solution_continuous_bernoulli(x, t),
    ],
}


@pytest.mark.parametrize("name", list(WRONG))
def test_check_accepts_the_solution_and_leaves_the_stub_in_peace(name):
    check = getattr(checks, f"check_{name}")
    assert check(getattr(nb, f"solution_{name}"))
    assert "Not tried" in repr(check(getattr(nb, f"my_{name}")))


@pytest.mark.parametrize(("name", "number"), [(n, i) for n in WRONG for i in range(len(WRONG[n]))])
def test_check_says_what_is_wrong(name, number):
    verdict = getattr(checks, f"check_{name}")(WRONG[name][number])
    assert not verdict and "Not yet" in verdict.message and "a value is off" not in verdict.message


def test_continuous_bernoulli_integrates_to_one_also_far_out():
    logits = torch.tensor([-200.0, -90.0, -1.0, -1e-5, 0.0, 1e-5, 1.0, 90.0, 200.0])
    x = torch.linspace(0, 1, 200_001)[:, None, None]  # (points, 1, 1)
    log_density = nb.solution_continuous_bernoulli(x, logits[:, None])  # (points, 9)
    mass = torch.trapezoid(log_density.double().exp(), x[..., 0].double(), dim=0)
    assert log_density.isfinite().all() and (mass - 1).abs().max() < 1e-3


# The benchmark on all of MNIST: its parts on tiny data, and what its stored result must say


def test_benchmark_fits_and_scores_the_stock_model():
    x = two_clusters(600)
    stock, seconds, processor = all_of_mnist.timed(all_of_mnist.fit_stock, x, 60)
    found = all_of_mnist.score(stock, x[:100], seconds, processor)
    assert found["elbo"] < found["bound_500"] + 0.05 < 0 and found["training_seconds"] > 0
    before = all_of_mnist.StockVae(6)
    assert found["elbo"] > before.elbo(x).mean() + 0.1


def test_stored_benchmark_is_ahead_of_the_references():
    stored = measure.load("all_of_mnist")["runs"]
    assert stored["long"]["notebook"]["bound_500"] > -86.76  # Burda et al. (2016), VAE, 50 latents
    assert stored["five"]["notebook"]["training_seconds"] < 300
    assert stored["five"]["notebook"]["bound_500"] >= -88
    ours, stock = stored["equal"]["notebook"], stored["equal"]["stock"]
    assert ours["training_seconds"] <= stock["training_seconds"]
    assert ours["elbo"] > stock["elbo"] and ours["bound_500"] > stock["bound_500"]
