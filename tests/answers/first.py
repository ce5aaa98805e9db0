"""Answers to the exercises of the first steps: wrong ones, and odd ones that are right."""

from contextlib import nullcontext
from functools import reduce

import numpy as np
import pyro
import torch
from pyro.distributions import Bernoulli, Beta, Binomial, Normal, Uniform
from pyro.distributions import TransformedDistribution as TD
from pyro.distributions.constraints import positive
from pyro.distributions.transforms import SigmoidTransform
from pyro.infer import Predictive
from torch import tensor

from tests.answers import right


def free(name, start=2.0, **options):
    return pyro.param(name, tensor(start), **options)


def pos(name, start=2.0):
    return free(name, start, constraint=positive)


def one_by_one(t, y):
    parts = [sum((p if i else 1 - p).log() for i in y) + (p * (1 - p)).log() for p in t]
    return (torch.stack(parts).softmax(0) / (t[1] - t[0])).tolist()


def climb(f, x, *, steps=300, lr=0.1, forget=True, start=torch.clone):
    x = start(x).requires_grad_()
    for _ in range(steps):
        x.grad = None if forget else x.grad
        f(x).backward()
        with torch.no_grad():
            x += lr * x.grad
    return x


def whole(n, y):
    return pyro.plate("throws", n)


def coin(q, *, prior=lambda: Beta(2, 2), plate=whole, seen=lambda y: y):
    def model(n, flips=None):
        theta = pyro.sample("theta", prior())
        with plate(n, flips):
            pyro.sample("flips", q(theta), obs=seen(flips))

    return model


def inside(n, flips=None):
    with pyro.plate("throws", n):
        pyro.sample("flips", Bernoulli(pyro.sample("theta", Beta(2, 2))), obs=flips)


def guide(q):
    return lambda n, flips=None: pyro.sample("theta", q())


def tied(throws, heads=None):
    centre = pyro.sample("centre", Beta(pos("a"), pos("b")))
    with pyro.plate("some", len(throws)):
        pyro.sample("theta", Beta(pos("c") + 10 * centre, pos("d") + 10 * (1 - centre)))


def mint_guide(parts, centre=lambda: Beta(pos("a"), pos("b")), size=len):
    def guide(throws, heads=None):
        pyro.sample("centre", centre())
        with pyro.plate("some", size(throws)):
            pyro.sample("theta", Beta(*parts(len(throws))))

    return guide


def own(k, start=2.0):
    return pos("c", [start] * k), pos("d", [start] * k)


def draws(model, theta, m, name="theta"):
    return Predictive(model, {name: theta}, parallel=True)(m)["flips"]


def mint(a=lambda c: 10 * c, b=lambda c: 10 * (1 - c), q=Binomial, size=len, seen=lambda h: h):
    def model(throws, heads=None):
        c = pyro.sample("centre", Beta(2, 2))
        with pyro.plate("coins", size(throws)):
            theta = pyro.sample("theta", Beta(a(c), b(c)))
            pyro.sample("heads", q(throws, theta), obs=seen(heads))

    return model


WRONG = [  # exercise, answer, words of the message
    ("posterior", lambda t, y: right.posterior(t, y) * (t[1] - t[0]), "where is the distance"),
    ("posterior", lambda t, y: right.posterior(t, 1 - y), "swapped"),
    ("posterior", lambda t, y: y[:, None] * t.log(), "do not mix"),
    ("climb", lambda f, x: climb(f, x, forget=False), "add up"),
    ("climb", lambda f, x: climb(f, x, steps=1), "one step only"),
    ("climb", lambda f, x: climb(f, x, lr=-0.1), "downhill"),
    ("climb", lambda f, x: climb(f, x, start=torch.detach), "`start` itself"),
    ("climb", lambda f, x: climb(f, x).grad, "the gradient; the place"),
    ("climb", lambda f, x: x.requires_grad_().add_(1), "`no_grad`"),
    ("coin_model", inside, "Is it in the plate?"),
    ("coin_model", coin(Bernoulli, plate=lambda *a: nullcontext()), "are independent"),
    ("coin_model", coin(Bernoulli, seen=lambda y: None), "get the data"),
    ("coin_model", coin(Bernoulli, plate=lambda n, y: whole(len(y), y)), "and stops"),
    ("coin_model", coin(Bernoulli, plate=lambda n, y: whole(10, y)), "do not fit"),
    ("coin_model", coin(Bernoulli, prior=lambda: Uniform(0, 1)), "the prior of"),
    ("coin_model", coin(lambda t: Bernoulli(1 - t)), "swapped"),
    ("coin_model", coin(lambda t: Bernoulli(logits=t)), "log-odds"),
    ("coin_model", coin(lambda t: Normal(t, 1)), "log likelihood is"),
    ("coin_model", coin(lambda t: Binomial(12, t)), "each throw"),
    ("guide", guide(lambda: Beta(free("a"), free("b"))), "`constraint`"),
    ("guide", guide(lambda: Beta(2, 2)), "nothing can be trained"),
    ("guide", guide(lambda: Beta(pos("a"), pos("a"))), "each for itself"),
    ("guide", guide(lambda: Beta(pos("a"), 2.0)), "each for itself"),
    ("guide", guide(lambda: Normal(free("a"), pos("b"))), "another range"),
    ("guide", coin(Bernoulli), "leave it out"),
    ("guide", guide(lambda: TD(Normal(free("a"), pos("b")), SigmoidTransform())), "no Beta"),
    ("guide", guide(lambda: Beta(pyro.param("a", 2.0, constraint=positive), 2)), "Python number"),
    ("mint_guide", mint_guide(lambda k: (pos("c"), pos("d"))), "Has each coin"),
    ("mint_guide", mint_guide(own, lambda: Beta(2, 2)), "and the centre, too"),
    ("mint_guide", mint_guide(lambda k: (free("c", [2.0] * k), 2.0)), "`constraint`"),
    ("mint_guide", mint_guide(lambda k: own(7)), "shape"),
    ("mint_guide", mint(), "leave it out"),
    ("mint_guide", tied, "depends on `centre`"),
    ("forecast", lambda model, t, m: Binomial(m, t.mean()).sample((len(t),)), "too well"),
    ("forecast", lambda model, t, m: draws(model, t, m, "p").sum(-1), "prior"),
    ("forecast", draws, "these are the throws"),
    ("forecast", lambda *a: draws(*a).sum(0), "not over the draws"),
    ("forecast", lambda model, t, m: m - draws(model, t, m).sum(-1), "tails"),
    ("forecast", lambda model, t, m: draws(model, t.flip(0), m).sum(-1), "order"),
    ("mint", mint(a=lambda c: c), "log density of `theta`"),
    ("mint", mint(seen=lambda h: None), "get the data"),
    ("mint", mint(q=lambda n, t: Bernoulli(t)), "do not fit"),
    ("mint", mint(size=lambda throws: throws), "one whole number"),
]

ODD = [
    ("posterior", one_by_one),
    ("posterior", lambda t, y: right.posterior(t.float(), y.tolist()).numpy()),
    ("climb", lambda f, x: reduce(lambda x, _: x + 0.1 * torch.func.grad(f)(x), range(300), x)),
    ("climb", lambda f, x: np.asarray(right.climb(f, x.double()))),
    ("coin_model", coin(lambda t: Bernoulli(logits=t.logit()))),
    ("coin_model", coin(lambda t: Binomial(1, t))),
    ("guide", guide(lambda: Beta(free("a", 0.7).exp(), free("b", 0.7).exp()))),
    ("guide", guide(lambda: Beta(*free("both", [1.0, 3.0], constraint=positive)))),
    ("mint_guide", mint_guide(lambda k: (free("c", [0.7] * k).exp(), pos("d", [1.0] * k)))),
    ("mint_guide", mint_guide(lambda k: own(k, 1.0))),
    ("forecast", lambda model, t, m: np.random.default_rng(0).binomial(m, t.numpy())),
    ("forecast", lambda model, t, m: [pyro.condition(model, {"theta": p})(m).sum() for p in t]),
    ("mint", mint(q=lambda n, t: Binomial(n, logits=t.logit()))),
    ("mint", mint(b=lambda c: 10 - 10 * c)),
]
