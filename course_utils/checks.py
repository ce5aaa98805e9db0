"""Checks of the exercises: they say what is wrong, not what is right, and they never raise."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Verdict(NamedTuple):
    """What a check found; true if the answer passed."""

    passed: bool
    message: str

    def __bool__(self) -> bool:
        return self.passed

    def __repr__(self) -> str:
        return self.message


UNTRIED = Verdict(False, "… Not tried yet: replace the stub and run the cell again.")


def _wrong(message: str) -> Verdict:
    return Verdict(False, f"✗ Not yet: {message}")


def _fault(got: Any, expected: Tensor, rtol: float) -> str | None:
    """What is wrong with one returned value; None if it is right."""
    kind = type(got).__name__
    try:
        got = torch.as_tensor(got)
        got = None if got.is_complex() else got.to("cpu", torch.double).to_dense()
    except Exception:  # text, a ragged list, a tensor without values: whatever was returned
        got = None
    if got is None:
        return f"it should return real numbers, not {kind}."
    if got.shape != expected.shape:
        return f"its shape is {tuple(got.shape)}, expected {tuple(expected.shape)}."
    if not got.isfinite().all():
        return "it contains NaN or infinity."
    if not torch.allclose(got, expected.double(), rtol=rtol, atol=rtol):
        return "the shape is right, but a value is off."
    return None


def _judge(
    answer: Callable | None,
    reference: Callable[..., Tensor],
    cases: Sequence[tuple],
    *,
    traps: Sequence[tuple[Callable, str]],
    praise: str,
    rtol: float = 1e-4,
) -> Verdict:
    """Run an answer beside a reference on every case.

    Args:
        answer: What the student wrote; may be anything.
        reference: Gives the right value for a case.
        cases: Tuples of arguments.
        traps: Plausible wrong functions with the message that helps.
        praise: What the student may now believe.
        rtol: Relative and absolute tolerance.

    Returns:
        The verdict; never raises whatever the answer does.
    """
    if answer is None or answer is ...:
        return UNTRIED
    if not callable(answer):
        return _wrong(f"give the function itself, not {type(answer).__name__}.")
    expected = [torch.as_tensor(reference(*case)) for case in cases]
    got = []
    for number, case in enumerate(cases, 1):
        try:
            got.append(answer(*copy.deepcopy(case)))
        except NotImplementedError:
            return UNTRIED
        except (Exception, SystemExit) as error:  # what a student's code raises is a message
            return _wrong(f"on case {number} it raised {type(error).__name__}: {error}")
        if got[-1] is None or got[-1] is ...:
            return UNTRIED
    faults = [_fault(g, e, rtol) for g, e in zip(got, expected, strict=True)]
    if not any(faults):
        return Verdict(True, f"✓ Right: {praise}")
    for trap, message in traps:
        wrong = [torch.as_tensor(trap(*case)) for case in cases]
        if not any(_fault(g, w, rtol) for g, w in zip(got, wrong, strict=True)):
            return _wrong(message)
    number = next(i for i, fault in enumerate(faults, 1) if fault)
    return _wrong(f"on case {number} of {len(cases)}, {faults[number - 1]}")


# The variational autoencoder


def _scales(rows: int, k: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Means and standard deviations (rows, k) to try an answer on."""
    noise = torch.Generator().manual_seed(seed)
    mu = torch.randn(rows, k, generator=noise, dtype=torch.double)
    return mu, 0.2 + 2 * torch.rand(rows, k, generator=noise, dtype=torch.double)


def _rate(mu: Tensor, sigma: Tensor) -> Tensor:
    """KL(N(mu, sigma²) || N(0, 1)) of each latent (n, k), nats."""
    normal = torch.distributions.Normal
    return torch.distributions.kl_divergence(normal(mu, sigma), normal(0.0, 1.0))


def check_gaussian_kl(answer: Any) -> Verdict:
    """KL(N(mu, diag sigma²) || N(0, I)): (n, k), (n, k) -> (n,), nats."""
    traps = [
        (lambda m, s: _rate(m, s.sqrt()).sum(-1), "sigma should be squared: a variance."),
        (lambda m, s: 2 * _rate(m, s).sum(-1), "it is twice too large."),
        (lambda m, s: -_rate(m, s).sum(-1), "a divergence is never negative."),
        (lambda m, s: _rate(m, s).mean(-1), "sum over latents; do not average."),
    ]
    cases, praise = [_scales(3, 4), _scales(5, 1, 1)], "this is the rate, in nats per image."
    return _judge(answer, lambda m, s: _rate(m, s).sum(-1), cases, traps=traps, praise=praise)


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
    return _judge(answer, lambda m, r, e: m.addcmul(r.exp(), e), cases, traps=traps, praise=praise)


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
    return _judge(answer, reference, cases, traps=traps, praise=praise)


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
    return _judge(answer, loss, cases, traps=traps, praise=praise)


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
    return _judge(answer, reference, cases, traps=traps, praise=praise)


def check_active_units(answer: Any) -> Verdict:
    """Number of columns of mu (n, k) with variance over 0.01."""
    traps = [
        (lambda m: (m.std(0) > 0.01).sum(), "the threshold is on the variance."),
        (lambda m: (m.var(1) > 0.01).sum(), "the variance is taken over images."),
        (lambda m: (m.abs().mean(0) > 0.01).sum(), "a constant mean is not active."),
    ]
    mu = _scales(500, 6)[0] * torch.tensor([1, 0.3, 0.12, 0.05, 0.02, 0]) + torch.arange(6)
    cases, praise = [(mu,), (mu[:, 2:],)], "the others say the same about every image."
    return _judge(
        answer, lambda m: (m.double().var(0) > 0.01).sum(), cases, traps=traps, praise=praise
    )


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
    return _judge(answer, reference, cases, traps=traps, praise=praise, rtol=1e-3)


# Bayesian neural networks


def _draws(s: int, n: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Targets (n,), means (s, n) and scales (s, n) to try an answer on."""
    noise = torch.Generator().manual_seed(seed)
    mean, scale = torch.randn(2, s, n, generator=noise, dtype=torch.double)
    return torch.randn(n, generator=noise, dtype=torch.double), mean, 0.3 + scale.abs()


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
    return _judge(answer, reference, [_draws(5, 3), _draws(2, 4, 1)], traps=traps, praise=praise)


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
    return _judge(answer, reference, cases, traps=traps, praise="the price of every weight.")


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
    cases = [(-y.square(), torch.tensor(7.0).double(), 90), (mean[0], mean[1, 0].square(), 6)]
    return _judge(answer, reference, cases, traps=traps, praise="any batch size, the same loss.")


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
    return _judge(answer, reference, cases, traps=traps, praise="together they are the variance.")


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
    return _judge(answer, reference, cases, traps=traps, praise="count, do not believe.")


def check_prior_prediction(answer: Any) -> Verdict:
    """Signs of the change of epistemic doubt, KL and ELBO under a ten times wider prior."""
    traps = [
        (lambda: torch.tensor([1, 1, 1]), "a looser prior does not raise the evidence."),
        (lambda: torch.tensor([-1, -1, 1]), "a wider prior does not mean less doubt."),
        (lambda: torch.tensor([1, -1, -1]), "what does a well-determined weight cost now?"),
    ]
    right = torch.tensor([1, 1, -1])
    return _judge(answer, lambda: right, [()], traps=traps, praise="wide priors are not harmless.")


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
    return _judge(answer, reference, cases, traps=traps, praise="nobody can cheat with spikes now.")


# Normalizing flows


def _noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def check_lognormal(answer: Any) -> Verdict:
    """Log density of exp(z), z standard normal: (n,) -> (n,), nats."""
    normal, library = torch.distributions.Normal(0.0, 1.0), torch.distributions.LogNormal(0.0, 1.0)
    traps = [
        (lambda x: normal.log_prob(x.log()), "the Jacobian is missing."),
        (lambda x: normal.log_prob(x.log()) + x.log(), "the slope of f is not x."),
    ]
    cases = [(_noise(7).exp(),), (_noise(3, seed=1).exp(),)]
    return _judge(answer, library.log_prob, cases, traps=traps, praise="a change of variables.")


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
    return _judge(answer, score, cases, traps=traps, praise="now it integrates to one.")


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
    return _judge(answer, estimate, cases, traps=traps, praise=praise, rtol=1e-3)


def _coupling_cases() -> list[tuple]:
    """Points (n, 2m), and what gives a log scale and a shift, both shaped as what is kept."""

    def steer(kept):
        return torch.sin(2 * kept), kept.flip(-1) ** 2 - 1

    return [(_noise(5, 4), steer), (_noise(3, 6, seed=1), steer)]


def check_coupling_log_det(answer: Any) -> Verdict:
    """log |det| of z_moved = (x_moved - t) exp(-s): (n, 2m), steer -> (n,)."""

    def scale(x, steer):
        return steer(x.chunk(2, -1)[0])[0]

    traps = [
        (lambda x, steer: scale(x, steer).sum(-1), "that is the layer of the text; mind the sign."),
        (lambda x, steer: -scale(x, steer).sum(), "one number per row, shape (n,)."),
    ]
    cases, praise = _coupling_cases(), "the Jacobian is triangular."
    return _judge(answer, lambda x, g: -scale(x, g).sum(-1), cases, traps=traps, praise=praise)


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
    return _judge(answer, right, _coupling_cases(), traps=traps, praise=praise)


def check_same_mask(answer: Any) -> Verdict:
    """KL in nats from the first coordinate of the moons (noise 0.05) to the best Gaussian."""
    angle = (torch.arange(1000).double() + 0.5) * math.pi / 1000
    centre, x = torch.cat((angle.cos(), 1 - angle.cos())), torch.linspace(-1.5, 2.5, 2001).double()
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
    return _judge(answer, lambda: right, [()], traps=traps, praise=praise, rtol=8e-3)


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
    return _judge(answer, score, cases, traps=traps, praise="one flow for each label.")
