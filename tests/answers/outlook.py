"""Answers to the exercises on diffusion: wrong ones, and odd ones that are right."""

import numpy as np
import torch
from torch.autograd.functional import jvp
from torch.nn.functional import mse_loss, pad

from tests.answers import right
from tools.notebook_definitions import definitions

book = definitions("outlook_diffusion")
back, loss, walk = right.step_back, right.denoising_loss, right.ode
density, match, guide = right.flow_log_prob, right.flow_matching, right.guidance


def mean(rule):
    return lambda z, x, s, b: (rule(z, x, s, b), back(z, x, s, b)[1])


def variance(rule):
    return lambda z, x, s, b: (back(z, x, s, b)[0], rule(s, b))


def by_precision(z, x, s, b):
    if b == 0:
        return x, 0
    ours, theirs = 1 / b**2, 1 / (s**2 - b**2)
    return (ours * x + theirs * z) / (ours + theirs), 1 / (ours + theirs)


def weighted(rule):
    return lambda f, x, s, e, k: (rule(s, k) * (f(x + s * e, s) - x) ** 2).mean()


def in_the_units_of_the_network(f, x, s, e, k):
    total = s**2 + k**2
    skip, out, z = k**2 / total, s * k / total**0.5, x + s * e
    return mse_loss((f(z, s) - skip * z) / out, (x - skip * z) / out)


def heun(f, z, sigmas, second=lambda f, z, new, s, b: (new - f(new, b)) / b, join=None, sign=1):
    join = join or (lambda one, two: (one + two) / 2)
    for i in range(len(sigmas) - 1):
        s, b = sigmas[i], sigmas[i + 1]
        slope = (z - f(z, s)) / s
        new = z + sign * (b - s) * slope
        if b > 0:
            new = z + sign * (b - s) * join(slope, second(f, z, new, s, b))
        z = new
    return z


def to_zero(f, z, sigmas):
    for s, b in zip(sigmas[:-1], sigmas[1:], strict=True):
        slope = (z - f(z, s)) / s
        new = z + (b - s) * slope
        z = z + (b - s) * (slope + (new - f(new, b)) / b) / 2
    return z


def stops_early(f, z, sigmas):
    return heun(f, z, sigmas[:-1] if sigmas[-1] == 0 else sigmas)


def flow(sign=1, base=lambda x, z: z, join=sum, pick=lambda slope, j: slope[:, j], steps=None,
         solve=book.solve):  # fmt: skip
    def log_prob(velocity, x, times, log_base):
        d = x.shape[1]

        def rate(state, t):
            z = state[:, :d].detach().requires_grad_()
            v = velocity(z, t)
            slopes = [torch.autograd.grad(v[:, j].sum(), z, retain_graph=True)[0] for j in range(d)]
            divergence = join([pick(slope, j) for j, slope in enumerate(slopes)])
            return torch.cat((v, divergence[:, None]), -1).detach()

        end = solve(rate, torch.cat((x, 0 * x[:, :1]), -1), times)
        return log_base(base(x, end[:, :d])) + sign * end[:, d]

    return log_prob


def euler(rate, state, times):
    for t, after in zip(times[:-1], times[1:], strict=True):
        state = state + (after - t) * rate(state, t)
    return state


def many_midpoints(rate, state, times):
    fine = torch.linspace(times[0].item(), times[-1].item(), 400)
    for t, after in zip(fine[:-1].tolist(), fine[1:].tolist(), strict=True):
        half = state + (after - t) / 2 * rate(state, t)
        state = state + (after - t) * rate(half, (t + after) / 2)
    return state


def forward_mode(velocity, x, times, log_base):
    def rate(state, t):
        z, total = state[:, :-1].detach(), 0
        for j in range(z.shape[1]):
            direction = torch.zeros_like(z)
            direction[:, j] = 1
            v, along = jvp(lambda each: velocity(each, t), z, direction)
            total = total + along[:, j]
        return torch.cat((v, total[:, None]), 1).detach()

    end = book.solve(rate, pad(x, (0, 1)), times)
    return (log_base(end[:, :-1]) + end[:, -1]).numpy()


def path(see=lambda x, e, t: x + t * (e - x), aim=lambda x, e: e - x, join=torch.mean):
    return lambda v, x, e, t: join((v(see(x, e, t), t) - aim(x, e)) ** 2)


WRONG = [  # exercise, answer, words of the message
    ("step_back", book.my_step_back, "Not tried yet"),
    ("step_back", lambda z, x, s, b: back(z, x, s, b)[0], "two things"),
    ("step_back", mean(lambda z, x, s, b: z + (b / s) ** 2 * (x - z)), "wrong end"),
    ("step_back", mean(lambda z, x, s, b: x + b / s * (z - x)), "variance"),
    ("step_back", mean(lambda z, x, s, b: x), "ignores z"),
    ("step_back", mean(lambda z, x, s, b: z), "ignores x"),
    ("step_back", mean(lambda z, x, s, b: (z + x) / 2), "weigh"),
    ("step_back", mean(lambda z, x, s, b: back(z, x, s, b)[0] + 0.01), "off"),
    ("step_back", mean(lambda z, x, s, b: back(z, x, s, b)[0].sum(-1)), "shape"),
    ("step_back", variance(lambda s, b: s**2 - b**2), "step up"),
    ("step_back", variance(lambda s, b: b**2), "only x is known"),
    ("step_back", variance(lambda s, b: (b**2 * (s**2 - b**2)) ** 0.5 / s), "standard deviation"),
    ("step_back", variance(lambda s, b: (s**2 - b**2) ** 2 / s**2), "same part"),
    ("step_back", variance(lambda s, b: 0.1), "the variance is not"),
    ("step_back", variance(lambda s, b: torch.rand(7)), "one number"),
    ("step_back", variance(lambda s, b: -1.0), "it is -1"),
    ("denoising_loss", book.my_loss, "Not tried yet"),
    ("denoising_loss", weighted(lambda s, k: 1), "missing"),
    ("denoising_loss", weighted(lambda s, k: (s * k) ** 2 / (s**2 + k**2)), "upside down"),
    ("denoising_loss", weighted(lambda s, k: (s**2 + k**2) ** 0.5 / (s * k)), "squared"),
    ("denoising_loss", weighted(lambda s, k: 1 / s**2), "sigma is large"),
    ("denoising_loss", weighted(lambda s, k: 1 / (s**2 + k**2)), "variance of z"),
    ("denoising_loss", lambda f, x, s, e, k: loss(lambda z, s: f(x, s), x, s, e, k), "no noise"),
    ("denoising_loss", lambda f, x, s, e, k: loss(f, x, s, s * e, k), "standard deviation"),
    (
        "denoising_loss",
        lambda f, x, s, e, k: loss(lambda z, s: f(z, s) + x - e, x, s, e, k),
        "noise",
    ),
    ("denoising_loss", lambda f, x, s, e, k: loss(f, x, s, e, k) * x.numel(), "add up"),
    ("denoising_loss", lambda f, x, s, e, k: loss(f, x, s, e, k).detach(), "detaches"),
    ("denoising_loss", lambda f, x, s, e, k: loss(f, x, s, e, k).item(), "no gradient passes"),
    ("denoising_loss", lambda f, x, s, e, k: (f(x + s * e, s) - x) ** 2, "one number"),
    ("denoising_loss", lambda f, x, s, e, k: -loss(f, x, s, e, k), "sign"),
    ("ode", book.my_ode, "Not tried yet"),
    ("ode", lambda *a: heun(*a, join=lambda one, two: one), "Euler"),
    ("ode", lambda *a: heun(*a, join=lambda one, two: two), "not the second alone"),
    ("ode", lambda *a: heun(*a, join=lambda one, two: one + two), "not their sum"),
    ("ode", lambda *a: heun(*a, sign=-1), "wrong way"),
    ("ode", lambda *a: heun(*a, lambda f, z, new, s, b: (z - f(z, b)) / b), "trial point"),
    ("ode", lambda *a: heun(*a, lambda f, z, new, s, b: (new - f(new, s)) / s), "new level"),
    ("ode", to_zero, "divided by"),
    ("ode", stops_early, "last step"),
    ("ode", lambda f, z, sigmas: walk(f, z, sigmas)[0], "shape"),
    ("flow_log_prob", book.my_flow_log_prob, "Not tried yet"),
    ("flow_log_prob", flow(sign=-1), "sign"),
    ("flow_log_prob", flow(sign=0), "missing"),
    ("flow_log_prob", flow(base=lambda x, z: x), "end of the path"),
    ("flow_log_prob", flow(join=lambda parts: sum(parts) / len(parts)), "not a mean"),
    ("flow_log_prob", flow(pick=lambda slope, j: slope.sum(-1)), "diagonal"),
    ("flow_log_prob", flow(solve=euler), "accurately"),
    ("flow_log_prob", lambda *a: density(*a).exp(), "logarithm"),
    ("flow_log_prob", lambda *a: density(*a).mean(), "one number per point"),
    ("flow_matching", book.my_matching, "Not tried yet"),
    ("flow_matching", path(aim=lambda x, e: x - e), "which way"),
    ("flow_matching", path(see=lambda x, e, t: e + t * (x - e)), "t = 0"),
    ("flow_matching", path(lambda x, e, t: e + t * (x - e), lambda x, e: x - e), "from noise"),
    ("flow_matching", path(see=lambda x, e, t: x + t * e), "straight"),
    ("flow_matching", path(aim=lambda x, e: e), "velocity"),
    ("flow_matching", path(join=torch.sum), "add up"),
    ("flow_matching", lambda *a: match(*a).item(), "no gradient passes"),
    ("flow_matching", lambda v, x, e, t: match(lambda z, t: v(z, t).detach(), x, e, t), "detaches"),
    ("guidance", book.my_guess, "Not tried yet"),
    ("guidance", lambda z, s, a, b, w: guide(z, s, a, b, w + 1), "w = 0"),
    ("guidance", lambda z, s, a, b, w: guide(z, s, b, a, w), "exchanged"),
    ("guidance", lambda z, s, a, b, w: guide(z, s, a, b, -w), "away"),
    ("guidance", lambda z, s, a, b, w: b(z, s), "no effect"),
    ("guidance", lambda z, s, a, b, w: a(z, s) + w * b(z, s), "difference"),
    ("guidance", lambda z, s, a, b, w: w * (b(z, s) - a(z, s)), "from where"),
]

ODD = [
    ("step_back", by_precision),
    ("step_back", lambda *a: [v.numpy() if torch.is_tensor(v) else np.array([[v]])
                              for v in back(*a)]),
    ("step_back", lambda z, x, s, b: (back(z, x, s, b)[0].float(), back(z, x, s, b)[1] + 0 * z)),
    ("denoising_loss", in_the_units_of_the_network),
    ("denoising_loss", lambda *a: loss(*a)[None]),
    ("denoising_loss", lambda f, x, s, e, k: loss(f, x.float(), s.float(), e.float(), k)),
    ("ode", heun),
    ("ode", lambda f, z, sigmas: walk(f, z.float(), sigmas.float()).numpy()),
    ("ode", lambda f, z, sigmas: walk(f, z, [float(s) for s in sigmas])),
    ("flow_log_prob", forward_mode),
    ("flow_log_prob", flow(solve=many_midpoints)),
    ("flow_log_prob", lambda v, x, t, b: density(v, x.float(), t, b).tolist()),
    ("flow_matching", path()),
    ("flow_matching", lambda v, x, e, t: mse_loss(v(x + t * (e - x), t), e - x)),
    ("guidance", lambda z, s, a, b, w: (w * b(z, s) + (1 - w) * a(z, s)).numpy()),
    ("guidance", lambda z, s, a, b, w: torch.lerp(a(z, s), b(z, s), w)),
]  # fmt: skip
