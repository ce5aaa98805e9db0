"""Answers to the exercises on the variational autoencoder: wrong ones, and odd ones that are right."""

import numpy as np
import torch
from torch.distributions import Normal
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from torch.nn.functional import softplus

from tests.answers import right

unit = Normal(0.0, 1.0)

WRONG = [  # exercise, answer, words of the message
    ("gaussian_kl", lambda m, s: right.gaussian_kl(m, s.sqrt()), "squared"),
    ("gaussian_kl", lambda m, s: 2 * right.gaussian_kl(m, s), "twice"),
    ("gaussian_kl", lambda m, s: right.gaussian_kl(m, s) / m.shape[1], "do not average"),
    ("reparametrise", lambda m, r, e: m + r * e, "is a logarithm"),
    ("reparametrise", lambda m, r, e: m + (2 * r).exp() * e, "by the variance"),
    ("reparametrise", lambda m, r, e: m + (0.5 * r).exp() * e, "not the log *variance*"),
    ("reparametrise", lambda *a: right.reparametrise(*a).detach(), "what detaches the result"),
    ("reparametrise", lambda m, r, e: m.numpy() + np.exp(r.numpy()) * e.numpy(), "through NumPy"),
    ("reparametrise", lambda *a: right.reparametrise(*a).tolist(), "through list"),
    ("reparametrise", lambda m, r, e: m + r.exp().detach() * e, "reaches `log_sigma`"),
    ("reparametrise", lambda m, r, e: m.data + r.exp() * e, "reaches `mu`"),
    ("ppca_posterior", lambda x, w, s: right.ppca_posterior(x, w, s**0.5), "square it"),
    ("ppca_posterior", lambda x, w, s: right.ppca_posterior(x, w, s)[: len(x)], "missing"),
    ("vae_loss", lambda x, t, m, s: right.vae_loss(x, t.sigmoid(), m, s), "twice"),
    ("vae_loss", lambda x, t, m, s: len(x) * right.vae_loss(x, t, m, s), "per image"),
    ("vae_loss", lambda x, t, m, s: bce(t, x) + right.gaussian_kl(m, s).mean(), "weighs the rate"),
    ("importance_bound", lambda p, q: (p - q).mean(0), "is the ELBO"),
    ("importance_bound", lambda p, q: (p - q).logsumexp(0), "not their mean"),
    ("importance_bound", lambda p, q: (p - q).exp().mean(0).log(), "is 0 for a computer"),
    ("importance_bound", lambda p, q: right.importance_bound(p, 0 * q), "weighted by 1 / q"),
    ("active_units", lambda m: (m.std(0) > 0.01).sum(), "threshold is on the variance"),
    ("active_units", lambda m: (m.var(1) > 0.01).sum(), "over images"),
    ("active_units", lambda m: (m.abs().mean(0) > 0.01).sum(), "constant mean"),
    ("continuous_bernoulli", lambda x, t: (x * t - softplus(t)).sum(-1), "missing"),
    ("continuous_bernoulli", lambda x, t: right.continuous_bernoulli(x, t) / 9, "do not average"),
]

ODD = [
    ("reparametrise", lambda m, r, e: torch.stack([m + r.exp() * draw for draw in e])),
    ("reparametrise", lambda m, r, e: Normal(m, r.exp()).icdf(unit.cdf(e.double()))),
    ("reparametrise", lambda m, r, e: e.mul_(r.exp_()).add_(m)),
]
