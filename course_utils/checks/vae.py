"""Checks of the exercises on the variational autoencoder."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal, kl_divergence

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
            plate = sites["z"]["cond_indep_stack"][-1].name
            pyro.clear_param_store()
            TraceMeanField_ELBO().differentiable_loss(model, _guide(plate), vae, x, k)

    praise = "one latent and one image for each row, and the densities of the formula."
    return trial(answer, examine, praise=praise)


def _guide(plate: str) -> Callable:
    def guide(vae: Tiny, x: Tensor, k: int) -> None:
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

    return trial(answer, examine, praise="it draws as the encoder says, and gradients come back.")


# ------------------------------------------------------------------ training


def _moved(step: Callable, vae: Tiny, x: Tensor, before: list[Tensor]) -> tuple[Any, Tensor]:
    """What a step returned, and by how much it moved the weights."""
    optimiser, steps = torch.optim.SGD(vae.parameters(), 1.0), []
    optimiser.register_step_post_hook(lambda *_: steps.append(1))
    with torch.no_grad():
        for weights, value in zip(vae.parameters(), before, strict=True):
            weights.copy_(value)
    value = _run(step, vae, x, optimiser)
    if value is ...:
        raise Untried
    after = vae.parameters()
    moved = torch.cat([(a - b).detach().flatten() for a, b in zip(after, before, strict=True)])
    if not moved.isfinite().all():
        raise Wrong("weights became NaN or infinite.")
    if not steps:
        raise Wrong("the optimiser that was given has made no step.")
    if not moved.any():
        raise Wrong("no weight has moved: which gradients does the optimiser find?")
    return value, moved


def _downhill(vae: Tiny, x: Tensor, loss: Callable) -> Tensor:
    """By how much gradient descent with rate 1 on a loss without noise moves the weights."""
    weights = [*vae.parameters()]
    found = torch.autograd.grad(loss(vae, x).mean(), weights, materialize_grads=True,
                                allow_unused=True)  # fmt: skip
    return -torch.cat([part.flatten() for part in found])


@exercise
def check_vae_step(answer: Any) -> Verdict:
    """One step on -ELBO; judged by its mean direction, and by what a training reaches."""

    def parts(vae, x, *, code=lambda m, s: (m, s), price=1.0, d=1.0, logits=lambda r: r):
        mu, sigma = vae.posterior(x)

        def distortion(z):
            return -Bernoulli(logits=logits(vae.decoder(z))).log_prob(x).sum(-1)

        return _expected(*code(mu, sigma), distortion) / d + price * _rate(mu, sigma).sum(-1)

    other = "z is drawn with another width than sigma."
    traps = [  # a loss, and how many times too large
        (lambda v, x: -parts(v, x), "the weights climb: the loss is minus the ELBO."),
        (lambda v, x: 8000 * len(x) * parts(v, x), "that is a step of a sum over images: average."),
        (
            lambda v, x: parts(v, x, code=lambda m, s: (m.detach(), s.detach())),
            "the encoder only hears of the rate: is z detached?",
        ),
        (lambda v, x: parts(v, x, code=lambda m, s: (m, 0 * s)), "z is always the mean: draw it."),
        (lambda v, x: parts(v, x, code=lambda m, s: (m, s**2)), "the width of z is a variance."),
        (lambda v, x: parts(v, x, code=lambda m, s: (m, s.exp())), f"{other} It is no logarithm."),
        (lambda v, x: parts(v, x, code=lambda m, s: (m, s.sqrt())), other),
        (lambda v, x: parts(v, x, code=lambda m, s: (m, 1 + 0 * s)), other),
        (
            lambda v, x: parts(v, x, code=lambda m, s: (0 * m, 1 + 0 * s)),
            "z does not see the image.",
        ),
        (lambda v, x: parts(v, x, price=0.0), "the weights do not feel the rate."),
        (lambda v, x: parts(v, x, d=1e9), "the weights do not feel the distortion."),
        (lambda v, x: parts(v, x, price=-1.0), "the rate has the wrong sign."),
        (lambda v, x: parts(v, x, d=6.0), "distortion and rate are not weighed as in the bound."),
        (
            lambda v, x: parts(v, x, logits=torch.sigmoid),
            "the logits went through a sigmoid twice.",
        ),
    ]

    def examine(step: Callable) -> None:
        vae, x = Tiny(6, 2), _images(5, 6).repeat(8000, 1)  # many draws for each of five images
        before, few = [weights.detach().clone() for weights in vae.parameters()], x[:5]
        exact, wanted = -_elbo(vae, few).mean().item(), _downhill(vae, few, parts)
        wrong = [(_downhill(vae, few, trap), message) for trap, message in traps]
        value, moved = _moved(step, vae, x, before)
        again = _moved(step, vae, x, before)[1]
        if _off(moved, wanted) > 0.03:
            if _off(moved, again) > 0.1 and _off(2 * moved, again) > 0.1:
                raise Wrong("two steps from the same weights differ: has each image its own noise?")
            away, message = min((_off(moved, trap), message) for trap, message in wrong)
            if away < 0.04:
                raise Wrong(message)
            size = sum(weights.numel() for weights in vae.encoder.parameters())
            parts_off = [_off(moved[i], wanted[i]) for i in (slice(size), slice(size, None))]
            where = "" if min(parts_off) > 0.03 else ("decoder", "encoder")[parts_off[0] > 0.03]
            where = f" It is the {where} that is off." if where else ""
            raise Wrong(f"the weights moved, but not along the gradient of the bound.{where}")
        if _off(again, 2 * wanted) < 0.1:
            raise Wrong("in the second step the gradient of the first is still there.")
        if _off(again, wanted) > 0.03:
            raise Wrong("a second step from the same weights goes elsewhere.")
        _told(value, exact)
        _trains(step)

    return trial(
        answer, examine, praise="it reached the likelihood of the model that drew the data."
    )


def _off(moved: Tensor, wanted: Tensor) -> float:
    return ((moved - wanted).norm() / wanted.norm().clamp(min=1e-9)).item()


def _told(value: Any, exact: float) -> None:
    """Refuse a step that does not return its loss."""
    told = numbers(value, ()).item()
    if abs(told + exact) < 0.1:
        raise Wrong("the step is right; it returns the ELBO, and the loss was asked for.")
    if abs(told - exact) > 0.1:
        raise Wrong(f"the step is right; its loss is {exact:.2f} nats per image, not {told:.4g}.")


def _trains(step: Callable) -> None:
    """Refuse a step with which a linear VAE does not reach the likelihood of the data's own."""
    truth, vae = Tiny(8, 2, seed=1), Tiny(8, 2, seed=2)
    noise = torch.Generator().manual_seed(0)
    z = torch.randn(2000, 2, generator=noise)
    x = torch.bernoulli(truth.decoder(z).sigmoid().detach(), generator=noise)
    optimiser = torch.optim.Adam(vae.parameters(), 0.03)
    for _ in range(250):
        step(vae, x, optimiser)
    best, reached = (_log_likelihood(each, x).mean().item() for each in (truth, vae))
    if not best - reached < 0.08:
        raise Wrong(f"after 250 steps log p(x) is {reached:.2f}; {best:.2f} can be reached.")


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
def check_active_units(answer: Any) -> Verdict:
    """Number of latents of a VAE whose posterior mean has variance over 0.01: vae, (n, d) -> ()."""

    def count(function, limit=0.01):
        def counted(vae, x):
            mu, sigma = vae.posterior(x)
            return (function(mu, sigma) > limit).sum()

        return counted

    def variance(mu, sigma):
        return mu.var(0)

    def drawn(mu, sigma):
        return (mu + sigma * _scales(*mu.shape)[0]).var(0)

    traps = [
        (count(lambda m, s: m.std(0)), "the threshold is on the variance."),
        (count(lambda m, s: m.var(1)), "the variance is taken over images."),
        (count(lambda m, s: m.abs().mean(0)), "a constant mean is not active."),
        (count(lambda m, s: m.square().mean(0)), "a constant mean is not active."),
        (count(drawn), "all were counted. Draws vary even where the image says nothing."),
        (count(lambda m, s: s.var(0)), "this is the variance of sigma."),
        (count(lambda m, s: -m.var(0), -0.01), "you counted the others."),
        (count(lambda m, s: m.var()), "each latent has its own variance."),
        (count(lambda m, s: m), "you counted values, not latents."),
        (
            count(lambda m, s: torch.cat([m, s.log()], 1).var(0)),
            "the encoder also gives log sigma.",
        ),
        (count(variance, 0.005), "a latent with variance 0.008 is not active."),
        *((count(variance, v), "a latent with variance 0.012 is active.") for v in (0.02, 0.1)),
        (lambda v, x: count(variance)(v, x) / v.decoder.in_features, "a number, not a share."),
        (lambda v, x: v.posterior(x)[0].var(0) > 0.01, "how many are true?"),
    ]
    noise = torch.Generator().manual_seed(0)
    x = torch.linalg.qr(torch.randn(500, 7, generator=noise)).Q  # orthonormal columns
    x = (x - x.mean(0))[:, :6]
    x = x @ torch.linalg.inv(torch.linalg.cholesky(x.T.cov())).T  # covariance I
    cases = []
    for variances in ((1, 0.3, 0.012, 0.008, 1e-6, 0), (0.012, 0.05, 0.011, 0.008, 0.5, 0.0015)):
        vae = Tiny(6, 6)
        with torch.no_grad():
            vae.encoder.weight.zero_()
            vae.encoder.weight[:6] = torch.tensor(variances).sqrt().diag()
            vae.encoder.weight[6:] = torch.tensor([0.2] * 3 + [0.0] * 3).diag()
            vae.encoder.bias.copy_(torch.tensor([0.4, 0, -1, 0.7, 1, 0] + [-0.3] * 6))
        cases.append((vae, x))
    praise = "the others say the same about every image."
    return judge(answer, count(variance), cases, traps=traps, praise=praise)


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
        for logit in (0.0, 1e-5, 2.0, 100.0, -100.0):
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


# ------------------------------------------------------------------ an alarm


class _Known(Tiny):
    """A VAE with scores that knows one pattern, with as many black pixels as white ones."""

    def __init__(self) -> None:
        super().__init__(8, 2)
        with torch.no_grad():
            self.decoder.weight.mul_(0.3)
            self.decoder.bias.copy_(torch.tensor([4.0, -4.0] * 4))

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
        vae, known = _Known(), torch.tensor([1.0, 0.0] * 4).repeat(20, 1)
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

    return trial(answer, examine, praise="it rings for the stranger. Now see what it misses.")
