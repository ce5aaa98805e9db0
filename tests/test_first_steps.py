"""The mathematics of notebooks/first_steps: exact answers by quadrature, and SVI beside them."""

import math

import pytest
import torch
from pyro import poutine
from pyro.distributions import Beta
from pyro.infer.autoguide import AutoNormal
from scipy import integrate, optimize, stats
from scipy.special import betaln, logit
from torch.distributions import kl_divergence

from tools.notebook_definitions import definitions

nb = definitions("first_steps")
HEADS, TAILS = 2, 7  # not those of the notebook
FLIPS, EXACT = torch.tensor([1.0] * HEADS + [0.0] * TAILS), stats.beta(2 + HEADS, 2 + TAILS)


def gap(log_q) -> float:
    """KL(q || exact posterior) by quadrature, nats."""
    return integrate.quad(lambda t: math.exp(log_q(t)) * (log_q(t) - EXACT.logpdf(t)), 0, 1)[0]


def log_gaussian(t: float, loc: float, scale: float) -> float:
    """Log density of a probability whose logit is Gaussian."""
    return stats.norm.logpdf(logit(t), loc, scale) - math.log(t * (1 - t))


def fitted(guide):
    nb.fit(nb.course_model, guide, len(FLIPS), FLIPS)
    return poutine.trace(guide).get_trace(len(FLIPS)).nodes["theta"]["fn"]


def test_the_model_integrates_to_the_evidence_and_is_the_posterior():
    def joint(t):
        model = poutine.condition(nb.course_model, {"theta": torch.tensor(t)})
        return poutine.trace(model).get_trace(len(FLIPS), FLIPS).log_prob_sum().exp().item()

    evidence = math.exp(betaln(2 + HEADS, 2 + TAILS) - betaln(2, 2))
    assert integrate.quad(joint, 0, 1, epsabs=1e-8)[0] == pytest.approx(evidence, rel=1e-4)
    assert joint(0.3) / evidence == pytest.approx(EXACT.pdf(0.3), rel=1e-4)


def test_svi_finds_the_exact_posterior_with_a_beta_guide():
    q = fitted(nb.course_guide)
    assert kl_divergence(q, Beta(*map(float, EXACT.args))).item() == pytest.approx(0, abs=3e-3)


def test_svi_finds_the_best_gaussian_of_the_logit_whose_gap_is_not_zero():
    best = optimize.minimize(
        lambda x: gap(lambda t: log_gaussian(t, x[0], math.exp(x[1]))), [-1, -0.5], tol=1e-6
    )
    auto = AutoNormal(nb.course_model)
    fitted(auto)
    loc, scale = auto.locs.theta.item(), auto.scales.theta.item()
    assert best.fun > 2e-3
    assert (loc, math.log(scale)) == pytest.approx(tuple(best.x), abs=0.05)
    assert gap(lambda t: log_gaussian(t, loc, scale)) == pytest.approx(best.fun, abs=1e-3)
