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


def _named(what: str, got: Any, shape: tuple | None, *, finite: bool = True) -> Tensor:
    """Numbers of a shape; the message says of what."""
    try:
        return numbers(got, shape, finite=finite)
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


def _step(flow, batch, optimiser, *, sign=-1, add=torch.mean, clip=5.0, clear=True, by=None):
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
    (partial(_step, clip=1.0), "the gradient is clipped, but not at a norm of 5."),
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
    """Log density, box -> KL of x_1 and mean KL of x_2 given x_1 to the best Gaussians, nats."""
    angle = (torch.arange(60).double() + 0.5) * math.pi / 60
    upper = torch.stack([angle.cos(), angle.sin()], -1)
    moons = torch.cat([upper, torch.tensor([1.0, 0.5]) - upper])
    cases = [
        (moons, torch.tensor([0.08, 0.08]), (-1.5, 2.5, -1.0, 1.5)),
        (torch.tensor([[0.0, 1.0], [4.0, 0.5]]).double(), torch.tensor([0.8, 0.3]), (-5, 9, -2, 3)),
        (
            torch.tensor([[1.0, -1.0], [1.0, 3.0]]).double(),
            torch.tensor([1.0, 0.4]),
            (-28, 30, -4, 6),
        ),
    ]

    def examine(function: Any) -> None:
        for number, (centre, width, box) in enumerate(cases, 1):
            pair = call(function, _mixture(centre, width), box)
            if isinstance(pair, tuple) and all(part is ... for part in pair):
                raise Untried
            if not hasattr(pair, "__len__") or len(pair) != 2:
                raise Wrong("return two numbers: of x_1, and of x_2 given x_1.")
            if pair[1] is ...:
                raise Wrong("now the second term: x_2 given x_1.")
            for term, got, (right, known) in zip(
                ("first", "second"), numbers(pair, (2,), finite=False).tolist(),
                _terms(centre, width, box), strict=True,
            ):  # fmt: skip
                if abs(got - right) <= 4e-3:
                    continue
                for wrong, message in known:
                    if abs(got - wrong) <= 4e-3:
                        raise Wrong(f"the {term} term: {message}")
                if not math.isfinite(got):
                    raise Wrong(
                        f"the {term} term is not finite: where p is 0, p log p counts as 0, and "
                        "there is no variance to divide for."
                    )
                raise Wrong(
                    f"on density {number} of 3 the {term} term is {got:.3f}, and that is off. "
                    "Does your p(x_1) integrate to one?"
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


def _terms(centre: Tensor, width: Tensor, box: tuple) -> list[tuple[float, list]]:
    """Of each term the right value, and wrong ones with what they are."""
    n = 250
    sides = [torch.tensor(box[2 * axis : 2 * axis + 2]).double() for axis in (0, 1)]
    x, y = (low + (high - low) * (torch.arange(n).double() + 0.5) / n for low, high in sides)
    cell = [((high - low) / n).item() for low, high in sides]
    p = _mixture(centre, width)(torch.cartesian_prod(x, y)).exp().reshape(n, n)
    first, second = (_entropy(p.sum(1 - axis) * cell[1 - axis], cell[axis]) for axis in (0, 1))
    given = _entropy(p, cell[0] * cell[1]) - first  # of x_2 given x_1
    variance, spread = (centre[:, i].var(correction=0) + width[i] ** 2 for i in (0, 1))
    p_1 = p.sum(1) * cell[1]
    some = p_1 > 0
    mean = (p @ y)[some] * cell[1] / p_1[some]
    v = (p[some] * (y - mean[:, None]) ** 2).sum(1) * cell[1] / p_1[some]
    log_v = (p_1[some] * v.log()).sum().item() * cell[0]

    def gauss(log_variance: float, factor: float = 0.5) -> float:
        return HALF + factor * log_variance

    log_1, log_2 = variance.log().item(), spread.log().item()
    around_0 = (variance + centre[:, 0].mean() ** 2).log().item()
    right, other = gauss(log_1) - first, gauss(log_v) - given
    never = "a divergence is never negative."
    bits = "in nats, please: natural logarithms."
    return [
        (
            right,
            [
                (-right, never),
                (first, "this is the entropy of x_1."),
                (gauss(log_1), "this is the entropy of the Gaussian."),
                (gauss(log_2) - second, "this is the term of x_2, which may move."),
                (-first, "this is minus the entropy of x_1."),
                (gauss(log_1) + first, "the divergence is a difference of two entropies."),
                (2 * gauss(log_1) - first, "one half of the logarithm: the other is too many."),
                (gauss(log_1, 0.25) - first, "σ² is the variance, not σ."),
                (gauss(around_0) - first, "the variance is taken around the mean."),
                (right / math.log(2), bits),
                (right + other, "this is the sum of both; give the two by themselves."),
            ],
        ),
        (
            other,
            [
                (-other, never),
                (right + other, "this is the sum of both; give the second by itself."),
                (gauss(log_2) - second, "this is x_2 by itself; what is it *given* x_1?"),
                (gauss(log_2) - given, "the variance must be that of x_2 *given* x_1."),
                (
                    gauss((p_1[some] * v).sum().mul(cell[0]).log().item()) - given,
                    "the mean of the logarithms, not the logarithm of the mean.",
                ),
                (gauss(log_v) - given - first, "take off the entropy of x_2 given x_1."),
                (gauss(log_v), "this is the mean entropy of the Gaussians."),
                (given, "this is the entropy of x_2 given x_1."),
                (gauss(log_v, 1.0) - given, "one half of the logarithm of the variance."),
                (gauss(log_v, 0.25) - given, "σ² is the variance, not σ."),
                (other / math.log(2), bits),
            ],
        ),
    ]


def _entropy(p: Tensor, cell: float) -> float:
    """Of a density on a grid, nats."""
    return -torch.xlogy(p, p).sum().item() * cell


# ------------------------------------------------------------------ the map without a gap, entropy


@exercise
def check_rosenblatt(answer: Any) -> Verdict:
    """Knothe-Rosenblatt map to N(0, I) on a grid: log_prob, box, points -> (points², 2)."""

    def examine(function: Any) -> None:
        for number, (log_prob, box, points, exact) in enumerate(_triangular(), 1):
            got = _named("z", call(function, log_prob, box, points), None, finite=False)
            if got.shape != (points**2, 2):
                raise Wrong(
                    f"its shape is {tuple(got.shape)}, expected {(points**2, 2)}: one row for "
                    "each midpoint, one column for each coordinate."
                )
            x = torch.cartesian_prod(*_axes(box, points))
            right, p = exact(x), log_prob(x).exp().reshape(points, points)
            there = (right.abs() < 2.5).all(-1)
            if _near(got[there], right[there]):
                continue
            for wrong, message in _wrong_maps(p, (box[3] - box[2]) / points):
                if _near(got[there], wrong[there]):
                    raise Wrong(message)
            if not got[there].isfinite().all():
                raise Wrong("it contains NaN or infinity where the density is high.")
            raise Wrong(f"on density {number} of 3, z is not that of the map.")

    return trial(answer, examine, praise="a bijection to N(0, I), for any density in a box.")


def _triangular() -> list[tuple]:
    """Densities of the plane whose map is known: log_prob, box, points, x (n, 2) -> z (n, 2)."""

    def slanted(x):
        return torch.stack([x[:, 0], (x[:, 1] - 0.6 * x[:, 0]) / 0.8], -1)

    def bent(x):
        return torch.stack([(x[:, 0] - 1) / 0.5, (x[:, 1] - x[:, 0] ** 2) / 0.7], -1)

    def in_two(x):  # x_2 is one of two Gaussians, of which x_1 tells which is likelier
        share = torch.sigmoid(2 * x[:, 0])
        far, near = (Normal(0.0, 0.5).cdf(x[:, 1] - m) for m in (-2.0, 2.0))
        return torch.stack([x[:, 0], torch.special.ndtri(share * far + (1 - share) * near)], -1)

    def two_pieces(x):
        x = _as_points(x)
        gate = torch.nn.functional.logsigmoid
        far, near = (Normal(0.0, 0.5).log_prob(x[:, 1] - m) for m in (-2.0, 2.0))
        both = torch.stack([gate(2 * x[:, 0]) + far, gate(-2 * x[:, 0]) + near])
        return both.logsumexp(0) + Normal(0.0, 1.0).log_prob(x[:, 0])

    def of(map_, log_det):
        return lambda x: _normal(map_(_as_points(x))) + log_det

    return [
        (of(slanted, -math.log(0.8)), (-6.0, 6.0, -7.0, 7.0), 70, slanted),
        (of(bent, -math.log(0.35)), (-2.0, 4.0, -5.0, 14.0), 90, bent),
        (two_pieces, (-5.0, 5.0, -6.0, 6.0), 80, in_two),
    ]


def _as_points(x: Any) -> Tensor:
    return torch.as_tensor(x).double()


def _axes(box: tuple, points: int) -> tuple[Tensor, Tensor]:
    """Midpoints along x_1 and along x_2."""
    middle = (torch.arange(points).double() + 0.5) / points
    left, right, bottom, top = box
    return left + (right - left) * middle, bottom + (top - bottom) * middle


def _near(got: Tensor, right: Tensor) -> bool:
    return torch.allclose(got, right, atol=0.02, rtol=0)


def _below(p: Tensor, axis: int, own: float = 0.5) -> Tensor:
    """Share of the sum along an axis that lies below each midpoint."""
    return (p.cumsum(axis) - own * p) / p.sum(axis, keepdim=True)


def _wrong_maps(p: Tensor, height: float) -> list[tuple[Tensor, str]]:
    """Known mistakes on a table of densities (x_1, x_2): z (points², 2), and what it is."""

    def pair(first: Tensor, second: Tensor, to: Callable = torch.special.ndtri) -> Tensor:
        return to(torch.stack(torch.broadcast_tensors(first, second), -1).reshape(-1, 2))

    p_1, p_2 = p.sum(1, keepdim=True), p.sum(0, keepdim=True)
    right = pair(_below(p_1, 0), _below(p, 1))
    turned = right.reshape(len(p), len(p), 2).transpose(0, 1).reshape(-1, 2)
    half = "how much of its own cell lies below a midpoint?"
    order = "the axis of x_1 is not that of x_2: in the grid x_2 runs fastest."
    return [
        (pair(_below(p_1, 0), _below(p_2, 1)), "z_2 must depend on x_1, too: hold it."),
        (pair(_below(p, 0), _below(p_2, 1)), "x_1 comes first: z_1 depends on it alone."),
        (pair(_below(p, 0), _below(p, 1)), "z_1 must not depend on x_2: add up over it first."),
        (pair(_below(p_1, 0), _below(p, 1), to=lambda u: u), "this is uniform, not normal."),
        (pair(_below(p_1, 0, 0.0), _below(p, 1, 0.0)), half),
        (pair(_below(p_1, 0, 1.0), _below(p, 1, 1.0)), half),
        (-right, "z must increase with x."),
        (right.flip(-1), "the columns are exchanged."),
        (turned, order),
        (pair(_below(p_2, 1), _below(p, 0)), order),
        (
            pair(_below(p_1, 0), (p.cumsum(1) - p / 2) * height),
            "the density of x_2 with x_1 held integrates to one: what is each row divided by?",
        ),
    ]


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


# ------------------------------------------------------------------ the probability of a cell


class _Slanted:
    """A Gaussian in the plane whose coordinates hang together, over cells of two steps."""

    step = torch.tensor([1.0, 0.1]).double()
    mean = torch.tensor([0.3, -0.02]).double()
    precision = torch.tensor([[6.0, -30.0], [-30.0, 400.0]]).double()
    x = torch.tensor([[0, 0], [1, 0.1], [-1, 0], [0, -0.1], [1, 0]]).double()

    def log_prob(self, x: Tensor) -> Tensor:
        off = torch.as_tensor(x).double() - self.mean
        square = torch.einsum("ni,ij,nj->n", off, self.precision, off)
        value = (torch.logdet(self.precision) - square) / 2 - math.log(2 * math.pi)
        return value.to(x.dtype) if isinstance(x, Tensor) else value

    def expected(self, *, width: float = 1.0, at: float = 0.0, shared: bool = False) -> Tensor:
        """Mean log density (n,) over boxes of width steps, their middles moved by at steps."""
        spread = (width * self.step) ** 2 / 12
        curve = (self.precision.diagonal() * spread).sum()
        if shared:
            curve += 2 * self.precision[0, 1] * spread.prod().sqrt()
        return self.log_prob(self.x + at * self.step) - curve / 2

    def probability(self) -> Tensor:
        """Log probability (n,) of the cells, by the midpoint rule."""
        middle = (torch.arange(60).double() + 0.5) / 60 - 0.5
        points = torch.cartesian_prod(middle, middle) * self.step  # (3600, 2)
        inside = self.log_prob((self.x[:, None] + points).reshape(-1, 2)).reshape(len(self.x), -1)
        return inside.exp().mean(1).log() + self.step.log().sum()


@exercise
def check_cell_bound(answer: Any) -> Verdict:
    """Lower bound of the log probability of cells: log_prob, (n, d), (d,), draws -> (n,), nats."""
    density, draws, copies = _Slanted(), 60, 60  # every wine sixty times: few calls, many points
    volume = density.step.log().sum()
    bound, exact = density.expected() + volume, density.probability()
    known = [
        (density.expected(), "this is a mean log *density*: how large is the cell?"),
        (density.expected() - volume, "the volume belongs to it with the other sign."),
        (density.expected() + density.step.prod(), "add the *logarithm* of the volume."),
        (density.expected() + density.step.sum().log(), "a volume is a product of the sides."),
        (density.log_prob(density.x) + volume, "this is the density at x itself: where is noise?"),
        (density.log_prob(density.x), "this is the log density at x itself, not that of the cell."),
        (density.expected(at=0.5) + volume, "the cell lies around x, not beside it."),
        (density.expected(at=0.5), "the cell lies around x, and its volume counts."),
        (density.expected(width=2) + volume, "the noise is as wide as two cells."),
        (density.expected(width=12**0.5) + volume, "noise over the cell is uniform, not Gaussian."),
        (density.expected(shared=True) + volume, "every coordinate needs noise of its own."),
        (draws * density.expected() + volume, "the mean over the draws, not their sum."),
        (-bound, "the sign is wrong: a log probability is never positive."),
        (bound.exp(), "this is no logarithm."),
        (bound / math.log(10), "natural logarithms, please."),
        (exact.exp(), "this is a probability: its logarithm was asked for."),
    ]

    def examine(function: Any) -> str:
        asked = []

        def log_prob(x: Any) -> Tensor:
            points = torch.as_tensor(x)
            if points.shape[-1:] != (2,):
                raise Wrong(f"`log_prob` wants points (n, d); it got {tuple(points.shape)}.")
            asked.append(points.numel() // 2)
            rows = density.log_prob(points.reshape(-1, 2))
            return rows.reshape(points.shape[:-1])

        x = density.x.repeat(copies, 1)
        found = numbers(call(function, log_prob, x, density.step, draws), finite=False)
        if found.ndim == 0:
            raise Wrong("one number per row, shape (n,): do not average over the wines.")
        found = numbers(found, x.shape[:1]).reshape(copies, -1).mean(0)
        used = sum(asked) / len(x)
        if torch.allclose(found, bound, atol=0.1):
            if used < draws / 2:
                raise Wrong(f"it looked at {used:.0f} points of each cell, not at {draws}.")
            return "a bound of a probability, from a density."
        if torch.allclose(found, exact, atol=0.15):
            return "the logarithm of a mean over the draws: a bound that is tighter still."
        apart = [(found - wrong).abs().max() for wrong, _ in known]
        wrong, message = known[apart.index(min(apart))]
        if min(apart) < 0.15 * max(1.0, (wrong - bound).abs().max()):
            raise Wrong(message)
        if used < draws / 2:
            raise Wrong("a few points tell little of a cell: take `draws` of them in each.")
        raise Wrong("the shape is right, but a value is off.")

    return trial(answer, examine, praise="")


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
