"""Checks of the exercises on a table of one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from course_utils.checks.judge import (
    Untried,
    Verdict,
    Wrong,
    call,
    close,
    exercise,
    judge,
    numbers,
    refuse_what_cannot_be_called,
    trial,
)

# ------------------------------------------------------------------ a model with its plate


@exercise
def check_table_model(answer: Any) -> Verdict:
    """A Bayesian network in Pyro: (n, d), (n,) or None, number of hidden units -> its sites."""
    praise = "every site is where it belongs, the prior keeps its height, and it learns a bend."
    return trial(answer, _examine_model, praise=praise)


def _sites(model: Callable, x: Tensor, y: Tensor | None, hidden: int) -> dict[str, dict]:
    """The sites of one run by name, with what was returned as ``_RETURN``."""
    from pyro import poutine

    with poutine.trace() as tracer:
        try:
            value = model(x, y, hidden)
        except Exception:
            _examine_places(tracer.trace.nodes)  # the better message, if it is that
            raise
    nodes = tracer.trace.nodes
    return {n: s for n, s in nodes.items() if s["type"] in ("sample", "param")} | {
        "_RETURN": {"type": "return", "value": value}
    }


def _latent(sites: dict[str, dict]) -> dict[str, dict]:
    from pyro.poutine.util import site_is_subsample

    drawn = {n: s for n, s in sites.items() if s["type"] == "sample" and n != "y"}
    return {n: s for n, s in drawn.items() if not (s["is_observed"] or site_is_subsample(s))}


def _examine_model(model: Any) -> None:
    refuse_what_cannot_be_called(model)
    noise = torch.Generator().manual_seed(0)
    x, y = torch.randn(7, 3, generator=noise), torch.randn(7, generator=noise)
    sites = _sites(model, x, y, 6)
    if sites["_RETURN"]["value"] is ... and len(sites) == 1:
        raise Untried
    _examine_unknowns(sites)
    _examine_likelihood(sites, y)
    if _sites(model, x, None, 6)["y"]["is_observed"]:
        raise Wrong("without targets (`y=None`) it must draw `y`, and does not.")
    _examine_function(model, x, _latent(sites))
    _examine_prior(model)
    _examine_training(model)


def _examine_unknowns(sites: dict[str, dict]) -> None:
    for name, site in sites.items():
        if site["type"] == "param":
            raise Wrong(f"`{name}` is a `pyro.param`: one trained value without a prior. Draw it.")
    latent = _latent(sites)
    if not latent:
        raise Wrong("nothing is drawn: each unknown needs its `pyro.sample`, that is its prior.")
    _examine_places(sites)
    for name, site in latent.items():
        if shape := tuple(site["fn"].batch_shape):
            raise Wrong(f"`{name}` has batch shape {shape}: make these one event with `to_event`.")
    if "sigma" not in latent:
        raise Wrong("the noise is unknown, too: no site that is drawn is called `sigma`.")
    if latent["sigma"]["value"].numel() != 1:
        raise Wrong("`sigma` is one number, the same for all rows.")
    draws = latent["sigma"]["fn"].sample((500,))
    if draws.std() == 0:
        raise Wrong("the prior of `sigma` allows one value only: it should be unknown.")
    if (draws <= 0).any():
        raise Wrong("`sigma` can be negative or zero: a scale needs a prior on positive numbers.")
    if not 0.05 < (typical := draws.median().item()) < 5:
        raise Wrong(f"the prior thinks of a `sigma` near {typical:.2g}; the targets have spread 1.")


def _examine_places(sites: dict[str, dict]) -> None:
    for name, site in _latent(sites).items():
        if site["cond_indep_stack"]:
            raise Wrong(
                f"`{name}` is drawn in the plate, anew for every row. What all rows share is drawn "
                "outside of it."
            )


def _examine_likelihood(sites: dict[str, dict], y: Tensor) -> None:
    site, mean, sigma = sites.get("y"), sites.get("mean"), sites["sigma"]["value"]
    if site is None:
        raise Wrong("no sample site is called `y`: where do the targets come in?")
    if not site["is_observed"]:
        raise Wrong("`y` was given and is drawn all the same: where is it observed?")
    if mean is None:
        raise Wrong('later cells read the output of the network: `pyro.deterministic("mean", …)`.')
    if tuple(mean["value"].shape) != tuple(y.shape):
        raise Wrong(f"`mean` has shape {tuple(mean['value'].shape)} for 7 rows, expected (7,).")
    if tuple(site["fn"].shape()) != tuple(y.shape):
        raise Wrong(f"`y` has shape {tuple(site['fn'].shape())} for 7 rows, expected (7,).")
    if not site["cond_indep_stack"] and not site["fn"].event_shape:
        raise Wrong("`y` stands in no plate: Pyro does not know that the rows are independent.")
    if float(site["scale"]) != 1:
        raise Wrong(f"each row counts once in the likelihood, not {float(site['scale']):g} times.")

    def fits(scale: Tensor) -> bool:
        expected = torch.distributions.Normal(mean["value"], scale).log_prob(y)
        return close(site["fn"].log_prob(y).sum().double(), expected.sum().double(), 1e-4)

    if fits(sigma**2) or fits(sigma.sqrt()):
        raise Wrong("`Normal` takes a standard deviation: give it `sigma` as it is.")
    if not fits(sigma):
        raise Wrong("`y` is not Normal around `mean` with scale `sigma`.")


def _examine_function(model: Callable, x: Tensor, latent: dict[str, dict]) -> None:
    from pyro import poutine

    known = poutine.condition(model, data={n: s["value"] for n, s in latent.items()})

    def f(x: Tensor) -> Tensor:
        return _sites(known, x, None, 6)["mean"]["value"]

    whole, alone = f(x), f(x[:1])
    if tuple(alone.shape) != (1,):
        raise Wrong(f"for a single row `mean` has shape {tuple(alone.shape)}, expected (1,).")
    if not torch.equal(f(x), whole):
        raise Wrong("with every site held fixed the output still changes: what else is drawn?")
    if not torch.allclose(alone, whole[:1], atol=1e-4):
        raise Wrong("the prediction for a row depends on which other rows are there.")

    def bend(u: float) -> Tensor:
        up, down = f(x + u), f(x - u)
        return (up + down - 2 * whole).abs().max() / (up.abs() + down.abs()).max()

    if all(bend(u) < 1e-3 for u in (1.0, 30.0, 1000.0)):
        raise Wrong("with fixed weights it is a straight line: where does it bend?")
    for j in range(x.shape[1]):
        if torch.allclose(f(x + 3 * torch.eye(x.shape[1])[j]), whole, atol=1e-5):
            raise Wrong(f"column {j + 1} of 3 has no influence on the prediction.")
    even = f(30 * x) + f(-30 * x)  # far out, so that small weights count, too
    if even.std() < 1e-3 * f(30 * x).abs().max():
        raise Wrong(
            "f(−x) mirrors f(x) whatever the weights: the hidden units lack an intercept, or its "
            "prior keeps it near 0."
        )


def _examine_prior(model: Callable) -> None:
    noise = torch.Generator().manual_seed(1)
    told, spreads, sizes, moves = [], [], [], []
    for d, hidden in ((2, 4), (2, 8), (30, 300)):
        x = torch.randn(40, d, generator=noise)
        runs = [_sites(model, x, None, hidden) for _ in range(40)]
        means = torch.stack([run["mean"]["value"] for run in runs])  # (s, n)
        spread = means.std().item()
        moves.append(means.std(1).mean().item())
        sizes.append(sum(site["value"].numel() for site in _latent(runs[0]).values()))
        spreads.append(spread)
        told.append(f"{spread:.2g} with {d} columns and {hidden} hidden units")
    if sizes[0] == sizes[1]:
        raise Wrong("the number of weights does not grow with `hidden`.")
    if max(spreads) > 4:
        raise Wrong(
            f"before any data its output has spread {told[0]}, {told[2]}; the targets have 1. "
            "How does a sum of many independent terms grow, and what can a prior do about it?"
        )
    if min(spreads) < 0.25:
        raise Wrong(
            f"before any data its output has spread {told[0]}, {told[2]}; the targets have 1. "
            "Such a prior hardly lets it move."
        )
    if moves[2] < 0.15:
        raise Wrong(
            f"before any data its output differs from row to row by {moves[0]:.2g} with 2 columns "
            f"and 4 hidden units, by {moves[2]:.2g} with 30 and 300: it becomes a constant. How "
            "does the spread of a sum of many independent terms grow?"
        )


def _examine_training(model: Callable) -> None:
    import pyro
    from pyro.infer import SVI, Predictive, Trace_ELBO
    from pyro.infer.autoguide import AutoDiagonalNormal

    x = torch.linspace(-2, 2, 300)[:, None]
    y = x[:, 0].square()
    y = (y - y.mean()) / y.std()
    pyro.set_rng_seed(0)
    guide = AutoDiagonalNormal(model, init_scale=0.05)
    svi = SVI(model, guide, pyro.optim.ClippedAdam({"lr": 0.05}), Trace_ELBO())
    for _ in range(250):
        svi.step(x, y, 10)
    draws = Predictive(model, guide=guide, num_samples=30, return_sites=("mean",))(x, None, 10)
    error = (draws["mean"].reshape(30, -1).mean(0) - y).square().mean().sqrt()
    if not error < 0.8:  # a straight line has 1
        raise Wrong(
            "250 steps of SVI on a parabola, and it is hardly better than a straight line: do the "
            "priors let the hidden units bend where the data are?"
        )


# ------------------------------------------------------------------ coverage and width


def _normal(mean: Tensor, scale: Tensor) -> torch.distributions.Normal:
    return torch.distributions.Normal(mean, scale)


def _quantile(level: float, mean: Tensor, scale: Tensor) -> Tensor:
    """Where the distribution function of the mixture of draws (s, n) reaches a level: (n,)."""
    reach = (mean.abs() + 40 * scale).amax(0)
    low, high = -reach, reach
    for _ in range(50):
        middle = (low + high) / 2
        below = _normal(mean, scale).cdf(middle).mean(0) < level
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return middle


def _inside(observed: Tensor, low: Tensor, high: Tensor) -> Tensor:
    share = ((low <= observed) & (observed <= high)).double().mean()
    return torch.stack([share, (high - low).mean()])


@exercise
def check_table_intervals(answer: Any) -> Verdict:
    """Share inside and mean width: (n,), (s, n), (s, n), mass -> (2,)."""

    def exact(y, m, s, mass):
        return _inside(y, *(_quantile((1 + side * mass) / 2, m, s) for side in (-1, 1)))

    def per_draw(y, m, s, mass):
        low, high = (_normal(m, s).icdf(torch.tensor((1 + k * mass) / 2)) for k in (-1, 1))
        return _inside(y, low.mean(0), high.mean(0))

    def with_share(share):
        return lambda y, m, s, mass: torch.stack([share(y, m, s, mass), exact(y, m, s, mass)[1]])

    def one_gaussian(y, m, s, mass, correction=0):
        total = (s.square().mean(0) + m.var(0, correction=correction)).sqrt()
        return exact(y, m.mean(0)[None], total[None], mass)

    def pooled(y, m, s, mass):
        m, s = (part.reshape(-1, 1).expand(-1, len(y)) for part in (m, s))
        return exact(y, m, s, mass)

    def each_draw(y, m, s, mass):
        y = y.expand_as(m).reshape(-1)
        return exact(y, m.reshape(1, -1), s.reshape(1, -1), mass)

    def below(y, m, s, mass):
        return (_normal(m, s).cdf(y).mean(0) <= mass).double().mean()

    traps = [
        (lambda *a: exact(*a).flip(0), "first the share inside, then the mean width."),
        (lambda *a: exact(*a)[0], "two numbers, please: the share inside and the mean width."),
        (lambda *a: exact(*a)[1], "two numbers, please: the share inside and the mean width."),
        (
            lambda y, m, s, k: exact(y, m, s, 2 * k - 1),
            "this holds less than `mass`: the two sides share what is outside.",
        ),
        (with_share(below), "this counts one-sided: cut off the same on both sides."),
        (with_share(lambda *a: 1 - exact(*a)[0]), "this is the share outside."),
        (with_share(lambda *a: 100 * exact(*a)[0]), "a share, not per cent."),
        (with_share(lambda *a: len(a[0]) * exact(*a)[0]), "a share of the rows, not their number."),
        (
            per_draw,
            "average F over the draws, then invert it: not means, scales or quantiles.",
        ),
        (one_gaussian, "the right variance, but the mixture is no Gaussian: invert its F."),
        (
            lambda y, m, s, k: exact(y, m[:1], s[:1], k),
            "average over all draws, not the first one.",
        ),
        (each_draw, "first average F over the draws of a row; then each row has one interval."),
        (lambda y, m, s, k: exact(y, m, s, 0.9), "take `mass`, not always 0.9."),
        (lambda y, m, s, k: exact(y, m, s**2, k), "`Normal` takes a standard deviation."),
        (pooled, "each row has a distribution of its own: average over draws alone."),
        (lambda *a: exact(*a) * torch.tensor([1, 0.5]), "from end to end, not half of it."),
        (lambda *a: exact(*a) * torch.tensor([1, len(a[0])]), "the mean width, not the sum."),
        (
            lambda *a: exact(*a) * torch.tensor([1, -1]),
            "the width is negative: which end is which?",
        ),
    ]
    noise = torch.Generator().manual_seed(4)
    mean, scale = torch.randn(2, 5, 40, generator=noise, dtype=torch.double)
    mean, scale = 3 * mean.exp(), 0.2 + scale.abs()
    observed = 5 + 6 * torch.randn(40, generator=noise).double()
    cases = [(observed, mean, scale, 0.9), (observed, mean + 2, scale, 0.7)]  # F is flat at fifths
    cases += [(observed[:9], mean[:1, :9], 4 * scale[:1, :9], 0.8)]
    praise = "counted and measured, without a single random number."
    verdict = judge(answer, exact, cases, traps=traps, praise=praise)
    if "a value is off" not in verdict.message:
        return verdict

    def random(function: Any) -> None:
        once, again = (numbers(call(function, *cases[0]), finite=False) for _ in range(2))
        if not torch.equal(once, again):
            raise Wrong(
                "each call gives other numbers: no draws are needed, the mixture's F is known."
            )
        raise Wrong(verdict.message.partition(": ")[2])

    return trial(answer, random, praise=praise)


# ------------------------------------------------------------------ a paired difference


def _sums(values: Tensor, groups: Tensor) -> Tensor:
    return torch.zeros(int(groups.max()) + 1).double().index_add(0, groups, values)


def _errors(exact: Callable) -> dict[str, list[Callable]]:
    """Wrong standard errors of differences d (n,) in groups g (n,) of G, by what helps."""

    def r(d, g):  # a group's deviation from the mean, summed up
        return _sums(d - d.mean(), g)

    def means(d, g):
        return _sums(d, g) / g.bincount()

    def count(g):
        return int(g.max()) + 1

    return {
        "copy every row once, and this error shrinks, though nothing is learnt.": [
            lambda d, g: d.std() / len(d) ** 0.5,
            lambda d, g: d.std(correction=0) / len(d) ** 0.5,
        ],
        "the spread of rows is no error of their mean.": [lambda d, g: d.std()],
        "a large group moves the mean over rows more than a small one does.": [
            lambda d, g: means(d, g).std() / count(g) ** 0.5,
            lambda d, g: (r(d, g) / g.bincount()).square().sum().sqrt() / count(g),
        ],
        "take the mean difference off each row before you add up.": [
            lambda d, g: _sums(d, g).square().sum().sqrt() / len(d),
            lambda d, g: _sums(d, g).std() * count(g) ** 0.5 / len(d),
        ],
        "this is the error of a group's sum, not that of the mean over rows.": [
            lambda d, g: _sums(d, g).std() / count(g) ** 0.5,
            lambda d, g: r(d, g).std() / count(g) ** 0.5,
            lambda d, g: r(d, g).std() / len(d) ** 0.5,
        ],
        "right only for groups of equal rows: what do the rows of one group share?": [
            lambda d, g: d.std() / count(g) ** 0.5
        ],
        "the mean is over rows: divide by n.": [lambda d, g: exact(d, g) * len(d) / count(g)],
        "one standard error, not two.": [lambda d, g: 2 * exact(d, g)],
        "the sum grows with n, its mean does not: check the n.": [
            lambda d, g: exact(d, g) * len(d) ** 0.5,
            lambda d, g: exact(d, g) * len(d),
        ],
        "this is a variance: take its root.": [lambda d, g: exact(d, g) ** 2],
    }


@exercise
def check_paired_difference(answer: Any) -> Verdict:
    """Mean difference and its standard error: (n,), (n,), groups (n,) -> (2,)."""

    def both(error: Callable) -> Callable:
        return lambda a, b, g: torch.stack([(a - b).mean(), error(a - b, g)])

    def unpaired(a, b, g):
        return torch.stack([(a - b).mean(), ((a.var() + b.var()) / len(a)).sqrt()])

    def over_groups(a, b, g):
        means = _sums(a - b, g) / g.bincount()
        return torch.stack([means.mean(), means.std() / len(means) ** 0.5])

    noise = torch.Generator().manual_seed(0)
    cases = []
    for groups in ([0, 0, 0, 1, 2, 2, 3, 4, 4, 4, 4, 5], [2, 0, 1, 0, 3, 0, 4]):
        first, second = torch.randn(2, len(groups), generator=noise).double()
        label = torch.tensor(groups)
        cases.append((first + label, second + 0.5 * first, label))
    two = "two numbers: the mean difference and its error."
    verdicts = []
    for factor in (lambda n: 1.0, lambda n: n / (n - 1)):  # both are honest, of groups or rows
        for of_rows in (False, True):

            def exact(d, g, factor=factor, of_rows=of_rows):
                sums = _sums(d - d.mean(), g)
                return (
                    factor(len(d) if of_rows else len(sums)) * sums.square().sum()
                ).sqrt() / len(d)

            right = both(exact)
            traps = [
                (
                    lambda a, b, g, f=right: f(b, a, g),
                    "first minus second: positive if first is better.",
                ),
                (lambda a, b, g, f=right: f(a, b, g).flip(0), "first the mean, then its error."),
                (lambda a, b, g, f=right: f(a, b, g)[0], two),
                (lambda a, b, g, f=right: f(a, b, g)[1], two),
                (lambda a, b, g, f=right: f(a, b, g) * len(a), "the mean per row, not the total."),
                (unpaired, "the rows are the same: take the difference of each row first."),
                (over_groups, "a mean over groups: a group of five rows must count five times."),
            ]
            traps += [(both(error), t) for t, wrong in _errors(exact).items() for error in wrong]
            praise = "copies of rows change nothing, and every row counts once."
            verdicts.append(judge(answer, right, cases, traps=traps, praise=praise))
            if verdicts[-1]:
                return verdicts[-1]
    told = [verdict for verdict in verdicts if "value is off" not in verdict.message]
    return (told or verdicts)[0]


# ------------------------------------------------------------------ training a flow


@exercise
def check_table_flow(answer: Any) -> Verdict:
    """Train a flow in place: flow, (n, d), (m, d), steps, lr -> scores (steps,)."""
    praise = "it learns from the training rows, and watches the others."
    return trial(answer, _examine_flow_training, praise=praise)


def _flow() -> Any:
    import zuko

    torch.manual_seed(0)
    return zuko.flows.MAF(2, transforms=2, hidden_features=(16,))


def _score(flow: Any, rows: Tensor) -> float:
    with torch.no_grad():
        return flow().log_prob(rows).mean().item()


def _weights(flow: Any) -> Tensor:
    return torch.cat([p.detach().flatten() for p in flow.parameters()])


def _bananas() -> Iterator[Tensor]:
    noise = torch.Generator().manual_seed(0)
    for n in (200, 90):
        x, eps = torch.randn(2, n, generator=noise)
        yield torch.stack([x, 0.7 * (x.square() - 1) + 0.3 * eps], 1)


def _examine_flow_training(training: Any) -> None:
    refuse_what_cannot_be_called(training)
    train, validation = _bananas()
    flow = _flow()
    before, start = _score(flow, validation), _weights(flow)
    scores = numbers(training(flow, train.clone(), validation.clone(), 150, 0.02))
    if tuple(scores.shape) != (150,):
        raise Wrong(f"one score after each of 150 steps, please, not {tuple(scores.shape)}.")
    if torch.equal(_weights(flow), start):
        raise Wrong("the flow that came in has the weights it had: which step moves them?")
    _examine_steps(training, train, validation)
    after = _score(flow, validation)
    if not after >= before:
        raise Wrong(f"the log density fell from {before:.3g} to {after:.3g} nats: mind the sign.")
    _examine_scores(scores, flow, train, validation, before)
    if after < before + 0.3:
        raise Wrong(f"150 steps took it from {before:.2f} to {after:.2f} nats only: what slows it?")
    _examine_honesty(training)


def _examine_steps(training: Callable, train: Tensor, validation: Tensor) -> None:
    """It moves as far as the learning rate says, along the gradient of one step."""
    flow = _flow()
    start = _weights(flow)
    training(flow, train.clone(), validation.clone(), 20, 0.0)
    if not torch.equal(_weights(flow), start):
        raise Wrong("with `lr=0` nothing should move: is the learning rate used?")
    left = [p.grad.flatten() for p in flow.parameters() if p.grad is not None]
    flow.zero_grad()
    flow().log_prob(train).mean().backward()
    one = torch.cat([p.grad.flatten() for p in flow.parameters() if p.grad is not None])
    ratio = torch.cat(left).norm() / one.norm() if left else 1.0
    if (ratio / len(train) if ratio > 100 else ratio) > 6:  # its loss may be a sum over rows
        raise Wrong("the gradients of all steps add up: forget the old ones before each step.")


def _examine_scores(
    scores: Tensor, flow: Any, train: Tensor, validation: Tensor, before: float
) -> None:
    last, after, own = scores[-1].item(), _score(flow, validation), _score(flow, train)

    def same(a: float, b: float) -> bool:
        return abs(a - b) < 2e-3 * max(1.0, abs(b))

    if same(last, after) or same(scores.max().item(), after):  # it may keep its best weights
        if same(scores[0].item(), before):
            raise Wrong("the first score is that of the untrained flow: score after each step.")
        return
    if same(last, -after):
        raise Wrong("a score is larger when it is better: no minus.")
    if same(last, after * len(validation)):
        raise Wrong("the mean over the rows, not their sum.")
    if same(last, own) or same(last, -own):
        raise Wrong("these are scores of the training rows: what do the others say?")
    if same(scores[0].item(), before):
        raise Wrong("the first score is that of the untrained flow: score after each step.")
    raise Wrong("the last score is not the one that the flow has on the validation rows now.")


def _examine_honesty(training: Any) -> None:
    """It trains on the training rows alone, with the learning rate that was asked for."""
    noise = torch.Generator().manual_seed(1)
    here, there = 0.4 * torch.randn(2, 60, 2, generator=noise) + torch.tensor([[[-1.5]], [[1.5]]])
    flow = _flow()
    before = _score(flow, there)
    training(flow, here.clone(), there.clone(), 60, 0.02)
    if _score(flow, there) > before:
        raise Wrong("it learns the validation rows, too: train on `train` alone.")
    start = _weights(_flow())
    slow, fast = (_flow() for _ in range(2))
    for flow, lr in ((slow, 1e-4), (fast, 1e-2)):
        training(flow, here.clone(), there.clone(), 3, lr)
    if (_weights(slow) - start).abs().max() > 0.2 * (_weights(fast) - start).abs().max():
        raise Wrong("the learning rate is not used: a hundredth of it moves the weights as far.")
