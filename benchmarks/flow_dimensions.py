"""Section 9 of the notebook on flows: densities in eight dimensions, and of wines.

    python -m benchmarks.flow_dimensions [chain] [others] [wine]    # about 12 minutes

Writes benchmarks/flow_dimensions.json.

One thread. Every model gets ``BUDGET`` seconds of the processor: a flow as many steps as fit (its
step is timed first), the mixture its whole search. Each seed has its own training and validation
points and first weights; the test points of a density are common. The densities of ``OTHERS`` were
written down before any setting was tried. What was fitted already by the same code is kept, so it
can be interrupted. ``NSF`` is zuko's flow as it comes, trained by the notebook's loop.
"""

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch import distributions as dist

from benchmarks import measure
from course_utils.data import duplicate_groups
from tools import catalogue
from tools.notebook_definitions import definitions

BOOK = catalogue.find("flows")
nb = definitions(BOOK.file)
GLOBALS = nb.fit_flow.__globals__
GLOBALS["device"] = torch.device("cpu")  # the notebook sets it in a cell
SEEDS, BUDGET, N_TRAIN, N_VAL, N_TEST = range(5), 8.0, 10_000, 2_000, 10_000
NUMBERS = (4, 8, 16, 32, 64)  # of Gaussians, to choose from
COMMON = {"components": 1, "batch": 256, "jitter": 0.05, "rate": 1e-2}
FLOWS = {
    "RealNVP by hand": {"kind": "realnvp"},
    "masked autoregressive": {"kind": "maf"},
    "spline of section 7": {"kind": "spline"},
    "zuko's NSF": {"kind": "nsf"},
    "one wide layer of splines": {"kind": "one_spline"},
}
GAUSSIANS = {"one Gaussian": (1,), "mixture of Gaussians": NUMBERS}
OURS, THEIRS = "one wide layer of splines", "zuko's NSF"
MIXTURE = "mixture of Gaussians"
FOLDS = {"together": True, "torn apart": False}


class LibraryFlow(nb.Spline):
    """``zuko.flows.NSF(d)`` with all its defaults."""

    def __init__(self, d: int) -> None:
        import zuko

        torch.nn.Module.__init__(self)
        self.flow = zuko.flows.NSF(d).transform


nb.KINDS["nsf"] = LibraryFlow


# ------------------------------------------------------------------ densities fixed beforehand

ORDER = torch.tensor([3, 0, 6, 1, 5, 7, 2, 4])
HEAVY = torch.linalg.cholesky(0.6 ** (torch.arange(8)[:, None] - torch.arange(8)).abs().double())
FREEDOM = 4.0


def draw_shuffled(n: int, seed: int) -> Tensor:
    """x1 ~ N(0, 1), then N(1.5 sin(1.5 x), 0.3²) of the one before; the columns shuffled."""
    noise = torch.randn(n, 8, generator=torch.Generator().manual_seed(seed)).double()
    x = [noise[:, 0]]
    for i in range(1, 8):
        x.append(1.5 * torch.sin(1.5 * x[-1]) + 0.3 * noise[:, i])
    return torch.stack(x, 1)[:, ORDER]


def shuffled_log_prob(x: Tensor) -> Tensor:
    x = x.double()[:, ORDER.argsort()]
    rest = dist.Normal(1.5 * torch.sin(1.5 * x[:, :-1]), 0.3).log_prob(x[:, 1:])
    return dist.Normal(0.0, 1.0).log_prob(x[:, 0]) + rest.sum(1)


def draw_rings(n: int, seed: int) -> Tensor:
    """Four points in the plane, radii N(2, 0.2²); each angle is von Mises around the last one."""
    torch.manual_seed(seed)
    angle = [2 * math.pi * torch.rand(n).double()]
    for _ in range(3):
        angle.append(dist.VonMises(angle[-1], torch.tensor(4.0).double()).sample())
    angle, radius = torch.stack(angle, 1), 2 + 0.2 * torch.randn(n, 4).double()
    return torch.stack([radius * angle.cos(), radius * angle.sin()], 2).reshape(n, 8)


def rings_log_prob(x: Tensor) -> Tensor:
    pairs = x.double().reshape(-1, 4, 2)
    radius, angle = pairs.norm(dim=2), torch.atan2(pairs[..., 1], pairs[..., 0])
    turn = dist.VonMises(angle[:, :-1], torch.tensor(4.0).double()).log_prob(angle[:, 1:])
    polar = dist.Normal(2.0, 0.2).log_prob(radius).sum(1) + turn.sum(1) - math.log(2 * math.pi)
    return polar - radius.log().sum(1)


def draw_heavy(n: int, seed: int) -> Tensor:
    """Student's t with four degrees of freedom, neighbours correlated by 0.6."""
    torch.manual_seed(seed)
    stretch = torch.sqrt(FREEDOM / dist.Chi2(FREEDOM).sample((n, 1)).double())
    return torch.randn(n, 8).double() @ HEAVY.T * stretch


def heavy_log_prob(x: Tensor) -> Tensor:
    square = torch.linalg.solve_triangular(HEAVY, x.double().T, upper=False).square().sum(0)
    constant = math.lgamma((FREEDOM + 8) / 2) - math.lgamma(FREEDOM / 2)
    constant -= 4 * math.log(FREEDOM * math.pi) + HEAVY.diagonal().log().sum().item()
    return constant - (FREEDOM + 8) / 2 * torch.log1p(square / FREEDOM)


Density = tuple[Callable[[int, int], Tensor], Callable[[Tensor], Tensor]]
CHAIN: Density = (lambda n, seed: nb.draw_chain(seed, n), nb.chain_log_prob)
OTHERS: dict[str, Density] = {
    "shuffled chain": (draw_shuffled, shuffled_log_prob),
    "four rings": (draw_rings, rings_log_prob),
    "heavy tails": (draw_heavy, heavy_log_prob),
}


# ------------------------------------------------------------------ fits


def processor_seconds(f: Callable, z: Tensor) -> float:
    start = time.process_time()
    f(z)
    return time.process_time() - start


def fitted_gaussians(numbers: tuple, train: Tensor, val: Tensor, seed: int) -> tuple:
    """Full covariances; of several numbers of parts the one that scores validation points best."""
    train, val = train.double().numpy(), val.double().numpy()
    models = [nb.GaussianMixture(k, random_state=seed).fit(train) for k in numbers]
    best = max(models, key=lambda model: model.score(val))
    return lambda x: torch.as_tensor(best.score_samples(x.double().numpy())), {
        "parts": best.n_components
    }


def fitted_flow(settings: dict, train: Tensor, val: Tensor, seed: int, budget: float) -> tuple:
    """A flow of the notebook within a budget of seconds; its inverse over its forward time."""
    options = COMMON | settings | {"seed": seed}
    nb.fit_flow(train, val, steps=2, **options)
    start = time.process_time()
    nb.fit_flow(train, val, steps=20, **options)
    steps = max(20, round(20 * budget / (time.process_time() - start)))
    flow = nb.fit_flow(train, val, steps=steps, **options)
    z, _ = flow.f((val - flow.shift) / flow.scale)
    clocks = [lambda f=f: processor_seconds(f, z.clone()) for f in (flow.f.inverse, flow.f)]
    inverse, forward = measure.medians(*clocks, rounds=3)
    return flow.log_prob, {"steps": steps, "inverse": inverse / forward}


def fitted(name: str, density: Density, seed: int, *, budget: float = BUDGET,
           sizes: tuple = (N_TRAIN, N_VAL, N_TEST)) -> dict:  # fmt: skip
    """Paired gap, in nats, processor seconds, and what else there is to say."""
    (draw, log_prob), seeds = density, (400 + seed, 500 + seed, 600)
    train, val, test = (draw(n, at).float() for n, at in zip(sizes, seeds, strict=True))
    start = time.process_time()
    if name in GAUSSIANS:
        log_q, found = fitted_gaussians(GAUSSIANS[name], train, val, seed)
    else:
        log_q, found = fitted_flow(FLOWS[name], train, val, seed, budget)
    found["seconds"] = time.process_time() - start
    found["gap"] = (log_prob(test) - log_q(test).double()).mean().item()
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in found.items()}


def wine_scores(steps: int = nb.WINE_STEPS, folds: int = 5, draws: int = 20) -> dict:
    """Bounds of log P of every wine, in nats, by models that have not seen it (nor its twin)."""
    counted = (nb.load_wine_quality("red").x / torch.tensor(nb.STEP).double()).round()
    scores: dict[str, dict[str, Tensor]] = {}
    for way, together in FOLDS.items():
        label = duplicate_groups(counted) if together else torch.arange(len(counted))
        mixed = torch.randperm(int(label.max()) + 1, generator=torch.Generator().manual_seed(0))
        tenth = mixed[label] % (2 * folds)
        for k in range(folds):  # two tenths for the test, one for validation, seven to learn from
            test, val = tenth % folds == k, tenth == (k + 1) % folds
            models = nb.fit_wines(counted[~test & ~val], counted[val], steps, k)
            torch.manual_seed(k)
            for name, log_q in models.items():
                mine = scores.setdefault(way, {}).setdefault(name, torch.zeros(len(counted)))
                one = torch.ones(11).double()
                bound = nb.course_cell_bound(log_q, counted[test], one, draws)
                mine[test] = bound.to(mine)
    return scores


def mean_of_groups(values: Tensor, label: Tensor) -> list[float]:
    """Mean over rows, and its standard error if rows of one label (n,) are one observation."""
    mean = values.mean()
    together = torch.zeros(int(label.max()) + 1, dtype=values.dtype)
    error = together.index_add(0, label, values - mean).norm() / len(values)
    return [round(mean.item(), 3), round(error.item(), 3)]


def judged_wines(scores: dict, label: Tensor) -> dict:
    """Mean and standard error of each score, and of paired differences."""
    pairs = {f"{name}, {way}": score for way, row in scores.items() for name, score in row.items()}
    for way, row in scores.items():
        pairs[f"flow less mixture, {way}"] = row["flow"] - row["mixture of Gaussians"]
    for name, score in scores["torn apart"].items():
        pairs[f"{name}, torn apart less together"] = score - scores["together"][name]
    return {name: mean_of_groups(values.double(), label) for name, values in pairs.items()}


def main() -> None:
    torch.set_num_threads(1)
    wanted = sys.argv[1:] or ["chain", "others", "wine"]
    jobs = [("chain", CHAIN, name) for name in (*GAUSSIANS, *FLOWS)] * ("chain" in wanted)
    others = [
        (place, both, name) for place, both in OTHERS.items() for name in (MIXTURE, THEIRS, OURS)
    ]
    jobs += others * ("others" in wanted)
    path = measure.place("flow_dimensions")
    digest = measure.code_digest(Path(__file__), BOOK.source)
    stored = measure.origin(__spec__.name, ["torch", "zuko", "scikit-learn"])
    stored |= {"code": digest, "budget": BUDGET, "runs": {}}
    if path.exists() and measure.load("flow_dimensions")["code"] == digest:
        stored = measure.load("flow_dimensions")
    for seed in SEEDS:
        for place, density, name in jobs:
            done = stored["runs"].setdefault(place, {}).setdefault(name, {})
            if str(seed) not in done:
                done[str(seed)] = fitted(name, density, seed)
                print(place, name, seed, done[str(seed)], flush=True)
                measure.write(path, stored)
    if "wine" in wanted and "wine" not in stored:
        counted = (nb.load_wine_quality("red").x / torch.tensor(nb.STEP).double()).round()
        stored["wine"] = judged_wines(wine_scores(), duplicate_groups(counted))
        print(stored["wine"])
        measure.write(path, stored)


if __name__ == "__main__":
    main()
