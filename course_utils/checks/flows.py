"""Checks of the exercises on normalizing flows."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.stats import genpareto
from torch import Tensor, nn
from torch.distributions import AffineTransform, ComposeTransform, ExpTransform, Normal

from course_utils.checks.judge import (
    Untried,
    Verdict,
    Wrong,
    call,
    close,
    exercise,
    judge,
    numbers,
    refuse_what_cannot_be_called,
    trial,
)

SHAPE = "one number per point, shape (n,)"
HALF = math.log(2 * math.pi * math.e) / 2  # entropy of N(0, 1), nats


def _noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def _normal(z: Tensor) -> Tensor:
    """Log density of N(0, I): (n, d) -> (n,), nats."""
    return Normal(torch.zeros((), dtype=z.dtype), 1.0).log_prob(z).sum(-1)


# ------------------------------------------------------------------ change of variables


@exercise
def check_lognormal(answer: Any) -> Verdict:
    """Log density of exp(z), z standard normal: (n,) -> (n,), nats."""
    normal, library = Normal(0.0, 1.0), torch.distributions.LogNormal(0.0, 1.0)
    traps = [
        (lambda x: normal.log_prob(x.log()), "the Jacobian is missing."),
        (lambda x: normal.log_prob(x.log()) + x.log(), "the slope of f is not x."),
        (lambda x: normal.log_prob(x.log()) + 1 / x, "add the *logarithm* of the slope."),
        (lambda x: normal.log_prob(x.log()) / x, "in logarithms a factor becomes a term."),
        (lambda x: normal.log_prob(x) - x.log(), "p_z is taken at f(x), not at x."),
        (lambda x: library.log_prob(x).exp(), "this is the density: take its logarithm."),
        (
            lambda x: library.log_prob(x) - normal.log_prob(x * 0),
            "the constant of N(0, 1) is missing.",
        ),
        (lambda x: normal.log_prob(x.log10()) - x.log10(), "natural logarithms, please."),
        (lambda x: library.log_prob(x).mean(), f"{SHAPE}: do not average."),
        (lambda x: library.log_prob(x).sum(), f"{SHAPE}: do not add up."),
    ]
    cases = [(_noise(7).exp(),), (_noise(3, seed=1).exp(),)]
    return judge(answer, library.log_prob, cases, traps=traps, praise="a change of variables.")


def _stacked(x: Tensor, transforms: list, sign: float = -1, add: Callable = torch.sum) -> Tensor:
    """Log density of x (n, d) under transforms z -> x, coordinate by coordinate; and wrong ones."""
    f = ComposeTransform(transforms)
    each = Normal(0.0, 1.0).log_prob(f.inv(x)) + sign * f.log_abs_det_jacobian(f.inv(x), x)
    return add(each, -1)


@exercise
def check_transformed_log_prob(answer: Any) -> Verdict:
    """Log density under transforms z -> x of N(0, I): (n, d), list -> (n,), nats."""
    stretch = AffineTransform(torch.tensor([1.0, -2.0, 0.5]), torch.tensor([3.0, 0.5, -2.0]))
    cases = [  # the second tells orders and arguments, before a logarithm of less than zero can
        (2 * _noise(5, 3), [stretch]),
        (_noise(4, 3, seed=1), [_Cubic(), stretch, AffineTransform(0.5, 0.3)]),
        (_noise(6, 3, seed=2).exp(), [stretch.inv, ExpTransform()]),
        (_noise(3, 1, seed=3).exp(), [ExpTransform()]),
    ]
    traps = [
        (lambda x, t: _stacked(x, t, 1), "it does not integrate to one: which way does T go?"),
        (lambda x, t: _stacked(x, t, 0), "the log-determinants are missing."),
        (lambda x, t: _stacked(x, t, add=torch.mean), "sum over coordinates; do not average."),
        (lambda x, t: _stacked(x, t[::-1]), "what was done last is undone first."),
        (lambda x, t: _stacked(x, t).exp(), "this is the density: take its logarithm."),
        (_first_only, "a sum runs over all transforms, not over one."),
        (_held, "each transform must undo what the one before has left: who moves x on?"),
        (_at_x, "the base scores z, not x."),
        (_swapped, "`log_abs_det_jacobian` wants the input of T first, then its output."),
        (_forward, "`T(x)` goes on; you must go back, with `T.inv`."),
        (_overwritten, "a log-determinant needs both, what went into T and what came out."),
    ]

    def examine(function: Any) -> None:
        for x, transforms in cases:
            given = list(transforms)
            _compare(function, (x, given), _stacked(x, transforms), traps, rtol=1e-4)
            function(x.clone(), given)
            if given != transforms:
                raise Wrong("it changes the list it was given: use `reversed(transforms)`.")

    return trial(answer, examine, praise="now it integrates to one.")


class _Cubic(torch.distributions.Transform):
    """z -> x = z + z³: slope 1 + 3 z², from both arguments, so that a wrong order or one shows."""

    domain = codomain = torch.distributions.constraints.real
    bijective, sign = True, 1

    def _call(self, z):
        return z + z**3

    def _inverse(self, x):  # Cardano
        root = torch.sqrt(x**2 / 4 + 1 / 27)
        return _cube_root(x / 2 + root) + _cube_root(x / 2 - root)

    def log_abs_det_jacobian(self, z, x):
        return (2 * z**2 + x / z).log()


def _cube_root(x: Tensor) -> Tensor:
    return x.sign() * x.abs() ** (1 / 3)


def _first_only(x: Tensor, transforms: list) -> Tensor:
    z = ComposeTransform(transforms).inv(x)
    more = transforms[0].log_abs_det_jacobian(z, transforms[0](z))
    return (Normal(0.0, 1.0).log_prob(z) - more).sum(-1)


def _held(x: Tensor, transforms: list) -> Tensor:
    z = [transform.inv(x) for transform in transforms]
    pairs = zip(transforms, z, strict=True)
    more = sum(transform.log_abs_det_jacobian(each, x) for transform, each in pairs)
    return (Normal(0.0, 1.0).log_prob(z[0]) - more).sum(-1)


def _at_x(x: Tensor, transforms: list) -> Tensor:
    z = ComposeTransform(transforms).inv(x)
    return _stacked(x, transforms) + _normal(x) - _normal(z)


def _swapped(x: Tensor, transforms: list) -> Tensor:
    total = torch.zeros_like(x)
    for transform in reversed(transforms):
        z = transform.inv(x)
        total, x = total - transform.log_abs_det_jacobian(x, z), z
    return (Normal(0.0, 1.0).log_prob(x) + total).sum(-1)


def _overwritten(x: Tensor, transforms: list) -> Tensor:
    total = torch.zeros_like(x)
    for transform in reversed(transforms):
        x = transform.inv(x)
        total = total - transform.log_abs_det_jacobian(x, x)
    return (Normal(0.0, 1.0).log_prob(x) + total).sum(-1)


def _forward(x: Tensor, transforms: list) -> Tensor:
    total = torch.zeros_like(x)
    for transform in transforms:
        z = transform(x)
        total, x = total - transform.log_abs_det_jacobian(x, z), z
    return (Normal(0.0, 1.0, validate_args=False).log_prob(x) + total).sum(-1)


def _compare(function: Any, case: tuple, right: Tensor, traps: list, *, rtol: float) -> None:
    """Compare with the right value on one case, and tell a known mistake."""
    got = numbers(call(function, *case), finite=False)
    if close(got, right, rtol):
        return
    if got.ndim > right.ndim > 0:
        raise Wrong(f"its shape is {tuple(got.shape)}: {SHAPE}; is a sum missing?")
    for trap, message in traps:
        if close(got, trap(*case), rtol):
            raise Wrong(message)
    numbers(got, right.shape)
    raise Wrong("the shape is right, but a value is off.")


# ------------------------------------------------------------------ a layer, and its training


def _built(answer: Any, *sizes: int, **options: Any) -> nn.Module:
    """What a student's class makes."""
    if isinstance(answer, nn.Module) or not callable(answer):
        raise Wrong(f"give the class itself, and not the {type(answer).__name__} that it makes.")
    layer = answer(*sizes, **options)
    if layer is ... or layer is NotImplemented:
        raise Untried
    if not isinstance(layer, nn.Module):
        raise Wrong("it should be an nn.Module: only then does an optimiser find its weights.")
    return layer


def _learns(layer: nn.Module) -> None:
    if not any(weight.requires_grad for weight in layer.parameters()):
        raise Wrong(
            "it has no weights to train: make networks in `__init__`, a list by `nn.ModuleList`."
        )


def _named(what: str, got: Any, shape: tuple) -> Tensor:
    """Numbers of a shape; the message says of what."""
    try:
        return numbers(got, shape)
    except Wrong as wrong:
        raise Wrong(f"{what}: {wrong}") from None


def _mapped(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """z (n, d) and log |det| (n,) of a layer, with gradients."""
    before = x.clone()
    try:
        found = layer(x)
    except RuntimeError as error:
        if "numpy()" in str(error):
            raise Wrong("no gradient passes through NumPy: compute with PyTorch.") from None
        raise
    if not torch.equal(x, before):
        raise Wrong("`forward` changes x itself: make new tensors.")
    if found is ...:
        raise Untried
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise Wrong("`forward` should return two things: z, and log |det| of each row.")
    z, log_det = found
    _named("z", z, x.shape)
    got = numbers(log_det, finite=False)
    if got.ndim != 1 or len(got) != len(x):
        many = "add up the coordinates" if got.ndim > 1 else "do not add up the rows"
        raise Wrong(f"log |det| has shape {tuple(got.shape)}, expected ({len(x)},): {many}.")
    _named("log |det|", log_det, x.shape[:1])
    _learns(layer)
    for name, value in (("z", z), ("log |det|", log_det)):
        if not isinstance(value, Tensor) or not value.requires_grad:
            raise Wrong(f"no gradient comes out of {name}: what detaches it from the network?")
    return z, log_det


def _random_layer(
    answer: Any, d: int, flip: bool, spread: float = 0.2
) -> tuple[nn.Module, Tensor, float]:
    """A layer with random weights, points (7, d) in the precision that it takes, a tolerance."""
    layer, x = _built(answer, d, flip=flip).double(), 1.5 * _noise(7, d, seed=d)
    with torch.no_grad():
        for weight in layer.parameters():
            weight += spread * torch.randn_like(weight)
    try:
        layer(x.clone())
    except RuntimeError as error:  # mixed with 32-bit tensors of its own
        if "dtype" in str(error) or "type" in str(error):
            return layer.float(), x.float(), 1e-3
    return layer, x, 1e-6


@exercise
def check_coupling(answer: Any) -> Verdict:
    """A class; its layers (d, flip) map (n, d) -> (n, d), (n,) and have an inverse."""

    def examine(make: Any) -> str:
        for d in (2, 3, 5):
            both = [_examine_coupling(make, d, flip) for flip in (False, True)]
            if not (both[0] | both[1]).all():
                raise Wrong("with `flip` the same coordinates are moved as without.")
        mass = _mass(*_random_layer(make, 2, False, 0.05)[:2])
        if abs(mass - 1) > 0.02:
            raise Wrong(f"in the plane its density integrates to {mass:.3f}, not to 1.")
        return f"a bijection with the right Jacobian; its density integrates to {mass:.3f}."

    return trial(answer, examine, praise="")


def _mass(layer: nn.Module, x: Tensor) -> float:
    """Integral of the density that a layer of the plane and a base N(0, I) give."""
    axis = torch.linspace(-12, 12, 301).to(x)
    with torch.no_grad():
        z, log_det = layer(torch.cartesian_prod(axis, axis))
    return (_normal(z) + log_det).exp().sum().item() * (24 / 300) ** 2


def _examine_coupling(make: Any, d: int, flip: bool) -> Tensor:
    """Which coordinates (d,) a layer moves; Wrong if it is no coupling layer."""
    layer, x, tolerance = _random_layer(make, d, flip)
    z, log_det = _mapped(layer, x)
    alone, _ = _mapped(layer, x[:1])
    if not torch.allclose(alone, z[:1], atol=tolerance):
        raise Wrong("a row of z depends on the other rows of x: each point stands for itself.")
    moved = ((z - x).abs() > tolerance).any(0)
    where = f" (d = {d}, flip = {flip})"
    if moved.all():
        if any(torch.allclose(new, old) for new in z.T for old in x.T):
            raise Wrong(f"the columns of z are not in the order of those of x{where}.")
        raise Wrong(f"no coordinate of z is one of x: the part that steers stays as it is{where}.")
    if not moved.any():
        raise Wrong(f"z is x, whatever the weights: nothing is moved{where}.")
    jacobian = torch.autograd.functional.jacobian(lambda v: layer(v)[0].sum(0), x)
    right = torch.linalg.slogdet(jacobian.movedim(1, 0)).logabsdet  # (n,)
    straight = _is_straight(layer, x, moved, tolerance)
    if not torch.allclose(log_det, right, atol=10 * tolerance):
        shift = layer(x * ~moved)[0][:, moved].sum(1)
        raise Wrong(_about_log_det(log_det, right, straight, shift, moved) + where + ".")
    _examine_inverse(layer, x, z.detach(), moved, straight, tolerance, where)
    for name, value in (("z", z), ("log |det|", log_det)):
        weights = [weight for weight in layer.parameters() if weight.requires_grad]
        found = torch.autograd.grad(value.sum(), weights, retain_graph=True, allow_unused=True)
        if not any(gradient is not None and gradient.any() for gradient in found):
            raise Wrong(f"no gradient of {name} reaches the network: what detaches it?")
    return moved


def _is_straight(layer: nn.Module, x: Tensor, moved: Tensor, tolerance: float) -> bool:
    """Whether z is an affine function of what is moved, if the rest is held."""
    with torch.no_grad():
        low, middle, high = (layer(x + step * moved)[0] for step in (0, 1, 2))
    return torch.allclose(high - middle, middle - low, atol=100 * tolerance)


def _about_log_det(got: Tensor, right: Tensor, straight: bool, shift: Tensor, moved: Tensor) -> str:
    """What may be wrong with a log-determinant."""
    if not straight:
        return "s and t depend on what is moved itself: then nobody finds them on the way back"
    known = {
        "the sign of log |det| is wrong": -right,
        "this is the determinant, not its logarithm": right.exp(),
        "log |det| is zero, but the layer stretches": 0 * right,
        "log |det| is a mean over coordinates: volumes multiply": right / moved.sum(),
        "a shift changes no volume": right + shift,
    }
    for message, wrong in known.items():
        if torch.allclose(got, wrong, atol=1e-3):
            return message
    return "log |det| is not that of the Jacobian which autograd finds"


def _examine_inverse(
    layer: nn.Module,
    x: Tensor,
    z: Tensor,
    moved: Tensor,
    straight: bool,
    tolerance: float,
    where: str,
) -> None:
    new = z.flip(0) + 0.5  # points that were never sent forward
    found = layer.inverse(new.clone())
    if found is ...:
        raise Wrong("`forward` is right. Now write `inverse`.")
    if isinstance(found, tuple | list):
        raise Wrong("`inverse` should return x alone.")
    if isinstance(found, np.ndarray):
        raise Wrong("`inverse` should return a tensor: the next layer computes with it.")
    back = _named("`inverse`", found, x.shape).to(x)
    with torch.no_grad():
        there, zero = layer(back)[0], layer(new * ~moved)[0]
        factor = layer(new * ~moved + moved)[0] - zero  # exp(s); zero is t, where it is moved
        if torch.allclose(there, new, atol=100 * tolerance):
            return
        once = layer(x)[0]
        if torch.allclose(torch.as_tensor(layer.inverse(once)), x, atol=100 * tolerance):
            raise Wrong("`inverse` works only after `forward`: it must find s and t from z alone.")
        known = {
            "`inverse` does what `forward` does": layer(new)[0],
            "`inverse` changes nothing": new,
        }
        if straight:
            known |= {
                "undo first what was done last": torch.where(moved, new / factor - zero, new),
                "the shift is not undone": torch.where(moved, (new + zero) / factor, new),
                "the scale is not undone": torch.where(moved, (new - zero) * factor, new),
            }
    for message, wrong in known.items():
        if torch.allclose(back, wrong, atol=100 * tolerance):
            raise Wrong(message + where + ".")
    raise Wrong(f"`inverse` does not lead back to x{where}.")


class _Bell(nn.Module):
    """A Gaussian for each label (of one if none is given), whose gradient can be spoilt."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor([[0.3, -0.2], [1.0, 0.5]]))
        self.log_scale = nn.Parameter(torch.tensor([[0.1, -0.3], [0.2, 0.0]]))
        self.broken = False

    def log_prob(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        if not isinstance(x, Tensor):
            raise Wrong("the batch is a tuple: hand its parts over, `flow.log_prob(*batch)`.")
        label = torch.zeros(len(x), dtype=torch.long) if label is None else label
        score = Normal(self.mean[label], self.log_scale[label].exp()).log_prob(x).sum(-1)
        return score + (0 * self.mean.sum()).abs().sqrt() if self.broken else score  # 0 and NaN

    def forward(self, *batch: Any) -> None:
        raise Wrong("a flow scores with `flow.log_prob(*batch)`, not with `flow(...)`.")


def _step(flow, batch, optimiser, *, sign=-1, add=torch.mean, clip=0.5, clear=True, by=None):
    """One step of training, and wrong ones."""
    loss = sign * add(flow.log_prob(*batch))
    if clear:
        optimiser.zero_grad()
    loss.backward()
    for weights in [[weight] for weight in flow.parameters()] if by else [flow.parameters()]:
        (by or nn.utils.clip_grad_norm_)(weights, clip)
    optimiser.step()


STEPS: list[tuple[Callable, str]] = [
    (_step, ""),
    (partial(_step, sign=1), "the likelihood falls: which way is downhill?"),
    (partial(_step, add=torch.sum), "a sum makes longer steps on more points: take the mean."),
    (partial(_step, clear=False), "the gradients of earlier steps pile up."),
    (partial(_step, clip=math.inf), "a long gradient is not clipped when the step is taken."),
    (partial(_step, clip=1.0), "the gradient is clipped, but not at a norm of 0.5."),
    (
        partial(_step, by=nn.utils.clip_grad_value_),
        "clip the norm of the gradient, not each of its numbers.",
    ),
    (partial(_step, by=nn.utils.clip_grad_norm_), "clip the gradient of all weights together."),
    (
        partial(_step, clip=math.inf, clear=False),
        "gradients pile up, and long ones are not clipped.",
    ),
    (lambda f, b, o: _step(f, b[:1], o), "a batch may have parts: score with `*batch`."),
]


@exercise
def check_train_step(answer: Any) -> Verdict:
    """One step of maximum likelihood on a batch: flow, tuple, optimiser -> loss (), nats."""

    def examine(step: Any) -> None:
        refuse_what_cannot_be_called(step)
        near, label = [_noise(n, 2, seed=n).float() for n in (90, 50, 70)], torch.arange(90) % 2
        _examine_steps(step, [(x,) for x in near])
        _examine_steps(step, [(20 + 3 * x,) for x in near])
        _examine_steps(step, [(x, label[: len(x)]) for x in near])
        flow = _Bell()
        optimiser, before = torch.optim.SGD(flow.parameters(), 0.1), copy.deepcopy(flow)
        for flow.broken in (True, False, True):
            loss = -flow.log_prob(near[0]).mean().item()
            said = step(flow, (near[0],), optimiser)
            if not all(weight.isfinite().all() for weight in flow.parameters()):
                raise Wrong(
                    "a gradient that is not finite has spoilt the weights, although the loss was "
                    "finite: leave such a step out."
                )
            _about_loss(said, loss, loss)
        _step(before, (near[0],), torch.optim.SGD(before.parameters(), 0.1))
        if not _same(flow, before):
            raise Wrong("leave out the step whose gradient is not finite, and only that one.")

    return trial(answer, examine, praise="downhill, with care. Your flows learn by this step.")


def _same(one: nn.Module, two: nn.Module) -> bool:
    pairs = zip(one.parameters(), two.parameters(), strict=True)
    return all(torch.allclose(a, b, atol=1e-5) for a, b in pairs)


def _examine_steps(step: Callable, batches: list[tuple]) -> None:
    """Take three steps beside the right ones, and beside wrong ones."""
    flow, rivals = _Bell(), [_Bell() for _ in STEPS]
    optimiser, *rates = (torch.optim.SGD(each.parameters(), 0.1) for each in (flow, *rivals))
    said = []
    for batch in batches:
        before = -flow.log_prob(*batch).mean().item()
        said.append((step(flow, batch, optimiser), before, -flow.log_prob(*batch).mean().item()))
        if said[-1][0] is ...:
            raise Untried
        for rival, rate, (wrong, _) in zip(rivals, rates, STEPS, strict=True):
            wrong(rival, batch, rate)
    if _same(flow, _Bell()):
        raise Wrong("no weight has changed: who takes the step, and with which gradient?")
    if not _same(flow, rivals[0]):
        for rival, (_, message) in zip(rivals, STEPS, strict=True):
            if _same(flow, rival):
                raise Wrong(message)
        raise Wrong("the weights are not where one step of the given optimiser leads.")
    for got, before, after in said:
        _about_loss(got, before, after)


def _about_loss(got: Any, before: float, after: float) -> None:
    value = _named("what is returned", got, ()).item()
    if isinstance(got, Tensor) and got.requires_grad:
        raise Wrong("return a number: this tensor keeps its whole computation in memory.")
    known = [(before, ""), (-before, "return the loss; this is the mean log density.")]
    known += [(after, "return the loss that the step began with, not the one after it.")]
    for each, message in known:
        if math.isclose(value, each, abs_tol=1e-4):
            if message:
                raise Wrong(message)
            return
    raise Wrong("the weights are right; what is returned is not the mean loss of the batch.")


# ------------------------------------------------------------------ one side only


@exercise
def check_same_mask(answer: Any) -> Verdict:
    """KL in nats from the first coordinate of a density to the best Gaussian: log_prob, box."""
    angle = (torch.arange(60).double() + 0.5) * math.pi / 60
    upper = torch.stack([angle.cos(), angle.sin()], -1)
    moons = torch.cat([upper, torch.tensor([1.0, 0.5]) - upper])
    cases = [
        (moons, torch.tensor([0.08, 0.08]), (-1.5, 2.5, -1.0, 1.5)),
        (torch.tensor([[0.0, 1.0], [4.0, 0.5]]).double(), torch.tensor([0.8, 0.3]), (-5, 9, -2, 3)),
        (
            torch.tensor([[1.0, -1.0], [1.0, 3.0]]).double(),
            torch.tensor([1.0, 0.4]),
            (-50, 52, -4, 6),
        ),
    ]

    def examine(function: Any) -> None:
        for number, (centre, width, box) in enumerate(cases, 1):
            value = numbers(call(function, _mixture(centre, width), box), (), finite=False).item()
            right, known = _bound(centre, width, box)
            if abs(value - right) <= 4e-3:
                continue
            for wrong, message in known:
                if abs(value - wrong) <= 4e-3:
                    raise Wrong(message)
            if not math.isfinite(value):
                raise Wrong("it is not finite: where p is 0, p log p counts as 0.")
            raise Wrong(
                f"on density {number} of 3 it says {value:.3f}, and that is off. Does your p(x_1) "
                "integrate to one?"
            )

    return trial(answer, examine, praise="no training removes this.")


def _mixture(centre: Tensor, width: Tensor) -> Callable[[Tensor], Tensor]:
    """Log density (n, 2) -> (n,) of a mixture of Gaussians of one width (2,)."""

    def log_prob(x: Tensor) -> Tensor:
        rows = torch.as_tensor(x).cpu().double().split(20_000)
        scaled = (torch.cdist(part / width, centre / width) for part in rows)
        each = [(-(r**2) / 2).logsumexp(-1) for r in scaled]
        whole = torch.cat(each) - math.log(len(centre)) - (2 * math.pi * width.prod()).log()
        return whole.to(x.device) if isinstance(x, Tensor) else whole

    return log_prob


def _bound(centre: Tensor, width: Tensor, box: tuple) -> tuple[float, list[tuple[float, str]]]:
    """The right value, and wrong ones with what they are."""

    def parts(axis: int) -> tuple[float, float]:
        low, high = box[2 * axis : 2 * axis + 2]
        x = torch.linspace(low, high, 2001).double()
        p = Normal(centre[:, axis], width[axis]).log_prob(x[:, None]).exp().mean(1)
        entropy = -torch.trapezoid(torch.xlogy(p, p), x).item()
        return entropy, (centre[:, axis].var(correction=0) + width[axis] ** 2).item()

    (entropy, variance), (other, spread) = parts(0), parts(1)
    gauss = HALF + math.log(variance) / 2
    second = variance + centre[:, 0].mean().item() ** 2
    right = gauss - entropy
    return right, [
        (-right, "a divergence is never negative."),
        (entropy, "this is the entropy of x_1."),
        (gauss, "this is the entropy of the Gaussian."),
        (HALF + math.log(spread) / 2 - other, "this is the bound for x_2, which may move."),
        (-entropy, "this is minus the entropy of x_1."),
        (gauss + entropy, "the divergence is a difference of two entropies."),
        (2 * gauss - entropy, "one half of the logarithm: the other half is one too many."),
        (HALF + math.log(variance) / 4 - entropy, "σ² is the variance, not σ."),
        (HALF + math.log(second) / 2 - entropy, "the variance is taken around the mean."),
        (right / math.log(2), "in nats, please: natural logarithms."),
    ]


# ------------------------------------------------------------------ conditional flow, entropy


@exercise
def check_conditional(answer: Any) -> Verdict:
    """A class; its flows (d, labels) have log_prob(x, label) -> (n,), sample(label) -> (n, d)."""

    def examine(make: Any) -> str:
        flow, label = _built(make, 2, 3), torch.arange(900) % 3
        x, _ = _bent(label)
        before = _scores(flow, x, label).detach()
        _learns(flow)
        optimiser = torch.optim.Adam(flow.parameters(), 1e-2)
        for _ in range(150):
            optimiser.zero_grad()
            (-flow.log_prob(x, label).mean()).backward()
            nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
            optimiser.step()
        flow.requires_grad_(False)
        _examine_rows(flow, x[:7], label[:7])
        means = [_examine_given(flow, m) for m in range(3)]
        one, two = (_scores(flow, x[:7], label[:7] * 0 + m, learns=False) for m in (0, 1))
        if torch.allclose(one, two, atol=1e-3):
            raise Wrong("another label, the same density: where does the label enter?")
        for m, moments in enumerate(means):
            _examine_samples(flow, m, *moments)
        new, truth = _bent(label, seed=5)
        gap = (truth - _scores(flow, new, label, learns=False)).mean().item()
        if gap > (truth - before).mean() - 0.1:
            raise Wrong("training did not help: does the gradient reach all weights?")
        if gap > 0.7:
            raise Wrong(
                f"it is a density for each label, but a stiff one: after 150 steps on bent data it "
                f"is {gap:.2f} nats away. Let more layers bend all coordinates."
            )
        return f"one flow, three densities; {gap:.2f} nats from the truth on new points."

    return trial(answer, examine, praise="")


def _bent(label: Tensor, seed: int = 4) -> tuple[Tensor, Tensor]:
    """Points (n, 2) on three bent pieces, and their log density given the label (n,)."""
    u = _noise(len(label), 2, seed=seed).float()
    bend, across = torch.tensor([1.0, -0.7, 0.5])[label], torch.tensor([0.0, 2.0, -1.5])[label]
    x = torch.stack([u[:, 0] + across, bend * (u[:, 0] ** 2 - 1) + 0.3 * u[:, 1]], -1)
    return x, _normal(u) - math.log(0.3)


def _scores(flow: nn.Module, x: Tensor, label: Tensor, *, learns: bool = True) -> Tensor:
    found = flow.log_prob(x, label)
    _named("`log_prob`", found, x.shape[:1])
    if learns and not (isinstance(found, Tensor) and found.requires_grad):
        raise Wrong("no gradient comes out of `log_prob`: what detaches it?")
    return found


def _examine_rows(flow: nn.Module, x: Tensor, label: Tensor) -> None:
    """Each row has its own label."""
    together = _scores(flow, x, label, learns=False)
    if not together.isfinite().all():
        raise Wrong("after 150 steps of training, `log_prob` is not finite.")
    alone = [_scores(flow, x[i : i + 1], label[i : i + 1], learns=False)[0] for i in range(len(x))]
    if not torch.allclose(together, torch.stack(alone), atol=1e-3):
        raise Wrong("the score of a row depends on the other rows: each point has its own label.")


def _examine_given(flow: nn.Module, m: int) -> tuple[Tensor, Tensor]:
    """Given a label: an integral of one; mean and scale (2,) of the density."""
    middle = -9 + 18 * (torch.arange(240) + 0.5) / 240
    points = torch.cartesian_prod(middle, middle)
    q = numbers(flow.log_prob(points, torch.full((len(points),), m))).exp() * (18 / 240) ** 2
    if abs(q.sum() - 1) > 0.03:
        raise Wrong(
            f"given the label {m} the density integrates to {q.sum():.2g}, not to 1: look at the "
            "log-determinants."
        )
    mean = q @ points.double()
    return mean, (q @ (points.double() - mean) ** 2).sqrt()


def _examine_samples(flow: nn.Module, m: int, mean: Tensor, scale: Tensor) -> None:
    """Given a label: samples that follow the density."""
    label = torch.full((2000,), m)
    first = flow.sample(label)
    if first is ...:
        raise Wrong("`log_prob` is right. Now write `sample`.")
    drawn, again = (_named("`sample`", each, (2000, 2)) for each in (first, flow.sample(label)))
    if torch.equal(drawn, again):
        raise Wrong("`sample` draws the same points each time.")
    off = (drawn.mean(0) - mean).abs() / scale, (drawn.std(0) / scale).log().abs()
    if max(part.max() for part in off) > 0.2:
        raise Wrong(
            f"samples of the label {m} do not follow its density: does `sample` undo `log_prob`, "
            "with the same label?"
        )


@exercise
def check_entropy(answer: Any) -> Verdict:
    """Kozachenko-Leonenko estimate of the entropy: (n, 2) -> (), nats."""
    euler, pi = 0.5772156649, math.log(math.pi)

    def estimate(x, factor=2.0, constant=euler + pi, n=-1, k=1, log=torch.log, mean=False):
        distance = torch.cdist(x.double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist")
        # The second smallest distance of a row: the smallest is the point's own zero.
        nearest = distance.topk(k + 1, largest=False).values[:, k]
        average = log(nearest.mean()) if mean else log(nearest).mean()
        return math.log(len(x) + n) + constant + factor * average

    traps = [
        (lambda x: estimate(x, factor=1.0), "how many dimensions has the plane?"),
        (lambda x: estimate(x, constant=pi), "Euler's constant is missing."),
        (lambda x: estimate(x, constant=pi - euler), "Euler's constant is added, not taken off."),
        (lambda x: estimate(x, constant=euler), "the area of a circle is missing: log π."),
        (lambda x: estimate(x, constant=euler + math.pi), "add log π, not π."),
        (lambda x: estimate(x, n=0), "there are n - 1 other points, not n."),
        (lambda x: estimate(x, factor=2.0 * len(x)), "divide the sum by n."),
        (
            lambda x: estimate(x, k=2),
            "this is the second neighbour: one zero was left out already.",
        ),
        (lambda x: estimate(x, factor=2.0 / len(x)), "it is divided by n twice."),
        (lambda x: estimate(x, log=torch.log10), "natural logarithms, please."),
        (lambda x: estimate(x, log=torch.log2), "natural logarithms, please."),
        (lambda x: estimate(x, mean=True), "the mean of the logarithms, not the other way round."),
        (lambda x: -estimate(x), "the sign is wrong: far neighbours mean much entropy."),
    ]
    far = 40 + _noise(400, 2, seed=2)  # in 32 bits some distances are lost, if taken by a product
    cases = [_noise(200, 2).float(), 3 * _noise(80, 2, seed=1), far.float()]

    def examine(function: Any) -> None:
        for x in cases:
            found = numbers(call(function, x), finite=False)
            if found.ndim == 0 and found == -math.inf:
                raise Wrong(
                    "two different points got the distance 0, whose logarithm is -inf: in 32 bits "
                    "small distances are rounded away."
                    if close(numbers(call(function, x.double()), finite=False), estimate(x), 1e-3)
                    else "a point is no neighbour of its own: the logarithm of 0 is -inf."
                )
            _compare(function, (x,), estimate(x), traps, rtol=1e-3)

    return trial(answer, examine, praise="an entropy without a model.")


# ------------------------------------------------------------------ a posterior for every y


def _pairs(n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """theta (n, 2), y (n, 3), of which only the first number tells, and log p(theta | y) (n,)."""
    u = _noise(n, 5, seed=seed).float()
    theta = torch.stack([u[:, 0], u[:, 0] ** 2 - 1 + 0.4 * u[:, 1]], -1)
    y = torch.stack([u[:, 0] + u[:, 2], u[:, 3], u[:, 4]], -1)
    first = Normal(y[:, 0] / 2, 0.5**0.5).log_prob(theta[:, 0])
    return theta, y, first + Normal(theta[:, 0] ** 2 - 1, 0.4).log_prob(theta[:, 1])


@exercise
def check_amortised(answer: Any) -> Verdict:
    """A class; its flows (d, c) have log_prob(theta, y) -> (n,), sample(y, s) -> (s, n, d)."""

    def examine(make: Any) -> str:
        flow = _built(make, 2, 3)
        theta, y, _ = _pairs(7, 0)
        _posterior_scores(flow, theta, y, learns=True)
        _learns(flow)
        optimiser = torch.optim.Adam(flow.parameters(), 1e-2)
        for step in range(100):
            theta, y, _ = _pairs(256, step + 1)
            optimiser.zero_grad()
            (-flow.log_prob(theta, y).mean()).backward()
            nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
            optimiser.step()
        flow.requires_grad_(False)
        theta, y, truth = _pairs(1000, 1000)
        found = _posterior_scores(flow, theta, y)
        alone = torch.cat([_posterior_scores(flow, theta[i : i + 1], y[i : i + 1]) for i in (3, 8)])
        if not torch.allclose(alone, found[[3, 8]], atol=1e-3):
            raise Wrong("the score of a row depends on the other rows: each row has its own y.")
        asked = torch.tensor([[-2.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
        moments = [_posterior_moments(flow, each) for each in asked]
        if torch.allclose(moments[0][0], moments[1][0], atol=0.1):
            raise Wrong("another y, the same posterior: where does y enter?")
        _examine_draws(flow, asked, moments)
        gap = (truth - found).mean().item()
        if gap > 0.7:
            raise Wrong(
                f"it is a density for each y, but a stiff one: after 100 steps it is {gap:.2f} "
                "nats away from a bent posterior."
            )
        return f"one flow, a posterior for every y; {gap:.2f} nats from the exact one here."

    return trial(answer, examine, praise="")


def _posterior_scores(flow: nn.Module, theta: Tensor, y: Tensor, *, learns: bool = False) -> Tensor:
    found = flow.log_prob(theta, y)
    value = _named("`log_prob`", found, theta.shape[:1])
    if learns and not (isinstance(found, Tensor) and found.requires_grad):
        raise Wrong("no gradient comes out of `log_prob`: what detaches it?")
    return value


def _posterior_moments(flow: nn.Module, y: Tensor) -> tuple[Tensor, Tensor]:
    """Given y (c,): an integral of one; mean and scale (2,) of the density."""
    middle = (torch.arange(100) + 0.5) / 100
    points = torch.cartesian_prod(-6 + 12 * middle, -8 + 20 * middle)
    log_q = numbers(flow.log_prob(points, y.expand(len(points), -1)), points.shape[:1])
    q = log_q.exp() * 12 * 20 / 100**2
    if abs(q.sum() - 1) > 0.05:
        raise Wrong(
            f"given y, the density of theta integrates to {q.sum():.2g}, not to 1. Which of the "
            "two is scored, and which only seen?"
        )
    mean = q @ points.double()
    return mean, (q @ (points.double() - mean) ** 2).sqrt()


def _examine_draws(flow: nn.Module, y: Tensor, moments: list[tuple[Tensor, Tensor]]) -> None:
    """Draws (s, n, d) follow the density that belongs to their row of y."""
    first = flow.sample(y, 1000)
    if first is ...:
        raise Wrong("`log_prob` is right. Now write `sample`.")
    got = numbers(first)
    if got.shape == (len(y), 1000, 2):
        raise Wrong("`sample`: draws come first, then the rows of y: shape (s, n, d).")
    drawn, again = _named("`sample`", first, (1000, len(y), 2)), numbers(flow.sample(y, 1000))
    if torch.equal(drawn, again):
        raise Wrong("`sample` draws the same points each time.")
    for row, (mean, scale) in enumerate(moments):
        part = drawn[:, row]
        off = (part.mean(0) - mean).abs() / scale, (part.std(0) / scale).log().abs()
        if max(each.max() for each in off) > 0.3:
            raise Wrong(
                f"draws for row {row} of y do not follow its density: does each row get its own?"
            )


@exercise
def check_importance(answer: Any) -> Verdict:
    """Log weights (s,) -> log evidence (nats), effective share, Pareto-k."""
    u = torch.rand(4000, generator=torch.Generator().manual_seed(0)).double().log()
    cases = [-0.3 * u, -0.9 * u - 2000, (1 - u).log() + 1500, -0.6 * u[:1000] + 3]

    def examine(function: Any) -> None:
        for log_w in cases:
            got = call(function, log_w)
            if isinstance(got, tuple | list) and any(each is ... for each in got):
                raise Untried
            value = numbers(got, (3,), finite=False)
            for name, number in zip(("log evidence", "effective share", "k"), value, strict=True):
                if not number.isfinite():
                    raise Wrong(
                        f"the {name} is not finite: exp(log w) may be larger than any number of "
                        "the computer, or all zero."
                    )
            _about_evidence(value[0].item(), log_w)
            _about_share(value[1].item(), log_w)
            _about_k(value[2].item(), log_w)

    return trial(answer, examine, praise="an estimate, and whether to report it.")


def _told(value: float, right: float, traps: list[tuple[float, str]], off: str, by: float) -> None:
    """Compare with the right value; else tell a known mistake."""
    if math.isclose(value, right, rel_tol=by, abs_tol=by):
        return
    for wrong, message in traps:
        if math.isclose(value, wrong, rel_tol=by, abs_tol=by):
            raise Wrong(message)
    raise Wrong(off)


def _about_evidence(value: float, log_w: Tensor) -> None:
    total, s = log_w.logsumexp(0).item(), len(log_w)
    traps = [
        (log_w.mean().item(), "the mean of log w is the ELBO; the evidence is the mean of w."),
        (total, "the evidence is the mean of the weights, not their sum."),
        (
            total - math.log(s) - log_w.max().item(),
            "the factor that was taken out is not put back.",
        ),
        (math.log(s) - total, "the sign of the log evidence is wrong."),
    ]
    _told(value, total - math.log(s), traps, "the log evidence is off.", 1e-5)


def _about_share(value: float, log_w: Tensor) -> None:
    number = (2 * log_w.logsumexp(0) - (2 * log_w).logsumexp(0)).exp().item()
    s = len(log_w)
    traps = [
        (number, "this is the effective number of draws; the share is it over S."),
        (s / number, "the share is at most 1: this is its inverse."),
        (number / s**2, "it is divided by S twice."),
    ]
    _told(value, number / s, traps, "the log evidence is right, the effective share is off.", 1e-4)


def _about_k(value: float, log_w: Tensor) -> None:
    s, order = len(log_w), (log_w - log_w.max()).exp().sort().values
    m = min(s // 5, int(3 * s**0.5))
    right = _shape(order[-m:] - order[-m - 1])
    low, logs = order.flip(0), log_w.sort().values
    traps = [
        (_shape(logs[-m:] - logs[-m - 1]), "k belongs to the weights, not to their logarithms."),
        (_shape(order[-m:]), "fit the excess over the next largest weight, not the weight."),
        (_shape(order), "fit the M largest weights, not all."),
        (_shape(low[-m - 1] - low[-m:]), "these are the smallest weights; take the largest."),
        (-right, "the sign of k is wrong."),
    ]
    if abs(value - right) < 0.12:
        return
    for wrong, message in traps:
        if abs(value - wrong) < 0.02:
            raise Wrong(message)
    raise Wrong("evidence and share are right; k is off. `fit` returns shape, location, scale.")


def _shape(excess: Tensor) -> float:
    """Maximum likelihood of a generalised Pareto distribution that begins at zero."""
    positive = excess[excess > 0].numpy()
    return float(genpareto.fit(positive / positive.mean(), floc=0)[0])
