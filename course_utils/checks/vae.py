"""Checks of the exercises on the variational autoencoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from course_utils.checks.judge import Verdict, exercise, judge


def _scales(rows: int, k: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Means and standard deviations (rows, k) to try an answer on."""
    noise = torch.Generator().manual_seed(seed)
    mu = torch.randn(rows, k, generator=noise, dtype=torch.double)
    return mu, 0.2 + 2 * torch.rand(rows, k, generator=noise, dtype=torch.double)


def _rate(mu: Tensor, sigma: Tensor) -> Tensor:
    """KL(N(mu, sigma²) || N(0, 1)) of each latent (n, k), nats."""
    normal = torch.distributions.Normal
    return torch.distributions.kl_divergence(normal(mu, sigma), normal(0.0, 1.0))


@exercise
def check_gaussian_kl(answer: Any) -> Verdict:
    """KL(N(mu, diag sigma²) || N(0, I)): (n, k), (n, k) -> (n,), nats."""
    traps = [
        (lambda m, s: _rate(m, s.sqrt()).sum(-1), "sigma should be squared: a variance."),
        (lambda m, s: 2 * _rate(m, s).sum(-1), "it is twice too large."),
        (lambda m, s: -_rate(m, s).sum(-1), "a divergence is never negative."),
        (lambda m, s: _rate(m, s).mean(-1), "sum over latents; do not average."),
    ]
    cases, praise = [_scales(3, 4), _scales(5, 1, 1)], "this is the rate, in nats per image."
    return judge(answer, lambda m, s: _rate(m, s).sum(-1), cases, traps=traps, praise=praise)


@exercise
def check_reparametrise(answer: Any) -> Verdict:
    """mu + exp(log_sigma) eps: (n, k), (n, k), (s, n, k) -> (s, n, k)."""
    traps = [
        (lambda m, r, e: m + r * e, "`log_sigma` is a logarithm; it may be negative."),
        (lambda m, r, e: m + (2 * r).exp() * e, "eps is multiplied by the variance."),
        (lambda m, r, e: m + (r / 2).exp() * e, "`log_sigma` is not the log *variance*."),
    ]
    mu, log_sigma, eps = torch.randn(3, 3, 4, generator=torch.Generator().manual_seed(0))
    cases = [(mu, log_sigma, torch.stack([eps, -eps])), (mu, log_sigma - 1, eps[None])]
    praise = "noise goes in, gradients come out."
    verdict = judge(
        answer, lambda m, r, e: m.addcmul(r.exp(), e), cases, traps=traps, praise=praise
    )
    fault = _cut(answer, *cases[1]) if verdict else None
    return Verdict(False, f"✗ Not yet: the values are right, but {fault}") if fault else verdict


def _cut(answer: Any, mu: Tensor, log_sigma: Tensor, eps: Tensor) -> str | None:
    """Where the gradients of a reparametrisation are lost; None if they arrive."""
    inputs = {"mu": mu.clone().requires_grad_(), "log_sigma": log_sigma.clone().requires_grad_()}
    try:
        with torch.enable_grad():
            z = answer(*(leaf.clone() for leaf in inputs.values()), eps.clone())
            if not isinstance(z, Tensor):
                return f"no gradient passes through {type(z).__name__}: compute with PyTorch."
            if not z.requires_grad:
                return "no gradient comes out: what detaches the result?"
            found = torch.autograd.grad(z.sum(), [*inputs.values()], allow_unused=True)
    except (Exception, SystemExit) as error:
        if "numpy()" in str(error):
            return "no gradient passes through NumPy: compute with PyTorch."
        return f"with gradients it raised {type(error).__name__}: {error}"
    lost = [name for name, gradient in zip(inputs, found, strict=True) if gradient is None]
    return f"no gradient reaches `{lost[0]}`." if lost else None


@exercise
def check_ppca_posterior(answer: Any) -> Verdict:
    """Mean (n, k) above covariance (k, k) of p(z | x) in x = W z + s noise."""

    def reference(x, w, s, prior=1.0):  # by conditioning the joint Gaussian of (z, x) on x
        gain = prior * w.T @ torch.linalg.inv(prior * w @ w.T + s**2 * torch.eye(len(w)).to(w))
        return torch.cat([x @ gain.T, prior * (torch.eye(w.shape[1]).to(w) - gain @ w)])

    traps = [
        (lambda x, w, s: reference(x, w, s**0.5), "s is a standard deviation: square it."),
        (lambda x, w, s: reference(x, w, s, 1e6), "this is least squares: where is the prior?"),
        (lambda x, w, s: reference(x, w, s)[: len(x)], "the covariance is missing."),
    ]
    rows = _scales(4, 6)[0]
    cases = [(rows, _scales(6, 2)[1], 0.5), (rows[:3], _scales(6, 3)[1], 1.5)]
    praise = "exact inference, in one line of linear algebra."
    return judge(answer, reference, cases, traps=traps, praise=praise)


@exercise
def check_vae_loss(answer: Any) -> Verdict:
    """Mean over rows of distortion + rate: (n, d), (n, d), (n, k), (n, k) -> (), nats."""

    def loss(x, logits, mu, sigma, pixels=torch.sum, latents=torch.sum, rows=torch.mean):
        distortion = -torch.distributions.Bernoulli(logits=logits).log_prob(x)
        return rows(pixels(distortion, -1)) + rows(latents(_rate(mu, sigma), -1))

    mean = torch.mean
    traps = [
        (lambda *a: loss(*a, mean), "the mean over pixels weighs the rate d times too much."),
        (lambda *a: loss(*a, mean, mean), "sum over pixels, and over latents."),
        (lambda *a: loss(*a, torch.sum, mean), "sum over the latents, too."),
        (lambda *a: loss(*a, rows=torch.sum), "per image, please: average over rows."),
        (lambda x, r, *a: loss(x, r.sigmoid(), *a), "the logits went through a sigmoid twice."),
    ]
    mu, sigma = _scales(6, 3)
    case = (mu.repeat(1, 5) > 0).double(), sigma.repeat(1, 5) - 1, mu, sigma
    cases = [case, tuple(part[:2] for part in case)]
    praise = "nats per image; this one cannot collapse by mistake."
    return judge(answer, loss, cases, traps=traps, praise=praise)


@exercise
def check_importance_bound(answer: Any) -> Verdict:
    """log mean exp of log_joint - log_q over the first axis: (s, n), (s, n) -> (n,), nats."""

    def reference(p, q):
        top = (p - q).amax(0)
        return top + (p - q - top).exp().mean(0).log()

    traps = [
        (lambda p, q: (p - q).mean(0), "the mean of the logarithms is the ELBO. What is averaged?"),
        (lambda p, q: (p - q).logsumexp(0), "you have the sum of the weights, not their mean."),
        (lambda p, q: reference(p, 0 * q), "each draw must be weighted by 1 / q."),
        (lambda p, q: (p - q).exp().mean(0).log(), "exp(-1000) is 0 for a computer."),
    ]
    p, q = _scales(8, 3)
    cases, praise = [(p, q), (p[:1], q[:1]), (p - 1000, q)], "every further draw tightens it."
    return judge(answer, reference, cases, traps=traps, praise=praise)


@exercise
def check_active_units(answer: Any) -> Verdict:
    """Number of columns of mu (n, k) with variance over 0.01."""
    traps = [
        (lambda m: (m.std(0) > 0.01).sum(), "the threshold is on the variance."),
        (lambda m: (m.var(1) > 0.01).sum(), "the variance is taken over images."),
        (lambda m: (m.abs().mean(0) > 0.01).sum(), "a constant mean is not active."),
    ]
    mu = _scales(500, 6)[0] * torch.tensor([1, 0.3, 0.12, 0.05, 0.02, 0]) + torch.arange(6)
    cases, praise = [(mu,), (mu[:, 2:],)], "the others say the same about every image."
    return judge(
        answer, lambda m: (m.double().var(0) > 0.01).sum(), cases, traps=traps, praise=praise
    )


@exercise
def check_continuous_bernoulli(answer: Any) -> Verdict:
    """Log density of the continuous Bernoulli, summed over pixels: (n, d), (n, d) -> (n,), nats."""

    def reference(x, logits):
        return torch.distributions.ContinuousBernoulli(logits=logits).log_prob(x).sum(-1)

    def plain(x, logits):
        return (x * logits - torch.nn.functional.softplus(logits)).sum(-1)

    traps = [
        (plain, "the normalising constant C is missing."),
        (lambda x, r: 2 * plain(x, r) - reference(x, r), "C belongs on the other side."),
        (lambda x, r: reference(x, r) / x.shape[1], "sum over pixels; do not average."),
    ]
    x, logits = _scales(4, 9)[0].sigmoid(), 3 * _scales(4, 9, 1)[0]
    cases, praise = [(x, logits), (x, 0 * logits)], "a density on grey values, with its constant."
    return judge(answer, reference, cases, traps=traps, praise=praise, rtol=1e-3)
