"""Checks of the exercises on normalizing flows."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from course_utils.checks.judge import Verdict, exercise, judge


def _noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


@exercise
def check_lognormal(answer: Any) -> Verdict:
    """Log density of exp(z), z standard normal: (n,) -> (n,), nats."""
    normal, library = torch.distributions.Normal(0.0, 1.0), torch.distributions.LogNormal(0.0, 1.0)
    traps = [
        (lambda x: normal.log_prob(x.log()), "the Jacobian is missing."),
        (lambda x: normal.log_prob(x.log()) + x.log(), "the slope of f is not x."),
    ]
    cases = [(_noise(7).exp(),), (_noise(3, seed=1).exp(),)]
    return judge(answer, library.log_prob, cases, traps=traps, praise="a change of variables.")


@exercise
def check_transformed_log_prob(answer: Any) -> Verdict:
    """Log density under transforms z -> x of a standard normal: (n,), list -> (n,), nats."""
    d = torch.distributions
    normal = d.Normal(torch.zeros((), dtype=torch.double), 1.0)

    def score(x, transforms, sign=-1):
        f = d.ComposeTransform(transforms)
        return normal.log_prob(f.inv(x)) + sign * f.log_abs_det_jacobian(f.inv(x), x)

    traps = [
        (lambda x, t: score(x, t, 1), "it still does not integrate to one."),
        (lambda x, t: score(x, t, 0), "the log-determinants are missing."),
    ]
    stack = [d.AffineTransform(1.0, 2.0), d.ExpTransform(), d.AffineTransform(0.5, 0.3)]
    cases = [(2 * _noise(5), stack[:1]), (0.6 + _noise(6).exp(), stack)]
    return judge(answer, score, cases, traps=traps, praise="now it integrates to one.")


@exercise
def check_entropy(answer: Any) -> Verdict:
    """Kozachenko-Leonenko estimate of the entropy: (n, 2) -> (), nats."""

    def estimate(x, factor=2.0, constant=1.7219455508):  # log(pi) + Euler's constant
        # The second smallest distance of a row: the smallest is the point's own zero.
        nearest = (x[:, None] - x).norm(dim=-1).topk(2, largest=False).values[:, 1]
        return math.log(len(x) - 1) + constant + factor * nearest.log().mean()

    traps = [
        (lambda x: estimate(x, factor=1.0), "how many dimensions has the plane?"),
        (lambda x: estimate(x, constant=math.log(math.pi)), "Euler's constant is missing."),
    ]
    cases, praise = [(_noise(200, 2),), (3 * _noise(80, 2, seed=1),)], "an entropy without a model."
    return judge(answer, estimate, cases, traps=traps, praise=praise, rtol=1e-3)


def _coupling_cases() -> list[tuple]:
    """Points (n, 2m), and what gives a log scale and a shift, both shaped as what is kept."""

    def steer(kept):
        return torch.sin(2 * kept), kept.flip(-1) ** 2 - 1

    return [(_noise(5, 4), steer), (_noise(3, 6, seed=1), steer)]


@exercise
def check_coupling_log_det(answer: Any) -> Verdict:
    """log |det| of z_moved = (x_moved - t) exp(-s): (n, 2m), steer -> (n,)."""

    def scale(x, steer):
        return steer(x.chunk(2, -1)[0])[0]

    traps = [
        (lambda x, steer: scale(x, steer).sum(-1), "that is the layer of the text; mind the sign."),
        (lambda x, steer: -scale(x, steer).sum(), "one number per row, shape (n,)."),
    ]
    cases, praise = _coupling_cases(), "the Jacobian is triangular."
    return judge(answer, lambda x, g: -scale(x, g).sum(-1), cases, traps=traps, praise=praise)


@exercise
def check_coupling_inverse(answer: Any) -> Verdict:
    """x from z, z_moved = (x_moved - t) exp(-s): (n, 2m), steer -> (n, 2m)."""

    def undo(moved):
        def inverse(z, steer):
            kept, other = z.chunk(2, -1)
            return torch.cat((kept, moved(other, *steer(kept))), -1)

        return inverse

    traps = [
        (undo(lambda m, s, t: (m - t) * torch.exp(-s)), "this is the layer itself."),
        (undo(lambda m, s, t: (m + t) * s.exp()), "first undo what was done last."),
    ]
    right, praise = undo(lambda m, s, t: t + m * s.exp()), "no network was inverted."
    return judge(answer, right, _coupling_cases(), traps=traps, praise=praise)


@exercise
def check_same_mask(answer: Any) -> Verdict:
    """KL in nats from the first coordinate of the moons (noise 0.05) to the best Gaussian."""
    angle = (torch.arange(400).double() + 0.5) * math.pi / 400
    centre, x = torch.cat((angle.cos(), 1 - angle.cos())), torch.linspace(-1.5, 2.5, 801).double()
    p = torch.distributions.Normal(centre, 0.05).log_prob(x[:, None]).exp().mean(1)
    entropy, variance = -torch.trapezoid(p * p.log(), x), centre.var(correction=0) + 0.05**2
    right = 0.5 * torch.log(2 * math.pi * math.e * variance) - entropy
    traps = [
        (lambda: -right, "a divergence is never negative."),
        (lambda: entropy, "this is the entropy of x_1."),
        (lambda: entropy + right, "this is the entropy of the Gaussian."),
    ]
    if answer is not None:
        value, answer = answer, lambda: value
    praise = "no training removes this."
    return judge(answer, lambda: right, [()], traps=traps, praise=praise, rtol=8e-3)


@exercise
def check_conditional(answer: Any) -> Verdict:
    """log q(x | moon): (n, d), (n,), (2, d), (2, d) -> (n,), nats."""

    def score(x, moon, log_scale, shift, volume=1):
        s = log_scale[moon]
        normal = torch.distributions.Normal(-shift[moon] * torch.exp(-s), torch.exp(-s))
        return (normal.log_prob(x) + (volume - 1) * s).sum(-1)

    traps = [
        (lambda *case: score(*case, -1), "x -> z here: which sign has the log-determinant?"),
        (lambda *case: score(*case, 0), "the log-determinant is missing."),
        (lambda x, moon, *rest: score(x, 1 - moon, *rest), "the labels are swapped."),
    ]
    sizes = ((6, 2), (5, 3))
    cases = [(_noise(n, d), torch.arange(n) % 2, *_noise(2, 2, d, seed=1)) for n, d in sizes]
    return judge(answer, score, cases, traps=traps, praise="one flow for each label.")
