"""Answers to the exercises on Bayesian neural networks: wrong ones, and odd ones that are right."""

import math
from contextlib import nullcontext
from operator import itemgetter

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO, autoguide
from pyro.nn import PyroModule, PyroSample
from scipy.stats import multivariate_normal, norm
from torch.distributions import Normal

from tests.answers import right, slip
from tests.answers.wine_slips import SLIPS


# fmt: off
# Models, a training and batches, each with a slip; draws, a quantile; an answer of NumPy.
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

def batches(factor=lambda n, b: n / b, rows=lambda n, b: torch.randperm(n)[:b], prior=1.0):
    def model(x, y, sigma, batch):
        taken = rows(len(x), batch)
        w = pyro.sample("w", dist.Normal(torch.zeros(x.shape[1]), prior).to_event(1))
        with pyro.poutine.scale(scale=factor(len(x), batch)), pyro.plate("rows", len(taken)):
            pyro.sample("y", dist.Normal(x[taken] @ w, sigma), obs=y[taken])
    return model

def drawn(y, m, s, k):
    draws = m + s * torch.randn(800, *m.shape)
    low, high = draws.flatten(0, 1).quantile(torch.tensor([1 - k, 1 + k]).double() / 2, 0)
    return ((low <= y) & (y <= high)).double().mean()

def higher(y, f, p):
    level = math.ceil((len(y) + 1) * p) / len(y)
    return (y - f).abs().quantile(level, interpolation="higher") if level <= 1 else math.inf

def arrays(function):
    return lambda *case: function(*map(np.asarray, case))

DENSITY, KL, PARTS = right.mixture_log_density, right.kl_between_gaussians, right.variance_parts
COVERAGE, CHANCES, SCORE = right.coverage, right.score_probabilities, right.log_score
EVIDENCE, WIDTH, RISK = right.log_evidence, right.half_width, right.risk_coverage
PLATE = 'with pyro.plate("data", len(x)):'
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
    "batch_model": [
        (batches(lambda n, b: 1.0), "as a batch only"), (batches(lambda n, b: n), "count 3."),
        (batches(rows=lambda n, b: torch.arange(b)), "never come"), (batches(prior=4.0), "of w is"),
        (lambda x, y, s, b: linear()(x, y, s), "should see 3 rows")],
    "log_evidence": [(lambda *a: EVIDENCE(*a) / len(a[0]), "per wine")],
    "coverage": [(drawn, "no draws are")],
    "half_width": [
        (lambda y, f, p: (y - f).abs().quantile(p), "rank can the"), (higher, "a rank too high"),
        (lambda y, f, p: norm.ppf(0.5 + p / 2) * (y - f).std(), "Gaussian"),
        (lambda *a: 0.7 * WIDTH(*a), "75 % hold")],
    "risk_coverage": [(lambda y, f, u: RISK(y[u.argsort()], f, u), "alike")],
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
WRONG += [(name, slip(name, *row[:-1]), row[-1]) for name, rows in SLIPS.items() for row in rows]
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
    "batch_model": [batches(), batches(rows=lambda n, b: torch.randint(n, (b,)))],
    "network": [
        slip("network", "w2", "v", '"v"', '"out"'),
        slip("network", PLATE, "if True:", "mean, sigma)", "mean, sigma).to_event(1)")],
    "linear_elbo": [
        lambda q, x, y, sigma, s: (lambda w: (
            Normal(w @ x.T, sigma).log_prob(y).sum(1) + Normal(0.0, 1.0).log_prob(w).sum(1)
            - q.log_prob(w)).mean())(q.rsample((s,))),
        lambda q, x, y, sigma, s: torch.stack([
            right.linear_elbo(q, x, y, sigma, 40) for _ in range(100)]).mean()],
    "paired_gain": [
        lambda g, k: (float(g.mean()), float(sum(
            (g - g.mean())[k == i].sum() ** 2 for i in k.unique()) ** 0.5) / len(g)),
        arrays(lambda g, k: np.array([g.mean(), np.sqrt(
            np.square(np.bincount(k, g - g.mean())).sum()) / len(g)]))],
    "predictions": [
        lambda m, g, x, s: [v.detach().squeeze().view(s, -1).expand(s, len(x)) for v in itemgetter(
            "mean", "sigma")(Predictive(m, guide=g, num_samples=s)(x))]],
    "noise_rule": [
        arrays(lambda r, J, p, v: np.sqrt(np.sum(r**2) / (len(r) - np.trace(np.linalg.solve(
            v**2 * np.diag(p**-2.0) + J.T @ J, J.T @ J)))))],
    "log_evidence": [
        arrays(lambda r, J, w, s, v: multivariate_normal(
            cov=v**2 * np.eye(len(r)) + (J * s**2) @ J.T).logpdf(r + J @ w)),
        lambda *a: EVIDENCE(*(v.float() for v in a[:4]), a[4])],
    "coverage": [
        arrays(lambda y, m, s, k: np.mean(abs(norm.cdf((y - m) / s).mean(0) - 0.5) < k / 2)),
        lambda y, m, s, k: float(COVERAGE(y.float(), m.float(), s.float(), k))],
    "half_width": [
        arrays(lambda y, f, p: np.append(np.sort(abs(y - f)), np.inf)[
            min(len(y), int(np.ceil((len(y) + 1) * p)) - 1)]),
        lambda y, f, p: float(WIDTH(y.float(), f.float(), p))],
    "risk_coverage": [
        lambda y, f, u: [float((y - f)[u <= v].square().mean() ** 0.5) for v in u.sort()[0]],
        lambda y, f, u: RISK(y.float(), f.float(), u.float()).numpy()],
    "score_probabilities": [
        lambda m, s, k: torch.stack([CHANCES(m, s, j[None])[:, 0] for j in k], 1).tolist(),
        arrays(lambda m, s, k: np.stack([np.diff(norm(m, s).cdf([[[j - 0.5]], [[j + 0.5]]]), axis=0)
                                         [0].mean(0) for j in k], 1))],
    "log_score": [
        lambda p, k, y: [math.log(r[int(v - k[0])]) for r, v in zip(p.tolist(), y, strict=True)],
        lambda p, k, y: p[k == y[:, None]].float().log()]}.items() for answer in answers]
