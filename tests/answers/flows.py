"""Answers to the exercises on normalizing flows: wrong ones, and odd ones that are right."""

import math

import numpy as np
import torch
import zuko
from scipy.stats import genpareto
from torch.distributions import Independent, LogNormal, Normal, TransformedDistribution
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from tests.answers import right
from tools.notebook_definitions import definitions

book = definitions("flows")
for each in (book.grid, right.same_mask):
    each.__globals__["device"] = torch.device("cpu")  # the notebook sets it in a cell
unit, log_normal = Normal(0.0, 1.0, validate_args=False), LogNormal(0.0, 1.0)
Layer, Flow, bound, entropy = right.coupling, right.conditional, right.same_mask, right.entropy
Given, report = right.amortised, right.importance
GAMMA = 0.5772157 + math.log(math.pi)


def stack(x, transforms, sign=-1, order=reversed, undo=lambda t, x: t.inv(x), add=torch.sum, by=1):
    total = torch.zeros_like(x)
    for t in order(transforms):
        z = undo(t, x)
        total, x = total + sign * t.log_abs_det_jacobian(*[z, x][::by]), z
    return add(unit.log_prob(x) + total, -1)


def library(x, transforms):
    base = Independent(Normal(torch.zeros(x.shape[1]), 1.0), 1)
    return TransformedDistribution(base, transforms).log_prob(x)


def mine(base, **methods):
    return type("Mine", (base,), methods)


def forth(rule, join=Layer.join):
    def forward(self, x):
        kept, moved = self.split(x)
        z, log_det = rule(moved, *self.steer(kept))
        return join(self, kept, z), log_det

    return mine(Layer, forward=forward)


def back(rule):
    def inverse(self, z):
        kept, moved = self.split(z)
        return self.join(kept, rule(moved, *self.steer(kept)))

    return mine(Layer, inverse=inverse)


def step(loss=lambda q: -q.mean(), clip=clip_grad_norm_, at=0.5, clear="first", skip=1, to=float):
    def take(flow, batch, optimiser):
        value = loss(flow.log_prob(*batch))
        optimiser.zero_grad() if clear == "first" else None
        value.backward()
        norm = clip(flow.parameters(), at)
        optimiser.step() if not skip or norm.isfinite() else None
        optimiser.zero_grad() if clear == "last" else None
        return to(value.detach())

    return take


def by_numpy(log_prob, box, n=200):
    points = book.grid(box, n)[0]
    p = log_prob(points).double().exp().numpy().reshape(n, n).sum(1) * (box[3] - box[2]) / n
    x, cell = points[::n, 0].numpy().astype(float), (box[1] - box[0]) / n
    variance = np.average((x - np.average(x, weights=p)) ** 2, weights=p)
    return np.log(2 * np.pi * np.e * variance) / 2 + (p[p > 0] * np.log(p[p > 0])).sum() * cell


def near(x):
    r = torch.cdist(x, x).fill_diagonal_(math.inf).min(1).values
    return GAMMA + math.log(len(x) - 1) + 2 * r.log().mean()


class Stiff(torch.nn.Module):
    """A Gaussian whose mean and scales follow y: it cannot bend."""

    def __init__(self, d, c):
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(c, 32), torch.nn.Tanh(), torch.nn.Linear(32, 2 * d)
        )

    def q(self, y):
        mean, log_scale = self.net(y).chunk(2, -1)
        return Independent(Normal(mean, log_scale.exp()), 1)

    def log_prob(self, theta, y):
        return self.q(y).log_prob(theta)

    def sample(self, y, s):
        return self.q(y).sample((s,))


def affine(self, d, c):
    torch.nn.Module.__init__(self)
    self.flow = zuko.flows.MAF(d, context=c, transforms=4, hidden_features=(32, 32))


def turned(number, change):
    """The right three numbers, one of them changed."""

    def answer(log_w):
        return [
            change(each, log_w) if i == number else each for i, each in enumerate(report(log_w))
        ]

    return answer


def tail(pick, take=lambda w: w.sort().values):
    """Pareto-k of another excess."""

    def answer(log_w):
        excess = pick(take((log_w - log_w.max()).exp()), 3 * int(len(log_w) ** 0.5))
        excess = excess[excess > 0] / excess.mean()
        return [*report(log_w)[:2], genpareto.fit(excess.numpy(), floc=0)[0]]

    return answer


def overflowing(log_w):
    w = log_w.exp()
    return w.mean().log(), w.sum() ** 2 / (w**2).sum() / len(w), report(log_w)[2]


def overwritten(x, transforms):
    total = 0
    for t in reversed(transforms):
        x = t.inv(x)
        total = total - t.log_abs_det_jacobian(x, x).sum(-1)
    return total + torch.distributions.Normal(0, 1).log_prob(x).sum(-1)


WRONG = [  # exercise, answer, words of the message
    ("lognormal", lambda x: unit.log_prob(x.log()), "Jacobian"),
    ("lognormal", lambda x: unit.log_prob(x.log()) + x.log(), "slope"),
    ("lognormal", lambda x: log_normal.log_prob(x).exp(), "density"),
    ("transformed_log_prob", lambda *a: stack(*a, sign=1), "integrate"),
    ("transformed_log_prob", lambda *a: stack(*a, sign=0), "missing"),
    ("transformed_log_prob", lambda *a: stack(*a, order=list), "undone first"),
    ("transformed_log_prob", lambda *a: stack(*a, add=lambda v, _: v), "sum missing"),
    ("transformed_log_prob", lambda *a: stack(*a, add=torch.mean), "do not average"),
    ("transformed_log_prob", lambda *a: stack(*a, by=-1), "input of T"),
    ("transformed_log_prob", overwritten, "needs both"),
    ("transformed_log_prob", lambda *a: stack(*a, undo=lambda t, x: t(x)), "go back"),
    ("transformed_log_prob", lambda x, t: t.reverse() or stack(x, t, order=list), "the list"),
    ("coupling", book.MyCoupling, "Not tried yet"),
    ("coupling", Layer(2, flip=True), "the class itself"),
    ("coupling", forth(lambda m, s, t: (m * s.exp() + t, -s.sum(-1))), "sign"),
    ("coupling", forth(lambda m, s, t: (m * s.exp() + t, s)), "add up the coordinates"),
    ("coupling", forth(lambda m, s, t: (m * s.exp() + t, s.sum())), "do not add up the rows"),
    ("coupling", forth(lambda m, s, t: (m * s.exp() + t, s.mean(-1))), "volumes multiply"),
    ("coupling", forth(lambda m, s, t: (m * s.exp() + t, (s + t).sum(-1))), "a shift"),
    ("coupling", forth(lambda m, s, t: (m * s.exp() + t, s.sum(-1).detach())), "detaches"),
    ("coupling", forth(lambda m, s, t: (m * s + t, s.sum(-1))), "autograd"),
    ("coupling", forth(lambda m, s, t: (m * (s + m.cos()).exp() + t, s.sum(-1))), "way back"),
    ("coupling", back(lambda m, s, t: m * torch.exp(-s) - t), "undo first"),
    ("coupling", back(lambda m, s, t: (m + t) * torch.exp(-s)), "shift is not undone"),
    ("coupling", back(lambda m, s, t: m * s.exp() + t), "what `forward` does"),
    ("coupling", mine(Layer, inverse=lambda self, z: ...), "Now write"),
    ("coupling", mine(Layer, join=lambda self, *parts: torch.cat(parts, -1)), "columns"),
    ("train_step", step(lambda q: q.mean()), "downhill"),
    ("train_step", step(lambda q: -q.sum()), "take the mean"),
    ("train_step", step(clear=""), "pile up"),
    ("train_step", step(at=math.inf), "not clipped"),
    ("train_step", step(clip=clip_grad_value_, skip=0), "norm of the gradient"),
    ("train_step", step(skip=0), "spoilt"),
    ("train_step", step(to=lambda v: None), "return"),
    ("train_step", lambda f, b, o: step()(f, b[:1], o), "parts"),
    ("train_step", lambda f, b, o: (-f.log_prob(*b).mean()).item(), "no weight"),
    ("same_mask", lambda *a: -bound(*a), "negative"),
    ("same_mask", lambda q, b: bound(lambda x: q(x.flip(1)), b[2:] + b[:2]), "x_2"),
    ("same_mask", lambda *a: bound(*a) / math.log(2), "nats"),
    ("same_mask", lambda *a: bound(*a) - 0.007, "off"),  # 0.21 where 0.217 is right
    ("same_mask", lambda q, b: bound(lambda x: q(x) - math.log(b[3] - b[2]), b), "to one"),
    ("amortised", book.MyPosterior, "Not tried yet"),
    ("amortised", Given(2, 3), "the class itself"),
    ("amortised", mine(Given, log_prob=lambda f, t, y: Given.log_prob(f, t, 0 * y)), "enter"),
    ("amortised", mine(Given, log_prob=lambda f, t, y: 2 * Given.log_prob(f, t, y)), "not to 1"),
    ("amortised", mine(Given, log_prob=lambda f, t, y: Given.log_prob(f, t, y[:1])), "own y"),
    ("amortised", mine(Given, log_prob=lambda f, t, y: Given.log_prob(f, t, y).mean()), "shape"),
    ("amortised", mine(Given, log_prob=lambda f, t, y: -unit.log_prob(t).sum(-1)), "detaches"),
    ("amortised", Stiff, "stiff"),
    ("amortised", mine(Given, sample=lambda f, y, s: ...), "Now write"),
    ("amortised", mine(Given, sample=lambda f, y, s: Given.sample(f, y, s).movedim(0, 1)), "first"),
    ("amortised", mine(Given, sample=lambda f, y, s: Given.sample(f, y.flip(0), s)), "its own"),
    ("amortised", mine(Given, sample=lambda f, y, s: Given.sample(f, y, 1)), "shape"),
    ("importance", book.my_importance, "Not tried yet"),
    ("importance", overflowing, "not finite"),
    ("importance", turned(0, lambda v, w: w.mean().item()), "ELBO"),
    ("importance", turned(0, lambda v, w: w.logsumexp(0).item()), "not their sum"),
    ("importance", turned(0, lambda v, w: v - w.max().item()), "not put back"),
    ("importance", turned(1, lambda v, w: v * len(w)), "effective number"),
    ("importance", turned(1, lambda v, w: 1 / v), "inverse"),
    ("importance", turned(2, lambda v, w: -v), "sign"),
    ("importance", turned(2, lambda v, w: v + 0.2), "k is off"),
    ("importance", tail(lambda w, m: w[-m:]), "excess"),
    ("importance", tail(lambda w, m: w), "not all"),
    ("importance", tail(lambda w, m: w[-m:] - w[-m - 1], lambda w: w.log().sort().values), "logar"),
    ("importance", lambda log_w: report(log_w)[:2], "shape"),
    ("entropy", near, "32 bits"),
    ("entropy", lambda x: 2 * torch.cdist(x, x).min(1).values.log().mean(), "neighbour"),
    ("entropy", lambda x: entropy(x) - 0.5772157, "Euler"),
    ("entropy", lambda x: (entropy(x) + GAMMA + math.log(len(x) - 1)) / 2, "dimensions"),
    ("entropy", lambda x: entropy(x) - math.log(1 - 1 / len(x)), "n - 1"),
    ("conditional", book.MyConditional, "Not tried yet"),
    ("conditional", lambda *sizes: Flow(*sizes, layers=1), "stiff"),
    ("conditional", mine(Flow, log_prob=lambda f, x, m: Flow.log_prob(f, x, 0 * m)), "enter"),
    ("conditional", mine(Flow, log_prob=lambda f, x, m: 2 * Flow.log_prob(f, x, m)), "integrates"),
    ("conditional", mine(Flow, log_prob=lambda f, x, m: Flow.log_prob(f, x, m[0] + 0 * m)), "own"),
    ("conditional", mine(Flow, sample=lambda f, m: Flow.sample(f, 0 * m)), "label 1"),
    ("conditional", mine(Flow, sample=lambda f, m: ...), "Now write"),
]

ODD = [
    ("lognormal", lambda x: -np.log(x.numpy() * (2 * np.pi) ** 0.5) - np.log(x.numpy()) ** 2 / 2),
    ("lognormal", lambda x: [log_normal.log_prob(v).item() for v in x]),
    ("transformed_log_prob", library),
    ("transformed_log_prob", lambda x, t: stack(x.float(), t).numpy()),
    ("coupling", lambda d, flip: Layer(d, flip=not flip)),
    ("coupling", mine(Layer, steer=lambda self, kept: Layer.steer(self, kept.float()))),
    ("train_step", step(clear="last")),
    ("train_step", step(to=torch.clone)),
    ("same_mask", by_numpy),
    ("same_mask", lambda *a: by_numpy(*a, n=400).item()),
    ("amortised", mine(Given, sample=lambda f, y, s: Given.sample(f, y, s).tolist())),
    ("amortised", mine(Given, __init__=affine)),
    ("importance", lambda log_w: torch.tensor(report(log_w + 7)) - torch.tensor([7.0, 0.0, 0.0])),
    ("importance", lambda log_w: np.array(report(log_w))),
    ("entropy", lambda x: entropy(x).numpy()),
    ("entropy", lambda x: near(x.double()).float()),
    ("conditional", mine(Flow, sample=lambda f, m: Flow.sample(f, m).tolist())),
    ("conditional", lambda d, labels: Flow(d, labels, layers=4)),
]
