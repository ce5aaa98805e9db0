"""Answers to the exercises on Bayesian neural networks: wrong ones, and odd ones that are right."""

import torch
from torch.distributions import Normal

from tests.answers import right

WRONG = [  # exercise, answer, words of the message
    ("mixture_log_density", lambda y, m, s: Normal(m, s).log_prob(y).mean(0), "not logarithms"),
    ("mixture_log_density", lambda y, m, s: Normal(m.mean(0), s.mean(0)).log_prob(y), "unknown"),
    ("mixture_log_density", lambda y, m, s: right.mixture_log_density(y, m, s**2), "deviation"),
    ("kl_between_gaussians", lambda a, b, c, d: right.kl_between_gaussians(c, d, a, b), "order"),
    ("kl_between_gaussians", lambda *a: right.kl_between_gaussians(*a) + 0.5, "equal Gaussians"),
    ("minibatch_loss", lambda p, kl, n: (kl - p.sum()) / n, "scale it up"),
    ("minibatch_loss", lambda p, kl, n: kl - p.mean(), "once per data set"),
    ("minibatch_loss", lambda p, kl, n: p.mean() - kl / n, "sign"),
    ("minibatch_loss", lambda p, kl, n: (kl - n / 6 * p.sum()) / n, "off"),
    ("variance_parts", lambda m, s: right.variance_parts(m, s).flip(0), "aleatoric above"),
    ("variance_parts", lambda m, s: right.variance_parts(m, s).sqrt(), "not standard deviations"),
    ("variance_parts", lambda m, s: torch.stack([s.square().mean(0), m.var(0)]), "correction=0"),
    ("prior_prediction", lambda: torch.tensor([1, 1, 1]), "evidence"),
    ("prior_prediction", lambda: torch.tensor([-1, -1, 1]), "less doubt"),
    ("coverage", lambda y, d, m: (y <= d.quantile(m, dim=0)).double().mean(), "one-sided"),
    ("coverage", lambda y, d, m: 1 - right.coverage(y, d, m), "outside"),
    ("coverage", lambda y, d, m: ((d.amin(0) <= y) & (y <= d.amax(0))).double().mean(), "off"),
    (
        "score_probabilities",
        lambda m, s, k: Normal(m[..., None], s[..., None]).log_prob(k).exp().mean(0),
        "density",
    ),
    (
        "score_probabilities",
        lambda m, s, k: right.score_probabilities(m.mean(0)[None], s.mean(0)[None], k),
        "at the end",
    ),
]

ODD = []
