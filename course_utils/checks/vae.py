"""Checks of the exercises on the variational autoencoder."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import torch
from pyro.infer import SVI, TraceMeanField_ELBO
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Categorical,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    kl_divergence,
)

from course_utils.checks.judge import (
    Untried,
    Verdict,
    Wrong,
    call,
    close,
    drawn,
    exercise,
    gradients,
    judge,
    numbers,
    refuse_what_cannot_be_called,
    trial,
)

UNIT = Normal(0.0, 1.0)


def _scales(rows: int, k: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Means and standard deviations (rows, k) to try an answer on."""
    noise = torch.Generator().manual_seed(seed)
    mu = torch.randn(rows, k, generator=noise, dtype=torch.double)
    return mu, 0.2 + 2 * torch.rand(rows, k, generator=noise, dtype=torch.double)


def _rate(mu: Tensor, sigma: Tensor) -> Tensor:
    """KL(N(mu, sigma²) || N(0, 1)) of each latent (n, k), nats."""
    return kl_divergence(Normal(mu, sigma), UNIT)


def _with_gradients(verdict: Verdict, answer: Any, **inputs: Tensor) -> Verdict:
    """A good verdict, unless gradients by these inputs are lost or wrong."""

    def examine(function: Callable) -> None:
        try:
            gradients(function, inputs)
        except Wrong as wrong:
            raise Wrong(f"the values are right, but {wrong}") from None

    praise = verdict.message.partition(": ")[2]
    return trial(answer, examine, praise=praise) if verdict else verdict


def _hinted(verdict: Verdict, answer: Any, examine: Callable) -> Verdict:
    """Where no trap knows the mistake, let a property say more than that a value is off."""
    return trial(answer, examine, praise="") if "a value is off" in verdict.message else verdict


# ------------------------------------------------------------------ a VAE that can be integrated


class Tiny(nn.Module):
    """A VAE with one layer on each side: its likelihood is an integral over k numbers."""

    def __init__(self, d: int, k: int, seed: int = 0, *, ways: tuple = (0.3, 1.0)) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(d, 2 * k), nn.Linear(k, d)
        noise = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for part, scale in zip((self.encoder, self.decoder), ways, strict=True):
                for weights in part.parameters():
                    weights.copy_(scale * torch.randn(weights.shape, generator=noise))

    def forward(self, *args: Any) -> None:
        raise Wrong("a `vae` has `posterior` and `decoder`; it cannot be called itself.")

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of q(z | x): (n, d) -> (n, k), (n, k)."""
        mu, log_sigma = self.encoder(x).chunk(2, -1)
        return mu, log_sigma.exp()


def _run(function: Callable, *arguments: Any) -> Any:
    """Call an answer; a network that is given a distribution says so."""
    refuse_what_cannot_be_called(function)
    try:
        return function(*arguments)
    except TypeError as error:
        given = str(error).partition("must be Tensor, not ")[2]
        if not given:
            raise
        draw = "" if given == "tuple" else " Draw from it."
        raise Wrong(f"a network takes a tensor, not {given}.{draw}") from None


def _images(n: int, d: int, seed: int = 0) -> Tensor:
    """Binary images (n, d), of which no two pixels are on equally often."""
    share = torch.linspace(0.2, 0.9, d).expand(n, d)
    return torch.bernoulli(share, generator=torch.Generator().manual_seed(seed))


def _expected(mu: Tensor, sigma: Tensor, function: Callable, points: int = 12) -> Tensor:
    """E[function(z)] for z of N(mu, diag sigma²): (n, k) -> (n,), by quadrature."""
    k = mu.shape[-1]
    nodes, shares = (torch.tensor(v) for v in np.polynomial.hermite_e.hermegauss(points))
    eps = torch.cartesian_prod(*[nodes] * k).reshape(-1, 1, k).to(mu)  # (p, 1, k)
    weight = torch.cartesian_prod(*[shares] * k).reshape(-1, 1, k).prod(-1).to(mu)  # (p, 1)
    return (weight / weight.sum() * function(mu + sigma * eps)).sum(0)


def _distortion(vae: Tiny, x: Tensor, z: Tensor) -> Tensor:
    return -Bernoulli(logits=vae.decoder(z)).log_prob(x).sum(-1)


def _elbo(vae: Tiny, x: Tensor) -> Tensor:
    """(n,) in nats, without noise."""
    mu, sigma = vae.posterior(x)
    return -_expected(mu, sigma, lambda z: _distortion(vae, x, z)) - _rate(mu, sigma).sum(-1)


def _log_likelihood(vae: Tiny, x: Tensor) -> Tensor:
    """log p(x), (n,) in nats, without noise."""
    with torch.no_grad():
        grid = torch.arange(-18.0, 19.0) * 0.4
        z = torch.cartesian_prod(*[grid] * vae.decoder.in_features)[:, None]  # (p, 1, k)
        log_joint = -_distortion(vae, x, z) + UNIT.log_prob(z).sum(-1)
        return log_joint.logsumexp(0) + z.shape[-1] * math.log(0.4)


# ------------------------------------------------------------------ the bound and its parts


@exercise
def check_gaussian_kl(answer: Any) -> Verdict:
    """KL(N(mu, diag sigma²) || N(0, I)): (n, k), (n, k) -> (n,), nats."""

    def form(m, s, half=0.5, one=1, log=2):
        return half * (m**2 + s**2 - one - log * s.log()).sum(-1)

    def reverse(m, s):
        return kl_divergence(UNIT, Normal(m, s)).sum(-1)

    traps = [
        (reverse, "this is KL(p‖q). Which of the two are the draws from?"),
        (lambda m, s: form(m, s.sqrt()), "a variance is the square of sigma."),
        (lambda m, s: form(m, s**2), "sigma is a standard deviation, not a variance."),
        (lambda m, s: form(m, s, log=1), "it is the log of which quantity?"),
        (lambda m, s: form(m, s, 1.0), "it is twice too large."),
        (lambda m, s: -form(m, s), "a divergence is never negative."),
        (lambda m, s: form(m, s) / m.shape[1], "sum over latents; do not average."),
        (lambda m, s: form(m, s).sum(), "sum over latents only: each image has its own rate."),
        (lambda m, s: form(m, s).mean(), "do not average over images: each has its own rate."),
        (_rate, "the sum over latents is missing."),
        (lambda m, s: form(m, s) / math.log(2), "these are bits; nats have the natural logarithm."),
        (lambda m, s: form(m, s, one=0) - 0.5, "each latent has its own constant."),
        (lambda m, s: -Normal(m, s).entropy().sum(-1), "E[log p(z)] is missing."),
        (lambda m, s: form(m, s, log=0, one=-math.log(2 * math.pi)), "E[log q(z)] is missing."),
    ]
    cases, praise = [_scales(3, 4), _scales(5, 1, 1)], "this is the rate, in nats per image."
    verdict = judge(answer, lambda m, s: _rate(m, s).sum(-1), cases, traps=traps, praise=praise)

    def examine(function: Callable) -> None:
        def at(m, s):
            return numbers(call(function, torch.tensor([[m]]), torch.tensor([[s]]))).sum().item()

        if at(0.5, 0.5) != at(0.5, 0.5):
            raise Wrong("two calls differ: a closed form has no draws.")
        if abs(at(0.0, 1.0)) > 1e-4:
            raise Wrong(f"for mu = 0 and sigma = 1 the answer is 0; yours is {at(0.0, 1.0):.3g}.")
        if abs(at(-1.0, 1.0) - at(1.0, 1.0)) > 1e-4:
            raise Wrong("the sign of mu should not matter.")
        for sigma in (0.8, 1.2):
            if at(0.0, sigma) < 0:
                raise Wrong(f"for mu = 0 and sigma = {sigma} yours is negative: no divergence is.")
        raise Wrong("for mu = 0 and sigma = 1 it is right, but not for other values.")

    verdict = _hinted(verdict, answer, examine)
    mu, sigma = (part.float() for part in cases[0])
    return _with_gradients(verdict, answer, mu=mu, sigma=sigma)


@exercise
def check_ppca_posterior(answer: Any) -> Verdict:
    """Mean (n, k) and covariance (k, k) of p(z | x) in x = W z + s noise."""

    def exact(x, w, s):  # by conditioning the joint Gaussian of (z, x) on x
        gain = w.T @ torch.linalg.inv(w @ w.T + s**2 * torch.eye(len(w)).to(w))
        return x @ gain.T, torch.eye(w.shape[1]).to(w) - gain @ w

    def least_squares(x, w, s):
        return x @ torch.linalg.pinv(w).T, s**2 * torch.linalg.inv(w.T @ w)

    def no_noise(x, w, s):
        mean, covariance = exact(x, w, 1.0)
        return mean, covariance * s**2

    def covariance(function):
        return lambda x, w, s: (0, function(exact(x, w, s)[1], s))

    factor = "it is off by a factor that depends on s."
    wrong = {  # of the mean, and of the covariance
        0: [
            (least_squares, "this is least squares: where is the prior?"),
            (lambda x, w, s: exact(x, w, s**0.5), "s is a standard deviation, not a variance."),
            (no_noise, "how much the prior counts depends on the noise."),
            (lambda x, w, s: (x @ w,), "each row is only projected: complete the square in z."),
            (lambda x, w, s: (x @ w / s**2,), "each row is only projected: where is the prior?"),
            (lambda x, w, s: (exact(x, w, s)[0] * s**2,), factor),
            (lambda x, w, s: (exact(x, w, s)[0] / s**2,), factor),
        ],
        1: [
            (least_squares, "that of least squares is wider: where is the prior?"),
            (covariance(lambda c, s: c / s**2), factor),
            (covariance(lambda c, s: c / s), factor),
            (covariance(lambda c, s: c.inverse()), "this is its inverse, the precision."),
            (covariance(lambda c, s: c.inverse() * s**2), "it is not inverted yet."),
            (covariance(lambda c, s: c.diag().diag()), "latents may correlate."),
            (lambda x, w, s: (0, w @ w.T + s**2 * torch.eye(len(w))), "that is x's, not z's."),
        ],
    }
    rows = _scales(4, 6)[0]
    cases = [(rows, _scales(6, 2)[1], 0.5), (rows[:3], _scales(6, 3)[1], 1.5)]

    def examine(function: Callable) -> None:
        got = [call(function, *case) for case in cases]
        if any(pair is ... or pair is None for pair in got):
            numbers(next(pair for pair in got if pair is ... or pair is None))
        if not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in got):
            raise Wrong("return two things, the mean and the covariance.")
        for part, name in enumerate(("mean", "covariance")):
            found = [numbers(pair[part], finite=False) for pair in got]
            if all(close(f, exact(*c)[part], 1e-4) for f, c in zip(found, cases, strict=True)):
                continue
            for trap, message in wrong[part]:
                if all(close(f, trap(*c)[part], 1e-4) for f, c in zip(found, cases, strict=True)):
                    raise Wrong(f"the {name}: {message}")
            for value, case in zip(found, cases, strict=True):
                wanted = tuple(exact(*case)[part].shape)
                if value.shape != wanted:
                    raise Wrong(f"the {name} has shape {tuple(value.shape)}, expected {wanted}.")
                numbers(value)
            raise Wrong(f"the {name} has the right shape, but its values are off.")

    return trial(answer, examine, praise="exact inference, in two lines of linear algebra.")


@exercise
def check_vae_loss(answer: Any) -> Verdict:
    """Mean over rows of distortion + rate: (n, d), (n, d), (n, k), (n, k) -> (), nats."""

    def loss(x, logits, mu, sigma, pixels=torch.sum, latents=torch.sum, rows=torch.mean, price=1.0):
        distortion = -Bernoulli(logits=logits).log_prob(x)
        return rows(pixels(distortion, -1)) + price * rows(latents(_rate(mu, sigma), -1))

    def other(distortion, price=1.0):  # in its place
        return lambda x, r, m, s: distortion(x, r) + price * _rate(m, s).sum(-1).mean()

    def entropy(x, r):
        return -Bernoulli(logits=r).log_prob(x)

    mean = torch.mean
    twice = "if every pixel came twice, the distortion should double; yours does not."
    fixed = "what does the number 784 do where images have other sizes?"
    squares = "a squared error: the likelihood is a Bernoulli."
    traps = [
        (lambda *a: loss(*a, mean), twice),
        (lambda *a: loss(*a, mean, mean), f"{twice} Nor does the rate with the latents."),
        (lambda *a: loss(*a, torch.sum, mean), "with the latents, the rate should double."),
        (lambda *a: loss(*a, rows=torch.sum), "per image, please: average over rows."),
        (lambda *a: loss(*a, rows=lambda v: v), "one number for the batch: average over rows."),
        (lambda x, r, *a: loss(x, r.sigmoid(), *a), "the logits went through a sigmoid twice."),
        (lambda *a: -loss(*a), "a loss goes down when the model improves: that is the ELBO."),
        (lambda *a: loss(*a, price=-1.0), "the rate is a cost, too: look at its sign."),
        (lambda *a: loss(*a, price=0.0), "the rate is missing."),
        (lambda *a: loss(*a) / a[0].shape[1], "nats per image, please, not per pixel."),
        (lambda *a: loss(*a, price=float(a[0].shape[1])), "one of both parts was right before."),
        (lambda x, r, m, s: loss(x, r, m, s.exp()), "sigma is no logarithm."),
        (lambda x, r, m, s: loss(x, r, m, s**2), "sigma is a standard deviation, not a variance."),
        (other(lambda x, r: 784 * entropy(x, r).mean()), fixed),
        (other(lambda x, r: entropy(x, r).mean(), 1 / 784), fixed),
        (other(lambda x, r: entropy(x, r).sum()), "the distortion is that of all images together."),
        (lambda *a: loss(*a, price=float(len(a[0]))), "the rate is that of all images together."),
        (other(lambda x, r: entropy(x, r).sum(0).mean()), "each image has its own sum of pixels."),
        (other(lambda x, r: (x - r.sigmoid()).square().sum(-1).mean()), squares),
        (other(lambda x, r: (x - r).square().sum(-1).mean()), squares),
        (other(lambda x, r: (x - r.sigmoid()).square().mean()), squares),
    ]
    mu, sigma = _scales(6, 3)
    case = (mu.repeat(1, 5) > 0).double(), sigma.repeat(1, 5) - 1, mu, sigma
    cases = [case, tuple(part[:2] for part in case)]
    praise = "distortion and rate in nats per image, each weighed as the bound says."
    verdict = judge(answer, loss, cases, traps=traps, praise=praise)

    def examine(function: Callable) -> None:
        alone = *case[:2], 0 * mu, 1 + 0 * mu
        found, wanted = numbers(call(function, *alone)).item(), loss(*alone).item()
        if abs(found - wanted) > 1e-3:
            raise Wrong(f"where the rate is 0 it should be {wanted:.2f} nats; it is {found:.4g}.")
        raise Wrong("the distortion is right, the rate is not.")

    verdict = _hinted(verdict, answer, examine)
    x, logits, mu, sigma = (part.float() for part in case)
    return _with_gradients(
        verdict, lambda r, m, s: answer(x, r, m, s), logits=logits, mu=mu, sigma=sigma
    )


# ------------------------------------------------------------------ the networks


@exercise
def check_vae_networks(answer: Any) -> Verdict:
    """A module of d, k, hidden with posterior(x) -> mean, sd, both (n, k), and decoder(z)."""

    def examine(build: Callable) -> None:
        for n, d, k, hidden in ((7, 12, 3, 20), (40, 30, 2, 40)):
            torch.manual_seed(1)
            vae = _run(build, d, k, hidden)
            if vae is ... or vae is None:
                raise Untried
            if not isinstance(vae, nn.Module) or not callable(getattr(vae, "posterior", None)):
                raise Wrong("a `nn.Module` with a method `posterior` was asked for.")
            x = torch.bernoulli(torch.full((n, d), 0.4))
            pair = vae.posterior(x)
            if pair is ... or pair is None:
                numbers(pair)
            for name in ("encoder", "decoder"):
                if not isinstance(getattr(vae, name, None), nn.Sequential):
                    raise Wrong(f"`{name}` should be an attribute of `self`, made by `mlp`.")
            _encodes(vae, pair, x, k)
            _decodes(vae, k, d)
            for name in ("encoder", "decoder"):
                ends = getattr(vae, name)[0], getattr(vae, name)[-1]
                if not all(isinstance(end, nn.Linear) for end in ends):
                    raise Wrong(f"`{name}` should begin and end with a dense layer, as an `mlp`.")
            _learns(build, vae, x, k, d, hidden)

    praise = "for each image a Gaussian, for each code its logits, and all of it can be trained."
    return trial(answer, examine, praise=praise)


def _encodes(vae: nn.Module, pair: Any, x: Tensor, k: int) -> None:
    """Refuse a posterior that is not a mean and a standard deviation for each image."""
    if isinstance(pair, Tensor) or not isinstance(pair, tuple | list) or len(pair) != 2:
        raise Wrong("`posterior` returns two things: a mean and a standard deviation.")
    mu, sigma = (numbers(part, (len(x), k)) for part in pair)
    again = vae.posterior(x)
    if not (torch.equal(numbers(again[0]), mu) and torch.equal(numbers(again[1]), sigma)):
        raise Wrong("two calls of `posterior` differ: draws are made by the guide.")
    alone = numbers(vae.posterior(x[:2])[0])
    if not close(alone, mu[:2], 1e-4):
        raise Wrong("the code of an image depends on the other images of its batch.")
    far = [numbers(part) for part in vae.posterior(20 * torch.randn(200, x.shape[1]))]
    both = torch.cat([sigma, far[1]])
    if (both < 0).any():
        raise Wrong("a standard deviation is never negative; the second output is, for some x.")
    if (both[: len(x)] == 0).any() or (both == 0).float().mean() > 0.2:
        raise Wrong("a standard deviation of exactly 0 has no log: which function is never 0?")
    bare = copy.deepcopy(vae)
    for weights in bare.parameters():
        nn.init.zeros_(weights)
    if (numbers(bare.posterior(x)[1]) < 1e-6).any():
        raise Wrong("where the network returns 0, so is the width: which function is never 0?")
    if (far[0] >= 0).all():
        raise Wrong("the mean of a code may be negative, too.")
    if close(both.sum(1), torch.ones(len(both)).double(), 1e-4):
        raise Wrong("a softmax makes latents share: each has a width of its own.")
    if (sigma.std(0) < 1e-7).any():
        raise Wrong("the width is the same for all images: the encoder gives it, too.")
    for back in (torch.log, torch.square, lambda s: s.expm1().log(), lambda s: 2 * s.log()):
        if close(back(sigma), mu, 1e-3):
            raise Wrong("mean and width come from the same numbers: each needs numbers of its own.")


def _decodes(vae: nn.Module, k: int, d: int) -> None:
    """Refuse a decoder that does not give logits for any number of leading axes."""
    logits = numbers(vae.decoder(30 * torch.randn(200, k)), (200, d))
    if ((logits >= 0) & (logits <= 1)).all():
        raise Wrong("the decoder gives probabilities; logits were asked for.")
    if (logits >= 0).all() or (logits.abs() <= 1).all():
        raise Wrong("logits take all values: what comes after the last layer?")
    numbers(vae.decoder(torch.zeros(3, 4, k)), (3, 4, d))


def _learns(build: Callable, vae: nn.Module, x: Tensor, k: int, d: int, hidden: int) -> None:
    """Refuse networks whose weights are not found, not reached, too few or of no use."""
    weights = dict(vae.named_parameters())
    mu, sigma = vae.posterior(x)
    value = mu.square().sum() + sigma.log().sum() + vae.decoder(mu).square().sum()
    if not value.requires_grad:
        raise Wrong("no gradient comes out: what detaches the result?")
    for part, found in (("mean", mu), ("width", sigma)):
        if not found.requires_grad:
            raise Wrong(f"no gradient passes through the {part}.")
    given = torch.autograd.grad(value, [*weights.values()], allow_unused=True)
    lost = [name for name, each in zip(weights, given, strict=True) if each is None]
    if lost:
        raise Wrong(f"no gradient reaches `{lost[0]}`: is it used?")
    count = sum(each.numel() for each in weights.values())
    other = sum(each.numel() for each in build(d, k, 2 * hidden).parameters())
    if other == count:
        raise Wrong("the networks have the same size for any `hidden`.")
    wanted = (d + k + 2) * hidden + 2 * hidden * (hidden + 1) + (hidden + 1) * (2 * k + d)
    if not 0.8 * wanted < count < 1.6 * wanted:
        raise Wrong(f"for d = {d}, k = {k}, hidden = {hidden} there are {count:,} weights; two "
                    f"hidden layers on each side have about {wanted:,}.")  # fmt: skip
    a, b = torch.randn(2, 50, k)
    z = torch.zeros(1, k)
    bent = vae.decoder(a + b) - vae.decoder(a) - vae.decoder(b) + vae.decoder(z)
    if bent.abs().max() < 1e-4 * vae.decoder(a).abs().max():
        raise Wrong("the decoder is a straight line: nothing bends between its layers.")


# ------------------------------------------------------------------ model and guide in Pyro


def _sites(
    program: Callable, vae: Tiny, x: Tensor, z: Tensor | None = None, *, guide: bool = False
) -> dict[str, dict]:
    """The draws of a model or guide, by name, with their log densities."""
    pyro.clear_param_store()  # what an earlier try registered would replace these weights
    k = vae.decoder.in_features
    tried = pyro.condition(program, data={} if z is None else {"z": z})
    try:
        trace = _run(pyro.poutine.trace(tried).get_trace, vae, x, k)
    except (ValueError, RuntimeError) as error:
        said = str(error).partition("Trace Shapes")[0].strip()
        if "inside plate" not in said:
            error.args = (said,)  # without the table of shapes
            raise
        raise Wrong(
            f"the plate has not one place for each of the {len(x)} images, or one image is more "
            f"than one event there: {said}."
        ) from None
    sites = drawn(trace)
    if not sites:
        if trace.nodes["_RETURN"]["value"] is ...:
            raise Untried
        raise Wrong("nothing is drawn: there is no `pyro.sample`.")
    observed = any(node["is_observed"] for node in sites.values())
    if guide and observed:
        raise Wrong("a guide observes nothing: it only proposes the latent.")
    try:
        trace.compute_log_prob()
    except ValueError as error:
        said = " ".join(str(error).split())[:150]
        raise Wrong(f"a distribution cannot have such values: {said}.") from None
    registered = [n["value"] for n in trace.nodes.values() if n["type"] == "param"]
    part = vae.encoder if guide else vae.decoder
    if not all(any(w is value for value in registered) for w in part.parameters()):
        raise Wrong("the optimiser would not find the weights: which call registers a module?")
    return sites


def _one_per_image(name: str, node: dict, x: Tensor, d: int) -> None:
    """Refuse a site that is not one event for each image."""
    n = len(x)
    if node["fn"].event_dim > 1:
        raise Wrong(f"one event of `{name}` is one image; yours has {node['fn'].event_dim} axes.")
    if node["value"].shape != (n, d):
        found = tuple(node["value"].shape)
        raise Wrong(f"`{name}` has shape {found}; for {n} images expected {(n, d)}.")
    if not any(frame.size == n for frame in node["cond_indep_stack"]):
        raise Wrong(f"nothing says that the {n} images are independent of each other.")
    if node["log_prob"].shape != (n,):
        found = tuple(node["log_prob"].shape)
        raise Wrong(f"the log density of `{name}` has shape {found}: one for each image, please.")
    if node["scale"] != 1.0:
        raise Wrong("the plate scales the log density: it holds these images and no others.")


def _of_images(node: dict) -> None:
    """Refuse a plate of another name: Pyro ties those of model and guide by name, too."""
    found = node["cond_indep_stack"][-1].name
    if found != "images":
        raise Wrong(f'the plate is called "{found}"; in model and guide it is "images".')


def _reaches(value: Tensor, weights: nn.Linear, name: str) -> None:
    """Refuse an answer where a row of weights gets no gradient."""
    found = None
    if value.requires_grad:
        found = torch.autograd.grad(value.sum(), weights.weight, allow_unused=True)[0]
    if found is None or not found.any(1).all():
        some = "" if found is None or not found.any() else "part of "
        raise Wrong(f"no gradient reaches {some}the {name}: what detaches it?")


@exercise
def check_vae_model(answer: Any) -> Verdict:
    """p(z) p(x | z) in Pyro, judged by its log density at given z and x."""

    def examine(model: Callable) -> None:
        for n, d, k in ((4, 5, 2), (6, 7, 3)):
            vae, x, z = Tiny(d, k), _images(n, d), _scales(n, k)[0].float()
            logits = vae.decoder(z).detach()
            sites = _sites(model, vae, x)
            if "z" not in sites:
                raise Wrong(f'no site has the name "z"; found {", ".join(sites)}.')
            if sites["z"]["is_observed"]:
                raise Wrong("nobody has observed `z`.")
            pixels = [name for name, node in sites.items() if node["is_observed"]]
            if not pixels:
                raise Wrong("nothing is observed: where do the images come in?")
            if len(sites) != 2:
                raise Wrong(f"two sites are wanted, latent and pixels; found {', '.join(sites)}.")
            _one_per_image("z", sites["z"], x, k)
            _one_per_image(pixels[0], sites[pixels[0]], x, d)
            given = _sites(model, vae, x, z)
            prior, likelihood = given["z"]["log_prob"], given[pixels[0]]["log_prob"]
            if close(prior.double(), Normal(*vae.posterior(x)).log_prob(z).sum(-1), 1e-4):
                raise Wrong("`z` has the distribution of the guide: a prior has seen no image.")
            if not close(prior.double(), UNIT.log_prob(z).sum(-1), 1e-4):
                raise Wrong("the prior of `z` is not N(0, I).")
            slips = [
                (logits.sigmoid(), "the logits went through a sigmoid, and then through another."),
                (vae.decoder(vae.posterior(x)[0]), "the pixels come from a code that is not `z`."),
                (vae.decoder(0 * z), "the pixels come from a code that is not `z`."),
                (-logits, "black and white are exchanged."),
            ]
            for wrong, message in slips:
                if close(likelihood.double(), Bernoulli(logits=wrong).log_prob(x).sum(-1), 1e-4):
                    raise Wrong(message)
            if not close(likelihood.double(), Bernoulli(logits=logits).log_prob(x).sum(-1), 1e-4):
                raise Wrong("the pixels are no Bernoulli with the logits of the decoder.")
            _reaches(likelihood, vae.decoder, "decoder")
            _of_images(sites["z"])
            pyro.clear_param_store()
            TraceMeanField_ELBO().differentiable_loss(model, _guide(), vae, x, k)

    praise = "one latent and one image for each row, and the densities of the formula."
    return trial(answer, examine, praise=praise)


def _guide(plate: str = "images", register: bool = False) -> Callable:
    def guide(vae: Tiny, x: Tensor, k: int) -> None:
        if register:
            pyro.module("vae", vae)
        with pyro.plate(plate, len(x)):
            pyro.sample("z", pyro.distributions.Normal(*vae.posterior(x)).to_event(1))

    return guide


@exercise
def check_vae_guide(answer: Any) -> Verdict:
    """q(z | x) in Pyro, judged by its log density at a given z and by its gradients."""

    def examine(guide: Callable) -> None:
        for n, d, k in ((4, 5, 2), (6, 7, 3)):
            vae, x, z = Tiny(d, k), _images(n, d), _scales(n, k)[0].float()
            mu, sigma = (part.detach() for part in vae.posterior(x))
            sites = _sites(guide, vae, x, guide=True)
            if list(sites) != ["z"]:
                raise Wrong(f'the one site has the name "z", as in the model; found {list(sites)}.')
            node = sites["z"]
            _one_per_image("z", node, x, k)
            found = node["fn"].log_prob(z).double()
            slips = [
                ((0 * mu, 1 + 0 * mu), "it does not look at the image: this is the prior."),
                ((mu, sigma.square()), "`posterior` returns standard deviations, not variances."),
                ((mu, sigma.sqrt()), "`posterior` returns standard deviations, not variances."),
                ((mu, sigma.exp()), "`posterior` returns standard deviations, not logarithms."),
                ((mu, 1 + 0 * mu), "the width is that of the prior: the encoder has its own."),
                ((sigma, mu.abs()), "mean and standard deviation are exchanged."),
            ]
            for wrong, message in slips:
                if close(found, Normal(*wrong).log_prob(z).sum(-1), 1e-4):
                    raise Wrong(message)
            if close(node["value"].double(), mu, 1e-5):
                raise Wrong("it always returns the mean: a guide draws.")
            if not close(found, Normal(mu, sigma).log_prob(z).sum(-1), 1e-4):
                raise Wrong("`z` has not the Gaussian of the encoder.")
            _reaches(node["value"], vae.encoder, "encoder")
            _of_images(node)

    return trial(answer, examine, praise="it draws as the encoder says, and gradients come back.")


# ------------------------------------------------------------------ training


@exercise
def check_vae_training(answer: Any) -> Verdict:
    """Epochs of SVI: model, guide, vae, grey (n, d), k, epochs -> a loss for each, nats per image.

    Ten pixels say which image a row is, so that every batch can be followed.
    """
    places = torch.arange(1000)[:, None]
    share = torch.where(places % 2 == 0, 0.9, 0.3).expand(-1, 6)
    grey = torch.cat([(places >> torch.arange(10)) % 2, share], 1)  # (1000, 16)

    def examine(train: Callable) -> None:
        first, second = Tiny(16, 2, seed=1), Tiny(16, 2, seed=2)
        _dealt(_followed(train, first, grey, epochs=2)[0], epochs=2)
        try:
            batches, told, losses = _followed(train, second, grey, epochs=15)
        except Wrong as wrong:
            if "has moved" not in str(wrong):
                raise
            raise Wrong("a second VAE is not trained: is Pyro's store cleared first?") from None
        _dealt(batches, epochs=15)
        _judged(second, grey, numbers(told), losses)

    praise = "every image once an epoch, in batches, and the losses are those of the bound."
    return trial(answer, examine, praise=praise)


def _followed(train: Callable, vae: Tiny, grey: Tensor, *, epochs: int) -> tuple[list, Any, list]:
    """Let an answer train; the batches that it took steps on, what it returned, and the losses.

    These are means over the images of a batch, before its step, without the noise of draws.
    """
    batches: list[Tensor] = []
    losses: list[Tensor] = []
    early: list[list[Tensor]] = []  # weights before the first step and after

    def model(given: Tiny, x: Tensor, k: int) -> None:
        if given is not vae or k != 2:
            raise Wrong("the model gets the `vae` and the `k` that were given, and the batch.")
        if not ((x == 0) | (x == 1)).all():
            raise Wrong("grey pixels reach the Bernoulli likelihood: `binarise` each batch.")
        if torch.is_grad_enabled():
            batches.append(x.clone())
            with torch.no_grad():
                losses.append(-_elbo(vae, x).mean())
            if len(early) < 2:
                early.append([weights.detach().clone() for weights in vae.parameters()])
        pyro.module("vae", vae)
        with pyro.plate("images", len(x)):
            z = pyro.sample("z", pyro.distributions.Normal(x.new_zeros(len(x), k), 1).to_event(1))
            likelihood = pyro.distributions.Bernoulli(logits=vae.decoder(z)).to_event(1)
            pyro.sample("x", likelihood, obs=x)

    before = [weights.detach().clone() for weights in vae.parameters()]
    told = _run(train, model, _guide(register=True), vae, grey.clone(), 2, epochs)
    if told is ...:
        raise Untried
    if not batches:
        raise Wrong("the model has met no image with gradients: nothing calls `svi.step`.")
    if not _way(before, [*vae.parameters()]):
        raise Wrong("no weight has moved.")
    step = _way(early[0], early[-1])  # Adam's first is as long as its learning rate
    if not 0.0027 < step < 0.0033:
        size = "larger" if step > 0.003 else "smaller"
        raise Wrong(f"the weights made {size} steps than Adam's with a learning rate of 0.003.")
    return batches, told, losses


def _way(before: list[Tensor], after: list[Tensor]) -> float:
    """How far the weight went that went furthest."""
    return max((a - b).abs().max().item() for a, b in zip(after, before, strict=True))


def _dealt(batches: list[Tensor], *, epochs: int) -> None:
    """Refuse batches that are no shuffled passes through the thousand images."""
    largest = max(map(len, batches))
    if largest == 1000:
        raise Wrong("each step uses all images at once: where are the batches?")
    if largest != 100:
        raise Wrong(f"the largest batch has {largest} images, not 100.")
    x = torch.cat(batches)
    if len(x) != 1000 * epochs:
        raise Wrong(f"in {epochs} epochs, images should be used {1000 * epochs:,} times in all; "
                    f"yours were used {len(x):,} times.")  # fmt: skip
    passes = (x[:, :10] @ 2.0 ** torch.arange(10)).view(epochs, 1000)
    ordered, order = passes.sort(1)
    if (ordered != torch.arange(1000)).any():
        raise Wrong("in an epoch each image comes once; some of yours come twice.")
    if torch.equal(passes[0], passes[1]):
        raise Wrong("every epoch has the same order: shuffle.")
    pixels = x.view(epochs, 1000, -1)
    if torch.equal(pixels[0][order[0]], pixels[1][order[1]]):
        raise Wrong("each image is black and white in the same way in every epoch.")


def _judged(vae: Tiny, grey: Tensor, told: Tensor, losses: list[Tensor]) -> None:
    """Refuse losses that are not those of the epochs, and a training that went wrong."""
    x = torch.bernoulli(grey, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        loss = -_elbo(vae, x).mean().item()
        start = -_elbo(Tiny(16, 2, seed=2), x).mean().item()
    if loss > start:
        raise Wrong(f"minus the ELBO rose from {start:.1f} to {loss:.1f} nats: what is minimised?")
    if loss > start - 3:
        raise Wrong(
            f"minus the ELBO fell from {start:.1f} to {loss:.1f} nats only: are steps lost?"
        )
    if told.numel() and told.ndim == 1 and len(told) != 15:
        raise Wrong(f"15 epochs have 15 mean losses; yours are {len(told)}.")
    if told.shape != (15,):
        raise Wrong(
            f"a list with one loss for each epoch was asked for; found {tuple(told.shape)}."
        )
    last = told[-1].item()
    for factor, message in (
        (-1, "it returns the ELBO, and the loss was asked for."),
        (100, "these are losses of a batch; divide by its images."),
        (1000, "these are losses of all images together; divide by their number."),
        (0.1, "the sums over batches are divided by their number, not by that of the images."),
        (0.01, "the loss of a step is already a sum over images: divide once."),
    ):
        if abs(last / factor - loss) < 0.3:
            raise Wrong(f"the training is right; {message}")
    if abs(last - loss) > 0.5 or not told[0] > told[-1]:
        raise Wrong(f"the training is right; the last loss is near {loss:.1f}, not {last:.4g}.")
    means = torch.stack(losses).view(15, -1).mean(1)
    if (told - means).square().mean().sqrt() > 0.15:
        raise Wrong(
            "the training is right, but a loss is not the mean over all steps of its epoch."
        )


# ------------------------------------------------------------------ the linear VAE


def _positive(vae: nn.Module, read: Callable[[], Tensor], name: str) -> None:
    """Refuse a standard deviation that is not learnt, or that training can make negative."""
    value = read()
    leaves = [*vae.parameters()]
    found = [None] * len(leaves)
    if isinstance(value, Tensor) and value.requires_grad:
        found = torch.autograd.grad(value.sum(), leaves, allow_unused=True)
    used = [leaf for leaf, slope in zip(leaves, found, strict=True) if slope is not None]
    if not used:
        raise Wrong(f"{name} is not learnt: no parameter of the object moves it.")
    for start in (-0.7, 0.4):  # any real number; and none where a slip would not show
        with torch.no_grad():
            _ = [leaf.fill_(start) for leaf in used]
        if not (numbers(read(), finite=False) > 0).all():
            raise Wrong(f"{name} can become negative in training: a parameter is any real number.")


def _linear_parts(vae: nn.Module, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of q(z | x), of the right form."""
    n, d = x.shape
    for name, sizes in (("encoder", (d, k)), ("decoder", (k, d))):
        part = getattr(vae, name, None)
        if not isinstance(part, nn.Linear):
            raise Wrong(f"`{name}` should be an `nn.Linear`; found {type(part).__name__}.")
        found = part.in_features, part.out_features
        if found != sizes:
            raise Wrong(f"`{name}` maps {found[0]} numbers to {found[1]}, expected {sizes}.")
        if part.bias is not None:
            raise Wrong(f"`{name}` has an offset; the mean of the data was subtracted.")
    pair = vae.posterior(x)
    if pair is ... or pair is None:
        numbers(pair)
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise Wrong("`posterior` returns two things, the mean and the standard deviation.")
    mu, sigma = pair
    for part, name in ((mu, "mean"), (sigma, "standard deviation")):
        try:
            numbers(part, (n, k))
        except Wrong as wrong:
            raise Wrong(f"the {name} of `posterior`: {wrong}") from None
    if not close(mu.double(), vae.encoder(x), 1e-4):
        raise Wrong("the mean of q(z | x) is not what the encoder returns.")
    if not close(sigma.double(), sigma[:1].expand(n, k), 1e-4):
        raise Wrong("the width of q(z | x) depends on the image; one for each latent, please.")
    return mu, sigma


def _linear_bound(vae: nn.Module, x: Tensor) -> float:
    """Mean ELBO of a linear VAE in nats, without noise."""
    w, s, (mu, sigma) = vae.decoder.weight, vae.noise(), vae.posterior(x)
    spread = (sigma.square() @ w.square().T).sum(-1) / (2 * s**2)
    log_likelihood = Normal(mu @ w.T, s).log_prob(x).sum(-1) - spread
    return (log_likelihood - _rate(mu, sigma).sum(-1)).mean().item()


@exercise
def check_linear_vae(answer: Any) -> Verdict:
    """A linear VAE with one learnt noise: judged by its densities, and by what SVI reaches."""

    def examine(make: Callable) -> None:
        refuse_what_cannot_be_called(make)
        n, d, k = 400, 6, 2
        noise = torch.Generator().manual_seed(0)
        x = torch.randn(n, d, generator=noise) * torch.tensor([3.0, 1.5, 0.4, 0.4, 0.4, 0.4])
        x = (x - x.mean(0)) @ torch.linalg.qr(torch.randn(d, d, generator=noise)).Q
        vae = make(d, k)
        if not isinstance(vae, nn.Module):
            numbers(vae) if vae is ... or vae is None else None
            raise Wrong(f"it makes no `nn.Module`, but {type(vae).__name__}.")
        if hasattr(vae, "noise") and vae.noise() is ...:
            raise Untried
        _linear_parts(vae, x, k)
        if numbers(vae.noise()).numel() != 1:
            raise Wrong("`noise()` is one number for all pixels.")
        _positive(vae, vae.noise, "the noise")
        _positive(vae, lambda: vae.posterior(x)[1], "the width")
        plate = _linear_model(vae, x[:5], k)
        pyro.clear_param_store()
        optimiser = pyro.optim.ClippedAdam({"lr": 0.05, "lrd": 0.993})
        svi = SVI(_own_model, _guide(plate), optimiser, TraceMeanField_ELBO())
        for _ in range(500):
            svi.step(vae, x, k)
        values = torch.linalg.eigvalsh((x.T @ x / n).double())
        rest = values[:-k]
        logs = len(rest) * rest.mean().log() + values[-k:].log().sum()
        best = -0.5 * (d * math.log(2 * math.pi) + d + logs.item())
        reached = _linear_bound(vae, x)
        if not abs(best - reached) < 0.05:
            raise Wrong(f"trained for 500 steps, its bound is {reached:.2f}; {best:.2f} is the "
                        "best value, and within reach.")  # fmt: skip

    return trial(answer, examine, praise="trained, its bound is the best that this model can have.")


def _own_model(vae: nn.Module, x: Tensor, k: int) -> None:
    vae.model(x, k)


def _linear_model(vae: nn.Module, x: Tensor, k: int) -> str:
    """Judge the densities of the model of a linear VAE; the name of its plate."""
    z = _scales(len(x), k)[0].float()
    black_and_white = Wrong("is it still a Bernoulli? These pixels are grey, some even negative.")
    try:
        sites = _sites(_own_model, vae, x, z)
    except Wrong as wrong:
        raise black_and_white if "Boolean" in str(wrong) else wrong from None
    seen = [node for node in sites.values() if node["is_observed"] and node["name"] != "z"]
    if "z" not in sites or len(seen) != 1 or len(sites) != 2:
        raise Wrong(f"a latent `z` and observed pixels are wanted; found {', '.join(sites)}.")
    if hasattr(getattr(seen[0]["fn"], "base_dist", seen[0]["fn"]), "logits"):
        raise black_and_white
    _one_per_image("z", sites["z"], x, k)
    _one_per_image(seen[0]["name"], seen[0], x, x.shape[1])
    if not close(sites["z"]["log_prob"].double(), UNIT.log_prob(z).sum(-1), 1e-4):
        raise Wrong("the prior of `z` is not N(0, I).")
    found, mean, s = seen[0]["log_prob"].double(), vae.decoder(z), vae.noise()
    slips = [
        (Normal(mean, s**2), "the Gaussian has a standard deviation; `noise()` was squared."),
        (Normal(mean, s**0.5), "`noise()` is a standard deviation already: no root."),
        (Normal(mean, 1.0), "the pixels have standard deviation 1, not `noise()`."),
        (Normal(mean.sigmoid(), s), "a Gaussian's mean needs no sigmoid."),
        (
            Normal(vae.decoder(vae.posterior(x)[0]), s),
            "the pixels come from another code than `z`.",
        ),
    ]
    if not close(found, Normal(mean, s).log_prob(x).sum(-1), 1e-4):
        for wrong, message in slips:
            if close(found, wrong.log_prob(x).sum(-1), 1e-4):
                raise Wrong(message)
        raise Wrong("the pixels have not the Gaussian with mean `decoder(z)` and sd `noise()`.")
    _reaches(seen[0]["log_prob"], vae.decoder, "decoder")
    return sites["z"]["cond_indep_stack"][-1].name


# ------------------------------------------------------------------ scores


@exercise
def check_importance_bound(answer: Any) -> Verdict:
    """log mean weight over draws of q: vae, (n, d), s -> (n,), nats; judged by its limits."""

    def examine(bound: Callable) -> None:
        def tried(vae, x, draws):
            with torch.no_grad():
                return numbers(_run(bound, vae, x.clone(), draws), (len(x),), finite=False)

        vae, x = Tiny(6, 2, 1, ways=(0.15, 1.0)), _images(5, 6)
        mu, sigma = vae.posterior(x)
        elbo, exact = (f(vae, x).detach().double() for f in (_elbo, _log_likelihood))

        def limit(log_weight):  # log E[weight]
            return _expected(mu, sigma, lambda z: log_weight(z).exp(), 30).log().detach().double()

        def joint(z):
            return UNIT.log_prob(z).sum(-1) - _distortion(vae, x, z)

        log_k, many = math.log(3000), tried(vae, x, 3000)
        limits = [
            (elbo, 0.3, "with 3,000 draws it is still the ELBO: of what is the mean taken?"),
            (elbo + _rate(mu, sigma).sum(-1).detach(), 0.3, "only the distortion is left."),
            (
                exact + log_k,
                0.2,
                "it grows without end with the number of draws: a sum is no mean.",
            ),
            (limit(joint), 0.12, "draws come from q, and each must be weighted for that."),
            (limit(lambda z: -_distortion(vae, x, z)), 0.12, "`p(z)` and `q(z | x)` are missing."),
        ]
        if (many - exact).abs().max() > 0.2:
            for wrong, near, message in limits:
                if (many - wrong).abs().max() < near:
                    raise Wrong(message)
            if not many.isfinite().all():
                raise Wrong("it contains NaN or infinity.")
            flat = Tiny(6, 2, ways=(0.0, 0.0))  # q is the prior, and no image says anything of z
            if (tried(flat, x, 1) - tried(flat, x, 1)).abs().max() > 1e-3:
                raise Wrong("where q is the prior, and images say nothing of z, all draws have the "
                            "same weight: do `p(z)` and `q(z | x)` cancel?")  # fmt: skip
            row = int((many - exact).abs().argmax())
            where = "above" if many[row] > exact[row] else "below"
            raise Wrong(f"with 3,000 draws it should be near log p(x) = {exact[row]:.2f}; it "
                        f"is {many[row]:.2f}, {where} it.")  # fmt: skip
        rows = x.repeat(10, 1)  # and many calls, for those who give all images the same noise
        one = torch.stack([tried(vae, rows, 1).reshape(-1, 5).mean(0) for _ in range(600)]).mean(0)
        if (one - elbo).abs().max() > 0.45:
            raise Wrong(f"with one draw its mean should be the ELBO, {elbo.mean():.2f}; it is "
                        f"{one.mean():.2f}.")  # fmt: skip
        large, wide = Tiny(3000, 2, ways=(0.0, 0.02)), _images(3, 3000)
        far = tried(large, wide, 20)
        if not far.isfinite().all():
            raise Wrong("with 3,000 pixels it is infinite: exp(-2000) is 0 for a computer.")
        if (far - _log_likelihood(large, wide)).abs().max() > 20:
            raise Wrong("with 3,000 pixels it is far from log p(x).")

    praise = "the ELBO with one draw, log p(x) with many, and safe where exp is 0."
    return trial(answer, examine, praise=praise)


@exercise
def check_leave_one_out(answer: Any) -> Verdict:
    """Estimates with the mean over the other draws as baseline: (s,), (s, k) -> (s, k)."""

    def estimate(f, score, less=lambda f: (f.sum() - f) / (len(f) - 1)):
        return (f - less(f))[:, None] * score

    def other(less):
        return lambda f, score: estimate(f, score, less)

    all_draws = "the draw itself is in the baseline: with two draws, half of the gradient is lost."
    traps = [
        (other(torch.mean), all_draws),
        (other(lambda f: (f.sum() - f) / len(f)), "how many draws are the others?"),
        (other(lambda f: f.sum() / (len(f) - 1)), "the sum still has the draw itself in it."),
        (other(lambda f: f.sum() - f), "the mean of the others is wanted, not their sum."),
        (other(torch.median), "the mean, not the median: and is the draw itself left out?"),
        (other(torch.zeros_like), "nothing is subtracted: where is the baseline?"),
        (lambda f, score: -estimate(f, score), "the sign: the baseline is subtracted from f."),
        (lambda f, score: estimate(f, score).mean(0), "one estimate per draw: do not average."),
        (lambda f, score: estimate(f, score).sum(0), "one estimate per draw: do not sum."),
        (lambda f, score: estimate(f, torch.ones_like(score)) + 0 * score, "where is the score?"),
    ]
    cases = [(_scales(s, k)[1][:, 0] - 3, _scales(s, k)[0]) for s, k in ((2, 3), (5, 2), (40, 1))]
    praise = "no draw judges itself, so the mean is right for every number of draws."
    return judge(answer, estimate, cases, traps=traps, praise=praise)


@exercise
def check_continuous_bernoulli(answer: Any) -> Verdict:
    """Log density of the continuous Bernoulli, summed over pixels: (n, d), (n, d) -> (n,), nats."""

    def log_integral(t):  # of e^(t x) over [0, 1]
        size = t.abs().clamp(min=1e-6)
        return t.clamp(min=0) + ((-size).expm1().neg() / size).log()

    def reference(x, logits):
        return (x * logits - log_integral(logits)).sum(-1)

    def plain(x, logits):
        return (x * logits - torch.nn.functional.softplus(logits)).sum(-1)

    traps = [
        (plain, "its integral over [0, 1] is not 1: the constant C is missing."),
        (lambda x, r: 2 * plain(x, r) - reference(x, r), "C belongs on the other side."),
        (lambda x, r: (x * r).sum(-1), "its integral over [0, 1] is not 1."),
        (lambda x, r: (x * r + log_integral(r)).sum(-1), "the constant has the wrong sign."),
        (lambda x, r: reference(x, r) / x.shape[1], "sum over pixels; do not average."),
        (lambda x, r: reference(x, r).exp(), "the log density was asked for."),
        (lambda x, r: reference(x, r.sigmoid()), "`logits` are log-odds: no sigmoid is needed."),
        (lambda x, r: reference(1 - x, r), "black and white are exchanged."),
    ]
    x, logits = _scales(4, 9)[0].sigmoid(), 3 * _scales(4, 9, 1)[0]
    praise = "a density on grey values, for every logit, with its gradient."
    verdict = judge(answer, reference, [(x, logits), (x[:2], -logits[:2])], traps=traps,
                    praise=praise, rtol=1e-3)  # fmt: skip

    def mass(function: Callable) -> None:
        middle = (torch.arange(1000.0)[:, None] + 0.5) / 1000
        for logit in (-2.0, 1.5):
            values = numbers(call(function, middle, torch.full_like(middle, logit)))
            if abs(values.exp().mean() - 1) > 1e-3:
                found = f"{values.exp().mean():.3g}"
                raise Wrong(f"for logits of {logit:g} its integral over [0, 1] is {found}, not 1.")
        raise Wrong("its integral is 1, but it is another density.")

    def examine(function: Callable) -> None:
        for logit, why in (
            (0.0, "0/0"),
            (1e-5, "near 0 the digits cancel"),
            (100.0, "exp(100) is infinite in 32 bits"),
            (-100.0, "look at this side, too"),
        ):
            grey = x[:2].float()
            there = torch.full_like(grey, logit)
            found, wanted = numbers(function(grey, there), finite=False), reference(grey, there)
            if not close(found, wanted, 1e-3):
                cut = found.isfinite().all() and logit != 1e-5
                why = "something was cut off" if cut else why
                raise Wrong(f"where all logits are {logit:g} it is {found[0]:.4g}, not "
                            f"{wanted[0]:.4g}: {why}.")  # fmt: skip
        for logit in (0.1, 0.3, -0.3):  # 1e-4 nats per pixel are 0.08 per image
            there = torch.full_like(grey, logit)
            excess = (numbers(function(grey, there)) - reference(grey, there)).abs().max().item()
            excess /= grey.shape[1]
            if excess > 1e-4:
                raise Wrong(f"where all logits are {logit:g} it is off by {excess:.1g} nats per "
                            f"pixel, {784 * excess:.2g} per digit: how far from 0 is a series "
                            "good enough?")  # fmt: skip
        for logit in (0.0, 1e-5, 0.1, 0.3, 2.0, 100.0, -100.0):
            there = torch.full_like(grey, logit)
            found = gradients(lambda r: function(grey, r), {"logits": there})[0].double()
            wide = there.double() if logit else there.double() + 1e-5
            wanted = gradients(lambda r: reference(grey, r), {"logits": wide})[0]
            if not found.isfinite().all():
                raise Wrong(f"the values are right, but where logits are {logit:g} the gradient is "
                            "NaN: also a branch that is not chosen is differentiated.")  # fmt: skip
            if not close(found, wanted, 2e-3):
                raise Wrong(
                    f"the values are right, but not the gradient where logits are {logit:g}."
                )

    verdict = _hinted(verdict, answer, mass)
    return trial(answer, examine, praise=praise) if verdict else verdict


# ------------------------------------------------------------------ a learnt prior, half an image


def _clumps(widths: Tensor, spread: float = 1.0) -> MixtureSameFamily:
    """Density of draws of N(mu, widths²) for means mu that lie in three clumps of the plane."""
    centres = torch.tensor([[-2.0, 1.2], [1.8, 1.8], [0.4, -2.0]])
    slant = spread * torch.tensor([[[0.09, 0.08], [0.08, 0.09]], [[0.2, 0.0], [0.0, 0.01]],
                                   [[0.1, -0.05], [-0.05, 0.1]]])  # fmt: skip
    normal = MultivariateNormal(centres, slant + (widths**2).diag_embed() + 1e-4 * torch.eye(2))
    return MixtureSameFamily(Categorical(torch.tensor([0.5, 0.2, 0.3])), normal)


@exercise
def check_learnt_prior(answer: Any) -> Verdict:
    """Fit a density to draws of N(mu, sigma²), both (n, k): log_prob and sample, on known codes."""
    widths = torch.tensor([[0.5, 0.7], [0.6, 0.3], [0.4, 0.6]])
    zero = torch.zeros(3, 2)

    def examine(fit: Callable) -> None:
        means, truth = _clumps(zero), _clumps(widths)
        mu = means.sample((3000,))
        kind = means.component_distribution.log_prob(mu[:, None]).argmax(-1)
        prior = _run(fit, mu.clone(), widths[kind])
        if prior is ... or prior is NotImplemented:
            raise Untried
        if hasattr(prior, "score_samples"):
            raise Wrong("scikit-learn's mixture has no `log_prob`: build one of its numbers.")
        if not (hasattr(prior, "log_prob") and hasattr(prior, "sample")):
            kind_of = "nothing" if prior is None else type(prior).__name__
            raise Wrong(f"return an object with `log_prob` and `sample`, not {kind_of}.")
        parts = getattr(prior, "mixture_distribution", None)
        if parts is not None and parts.probs.shape[-1] > 500:
            raise Wrong("one component for each image remembers them; 16,000 cannot be used.")

        def log_prob(z: Tensor) -> Tensor:
            with torch.no_grad():
                parts = [(prior.log_prob(rows), (len(rows),)) for rows in z.split(4000)]
                return torch.cat([numbers(*part, finite=False) for part in parts])  # saves memory

        axis = torch.arange(-80, 81) / 10.0
        grid = torch.cartesian_prod(axis, axis)
        if (mass := (log_p := log_prob(grid)).exp().sum().item() / 100) < 0.97 or mass > 1.03:
            raise Wrong(f"the integral of exp(`log_prob`) over the plane is {mass:.3g}, not 1.")

        def distance(other: Any) -> float:
            """KL(other || fitted), nats."""
            z = other.sample((4000,))
            return (other.log_prob(z) - log_prob(z)).mean().item()

        z = truth.sample((4000,))
        one = MultivariateNormal(z.mean(0), z.T.cov())
        unit = MultivariateNormal(torch.zeros(2), torch.eye(2))
        wrong = [
            (unit, "this is N(0, I): it has learnt nothing from the codes."),
            (one, "one Gaussian for all codes: they lie in clumps."),
            (means, "it is too narrow: what does the decoder get, means of q or draws?"),
            (_clumps(widths**2), "draws of q have the standard deviation sigma."),
            (_clumps(widths**0.5), "draws of q have the standard deviation sigma."),
            (_clumps(widths, 0.0), "these are clumps without the spread of their means."),
        ]
        gap, simple = distance(truth), _gap(truth, one)
        density, message = min(wrong, key=lambda pair: distance(pair[0]))
        if distance(density) < min(0.1, gap / 2):
            raise Wrong(message)
        if (
            not gap < (0.75 if parts is None else 0.25) * simple
        ):  # a flow has a hard time with clumps
            raise Wrong(f"it lacks {gap:.2f} nats on new codes; one Gaussian lacks {simple:.2f}, "
                        "a good mixture nearly none.")  # fmt: skip
        drawn = [numbers(prior.sample((3000,)), (3000, 2)).float() for _ in range(2)]
        if drawn[0].equal(drawn[1]):
            raise Wrong("`sample` returns the same draws again.")
        share = log_p.exp() / 100
        middle = share @ grid.double()
        width = (share @ (grid.double() - middle).square()).sqrt()
        wanted = (share * log_p.clamp(min=-1e3)).sum()
        off = (drawn[0].mean(0) - middle).abs().max() > 0.12
        off = off or (drawn[0].std(0) / width - 1).abs().max() > 0.1
        if off or (log_prob(drawn[0]).mean() - wanted).abs() > 0.15:
            raise Wrong("`log_prob` is right, but `sample` draws from another density.")
        if parts is not None:
            _forgets(fit)

    praise = "a density of new codes, normalised, and draws that follow it."
    return trial(answer, examine, praise=praise)


def _forgets(fit: Callable) -> None:
    """Refuse a density that remembers its codes: in eight dimensions none is near another."""
    mu = torch.randn(3000, 8)
    prior, truth = _run(fit, mu, torch.full_like(mu, 0.1)), Normal(0.0, 1.01**0.5)
    z = 1.01**0.5 * torch.randn(1000, 8)
    with torch.no_grad():
        lost = truth.log_prob(z).sum(-1).mean() - numbers(prior.log_prob(z), (1000,)).mean()
    if lost > 3:
        raise Wrong(f"in eight dimensions it lacks {lost:.0f} nats on new codes: it remembers "
                    "single images.")  # fmt: skip


def _gap(truth: Any, other: Any) -> float:
    z = truth.sample((4000,))
    return (truth.log_prob(z) - other.log_prob(z)).mean().item()


def _worth(got: Any, k: int) -> None:
    """Compare an effective sample size with the one that repeated draws betray.

    Two draws are the same candidate with probability sum w², which is one over the size. Other ways
    than the plain one to choose by weights repeat less, so many draws are asked for.
    """
    z, size = numbers(got[0], (20_000, k)), numbers(got[1], ()).item()
    counts = z.unique(dim=0, return_counts=True)[1].double()
    equal = (counts * (counts - 1)).sum().item()  # ordered pairs
    if equal < 400:
        return  # hardly any repeats: there is nothing to compare with
    behind = 1 / (equal / len(z) ** 2 + 1 / len(z)), len(z) * (len(z) - 1) / equal
    if size > 1.2 * behind[1]:
        raise Wrong(f"20,000 draws repeat as if {behind[1]:.0f} candidates carried the weight, and "
                    f"the effective sample size is said to be {size:.3g}.")  # fmt: skip
    if size < 0.87 * behind[0]:
        raise Wrong(f"the effective sample size is said to be {size:.3g}, but 20,000 draws repeat "
                    f"as rarely as those of {behind[0]:.0f} equal candidates.")  # fmt: skip


@exercise
def check_completions(answer: Any) -> Verdict:
    """Draws of p(z | seen pixels) and their effective sample size, against quadrature."""

    def examine(complete: Callable) -> None:
        for k, seed in ((2, 5), (2, 9)):
            vae = Tiny(8, k, seed, ways=(0.3, 1.5))
            x = _images(1, 8, seed)[0]
            seen = torch.arange(8) < 5
            got = _run(complete, vae, x.clone(), seen.clone(), 1000)
            if got is ... or got is NotImplemented:
                raise Untried
            if not isinstance(got, tuple | list) or len(got) != 2:
                raise Wrong("return two things: the draws, and the effective sample size.")
            z = numbers(got[0], (1000, k))
            size = numbers(got[1], ()).item()
            axis = torch.linspace(-6, 6, 121)
            grid = torch.cartesian_prod(*[axis] * k).reshape(-1, k)
            with torch.no_grad():
                pixels = Bernoulli(logits=vae.decoder(grid)).log_prob(x).double()  # (g, d)
                white = Bernoulli(logits=vae.decoder(grid)).log_prob(x * seen).double().sum(-1)
                q = Normal(*vae.posterior((x * seen)[None])).log_prob(grid).sum(-1)
            part, prior = pixels[:, seen].sum(-1), UNIT.log_prob(grid).sum(-1)

            def near(log_density: Tensor, z: Tensor = z, grid: Tensor = grid) -> bool:
                weight = log_density.double().softmax(0)
                mean = weight @ grid.double()
                width = (weight @ (grid.double() - mean).square()).sqrt()
                shift = ((z.mean(0) - mean) / width).abs().max()
                return bool(shift < 0.25 and (z.std(0) / width).log().abs().max() < 0.2)

            wrong = [
                (pixels.sum(-1) + prior, "it has looked at the hidden pixels."),
                (white + prior, "hidden pixels are not white: they are unknown."),
                (pixels[:, ~seen].sum(-1) + prior, "`seen` is true where a pixel *is* seen."),
                (part, "the prior is missing."),
                (prior, "these are draws of the prior: the seen pixels do not count."),
                (q, "these are draws of the encoder's q: the weights do not count."),
                (part + prior + q, "draws of q come often where q is high: weigh them for that."),
                (part - q, "a weight needs the prior, too."),
                (part + q, "a weight has the prior above and q below the fraction bar."),
            ]
            if not near(part + prior):
                for density, message in wrong:
                    if near(density):
                        raise Wrong(message)
                raise Wrong("their mean or their spread is not that of p(z | seen pixels).")
            if not 1 - 1e-4 <= size:
                raise Wrong(f"an effective sample size of {size:.3g} is not possible: at least 1.")
            if abs(size - 1) < 1e-3 or len(z.unique(dim=0)) > 20 * size + 20:
                raise Wrong(f"more is drawn than an effective sample size of {size:.1f} allows: "
                            "do the weights sum to one in its formula?")  # fmt: skip
        _worth(_run(complete, vae, x.clone(), seen.clone(), 20_000), k)

    praise = "completions in the right proportions, and what they are worth."
    return trial(answer, examine, praise=praise)


# ------------------------------------------------------------------ an alarm


class _Known(Tiny):
    """A VAE with scores that knows one pattern (8,), whose rate is above that of other images."""

    def __init__(self, pattern: Tensor) -> None:
        super().__init__(8, 2)
        with torch.no_grad():
            self.decoder.weight.mul_(0.3)
            self.decoder.bias.copy_(8 * pattern - 4)
            self.encoder.weight[:2] = 0.3 * pattern
            self.encoder.bias[:2] = 0
            self.encoder.weight[2:], self.encoder.bias[2:] = 0, -0.5

    def terms(self, x: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
        mu, sigma = self.posterior(x)
        with torch.no_grad():
            distortion = _expected(mu, sigma, lambda z: _distortion(self, x, z))
            return distortion, _rate(mu, sigma).sum(-1)

    def elbo(self, x: Tensor, seed: int = 0) -> Tensor:
        return -sum(self.terms(x, seed))


@exercise
def check_alarm(answer: Any) -> Verdict:
    """An alarm, higher for what is stranger: vae, (n, d) -> (n,)."""

    def examine(alarm: Callable) -> None:
        pattern = torch.tensor([1.0, 0.0] * 4)
        vae, known = _Known(pattern), pattern.repeat(20, 1)
        known[torch.arange(16), torch.arange(16) % 8] *= 0  # some lack a pixel
        x = torch.cat([known, 1 - known, torch.zeros(1, 8)])
        got = _run(alarm, vae, x)
        if getattr(got, "dtype", None) in (torch.bool, bool):
            raise Wrong("a number says how strange an image is; yes or no needs a threshold.")
        got = numbers(got, finite=False)
        if got.ndim == 0:
            raise Wrong("one number for all images; each needs its own.")
        got = numbers(got, (41,), finite=False)
        if not got[-1].isfinite():
            raise Wrong("a blank image gets NaN or infinity.")
        got = numbers(got)
        if not close(numbers(_run(alarm, vae, x[:9]), (9,)), got[:9], 1e-3):
            raise Wrong("the alarm of an image must not depend on which others come with it.")
        if (got == got[0]).all():
            raise Wrong("it is the same for every image.")
        if got[20:40].mean() < got[:20].mean():
            raise Wrong("white on black rings less than what the VAE knows. Higher is stranger.")
        other = numbers(_run(alarm, _Known(1 - pattern), x), (41,))
        if other[:20].mean() < other[20:40].mean():
            raise Wrong("it rings for the same images whatever the VAE has learnt.")

    return trial(answer, examine, praise="it rings for the stranger. Now see what it misses.")
