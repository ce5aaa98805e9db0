"""Checks of the exercises on diffusion and flow matching."""

from __future__ import annotations

import math
from collections.abc import Callable
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

SLIGHTLY = "the shape is right, but a value is off."


def _noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def _guess(z: Tensor, sigma: Any, *, power: int = 1) -> Tensor:
    """A denoiser that depends on everything, bent, and each row for itself."""
    sigma = torch.as_tensor(sigma).to(z)
    return torch.tanh(0.7 * z + 0.2 * z.flip(-1)) / (1 + sigma) ** power + 0.1 * sigma


# ------------------------------------------------------------------ the bound


def _back(z: Tensor, x: Tensor, sigma: float, below: float) -> tuple[Tensor, float]:
    share = (below / sigma) ** 2
    return x + share * (z - x), share * (sigma**2 - below**2)


def _two(got: Any) -> tuple[Any, Any]:
    if got is ... or got is NotImplemented:
        raise Untried
    if not isinstance(got, tuple | list) or len(got) != 2:
        raise Wrong("return two things: the mean, and the variance.")
    if all(part is ... for part in got):
        raise Untried
    return got[0], got[1]


@exercise
def check_step_back(answer: Any) -> Verdict:
    """Mean and variance of the level below: z, x (n, d), sigma, below -> (n, d), a number."""
    cases = [
        (_noise(5, 2), _noise(5, 2, seed=1), 0.8, 0.5),
        (_noise(4, 3, seed=2), _noise(4, 3, seed=3), 3.0, 0.2),
        (_noise(6, 2, seed=4), _noise(6, 2, seed=5), 0.05, 0.0),
    ]
    means = [
        (lambda z, x, s, b: z + (b / s) ** 2 * (x - z), "its mean is near the wrong end: look at "
         "`below` near 0, and near `sigma`."),
        (lambda z, x, s, b: x + b / s * (z - x), "the share of the way is off: precisions are one "
         "over *variance*."),
        (lambda z, x, s, b: x, "its mean ignores z."),
        (lambda z, x, s, b: z, "its mean ignores x."),
        (lambda z, x, s, b: (x + z) / 2, "x and z do not weigh the same: how noisy is each?"),
        (lambda z, x, s, b: (x / b**2 + z / s**2) / (1 / b**2 + 1 / s**2) if b else x * math.nan,
         "from z to the level below it is not `sigma` that lies between, but the step alone."),
    ]  # fmt: skip
    spreads = [
        (lambda s, b: (s**2 - b**2) * b**2 / s**2, ""),
        (lambda s, b: math.sqrt((s**2 - b**2) * b**2 / s**2), "this is the standard deviation."),
        (lambda s, b: s**2 - b**2, "this is the variance of the step up; x and z together know "
         "more."),
        (lambda s, b: b**2, "this is the variance if only x is known; z knows something, too."),
        (lambda s, b: s**2, "this is the variance of the level above."),
        (lambda s, b: (s**2 - b**2) ** 2 / s**2, "the two variances do not play the same part: "
         "what must it be at `below = 0`?"),
        (lambda s, b: s**2 / ((s**2 - b**2) * b**2) if b else math.inf, "this is a precision: "
         "one over the variance."),
    ]  # fmt: skip

    def examine(function: Any) -> None:
        refuse_what_cannot_be_called(function)
        found = [(case, *_two(call(function, *case))) for case in cases]
        for case, mean, _ in found:
            got, right = _named("mean", mean, None), _back(*case)[0]
            if not close(got, right, 1e-4):
                for trap, message in means:
                    if close(got, trap(*case), 1e-4):
                        raise Wrong(message)
                _named("mean", mean, right.shape)
                raise Wrong(f"mean: {SLIGHTLY}")
        for trap, message in spreads:
            values = [(_spread(v, case), trap(*case[2:])) for case, _, v in found]
            if all(_near(v, wrong) for v, wrong in values):
                if message:
                    raise Wrong(message)
                return
        for case, _, v in found:
            right = spreads[0][0](*case[2:])
            if not _near(_spread(v, case), right):
                at = f"sigma = {case[2]:g}, below = {case[3]:g}"
                raise Wrong(f"the mean is right; the variance is not, at {at}.")

    return trial(answer, examine, praise="Bayes' theorem for two Gaussians.")


def _named(what: str, got: Any, shape: tuple | None) -> Tensor:
    try:
        return numbers(got, shape, finite=shape is not None)
    except Wrong as wrong:
        raise Wrong(f"{what}: {wrong}") from None


def _spread(got: Any, case: tuple) -> Tensor:
    """A variance that fits all coordinates, as one number; NaN stays."""
    v = _named("variance", got, None)
    z = case[0]
    if v.numel() == 0 or v.ndim > 2 or not _fits(v.shape, z.shape):
        raise Wrong(f"variance: its shape is {tuple(v.shape)}; one number for all coordinates.")
    first = v.flatten()[0]
    if not close(v, first.expand(v.shape), 1e-6):
        raise Wrong("variance: it should be one number, the same for all points and coordinates.")
    if first.isnan() or first < 0:
        known = "below = 0" if case[3] == 0 else "some levels"
        raise Wrong(f"variance: it is {first.item():g} for {known}.")
    return first


def _fits(small: tuple, large: tuple) -> bool:
    try:
        return torch.broadcast_shapes(small, large) == torch.Size(large)
    except RuntimeError:
        return False


def _near(got: Tensor, right: float) -> bool:
    return math.isclose(got.item(), right, rel_tol=1e-4, abs_tol=1e-7)


# ------------------------------------------------------------------ losses


def _loss_gradient(function: Callable, arguments: tuple, name: str) -> None:
    """Refuse a loss whose gradient does not reach the network."""
    weight = torch.ones((), dtype=torch.double, requires_grad=True)

    def network(z: Tensor, level: Any) -> Tensor:
        return _guess(z, level) * weight.to(z)

    value = call(lambda *rest: function(network, *rest), *arguments)
    if not isinstance(value, Tensor):
        raise Wrong(f"no gradient passes through {type(value).__name__}: compute with PyTorch.")
    if not value.requires_grad or torch.autograd.grad(value.sum(), weight)[0] == 0:
        raise Wrong(f"no gradient reaches the {name}: what detaches it?")


def _judge_loss(answer: Any, right: Callable, cases: list, traps: list, name: str) -> Verdict:
    def examine(function: Any) -> None:
        refuse_what_cannot_be_called(function)
        got = []
        for case in cases:
            value = numbers(call(function, *case), finite=False)
            if value.numel() != 1:
                raise Wrong(f"its shape is {tuple(value.shape)}: a loss is one number, a mean.")
            got.append(value.reshape(()))
        if not all(close(g, right(*c), 1e-4) for g, c in zip(got, cases, strict=True)):
            for trap, message in traps:
                if all(close(g, trap(*c), 1e-4) for g, c in zip(got, cases, strict=True)):
                    raise Wrong(message)
            for g in got:
                numbers(g, ())
            raise Wrong("it is one number, but not the right one.")
        _loss_gradient(function, cases[0][1:], name)

    return trial(answer, examine, praise="every level counts." if name == "denoiser" else "that is "
                 "all of flow matching.")  # fmt: skip


@exercise
def check_denoising_loss(answer: Any) -> Verdict:
    """Loss (): denoise, x (n, d), sigma (n, 1), eps (n, d), scale."""

    def loss(weigh=lambda s, k: (s**2 + k**2) / (s * k) ** 2, see=None, aim=None, join=torch.mean,
             size=torch.square):  # fmt: skip
        def of(denoise, x, sigma, eps, scale):
            z = x + sigma * eps if see is None else see(x, sigma, eps)
            target = x if aim is None else aim(x, sigma, eps)
            return join(weigh(sigma, scale) * size(denoise(z, sigma) - target))

        return of

    n = 64
    case = [
        (_guess, _noise(n, 2), _noise(n, 1, seed=1).exp(), _noise(n, 2, seed=2), 0.7),
        (_guess, _noise(n, 3, seed=3), _noise(n, 1, seed=4).exp() / 5, _noise(n, 3, seed=5), 1.8),
    ]
    traps = [
        (loss(lambda s, k: 1 + 0 * s), "the weight is missing."),
        (loss(lambda s, k: (s * k) ** 2 / (s**2 + k**2)), "the weight is upside down."),
        (loss(lambda s, k: (s**2 + k**2).sqrt() / (s * k)), "errors are squared; is the weight?"),
        (loss(lambda s, k: 1 / s**2), "F = 0 does not cost 1 where sigma is large."),
        (loss(lambda s, k: 1 / k**2 + 0 * s), "F = 0 does not cost 1 where sigma is small."),
        (loss(lambda s, k: 1 / (s**2 + k**2)), "that is the variance of z, not of x given z."),
        (loss(lambda s, k: s**2 + k**2), "that weight grows with sigma: does F = 0 cost 1?"),
        (loss(see=lambda x, s, e: x), "the denoiser sees no noise."),
        (loss(see=lambda x, s, e: x + e), "the noise has the wrong level."),
        (loss(see=lambda x, s, e: x + s**2 * e), "sigma is a standard deviation, not a variance."),
        (loss(aim=lambda x, s, e: e), "the denoiser guesses x, not the noise."),
        (loss(aim=lambda x, s, e: x + s * e), "the target is x, not z."),
        (loss(join=torch.sum), "take the mean; do not add up."),
        (loss(join=lambda v: v.sum(-1).mean()), "the mean runs over coordinates, too."),
        (loss(size=torch.abs), "square the error."),
        (loss(join=lambda v: v.mean().sqrt()), "no root: the mean of squares."),
        (loss(join=lambda v: -v.mean()), "a loss falls when the error does: the sign."),
    ]  # fmt: skip
    return _judge_loss(answer, loss(), case, traps, "denoiser")


@exercise
def check_flow_matching(answer: Any) -> Verdict:
    """Loss (): velocity, x (n, d), eps (n, d), t (n, 1)."""

    def loss(see=lambda x, e, t: (1 - t) * x + t * e, aim=lambda x, e, t: e - x, join=torch.mean,
             when=lambda t: t, size=torch.square):  # fmt: skip
        def of(velocity, x, eps, t):
            return join(size(velocity(see(x, eps, t), when(t)) - aim(x, eps, t)))

        return of

    cases = []
    for d, seed in ((2, 0), (3, 5)):
        time = torch.rand(64, 1, generator=torch.Generator().manual_seed(seed)).double()
        cases.append((_guess, _noise(64, d, seed=seed), _noise(64, d, seed=seed + 1), time))
    traps = [
        (loss(aim=lambda x, e, t: x - e), "t runs from data to noise: which way does z move?"),
        (loss(see=lambda x, e, t: t * x + (1 - t) * e), "at t = 0 the path is at the data."),
        (
            loss(lambda x, e, t: t * x + (1 - t) * e, lambda x, e, t: x - e),
            "your path runs from noise to data: here t = 0 is data.",
        ),
        (loss(see=lambda x, e, t: x), "the network sees a point on the path, not its start."),
        (loss(see=lambda x, e, t: x + t * e), "the path is straight from x to eps: x fades."),
        (loss(aim=lambda x, e, t: e), "the target is a velocity: the derivative of the path."),
        (loss(aim=lambda x, e, t: x), "the target is a velocity: the derivative of the path."),
        (loss(aim=lambda x, e, t: t * (e - x)), "the velocity of a straight path is constant."),
        (loss(when=lambda t: 1 - t), "the network is told another time than that of its point."),
        (loss(join=torch.sum), "take the mean; do not add up."),
        (loss(join=lambda v: v.sum(-1).mean()), "the mean runs over coordinates, too."),
        (loss(size=torch.abs), "square the error."),
        (loss(join=lambda v: -v.mean()), "a loss falls when the error does: the sign."),
    ]
    return _judge_loss(answer, loss(), cases, traps, "network")


# ------------------------------------------------------------------ the ODE, and its density


def _heun(denoise: Callable, z: Tensor, sigmas: Tensor, *, sign: float = 1, second: str = "both",
          mean: float = 0.5, times: float = 1) -> Tensor:  # fmt: skip
    for sigma, below in zip(sigmas[:-1], sigmas[1:], strict=True):
        step = sign * (below - sigma)
        slope = (z - denoise(z, sigma)) / sigma**times
        trial_point = z + step * slope
        if below > 0 and second != "none":
            at = z if second == "old point" else trial_point
            level = sigma if second == "old level" else below
            other = (at - denoise(at, level)) / level**times
            slope = other if second == "alone" else mean * (slope + other)
        z = z + step * slope
    return z


@exercise
def check_ode(answer: Any) -> Verdict:
    """Heun's rule downwards: denoise, z (n, d), sigmas (T + 1,) -> (n, d)."""
    short = torch.tensor([2.0, 1.2, 0.5, 0.2]).double()
    cases = [
        (_guess, 2 * _noise(6, 2), short),
        (_guess, _noise(5, 3, seed=1), torch.tensor([1.5, 0.9]).double()),
        (_guess, _noise(6, 2, seed=2), torch.cat((short, torch.zeros(1).double()))),
    ]

    def other(**options):
        return lambda *case: _heun(*case, **options)

    traps = [
        (other(second="none"), "this is Euler's rule: where is the second slope?"),
        (other(second="old point"), "the second slope is taken at the trial point."),
        (other(second="old level"), "the second slope is taken at the new level."),
        (other(second="alone"), "take the mean of both slopes, not the second alone."),
        (other(mean=1), "take the mean of both slopes, not their sum."),
        (other(sign=-1), "it walks the wrong way: from one level to the next sigma *falls*."),
        (other(times=2), "this is the score with its sign turned; the slope has one sigma fewer."),
        (other(times=0), "the slope is (z - guess) over sigma."),
    ]

    def examine(function: Any) -> None:
        refuse_what_cannot_be_called(function)
        got = []
        for number, case in enumerate(cases, 1):
            value = numbers(call(function, *case), finite=False)
            if not value.isfinite().all() and number == 3:
                raise Wrong(
                    "with a last level of 0 it returns NaN or infinity: what is divided by?"
                )
            got.append(value)
        right = [_heun(*case) for case in cases]
        if all(close(g, r, 1e-4) for g, r in zip(got, right, strict=True)):
            return
        for trap, message in traps:
            if all(close(g, trap(*c), 1e-4) for g, c in zip(got, cases, strict=True)):
                raise Wrong(message)
        for g, r in zip(got, right, strict=True):
            numbers(g, r.shape)
        if close(got[0], right[0], 1e-4) and close(got[1], right[1], 1e-4):
            raise Wrong("all is right but the last step, down to the level 0.")
        raise Wrong(SLIGHTLY)

    return trial(answer, examine, praise="it solves the ODE.")


def _spiral(z: Tensor, t: float) -> Tensor:
    """A linear field that turns, and stretches each coordinate otherwise."""
    d = z.shape[1]
    matrix = torch.diag(torch.linspace(0.3, 0.9, d).to(z)) + 0.4 * torch.ones(d, d).to(z).triu(1)
    return (z @ matrix.T) * (1 + t)


def _cubic(z: Tensor, t: float) -> Tensor:
    return -(z**3)


def _base(z: Tensor) -> Tensor:
    return torch.distributions.Normal(0.5, 1.3).log_prob(z).sum(-1)


def _ends(field: Callable, x: Tensor, end: float) -> tuple[Tensor, Tensor]:
    """Where x is at the end, and the integral of the divergence, in closed form."""
    if field is _cubic:
        root = 1 + 2 * end * x**2
        return x / root.sqrt(), -1.5 * root.log().sum(-1)
    d, s = x.shape[1], end + end**2 / 2
    matrix = _spiral(torch.eye(d).double(), 0.0).T
    return x @ torch.matrix_exp(matrix * s).T, (matrix.trace() * s).expand(len(x))


@exercise
def check_flow_log_prob(answer: Any) -> Verdict:
    """Log density of a continuous flow: velocity, x (n, d), times, log_base -> (n,), nats."""
    times = torch.linspace(0, 0.8, 41).double()
    cases = [
        (_spiral, _noise(6, 2), times, _base),
        (_cubic, _noise(5, 3, seed=1), times, _base),
        (_spiral, _noise(4, 3, seed=2), times, _base),
    ]

    def value(case, base=None, factor=1.0, extra=0.0):
        field, x, _, log_base = case
        z, divergence = _ends(field, x, 0.8)
        return log_base(z if base is None else base(x, z)) + factor * divergence + extra

    def every(case):  # all entries of the Jacobian
        d = case[1].shape[1]
        off = 0.4 * d * (d - 1) / 2 * (0.8 + 0.32) if case[0] is _spiral else 0.0
        return value(case, extra=off)

    traps = [
        (lambda c: value(c, factor=-1), "the sign: where points are spread out on the way to the "
         "base, is the density of x lower or higher?"),
        (lambda c: value(c, factor=0), "the divergence is missing."),
        (lambda c: value(c, base=lambda x, z: x), "the base scores the end of the path, not x."),
        (lambda c: value(c, factor=1 / c[1].shape[1]), "the divergence is a sum over coordinates, "
         "not a mean."),
        (every, "only the diagonal of the derivatives counts: each v by its own coordinate."),
        (lambda c: value(c).exp(), "this is the density: take its logarithm."),
        (lambda c: _ends(c[0], c[1], 0.8)[1], "the base is missing."),
    ]  # fmt: skip

    def examine(function: Any) -> None:
        refuse_what_cannot_be_called(function)
        got = []
        for case in cases:
            found = numbers(call(function, *case), finite=False)
            if found.ndim != 1 or len(found) != len(case[1]):
                raise Wrong(f"its shape is {tuple(found.shape)}: one number per point, (n,).")
            got.append(found)
        pairs = list(zip(got, cases, strict=True))
        if all(close(g, value(c), 2e-3) for g, c in pairs):
            return
        for trap, message in traps:
            if all(close(g, trap(c), 2e-3) for g, c in pairs):
                raise Wrong(message)
        if not all(g.isfinite().all() for g in got):
            raise Wrong("it contains NaN or infinity.")
        if all((g - value(c)).abs().max() < 0.3 for g, c in pairs):
            raise Wrong("nearly: is the path followed accurately enough? `solve` does it.")
        raise Wrong(SLIGHTLY)

    return trial(answer, examine, praise="the integral of the divergence is a log-determinant.")


# ------------------------------------------------------------------ guidance


@exercise
def check_guidance(answer: Any) -> Verdict:
    """Guided guess: z (n, d), sigma, everything, labelled, w -> (n, d)."""

    def sharper(z, sigma):
        return _guess(z, sigma, power=2) + 0.3

    def right(z, sigma, everything, labelled, w):
        return (1 - w) * everything(z, sigma) + w * labelled(z, sigma)

    cases = [
        (_noise(5, 2), 0.5, _guess, sharper, 3.0),
        (_noise(4, 3, seed=1), 1.5, _guess, sharper, 0.0),
        (_noise(4, 2, seed=2), 0.1, _guess, sharper, 1.0),
    ]
    traps = [
        (
            lambda z, s, a, b, w: (1 + w) * b(z, s) - w * a(z, s),
            "at w = 0 it obeys the label already: here w = 0 ignores it, and w = 1 obeys.",
        ),
        (lambda z, s, a, b, w: right(z, s, b, a, w), "the two denoisers are exchanged."),
        (lambda z, s, a, b, w: right(z, s, a, b, -w), "it goes away from the label: the sign."),
        (lambda z, s, a, b, w: b(z, s), "w has no effect."),
        (lambda z, s, a, b, w: a(z, s), "the label has no effect."),
        (lambda z, s, a, b, w: a(z, s) + w * b(z, s), "go along the *difference* of the guesses."),
        (
            lambda z, s, a, b, w: w * (b(z, s) - a(z, s)),
            "that is how far to go; from where?",
        ),
        (
            lambda z, s, a, b, w: (a(z, s) + w * b(z, s)) / (1 + w),
            "a mean of both never goes beyond the labelled guess; w = 3 must.",
        ),
    ]
    return judge(answer, right, cases, traps=traps, praise="a line through two guesses.")
