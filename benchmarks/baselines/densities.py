"""Three known densities in the plane: moons, banana, rings."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch import distributions as dist

from course_utils.data import make_two_moons, two_moons_log_prob

MOONS = {"noise": 0.05}
BEND = 0.3  # noise of the banana
RADII, WIDTH = torch.tensor([1.0, 2.0]), 0.08
# Of the distance from the centre of the rings; what lies below zero is less than 1e-30.
RADIUS = dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), dist.Normal(RADII, WIDTH))


class Density(NamedTuple):
    """A density of points x (n, 2): sample(n, seed), and log_prob(x) in nats."""

    sample: Callable[[int, int], Tensor]
    log_prob: Callable[[Tensor], Tensor]
    box: tuple[float, float, float, float]  # holds all but 1e-4 of the probability


def sample_banana(n: int, seed: int) -> Tensor:
    """x1 ~ N(0, 1), x2 ~ N(x1² - 1, 0.3²): (n, 2)."""
    z = torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))
    return torch.stack([z[:, 0], z[:, 0].square() - 1 + BEND * z[:, 1]], 1)


def banana_log_prob(x: Tensor) -> Tensor:
    """Log density of the banana, (n, 2) -> (n,), in nats."""
    x1, x2 = x.double().T
    bend = dist.Normal(x1.square() - 1, BEND).log_prob(x2)
    return dist.Normal(x1.new_tensor(0.0), 1.0).log_prob(x1) + bend


def sample_rings(n: int, seed: int) -> Tensor:
    """Two rings of equal weight around zero: (n, 2)."""
    generator = torch.Generator().manual_seed(seed)
    angle = 2 * math.pi * torch.rand(n, generator=generator)
    centre = RADII[torch.randint(len(RADII), (n,), generator=generator)]
    r = centre + WIDTH * torch.randn(n, generator=generator)
    return torch.stack([r * angle.cos(), r * angle.sin()], 1)


def rings_log_prob(x: Tensor) -> Tensor:
    """Log density of the rings, (n, 2) -> (n,), in nats: that of the radius over its circle."""
    r = x.double().norm(dim=-1).clamp(min=1e-12)
    return RADIUS.log_prob(r) - (2 * math.pi * r).log()


DENSITIES = {
    "moons": Density(
        lambda n, seed: make_two_moons(n, seed=seed, **MOONS).x,
        lambda x: two_moons_log_prob(x, **MOONS).double(),
        (-1.5, 2.5, -1.0, 1.5),
    ),
    "banana": Density(sample_banana, banana_log_prob, (-4.5, 4.5, -3.0, 20.0)),
    "rings": Density(sample_rings, rings_log_prob, (-2.6, 2.6, -2.6, 2.6)),
}
