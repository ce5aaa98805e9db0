"""Posteriors of the wine notebook that take longer than a lesson: NUTS, and what stands beside it.

    python -m benchmarks.wine_posterior [wine] [doubts] [gap]    # writes data/posteriors.json

Three parts, each with its own date, code and seconds; a part that is not named stays as it is.

- ``wine``: NUTS on the network of section 6 given 54 wines, four chains from draws of the prior.
- ``doubts``: Laplace and mean field on 54 to 1,083 wines, sigma chosen, learnt or given (needs
  ``wine``).
- ``gap``: NUTS on the toy with a gap of section 9.

Model: y_n ~ N(f_w(x_n), sigma²), w_i ~ N(0, s_i²), log sigma ~ N(0, 1), with x and y in scales of
the training wines. The unknowns are ``u``: all weights in units of their prior scales s_i, and log
sigma at the end, so that the prior of u is N(0, I). Doubts are stored in quality points.
"""

import argparse
import base64
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import MCMC, NUTS
from pyro.ops.stats import effective_sample_size, gelman_rubin
from torch import Tensor
from torch.distributions import kl_divergence

from benchmarks import measure
from benchmarks.baselines import bnn
from course_utils.data import DATA_DIR
from course_utils.metrics import mixture_log_density, rmse

nb = bnn.nb
PLACE = DATA_DIR / "posteriors.json"
SHARES, ORDERS = (0.05, 0.10, 0.30, 1.00), 5  # of the training wines, as in section 7
CHAINS, KEPT_DRAWS = 4, 2  # draws of each chain that are stored
WINE = {"warmup": 300, "kept": 1500, "depth": 8}
GAP = {"warmup": 300, "kept": 1000, "depth": 7}
SIGMAS = torch.linspace(0.3, -0.9, 25).double().exp()  # from large to small, scales of the score
STEPS, STEP_DRAWS, DRAWS = 3000, 4, 2000  # mean field: of Adam; of w, in a step and at the end


# ------------------------------------------------------------------ the problem


def wines() -> SimpleNamespace:
    """The wines of section 7, with SEED = 0: as ``bnn.load(0)``, and five nested orders."""
    data = bnn.load(0)
    n = len(data.y_train)
    data.sizes = [round(share * n) for share in SHARES]
    data.orders = [
        torch.randperm(n, generator=torch.Generator().manual_seed(k)) for k in range(ORDERS)
    ]
    return data


def subset(data: SimpleNamespace, order: int, size: int) -> tuple[Tensor, Tensor]:
    """The first wines of an order: x (size, d) and y (size,) in scales of the training wines."""
    rows = data.orders[order][:size]
    return data.x_train[rows], data.y_train[rows]


def wine_network(u: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Means and noise scales (..., n) for unknowns u (..., p), in scales of the score."""
    prior = nb.weight_prior(x, bnn.HIDDEN, False)
    return nb.mean_and_scale(prior * u, x.asinh(), bnn.HIDDEN, False)


def toy() -> SimpleNamespace:
    """The toy of section 9, with SEED = 0: 40 points with a gap, known noise."""
    rng = torch.Generator().manual_seed(0)
    x = torch.cat([torch.linspace(-2, -1, 20), torch.linspace(1, 2, 20)])[:, None]
    y = torch.sin(2 * x[:, 0]) + 0.2 * torch.randn(40, generator=rng)
    prior = nb.prior_scale(x, 10)  # (31,)
    prior[:30] *= 2

    def network(u, x):
        f = nb.network(prior.to(u) * u, x, 10, activation=torch.tanh)[..., 0]
        return f, torch.full_like(f, 0.2)

    line = torch.linspace(-3, 3, 121)[:, None]
    return SimpleNamespace(x=x, y=y, prior=prior, line=line, network=network)


def log_joint(network: Callable, u: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """log p(y | u) + log p(u), nats, (...) for u (..., p); the density of log sigma, not of sigma.

    Args:
        network: Gives means and scales (..., n) of u and x.
        u: Unknowns in units of their prior scales.
        x: Inputs (n, d).
        y: Targets (n,).
    """
    mean, scale = network(u, x)
    fit = dist.Normal(mean, scale).log_prob(y).sum(-1)
    return fit + dist.Normal(torch.zeros_like(u), 1.0).log_prob(u).sum(-1)


# ------------------------------------------------------------------ NUTS


def model(network: Callable, p: int, x: Tensor, y: Tensor) -> None:
    """The density of ``log_joint`` as a Pyro model."""
    u = pyro.sample("u", dist.Normal(x.new_zeros(p), 1.0).to_event(1))  # (p,)
    mean, scale = network(u, x)  # (n,) each
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(mean, scale), obs=y)


def sample(
    network: Callable, start: Tensor, x: Tensor, y: Tensor, *, seed, warmup, kept, depth, step=None
) -> tuple[Tensor, float]:
    """One chain: draws (kept, p) and the step size.

    The unknowns have the prior N(0, I), and no mass matrix is learnt. With ``step`` the step size
    is that one, otherwise the warm-up finds it.
    """
    pyro.set_rng_seed(seed)
    known = {} if step is None else {"step_size": step, "adapt_step_size": False}
    kernel = NUTS(
        lambda: model(network, len(start), x, y),
        adapt_mass_matrix=False,
        max_tree_depth=depth,
        jit_compile=True,
        ignore_jit_warnings=True,
        **known,
    )
    begin = {"u": start}
    sampler = MCMC(kernel, kept, warmup, initial_params=begin, disable_progbar=True)
    sampler.run()
    return sampler.get_samples()["u"], float(kernel.step_size)


def four_chains(network: Callable, p: int, x: Tensor, y: Tensor, **options) -> tuple[Tensor, list]:
    """Chains from draws of the prior: draws (chains, kept, p), and the step size of each."""
    draws, steps = [], []
    for chain in range(CHAINS):
        start = torch.randn(p, generator=torch.Generator().manual_seed(1000 + chain)).double()
        begin = time.perf_counter()
        found, step = sample(network, start, x, y, seed=chain, **options)
        print(f"chain {chain}: {time.perf_counter() - begin:.0f} s, step {step:.4f}", flush=True)
        draws.append(found)
        steps.append(round(step, 5))
    return torch.stack(draws), steps


def diagnose(values: Tensor) -> tuple[Tensor, Tensor]:
    """R-hat and bulk effective sample size (...) of chains of values (chains, s, ...).

    Rank-normalised, with split chains; R-hat is the larger of that of the values and that of their
    distances from the median (Vehtari et al. 2021, doi:10.1214/20-BA1221).
    """
    halves = torch.cat(values[:, : values.shape[1] // 2 * 2].chunk(2, 1))  # (2 chains, s / 2, ...)

    def normal_scores(part: Tensor) -> Tensor:
        flat = part.flatten(0, 1)
        rank = flat.argsort(0).argsort(0).double() + 1
        return torch.special.ndtri((rank - 0.375) / (len(flat) + 0.25)).reshape(part.shape)

    bulk = normal_scores(halves)
    folded = normal_scores((halves - halves.flatten(0, 1).median(0).values).abs())
    r_hat = torch.maximum(*(gelman_rubin(part, 0, 1) for part in (bulk, folded)))
    return r_hat, effective_sample_size(bulk, 0, 1)


def summary(values: Tensor) -> dict[str, float]:
    """Median and worst R-hat and bulk effective sample size of values (chains, s, n)."""
    r_hat, ess = diagnose(values)
    return {
        "r_hat_median": round(r_hat.median().item(), 4),
        "r_hat_largest": round(r_hat.max().item(), 4),
        "ess_median": round(ess.median().item()),
        "ess_smallest": round(ess.min().item()),
    }


class Parts(NamedTuple):
    """Root of the mean variance over wines, aleatoric and epistemic (...), quality points."""

    aleatoric: Tensor
    epistemic: Tensor


def parts(mean: Tensor, scale: Tensor, unit: float, centre: Tensor | None = None) -> Parts:
    """Of draws (..., s, n) in scales of the score; unit: of the score, quality points."""
    centre = mean.mean(-2, keepdim=True) if centre is None else centre
    noise = scale.double().square().mean((-1, -2))
    doubt = (mean - centre).double().square().mean((-1, -2))
    return Parts(noise.sqrt() * unit, doubt.sqrt() * unit)


def with_error(chains: Tensor) -> list[float]:
    """The root of the mean square of one value per chain, and its Monte Carlo error."""
    square = chains.square()
    whole = square.mean().sqrt()
    error = square.std() / math.sqrt(len(chains)) / (2 * whole)
    return [round(whole.item(), 4), round(error.item(), 4)]


def packed(values: Tensor) -> dict[str, object]:
    """Numbers as 32-bit floats, little-endian, in base 64."""
    raw = values.float().numpy().astype("<f4").tobytes()
    return {"shape": [*values.shape], "float32": base64.b64encode(raw).decode()}


def rounded(values: Tensor, digits: int = 4) -> list:
    """As nested lists."""
    return torch.round(values.double(), decimals=digits).tolist()


def wine() -> dict[str, object]:
    """NUTS given 54 wines, judged on the validation wines."""
    data = wines()
    x, y = (values.double() for values in subset(data, 0, data.sizes[0]))
    x_val, (centre, unit) = data.x_val.double(), (float(value) for value in data.target)
    p = len(nb.weight_prior(x, bnn.HIDDEN, False))
    u, steps = four_chains(wine_network, p, x, y, **WINE)  # (chains, s, p)
    pieces = [wine_network(piece, x_val) for piece in u.flatten(0, 1).split(250)]
    mean, scale = (torch.cat(part).unflatten(0, u.shape[:2]) for part in zip(*pieces, strict=True))
    flat = mean.flatten(0, 1)  # (s, n)
    aleatoric, epistemic = parts(mean, scale, unit, flat.mean(0))
    points, noise = flat * unit + centre, scale.flatten(0, 1) * unit
    every = u.shape[1] // KEPT_DRAWS
    kept = u[:, every - 1 :: every].flatten(0, 1).float().double()  # as they are stored
    log_sigma = u[..., -1]
    return {
        "wines": len(y),
        "chains": CHAINS,
        **WINE,
        "step_sizes": steps,
        "predictive_means": summary(mean),
        "log_sigma": summary(log_sigma[..., None])
        | {"mean": round(log_sigma.mean().item(), 4), "sd": round(log_sigma.std().item(), 4)},
        "sigma": [round(f(log_sigma.exp()).item() * unit, 4) for f in (torch.mean, torch.std)],
        "aleatoric": with_error(aleatoric),
        "epistemic": with_error(epistemic),
        "log_density": round(mixture_log_density(data.y_val, points, noise).mean().item(), 4),
        "rmse": round(rmse(data.y_val, points.mean(0)), 4),
        "mean": rounded(points.mean(0), 3),
        "sd": rounded(points.std(0), 3),
        "draws": packed(kept),
        "log_joint": rounded(log_joint(wine_network, kept, x, y)),
        "log_joint_all": rounded(
            torch.stack([f(log_joint(wine_network, u, x, y)) for f in (torch.mean, torch.std)]), 2
        ),
    }


def gap() -> dict[str, object]:
    """NUTS on the toy of section 9."""
    data = toy()
    x, y, line = (values.double() for values in (data.x, data.y, data.line))
    u, steps = four_chains(data.network, len(data.prior), x, y, **GAP)  # (chains, s, p)
    f = data.network(u, line)[0]  # (chains, s, n)
    r_hat, ess = diagnose(f)
    flat, inside = f.flatten(0, 1), line[:, 0].abs() < 0.71  # both ends, 0.7, belong to it
    by_chain = (f - flat.mean(0))[..., inside].square().mean(1).sqrt().mean(1)  # (chains,)
    doubt = flat[:, inside].std(0).mean().item()
    return {
        "chains": CHAINS,
        **GAP,
        "step_sizes": steps,
        "functions": summary(f),
        "functions_in_gap": summary(f[..., inside]),
        "doubt_in_gap": [round(doubt, 4), round(by_chain.std().item() / math.sqrt(CHAINS), 4)],
        "line": rounded(line[:, 0], 3),
        "mean": rounded(flat.mean(0)),
        "sd": rounded(flat.std(0)),
        "lower": rounded(flat.quantile(0.05, 0)),
        "upper": rounded(flat.quantile(0.95, 0)),
        "r_hat": rounded(r_hat),
        "ess": rounded(ess, 0),
    }


# ------------------------------------------------------------------ Laplace, sigma by the evidence


def log_evidence(u: Tensor, f: Tensor, slopes: Tensor, y: Tensor, sigma: Tensor) -> Tensor:
    """Laplace's log p(y | sigma), nats, at a mode u (p,) of unknowns with the prior N(0, I).

    With weights w = s u the terms p/2 log 2 pi, and the logarithms of the scales s, cancel.

    Args:
        u: The mode.
        f: Means (n,) there.
        slopes: Their derivatives (n, p) with respect to u.
        y: Targets (n,).
        sigma: Noise scale, in scales of y.
    """
    precision = slopes.T @ slopes / sigma**2 + torch.eye(len(u)).to(u)
    fit = dist.Normal(f, sigma).log_prob(y).sum()
    return fit - (u.square().sum() + torch.logdet(precision)) / 2


def laplace(
    x: Tensor, y: Tensor, x_new: Tensor, *, seed: int, sigma: float | None = None
) -> tuple[float, float]:
    """Linearised Laplace approximation: sigma, and the epistemic deviation, in scales of the score.

    Sigma is given, or the one of ``SIGMAS`` with the largest log evidence plus log prior of log
    sigma. The mode is found anew for each sigma, from that of the one before. The epistemic
    variance is that of the linearised network, averaged over the rows of ``x_new``.
    """
    x, y, x_new = x.double(), y.double(), x_new.double()
    p = len(nb.weight_prior(x, bnn.HIDDEN, False)) - 1  # without log sigma
    torch.manual_seed(seed)
    u = (torch.randn(p) / 3).double().requires_grad_()

    def f(u, x):
        return wine_network(torch.cat([u, u.new_zeros(1)]), x)[0]

    derivative = torch.func.vmap(torch.func.grad(lambda u, row: f(u, row[None])[0]), (None, 0))
    sigmas = SIGMAS if sigma is None else torch.tensor([sigma]).double()
    best = -math.inf
    for sigma in sigmas:
        optimiser = torch.optim.LBFGS([u], max_iter=500, line_search_fn="strong_wolfe")

        def closure(optimiser=optimiser, sigma=sigma):
            optimiser.zero_grad()
            loss = (((f(u, x) - y) / sigma).square().sum() + u.square().sum()) / 2
            loss.backward()
            return loss

        optimiser.step(closure)
        mode = u.detach().clone()
        with torch.no_grad():
            slopes = derivative(mode, x)  # (n, p)
            score = log_evidence(mode, f(mode, x), slopes, y, sigma)
            score = score + dist.Normal(0.0, 1.0).log_prob(sigma.log())
        if score > best:
            best, chosen, there, features = score, sigma, mode, slopes
    assert SIGMAS[-1] < chosen < SIGMAS[0], "the grid of sigma is too short"
    precision = features.T @ features / chosen**2 + torch.eye(p).double()
    new = derivative(there, x_new).detach()  # (n, p)
    variance = (new * torch.linalg.solve(precision, new.T).T).sum(1)
    return chosen.item(), variance.mean().sqrt().item()


# ------------------------------------------------------------------ mean field


def mean_field(
    x: Tensor, y: Tensor, x_new: Tensor, *, seed: int, sigma: float | None = None, steps=STEPS
) -> tuple[float, float]:
    """One Gaussian per unknown: aleatoric and epistemic deviation, in scales of the score.

    The start is that of the notebook's guide. Sigma is learnt like a weight, or given.
    """
    torch.manual_seed(seed)
    prior = nb.weight_prior(x, bnn.HIDDEN, False)
    loc, log_scale = prior * torch.randn_like(prior) / 3, (prior / 20).log()
    unknown = len(prior) - (sigma is not None)
    prior, loc, log_scale = prior[:unknown], loc[:unknown], log_scale[:unknown]
    loc.requires_grad_(), log_scale.requires_grad_()

    def network(s, x):
        w = loc + log_scale.exp() * torch.randn(s, unknown)  # (s, unknown)
        if sigma is not None:
            w = torch.cat([w, torch.full((s, 1), math.log(sigma))], 1)
        return nb.mean_and_scale(w, x.asinh(), bnn.HIDDEN, False)  # (s, n) each

    def loss():
        mean, scale = network(STEP_DRAWS, x)
        fit = dist.Normal(mean, scale).log_prob(y).sum() / STEP_DRAWS
        kl = kl_divergence(dist.Normal(loc, log_scale.exp()), dist.Normal(0 * prior, prior))
        return kl.sum() - fit

    nb.minimise(loss, [loc, log_scale], steps=steps, rate=bnn.RATE)
    with torch.no_grad():
        return tuple(part.item() for part in parts(*network(DRAWS, x_new), 1.0))


def cell(data: SimpleNamespace, order: int, size: int) -> dict[str, tuple[float, float]]:
    """Aleatoric and epistemic deviation (quality points) by each approximation."""
    x, y = subset(data, order, size)
    unit = float(data.target[1])
    sigma, doubt = laplace(x, y, data.x_val, seed=order)
    found = {"laplace": (sigma, doubt)}
    found["mean_field"] = mean_field(x, y, data.x_val, seed=order)
    found["mean_field_fixed"] = mean_field(x, y, data.x_val, seed=order, sigma=sigma)
    return {name: tuple(unit * part for part in pair) for name, pair in found.items()}


def doubts() -> dict[str, object]:
    """Both doubts by three approximations, (orders, sizes, 2) each."""
    data = wines()
    unit = float(data.target[1])
    found: dict[str, list] = {}
    for order in range(ORDERS):
        row = [cell(data, order, size) for size in data.sizes]
        for name in row[0]:
            found.setdefault(name, []).append([[round(v, 4) for v in each[name]] for each in row])
        print(order, row, flush=True)
    doubled = {}
    for i in (0, -1):
        size = data.sizes[i]
        x, y = subset(data, 0, size)
        sigma = found["laplace"][0][i][0] / unit
        for name, given in (("mean_field", None), ("mean_field_fixed", sigma)):
            options = {"seed": 0, "sigma": given, "steps": 2 * STEPS}
            pair = mean_field(x, y, data.x_val, **options)
            doubled[f"{name}, {size}"] = [round(unit * part, 4) for part in pair]
    nuts = json.loads(PLACE.read_text(encoding="utf-8"))["wine"]["sigma"][0]  # quality points
    given = {"seed": 0, "sigma": nuts / unit}
    pair = mean_field(*subset(data, 0, data.sizes[0]), data.x_val, **given)
    found["mean_field_nuts"] = [round(unit * part, 4) for part in pair]
    return {"sizes": data.sizes, "steps": STEPS, **found, "twice_the_steps": doubled}


def told() -> dict[str, object]:
    """Laplace on the wines of NUTS, told its sigma: both doubts (quality points), three starts."""
    data = wines()
    unit = float(data.target[1])
    nuts = json.loads(PLACE.read_text(encoding="utf-8"))["wine"]["sigma"][0]  # quality points
    few = (*subset(data, 0, data.sizes[0]), data.x_val)
    pairs = (laplace(*few, seed=seed, sigma=nuts / unit) for seed in range(3))
    return {"laplace": [[round(unit * part, 4) for part in pair] for pair in pairs]}


# ------------------------------------------------------------------ writing


PARTS = {"wine": wine, "doubts": doubts, "told": told, "gap": gap}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="PART", help=f"of {[*PARTS]}; all if none")
    torch.set_num_threads(1)
    for name in parser.parse_args().names or PARTS:
        start = time.perf_counter()
        code = measure.code_digest(Path(__file__), bnn.BOOK.source)
        found = PARTS[name]()
        head = measure.origin(__spec__.name, ["torch", "pyro-ppl"])
        spent = round(time.perf_counter() - start)
        found = {"date": head["date"], "code": code, "seconds": spent, "seed": 0} | found
        before = json.loads(PLACE.read_text(encoding="utf-8")) if PLACE.exists() else {}
        kept = {key: before[key] for key in PARTS if key in before and key != name}
        measure.write(PLACE, head | kept | {name: found})
        print(f"{name}: {spent} s", flush=True)


if __name__ == "__main__":
    main()
