"""The flows of the notebook beside those of libraries, on densities that are known.

    python -m benchmarks.baselines.flows [--size quick]    # about 20 minutes

Each peer is trained by the notebook's own loop (one cycle, clipped gradients, moved points, the
best validation score is kept), because its habits help any flow: what differs is the flow. Equal
time: as many steps as fit into the training of the notebook's best flow. See ``RESULTS.md``.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
from pyro.distributions import transforms
from torch import Tensor, nn
from torch import distributions as dist

from benchmarks import measure
from benchmarks.baselines.densities import DENSITIES, Density
from tools import catalogue
from tools.notebook_definitions import definitions

BOOK = catalogue.find("flows")
nb = definitions(BOOK.file)
GLOBALS = nb.fit_flow.__globals__
GLOBALS["device"] = torch.device("cpu")  # the notebook sets it in a cell
N_TRAIN, N_VAL, N_TEST = 10_000, 2_000, 10_000


class Wrapped(nn.Module):
    """A library's flow of standardised points, with densities and samples of the points x."""

    def __init__(self, make: Callable, x: Tensor) -> None:
        super().__init__()
        self.register_buffer("shift", x.mean(0))
        self.register_buffer("scale", x.std(0))
        self.flow, self.score, self.draw = make()

    def log_prob(self, x: Tensor) -> Tensor:
        return self.score((x - self.shift) / self.scale) - self.scale.log().sum()

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        return self.shift + self.scale * self.draw(n)


# A library's module, its log density of standardised points, and its samples


def zuko():
    """Three autoregressive spline transforms, as in the library's introduction."""
    from zuko.flows import NSF

    flow = NSF(2, transforms=3, hidden_features=(64, 64))
    return flow, lambda x: flow().log_prob(x), lambda n: flow().sample((n,))


def pyro():
    """Spline couplings as in Pyro's tutorial, twice, with the coordinates swapped between."""
    splines = [transforms.spline_coupling(2, count_bins=16, bound=5.0) for _ in range(2)]
    swap = transforms.Permute(torch.tensor([1, 0]))
    base = dist.Independent(dist.Normal(torch.zeros(2), 1.0), 1)

    def flow():  # made anew each time: it keeps the points that it has seen
        return dist.TransformedDistribution(base, [splines[0], swap, splines[1]])

    return nn.ModuleList(splines), lambda x: flow().log_prob(x), lambda n: flow().sample((n,))


def nflows():
    """Three autoregressive spline transforms with reversed orders between them."""
    from nflows import transforms
    from nflows.distributions import StandardNormal
    from nflows.flows import Flow

    layers = []
    for _ in range(3):
        spline = transforms.MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
            2, 64, num_bins=8, tails="linear", tail_bound=5.0
        )
        layers += [transforms.ReversePermutation(2), spline]
    flow = Flow(transforms.CompositeTransform(layers), StandardNormal([2]))
    return flow, flow.log_prob, flow.sample


def normflows():
    """The Real NVP of the library's README: 32 coupling blocks."""
    import normflows as nf

    layers = []
    for _ in range(32):
        layers += [nf.flows.AffineCouplingBlock(nf.nets.MLP([1, 64, 64, 2], init_zeros=True))]
        layers += [nf.flows.Permute(2, mode="swap")]
    flow = nf.NormalizingFlow(nf.distributions.base.DiagGaussian(2), layers)
    return flow, flow.log_prob, lambda n: flow.sample(n)[0]


class Competitor(NamedTuple):
    """How to build a flow of points and a seed, and how the notebook's loop trains it."""

    build: Callable[[Tensor, int], nn.Module]
    rate: float = 5e-3
    batch: int = 512
    steps: int | None = None  # as many as fit into the time of the notebook's best


def taught(kind: str, components: int, **numbers) -> Competitor:
    """A flow of the notebook, with the numbers of its call there."""
    build = nb.build_flow
    return Competitor(lambda x, seed: build(kind, x, components, seed), rate=1e-2, **numbers)


def library(make: Callable, **numbers) -> Competitor:
    return Competitor(lambda x, seed: Wrapped(make, x), **numbers)


BEST = taught("spline", components=32, steps=800, batch=1024)
COMPETITORS = {
    "notebook, best": BEST,
    "notebook, RealNVP": taught("realnvp", components=1, steps=1500),
    "zuko": library(zuko),
    "nflows": library(nflows),
    "normflows": library(normflows, rate=2e-3),  # its 32 unbounded scales overflow at more
    "Pyro": library(pyro),
}


def step_seconds(competitor: Competitor, x: Tensor) -> Callable[[], float]:
    """A clock that says how long a step of Adam on one batch takes, out of four."""
    flow, batch = competitor.build(x, 0), x[: competitor.batch]
    optimiser = torch.optim.Adam(flow.parameters(), 1e-4, fused=True)

    def step() -> None:
        optimiser.zero_grad()
        (-flow.log_prob(batch).mean()).backward()
        nn.utils.clip_grad_norm_(flow.parameters(), 0.5)
        optimiser.step()

    return lambda: measure.seconds(lambda: [step() for _ in range(4)]) / 4


def train(competitor: Competitor, x_train: Tensor, x_val: Tensor, steps: int, seed: int):
    """The flow, trained by the notebook's loop."""
    build = {"build_flow": lambda kind, x, components, seed: competitor.build(x, seed)}
    options = {"batch": competitor.batch, "rate": competitor.rate}
    with mock.patch.dict(GLOBALS, build):
        return nb.fit_flow(x_train, x_val, steps=steps, seed=seed, **options)


def check(flow: nn.Module, x: Tensor, tolerance: float = 0.03, points: int = 600) -> None:
    """One number per point, and they integrate to one. Raises AssertionError if not.

    The integral goes seven scales of the points x to each side.
    """
    assert flow.log_prob(x[:7]).shape == (7,) and flow.sample(7).shape == (7, 2)
    (left, bottom), (right, top) = ((x.mean(0) + side * x.std(0)).tolist() for side in (-7, 7))

    def log_prob(part: Tensor) -> Tensor:  # far away, a product of many scales may overflow
        return flow.log_prob(part).nan_to_num(nan=-torch.inf)

    with torch.no_grad():
        mass = nb.integrate(log_prob, (left, right, bottom, top), points)
    assert abs(mass - 1) < tolerance, mass


def fit(competitor: Competitor, density: Density, seed: int, quick: bool) -> dict:
    """One competitor on one density: its gap to the truth after so many seconds, and its speed."""
    x_train, x_val, x_test = (
        density.sample(n, 100 * i + seed) for i, n in enumerate((N_TRAIN, N_VAL, N_TEST), 1)
    )
    torch.manual_seed(seed)
    own, best = measure.medians(*(step_seconds(c, x_train) for c in (competitor, BEST)))
    steps = competitor.steps or round(BEST.steps * best / own)
    steps = max(1, steps // 50) if quick else steps
    start = time.perf_counter()
    flow = train(competitor, x_train, x_val, steps, seed)
    seconds = time.perf_counter() - start
    # Not before the training: the random start of Pyro's splines is too rough for a grid.
    check(flow, x_test, 0.2 if quick else 0.03)
    with torch.no_grad():
        gap = density.log_prob(x_test).double() - flow.log_prob(x_test).double()
        clocks = (lambda: flow.log_prob(x_test), lambda: flow.sample(N_TEST))
        per_density, per_sample = measure.medians(*(partial(measure.seconds, c) for c in clocks))
    return {
        "seconds": seconds,
        "steps": steps,
        "gap": gap.mean().item(),
        "parameters": sum(p.numel() for p in flow.parameters()),
        "step_of_best": own / best,
        "ms_per_step": 1000 * own,
        "us_per_density": 1e6 * per_density / N_TEST,
        "us_per_sample": 1e6 * per_sample / N_TEST,
    }


def one(name: str, seed: int, size: str) -> dict:
    """Train, check and judge one competitor on all densities."""
    torch.set_num_threads(1)
    return {
        place: fit(COMPETITORS[name], density, seed, size == "quick")
        for place, density in DENSITIES.items()
    }


if __name__ == "__main__":
    sources = [Path(__file__).with_name("densities.py"), BOOK.source]
    packages = ["torch", "pyro-ppl", "zuko", "nflows", "normflows"]
    measure.command(__spec__, COMPETITORS, one, sources=sources, packages=packages)
