"""Answers to the exercises on the autoencoder: wrong ones, and odd ones that are right."""

import math

import numpy as np
import pyro
import torch
from pyro import distributions as dist
from torch.distributions import Bernoulli, Normal, kl_divergence
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from tests.answers import right, slip, vae_slips_c
from tests.answers.vae_slips import SLIPS
from tests.answers.vae_slips_b import SLIPS as MORE_SLIPS

unit, kl, loss, ppca = Normal(0.0, 1.0), right.gaussian_kl, right.vae_loss, right.ppca_posterior


def program(z, x=None, *, name="z", seen=True, size=len, register=lambda v: pyro.module("vae", v)):
    """A model or guide; z: the VAE, images, k -> a distribution; x: the VAE, z, images -> one."""

    def run(vae, images, k):
        register(vae)
        with pyro.plate("images", size(images)):
            draw = pyro.sample(name, z(vae, images, k))
            if x:
                pyro.sample("x", x(vae, draw, images), obs=images if seen else None)

    return run


def p(vae, x, k, scale=1.0):
    return dist.Normal(x.new_zeros(len(x), k), scale).to_event(1)


def q(vae, x, k, width=lambda s: s, event=1):
    mu, sigma = vae.posterior(x)
    return dist.Normal(mu, width(sigma)).to_event(event)


def pixels(vae, z, x, bend=lambda logits: logits):
    return dist.Bernoulli(logits=bend(vae.decoder(z))).to_event(1)


def bound(mean=lambda w: w.logsumexp(0) - math.log(len(w)), prior=1, inverse=1):
    def run(vae, x, draws):
        guide = Normal(*vae.posterior(x))
        z = guide.sample((draws,))
        both = (prior * unit.log_prob(z) - inverse * guide.log_prob(z)).sum(-1)
        return mean(both + Bernoulli(logits=vae.decoder(z)).log_prob(x).sum(-1))

    return run


def naive(x, t):
    return t * x - ((t.exp() - 1) / t).log()


def stable(x, t):
    return t * x - t.clamp(min=0) - (-(-t.abs()).expm1() / t.abs()).log()


def series(x, t, reach, terms=1):
    """The logarithm of the integral by its series, up to a reach."""
    far = t.abs() > reach
    near = t * x - t / 2 - (terms - 1) * t**2 / 24
    return torch.where(far, stable(x, torch.where(far, t, 1.0)), near).sum(-1)


WRONG = [  # exercise, answer, words of the message
    ("gaussian_kl", lambda m, s: kl(m, s.sqrt()), "the square of sigma"),
    ("gaussian_kl", lambda m, s: kl_divergence(unit, Normal(m, s)).sum(-1), "Which of the two"),
    ("gaussian_kl", lambda m, s: kl(m, s) + s.log().sum(-1) / 2, "log of which"),
    ("gaussian_kl", lambda m, s: kl(m, s) + m.shape[1] / 2, "for mu = 0 and sigma = 1"),
    ("gaussian_kl", lambda m, s: kl(m, s).detach(), "what detaches the result"),
    ("ppca_posterior", lambda x, w, s: (torch.linalg.lstsq(w, x.T)[0].T, w), "least squares"),
    ("vae_loss", lambda x, t, *a: bce(t, x) + kl(*a).mean(), "every pixel came twice"),
    ("vae_loss", lambda x, t, *a: 784 * bce(t, x) + kl(*a).mean(), "the number 784"),
    ("vae_loss", lambda x, t, *a: loss(x, t.sigmoid(), *a), "sigmoid twice"),
    ("vae_loss", lambda x, t, *a: ((x - t) ** 2).sum(1).mean() + kl(*a).mean(), "squared error"),
    ("vae_loss", lambda *a: len(a[0]) * loss(*a), "per image"),
    ("vae_loss", lambda *a: loss(*a).item(), "no gradient passes through float"),
    ("vae_loss", lambda *a: loss(*a) + a[-1].log().mean(), "the rate is not"),
    ("vae_model", program(p, pixels, register=id), "would not find the weights"),
    ("vae_model", program(lambda *a: p(*a).base_dist, pixels), "more than one event"),
    ("vae_model", program(p, pixels, seen=False), "nothing is observed"),
    ("vae_model", program(lambda *a: p(*a, 2.0), pixels), "not N(0, I)"),
    ("vae_model", program(p, lambda v, z, x: pixels(v, v.posterior(x)[0], x)), "not `z`"),
    ("vae_model", program(p, lambda *a: pixels(*a, torch.sigmoid)), "through another"),
    ("vae_model", program(p, lambda *a: pixels(*a, torch.detach)), "what detaches"),
    ("vae_model", program(p, lambda v, z, x: pixels(v, p(v, x, 2), x)), "Draw from it"),
    ("vae_guide", program(q, register=id), "would not find the weights"),
    ("vae_guide", program(lambda *a: q(*a, event=0)), "more than one event"),
    ("vae_guide", program(lambda *a: q(*a, torch.square)), "not variances"),
    ("vae_guide", program(lambda *a: q(*a, torch.detach)), "part of the encoder"),
    ("vae_guide", program(p), "this is the prior"),
    ("vae_guide", program(q, pixels), "observes nothing"),
    ("importance_bound", bound(lambda w: w.mean(0)), "still the ELBO"),
    ("importance_bound", bound(lambda w: w.logsumexp(0)), "grows without end"),
    ("importance_bound", bound(lambda w: w.exp().mean(0).log()), "is 0 for a computer"),
    ("importance_bound", bound(inverse=0), "weighted for that"),
    ("importance_bound", bound(prior=0), "do `p(z)` and `q(z | x)` cancel"),
    ("alarm", lambda v, x: v.elbo(x), "Higher is stranger"),
    ("alarm", lambda v, x: -v.elbo(x).mean(), "each needs its own"),
    ("alarm", lambda v, x: v.terms(x)[0] / x.sum(-1), "blank image"),
    ("alarm", lambda v, x: v.terms(x)[0] > 9, "needs a threshold"),
    ("alarm", lambda v, x: (v.elbo(x) - v.elbo(x).mean()).abs(), "which others"),
    ("alarm", lambda v, x: torch.ones(len(x)), "same for every"),
    ("alarm", lambda v, x: -v.posterior(x)[0], "expected (41,)"),
    ("alarm", lambda v, x: -x[:, 0], "whatever the VAE has learnt"),
    ("alarm", lambda v, x: v.terms(x)[1], "Higher is stranger"),
    ("continuous_bernoulli", lambda x, t: -bce(t, x, reduction="none").sum(-1), "C is missing"),
    ("continuous_bernoulli", lambda x, t: naive(x, t).sum(-1), "0/0"),
    ("continuous_bernoulli", lambda x, t: naive(x, t).where(t != 0, 0 * t).sum(-1), "cancel"),
    ("continuous_bernoulli", lambda x, t: naive(x, t).where(abs(t) > 0.01, t * x - t / 2).sum(-1),
     "exp(100)"),
    ("continuous_bernoulli", lambda x, t: stable(x, t).where(t != 0, 0 * t).sum(-1), "is NaN"),
    ("continuous_bernoulli", lambda x, t: series(x, t, 0.1000001), "off by 0.0004 nats per pixel"),
    ("continuous_bernoulli", lambda x, t: series(x, t, 0.3000001), "per digit"),
    ("continuous_bernoulli", lambda x, t: series(x, t, 0.25), "how far from 0 is a series"),
    ("vae_networks", lambda *a: right.vae_networks(784, 2), "mat1 and mat2"),
    ("vae_networks", lambda *a: torch.nn.Linear(3, 2), "a method `posterior`"),
    ("vae_training", lambda *a: 1.0, "nothing calls `svi.step`"),
]  # fmt: skip
WRONG += [
    (name, slip(name, *row[:-1]), row[-1])
    for name, rows in (SLIPS | MORE_SLIPS).items()
    for row in rows
]


class Softplus(right.linear_vae):
    """Another way to a positive number, and the parameters of the Gaussian in another form."""

    def noise(self):
        return torch.nn.functional.softplus(self.log_noise)

    def model(self, x, k):
        pyro.module("all", self)
        with pyro.plate("digits", len(x)):
            z = pyro.sample("z", dist.MultivariateNormal(torch.zeros(k), torch.eye(k)))
            cov = self.noise() ** 2 * torch.eye(x.shape[1])
            pyro.sample("grey", dist.MultivariateNormal(self.decoder(z), cov), obs=x)


def leave_one_out(f, score):
    rows = [(f[i] - f[torch.arange(len(f)) != i].mean()) * score[i] for i in range(len(f))]
    return torch.stack(rows)


ODD = [
    ("vae_networks", slip("vae_networks", "F.softplus(raw)", "raw.exp()")),
    ("vae_networks", slip("vae_networks", "F.softplus(raw)", "(raw / 2).exp()", "2 * k", "k + k")),
    ("vae_networks", slip("vae_networks", "self.encoder = mlp(d, hidden, hidden, 2 * k)",
                          "self.encoder = nn.Sequential(nn.Linear(d, hidden), nn.ReLU(), "
                          "nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 2 * k))",
                          "mu, raw = self.encoder(x).chunk(2, -1)",
                          "raw, mu = self.encoder(x).chunk(2, -1)")),
    ("vae_training", slip("vae_training", "TraceMeanField_ELBO", "pyro.infer.Trace_ELBO")),
    ("vae_training", slip("vae_training", "return losses", "return torch.tensor(losses).numpy()",
                          "3e-3", "0.003, 'betas': (0.95, 0.999)")),
    ("gaussian_kl", lambda m, s: kl_divergence(Normal(m, s), unit).sum(1)),
    ("gaussian_kl", lambda m, s: torch.stack([kl(*row) for row in zip(m, s, strict=True)])),
    ("ppca_posterior", lambda *a: [part.tolist() for part in ppca(*a)]),
    ("ppca_posterior", lambda x, w, s: [v.numpy() for v in ppca(x.float(), w.float(), s)]),
    ("vae_loss", lambda x, t, *a: x.shape[1] * bce(t, x) + kl(*a).mean()),
    ("vae_loss", lambda x, t, *a: kl(*a).mean() + bce(t, x, reduction="sum") / len(x)),
    ("vae_model", program(lambda v, x, k: dist.Normal(0.0, 1.0).expand([k]).to_event(1), pixels)),
    ("vae_model", program(lambda v, x, k: dist.MultivariateNormal(torch.zeros(k), torch.eye(k)),
                          lambda v, z, x: dist.Bernoulli(v.decoder(z).sigmoid()).to_event(1))),
    ("vae_guide", program(q, register=lambda v: pyro.module("encoder", v.encoder))),
    ("vae_guide", program(lambda v, x, k: dist.MultivariateNormal(
        v.posterior(x)[0], scale_tril=v.posterior(x)[1].diag_embed()))),
    ("importance_bound", bound(lambda w: np.logaddexp.reduce(w.numpy(), 0) - math.log(len(w)))),
    ("importance_bound", lambda *a: [each.item() for each in right.importance_bound(*a)]),
    ("alarm", lambda v, x: (-v.elbo(x)).tolist()),
    ("alarm", lambda v, x: v.terms(x)[0].numpy()),
    ("alarm", lambda v, x: v.posterior(x)[1].log().sum(-1) - v.elbo(x)),
    ("continuous_bernoulli", lambda x, t: right.continuous_bernoulli(x.double(), t.double())),
    ("continuous_bernoulli", lambda x, t: stable(x, (t + 2e-4).where(abs(t) < 1e-4, t)).sum(-1)),
    ("continuous_bernoulli", lambda x, t: series(x, t, 0.02)),
    ("continuous_bernoulli", lambda x, t: series(x, t, 0.3000001, terms=2)),
    ("linear_vae", lambda d, k: right.linear_vae(d, k)), ("linear_vae", Softplus),
    ("leave_one_out", leave_one_out),
    ("leave_one_out", lambda f, g: (len(f) * f - f.sum())[:, None].numpy() * g.numpy()
                                   / (len(f) - 1)),
    ("leave_one_out", lambda f, g: ((f - f.mean())[:, None] * g) * len(f) / (len(f) - 1)),
]  # fmt: skip

WRONG += vae_slips_c.WRONG
ODD += vae_slips_c.ODD
