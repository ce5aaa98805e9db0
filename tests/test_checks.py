"""The exercise checks: each accepts the solution, knows the usual mistakes, and never raises."""

import pkgutil
import types
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch.distributions import ComposeTransform, Normal
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from torch.nn.functional import softplus

from course_utils import checks
from course_utils.checks.judge import UNTRIED, Verdict, judge
from tests.bad_input import ANYTHING, INF, META, NAN, raising
from tools import build_notebooks, catalogue, notebook_sources
from tools.notebook_definitions import definitions

CHECKS = {name[6:]: getattr(checks, name) for name in dir(checks) if name.startswith("check_")}


# ------------------------------------------------------------------ what each check says


def answers() -> dict[str, list]:
    """By exercise: what the notebook's stub answers, and its solution."""
    found = {}
    for name in catalogue.files():
        names = vars(definitions(name))
        for cell in notebook_sources.code_cells(notebook_sources.read(name)):
            for call in notebook_sources.CHECK.finditer(cell.source):
                exercise = call["check"].removeprefix("checks.check_")
                found.setdefault(exercise, []).append(names.get(call["answer"]))
    return found


ANSWERS = answers()
ENTROPY, GAP = 1.060, 0.217  # of the moons' first coordinate; from it to the best Gaussian; nats
ANSWERS["same_mask"][1] = GAP  # the notebook computes it, and needs more than definitions for it
right = types.SimpleNamespace(**{exercise: both[1] for exercise, both in ANSWERS.items()})
unit = Normal(0.0, 1.0)


def base(x, transforms):
    """The density of the base, without the log-determinants."""
    return unit.log_prob(ComposeTransform(transforms).inv(x))


MISTAKES = [  # exercise, wrong answer, words of the message
    # wine
    ("mixture_log_density", lambda y, m, s: Normal(m, s).log_prob(y).mean(0), "not logarithms"),
    ("mixture_log_density", lambda y, m, s: Normal(m.mean(0), s.mean(0)).log_prob(y), "unknown"),
    ("mixture_log_density", lambda y, m, s: right.mixture_log_density(y, m, s**2), "deviation"),
    ("kl_between_gaussians", lambda a, b, c, d: right.kl_between_gaussians(c, d, a, b), "order"),
    ("kl_between_gaussians", lambda *a: right.kl_between_gaussians(*a) + 0.5, "equal Gaussians"),
    ("minibatch_loss", lambda p, kl, n: (kl - p.sum()) / n, "scale it up"),
    ("minibatch_loss", lambda p, kl, n: kl - p.mean(), "once per data set"),
    ("minibatch_loss", lambda p, kl, n: p.mean() - kl / n, "sign"),
    ("minibatch_loss", lambda p, kl, n: (kl - n / 6 * p.sum()) / n, "off"),
    ("variance_parts", lambda m, s: right.variance_parts(m, s).flip(0), "aleatoric above"),
    ("variance_parts", lambda m, s: right.variance_parts(m, s).sqrt(), "not standard deviations"),
    ("variance_parts", lambda m, s: torch.stack([s.square().mean(0), m.var(0)]), "correction=0"),
    ("prior_prediction", lambda: torch.tensor([1, 1, 1]), "evidence"),
    ("prior_prediction", lambda: torch.tensor([-1, -1, 1]), "less doubt"),
    ("coverage", lambda y, d, m: (y <= d.quantile(m, dim=0)).double().mean(), "one-sided"),
    ("coverage", lambda y, d, m: 1 - right.coverage(y, d, m), "outside"),
    ("coverage", lambda y, d, m: ((d.amin(0) <= y) & (y <= d.amax(0))).double().mean(), "off"),
    (
        "score_probabilities",
        lambda m, s, k: Normal(m[..., None], s[..., None]).log_prob(k).exp().mean(0),
        "density",
    ),
    (
        "score_probabilities",
        lambda m, s, k: right.score_probabilities(m.mean(0)[None], s.mean(0)[None], k),
        "at the end",
    ),
    # vae
    ("gaussian_kl", lambda m, s: right.gaussian_kl(m, s.sqrt()), "squared"),
    ("gaussian_kl", lambda m, s: 2 * right.gaussian_kl(m, s), "twice"),
    ("gaussian_kl", lambda m, s: right.gaussian_kl(m, s) / m.shape[1], "do not average"),
    ("reparametrise", lambda m, r, e: m + r * e, "is a logarithm"),
    ("reparametrise", lambda m, r, e: m + (2 * r).exp() * e, "by the variance"),
    ("reparametrise", lambda m, r, e: m + (0.5 * r).exp() * e, "not the log *variance*"),
    ("reparametrise", lambda *a: right.reparametrise(*a).detach(), "what detaches the result"),
    ("reparametrise", lambda m, r, e: m.numpy() + np.exp(r.numpy()) * e.numpy(), "through NumPy"),
    ("reparametrise", lambda *a: right.reparametrise(*a).tolist(), "through list"),
    ("reparametrise", lambda m, r, e: m + r.exp().detach() * e, "reaches `log_sigma`"),
    ("reparametrise", lambda m, r, e: m.data + r.exp() * e, "reaches `mu`"),
    ("ppca_posterior", lambda x, w, s: right.ppca_posterior(x, w, s**0.5), "square it"),
    ("ppca_posterior", lambda x, w, s: right.ppca_posterior(x, w, s)[: len(x)], "missing"),
    ("vae_loss", lambda x, t, m, s: right.vae_loss(x, t.sigmoid(), m, s), "twice"),
    ("vae_loss", lambda x, t, m, s: len(x) * right.vae_loss(x, t, m, s), "per image"),
    ("vae_loss", lambda x, t, m, s: bce(t, x) + right.gaussian_kl(m, s).mean(), "weighs the rate"),
    ("importance_bound", lambda p, q: (p - q).mean(0), "is the ELBO"),
    ("importance_bound", lambda p, q: (p - q).logsumexp(0), "not their mean"),
    ("importance_bound", lambda p, q: (p - q).exp().mean(0).log(), "infinity"),
    ("importance_bound", lambda p, q: right.importance_bound(p, 0 * q), "weighted by 1 / q"),
    ("active_units", lambda m: (m.std(0) > 0.01).sum(), "threshold is on the variance"),
    ("active_units", lambda m: (m.var(1) > 0.01).sum(), "over images"),
    ("active_units", lambda m: (m.abs().mean(0) > 0.01).sum(), "constant mean"),
    ("continuous_bernoulli", lambda x, t: (x * t - softplus(t)).sum(-1), "missing"),
    ("continuous_bernoulli", lambda x, t: right.continuous_bernoulli(x, t) / 9, "do not average"),
    # flows
    ("lognormal", lambda x: unit.log_prob(x.log()), "Jacobian"),
    ("lognormal", lambda x: unit.log_prob(x.log()) + x.log(), "slope"),
    ("transformed_log_prob", base, "missing"),
    ("transformed_log_prob", lambda *a: 2 * base(*a) - right.transformed_log_prob(*a), "integrate"),
    ("entropy", lambda x: (right.entropy(x) + 1.7219) / 2, "off"),
    ("entropy", lambda x: right.entropy(x) - 0.5772157, "Euler"),
    ("coupling_log_det", lambda x, steer: -right.coupling_log_det(x, steer), "sign"),
    ("coupling_log_det", lambda x, steer: right.coupling_log_det(x, steer).sum(), "per row"),
    ("coupling_inverse", lambda z, steer: right.coupling_inverse(z.flip(-1), steer), "off"),
    ("coupling_inverse", lambda z, steer: z, "off"),
    ("same_mask", -GAP, "negative"),
    ("same_mask", ENTROPY, "entropy"),
    ("same_mask", GAP + 0.05, "off"),
    ("conditional", lambda x, m, s, t: right.conditional(x, 1 - m, s, t), "swapped"),
    ("conditional", lambda x, m, s, t: right.conditional(x, m, s, t) - s[m].sum(-1), "missing"),
]


@pytest.mark.parametrize("exercise", CHECKS)
def test_a_check_accepts_the_solution_and_leaves_the_stub_in_peace(exercise):
    stub, solution = ANSWERS[exercise]
    assert CHECKS[exercise](stub) == UNTRIED
    assert CHECKS[exercise](solution), CHECKS[exercise](solution)
    assert exercise in {row[0] for row in MISTAKES}, "which mistakes does the check know?"


def test_a_reparametrisation_may_be_written_in_many_ways():
    with torch.no_grad():  # whatever the notebook does around it
        for answer in (
            lambda m, r, e: torch.stack([m + r.exp() * draw for draw in e]),
            lambda m, r, e: Normal(m, r.exp()).icdf(unit.cdf(e.double())),
            lambda m, r, e: e.mul_(r.exp_()).add_(m),
        ):
            assert checks.check_reparametrise(answer)


@pytest.mark.parametrize(("exercise", "wrong", "words"), MISTAKES)
def test_a_check_refuses_a_mistake_and_says_why(exercise, wrong, words):
    verdict = CHECKS[exercise](wrong)
    assert not verdict and words in verdict.message


# ------------------------------------------------------------------ what holds for all of them


CASES = [(torch.tensor([1.0, 2.0, 4.0]),), (torch.tensor([3.0]),)]
TRAPS = [(lambda x: x.sum(), "a sum"), (lambda x: x.median(), "a median")]


def verdict(answer) -> Verdict:
    return judge(answer, torch.Tensor.mean, CASES, traps=TRAPS, praise="that is the mean.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x: x.sum() / len(x), "✓ Right: that is the mean."),
        (lambda x: float(x.mean()), "✓ Right"),
        (lambda x: x.mean().double(), "✓ Right"),
        (lambda x: x.sum(), "✗ Not yet: a sum"),
        (lambda x: x.median(), "✗ Not yet: a median"),
        (lambda x: x.mean() + 0.01, "on case 1 of 2, the shape is right, but a value is off"),
        (lambda x: x, r"shape is (3,), expected ()"),
        (lambda x: x.mean() * torch.nan, "NaN"),
        (lambda x: "mean", "not str"),
        (lambda x: x[10], "on case 1 it raised IndexError"),
        (raising(NotImplementedError), "Not tried yet"),
        (lambda x: None, "Not tried yet"),
        (lambda x: ..., "Not tried yet"),
        (None, "Not tried yet"),
        (..., "Not tried yet"),
        (3.0, "give the function itself, not float"),
    ],
)
def test_messages(answer, message):
    found = verdict(answer)
    assert message in repr(found)
    assert bool(found) == message.startswith("✓")
    assert (found == UNTRIED) == message.startswith("Not tried")


def test_an_answer_cannot_change_the_cases():
    assert verdict(lambda x: x.mean() + x.zero_().sum())
    assert CASES[0][0].tolist() == [1, 2, 4]


def test_a_student_can_interrupt_a_check():
    with pytest.raises(KeyboardInterrupt):
        verdict(raising(KeyboardInterrupt()))


def test_a_check_is_found_in_its_module_and_a_notebook_depends_only_on_its_own():
    for name in {module.name for module in pkgutil.iter_modules(checks.__path__)} - {"judge"}:
        code = f"from course_utils.checks import {name} as checks"
        needed = {path.name for path in build_notebooks.modules(code)}
        assert needed == {"__init__.py", "judge.py", f"{name}.py"}
    assert checks.check_coverage.__module__ == "course_utils.checks.wine"
    with pytest.raises(AttributeError, match="check_nothing"):
        checks.check_nothing  # noqa: B018 - raises


class Strange:
    """Says that it can become an array, and cannot."""

    def __array__(self, *args, **kwargs):
        raise KeyError("no array")


NO_FUNCTIONS = [0, 1.5, NAN, -INF, [], {}, b"", Strange(), torch.zeros(9, 9, 9)]
FUNCTIONS = [int, print, Strange, lambda: 0, lambda *, key: 0]
ERRORS = [MemoryError(), StopIteration(), AssertionError(), KeyError("k"), OSError(28, "x")]
ERRORS += [SystemExit(1), UnicodeError("ü"), RecursionError(), torch.OutOfMemoryError("cuda")]
RETURNED = [INF, 1e308, 10**400, 1j, "nan", {1.0}, range(3), Strange(), type, [[1], [1, 2]], [None]]
RETURNED += [np.array(["a"]), np.array([object()]), torch.zeros(0), torch.full((3,), 1j), torch]
RETURNED += [torch.zeros(3, device=META), torch.eye(3).to_sparse(), torch.zeros(1, 1, 1, 1)]
NONSENSE = [*NO_FUNCTIONS, *FUNCTIONS, *map(raising, ERRORS)]
NONSENSE += [lambda *args, value=value: value for value in RETURNED]


@pytest.mark.parametrize("exercise", CHECKS)
def test_a_check_turns_everything_into_a_verdict(exercise):
    def is_wrong(answer):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a warning would be no help to a student
            verdict = CHECKS[exercise](answer)
        assert isinstance(verdict, Verdict) and not verdict
        assert verdict.message[0] in "✗…" and len(verdict.message) < 400

    before = torch.get_num_threads(), torch.get_default_dtype()
    for answer in NONSENSE:
        is_wrong(answer)

    @given(ANYTHING)
    @settings(max_examples=10, deadline=None)
    def returns_anything(value):
        is_wrong(lambda *args: value)

    returns_anything()
    assert (torch.get_num_threads(), torch.get_default_dtype()) == before
