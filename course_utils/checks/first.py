"""Checks of the exercises of the first steps: they run the student's model, and train the guide."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import ClippedAdam
from torch import Tensor
from torch.nn.functional import logsigmoid

from course_utils.checks.judge import (
    Untried,
    Verdict,
    Wrong,
    call,
    close,
    drawn,
    exercise,
    judge,
    numbers,
    refuse_what_cannot_be_called,
    trial,
)

GRID = torch.linspace(0.0005, 0.9995, 1000, dtype=torch.double)  # of theta
WIDTH = 0.001
AGREE = 1e-3  # nats


# ------------------------------------------------------------------ tensors and gradients


@exercise
def check_posterior(answer: Any) -> Verdict:
    """Posterior density of theta on a grid, for throws as an array: (s,), (n,) -> (s,)."""

    def parts(t: Tensor, y: np.ndarray) -> tuple[Tensor, Tensor]:
        heads = int(y.sum())
        return (6 * t * (1 - t)).log(), heads * t.log() + (len(y) - heads) * (1 - t).log()

    def normal(log_density: Tensor, t: Tensor) -> Tensor:
        return log_density.softmax(0) / (t[1] - t[0])

    def tails(t: Tensor, y: np.ndarray) -> Tensor:
        return normal(sum(parts(t, 1 - y)), t)

    def heads_alone(t: Tensor, y: np.ndarray) -> Tensor:
        return normal(parts(t, y)[0] + int(y.sum()) * t.log(), t)

    def mean(t: Tensor, y: np.ndarray) -> Tensor:
        return normal(parts(t, y)[0] + parts(t, y)[1] / len(y), t)

    def prior_as_it_is(t: Tensor, y: np.ndarray) -> Tensor:
        return normal(6 * t * (1 - t) + parts(t, y)[1], t)

    def underflow(t: Tensor, y: np.ndarray) -> Tensor:
        product = sum(parts(t, y)).exp()
        return product / (product.sum() * (t[1] - t[0]))

    def top_is_one(t: Tensor, y: np.ndarray) -> Tensor:
        return (sum(parts(t, y)) - sum(parts(t, y)).max()).exp()

    traps = [
        (lambda t, y: normal(parts(t, y)[1], t), "the prior is missing."),
        (lambda t, y: normal(parts(t, y)[0], t), "this is the prior: the throws are not used."),
        (lambda t, y: sum(parts(t, y)), "these are logarithms of prior times likelihood."),
        (lambda t, y: sum(parts(t, y)).softmax(0), "the values sum to one: where is the distance?"),
        (lambda t, y: sum(parts(t, y)).softmax(0) * len(t), "their distance is not always 1 / s."),
        (lambda t, y: sum(parts(t, y)).exp(), "it does not integrate to one: divide by what?"),
        (top_is_one, "the largest value is one; the integral should be."),
        (tails, "heads and tails are swapped: 1 means heads."),
        (heads_alone, "the throws that showed tails count, too."),
        (mean, "the likelihood of all throws is asked, not of an average throw."),
        (prior_as_it_is, "you add a density to logarithms: the prior needs one, too."),
        (
            underflow,
            "the product of so many probabilities is 0 for a computer. Add logarithms, and "
            "mind that `exp` of a large negative sum is 0, too.",
        ),
    ]
    cases = [
        (GRID[::10], np.array([1, 1, 0, 1, 1])),
        (torch.linspace(0.02, 0.98, 60, dtype=torch.double), np.array([0, 1, 0, 0, 0, 0, 1])),
        (torch.linspace(0.01, 0.99, 50, dtype=torch.double), (np.arange(1500) % 4 == 0) * 1),
    ]
    praise = "likelihood times prior, and a sum in place of the integral."
    tried = _explained(answer, TENSOR_FAULTS)
    return judge(
        tried,
        lambda t, y: normal(sum(parts(t, y)), t),
        cases,
        traps=traps,
        praise=praise,
        rtol=5e-3,
    )


TENSOR_FAULTS = {
    "'numpy.ndarray' and 'Tensor'": "an array and a tensor do not mix: make `throws` a tensor.",
    "'Tensor' and 'numpy.ndarray'": "an array and a tensor do not mix: make `throws` a tensor.",
}
GRADIENT_FAULTS = {
    "'NoneType'": "`.grad` is None: it was forgotten too early, or the place is the result of a "
    "computation, and of such no gradient is kept.",
    "does not require grad": "there is nothing to derive by: the place does not ask for "
    "derivatives, at the start or after a step.",
    "leaf Variable": "moving the place is no part of the function: what did the text say about "
    "`no_grad`?",
}
PYRO_FAULTS = {
    "parameter total_count": "a Binomial takes the number of throws first, then the probability.",
    "Expected value.dim() >= 1": "a vector was declared to be one event, and a number came.",
    "arange()": "the size of a plate is one whole number.",
    "'float' object has no attribute": "`pyro.param` begins at a tensor, not at a Python number.",
}


def _explained(answer: Any, faults: dict[str, str]) -> Any:
    """The same function, with some errors of PyTorch said in the words of the lesson."""
    if not callable(answer):
        return answer

    def function(*args: Any) -> Any:
        try:
            return answer(*args)
        except (TypeError, RuntimeError) as error:
            for words, message in faults.items():
                if words in str(error):
                    raise Wrong(message) from None
            raise

    return function


def _climb(function: Callable, start: Tensor, *, steps: int = 300, add: float = 0.0) -> Tensor:
    """Where gradient ascent arrives; with ``add`` = 1 the gradients are never forgotten."""
    x, gradient = start.double().clone(), torch.zeros_like(start).double()
    for _ in range(steps):
        x = x.detach().requires_grad_()
        gradient = add * gradient + torch.autograd.grad(function(x), x)[0]
        x = x + 0.1 * gradient
    return x.detach()


@exercise
def check_climb(answer: Any) -> Verdict:
    """Where 300 steps of 0.1 times the gradient lead: function, start (any shape) -> same shape."""

    def hill(x: Tensor) -> Tensor:
        return -0.5 * (x - 3).square().sum()

    def ridge(x: Tensor) -> Tensor:
        return -(x[0] - 1).square() - 0.4 * (x[1] + 2 - 0.5 * x[0]).square()

    def coin(x: Tensor) -> Tensor:
        return 2 * logsigmoid(x) + 6 * logsigmoid(-x)

    traps = [
        (lambda f, x: _climb(f, x, add=1.0), "the gradients add up: forget the old one each time."),
        (lambda f, x: _climb(f, x, steps=1), "it takes one step only."),
        (lambda f, x: x, "it stays where it starts."),
        (lambda f, x: f(_climb(f, x)), "it returns the height; the place is asked."),
        (lambda f, x: 0 * x.double(), "it returns the gradient; the place is asked."),
        (lambda f, x: _climb(lambda v: -f(v), x), "it goes downhill."),
    ]
    tops = {hill: 3.0, ridge: [1.0, -1.5], coin: -math.log(3)}
    cases = [
        (hill, torch.tensor(0.5)),
        (ridge, torch.tensor([0.0, 1.0])),
        (coin, torch.tensor(0.3)),
    ]
    praise = "every training in this course is this loop."
    tried = _explained(answer, GRADIENT_FAULTS)
    verdict = judge(
        tried, lambda f, x: torch.tensor(tops[f]), cases, traps=traps, praise=praise, rtol=2e-3
    )

    def examine(climb: Callable) -> None:
        start = torch.tensor([0.0, 1.0])
        climb(ridge, start)
        if start.tolist() != [0.0, 1.0] or start.requires_grad:
            raise Wrong("the place is right, but `start` itself was changed: work on a copy.")

    return trial(answer, examine, praise=praise) if verdict else verdict


# ------------------------------------------------------------------ models


def _sites(program: Callable, *data: Any) -> dict[str, dict]:
    """The sample sites of a model or guide, plates left out, with their log densities."""
    refuse_what_cannot_be_called(program)
    try:
        with pyro.validation_enabled():  # zuko switches it off
            trace = poutine.trace(program).get_trace(*data)
    except (ValueError, RuntimeError, TypeError, AttributeError) as error:
        for words, message in PYRO_FAULTS.items():
            if words in str(error):
                raise Wrong(message) from None
        if error.__cause__ and "Trace Shapes" in str(error):
            raise error.__cause__ from None  # as the student's line raised it
        raise
    sites = drawn(trace)
    if not sites:
        if trace.nodes["_RETURN"]["value"] is ...:
            raise Untried
        raise Wrong("nothing is drawn: there is no `pyro.sample` that was reached.")
    for site in sites.values():
        value = site["value"]
        if not isinstance(value, Tensor):
            raise Wrong(f"`{site['name']}` is {type(value).__name__}, and should be a tensor.")
    try:
        with pyro.validation_enabled():
            trace.compute_log_prob()
    except ValueError as error:
        text = " ".join(str(error).split("Trace Shapes")[0].split(" at site ")[-1].split())
        raise Wrong(f"distribution and data do not fit at site {text[:200]}") from None
    return sites


def _expect(sites: dict[str, dict], *names: str) -> None:
    listed = ", ".join([f"`{name}`" for name in sites][:4])
    for name in names:
        if name not in sites:
            raise Wrong(f"there is no site `{name}`; what is drawn is {listed}.")
    for name in sites:
        if name not in names:
            raise Wrong(f"`{name}` is drawn, too, and does not belong here.")


def _examine_data(model: Callable, names: tuple[str, ...], args: tuple, data: Tensor) -> dict:
    """What model(*args, data) must do; the last name is that of the data."""
    sites = _sites(model, *args, data)
    _expect(sites, *names)
    *latent, name = names
    for other in latent:
        if sites[other]["is_observed"]:
            raise Wrong(f"`{other}` is unknown and must be drawn, not observed.")
    if not sites[name]["is_observed"]:
        raise Wrong(f"`{name}` is drawn although it was observed: how does the site get the data?")
    value = sites[name]["value"]
    if value.shape != data.shape or not bool((value == data).all()):
        raise Wrong(f"the site `{name}` observes something else than what it is given.")
    return sites


def _examine_draw(model: Callable, name: str, args: tuple, shape: tuple) -> None:
    try:
        sites = _sites(model, *args)
    except (TypeError, AttributeError, ValueError) as error:
        if isinstance(error, ValueError) and "None" not in str(error):
            raise
        raise Wrong(f"with `{name}=None` it should draw them, and stops: {error}"[:200]) from None
    if name not in sites:
        raise Wrong(f"with `{name}=None` there is no site `{name}`: it must be drawn.")
    if sites[name]["is_observed"]:
        raise Wrong(f"with `{name}=None` nothing is observed; then `{name}` must be drawn.")
    if tuple(sites[name]["value"].shape) != shape:
        got = tuple(sites[name]["value"].shape)
        raise Wrong(f"with `{name}=None`, `{name}` has shape {got}, expected {shape}.")


def _examine_plate(sites: dict[str, dict], name: str, size: int) -> None:
    frames = [frame.size for frame in sites[name]["cond_indep_stack"] if frame.vectorized]
    if size not in frames:
        other = f"; its plate has the size {frames[0]}, not {size}" if frames else ""
        raise Wrong(f"Pyro is not told that the values of `{name}` are independent{other}.")


def _at(model: Callable, values: dict[str, Tensor], *data: Any) -> dict[str, dict]:
    """The sites with the unknown ones set to values."""
    return _sites(poutine.condition(model, data=values), *data)


def _sum(sites: dict[str, dict], name: str) -> float:
    return float(sites[name]["log_prob_sum"])


def _same(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=AGREE, abs_tol=AGREE)


THROWS = (  # asymmetric, of different lengths
    torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0]),
    torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]),
)


@exercise
def check_coin_model(answer: Any) -> Verdict:
    """A model(n, flips=None) of n throws of one coin with a Beta(2, 2) prior."""

    def likelihood(t: float, heads: float, n: int) -> float:
        return heads * math.log(t) + (n - heads) * math.log1p(-t)

    def examine(model: Callable) -> None:
        for flips in THROWS:
            n, heads = len(flips), float(flips.sum())
            sites = _examine_data(model, ("theta", "flips"), (n,), flips)
            if (torch.as_tensor(getattr(sites["flips"]["fn"], "total_count", 1)) > 1).any():
                raise Wrong("a Binomial counts the heads of many throws; `flips` holds each throw.")
            if tuple(sites["theta"]["value"].shape) != ():
                got = tuple(sites["theta"]["value"].shape)
                raise Wrong(f"there is one coin, but `theta` has shape {got}. Is it in the plate?")
            _examine_plate(sites, "flips", n)
            _examine_draw(model, "flips", (n + 2,), (n + 2,))
            for t in (0.3, 0.85):
                sites = _at(model, {"theta": torch.tensor(t)}, n, flips)
                prior = math.log(6 * t * (1 - t))
                if not _same(_sum(sites, "theta"), prior):
                    got = _sum(sites, "theta")
                    raise Wrong(
                        f"at theta = {t} the prior of section 1 has the log density "
                        f"{prior:.3f} nats, yours {got:.3f}."
                    )
                got, right = _sum(sites, "flips"), likelihood(t, heads, n)
                if _same(got, right):
                    continue
                if _same(got, likelihood(1 - t, heads, n)):
                    raise Wrong("heads and tails are swapped: `theta` is the probability of heads.")
                if _same(got, likelihood(1 / (1 + math.exp(-t)), heads, n)):
                    raise Wrong("`theta` is a probability, but is used as log-odds.")
                raise Wrong(
                    f"for {heads:.0f} heads in {n} throws and theta = {t} the log likelihood is "
                    f"{right:.3f} nats, yours {got:.3f}."
                )
        _examine_together(model, {"theta": torch.tensor(0.3)}, "flips", n, flips)

    praise = "prior and likelihood are those of section 1, throw by throw."
    return trial(answer, examine, praise=praise)


def _examine_together(model: Callable, values: dict[str, Tensor], name: str, *data: Any) -> None:
    """Three values at once, along an axis left of the plate as SVI has it, do as one by one."""
    alone = _at(model, values, *data)[name]["log_prob"]
    several = {
        site: value.expand(3, *value.shape) if value.dim() else value.expand(3, 1)
        for site, value in values.items()
    }
    with pyro.plate("particles", 3, dim=-2):
        sites = _at(model, several, *data)
    together = sites[name]["log_prob"]
    if together.shape != (3, *alone.shape) or not close(together[1].double(), alone, AGREE):
        raise Wrong("it does not work for several draws at once, as SVI and Predictive need it.")


@exercise
def check_mint(answer: Any) -> Verdict:
    """A model(throws, heads=None) of k coins of one mint: (k,), (k,)."""
    data = (
        (torch.tensor([3.0, 9.0, 20.0]), torch.tensor([3.0, 2.0, 11.0])),
        (torch.tensor([8.0, 2.0, 5.0, 30.0]), torch.tensor([1.0, 2.0, 0.0, 28.0])),
    )

    def examine(model: Callable) -> None:
        for throws, heads in data:
            k = len(throws)
            sites = _examine_data(model, ("centre", "theta", "heads"), (throws,), heads)
            shapes = {name: tuple(sites[name]["value"].shape) for name in ("centre", "theta")}
            if shapes["centre"] != ():
                raise Wrong(f"all coins share one `centre`, but it has shape {shapes['centre']}.")
            if shapes["theta"] != (k,):
                raise Wrong(f"for {k} coins `theta` has shape {shapes['theta']}, expected {(k,)}.")
            _examine_draw(model, "heads", (throws,), (k,))
            theta = torch.linspace(0.2, 0.7, k)
            for centre in (0.3, 0.6):
                values = {"centre": torch.tensor(centre), "theta": theta}
                sites = _at(model, values, throws, heads)
                right = {
                    "centre": math.log(6 * centre * (1 - centre)),
                    "theta": dist.Beta(10 * centre, 10 - 10 * centre).log_prob(theta).sum().item(),
                    "heads": dist.Binomial(throws, theta).log_prob(heads).sum().item(),
                }
                for name, wanted in right.items():
                    if not _same(_sum(sites, name), wanted):
                        raise Wrong(
                            f"at centre = {centre} the log density of `{name}` should be "
                            f"{wanted:.3f} nats in all, yours is {_sum(sites, name):.3f}."
                        )
            _examine_plate(sites, "theta", k)
            _examine_plate(sites, "heads", k)
            _examine_together(model, values, "heads", throws, heads)

    praise = "the coins are told apart, and learn from each other."
    return trial(answer, examine, praise=praise)


# ------------------------------------------------------------------ guides


def _coin(n: int, flips: Tensor | None = None) -> Tensor:
    theta = pyro.sample("theta", dist.Beta(2.0, 2.0))
    with pyro.plate("throws", n):
        return pyro.sample("flips", dist.Bernoulli(theta), obs=flips)


def _examine_guide(guide: Callable, shapes: dict[str, tuple], *data: Tensor) -> None:
    """Sites in (0, 1) of these shapes, no data, and parameters that may take any value."""
    sites = _sites(guide, *data)
    for name in {"flips", "heads"} & set(sites):
        raise Wrong(f"a guide draws what is unknown; `{name}` is known: leave it out.")
    _expect(sites, *shapes)
    for name, shape in shapes.items():
        site, got = sites[name], tuple(sites[name]["value"].shape)
        if got != shape:
            raise Wrong(f"`{name}` has shape {got}, expected {shape}.")
        if site["is_observed"]:
            raise Wrong(f"`{name}` is unknown: a guide has no `obs`.")
        try:
            inside = [
                bool(site["fn"].support.check(torch.tensor(v)).all()) for v in (0.5, -0.5, 1.5)
            ]
        except (NotImplementedError, AttributeError):
            inside = [True, False, False]
        if inside != [True, False, False]:
            raise Wrong(f"`{name}` is a probability; its density has another range than (0, 1).")
    parameters = [value for _, value in pyro.get_param_store().named_parameters()]
    if not parameters:
        raise Wrong("nothing can be trained: which numbers does `pyro.param` hand to SVI?")
    starts = [value.detach().clone() for value in parameters]
    try:
        _set(parameters, [torch.full_like(start, -3.0) for start in starts])
        _sites(guide, *data)
    except ValueError as error:
        if "constraint" not in str(error):
            raise
        raise Wrong(
            "training may move a parameter to -3, which this density does not allow: "
            "what does `constraint` do?"
        ) from None
    finally:
        _set(parameters, starts)


def _set(parameters: list[Tensor], values: list[Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value)


def _descend(model: Callable, guide: Callable, *data: Any) -> float:
    """Some steps of SVI; returns the ELBO."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the plates of guide and model have other names
        svi = SVI(model, guide, ClippedAdam({"lr": 0.2, "lrd": 0.985}), _loss(20))
        for _ in range(125):
            svi.step(*data)
        return -_loss(5000).loss(model, guide, *data)


def _loss(draws: int) -> Trace_ELBO:
    return Trace_ELBO(num_particles=draws, vectorize_particles=True, max_plate_nesting=1)


def _train(guide: Callable, flips: Tensor, enough: float) -> tuple[Tensor, float]:
    """Log density of a guide on the grid (s,), and its gap, trained while that helps."""
    gap = math.inf
    for _ in range(6):
        before = gap
        _descend(_coin, guide, len(flips), flips)
        with torch.no_grad():
            log_q = _sites(guide, len(flips), flips)["theta"]["fn"].log_prob(GRID.float()).double()
        gap = _gap(log_q, flips)
        if gap < enough or not gap < 0.9 * before:
            break
    if abs(log_q.exp().sum() * WIDTH - 1) > 0.02:
        raise Wrong("after training, its density over `theta` does not integrate to one.")
    return log_q, gap


def _outside(log_q: Tensor, *span: Tensor) -> bool:
    """Whether a log density (s,) is no sum of a constant and these functions, where the mass is."""
    heavy = log_q > log_q.max() - 4
    functions = torch.stack([torch.ones_like(log_q), *span], 1)[heavy]
    weights = torch.linalg.lstsq(functions, log_q[heavy, None]).solution
    return bool((log_q[heavy] - (functions @ weights)[:, 0]).abs().max() > 0.02)


def _gap(log_q: Tensor, flips: Tensor) -> float:
    """KL(q || exact posterior) on the grid, nats."""
    heads = float(flips.sum())
    a, b = (torch.tensor(2 + count).double() for count in (heads, len(flips) - heads))
    return float((log_q.exp() * (log_q - dist.Beta(a, b).log_prob(GRID))).sum() * WIDTH)


MOSTLY_TAILS = (torch.arange(12) == 4).float()  # the posterior is Beta(3, 13)
BEST_OF_MINT = -9.46  # ELBO of the best independent Beta densities in check_mint_guide, nats


@exercise
def check_guide(answer: Any) -> Verdict:
    """A guide(n, flips=None) with a Beta density of two trained parameters."""

    def examine(guide: Callable) -> None:
        _examine_guide(guide, {"theta": ()}, len(MOSTLY_TAILS), MOSTLY_TAILS)
        log_q, gap = _train(guide, MOSTLY_TAILS, 0.03)
        if _outside(log_q, GRID.log(), (1 - GRID).log()):
            raise Wrong("the density of `theta` is no Beta density.")
        if not gap < 0.03:
            raise Wrong(
                f"after training it is {gap:.2f} nats from the exact posterior. Are both "
                "parameters trained, each for itself, from 2 on?"
            )

    praise = "trained on other throws than yours, it came to the exact posterior."
    return trial(answer, examine, praise=praise)


def _mint(throws: Tensor, heads: Tensor | None = None) -> None:
    centre = pyro.sample("centre", dist.Beta(2.0, 2.0))
    with pyro.plate("coins", len(throws)):
        theta = pyro.sample("theta", dist.Beta(10 * centre, 10 * (1 - centre)))
        pyro.sample("heads", dist.Binomial(throws, theta), obs=heads)


@exercise
def check_mint_guide(answer: Any) -> Verdict:
    """A guide(throws, heads=None) of the mint: independent densities with trained parameters."""
    throws, heads = torch.tensor([3.0, 30.0, 9.0]), torch.tensor([3.0, 4.0, 6.0])

    def examine(guide: Callable) -> None:
        _examine_guide(guide, {"centre": (), "theta": (3,)}, throws, heads)
        _examine_plate(_sites(guide, throws, heads), "theta", 3)
        low, high = (
            _at(guide, {"centre": torch.tensor(c)}, throws, heads)["theta"]["fn"]
            for c in (0.2, 0.7)
        )
        if not torch.allclose(low.mean, high.mean):
            raise Wrong("`theta` depends on `centre`: independent densities are asked.")
        bound, before = -math.inf, -math.inf
        for _ in range(6):
            before, bound = bound, _descend(_mint, guide, throws, heads)
            if bound > BEST_OF_MINT - 0.2 or not bound > before + 0.1:
                break
        if not bound > BEST_OF_MINT - 0.2:
            raise Wrong(
                f"after training the ELBO is {bound:.2f} nats, where {BEST_OF_MINT:.2f} can be "
                "reached. Has each coin parameters of its own, and the centre, too?"
            )

    praise = "trained on other coins than yours, it comes as near as independent densities can."
    return trial(answer, examine, praise=praise)


# ------------------------------------------------------------------ predictions


@exercise
def check_forecast(answer: Any) -> Verdict:
    """Heads in m new throws, one number for each draw of theta: model, (s,), m -> (s,)."""

    def examine(forecast: Callable) -> None:
        for a, b, m in ((5.0, 2.0, 12), (1.5, 3.0, 7)):
            theta = dist.Beta(a, b).sample((1000,))
            heads = numbers(call(forecast, _coin, theta, m))
            if heads.shape == (1000, m):
                raise Wrong("these are the throws; how many of the new throws are heads?")
            if heads.shape == (m,):
                raise Wrong("sum over the new throws, and not over the draws.")
            heads = numbers(heads, (1000,))
            if not (heads == heads.round()).all() or heads.min() < 0 or heads.max() > m:
                raise Wrong(f"a number of heads is a whole number from 0 to {m}.")
            _compare(heads, theta.double(), m)

    praise = "every draw of theta has throws of its own."
    return trial(answer, examine, praise=praise)


def _compare(heads: Tensor, theta: Tensor, m: int) -> None:
    """Mean and spread of a forecast beside those that the draws of theta ask for."""
    mean, chance, doubt = m * theta.mean(), m * (theta * (1 - theta)).mean(), m**2 * theta.var()
    spread = (chance + doubt).sqrt()
    off = (heads.mean() - mean).abs() / spread
    if off > 0.12 and abs(heads.mean() - m / 2) < 0.1 * spread:
        raise Wrong("these throws are forecast from the prior: the draws of theta are not used.")
    if off > 0.12 and abs(m - heads.mean() - mean) < 0.1 * spread:
        raise Wrong("these are the tails; heads are asked.")
    if off > 0.12:
        raise Wrong(
            f"on average it should be {mean:.2f} heads of {m}, yours is {heads.mean():.2f}."
        )
    ratio = heads.std() / spread
    if ratio < 0.9 and (heads.std() - (m * theta.mean() * (1 - theta.mean())).sqrt()).abs() < 0.1:
        raise Wrong("it knows theta too well: each draw of theta has throws of its own.")
    if not 0.9 < ratio < 1.1:
        raise Wrong(
            f"the spread (standard deviation) should be {spread:.2f}, yours is {heads.std():.2f}."
        )
    together = torch.corrcoef(torch.stack([heads, theta]))[0, 1]
    if together < 0.3:
        raise Wrong("number s should belong to draw s of theta: the order is lost.")
