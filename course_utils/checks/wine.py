"""Checks of the exercises on Bayesian neural networks."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

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


def _draws(s: int, n: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Targets (n,), means (s, n) and scales (s, n) to try an answer on."""
    noise = torch.Generator().manual_seed(seed)
    mean, scale = torch.randn(2, s, n, generator=noise, dtype=torch.double)
    return torch.randn(n, generator=noise, dtype=torch.double), mean, 0.3 + scale.abs()


@exercise
def check_mixture_log_density(answer: Any) -> Verdict:
    """Log mean exp of Gaussian densities: (n,), (s, n), (s, n) -> (n,), nats."""

    def joint(y, m, s):
        return Normal(m, s).log_prob(y)

    def reference(y, m, s):
        return joint(y, m, s).logsumexp(0) - torch.tensor(len(m)).log()

    traps = [
        (
            lambda y, m, s: joint(y, m, s).exp().mean(0).log(),
            "far from every draw it says −∞: there `exp` gives 0, although the density is not 0. "
            "How can densities be added when only their logarithms fit into a number?",
        ),
        (lambda y, m, s: joint(y, m, s).mean(0), "average densities, not logarithms."),
        (lambda y, m, s: joint(y, m, s).logsumexp(0), "a sum over draws, not a mean."),
        (
            lambda y, m, s: joint(y, m, s).logsumexp(0) / len(m),
            "this divides the logarithm by the number of draws, not the density.",
        ),
        (lambda y, m, s: joint(y, m, s).logsumexp(1), "the draws stand along the first axis."),
        (lambda y, m, s: joint(y, m, s).max(0).values, "this takes the best draw alone."),
        (lambda y, m, s: Normal(m.mean(0), s.mean(0)).log_prob(y), "the weights are unknown, too."),
        (lambda y, m, s: reference(y, m, s**2), "`Normal` takes a standard deviation."),
        (lambda y, m, s: reference(y, m, s**0.5), "the scales are not variances."),
        (lambda y, m, s: -reference(y, m, s), "the log density itself, not its negative."),
        (lambda y, m, s: reference(y, m, s).mean(), "return one value per target."),
        (lambda y, m, s: reference(y, m, s).sum(), "return one value per target."),
        (lambda y, m, s: reference(y, m, s).exp(), "take the logarithm at the end."),
    ]
    far, mean, scale = _draws(3, 4, 2)
    cases = [_draws(5, 3), _draws(2, 4, 1), (far + 90, mean, scale)]
    praise = "densities are averaged, then the logarithm is taken."
    return judge(answer, reference, cases, traps=traps, praise=praise)


@exercise
def check_kl_between_gaussians(answer: Any) -> Verdict:
    """KL(N(m1, s1²) || N(m2, s2²)): four tensors (n,) -> (n,), nats."""

    def reference(m1, s1, m2, s2):
        return kl_divergence(Normal(m1, s1), Normal(m2, s2))

    def wrong(log=1.0, spread=1.0, shift=1.0, constant=-0.5):
        return lambda a, b, c, d: (
            log * (d / b).log() + (spread * b**2 + shift * (a - c) ** 2) / (2 * d**2) + constant
        )

    traps = [
        (lambda a, b, c, d: reference(c, d, a, b), "this is KL(p || q): mind the order."),
        (wrong(constant=0.0), "equal Gaussians must give 0."),
        (wrong(constant=0.5), "equal Gaussians must give 0."),
        (wrong(constant=-1.0), "equal Gaussians must give 0."),
        (wrong(2, 2, 2, -1.0), "this is twice the divergence."),
        (wrong(spread=2, shift=2), "equal Gaussians must give 0: is a factor ½ missing?"),
        (wrong(log=2), "the logarithm counts twice: of scales, or half of that of variances."),
        (wrong(log=-1), "the wider the prior, the more it must cost: mind the sign of the log."),
        (wrong(log=0), "a logarithm is missing."),
        (wrong(spread=0), "w is not at m1 for certain: how far from m2 is it on average?"),
        (wrong(spread=0, constant=0.0), "w is not at m1 for certain: how far from m2 is it?"),
        (wrong(shift=-1), "a distance between the means cannot make it smaller."),
        (wrong(shift=0), "the means do not enter."),
        (
            lambda a, b, c, d: (d / b).log() + (b**2 + a**2 - c**2) / (2 * d**2) - 0.5,
            "a difference of squares is no squared distance.",
        ),
        (
            lambda a, b, c, d: (d / b).log() + (b**2 + (a - c) ** 2) / 2 * d**2 - 0.5,
            "a fraction bar reaches as far as brackets say: what stands below it?",
        ),
        (lambda a, b, c, d: reference(a, b**0.5, c, d**0.5), "the scales are not variances."),
        (lambda a, b, c, d: reference(a, b**2, c, d**2), "this squares the scales twice."),
        (lambda a, b, c, d: -reference(a, b, c, d), "a divergence is never negative."),
        (lambda a, b, c, d: reference(a, b, c, d).sum(), "element by element: do not sum."),
        (lambda a, b, c, d: reference(a, b, c, d).mean(), "element by element: do not average."),
    ]
    (_, m, s), (_, m2, s2) = _draws(2, 4), _draws(2, 4, 1)
    cases = [(m[0], s[0], m[1], s[1]), (m2[0], s2[0], m2[0], s2[1])]
    return judge(answer, reference, cases, traps=traps, praise="the price of every weight.")


# ------------------------------------------------------------------ models and their training


def _rows(n: int, d: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Inputs (n, d), with columns that resemble each other, and targets (n,) around a plane."""
    noise = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=noise) + 2.5 * torch.randn(n, 1, generator=noise)
    y = x @ torch.linspace(-1, 1.5, d) + 0.5 * torch.randn(n, generator=noise)
    return x, y


def _line(x: Tensor, y: Tensor, sigma: float) -> None:
    """The model of exercise 4, to train on."""
    w = pyro.sample("w", dist.Normal(x.new_zeros(x.shape[1]), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ w, sigma), obs=y)


_line.__qualname__ = "model"  # the name in the errors of a call


def _square(gradient: Tensor | None) -> Tensor | None:
    """A vector as a matrix with one column, which `tril` leaves as it is."""
    return gradient if gradient is None or gradient.ndim > 1 else gradient[:, None]


@exercise
def check_linear_elbo(answer: Any) -> Verdict:
    """ELBO of Bayesian linear regression: a Gaussian over (p,), data, sigma, draws -> (), nats."""
    (x, y), sigma, draws = _rows(9, 3), 0.7, 20_000
    x, y, zero = x.double(), y.double(), torch.zeros(3).double()
    loc = torch.tensor([-1.3, 0.5, 2.5]).double()
    root = torch.tensor([[0.08, 0, 0], [0.05, 0.12, 0], [-0.08, -0.04, 0.064]]).double()

    def fit(scale, doubt=1.0):  # the expected log likelihood
        lost = doubt * (x @ root).square().sum() / (2 * scale**2)
        return Normal(x @ loc, scale).log_prob(y).sum() - lost

    def examine(function: Callable) -> None:
        inside = [loc.clone().requires_grad_(), root.clone().requires_grad_()]
        q = dist.MultivariateNormal(inside[0], scale_tril=inside[1])
        prior = dist.MultivariateNormal(zero, torch.eye(3).double())
        value = function(q, x.clone(), y.clone(), sigma, draws)
        found = numbers(value)
        if found.shape:
            raise Wrong(f"one number, please; its shape is {tuple(found.shape)}.")
        with torch.no_grad():
            w, kl, exact = q.sample((draws,)), kl_divergence(q, prior), fit(sigma)
            each = Normal(w @ x.T, sigma).log_prob(y).sum(1)  # (draws,)
            parts = each, q.log_prob(w), prior.log_prob(w)
            near = 4 * sum(part.std() for part in parts).item() / draws**0.5
            traps = {
                "the KL term is missing.": exact,
                "the KL term has the wrong sign: it is a price.": exact + kl,
                "this is minus the ELBO; the sign is turned where it is minimised.": kl - exact,
                "this is KL(p‖q): which of the two is drawn from?": exact - kl_divergence(prior, q),
                "the prior does not enter: from where does q move away?": exact + q.entropy(),
                "this is the fit at the mean of q: its doubt costs nothing.": fit(sigma, 0) - kl,
                "a log likelihood is a sum over the targets, not a mean.": exact / 9 - kl,
                "this is per target; the bound is of all of them.": (exact - kl) / 9,
                "the mean over the draws, not their sum.": draws * exact - kl,
                "`Normal` takes a standard deviation, and `sigma` is one.": fit(sigma**2) - kl,
                "the noise has scale 1 here: where does `sigma` enter?": fit(1.0) - kl,
                "constants of the log likelihood are missing: then it bounds nothing.": exact
                - kl
                - Normal(zero[0], sigma).log_prob(zero[0]) * len(y),
            }
        if abs(found - exact + kl) > near:
            far = {m: abs(found - w) / max(1.0, abs(w / exact)) for m, w in traps.items()}
            if far[message := min(far, key=far.get)] < near:
                raise Wrong(message)
            more = " Are logarithms averaged, or likelihoods?" * bool(found > exact - kl)
            raise Wrong(f"it should be near {exact - kl:.1f} nats here; it is {found:.1f}.{more}")
        if not isinstance(value, Tensor) or not value.requires_grad:
            raise Wrong("the value is right, but no gradient comes out of it.")
        found = torch.autograd.grad(value, inside, allow_unused=True)
        leaves = [loc.clone().requires_grad_(), root.clone().requires_grad_()]
        doubt = (x @ leaves[1]).square().sum() / (2 * sigma**2)
        best = Normal(x @ leaves[0], sigma).log_prob(y).sum() - doubt
        best = best - kl_divergence(dist.MultivariateNormal(leaves[0], scale_tril=leaves[1]), prior)
        lost = [
            f is None or (f - w).tril().norm() > 0.18 * w.tril().norm()
            for f, w in zip(
                map(_square, found), map(_square, torch.autograd.grad(best, leaves)), strict=True
            )
        ]
        if lost[0]:
            raise Wrong("the value is right, but draws let no gradient pass: `q` has another way.")
        if lost[1]:
            raise Wrong("the mean of `q` learns, its widths do not: where is their gradient lost?")

    return trial(answer, examine, praise="log likelihood minus price, and its gradient reaches q.")


def _trace(model: Any, *data: Any, **known: Tensor) -> poutine.Trace:
    """Run a model or guide with some sites given, and note its random choices."""
    refuse_what_cannot_be_called(model)
    try:
        trace = poutine.trace(poutine.condition(model, data=known)).get_trace(*data)
    except (RuntimeError, ValueError) as error:
        raise (error.__cause__ or error) from None  # as the student's line raised it
    except TypeError as error:
        if "torch.Size" not in str(error):
            raise
        raise Wrong("what is observed is handed to `pyro.sample` by name, as `obs=`.") from None
    if trace.nodes["_RETURN"]["value"] is ...:
        raise Untried
    for name, site in drawn(trace).items():
        shape, seen = tuple(site["fn"].shape()), tuple(site["value"].shape)
        if shape != seen and not site["infer"].get("_deterministic"):
            table = " A column (n, 1) beside a row (n,) makes a table (n, n)." * (shape == seen * 2)
            raise Wrong(
                f'"{name}" has a distribution of shape {shape}, and a value of shape {seen}.{table}'
            )
    trace.compute_log_prob()
    return trace


def _looks_like_a_line(model: Any, x: Tensor, y: Tensor, *rest: Any) -> None:
    """Whether a model draws w (d,) and observes y, each declared as Pyro needs it."""
    sites = drawn(_trace(model, x, y, *rest))
    if not sites:
        raise Wrong("nothing is random in it yet: what is drawn, and with which function of Pyro?")
    unknown = [name for name, site in sites.items() if not site["is_observed"]]
    if len(unknown) == len(sites):
        raise Wrong("no site is observed: how does the model get to know `y`?")
    if "w" not in unknown:
        raise Wrong(f'no unknown site is named "w"; there are {unknown or "none"}.')
    if len(unknown) > 1:
        raise Wrong(f"it draws {unknown}: what else than the weights is unknown here?")
    if "y" not in sites:
        raise Wrong('one observed site, named "y", should hold all targets.')
    w, shape = sites["w"], (x.shape[1],)
    if tuple(w["value"].shape) != shape:
        found = tuple(w["value"].shape)
        raise Wrong(f'"w" has shape {found}: one weight for each column of x makes {shape}.')
    for name in ("w", "y"):
        plates = [frame.size for frame in sites[name]["cond_indep_stack"] if frame.vectorized]
        if sites[name]["fn"].batch_shape and not plates:
            raise Wrong(
                f'Pyro does not know what "{name}" is: is a vector one event, or are its elements '
                "independent repetitions? Each of the two has its own declaration."
            )


def _prior_is_standard(trace: poutine.Trace, w: Tensor, sigma: float) -> None:
    """Whether the site "w" has the density N(0, I)."""
    found = trace.nodes["w"]["log_prob"].sum()
    if torch.isclose(found, Normal(0.0, sigma).log_prob(w).sum(), rtol=1e-4):
        raise Wrong("the noise scale is that of y; the prior of the weights has scale 1.")
    if not torch.isclose(found, Normal(0.0, 1.0).log_prob(w).sum(), rtol=1e-4):
        raise Wrong("the prior of w is not N(0, I).")


def _weights(d: int) -> Tensor:
    return torch.randn(3, d, generator=torch.Generator().manual_seed(5))


@exercise
def check_linear_model(answer: Any) -> Verdict:
    """Bayesian linear regression as a Pyro model of x (n, d), y (n,) and sigma."""
    (x, y), sigma = _rows(7, 3), 0.4

    def examine(model: Callable) -> None:
        _looks_like_a_line(model, x, y, sigma)
        for w in _weights(3):
            trace = _trace(model, x.clone(), y.clone(), sigma, w=w)
            site = trace.nodes["y"]
            if not torch.equal(site["value"].squeeze().float(), y):
                raise Wrong("what is observed is not `y`.")
            _prior_is_standard(trace, w, sigma)
            found, mean = site["log_prob"].sum(), x @ w
            for scale in (sigma**2, sigma**0.5):
                if torch.isclose(found, Normal(mean, scale).log_prob(y).sum(), rtol=1e-4):
                    raise Wrong("`Normal` takes a standard deviation, and `sigma` is one.")
            if torch.isclose(found, Normal(mean, 1.0).log_prob(y).sum(), rtol=1e-4):
                raise Wrong("the noise has scale 1 here: where does `sigma` enter?")
            if not torch.isclose(found, Normal(mean, sigma).log_prob(y).sum(), rtol=1e-4):
                raise Wrong("given w, the log density of y is not that of N(Xw, σ²).")

    return trial(answer, examine, praise="prior times likelihood, at every w that was tried.")


@exercise
def check_batch_model(answer: Any) -> Verdict:
    """The same on batches: its log joint is right on average."""
    (x, y), sigma, batch, runs = _rows(12, 2), 0.4, 3, 60

    def examine(model: Callable) -> None:
        _looks_like_a_line(model, x, y, sigma, batch)
        (w, *_), seen, factors = _weights(2), set(), []
        each = Normal(x @ w, sigma).log_prob(y)
        for _ in range(runs):
            trace = _trace(model, x.clone(), y.clone(), sigma, batch, w=w)
            site = trace.nodes["y"]
            if site["value"].numel() != batch:
                raise Wrong(f"one run should see {batch} rows, and saw {site['value'].numel()}.")
            rows = (site["value"].flatten()[:, None] - y).abs().argmin(1)
            seen |= set(rows.tolist())
            factors.append(site["log_prob"].sum() / each[rows].sum())
        _prior_is_standard(trace, w, sigma)
        if len(seen) < len(y):
            raise Wrong("some rows never come: draw the batch anew in every run.")
        factors = torch.stack(factors)
        if factors.max() - factors.min() > 0.01 * factors.mean().abs():
            raise Wrong(
                "the log density is not that of the rows of the batch: do those of x and of y "
                "belong together, and is `sigma` as it was?"
            )
        times = factors.mean().item() * batch / len(y)
        if abs(times * len(y) / batch - 1) < 0.01:
            raise Wrong("a batch counts as a batch only: the prior is then too strong.")
        if abs(times - 1) > 0.01:
            raise Wrong(f"on average the data count {times:.2f} times, not once.")

    return trial(answer, examine, praise="on average every row counts once, and so does the prior.")


@exercise
def check_posterior_fit(answer: Any) -> Verdict:
    """A guide with full covariance, trained on any model: model, steps, data -> guide."""
    (x, y), other, sigma, steps = _rows(8, 2, seed=3), _rows(8, 3), 2.0, 300
    precision = torch.eye(2) + x.T @ x / sigma**2
    exact = dist.MultivariateNormal(
        torch.linalg.solve(precision, x.T @ y / sigma**2), precision_matrix=precision
    )

    def examine(fit: Callable) -> None:
        _is_guide(fit(_line, 2, *other, sigma))
        try:
            guide = fit(_line, steps, x.clone(), y.clone(), sigma)
        except (RuntimeError, ValueError, AssertionError):
            pyro.clear_param_store()
            fit(_line, 2, x, y, sigma)  # raises again, if the store was not the reason
            raise Wrong(
                "the second call, on other data, failed: it met the parameters of the first, "
                "which Pyro keeps until it is told to forget them."
            ) from None
        _is_guide(guide)
        with torch.no_grad():
            runs = [_trace(guide, x, y, sigma).nodes for _ in range(300)]
        if "w" not in runs[0]:
            raise Wrong('the guide draws no "w".')
        w = torch.stack([nodes["w"]["value"] for nodes in runs]).detach()
        if w.std(0).min() < 1e-6:
            raise Wrong("the guide draws the same w every time: a point, not a distribution.")
        off = ((w.mean(0) - exact.mean) / exact.stddev).abs().max()
        if off > 0.8:
            raise Wrong(
                f"after {steps} steps a mean is {off:.1f} posterior standard deviations off: "
                "does every step move the parameters, and far enough?"
            )
        if w.T.corrcoef()[0, 1] > -0.35:  # of the exact posterior: -0.79
            raise Wrong(
                "the means are right, but this guide cannot say that two weights go together: "
                "which guide has a full covariance?"
            )
        found = dist.MultivariateNormal(w.mean(0), w.T.cov())
        if kl_divergence(found, exact) > 1:
            raise Wrong("the means are right, the spread is not: was it trained to the end?")

    return trial(answer, examine, praise="the exact posterior, found by training alone.")


def _is_guide(found: Any) -> None:
    if found is ...:
        raise Untried
    if found is None:
        raise Wrong("it returned nothing (None): is a `return` missing?")
    if isinstance(found, SVI) or not callable(found):
        raise Wrong(f"return the trained guide, not {type(found).__name__}.")


# ------------------------------------------------------------------ a Bayesian network

UNITS = {name: getattr(nn.functional, name) for name in ("silu", "relu", "tanh", "gelu", "sigmoid")}
UNITS["a straight line"] = lambda z: z


@exercise
def check_network(answer: Any) -> Verdict:
    """A Bayesian network as a Pyro model: (n, d), (n,) or None, hidden units -> its mean (n,)."""
    (x, y), hidden = _rows(7, 3), 6

    def examine(network: Callable) -> None:
        refuse_what_cannot_be_called(network)
        model = functools.partial(network, hidden=hidden)
        trace = _trace(model, x, y)
        _examine_data_sites(trace, y)
        values = _unknowns(trace, *x.shape, hidden)
        for seed in range(2):
            _examine_joint(model, x, y, values, seed)
        if tuple(_trace(model, x[:1]).nodes["mean"]["value"].shape) != (1,):
            raise Wrong('for a single wine "mean" has lost its axis.')
        if drawn(_trace(model, x))["y"]["is_observed"]:
            raise Wrong("without targets (`y=None`) it must draw `y`, and does not.")
        _examine_learning(model)

    return trial(answer, examine, praise="every weight has its prior, and SVI trains them all.")


def _examine_data_sites(trace: poutine.Trace, y: Tensor) -> None:
    sites = drawn(trace)
    if "y" not in sites:
        raise Wrong('no sample site is named "y": where do the targets come in?')
    if not sites["y"]["is_observed"]:
        raise Wrong("`y` was given and is drawn all the same: where is it observed?")
    if "mean" not in sites:
        raise Wrong('no site is named "mean": `pyro.deterministic` gives a value a name.')
    shape = tuple(sites["mean"]["value"].shape)
    if shape != tuple(y.shape):
        raise Wrong(f'"mean" has shape {shape} for {len(y)} wines, expected {tuple(y.shape)}.')
    if not (sites["y"]["cond_indep_stack"] or sites["y"]["fn"].event_shape):
        raise Wrong("`y` stands in no plate: Pyro does not know that wines are independent.")
    if not close(numbers(trace.nodes["_RETURN"]["value"]), sites["mean"]["value"], 1e-4):
        raise Wrong('what it returns is not "mean".')


def _unknowns(trace: poutine.Trace, wines: int, d: int, hidden: int) -> dict[str, Tensor]:
    """Two weights, two biases (first, second) and the noise scale, by name, as they were drawn."""
    for name, site in trace.nodes.items():
        if site["type"] == "param":
            raise Wrong(f"`{name}` is a parameter: one trained value without a prior.")
    sites = {name: site for name, site in drawn(trace).items() if not site["is_observed"]}
    for name, site in sites.items():
        if any(frame.size != wines for frame in site["cond_indep_stack"]):
            raise Wrong(f"`{name}` stands in a plate: here all numbers of a name are one event.")
        if site["cond_indep_stack"]:
            raise Wrong(
                f"`{name}` is drawn in the plate, anew for every wine. What all wines share is "
                "drawn outside of it."
            )
        if shape := tuple(site["fn"].batch_shape):
            raise Wrong(f"`{name}` has batch shape {shape}: which call makes it one event?")
    values = {name: site["value"] for name, site in sites.items()}
    alone = [name for name, value in values.items() if value.numel() == 1]
    scales = [name for name in alone if (sites[name]["fn"].sample((100,)) > 0).all()]
    if len(scales) != 1:
        raise Wrong("one unknown is the noise scale: a single number, and never negative.")
    if scales != ["sigma"]:
        raise Wrong(f'the noise scale is named "{scales[0]}"; later cells look for "sigma".')
    sizes = {name: value.numel() for name, value in values.items() if name not in scales}
    second = {sizes[name]: name for name in sizes if name not in ("w1", "b1")}
    for name in ("w1", "b1"):
        if name not in sizes:
            raise Wrong(f'no unknown is named "{name}"; there are {list(values) or "none"}.')
    names = ["w1", second.get(hidden), "b1", second.get(1)]
    if len(sizes) != 4 or [sizes.get(n) for n in names] != [d * hidden, hidden, hidden, 1]:
        raise Wrong(
            f"with {d} inputs and {hidden} hidden units it draws {sizes}, without the noise scale: "
            "which weights and biases do two layers have?"
        )
    return {name: values[name] for name in [*names, *scales]}


def _examine_joint(model: Callable, x: Tensor, y: Tensor, values: dict, seed: int) -> None:
    """Whether prior and likelihood are right where all unknowns are given."""
    noise = torch.Generator().manual_seed(seed)
    known = {name: torch.randn(value.shape, generator=noise) for name, value in values.items()}
    *names, scale = known
    known[scale] = known[scale].abs() + 0.3
    w1, w2, b1, b2, sigma = known.values()
    nodes = _trace(model, x, y, **known).nodes
    d, hidden = x.shape[1], len(b1)
    for name, right in zip(names, (2 * d**-0.5, 2 * hidden**-0.5, 2.0, 2.0), strict=True):
        found, expected = nodes[name]["log_prob"].sum(), Normal(0.0, right).log_prob(known[name])
        if not torch.isclose(found, expected.sum(), rtol=1e-4):
            factor = nodes[name]["fn"].variance.sqrt().mean().item() / right
            wide = f"{factor:.3g} times as wide as it should be, with {d} inputs and {hidden} units"
            what = wide if abs(factor - 1) > 1e-3 else "not Normal around 0"
            raise Wrong(f"the prior of `{name}` is {what}.")
    expected = dist.LogNormal(0.0, 1.0).log_prob(sigma).sum()
    if not torch.isclose(nodes[scale]["log_prob"].sum(), expected, rtol=1e-4):
        raise Wrong(f"the prior of `{scale}` is not LogNormal(0, 1).")
    mean, slips = nodes["mean"]["value"], []
    for seen, slip in ((x.asinh(), ""), (x, "the first layer sees x itself, without asinh. ")):
        for name, act in UNITS.items():
            if torch.allclose(mean, act(seen @ w1 + b1) @ w2.flatten() + b2, atol=1e-4):
                slips.append(slip + f"The units are not SiLU, but {name}." * (name != "silu"))
    if slips != [""]:
        what = 'with all weights given, "mean" is not that of two layers, asinh and SiLU.'
        raise Wrong(slips[0].strip() if slips else what)

    def fits(scale: Any) -> bool:
        expected = Normal(mean, scale).log_prob(y).sum()
        return torch.isclose(nodes["y"]["log_prob"].sum(), expected, rtol=1e-4)

    if fits(sigma**2) or fits(sigma**0.5):
        raise Wrong("`Normal` takes a standard deviation, and the noise scale is one.")
    if fits(1.0):
        raise Wrong("the noise has scale 1 here: where does the noise scale that is drawn enter?")
    if not fits(sigma):
        raise Wrong("given everything else, `y` is not Normal around its mean, each wine once.")


def _examine_learning(model: Callable) -> None:
    x = torch.linspace(-2, 2, 40)[:, None]
    y = (x[:, 0] ** 2 - 1.4) / 1.25
    guide = AutoNormal(model, init_scale=0.05)
    svi = SVI(model, guide, pyro.optim.ClippedAdam({"lr": 0.1}), Trace_ELBO())
    for _ in range(60):
        svi.step(x, y)
    mean = _trace(model, x, **guide.median()).nodes["mean"]["value"]
    if not (mean - y).square().mean() < 0.6:  # a level line has 1
        raise Wrong("60 steps of SVI on a parabola taught it nothing: who stops gradients?")


@exercise
def check_predictions(answer: Any) -> Verdict:
    """Means and noise scales, both (s, n), of a model with a guide, inputs (n, d) and s."""
    x, s = torch.tensor([[1.0], [2.0], [-1.0]]), 40

    def model(x, y=None, hidden=50):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        sigma = pyro.sample("sigma", dist.LogNormal(0.0, 1.0))
        mean = pyro.deterministic("mean", x @ w[None])  # as in exercise 6: no extra axes
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(mean, sigma), obs=y)

    def guide(x, y=None, hidden=50):  # the noise scale is that of the weight
        w = pyro.sample("w", dist.Normal(4.0, 0.5))
        pyro.sample("sigma", dist.Delta(w.square() / 9))

    def examine(function: Callable) -> None:
        got = function(model, guide, x.clone(), s)
        if isinstance(got, dict):
            raise Wrong(f"return two things, means and scales, not a dictionary of {list(got)}.")
        if got is None or got is ...:
            numbers(got)
        if not isinstance(got, tuple | list | Tensor) or len(got) != 2:
            raise Wrong("return two things, the means and the noise scales.")
        for value, name in zip(got, ("means", "noise scales"), strict=True):
            if (shape := tuple(numbers(value).shape)) != (s, len(x)):
                raise Wrong(f"the {name} have shape {shape}; {(s, len(x))} was asked for.")
        mean, scale = map(numbers, got)
        w = mean[:, :1]
        if mean[:, 0].mean() < 2:
            raise Wrong("these are draws from the prior: who tells `Predictive` of the guide?")
        turned = mean.T.reshape(s, -1)
        if mean.ndim == 2 and not close(mean, w * x[:, 0].double(), 1e-4):
            if close(turned, turned[:, :1] * x[:, 0].double(), 1e-4):
                raise Wrong("rows and columns are mixed up: a row belongs to one network.")
            raise Wrong("these means scatter around those of the networks: noise was added.")
        if w.std() < 0.1:
            raise Wrong("all rows are alike: one network was drawn, or their mean was taken.")
        if not close(scale, (w**2 / 9).expand_as(scale), 1e-4):
            raise Wrong("a row's noise scale is not that of the same network.")

    return trial(answer, examine, praise="a row for each network: its means and its noise.")


# ------------------------------------------------------------------ two kinds of doubt


@exercise
def check_variance_parts(answer: Any) -> Verdict:
    """Aleatoric and epistemic variance: (s, n), (s, n) -> (2, n)."""

    def reference(mean, scale):
        second = (scale**2 + mean**2).mean(0)  # E[y²]
        aleatoric = (scale**2).mean(0)
        return torch.stack([aleatoric, second - mean.mean(0) ** 2 - aleatoric])

    def parts(aleatoric, epistemic):
        return lambda m, s: torch.stack([aleatoric(s), epistemic(m)])

    noise, ignorance = (lambda s: (s**2).mean(0)), (lambda m: m.var(0, correction=0))
    traps = [
        (parts(lambda s: s.mean(0) ** 2, ignorance), "square, then average."),
        (parts(lambda s: s.mean(0) ** 2, lambda m: m.var(0)), "square, then average."),
        (parts(lambda s: s.mean(0), ignorance), "a mean of scales is no variance."),
        (parts(lambda s: s.var(0, correction=0), ignorance), "the noise is not how σ varies."),
        (parts(noise, lambda m: (m**2).mean(0)), "a mean of squares is no variance."),
        (parts(noise, lambda m: m.std(0, correction=0)), "variances, not standard deviations."),
        (
            parts(noise, lambda m: m.var(0)),
            "the draws are all there is, no sample of more: what does `var` divide by?",
        ),
        (lambda m, s: reference(m, s).flip(0), "aleatoric above epistemic."),
        (lambda m, s: reference(m, s).sqrt(), "variances, not standard deviations."),
        (lambda m, s: reference(m, s).sum(0), "keep the two parts apart."),
        (lambda m, s: reference(m, s).mT, "one row for each part, one column for each target."),
        (lambda m, s: reference(m, s).mean(1), "one value for each target: do not average them."),
        (lambda m, s: reference(m.mT, s.mT), "the draws stand along the first axis."),
    ]
    cases = [_draws(5, 3)[1:], _draws(2, 4, 1)[1:]]
    return judge(answer, reference, cases, traps=traps, praise="together they are the variance.")


# ------------------------------------------------------------------ evidence


def _each(traps: dict[str, list[Callable]]) -> list[tuple[Callable, str]]:
    return [(wrong, text) for text, several in traps.items() for wrong in several]


def _linear(n: int, p: int, sigma: float, width: float) -> tuple:
    """Residuals, slopes, mode, prior scales and noise scale of a linear model at its mode."""
    noise = torch.Generator().manual_seed(p)
    y, slopes = (torch.randn(*s, generator=noise).double() for s in ((n,), (n, p)))
    prior = width * torch.linspace(0.6, 1.5, p).double()
    precision = slopes.T @ slopes / sigma**2 + torch.diag(prior**-2)
    mode = torch.linalg.solve(precision, slopes.T @ y / sigma**2)
    return y - slopes @ mode, slopes, mode, prior, sigma


def _laplace(price=1.0, pi=0.5, det=-0.5, more=None, power=2, own=-2.0) -> Callable:
    """Laplace's log evidence, but for what the arguments change."""

    def evidence(r, slopes, w, prior, sigma):
        precision = slopes.T @ slopes / sigma**power + (own and torch.diag(prior**own))
        fits, prices = Normal(0.0, sigma).log_prob(r), Normal(0.0, prior).log_prob(w)
        found = fits.sum() + price * prices.sum() + pi * len(w) * math.log(2 * math.pi)
        found = found + det * torch.linalg.slogdet(precision).logabsdet
        return found + (more(fits, prices, prior, sigma) if more else 0.0)

    return evidence


@exercise
def check_log_evidence(answer: Any) -> Verdict:
    """Laplace's log evidence: (n,), (n, p), (p,), (p,), sigma -> (), nats."""

    def exact(r, slopes, w, prior, sigma):  # of a linear model, whose y is Gaussian
        root = slopes * prior
        covariance = sigma**2 * torch.eye(len(r)).double() + root @ root.T
        return dist.MultivariateNormal(0 * r, covariance).log_prob(r + slopes @ w)

    def each(r, slopes, w, prior, sigma):
        value = numbers(answer(r, slopes, w, prior, sigma), finite=False)
        if len(w) < len(r) and close(value, _laplace(own=0)(r, slopes, w, prior, sigma), 1e-3):
            raise Wrong("Λ lacks the prior.")
        if len(w) > 99 and not value.isfinite().all():
            raise Wrong(
                f"with {len(w)} weights it is not finite: such a determinant is too large or too "
                "small for a number, though its logarithm is not."
            )
        return value

    def units(f, *rest):  # what log N(y) has for 2π
        return len(f) * math.log(2 * math.pi) / 2

    traps = {
        "count the factors of 2π: of each density, and of the integral.": [
            *(_laplace(pi=pi) for pi in (0.0, 1.0, -0.5)),
            *(_laplace(pi=pi, more=units) for pi in (0.5, 0.0, 1.0)),
        ],
        "how wide is the peak?": [_laplace(pi=pi, det=0.0) for pi in (0.0, 0.5)],
        "a sharper peak holds less: mind the sign of the log determinant.": [
            *(_laplace(pi=pi, det=d) for pi in (0.5, 0.0, -0.5) for d in (0.5, 1.0)),
        ],
        "how many halves? An integral goes with the root of the determinant.": [
            *(_laplace(det=det) for det in (-1.0, -0.25)),
        ],
        "where is the prior of the mode?": [_laplace(price=0.0, pi=pi) for pi in (0.5, 0.0)],
        "this is the log likelihood at the mode.": [_laplace(price=0.0, pi=0.0, det=0.0)],
        "the density of a prior has a height: how does it fall with the prior's scale?": [
            *(_laplace(pi=pi, more=lambda f, c, s, _: s.log().sum()) for pi in (0.5, 1.0)),
        ],
        "the density of the noise has a height: how does it fall with the noise scale?": [
            _laplace(more=lambda f, c, s, sigma: len(f) * math.log(sigma) + units(f)),
        ],
        "which power of the noise scale is in Λ?": [_laplace(power=k) for k in (0, 1, 4, -2)],
        "what is the precision of a prior?": [_laplace(own=k) for k in (-1.0, 2.0, 1.0)],
        "the log evidence itself, not its negative.": [lambda *a: -exact(*a)],
        "of all wines together, not per wine.": [lambda *a: exact(*a) / len(a[0])],
        "the log joint is a sum over all wines and all weights, not a mean.": [
            *(_laplace(more=lambda *a, i=i: a[i].mean() - a[i].sum()) for i in (0, 1)),
            _laplace(more=lambda f, c, *_: f.mean() - f.sum() + c.mean() - c.sum()),
        ],
    }
    cases = [_linear(5, 3, 0.6, 1.0), _linear(4, 6, 1.7, 2.0), _linear(30, 400, 0.8, 8.0)]
    praise, given = "exact where that is known.", each if callable(answer) else answer
    return judge(given, exact, cases, traps=_each(traps), praise=praise, rtol=1e-3)


# ------------------------------------------------------------------ intervals and scores


def _ranked(mass: float) -> tuple[Tensor, Tensor, Tensor, float]:
    """Targets (200,) of known rank in skewed mixtures (7, 200), each shifted and stretched."""
    low, high, column = (1 - mass) / 2, (1 + mass) / 2, torch.arange(200).double()
    mean = torch.linspace(-1, 1.5, 7).double()[:, None].exp() * (1 + (column % 3) / 4)  # (s, n)
    scale = (0.1 + 0.4 * mean) * (1 + (column % 2))
    outside = [(0.1 * low, 0.9 * low, 23), (high + 0.1 * low, high + 0.7 * low, 40)]
    edges = [(low + 1e-4, low + 1e-3, 30), (high - 1e-3, high - 1e-4, 40)]  # too near for draws
    groups = [*outside, *edges, (low + 0.05, high - 0.05, 67)]
    rank = torch.cat([torch.linspace(*group) for group in groups]).double()
    rank = rank[torch.randperm(200, generator=torch.Generator().manual_seed(0))]
    below, above = (mean - 9 * scale).amin(0), (mean + 9 * scale).amax(0)
    for _ in range(50):  # F rises: halve the bracket
        y = (below + above) / 2
        left = Normal(mean, scale).cdf(y).mean(0) < rank
        below, above = torch.where(left, y, below), torch.where(left, above, y)
    shift, stretch = column - 90, 1 + column % 7
    return shift + stretch * y, shift + stretch * mean, stretch * scale, mass


@exercise
def check_noise_rule(answer: Any) -> Verdict:
    """A better noise scale from residuals (n,), slopes (n, p), prior scales (p,) and the last."""

    def reference(r, slopes, prior, sigma, power=2, trace=1.0, root=0.5, prior_power=-2):
        curvature = slopes.T @ slopes / sigma**power
        precision = curvature + torch.diag(prior**prior_power)
        known = trace * torch.linalg.solve(precision, curvature).trace()
        return (r.square().sum() / (len(r) - known)) ** root

    def known(slopes, prior, sigma):
        curvature = slopes.T @ slopes / sigma**2
        return torch.linalg.solve(curvature + torch.diag(prior**-2), curvature).trace()

    def slow(r, slopes, prior, sigma):
        return ((r.square().sum() + sigma**2 * known(slopes, prior, sigma)) / len(r)).sqrt()

    traps = [
        (lambda r, j, p, s: r.square().mean().sqrt(), "the weights have bent towards these rows."),
        (lambda r, j, p, s: (r.square().sum() / (len(r) - len(p))).sqrt(),
         "not every weight is determined by the data: what holds the others?"),
        (functools.partial(reference, root=1), "this is the variance."),
        (slow, "it rests at the top, and creeps there: let only the squared residuals be divided."),
        (lambda r, j, p, s: (r.square().sum() / (len(r) - (len(p) - known(j, p, s)))).sqrt(),
         "which weights use up wines: those that the data determine, or the others?"),
        (lambda r, j, p, s: (r.square().sum() / (len(r) - s**2 * known(j, p, s))).sqrt(),
         "a count has no unit: how does the curvature of the data depend on sigma?"),
        (functools.partial(reference, trace=-1), "explained rows are lost, not gained: a sign."),
        (functools.partial(reference, power=1), "how does the curvature depend on sigma?"),
        (functools.partial(reference, prior_power=-1), "precision of a prior of this scale?"),
        (functools.partial(reference, prior_power=2), "precision of a prior of this scale?"),
    ]  # fmt: skip
    cases = []
    for seed, (n, d) in enumerate(((9, 3), (6, 8))):
        x, y = _rows(n, d, seed)
        cases.append((y.double(), x.double(), 0.2 + torch.arange(d).double() / 5, 0.7 + seed))
    praise = "its resting point is the top of the evidence."
    return judge(answer, reference, cases, traps=traps, praise=praise)


@exercise
def check_coverage(answer: Any) -> Verdict:
    """Share of targets inside central intervals: (n,), (s, n), (s, n), mass -> ()."""

    def ranks(y, m, s):
        return Normal(m, s).cdf(y).mean(0)

    def held(rank=ranks, low=lambda k: (1 - k) / 2, high=lambda k: (1 + k) / 2):
        def share(y, m, s, k):
            return ((low(k) <= rank(y, m, s)) & (rank(y, m, s) <= high(k))).double().mean()

        return share

    def gaussian(scale):
        return held(lambda y, m, s: Normal(m.mean(0), scale(m, s)).cdf(y))

    def weights(y, m, s, mass):
        ends = m.quantile(torch.tensor([1 - mass, 1 + mass]).double() / 2, 0)
        return ((ends[0] <= y) & (y <= ends[1])).double().mean()

    right = held()
    traps = {
        "the mixture is skewed, and one Gaussian is not: average F over the draws.": [
            gaussian(lambda m, s: s.mean(0)),
            gaussian(lambda m, s: ((s**2).mean(0) + m.var(0)).sqrt()),
            gaussian(lambda m, s: ((s**2).mean(0) + m.var(0, correction=0)).sqrt()),
        ],
        "this is one-sided: cut off the same on both sides.": [
            *(held(low=lambda k: 0, high=high) for high in (lambda k: k, lambda k: (1 + k) / 2)),
            *(held(low=low, high=lambda k: 1) for low in (lambda k: 1 - k, lambda k: (1 - k) / 2)),
        ],
        "the two sides share what is outside.": [held(low=lambda k: 1 - k, high=lambda k: k)],
        "this is the share outside.": [lambda *a: 1 - right(*a)],
        "a share, not per cent.": [lambda *a: 100 * right(*a)],
        "a share, not a number of wines.": [lambda *a: len(a[0]) * right(*a)],
        "every wine has its own distribution: over which axis does one average?": [
            held(lambda y, m, s: ranks(y, m.reshape(-1, 1), s.reshape(-1, 1))),
            held(lambda y, m, s: Normal(m, s).cdf(y).mean(1)),
        ],
        "it says the same of all wines: is F a number for each wine? Which levels are right?": [
            *(lambda *a, same=same: torch.tensor(same) for same in (0.0, 1.0)),
        ],
        "this holds 1 − mass.": [held(low=lambda k: k / 2, high=lambda k: 1 - k / 2)],
        "first average F over the draws.": [held(lambda y, m, s: Normal(m, s).cdf(y))],
        "`Normal` takes a standard deviation.": [
            *(held(lambda y, m, s, e=e: ranks(y, m, s**e)) for e in (2, 0.5)),
        ],
        "here the means may lie. And what of the noise?": [
            weights,
            held(lambda y, m, s: (m < y).double().mean(0)),
        ],
        "one share, of all wines together.": [
            lambda y, m, s, k: ranks(y, m, s),
            lambda y, m, s, k: ((ranks(y, m, s) - 0.5).abs() <= k / 2).double(),
        ],
    }
    cases, praise = [_ranked(0.9), _ranked(0.6)], "counted, and without any random number."
    verdict = judge(answer, right, cases, traps=_each(traps), praise=praise)

    def random(function: Any) -> None:
        once, again = (numbers(call(function, *cases[1])) for _ in range(2))
        if not torch.equal(once, again):
            raise Wrong("each call says something else: no draws are needed, F is known exactly.")
        raise Wrong(verdict.message.partition(": ")[2])

    return trial(answer, random, praise="") if "a value is off" in verdict.message else verdict


@exercise
def check_half_width(answer: Any) -> Verdict:
    """Split conformal prediction: targets (m,), predictions (m,), mass -> half width ()."""
    noise, infinite = torch.Generator().manual_seed(2), torch.tensor(math.inf).double()

    def right(m, mass):
        return math.ceil((m + 1) * mass)

    def ranked(rank=right, of=torch.abs, ordered=True, times=1.0, last=False):
        def half(y, f, mass):
            r, k = of(y - f), rank(len(y), mass)
            if k > len(r):
                return times * r.max() if last else infinite
            return times * (r.quantile((k - 1) / (len(r) - 1)) if ordered else r[k - 1])

        return half

    def bell(spread, z):
        return lambda y, f, p: (z or math.sqrt(2) * torch.tensor(p).erfinv()) * spread(y - f)

    def made(m, mass):
        f, e = torch.randn(2, m, generator=noise, dtype=torch.double)
        return f + e.exp() - 1.2 + e * f.abs(), f, mass

    def each(y, f, mass):
        try:
            return answer(y, f, mass)
        except (IndexError, RuntimeError, ValueError) as error:
            if right(len(y), mass) <= len(y) or "dtype" in str(error):
                raise
            raise Wrong(few) from None

    few = "so few wines cannot promise that much, not even by their largest residual."
    slips = {
        few: [{}],
        "which rank can the new wine's residual have among the m others and itself?": [
            {"rank": lambda m, p: math.ceil(m * p)},
            *({"rank": lambda m, p, f=f: 1 + f(p * m - p)} for f in (float, math.ceil, int, round)),
        ],
        "a rank too high: `quantile` counts from 0 to m − 1, and between ranks it mixes.": [
            {"rank": lambda m, p: right(m, p) + 1},
            {"rank": lambda m, p: right(m, p) + 1 - right(m, p) / m},
            {"rank": lambda m, p: 1 + (m + 1) * p * (m - 1) / m},
            {"rank": lambda m, p: math.ceil(m * p) + 1},
        ],
        "rounding down breaks the promise.": [{"rank": lambda m, p: int((m + 1) * p)}],
        "`abs` has put both sides together.": [{"rank": lambda m, p: right(m, 0.5 + p / 2)}],
        "too low a prediction counts as too high a one does.": [
            {"of": torch.positive},
            {"of": torch.neg},
        ],
        "a half width is in the unit of the targets, not in its square.": [{"of": torch.square}],
        "half the width: the interval reaches equally far to both sides.": [{"times": 2.0}],
        "which one is the k-th smallest? The residuals stand in no order.": [{"ordered": False}],
    }
    traps = [(ranked(**a, last=b), t) for t, slip in slips.items() for a in slip for b in (1, 0)]
    spreads = torch.std, lambda r: (r**2).mean().sqrt(), lambda r: r.abs().mean()
    gauss = "nobody says that residuals are Gaussian: take the residuals themselves."
    traps += [(bell(spread, z), gauss) for spread in spreads for z in (None, 1.0, 1.645)]
    traps += [(lambda *a: infinite, "always infinite: that promises all, and is of no use.")]
    cases = [made(*size) for size in ((12, 0.8), (23, 0.9), (6, 0.9), (44, 0.55))]
    praise = "a promise that trusts no model."
    given = each if callable(answer) else answer
    verdict = judge(given, ranked(), cases, traps=traps, praise=praise)

    def keeps(function: Any) -> None:
        held = 0.0
        for _ in range(400):
            y, f, mass = made(9, 0.75)  # the last one is the new wine
            half = numbers(call(function, y[:-1], f[:-1], mass), (), finite=False)
            held += ((y[-1] - f[-1]).abs() <= half).item() / 400
        if held < 0.71:  # right: 7/9
            raise Wrong(f"with 8 calibration wines, intervals of mass 75 % hold {held:.0%}.")
        if not verdict:
            raise Wrong(verdict.message.partition(": ")[2])

    tried = verdict or "a value is off" in verdict.message
    return trial(answer, keeps, praise=praise) if tried else verdict


@exercise
def check_score_probabilities(answer: Any) -> Verdict:
    """Probabilities of integer scores: (s, n), (s, n), (k,) -> (n, k)."""

    def below(mean, scale, value):
        return torch.special.ndtr((value - mean[..., None]) / scale[..., None])

    def reference(mean, scale, scores):
        return (below(mean, scale, scores + 0.5) - below(mean, scale, scores - 0.5)).mean(0)

    def density(mean, scale, scores):
        return Normal(mean[..., None], scale[..., None]).log_prob(scores).exp()

    def each(mean, scale, scores):
        try:
            return answer(mean, scale, scores)
        except (RuntimeError, ValueError) as error:
            if "size of tensor" not in str(error) and "broadcast" not in str(error):
                raise
            raise Wrong(
                f"draws of shape {tuple(mean.shape)} and scores of shape {tuple(scores.shape)} do "
                "not broadcast: draws, wines and scores need an axis each."
            ) from None

    traps = [
        (lambda m, s, k: density(m, s, k).mean(0), "a density is not a probability."),
        (lambda m, s, k: reference(m.mean(0)[None], s.mean(0)[None], k), "average at the end."),
        (lambda m, s, k: reference(m, s, k).T, "wines first, then scores."),
        (lambda m, s, k: reference(m, s, k + 0.5), "half a point to each side of the score."),
        (lambda m, s, k: reference(m, s, k - 0.5), "half a point to each side of the score."),
        (lambda m, s, k: below(m, s, k + 0.5).mean(0), "this is the probability of k or less."),
        (lambda m, s, k: below(m, s, k).mean(0), "this is a probability of less than k."),
        (lambda m, s, k: reference(m, s**2, k), "`Normal` takes a standard deviation."),
        (lambda m, s, k: -reference(m, s, k), "a probability is not negative."),
        (
            lambda m, s, k: reference(m, s, k) / reference(m, s, k).sum(1, keepdim=True),
            "do not normalise: scores that are not listed have a probability, too.",
        ),
        (
            lambda m, s, k: below(m, s, k + 0.5) - below(m, s, k - 0.5),
            "the average over the draws is missing.",
        ),
        (
            lambda m, s, k: (below(m, s, k + 1) - below(m, s, k - 1)).mean(0),
            "half a point to each side of the score.",
        ),
    ]
    scores = torch.arange(-2, 3).double()
    cases = [(*_draws(5, 3)[1:], scores), (*_draws(2, 4, 1)[1:], scores[1:])]
    praise = "every score has its share, and the shares add up."
    return judge(each if callable(answer) else answer, reference, cases, traps=traps, praise=praise)


@exercise
def check_log_score(answer: Any) -> Verdict:
    """Log probability of what was observed: (n, k), (k,), (n,) -> (n,), nats."""

    def reference(chances, scores, observed):
        return chances.log()[observed[:, None] == scores]

    def by_index(chances, scores, observed):
        column = observed.long().clamp(max=len(scores) - 1)
        return chances.log()[torch.arange(len(chances)), column]

    traps = [
        (lambda p, k, y: reference(p, k, y).exp(), "take the logarithm."),
        (lambda p, k, y: -reference(p, k, y), "larger should be better: mind the sign."),
        (lambda p, k, y: reference(p, k, y).mean(), "return one value per wine."),
        (lambda p, k, y: reference(p, k, y).sum(), "return one value per wine."),
        (lambda p, k, y: p.max(1).values.log(), "what counts is the score that was observed."),
        (by_index, "the first column belongs to the first of `scores`, not to a score of 0."),
        (lambda p, k, y: (p * k).sum(1).log(), "this is the log of the expected score."),
        (lambda p, k, y: reference(p, k, y) / torch.tensor(2.0).log(), "nats: the natural log."),
    ]
    chances = torch.rand(5, 6, generator=torch.Generator().manual_seed(1)).double() + 0.1
    chances /= 1.2 * chances.sum(1, keepdim=True)
    cases = [
        (chances, torch.arange(3, 9).double(), torch.tensor([3.0, 8, 5, 5, 4]).double()),
        (chances[1:4, 2:], torch.arange(1, 5).double(), torch.tensor([4.0, 1, 2]).double()),
    ]
    praise = "nobody can cheat with spikes now."
    return judge(answer, reference, cases, traps=traps, praise=praise)


@exercise
def check_paired_gain(answer: Any) -> Verdict:
    """Mean and standard error of gains (n,) that agree within groups (n,) -> two numbers."""

    def sums(gains, groups, values=None):
        values = gains - gains.mean() if values is None else values
        return torch.zeros(int(groups.max()) + 1).to(gains).index_add(0, groups, values)

    def reference(gains, groups):
        inside = sums(gains, groups)
        variance = inside.square().sum() * len(inside) / (len(inside) - 1)
        return torch.stack([gains.mean(), variance.sqrt() / len(gains)])

    def ignoring(gains, groups, power=0.5):
        return torch.stack([gains.mean(), gains.std() / len(gains) ** power])

    def of_groups(gains, groups):
        means = sums(gains, groups, gains) / groups.bincount()
        return torch.stack([means.mean(), means.std() / len(means) ** 0.5])

    def squared(gains, groups):
        mean, error = reference(gains, groups)
        return torch.stack([mean, error**2])

    def not_centred(gains, groups):
        error = sums(gains, groups, gains).square().sum().sqrt() / len(gains)
        return torch.stack([gains.mean(), error])

    def by_groups(gains, groups):
        mean, error = reference(gains, groups)
        return torch.stack([mean, error * len(gains) / (int(groups.max()) + 1)])

    traps = [
        (ignoring, "this is the error if all wines were independent: twins are not."),
        (functools.partial(ignoring, power=0), "this is the spread of one gain, not of a mean."),
        (of_groups, "a group of three wines counts as three: this is the mean of the groups."),
        (squared, "this is the variance: an error has the unit of the gains."),
        (not_centred, "the mean is not noise: take it from each gain before you square."),
        (
            lambda g, k: torch.stack([g.mean(), g.std() / (int(k.max()) + 1) ** 0.5]),
            "as many independent wines as groups: but a group of two weighs twice.",
        ),
        (by_groups, "the mean is a sum divided by the number of wines, not of groups."),
        (lambda *a: reference(*a).flip(0), "first the mean, then its error."),
        (lambda *a: reference(*a)[0], "return two numbers, the mean and its standard error."),
    ]
    gains, groups = _draws(2, 300)[1][0] + 0.9, torch.arange(300) * 7 % 211
    gains = 100 * gains  # large beside the absolute tolerance
    cases = [(gains + sums(gains, groups)[groups], groups), (gains[:200], torch.arange(200))]
    praise = "twins count once where they agree."
    return judge(answer, reference, cases, traps=traps, praise=praise, rtol=4e-3)


@exercise
def check_risk_coverage(answer: Any) -> Verdict:
    """RMSE of the k surest wines for every k: three times (n,) -> (n,)."""

    def curve(order=lambda r, u: u.argsort(), loss=torch.square, end=torch.sqrt, count=lambda k: k):
        def risk(y, f, u):
            r, k = y - f, torch.arange(1, len(y) + 1).double()
            return end(loss(r[order(r, u)]).cumsum(0) / count(k))

        return risk

    exact, same = curve(), torch.positive
    traps = {
        "this begins with the most doubtful wine.": [curve(lambda r, u: u.argsort().flip(0))],
        "the first entry is about one wine, the last about all.": [lambda *a: exact(*a).flip(0)],
        "sorted by the true error, which nobody knows beforehand: what is `doubt` for?": [
            curve(lambda r, u: r.abs().argsort()),
            curve(lambda r, u: r.abs().argsort().flip(0)),
            curve(lambda r, u: r.argsort()),
        ],
        "the wines stand as they came.": [curve(lambda r, u: torch.arange(len(u)))],
        "`argsort` once says who comes where.": [curve(lambda r, u: u.argsort().argsort())],
        "this is the mean absolute error.": [curve(loss=torch.abs, end=same)],
        "a root is missing.": [curve(end=same)],
        "errors of both signs cancel.": [curve(loss=same, end=end) for end in (torch.abs, same)],
        "entry k is about all of the first k wines, not about one of them.": [
            lambda y, f, u: (y - f)[u.argsort()].abs(),
            lambda y, f, u: (y - f)[u.argsort()].square(),
        ],
        "a mean over the first k wines: what is the sum divided by?": [
            *(curve(count=torch.ones_like, end=end) for end in (torch.sqrt, same)),
            *(curve(count=lambda k, i=i: k + i) for i in (-1, 1)),
            *(curve(count=count) for count in (len, torch.square)),
        ],
        "sort targets and predictions alike.": [lambda y, f, u: exact(y[u.argsort()], f, u)],
        "one value for every k, please.": [lambda *a: exact(*a)[-1]],
    }
    noise = torch.Generator().manual_seed(6)
    draws = [torch.randn(3, n, generator=noise, dtype=torch.double) for n in (7, 12)]
    cases, praise = [(y + 1, f, u.exp()) for y, f, u in draws], "what doubt is worth."
    return judge(answer, exact, cases, traps=_each(traps), praise=praise)
