"""Answers to the exercises on a table of one's own: wrong ones, and odd ones that are right."""

from copy import deepcopy
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import torch
import zuko
from pyro.nn import PyroModule, PyroSample
from torch.distributions import Normal

from tests.answers import right
from tools.notebook_definitions import definitions

invert = definitions("your_own_table").invert
WHERE = {"plate": pyro.plate, "nowhere": lambda *_: torch.no_grad()}


def net(x, y=None, hidden=10, *, s1=None, s2=None, act=torch.tanh, bend=True, noise=None, **slip):
    """A right model, but for what the slips replace."""
    d, look, power = x.shape[1], slip.get("look", lambda f: f), slip.get("power", -0.5)
    w1 = dist.Normal(0.0, s1 or d**power).expand([d, hidden])
    w1 = pyro.sample("w1", w1 if slip.get("loose") else w1.to_event(2))
    b1 = pyro.sample("b1", dist.Normal(0.0, 1.0).expand([hidden]).to_event(1)) if bend else 0.0
    w2 = pyro.sample("w2", dist.Normal(0.0, s2 or hidden**power).expand([hidden]).to_event(1))
    sigma = pyro.sample("sigma", noise or dist.HalfNormal(1.0))
    mean = look(act(x @ w1 + b1) @ w2)
    pyro.deterministic(slip.get("mean", "mean"), mean)
    with WHERE[slip.get("where", "plate")]("data", len(x)):
        likelihood = dist.Normal(mean, slip.get("scale", lambda s: s)(sigma))
        p, obs = slip.get("rows", lambda p: p)(likelihood), None if slip.get("blind") else y
        return pyro.sample(slip.get("name", "y"), p, obs=obs)


class Module(PyroModule):
    def forward(self, x, y=None, hidden=10):
        d = x.shape[1]
        self.w = PyroSample(dist.Normal(0.0, d**-0.5).expand([d, hidden]).to_event(2))
        self.v = PyroSample(dist.Normal(0.0, hidden**-0.5).expand([hidden]).to_event(1))
        self.b = PyroSample(dist.Normal(0.0, 1.0).expand([hidden]).to_event(1))
        sigma = pyro.sample("sigma", dist.Gamma(2.0, 2.0))
        mean = pyro.deterministic("mean", torch.relu(x @ self.w + self.b) @ self.v)
        with pyro.plate("n", x.shape[0]):
            pyro.sample("y", dist.Normal(mean, sigma), obs=y)


def counted(y, low, high):
    return ((low <= y) & (y <= high)).double().mean(), (high - low).mean()


def per_draw(y, m, s, k):
    return counted(y, *(invert(Normal(m, s).cdf, (1 + side * k) / 2, y) for side in (-1, 1)))


def from_draws(y, m, s, k):
    draws = (m + s * torch.randn(500, *m.shape)).flatten(0, 1)
    return counted(y, *draws.quantile(torch.tensor([1 - k, 1 + k]).double() / 2, 0))


def over_groups(a, b, g):
    means = torch.stack([(a - b)[g == k].mean() for k in g.unique()])
    return means.mean(), means.std() / len(means) ** 0.5


def with_numpy(a, b, g):
    sums = np.bincount(g, a - b - (a - b).mean())
    return [float((a - b).mean()), sums.std(ddof=1) * len(sums) ** 0.5 / len(a)]


def fit(flow, train, validation, steps, lr, *, sign=-1, on=None, score=None, **slip):
    """A right training, but for what the slips replace."""
    optimiser = slip.get("kind", torch.optim.Adam)(flow.parameters(), lr=slip.get("rate", lr))
    scores, rows, kept = [], on(train, validation) if on else train, None
    for _ in range(steps):
        if not slip.get("adding"):
            optimiser.zero_grad()
        (sign * flow().log_prob(rows[torch.randperm(len(rows))[:128]]).mean()).backward()
        if not slip.get("still"):
            optimiser.step()
        scores.append(flow().log_prob(score(train, validation) if score else validation).mean())
        if slip.get("keep") and scores[-1] >= max(scores):
            kept = deepcopy(flow.state_dict())
    _ = kept and flow.load_state_dict(kept)
    return slip.get("out", lambda scores: [float(score.detach()) for score in scores])(scores)


MODEL, TABLE, PAIRED, FLOW = "table_model", "table_intervals", "paired_difference", "table_flow"
B2 = partial(pyro.sample, "b2", dist.Normal(0.0, 1.0))
WRONG = [  # exercise, answer, words of the message
    (MODEL, partial(net, s1=1.0, s2=1.0), "How does a sum"),
    (MODEL, partial(net, s1=0.01, s2=0.01), "hardly lets it move"),
    (MODEL, partial(net, power=-1, look=lambda f: f + B2()), "becomes a constant"),
    (MODEL, partial(net, act=lambda z: z), "a straight line"),
    (MODEL, partial(net, bend=False), "lack an intercept"),
    (MODEL, partial(net, where="nowhere"), "stands in no plate"),
    (MODEL, pyro.plate("rows", 7)(partial(net, where="nowhere")), "`w1` is drawn in the plate"),
    (MODEL, partial(net, look=lambda f: f * pyro.param("w", torch.ones(()))), "is a `pyro.param`"),
    (MODEL, partial(net, loose=True), "`to_event`"),
    (MODEL, partial(net, blind=True), "where is it observed"),
    (MODEL, partial(net, scale=lambda s: s**2), "standard deviation"),
    (MODEL, partial(net, noise=dist.Normal(1.0, 1.0)), "negative or zero"),
    (MODEL, partial(net, noise=dist.Delta(torch.tensor(0.5))), "one value only"),
    (MODEL, partial(net, name="target"), "no sample site is called `y`"),
    (MODEL, partial(net, mean="f"), "pyro.deterministic"),
    (MODEL, partial(net, look=lambda mean: mean[:, None]), "has shape (7, 1)"),
    (MODEL, partial(net, look=torch.squeeze), "for a single row"),
    (MODEL, partial(net, look=lambda mean: mean - mean.mean()), "which other rows"),
    (MODEL, partial(net, look=lambda mean: mean + torch.randn(())), "what else is drawn"),
    (MODEL, lambda x, y=None, hidden=10: net(x, y, 10), "grow with `hidden`"),
    (MODEL, lambda x, y=None, hidden=10: net(x[:, :1], y, hidden), "no influence"),
    (MODEL, lambda x, y=None, hidden=10: dist.Normal(x.sum(1), 1.0).sample(), "nothing is drawn"),
    (TABLE, lambda *a: right.table_intervals(*a)[::-1], "first the share"),
    (TABLE, lambda *a: right.table_intervals(*a)[0], "two numbers"),
    (TABLE, lambda y, m, s, k: right.table_intervals(y, m, s, 2 * k - 1), "two sides share"),
    (TABLE, lambda y, m, s, k: right.table_intervals(y, m, s, 0.9), "not always 0.9"),
    (TABLE, lambda y, m, s, k: right.table_intervals(y, m, s**2, k), "standard deviation"),
    (TABLE, lambda y, m, s, k: right.table_intervals(y, m[:1], s[:1], k), "not the first one"),
    (TABLE, per_draw, "one interval"),
    (TABLE, from_draws, "no draws are needed"),
    (PAIRED, lambda a, b, g: right.paired_difference(b, a, g), "first minus second"),
    (PAIRED, lambda a, b, g: ((a - b).mean(), (a - b).std() / len(a) ** 0.5), "copy every row"),
    (PAIRED, lambda a, b, g: ((a - b).mean(), (a - b).std()), "no error of their mean"),
    (PAIRED, lambda a, b, g: ((a - b).mean(), ((a.var() + b.var()) / len(a)) ** 0.5), "each row"),
    (PAIRED, over_groups, "a mean over groups"),
    (PAIRED, lambda *a: (with_numpy(*a)[0], over_groups(*a)[1]), "a large group moves"),
    (PAIRED, lambda *a: (with_numpy(*a)[0], with_numpy(*a)[1] ** 2), "variance"),
    (FLOW, partial(fit, sign=1), "mind the sign"),
    (FLOW, partial(fit, adding=True), "add up"),
    (FLOW, partial(fit, still=True), "which step moves"),
    (FLOW, lambda flow, *rest: fit(zuko.flows.MAF(2), *rest), "which step moves"),
    (FLOW, partial(fit, on=lambda t, v: torch.cat([t, v])), "train on `train` alone"),
    (FLOW, partial(fit, score=lambda t, v: t), "scores of the training rows"),
    (FLOW, partial(fit, out=lambda scores: [-float(s.detach()) for s in scores]), "no minus"),
    (FLOW, partial(fit, out=lambda scores: scores[-1]), "after each of 150 steps"),
    (FLOW, partial(fit, rate=0.01), "`lr=0`"),
]  # fmt: skip

ODD = [
    (MODEL, partial(net, act=torch.relu, noise=dist.HalfCauchy(1.0))),
    (MODEL, partial(net, act=torch.sigmoid, noise=dist.InverseGamma(1.0, 1.0))),
    (MODEL, partial(net, where="nowhere", rows=lambda p: p.to_event(1))),
    (MODEL, Module()),
    (TABLE, lambda *a: np.array([float(v) for v in right.table_intervals(*a)])),
    (TABLE, lambda y, m, s, k: right.table_intervals(y.float(), m.float(), s.float(), k)),
    (PAIRED, with_numpy),
    (PAIRED, lambda a, b, g: right.paired_difference(a.float(), b.float(), g)),
    (FLOW, partial(fit, out=lambda scores: scores)),
    (FLOW, partial(fit, keep=True, kind=torch.optim.AdamW, out=lambda s: torch.stack(s).tolist())),
]
