"""Answers to the exercises on normalizing flows: wrong ones, and odd ones that are right."""

import math

import numpy as np
import torch
import zuko
from scipy.integrate import cumulative_trapezoid
from scipy.special import ndtri
from scipy.stats import genpareto
from torch.distributions import Independent, LogNormal, Normal, TransformedDistribution
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from tests.answers import right
from tools.notebook_definitions import definitions

book = definitions("flows")
for each in (book.grid, right.same_mask):
    each.__globals__["device"] = torch.device("cpu")  # the notebook sets it in a cell
unit, log_normal = Normal(0.0, 1.0, validate_args=False), LogNormal(0.0, 1.0)
Layer, bound, entropy = right.coupling, right.same_mask, right.entropy
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


def step(loss=lambda q: -q.mean(), clip=clip_grad_norm_, at=5.0, clear="first", skip=1, to=float):
    def take(flow, batch, optimiser):
        value = loss(flow.log_prob(*batch))
        optimiser.zero_grad() if clear == "first" else None
        value.backward()
        norm = clip(flow.parameters(), at)
        optimiser.step() if not skip or norm.isfinite() else None
        optimiser.zero_grad() if clear == "last" else None
        return to(value.detach())

    return take


def by_numpy(log_prob, box, n=250):
    x, y = book.grid(box, n)[0].double().numpy().reshape(n, n, 2).transpose(2, 0, 1)
    p = log_prob(book.grid(box, n)[0]).double().exp().numpy().reshape(n, n)
    p, cell = p / p.sum(), (box[1] - box[0]) * (box[3] - box[2]) / n**2
    p_1, width = p.sum(1), (box[1] - box[0]) / n
    middle = np.average(y, axis=1, weights=p + 1e-300)[:, None]
    v = np.average((y - middle) ** 2, axis=1, weights=p + 1e-300)
    h_1, h = (-(q[q > 0] * np.log(q[q > 0] / c)).sum() for q, c in ((p_1, width), (p, cell)))
    s = np.average((x[:, 0] - np.average(x[:, 0], weights=p_1)) ** 2, weights=p_1)
    return np.log(2 * np.pi * np.e * s) / 2 - h_1, p_1 @ np.log(2 * np.pi * np.e * v) / 2 - h + h_1


def spoilt(change):
    """The right bound, one of its terms changed."""
    return lambda log_prob, box: change(*bound(log_prob, box))


def near(x):
    r = torch.cdist(x, x).fill_diagonal_(math.inf).min(1).values
    return GAMMA + math.log(len(x) - 1) + 2 * r.log().mean()


def rosenblatt(log_prob, box, n, sums=lambda p: (p.sum(1, True), p), own=0.5, by=None):
    p = log_prob(book.grid(box, n)[0]).double().exp().reshape(n, n)
    below = [(m.cumsum(i) - own * m) / m.sum(i, True) for i, m in enumerate(sums(p))]
    z = torch.stack(torch.broadcast_tensors(*below), -1).reshape(-1, 2)
    return (by or torch.special.ndtri)(z)


def rows(p):
    return p.sum(1, True), p.sum(0, True)


def turned(log_prob, box, n):  # as if x_1 ran fastest
    z = rosenblatt(lambda x: log_prob(x).reshape(n, n).T.reshape(-1), box, n)
    return z.reshape(n, n, 2).transpose(0, 1).reshape(-1, 2)


def in_numpy(log_prob, box, n):  # trapezia between midpoints
    p = log_prob(book.grid(box, n)[0]).exp().numpy().reshape(n, n)
    first, second = (cumulative_trapezoid(m, axis=i, initial=0) for i, m in ((0, p.sum(1)), (1, p)))
    with np.errstate(all="ignore"):
        z = ndtri(first / p.sum()), ndtri(second / p.sum(1)[:, None])
    return np.stack([np.repeat(z[0], n), z[1].ravel()], -1)


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


def changed(number, change):
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


def cells(noise=lambda x: torch.rand_like(x) - 0.5, volume=lambda s: s.log().sum(), draws=None,
          join=lambda v: v.mean(0)):  # fmt: skip
    def estimate(log_prob, x, step, many):
        draw = (log_prob(x + step * noise(x)) for _ in range(draws or many))
        return join(torch.stack(list(draw))) + volume(step)

    return estimate


def all_at_once(log_prob, x, step, draws):
    u = torch.rand(draws, *x.shape) - 0.5
    rows = log_prob((x + step * u).reshape(-1, x.shape[1])).reshape(draws, len(x))
    return (rows + step.log().sum()).mean(0).numpy()


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
    ("same_mask", book.my_bound, "Not tried yet"),
    ("same_mask", spoilt(lambda a, b: (-a, b)), "first term: a divergence"),
    ("same_mask", lambda q, b: bound(lambda x: q(x.flip(1)), b[2:] + b[:2]), "off"),
    ("same_mask", spoilt(lambda a, b: (a / math.log(2), b)), "nats"),
    ("same_mask", spoilt(lambda a, b: (a - 0.007, b)), "off"),  # 0.21 where 0.217 is right
    ("same_mask", lambda q, b: bound(lambda x: q(x) - math.log(b[3] - b[2]), b), "to one"),
    ("same_mask", spoilt(lambda a, b: a), "two numbers"),
    ("same_mask", spoilt(lambda a, b: (a, ...)), "now the second"),
    ("same_mask", spoilt(lambda a, b: (a, a + b)), "sum of both"),
    ("same_mask", spoilt(lambda a, b: (a, -b)), "second term: a divergence"),
    ("same_mask", spoilt(lambda a, b: (a, b - 0.006)), "second term is"),
    ("same_mask", spoilt(lambda a, b: (a, math.nan)), "not finite"),
    ("cell_bound", cells(volume=lambda s: 0), "how large is the cell"),
    ("cell_bound", cells(volume=lambda s: -s.log().sum()), "other sign"),
    ("cell_bound", cells(volume=torch.prod), "*logarithm* of the volume"),
    ("cell_bound", cells(torch.rand_like), "around x"),
    ("cell_bound", cells(lambda x: 2 * torch.rand_like(x) - 1), "two cells"),
    ("cell_bound", cells(torch.randn_like), "uniform"),
    ("cell_bound", cells(lambda x: torch.rand(len(x), 1) - 0.5), "noise of its own"),
    ("cell_bound", cells(lambda x: 0 * x), "at x itself"),
    ("cell_bound", cells(draws=1), "each"),
    ("cell_bound", cells(join=lambda v: v.sum(0)), "not their sum"),
    ("cell_bound", cells(join=torch.mean), "per row"),
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
    ("importance", changed(0, lambda v, w: w.mean().item()), "ELBO"),
    ("importance", changed(0, lambda v, w: w.logsumexp(0).item()), "not their sum"),
    ("importance", changed(0, lambda v, w: v - w.max().item()), "not put back"),
    ("importance", changed(1, lambda v, w: v * len(w)), "effective number"),
    ("importance", changed(1, lambda v, w: 1 / v), "inverse"),
    ("importance", changed(2, lambda v, w: -v), "sign"),
    ("importance", changed(2, lambda v, w: v + 0.2), "k is off"),
    ("importance", tail(lambda w, m: w[-m:]), "excess"),
    ("importance", tail(lambda w, m: w), "not all"),
    ("importance", tail(lambda w, m: w[-m:] - w[-m - 1], lambda w: w.log().sort().values), "logar"),
    ("importance", lambda log_w: report(log_w)[:2], "shape"),
    ("entropy", near, "32 bits"),
    ("entropy", lambda x: 2 * torch.cdist(x, x).min(1).values.log().mean(), "neighbour"),
    ("entropy", lambda x: entropy(x) - 0.5772157, "Euler"),
    ("entropy", lambda x: (entropy(x) + GAMMA + math.log(len(x) - 1)) / 2, "dimensions"),
    ("entropy", lambda x: entropy(x) - math.log(1 - 1 / len(x)), "n - 1"),
    ("rosenblatt", lambda *a: rosenblatt(*a, sums=rows), "z_2 must depend on x_1"),
    ("rosenblatt", lambda *a: rosenblatt(*a, by=lambda u: u), "uniform"),
    ("rosenblatt", lambda *a: rosenblatt(*a, own=0), "own cell"),
    ("rosenblatt", lambda *a: rosenblatt(*a, own=1), "own cell"),
    ("rosenblatt", lambda *a: rosenblatt(*a).flip(-1), "exchanged"),
    ("rosenblatt", lambda *a: -rosenblatt(*a), "increase"),
    ("rosenblatt", turned, "fastest"),
    ("rosenblatt", lambda *a: rosenblatt(*a, sums=lambda p: (p, p)), "add up over it first"),
    ("rosenblatt", lambda q, b, n: rosenblatt(q, b, n).reshape(n, n, 2), "one row for"),
    ("rosenblatt", lambda q, b, n: rosenblatt(lambda x: q(x) + 0.3 * x[:, 1], b, n), "not that"),
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
    ("same_mask", lambda *a: list(by_numpy(*a, n=400))),
    ("cell_bound", all_at_once),
    ("cell_bound", cells(join=lambda v: v.logsumexp(0) - math.log(len(v)))),
    ("amortised", mine(Given, sample=lambda f, y, s: Given.sample(f, y, s).tolist())),
    ("amortised", mine(Given, __init__=affine)),
    ("importance", lambda log_w: torch.tensor(report(log_w + 7)) - torch.tensor([7.0, 0.0, 0.0])),
    ("importance", lambda log_w: np.array(report(log_w))),
    ("entropy", lambda x: entropy(x).numpy()),
    ("entropy", lambda x: near(x.double()).float()),
    ("rosenblatt", lambda *a: rosenblatt(*a).float()),
    ("rosenblatt", in_numpy),
]
