"""Answers to the exercises on normalizing flows: wrong ones, and odd ones that are right."""

import torch
from torch.distributions import ComposeTransform, Normal

from tests.answers import right

unit = Normal(0.0, 1.0)
ENTROPY, GAP = 1.060, 0.217  # of the moons' first coordinate; from it to the best Gaussian; nats
right.same_mask = GAP  # the notebook computes it, and needs more than definitions for it


def base(x, transforms):
    """The density of the base, without the log-determinants."""
    return unit.log_prob(ComposeTransform(transforms).inv(x))


WRONG = [  # exercise, answer, words of the message
    ("lognormal", lambda x: unit.log_prob(x.log()), "Jacobian"),
    ("lognormal", lambda x: unit.log_prob(x.log()) + x.log(), "slope"),
    ("transformed_log_prob", base, "missing"),
    ("transformed_log_prob", lambda *a: 2 * base(*a) - right.transformed_log_prob(*a), "integrate"),
    ("entropy", lambda x: (right.entropy(x) + 1.7219) / 2, "off"),
    ("entropy", lambda x: right.entropy(x) - 0.5772157, "Euler"),
    ("coupling_log_det", lambda x, steer: -right.coupling_log_det(x, steer), "sign"),
    ("coupling_log_det", lambda x, steer: right.coupling_log_det(x, steer).sum(), "per row"),
    ("coupling_inverse", lambda z, steer: right.coupling_inverse(z.flip(-1), steer), "off"),
    ("coupling_inverse", lambda z, steer: z, "off"),
    ("same_mask", -GAP, "negative"),
    ("same_mask", ENTROPY, "entropy"),
    ("same_mask", GAP + 0.05, "off"),
    ("conditional", lambda x, m, s, t: right.conditional(x, 1 - m, s, t), "swapped"),
    ("conditional", lambda x, m, s, t: right.conditional(x, m, s, t) - s[m].sum(-1), "missing"),
]

ODD = []
