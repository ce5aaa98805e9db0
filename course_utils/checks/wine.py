"""Checks of the exercises on Bayesian neural networks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import SVI
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from course_utils.checks.judge import (
    Untried,
    Verdict,
    Wrong,
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
    """The model of exercise 3, to train on."""
    w = pyro.sample("w", dist.Normal(x.new_zeros(x.shape[1]), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ w, sigma), obs=y)


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
        if shape != seen:
            raise Wrong(
                f'"{name}" has a distribution of shape {shape}, and a value of shape {seen}.'
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


INF = float("inf")
HIDDEN, START, LOOSE = (
    50,
    1 / 3,
    1 / 20,
)  # of section 6: means and scales start at prior times these


def _started(x: Tensor) -> tuple[int, float]:
    """Number of unknowns, and the epistemic scale at x before any training."""
    d = x.shape[1]
    sizes = (d * HIDDEN, HIDDEN, HIDDEN, 1)
    scales = (2 * d**-0.5, 2.0, 2 * HIDDEN**-0.5, 2.0)
    found = []
    for _ in range(20):
        parts = []
        for size, scale in zip(sizes, scales, strict=True):
            loc, noise = START * scale * torch.randn(size), LOOSE * scale * torch.randn(60, size)
            parts.append(loc + noise)
        w1, b1, w2, b2 = parts
        z = x.asinh() @ w1.unflatten(1, (d, HIDDEN)) + b1[:, None]
        mean = (torch.nn.functional.silu(z) @ w2[..., None])[..., 0] + b2  # (s, n)
        found.append(mean.var(0).mean().sqrt())
    return sum(sizes) + 1, torch.stack(found).mean().item()


@exercise
def check_prior_experiment(answer: Any) -> Verdict:
    """Train with a wider prior: x (n, d), y (n,), width, steps -> epistemic scale, KL, ELBO."""
    x, y = _rows(12, 2)
    y = (y - y.mean()) / y.std()

    def examine(experiment: Callable) -> None:
        def run(x, y, width, steps=1):
            got = experiment(x.clone(), y.clone(), width, steps)
            return numbers(got, (3,)).tolist()

        (doubt, kl, elbo), (_, wide_kl, wide_elbo) = run(x, y, 1.0), run(x, y, 10.0)
        count, expected = _started(x)
        # Before any training every weight costs the same: see KL in exercise 2.
        price = torch.tensor([1.0, 10.0]).log() - torch.tensor(LOOSE).log() - 0.5
        price += (LOOSE**2 + START**2) / (2 * torch.tensor([1.0, 100.0]))
        right, wide = (count * price).tolist()
        if abs(kl / count - right) < 0.08 * right or abs(kl * count - right) < 0.08 * right:
            raise Wrong("the KL term is the sum over all weights.")
        if kl < 0:
            raise Wrong("the second number is a divergence: it is never negative.")
        if abs(kl / right - 1) > 0.08:
            raise Wrong(
                f"after one step the KL term is about {right:.0f} nats here, not {kl:.0f}: does it "
                "train on `x` and `y`, for `steps` steps? Are the three numbers in their order?"
            )
        if abs(wide_kl - kl) < 0.01 * kl:
            raise Wrong("`width` does not change the KL term: which prior is it measured from?")
        if abs(wide_kl / wide - 1) > 0.08:
            raise Wrong("the KL term under a ten times wider prior is off: are all scales wider?")
        if elbo > 0 or wide_elbo > 0:
            raise Wrong("the ELBO is negative here: what is minimised is its negative.")
        if elbo > -kl and math.isclose(run(x, y, 1.0, 2)[2] / elbo, 2, rel_tol=0.2):
            raise Wrong("with fewer than fifty steps the average is over those that there are.")
        if elbo > -kl:
            raise Wrong("the ELBO is fit minus KL, of all wines together: this is not.")
        fit, wide_fit = elbo + kl, wide_elbo + wide_kl
        if abs(wide_fit - fit) > 0.3 * abs(fit) + 5:
            raise Wrong("the ELBO and the KL term belong to different priors.")
        double_doubt, double_kl, double_elbo = run(x.repeat(2, 1), y.repeat(2), 1.0)
        if abs((double_elbo + double_kl) / (2 * fit) - 1) > 0.3:
            raise Wrong("twice the wines must fit twice as well: what else is in the ELBO?")
        if abs(doubt / expected**2 - 1) < 0.4 and expected**2 < 0.6 * expected:
            raise Wrong("the epistemic part is a variance here: take the root.")
        if not 0.55 < doubt / expected < 1.8:
            raise Wrong(
                f"before the training the epistemic scale is about {expected:.2f}, not "
                f"{doubt:.2f}: the spread of the means over the draws, without the noise."
            )
        _, kl, elbo = run(x, y, 1.0, 300)
        if elbo + kl < -5 * len(y):
            raise Wrong("the ELBO is that of the end of the training, not of the first steps.")
        if kl > 0.8 * right:
            raise Wrong("training left the KL term as it was: what are `steps` used for?")

    return trial(answer, examine, praise="now compare the two priors.")


# ------------------------------------------------------------------ intervals and scores


def _skewed() -> tuple[Tensor, Tensor]:
    """Targets (40,) at known ranks among draws (101, 40) that are skewed, shifted and stretched."""
    normal, column = Normal(0.0, 1.0), torch.arange(40).double()
    shift, stretch = 3 * column - 50, 1 + column % 7
    groups = ((0.004, 0.04, 9), (0.06, 0.19, 4), (0.22, 0.78, 12), (0.82, 0.94, 8), (0.96, 0.99, 7))
    ranks = torch.cat([torch.linspace(*group) for group in groups]).double()
    ranks = ranks[torch.randperm(40, generator=torch.Generator().manual_seed(0))]
    grid = (torch.arange(101).double() + 0.5) / 101

    def skewed(rank):
        return shift + stretch * (0.6 * normal.icdf(rank)).exp()

    return skewed(ranks), skewed(grid[:, None])


@exercise
def check_coverage(answer: Any) -> Verdict:
    """Share of targets inside central intervals: (n,), (s, n), mass -> ()."""

    def share(y, lower, upper):
        return ((lower <= y) & (y <= upper)).double().mean()

    def between(y, d, lower, upper):
        return share(y, d.quantile(lower, dim=0), d.quantile(upper, dim=0))

    def reference(y, d, mass):
        return between(y, d, (1 - mass) / 2, (1 + mass) / 2)

    def shortest(y, d, mass):
        ordered, count = d.sort(0).values, round(mass * len(d))
        begin = (ordered[count:] - ordered[: len(d) - count]).argmin(0)
        column = torch.arange(d.shape[1])
        return share(y, ordered[begin, column], ordered[begin + count, column])

    def around(y, d, mass, centre, half):
        return share(y, centre - half, centre + half)

    def normal(y, d, mass):
        z = Normal(0.0, 1.0).icdf(torch.tensor((1 + mass) / 2).double())
        return around(y, d, mass, d.mean(0), z * d.std(0))

    def about(y, d, mass, centre):
        return around(y, d, mass, centre, (d - centre).abs().quantile(mass, dim=0))

    def pooled(y, d, mass):
        ends = d.quantile(torch.tensor([(1 - mass) / 2, (1 + mass) / 2]).double())
        return share(y, *ends)

    skew = "the interval is symmetric, and the draws are not: the same mass on both sides, please."
    traps = [
        (pooled, "these quantiles are of all wines together: each wine has its own interval."),
        (lambda y, d, m: about(y, d, m, torch.zeros(())), "the interval is centred at 0."),
        (lambda y, d, m: about(y, d, m, d.mean(0)), skew),
        (lambda y, d, m: about(y, d, m, d.median(0).values), "it leaves more on one side."),
        (normal, "these draws are not Gaussian: take the ends from the draws themselves."),
        (shortest, "it leaves more on one side: the shortest interval is not the central one."),
        (lambda y, d, m: share(y, d.amin(0), d.amax(0)), "`mass` does not enter."),
        (
            lambda y, d, m: share(y, -INF, d.quantile(m, dim=0)),
            "this is one-sided: cut off on both sides.",
        ),
        (
            lambda y, d, m: share(y, d.quantile(1 - m, dim=0), INF),
            "this is one-sided: cut off on both sides.",
        ),
        (
            lambda y, d, m: between(y, d, 1 - m, m),
            "this holds less than `mass`: the two sides share what is outside.",
        ),
        (lambda y, d, m: 1 - reference(y, d, m), "this is the share outside."),
        (lambda y, d, m: 100 * reference(y, d, m), "a share, not per cent."),
        (lambda y, d, m: len(y) * reference(y, d, m), "a share, not a number of wines."),
    ]
    cases = [(*_skewed(), mass) for mass in (0.9, 0.6)]
    return judge(answer, reference, cases, traps=traps, praise="count, do not believe.")


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
