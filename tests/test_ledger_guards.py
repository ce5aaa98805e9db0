"""Guards of docs/ledger.md that no other test gives: each fails if its mistake comes back.

Functions are lifted out of the notebooks; what is a matter of writing is looked for in their code.
"""

import ast
import inspect
import math
import re
import types
from pathlib import Path

import nbformat
import pytest
import torch
import zuko
from torch.distributions import Categorical, MixtureSameFamily, Normal

from course_utils.data import load_wine_quality, make_two_moons, two_moons_log_prob
from course_utils.metrics import rmse
from tools import catalogue, notebook_sources
from tools.notebook_definitions import definitions

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")


def source(name: str) -> str:
    """The code of a notebook's source."""
    return (ROOT / "notebooks" / f"{name}.py").read_text(encoding="utf-8")


def calls(name: str, *functions: str) -> list[ast.Call]:
    """Calls of functions, by their last name, in the code of a notebook."""
    found = [node for node in ast.walk(ast.parse(source(name))) if isinstance(node, ast.Call)]
    return [call for call in found if ast.unparse(call.func).split(".")[-1] in functions]


def outputs(name: str) -> list[str]:
    """Markdown and text that the cells of the executed notebook show."""
    book = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    found = [output for cell in book.cells for output in cell.get("outputs", [])]
    return [o.get("text") or o.get("data", {}).get("text/markdown", "") for o in found]


# ------------------------------------------------------------------------- data and evaluation


def test_no_model_is_fitted_or_chosen_on_test_data():
    """D2: what a fit is given never comes from the test set."""
    fits = [calls("var_mod", "fit_vae"), calls("flows", "fit_flow")]
    assert all(len(found) >= 2 for found in fits)
    for call in sum(fits, []):
        given = " ".join(ast.unparse(part) for part in [*call.args, *call.keywords])
        assert "test" not in given, given
    seen = {ast.unparse(call.args[0]) for call in calls("var_mod", "minibatches")}
    assert seen and not any("test" in name for name in seen)
    # Wine: until section 12, fold 0 is only counted.
    before, after = source("bayesian_neural_networks_wine").split("\n# ## 12 ")
    assert "fold != k" in after and "rest = (fold != 0)" in before
    assert len(re.findall(r"fold == 0", before)) == 1 == before.count("(fold == 0).sum()")
    assert before.count("train, validation = rest[parts.train], rest[parts.validation]") == 1


@pytest.fixture
def wine():
    """The wine notebook on made-up wines: y = 5 + x_0 + noise 0.5; fold 0 is far away."""
    book = definitions("bayesian_neural_networks_wine")
    noise = torch.Generator().manual_seed(0)
    x = torch.randn(1000, 11, generator=noise).double()
    y = 5 + x[:, 0] + 0.5 * torch.randn(1000, generator=noise).double()
    fold = torch.arange(1000) % 5
    x[fold == 0, 1:] += 100
    scope = book.test_once.__globals__
    scope.update(wine=types.SimpleNamespace(x=x, y=y), device=CPU, DRAWS=800)
    return types.SimpleNamespace(book=book, scope=scope, x=x, y=y, fold=fold)


def known_fit(wine, spread=0.0, log=None):
    """A fit whose draws are the true mean ± spread with the true noise, in quality points."""

    def fit(x, y, *, seed):
        if log is not None:
            log.append((x, y))
        used = wine.fold != 0
        centre, unit = wine.y[used].mean(), wine.y[used].std()
        x0, scale0 = wine.x[used, 0].mean(), wine.x[used, 0].std()

        def predict(x_new, s):
            mean = (5 + x_new[:, 0] * scale0 + x0 - centre) / unit
            side = torch.where(torch.arange(s) % 2 == 0, spread, -spread)[:, None] / unit
            mean = mean + side
            return mean, torch.full_like(mean, 0.5 / unit.item())

        return predict

    return fit


def test_test_wines_touch_neither_scale_nor_fit(wine):
    """D3: exactly the training wines arrive, with mean 0 and scale 1."""
    log = []
    wine.book.test_once(known_fit(wine, log=log), 0, wine.fold)
    ((x, y),) = log
    assert x.shape == (800, 11) and y.shape == (800,)
    for values in (x, y):
        assert values.mean(0).abs().max() < 1e-5 and (values.std(0) - 1).abs().max() < 1e-5
    references = {ast.unparse(c.args[1]) for c in calls(wine.book.__name__, "standardise")}
    assert references <= {"wine.x[train]", "wine.y[train]", "wine.x[used]", "values[used]"}


def test_a_flow_standardises_with_its_training_points():
    book = definitions("flows")
    x = torch.tensor([3.0, -1.0]) + torch.tensor([2.0, 0.1]) * torch.randn(500, 2)
    flow = book.build_flow("realnvp", x, 1, 0)
    torch.testing.assert_close(flow.shift, x.mean(0))
    torch.testing.assert_close(flow.scale, x.std(0))
    assert "build_flow(kind, x_train, components, seed)" in source("flows")


REFERENCES = {
    "bayesian_neural_networks_wine": ("RMSE", {"constant", "linear"}),
    "var_mod": ("test ELBO", {"pixel frequencies", "noise of sampled binarisation"}),
    "flows": ("test NLL", {"one Gaussian", "*the truth*"}),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_every_table_of_results_has_its_reference_rows(name):
    """D5: also the tables that a later change adds."""
    column, wanted = REFERENCES[name]
    tables = [text for text in outputs(name) if text.startswith("|") and column in text]
    assert tables
    for text in tables:
        rows = [line.split("|")[1].strip() for line in text.splitlines()[2:]]
        for reference in wanted:
            assert any(row.startswith(reference) for row in rows), (reference, rows)


def test_five_repetitions_or_more():
    """D6: and every table of results gives standard errors."""
    wine, vae, flows = map(definitions, ("bayesian_neural_networks_wine", "var_mod", "flows"))
    counts = wine.FOLDS, wine.SUBSET_SEEDS, vae.LABEL_SEEDS, flows.SEEDS
    assert min(counts) >= 5
    for name, row in (
        ("bayesian_neural_networks_wine", "mean field"),
        ("flows", "RealNVP by hand"),
    ):
        table = next(
            text for text in outputs(name) if text.startswith("|") and f"| {row} |" in text
        )
        assert re.search(rf"\| {row} \|.*\d ± \d", table)


# ---------------------------------------------------------------------- Bayesian neural networks


@pytest.mark.parametrize("noisy", [False, True])
def test_the_model_holds_the_prior_once_and_every_wine_once(noisy):
    """B2: the log joint of the Pyro model, written out."""
    import pyro

    book = definitions("bayesian_neural_networks_wine")
    x, y = torch.randn(30, 3), torch.randn(30)
    trace = pyro.poutine.trace(book.bnn_model).get_trace(x, y, 4, noisy)
    w, prior = trace.nodes["w"]["value"], book.weight_prior(x, 4, noisy)
    mean, scale = book.mean_and_scale(w, x, 4, noisy)
    expected = Normal(0.0, prior).log_prob(w).sum() + Normal(mean, scale).log_prob(y).sum()
    torch.testing.assert_close(trace.log_prob_sum(), expected)


def test_small_data_stay_small_and_nested():
    """B3: each fit sees exactly the first wines of one fixed order."""
    book = definitions("bayesian_neural_networks_wine")
    scope, seen = book.doubt_by_size.__globals__, []
    orders = [torch.randperm(40, generator=torch.Generator().manual_seed(k)) for k in range(2)]
    x = torch.arange(40.0)[:, None]
    scope.update(SUBSET_SEEDS=2, sizes=[5, 10, 40], orders=orders, device=CPU, x_val=x[:3])
    scope.update(x_train=x, y_train=x[:, 0], DRAWS=2, y_mean=0.0, y_scale=1.0)

    def fit(x, y, *, seed):
        seen.append(x[:, 0].long().tolist())
        assert torch.equal(x[:, 0], y)
        return lambda x_new, s: (torch.zeros(s, len(x_new)), torch.ones(s, len(x_new)))

    book.doubt_by_size(fit)
    assert seen == [order[:size].tolist() for order in orders for size in (5, 10, 40)]


def test_the_table_scores_the_average_over_draws_in_quality_points(wine):
    """B4, B5, B7, B12: a model whose draws are the truth plus and minus one point."""
    row, each = wine.book.test_once(known_fit(wine, spread=1.0), 0, wine.fold)
    held = wine.fold == 0
    y, truth = wine.y[held], 5 + wine.x[held, 0]
    right = rmse(y, truth)
    assert row[0].item() == pytest.approx(right, abs=1e-4)
    assert right < 0.6 < math.sqrt(2) * right  # one noisy draw scores 0.7 or more, one draw 1.1
    draws = torch.stack([truth - 1, truth + 1], -1)
    mixture = MixtureSameFamily(Categorical(torch.ones(2)), Normal(draws, 0.5))
    torch.testing.assert_close(each[1], mixture.log_prob(y), rtol=0, atol=1e-4)
    assert row[1].item() == pytest.approx(mixture.log_prob(y).mean().item(), abs=1e-4)
    assert row[1] < Normal(truth, 0.5).log_prob(y).mean() - 0.5  # not that of the mean prediction


@pytest.mark.parametrize(("spread", "low", "high"), [(0.0, 0.84, 0.96), (1.0, 0.97, 1.0)])
def test_intervals_hold_weights_and_noise(wine, spread, low, high):
    """B6: weights alone hold nothing without spread, noise alone 90 % with it."""
    row, _ = wine.book.test_once(known_fit(wine, spread=spread), 0, wine.fold)
    assert low < row[3] <= high
    width = 2 * 1.645 * 0.5 if not spread else 2 * (1 + 1.2816 * 0.5)  # 5 % of each half: 10 %
    assert row[4].item() == pytest.approx(width, rel=0.02)


def test_no_normal_is_given_a_variance():
    """B8: the second argument of every Normal in the notebooks."""
    scales = [
        ast.unparse(call.args[1])
        for name in catalogue.files()
        for call in calls(name, "Normal")
        if len(call.args) == 2
    ]
    assert len(scales) > 20
    suspicious = r"\*\* ?2|square\(|\bvar|variance|covariance"
    rooted = [scale for scale in scales if not scale.endswith((".sqrt()", "** 0.5"))]
    assert not [scale for scale in rooted if re.search(suspicious, scale)]


@pytest.mark.parametrize("fit", ["fit_deep_ensemble", "fit_bnn_ensemble"])
def test_an_ensemble_keeps_its_members_apart(fit):
    """B10: draws are members, each with its own mean and its own noise for every wine."""
    book = definitions("bayesian_neural_networks_wine")
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    mean, scale = getattr(book, fit)(x, x[:, 0], seed=0, steps=5, members=4)(x[:6], 4)
    for part in (mean, scale):
        assert (part.std(0) > 1e-4).all() and (part.std(1) > 1e-4).all()


# ------------------------------------------------------------------------ variational autoencoder


def test_nobody_switches_validation_off():
    """V1: in any notebook, or in the package."""
    paths = [*(ROOT / "notebooks").glob("*.py"), *(ROOT / "course_utils").glob("*.py")]
    assert len(paths) > 8
    for path in paths:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"validate_args|validation_enabled|enable_validation", text), path


def test_likelihoods_get_logits():
    """V3: no sigmoid between a decoder and a likelihood; the decoder ends in a linear layer."""
    given = [ast.unparse(call.args[1]) for call in calls("var_mod", "log_bernoulli")]
    named = [keyword for call in calls("var_mod", "Bernoulli") for keyword in call.keywords]
    given += [ast.unparse(keyword.value) for keyword in named if keyword.arg == "logits"]
    assert len(given) > 8 and not any("sigmoid" in argument for argument in given)
    assert isinstance(definitions("var_mod").Vae(6, 2, hidden=3).decoder[-1], torch.nn.Linear)


def test_there_is_no_training_mode_to_forget():
    """V4: train() and eval() give the same scores, and no module remembers a batch."""
    book = definitions("var_mod")
    vae, x = book.ScoredVae(6, 2, hidden=5), (torch.rand(9, 6) < 0.5).float()
    assert torch.equal(vae.train().elbo(x), vae.eval().elbo(x))
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    vae.train().posterior(x)
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())


def test_generated_images_have_not_seen_an_image():
    """V5: sampling works without an encoder, and the labels of the pictures say what they are."""
    vae = definitions("var_mod").ScoredVae(6, 2, hidden=5)
    vae.encoder = None
    assert vae.sample(4).shape == (4, 6)
    text = source("var_mod")
    labels = re.findall(r'"([^"]*)": (\w+)', text)
    pictures = dict(labels)
    assert pictures["generated, z from the prior (means)"] == "means"
    assert pictures["their reconstructions (means)"] == "rebuilt"
    assert "means, samples = vae.sample(" in text


def test_reported_scores_are_those_of_the_whole_test_set():
    """V6: every score of the table is computed from x_test, all of it, and averaged."""
    nodes = [n for n in ast.walk(ast.parse(source("var_mod"))) if isinstance(n, ast.Assign)]
    for name in ("flat_elbo", "elbo", "bounds[500]", "constant"):
        values = [ast.unparse(n.value) for n in nodes if ast.unparse(n.targets[0]) == name]
        assert any("x_test" in value and "x_test[" not in value for value in values), name
    row = next(
        line for text in outputs("var_mod") for line in text.splitlines() if "k = 32 |" in line
    )
    shown = next(text for text in outputs("var_mod") if "= -(distortion" in text)
    assert row.split("|")[3].strip() in shown


def test_the_binarisation_is_named_beside_every_score():
    """V9: in the cell after the table, and on the slide."""
    cells = notebook_sources.read("var_mod").cells
    table = next(i for i, cell in enumerate(cells) if "| model | training digits |" in cell.source)
    assert "**sampled binarisation**" in cells[table + 1].source
    slides = (ROOT / "slides" / "lecture.md").read_text(encoding="utf-8")
    shown = [slide for slide in slides.split("\n---\n") if "[[digits" in slide]
    assert shown and all("sampled binarisation" in slide.split("<!--\n")[0] for slide in shown)
    thresholded = re.findall(r".*> 0\.5.*", source("var_mod"))
    assert all("thresholded" in line or "assert" in line for line in thresholded)


# --------------------------------------------------------------------------- normalizing flows


def test_no_density_is_drawn_upside_down():
    """F5: every imshow in a notebook has its origin below."""
    drawn = [call for name in catalogue.files() for call in calls(name, "imshow")]
    assert drawn
    for call in drawn:
        assert "origin='lower'" in [ast.unparse(keyword) for keyword in call.keywords]


def test_the_gap_is_paired():
    """F6: a model that is 0.1 nats off everywhere has that gap, and no standard error."""
    book = definitions("flows")
    x = torch.randn(200, 2)
    book.gap_to_truth.__globals__["x_test"] = x
    gap, error = book.gap_to_truth(book.true_log_prob(x) - 0.1)
    assert gap == pytest.approx(0.1, abs=1e-5) and error < 1e-6


def test_the_luck_of_a_test_set():
    """F6: how much the unpaired score of 10,000 points scatters, and that of 2,000."""
    log_p = two_moons_log_prob(make_two_moons(20_000, noise=0.05, seed=5).x, noise=0.05)
    assert log_p.std().item() / 100 == pytest.approx(0.0074, abs=0.0003)
    assert log_p.std().item() / math.sqrt(2000) == pytest.approx(0.016, abs=0.0006)


def test_no_log_density_is_compared_in_per_cent():
    """F8: outside the slide that quotes the mistake."""
    slides = (ROOT / "slides" / "lecture.md").read_text(encoding="utf-8")
    mistake = 'Misunderstanding: "The flow\'s NLL is 10 % better."'
    assert mistake in slides
    texts = [slides.replace(mistake, ""), *map(source, catalogue.files())]
    texts += ["\n".join(outputs(name)) for name in catalogue.files()]
    score = r"(?:ELBO|NLL|log[- ]?(?:density|likelihood)|bound)"
    for text in texts:
        assert not re.search(
            rf"{score}[^.|\n]{{0,30}}\d ?(?:%|per cent) (?:better|lower|higher)", text
        )
        assert not re.search(
            rf"\d ?(?:%|per cent) (?:better|lower|higher)[^.|\n]{{0,30}}{score}", text
        )


# ------------------------------------------------------------------------------ numbers in prose


def test_facts_about_the_wines():
    """Four wines in five score 5 or 6, the mean is 5.6; the scores are integers."""
    y = load_wine_quality("red").y
    assert ((y == 5) | (y == 6)).double().mean().item() == pytest.approx(0.8, abs=0.03)
    assert y.mean().item() == pytest.approx(5.6, abs=0.05)


def test_shortened_numbers_of_the_wines():
    """data/README.md: the only long numbers are thirds, cut after twelve digits."""
    text = (ROOT / "data" / "winequality-red.csv").read_text(encoding="utf-8")
    long = [float(number) for number in re.findall(r"\d+\.\d{6,}", text)]
    assert max(abs(x - round(30 * x) / 30) for x in long) == pytest.approx(3e-11, abs=0.5e-11)


def test_arithmetic_in_the_texts():
    """What the slides and notebooks compute in passing."""
    assert 11 * 50 + 50 == 600 and 600 + 50 + 1 == 651 and 10 + 10 + 10 + 1 == 31
    assert 0.757 * math.sqrt(2) == pytest.approx(1.07, abs=0.005)
    assert 784 * math.log(2) == pytest.approx(543, abs=0.5)
    assert 1 / math.log(2) == pytest.approx(1.44, abs=0.005)
    assert math.sqrt(0.5) == pytest.approx(0.71, abs=0.005)
    assert 20 * 0.05 == 1 and math.exp(0.7) == pytest.approx(2, abs=0.02)
    assert math.exp(0.01) == pytest.approx(1.01, abs=1e-4)
    assert 1080 / 720 == 1920 / 1280 == 1.5 and 60 / 0.1 == 10 * 60
    assert math.exp(-(4**2) / 2) == pytest.approx(3e-4, abs=0.5e-4)  # beyond radius 4 in the plane
    assert 500 * 2000 == 1e6 and round(0.05 * 1083) == 54


def test_smallest_slope_of_a_spline_by_default():
    """flows says that its own is ten times as large."""
    parameters = inspect.signature(zuko.transforms.MonotonicRQSTransform).parameters
    assert parameters["slope"].default == 1e-3
