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

from benchmarks import all_of_mnist
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
    assert small_vae.bound(all_rows, 5000).exp().sum().item() == pytest.approx(1, abs=0.01)


@pytest.mark.mistake("V8")
def test_bounds_climb_to_the_exact_log_likelihood(small_vae, all_rows):
    seeds, exact = range(200), log_evidence(small_vae, all_rows).mean()
    elbo = sum(small_vae.elbo(all_rows, seed).mean() for seed in seeds) / 200
    one, five, fifty = (
        sum(small_vae.bound(all_rows, draws, seed).mean() for seed in seeds) / 200
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
def test_a_fit_takes_other_sizes_and_types_and_constant_pixels(n, dtype):
    x = torch.cat([two_clusters(n), torch.zeros(n, 2), torch.ones(n, 1)], 1).to(dtype)
    vae = nb.fit_vae(x, x, k=3, seed=0, hidden=8, steps=5, lr=0.1)
    wanted = dtype if dtype.is_floating_point else torch.float32
    for score in (vae.elbo(x), vae.bound(x, 7)):
        assert score.shape == (n,) and score.dtype == wanted and score.isfinite().all()
    assert vae.sample(4).shape == (4, 9) and vae.sample(4).dtype == wanted


def test_the_seed_decides_fit_and_scores_whatever_was_drawn_before():
    x, scores = two_clusters(100), []
    for seed in (0, 0, 1):
        torch.rand(3)
        scores.append(nb.fit_vae(x, x, k=2, seed=seed, hidden=8, steps=10).bound(x, 5))
    assert torch.equal(scores[0], scores[1]) and not torch.equal(scores[0], scores[2])


NO_IMAGES = [torch.full((3, 6), value) for value in (2.0, -1.0, math.nan)]
NO_IMAGES += [torch.zeros(shape) for shape in ((6,), (0, 6), (3, 2, 3))]


@pytest.mark.parametrize("x", NO_IMAGES)
def test_what_is_no_image_is_refused(small_vae, x):
    for call in (
        small_vae.elbo,
        lambda x: small_vae.bound(x, 3),
        lambda x: nb.fit_vae(x, x, k=2, seed=0, steps=2),
    ):
        with pytest.raises(ValueError, match="binarise|pixels must be|shape"):
            call(x)


@pytest.mark.mistake("V1")
def test_no_grey_image_is_scored(small_vae):
    grey = torch.full((3, 6), 0.5)
    for score in (small_vae.elbo, lambda x: small_vae.bound(x, 3)):
        with pytest.raises(ValueError, match="binarise"):
            score(grey)


def test_area_under_the_roc_curve_counts_ties_half():
    noise = torch.Generator().manual_seed(0)
    strange, usual = (torch.randint(v, (50,), generator=noise).float() for v in (9, 7))
    labels = [1] * 50 + [0] * 50
    expected = roc_auc_score(labels, torch.cat([strange, usual]).tolist())
    assert nb.roc_area(strange, usual) == pytest.approx(expected)


# The benchmark on all of MNIST, on tiny data


def test_benchmark_fits_and_scores_the_stock_model():
    x = two_clusters(600)
    found = all_of_mnist.fitted(lambda seed: stock(x, x, seed, 30, 0)[0], x[:100])
    before = StockVae(6).elbo(x).mean() + 0.1
    assert before < found["elbo"] < found["bound_500"] + 0.05 < 0 < found["training_seconds"]
