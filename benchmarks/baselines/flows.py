"""The flows of the notebook beside those of libraries, on densities that are known.

    python -m benchmarks.baselines.flows [--size quick]    # about 20 minutes

All get the same points and the same standardisation. Each peer is trained by the notebook's own
loop (one cycle, clipped gradients, moved points, the best validation score is kept), because its
habits help any flow: what differs is the flow. Equal time: in the process of each peer, its step is
timed in turn with a step of the notebook's best flow, and it gets as many steps as fit into the
time of that flow's training. One thread.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import course_utils  # noqa: F401 - before torch: it decides how threads wait

# isort: split
import torch
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
BUILD, MEAN_NLL = nb.build_flow, nb.mean_nll
N_TRAIN, N_VAL, N_TEST = 10_000, 2_000, 10_000


class Wrapped(nn.Module):
    """A library's flow of standardised points, with densities and samples of the points."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.register_buffer("shift", x.mean(0))
        self.register_buffer("scale", x.std(0))

    def log_prob(self, x: Tensor) -> Tensor:
        return self.score((x - self.shift) / self.scale) - self.scale.log().sum()

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        return self.shift + self.scale * self.draw(n)

    def score(self, x: Tensor) -> Tensor:
        return self.flow.log_prob(x)

    def draw(self, n: int) -> Tensor:
        return self.flow.sample(n)


class Called(Wrapped):
    """A flow that makes a distribution when it is called."""

    def score(self, x: Tensor) -> Tensor:
        return self.flow().log_prob(x)

    def draw(self, n: int) -> Tensor:
        return self.flow().sample((n,))


class Zuko(Called):
    """Three autoregressive spline transforms, as in the library's introduction."""

    def __init__(self, x: Tensor) -> None:
        super().__init__(x)
        import zuko

        self.flow = zuko.flows.NSF(2, transforms=3, hidden_features=(64, 64))


class Pyro(Called):
    """Spline couplings as in Pyro's tutorial, twice, with the coordinates swapped between."""

    def __init__(self, x: Tensor) -> None:
        super().__init__(x)
        from pyro.distributions import transforms

        swap = transforms.Permute(torch.tensor([1, 0]))
        splines = [transforms.spline_coupling(2, count_bins=16, bound=5.0) for _ in range(2)]
        self.parts = nn.ModuleList(splines)
        self.layers = [splines[0], swap, splines[1]]

    def flow(self) -> dist.Distribution:
        base = dist.Independent(dist.Normal(self.shift.new_zeros(2), 1.0), 1)
        return dist.TransformedDistribution(base, self.layers)


class NFlows(Wrapped):
    """Three autoregressive spline transforms with reversed orders between them."""

    def __init__(self, x: Tensor) -> None:
        super().__init__(x)
        from nflows import transforms
        from nflows.distributions import StandardNormal
        from nflows.flows import Flow

        layers = []
        for _ in range(3):
            spline = transforms.MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
                2, 64, num_bins=8, tails="linear", tail_bound=5.0
            )
            layers += [transforms.ReversePermutation(2), spline]
        self.flow = Flow(transforms.CompositeTransform(layers), StandardNormal([2]))


class NormFlows(Wrapped):
    """The Real NVP of the library's README: 32 coupling blocks."""

    def __init__(self, x: Tensor) -> None:
        super().__init__(x)
        import normflows as nf

        layers = []
        for _ in range(32):
            layers += [nf.flows.AffineCouplingBlock(nf.nets.MLP([1, 64, 64, 2], init_zeros=True))]
            layers += [nf.flows.Permute(2, mode="swap")]
        self.flow = nf.NormalizingFlow(nf.distributions.base.DiagGaussian(2), layers)

    def draw(self, n: int) -> Tensor:
        return self.flow.sample(n)[0]


class Competitor(NamedTuple):
    """A flow of points and a seed, and how the notebook's loop trains it."""

    build: Callable[[Tensor, int], nn.Module]
    rate: float = 5e-3
    batch: int = 512
    steps: int | None = None  # as many as fit into the time of the notebook's best


def taught(kind: str, components: int, **numbers) -> Competitor:
    """A flow of the notebook, with the numbers of its call there."""
    return Competitor(lambda x, seed: BUILD(kind, x, components, seed), rate=1e-2, **numbers)


def library(make: type[Wrapped], **numbers) -> Competitor:
    return Competitor(lambda x, seed: make(x), **numbers)


BEST = taught("spline", components=32, steps=800, batch=1024)
COMPETITORS = {
    "notebook, best": BEST,
    "notebook, RealNVP": taught("realnvp", components=1, steps=1500),
    "zuko": library(Zuko),
    "nflows": library(NFlows),
    "normflows": library(NormFlows, rate=2e-3),  # its 32 unbounded scales overflow at more
    "Pyro": library(Pyro),
}


def training_step(competitor, x: Tensor):
    """One step of Adam on one batch, as a function without arguments."""
    flow, batch = competitor.build(x, 0), x[: competitor.batch]
    optimiser = torch.optim.Adam(flow.parameters(), 1e-4, fused=True)

    def step():
        optimiser.zero_grad()
        (-flow.log_prob(batch).mean()).backward()
        nn.utils.clip_grad_norm_(flow.parameters(), 0.5)
        optimiser.step()

    return lambda: [step() for _ in range(4)]


def train(competitor, x_train: Tensor, x_val: Tensor, steps: int, seed: int):
    """The notebook's loop, watched through the validation scores that it takes."""
    watch = measure.Watch()

    def watched(flow, x):
        watch(lambda: measure.cloned(flow))
        return MEAN_NLL(flow, x)

    GLOBALS["mean_nll"] = watched
    GLOBALS["build_flow"] = lambda kind, x, components, seed: competitor.build(x, seed)
    options = {"batch": competitor.batch, "rate": competitor.rate}
    flow = nb.fit_flow(x_train, x_val, steps=steps, seed=seed, **options)
    GLOBALS["mean_nll"], GLOBALS["build_flow"] = MEAN_NLL, BUILD
    return flow, watch


def mass(flow: nn.Module, x: Tensor, points: int) -> float:
    """The integral of the flow's density, seven scales of the points x to each side."""
    (left, bottom), (right, top) = (x.mean(0) + side * x.std(0) for side in (-7, 7))
    box = tuple(float(edge) for edge in (left, right, bottom, top))

    def log_prob(part: Tensor) -> Tensor:  # far away, a product of many scales may overflow
        return flow.log_prob(part).nan_to_num(nan=-torch.inf)

    with torch.no_grad():
        return nb.integrate(log_prob, box, points)


def check(flow: nn.Module, x: Tensor, tolerance: float = 0.03, points: int = 600) -> float:
    """One number per point, and their integral, which must be one. Raises AssertionError if not."""
    assert flow.log_prob(x[:7]).shape == (7,) and flow.sample(7).shape == (7, 2)
    found = mass(flow, x, points)
    assert abs(found - 1) < tolerance, found
    return found


def fit(competitor, density: Density, seed: int, *, quick: bool, speed: bool) -> dict:
    """One competitor on one density: gap over time, and its speed if wanted."""
    x_train, x_val, x_test = (
        density.sample(n, 100 * i + seed)
        for i, n in enumerate((N_TRAIN, N_VAL, 1000 if quick else N_TEST), 1)
    )
    torch.manual_seed(seed)
    untrained = competitor.build(x_train, seed)
    own, best = measure.median_seconds(*(training_step(c, x_train) for c in (competitor, BEST)))
    steps = competitor.steps or round(BEST.steps * best / own)
    steps = max(1, steps // 50) if quick else steps
    flow, watch = train(competitor, x_train, x_val, steps, seed)
    # After training: the random start of Pyro's splines is too rough for a grid. What fails here is
    # not stored.
    integral = check(flow, x_test, 0.2 if quick else 0.03)
    log_p, curve = density.log_prob(x_test).double(), []

    def gap(model: nn.Module) -> float:
        return (log_p - model.log_prob(x_test).double()).mean().item()

    lowest, now = torch.inf, torch.nan
    with torch.no_grad():
        for seconds, state in watch.notes:
            untrained.load_state_dict(state)
            # As in training, the validation points choose between the present and the past.
            if (score := MEAN_NLL(untrained, x_val)) < lowest:
                lowest, now = score, gap(untrained)
            curve.append((round(seconds, 3), round(now, 5)))
        result = {
            "seconds": watch.seconds,
            "steps": steps,
            "gap": gap(flow),
            "curve": curve,
            "mass": integral,
            "parameters": sum(p.numel() for p in flow.parameters()),
            "step_of_best": own / best,
            "ms_per_step": 1000 * own / 4,
        }
        if speed:
            times = measure.median_seconds(
                lambda: flow.log_prob(x_test), lambda: flow.sample(len(x_test))
            )
            for figure, seconds in zip(("density", "sample"), times, strict=True):
                result[f"us_per_{figure}"] = 1e6 * seconds / len(x_test)
    return result


def one(name: str, seed: int, size: str) -> dict:
    """Check, train and judge one competitor on all densities."""
    torch.set_num_threads(1)
    return {
        place: fit(COMPETITORS[name], density, seed, quick=size == "quick", speed=place == "moons")
        for place, density in DENSITIES.items()
    }


if __name__ == "__main__":
    sources = [Path(__file__).with_name("densities.py"), BOOK.source]
    packages = ["torch", "pyro-ppl", "zuko", "nflows", "normflows"]
    measure.command(__spec__, COMPETITORS, one, sources=sources, packages=packages)
