"""Checks of the exercises on Bayesian neural networks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from course_utils.checks.judge import Verdict, exercise, judge


def _draws(s: int, n: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Targets (n,), means (s, n) and scales (s, n) to try an answer on."""
    noise = torch.Generator().manual_seed(seed)
    mean, scale = torch.randn(2, s, n, generator=noise, dtype=torch.double)
    return torch.randn(n, generator=noise, dtype=torch.double), mean, 0.3 + scale.abs()


@exercise
def check_mixture_log_density(answer: Any) -> Verdict:
    """Log mean exp of Gaussian densities: (n,), (s, n), (s, n) -> (n,), nats."""
    normal = torch.distributions.Normal

    def reference(observed, mean, scale):
        return normal(mean, scale).log_prob(observed).exp().mean(0).log()

    traps = [
        (lambda y, m, s: normal(m, s).log_prob(y).mean(0), "average densities, not logarithms."),
        (lambda y, m, s: normal(m, s).log_prob(y).logsumexp(0), "a sum over draws, not a mean."),
        (lambda y, m, s: normal(m.mean(0), s.mean(0)).log_prob(y), "the weights are unknown, too."),
        (lambda y, m, s: reference(y, m, s**2), "`Normal` takes a standard deviation."),
        (lambda y, m, s: reference(y, m, s).mean(), "return one value per target."),
    ]
    praise = "densities are averaged, then the logarithm is taken."
    return judge(answer, reference, [_draws(5, 3), _draws(2, 4, 1)], traps=traps, praise=praise)


@exercise
def check_kl_between_gaussians(answer: Any) -> Verdict:
    """KL(N(m1, s1²) || N(m2, s2²)): four tensors (n,) -> (n,), nats."""
    normal = torch.distributions.Normal

    def reference(m1, s1, m2, s2):
        return torch.distributions.kl_divergence(normal(m1, s1), normal(m2, s2))

    traps = [
        (lambda a, b, c, d: reference(c, d, a, b), "this is KL(p || q): mind the order."),
        (lambda a, b, c, d: reference(a, b, c, d) + 0.5, "equal Gaussians must give 0."),
        (lambda a, b, c, d: reference(a, b**0.5, c, d**0.5), "the scales are not variances."),
        (lambda a, b, c, d: -reference(a, b, c, d), "a divergence is never negative."),
        (lambda a, b, c, d: reference(a, b, c, d).sum(), "element by element: do not sum."),
    ]
    (_, m, s), (_, m2, s2) = _draws(2, 4), _draws(2, 4, 1)
    cases = [(m[0], s[0], m[1], s[1]), (m2[0], s2[0], m2[0], s2[1])]
    return judge(answer, reference, cases, traps=traps, praise="the price of every weight.")


@exercise
def check_minibatch_loss(answer: Any) -> Verdict:
    """-ELBO / n from a batch: (b,), (), n -> (), nats per datum."""

    def reference(log_prob, kl, n):
        return (kl - n / len(log_prob) * log_prob.sum()) / n

    traps = [
        (lambda p, kl, n: (kl - p.sum()) / n, "the batch stands for all n data: scale it up."),
        (lambda p, kl, n: kl - p.mean(), "the prior counts once per data set, not per datum."),
        (lambda p, kl, n: kl / len(p) - p.mean(), "divide the KL term by n, not by the batch."),
        (lambda p, kl, n: p.mean() - kl / n, "a loss is minimised: turn the sign."),
        (lambda p, kl, n: n * reference(p, kl, n), "per datum, please."),
    ]
    y, mean, _ = _draws(3, 6)
    cases = [(-y.square(), torch.tensor(7.0).double(), 90), (mean[0, :4], mean[1, 0].square(), 4)]
    return judge(answer, reference, cases, traps=traps, praise="any batch size, the same loss.")


@exercise
def check_variance_parts(answer: Any) -> Verdict:
    """Aleatoric and epistemic variance: (s, n), (s, n) -> (2, n)."""

    def reference(mean, scale):
        second = (scale**2 + mean**2).mean(0)  # E[y²]
        aleatoric = (scale**2).mean(0)
        return torch.stack([aleatoric, second - mean.mean(0) ** 2 - aleatoric])

    traps = [
        (
            lambda m, s: torch.stack([s.mean(0) ** 2, m.var(0, correction=0)]),
            "square, then average.",
        ),
        (lambda m, s: reference(m, s).flip(0), "aleatoric above epistemic."),
        (lambda m, s: reference(m, s).sqrt(), "variances, not standard deviations."),
        (lambda m, s: torch.stack([(s**2).mean(0), m.var(0)]), "use `correction=0`."),
        (lambda m, s: reference(m, s).sum(0), "keep the two parts apart."),
    ]
    cases = [_draws(5, 3)[1:], _draws(2, 4, 1)[1:]]
    return judge(answer, reference, cases, traps=traps, praise="together they are the variance.")


@exercise
def check_coverage(answer: Any) -> Verdict:
    """Share of targets inside central intervals: (n,), (s, n), mass -> ()."""

    def reference(observed, draws, mass):
        below = (draws < observed).double().mean(0)  # away from ties: a rank
        return ((below - 0.5).abs() <= mass / 2).double().mean()

    def one_sided(observed, draws, mass):
        return (observed <= draws.quantile(mass, dim=0)).double().mean()

    traps = [
        (one_sided, "this is one-sided: cut off the same on both sides."),
        (lambda y, d, m: reference(y, d, 2 * m - 1), "leave (1 - mass) / 2 on each side."),
        (lambda y, d, m: 1 - reference(y, d, m), "this is the share outside."),
        (lambda y, d, m: 100 * reference(y, d, m), "a share, not per cent."),
    ]
    rank = torch.linspace(-3, 3, 101).double()[:, None] * torch.ones(40).double()
    observed = 2 * torch.randn(40, generator=torch.Generator().manual_seed(3)).double()
    cases = [(observed, rank, mass) for mass in (0.9, 0.6)]
    return judge(answer, reference, cases, traps=traps, praise="count, do not believe.")


@exercise
def check_prior_prediction(answer: Any) -> Verdict:
    """Signs of the change of epistemic doubt, KL and ELBO under a ten times wider prior."""
    traps = [
        (lambda: torch.tensor([1, 1, 1]), "a looser prior does not raise the evidence."),
        (lambda: torch.tensor([-1, -1, 1]), "a wider prior does not mean less doubt."),
        (lambda: torch.tensor([1, -1, -1]), "what does a well-determined weight cost now?"),
    ]
    right = torch.tensor([1, 1, -1])
    return judge(answer, lambda: right, [()], traps=traps, praise="wide priors are not harmless.")


@exercise
def check_score_probabilities(answer: Any) -> Verdict:
    """Probabilities of integer scores: (s, n), (s, n), (k,) -> (n, k)."""

    def reference(mean, scale, scores):
        z = (torch.stack([scores - 0.5, scores + 0.5])[:, None, None] - mean[..., None]) / (
            scale[..., None] * 2**0.5
        )
        return torch.erf(z).diff(dim=0)[0].mean(0) / 2

    def density(mean, scale, scores):
        return torch.distributions.Normal(mean[..., None], scale[..., None]).log_prob(scores).exp()

    traps = [
        (lambda m, s, k: density(m, s, k).mean(0), "a density is not a probability."),
        (lambda m, s, k: reference(m.mean(0)[None], s.mean(0)[None], k), "average at the end."),
        (lambda m, s, k: reference(m, s, k).T, "wines first, then scores."),
        (lambda m, s, k: reference(m, s, k + 0.5), "half a point to each side of the score."),
    ]
    scores = torch.arange(-2, 3).double()
    cases = [(*_draws(5, 3)[1:], scores), (*_draws(2, 4, 1)[1:], scores)]
    return judge(answer, reference, cases, traps=traps, praise="nobody can cheat with spikes now.")
