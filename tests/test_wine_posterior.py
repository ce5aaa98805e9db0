"""The stored posteriors of the wine notebook, and the code that computes them."""

import json
import math
from importlib.util import find_spec

import pyro
import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

from benchmarks import wine_posterior as reference
from course_utils.data import posteriors
from course_utils.data.posteriors import load_posteriors
from tools import catalogue

STORED = load_posteriors()
DATA = reference.wines()
X, Y = (values.double() for values in reference.subset(DATA, 0, DATA.sizes[0]))
UNIT = float(DATA.target[1])  # quality points per scale of the score


# ------------------------------------------------------------------ exact answers


@pytest.mark.mistake("B8")
def test_the_log_joint_is_that_of_the_network_written_out():
    """Layers by hand, normal densities by hand, for one draw of the prior."""
    u = torch.randn(652, generator=torch.Generator().manual_seed(0)).double()
    w1, b1, w2, b2, log_sigma = u.split([550, 50, 50, 1, 1])
    z = X.asinh() @ (2 / math.sqrt(11) * w1).reshape(11, 50) + 2 * b1
    f = (z * z.sigmoid()) @ (2 / math.sqrt(50) * w2) + 2 * b2
    squares = ((Y - f) / log_sigma.exp()).square().sum() + u.square().sum()
    constants = (len(Y) + len(u)) / 2 * math.log(2 * math.pi)
    expected = -squares / 2 - len(Y) * log_sigma - constants
    found = reference.log_joint(reference.wine_network, u, X, Y)
    torch.testing.assert_close(found[None], expected)
    conditioned = pyro.condition(reference.model, {"u": u})
    trace = pyro.poutine.trace(conditioned).get_trace(reference.wine_network, len(u), X, Y)
    torch.testing.assert_close(trace.log_prob_sum()[None], expected)


@pytest.mark.mistake("B8")
def test_the_evidence_of_a_linear_model_is_exact():
    """y = J u + sigma noise, u ~ N(0, I): y ~ N(0, J J' + sigma² I)."""
    slopes, y = torch.randn(7, 3).double(), torch.randn(7).double()
    sigma = torch.tensor(0.4).double()
    eye = torch.eye(3).double()
    mode = torch.linalg.solve(slopes.T @ slopes / sigma**2 + eye, slopes.T @ y / sigma**2)
    found = reference.log_evidence(mode, slopes @ mode, slopes, y, sigma)
    covariance = slopes @ slopes.T + sigma**2 * torch.eye(7).double()
    expected = MultivariateNormal(torch.zeros(7).double(), covariance).log_prob(y)
    torch.testing.assert_close(found, expected)


def test_diagnoses_of_chains_whose_answer_is_known():
    """Independent draws; a process with autocorrelation a^t, whose ESS is (1 - a) / (1 + a)."""
    noise = torch.randn(4, 2000, 3, generator=torch.Generator().manual_seed(0)).double()
    r_hat, ess = reference.diagnose(noise)
    assert (r_hat < 1.01).all() and (ess - 8000).abs().max() < 1200
    slow = noise.clone()
    for t in range(1, 2000):
        slow[:, t] = 0.8 * slow[:, t - 1] + 0.6 * noise[:, t]
    assert (reference.diagnose(slow)[1] / (8000 / 9) - 1).abs().max() < 0.25
    apart = noise + torch.arange(4)[:, None, None]
    wider = noise * (1 + torch.arange(4))[:, None, None]  # same means: the folded values tell
    assert (reference.diagnose(apart)[0] > 1.5).all() and (reference.diagnose(wider)[0] > 1.1).all()


@pytest.mark.mistake("B9")
def test_parts_and_their_errors():
    """Two draws plus and minus one with noise 2, in a unit of 3; equal chains have no error."""
    mean, scale = torch.tensor([[-1.0], [1.0]]), torch.tensor([[2.0], [2.0]])
    assert [float(part) for part in reference.parts(mean, scale, 3.0)] == [6.0, 3.0]
    assert reference.with_error(torch.full((4,), 2.0)) == [2.0, 0.0]


def test_the_toy_is_the_notebook_s():
    """The lines that make its points, out of the notebook."""
    book = catalogue.find("wine").source.read_text(encoding="utf-8")
    lines = [line for line in book.splitlines() if line.startswith("toy_") and "=" in line]
    names = {"torch": torch, "SEED": 0, "prior_scale": reference.nb.prior_scale}
    exec("\n".join(lines), names)
    toy = reference.toy()
    assert names["toy_noise"] == 0.2
    for key in ("x", "y", "prior", "line"):
        torch.testing.assert_close(getattr(toy, key), names[f"toy_{key}"])


# ------------------------------------------------------------------ what is stored


def test_the_file_says_where_it_comes_from_and_is_small():
    assert find_spec(STORED["script"]) and STORED["versions"]["torch"] and STORED["date"]
    for name in reference.PARTS:
        assert STORED[name]["date"] and len(STORED[name]["code"]) == 12
        assert STORED[name]["seconds"] > 0 and STORED[name]["seed"] == 0
    assert reference.PLACE.stat().st_size < 150_000
    assert reference.PLACE.name == posteriors.NAME


def test_a_missing_file_is_named_with_a_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(posteriors, "DATA_DIR", tmp_path)
    with pytest.raises(FileNotFoundError, match="posteriors.json is missing.*Remedy: put"):
        load_posteriors()


def test_packed_numbers_come_back():
    numbers = torch.randn(3, 5)
    stored = json.loads(json.dumps(reference.packed(numbers)))
    assert torch.equal(posteriors._tensors(stored), numbers.double())


@pytest.mark.mistake("B8")
def test_stored_log_joints_are_those_of_the_stored_draws():
    draws = STORED["wine"]["draws"]
    found = reference.log_joint(reference.wine_network, draws, X, Y)
    torch.testing.assert_close(found, STORED["wine"]["log_joint"], rtol=0, atol=1e-3)
    mean, sd = STORED["wine"]["log_joint_all"]
    assert ((found - mean) / sd).abs().max() < 5


def test_a_chain_that_goes_on_stays_within_the_stored_spread():
    wine = STORED["wine"]
    options = {"seed": 7, "warmup": 0, "kept": 40, "depth": 7, "step": float(wine["step_sizes"][0])}
    u, _ = reference.sample(reference.wine_network, wine["draws"][0], X, Y, **options)
    mean, scale = reference.wine_network(u, DATA.x_val.double())
    z = (mean * UNIT + float(DATA.target[0]) - wine["mean"]) / wine["sd"]  # (s, n)
    assert 0.6 < z.square().mean() < 1.6 and z.mean().abs() < 0.6
    log_sigma = (u[:, -1] - wine["log_sigma"]["mean"]) / wine["log_sigma"]["sd"]
    assert log_sigma.abs().max() < 4 and log_sigma.mean().abs() < 1
    joint = reference.log_joint(reference.wine_network, u, X, Y)
    centre, spread = wine["log_joint_all"]
    assert ((joint - centre) / spread).abs().max() < 4.5
    aleatoric, epistemic = reference.parts(mean, scale, UNIT)
    torch.testing.assert_close(aleatoric, wine["aleatoric"][0], rtol=0.15, atol=0)
    torch.testing.assert_close(epistemic, wine["epistemic"][0], rtol=0.3, atol=0)


def test_the_stored_chains_agree():
    """At most 1.01 and at least 400, as is asked for (Vehtari et al. 2021)."""
    wine = STORED["wine"]
    for each in (wine["predictive_means"], wine["log_sigma"], STORED["gap"]["functions"]):
        assert each["r_hat_largest"] <= 1.01 and each["ess_smallest"] >= 400


@pytest.mark.parametrize("name", ["laplace", "mean_field", "mean_field_fixed"])
def test_a_stored_doubt_of_few_wines_is_that_of_the_code(name):
    x, y = reference.subset(DATA, 0, 54)
    stored = STORED["doubts"][name][0, 0]
    if name == "laplace":
        found = reference.laplace(x, y, DATA.x_val, seed=0)
    else:
        sigma = STORED["doubts"]["laplace"][0, 0, 0].item() / UNIT
        given = None if name == "mean_field" else sigma
        found = reference.mean_field(x, y, DATA.x_val, seed=0, sigma=given)
    assert [UNIT * part for part in found] == pytest.approx(stored.tolist(), rel=0.08)


def test_laplace_has_too_little_doubt_also_with_the_noise_of_nuts():
    """Whatever its start; one of the stored starts is computed again."""
    sigma, stored = STORED["wine"]["sigma"][0].item() / UNIT, STORED["told"]["laplace"]
    assert (stored[:, 1] < STORED["wine"]["epistemic"][0] - 0.08).all()
    found = reference.laplace(*reference.subset(DATA, 0, 54), DATA.x_val, seed=1, sigma=sigma)
    assert [UNIT * part for part in found] == pytest.approx(stored[1].tolist(), rel=0.08)


def test_more_steps_would_change_the_stored_doubts_little():
    doubts = STORED["doubts"]
    for name, pair in doubts["twice_the_steps"].items():
        kind, size = name.split(", ")
        before = doubts[kind][0, doubts["sizes"].tolist().index(float(size))]
        torch.testing.assert_close(before, pair, rtol=0.05, atol=0)


def test_aleatoric_parts_with_a_given_sigma_are_that_sigma():
    doubts = STORED["doubts"]
    torch.testing.assert_close(
        doubts["mean_field_fixed"][..., 0], doubts["laplace"][..., 0], rtol=1e-3, atol=0
    )


def test_stored_bands_of_the_toy_are_ordered_and_wide_in_the_gap():
    """And narrow at the data, around the true sine."""
    gap, toy = STORED["gap"], reference.toy()
    assert torch.equal(gap["line"], toy.line[:, 0].double().round(decimals=3))
    assert (gap["lower"] < gap["mean"]).all() and (gap["mean"] < gap["upper"]).all()
    near = ((gap["line"].abs() - 1.5).abs() < 0.4).nonzero().squeeze()
    assert gap["sd"][near].max() < 0.15 < gap["doubt_in_gap"][0]
    inside = gap["line"].abs() < 0.71
    assert gap["sd"][inside].mean().item() == pytest.approx(gap["doubt_in_gap"][0].item(), abs=1e-3)
    truth = torch.sin(2 * gap["line"][near])
    assert Normal(gap["mean"][near], gap["sd"][near]).log_prob(truth).mean() > -1
