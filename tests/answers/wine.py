"""Answers to the exercises on Bayesian neural networks: wrong ones, and odd ones that are right."""

import math
from contextlib import nullcontext

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO, autoguide
from pyro.nn import PyroModule, PyroSample
from scipy.stats import norm
from torch.distributions import Normal

from tests.answers import right


# fmt: off
# Exercise 3, 4, 6, 7, 8, each with a slip; an answer of NumPy.
def linear(prior=1.0, noise=lambda s: s, event=1, whole=0, plate=True, w="w", obs=True):
    def model(x, target, sigma):
        weights = pyro.sample(w, dist.Normal(torch.zeros(x.shape[1]), prior).to_event(event))
        seen = dist.Normal(x @ weights, noise(sigma)).to_event(whole)
        with pyro.plate("rows", len(x)) if plate else nullcontext():
            pyro.sample("y", seen, obs=target if obs else None)
    return model

class Line(PyroModule):
    def forward(self, x, y, sigma):
        self.w = PyroSample(dist.MultivariateNormal(torch.zeros(x.shape[1]), torch.eye(x.shape[1])))
        pyro.sample("y", dist.Normal(x @ self.w, sigma).to_event(1), obs=y)

def fit(guide=autoguide.AutoMultivariateNormal, lr=0.05, clear=True, give="guide"):
    def train(model, steps, *data):
        pyro.clear_param_store() if clear else None
        made = {"guide": guide(model)}
        svi = SVI(model, made["guide"], pyro.optim.Adam({"lr": lr}), Trace_ELBO())
        made["losses"] = [svi.step(*data) for _ in range(steps)]
        return made.get(give)
    return train

def trained(change):
    return lambda *case: change(*right.prior_experiment(*case), *case)

def batches(factor=lambda n, b: n / b, rows=lambda n, b: torch.randperm(n)[:b], prior=1.0):
    def model(x, y, sigma, batch):
        taken = rows(len(x), batch)
        w = pyro.sample("w", dist.Normal(torch.zeros(x.shape[1]), prior).to_event(1))
        with pyro.poutine.scale(scale=factor(len(x), batch)), pyro.plate("rows", len(taken)):
            pyro.sample("y", dist.Normal(x[taken] @ w, sigma), obs=y[taken])
    return model

def inside(lower, upper):
    return lambda y, d, m: ((lower(d, m) <= y) & (y <= upper(d, m))).double().mean()

def around(centre, half=lambda d, m, c: (d - c).abs().quantile(m, dim=0)):
    return inside(*(lambda d, m, s=s: centre(d) + s * half(d, m, centre(d)) for s in (-1, 1)))

def arrays(function):
    return lambda *case: function(*map(np.asarray, case))

TRAIN = right.prior_experiment
DENSITY, KL, PARTS = right.mixture_log_density, right.kl_between_gaussians, right.variance_parts
COVERAGE, CHANCES, SCORE = right.coverage, right.score_probabilities, right.log_score
WRONG = [  # exercise, answer, words of the message
    (name, *row) for name, rows in {"mixture_log_density": [
        (lambda y, m, s: Normal(m, s).log_prob(y).exp().mean(0).log(), "far from every draw"),
        (lambda y, m, s: Normal(m, s).log_prob(y).mean(0), "not logarithms"),
        (lambda y, m, s: Normal(m, s).log_prob(y).logsumexp(0) / len(m), "divides the logarithm"),
        (lambda y, m, s: Normal(m.mean(0), s.mean(0)).log_prob(y), "unknown"),
        (lambda y, m, s: DENSITY(y, m, s**2), "deviation")],
    "kl_between_gaussians": [
        (lambda a, b, c, d: KL(c, d, a, b), "order"), (lambda *a: KL(*a) + 0.5, "equal Gaussians"),
        (lambda a, b, c, d: KL(a, b, c, d) + (d / b).log(), "counts twice"),
        (lambda a, b, c, d: (d / b).log() + (b**2 + (a - c) ** 2) / 2 * d**2 - 0.5, "brackets"),
        (lambda a, b, c, d: math.log(d / b), "d has shape (4,).")],
    "linear_model": [
        (linear(obs=False), "no site is observed"), (linear(w="v"), 'no unknown site is named "w"'),
        (linear(event=0), 'know what "w" is'), (linear(plate=False), 'know what "y" is'),
        (linear(noise=lambda s: pyro.sample("s", dist.HalfNormal(1.0))), "what else than the"),
        (linear(noise=lambda s: s**2), "standard deviation"), (linear(prior=0.4), "has scale 1"),
        (lambda x, y, s: dist.Normal(x @ torch.zeros(3), s).log_prob(y), "nothing is random"),
        (lambda x, y, s: linear()(x.T, y, s), "shape (3,), and a value of shape (7,)")],
    "posterior_fit": [
        (fit(guide=autoguide.AutoDiagonalNormal), "two weights go together"),
        (fit(guide=autoguide.AutoDelta), "a point, not"), (fit(lr=1e-4), "deviations off"),
        (fit(clear=False), "met the parameters of the first"), (fit(give="losses"), "not list")],
    "variance_parts": [
        (lambda m, s: PARTS(m, s).flip(0), "above"), (lambda m, s: PARTS(m, s).sqrt(), "standard"),
        (lambda m, s: torch.stack([s.square().mean(0), m.var(0)]), "`var` divide"),
        (lambda m, s: torch.stack([s.mean(0) ** 2, PARTS(m, s)[1]]), "then average"),
        (lambda m, s: PARTS(m.T, s.T), "first axis")],
    "prior_experiment": [
        (trained(lambda e, k, b, *case: (e, k, -b)), "negative here"),
        (trained(lambda e, k, b, x, *case: (e, k, b / len(x))), "of all wines"),
        (trained(lambda e, k, b, *case: (e, k / 202, b)), "sum over all weights"),
        (trained(lambda e, k, b, *case: (e**2, k, b)), "take the root"),
        (trained(lambda e, k, b, *case: (e, k, min(1, case[3] / 50) * b)), "those that there are"),
        (lambda x, y, w, n: TRAIN(x, y, 1.0, n), "does not change"),
        (lambda x, y, w, n: TRAIN(x, y, w**0.5, n), "are all scales wider"),
        (lambda x, y, w, n: TRAIN(x, y, w, 1), "`steps` used"),
        (trained(lambda e, k, b, *case: (e, k, (b + TRAIN(*case[:3], 1)[2]) / 2)), "first steps")],
    "batch_model": [
        (batches(lambda n, b: 1.0), "as a batch only"), (batches(lambda n, b: n), "count 3."),
        (batches(rows=lambda n, b: torch.arange(b)), "never come"), (batches(prior=4.0), "of w is"),
        (lambda x, y, s, b: linear()(x, y, s), "should see 3 rows")],
    "coverage": [
        (inside(*(lambda d, m, s=s: d.quantile(0.5 + s * m / 2) for s in (-1, 1))), "of all wines"),
        (around(lambda d: torch.zeros(())), "centred at 0"), (around(lambda d: d.mean(0)), "symm"),
        (around(lambda d: d.median(0)[0]), "more on one side"),
        (around(lambda d: d.mean(0), lambda d, m, c: norm.ppf(0.5 + m / 2) * d.std(0)), "Gaussian"),
        (lambda y, d, m: (y <= d.quantile(m, dim=0)).double().mean(), "one-sided"),
        (lambda y, d, m: (y <= d.quantile(m, dim=1)).double().mean(), "d has shape (101, 40)")],
    "score_probabilities": [
        (lambda m, s, k: Normal(m[..., None], s[..., None]).log_prob(k).exp().mean(0), "density"),
        (lambda m, s, k: CHANCES(m.mean(0)[None], s.mean(0)[None], k), "at the end"),
        (lambda m, s, k: Normal(m, s).cdf(k + 0.5).mean(0), "an axis each"),
        (lambda m, s, k: CHANCES(m, s, k + 0.5), "each side"),
        (lambda m, s, k: CHANCES(m, s, k) / CHANCES(m, s, k).sum(1)[:, None], "do not normalise")],
    "log_score": [
        (lambda p, k, y: p[torch.arange(len(y)), y.long()].log(), "out of bounds"),
        (lambda p, k, y: SCORE(p, k, y).exp(), "logarithm"),
        (lambda p, k, y: p.max(1).values.log(), "was observed"),
        (lambda p, k, y: SCORE(p, k, y).mean(), "one value per wine")]}.items() for row in rows]
ODD = [
    (name, answer) for name, answers in {"mixture_log_density": [
        arrays(lambda y, m, s: np.logaddexp.reduce(norm(m, s).logpdf(y), 0) - np.log(len(m))),
        lambda y, m, s: [DENSITY(y[i], m[:, i], s[:, i]).item() for i in range(len(y))]],
    "kl_between_gaussians": [
        arrays(lambda a, b, c, d: np.log(d / b) + ((b / d) ** 2 + ((a - c) / d) ** 2 - 1) / 2),
        lambda *case: [KL(*values).item() for values in zip(*case, strict=True)]],
    "linear_model": [linear(plate=False, whole=1), Line()],
    "posterior_fit": [fit(lr=0.02), fit(guide=autoguide.AutoLowRankMultivariateNormal)],
    "variance_parts": [
        arrays(lambda m, s: ((s**2).mean(0), m.var(0))), lambda m, s: PARTS(m, s).float()],
    "prior_experiment": [
        trained(lambda e, k, b, *case: np.array([float(v) for v in (e, k, b)])),
        trained(lambda e, k, b, *case: [e.double(), k.item(), torch.tensor(b)])],
    "batch_model": [batches(), batches(rows=lambda n, b: torch.randint(n, (b,)))],
    "coverage": [
        arrays(lambda y, d, m: np.mean(abs((d < y).mean(0) - 0.5) < m / 2)),
        lambda y, d, m: float(COVERAGE(y.float(), d.float(), float(m)))],
    "score_probabilities": [
        lambda m, s, k: torch.stack([CHANCES(m, s, j[None])[:, 0] for j in k], 1).tolist(),
        arrays(lambda m, s, k: np.stack([np.diff(norm(m, s).cdf([[[j - 0.5]], [[j + 0.5]]]), axis=0)
                                         [0].mean(0) for j in k], 1))],
    "log_score": [
        lambda p, k, y: [math.log(r[int(v - k[0])]) for r, v in zip(p.tolist(), y, strict=True)],
        lambda p, k, y: p[k == y[:, None]].float().log()]}.items() for answer in answers]
