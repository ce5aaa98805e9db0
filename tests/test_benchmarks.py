"""The benchmarks: report in step with the figures, arithmetic, and competitors that compete."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import measure, report
from benchmarks.baselines import bnn, densities, flows, vae

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = {"bayesian-torch": "bayesian_torch", "blitz": "blitz", "torchbnn": "torchbnn",
             "pythae": "pythae", "nflows": "nflows", "normflows": "normflows"}  # fmt: skip


def need(name):
    """Skip where a peer is not installed."""
    if name in LIBRARIES:
        pytest.importorskip(LIBRARIES[name], reason=f"{name} is not in the course's environment")


# The report


def test_what_is_published_is_what_was_measured():
    stored, readme = report.load(ROOT / "benchmarks" / "results"), (ROOT / "README.md").read_text()
    results = ROOT / "benchmarks" / "RESULTS.md"
    remedy = "Remedy: python benchmarks/report.py"
    assert results.read_text(encoding="utf-8") == report.render(stored), remedy
    assert report.fill(readme, stored) == readme, remedy
    assert tuple(stored) == report.STORES, "Remedy: make benchmarks FULL=1"
    for name in stored:
        assert all(len(each) >= measure.REPETITIONS for each in stored[name]["runs"].values())
    for name in stored.keys() - {"whole"}:
        assert (ROOT / "benchmarks" / "results" / f"{name}.svg").exists(), remedy


def store(**runs):
    origin = {"date": "2026-01-01", "code": "0" * 12, "versions": {"torch": "2"}}
    machine = {"cores": 2, "processor": "a", "system": "Linux", "python": "3.11"}
    return origin | {"machine": machine, "runs": runs}


def bnn_run(seconds, quality, ms):
    curve = [[0.1, quality - 1], [seconds, quality]]
    figures = {"curve": curve, "seconds": seconds, "ms_per_step": ms, "of_floor": ms}
    return figures | {"test_log_density": quality, "test_rmse": 0.6, "profile": ["the slow line"]}


def bnn_store(seconds, ms):
    mine = {"0": bnn_run(seconds, -0.9, ms), "1": bnn_run(seconds, -0.9, ms)}
    floor, usual = {"0": bnn_run(1, -0.9, 1.0)}, {"0": bnn_run(4, -1.0, 3), "1": bnn_run(4, -1, 3)}
    return store(**{"notebook": mine, report.FLOOR: floor, report.USUAL: usual})


def test_a_promise_is_judged_by_its_limit():
    kept = report.targets({"bnn": bnn_store(2.0, 2.0)})
    assert [goal.reached for goal in kept] == [True, True, False, False, False, False]
    assert kept[0].value == 0.5 and kept[1].value == 2.0 and kept[2].value is None
    broken = report.targets({"bnn": bnn_store(2.1, 2.1)})
    assert not broken[0].reached and not broken[1].reached
    assert "**missed**" in broken[0].line() and "not measured" in broken[2].line()


def test_times_are_compared_seed_by_seed():
    def run(quality, *seconds):
        return {"curve": [[second, quality] for second in seconds]}

    mine = {"0": run(-0.9, 1.0), "1": run(-0.9, 8.0), "7": run(-0.9, 1.0)}
    usual = {"1": run(-1.0, 16.0), "0": run(-1.0, 4.0)}  # made up later: another order
    assert report.paired_times({"notebook": mine, "usual": usual}, "notebook", "usual") == [
        0.25, 0.5]  # fmt: skip


def test_a_quality_that_is_never_reached_is_a_missed_promise():
    stored = {"bnn": bnn_store(2.0, 2.0)}
    for run in stored["bnn"]["runs"]["notebook"].values():
        run["curve"] = [[1.0, -1.5]]
    goal = report.targets(stored)[0]
    assert math.isinf(goal.value) and not goal.reached and "never" in goal.line()


def test_the_profile_is_shown_only_for_a_missed_promise():
    assert "the slow line" not in report.render({"bnn": bnn_store(2.0, 2.0)})
    assert "the slow line" in report.render({"bnn": bnn_store(2.0, 2.1)})


def test_the_lead_of_the_flow_is_that_over_the_best_peer():
    runs = {
        report.BEST: {"0": {"moons": {"gap": 0.012}}},
        "notebook, RealNVP": {"0": {"moons": {"gap": 0.001}}},  # ours, not a peer
        "zuko": {"0": {"moons": {"gap": 0.02}}},
        "nflows": {"0": {"moons": {"gap": 0.011}}},
    }
    leads = report.moons_leads(runs)
    assert set(leads) == {"zuko", "nflows"} and leads["zuko"] == pytest.approx([0.008])
    goal = report.targets({"flows": store(**runs)})[4]
    assert goal.value == pytest.approx(-0.001) and not goal.reached


def test_the_busy_machine_is_compared_with_one_thread_alone():
    runs = {"a, 1 thread": {"0": {"seconds": 10.0}}, "a, 2 threads": {"0": {"seconds": 6.0}},
            "a, as shipped, busy": {"0": {"seconds": 14.0}}}  # fmt: skip
    assert report.slowdowns(runs) == {"a": [1.4]}


def test_the_slowest_cells_are_medians_and_cells_that_begin_alike_are_added_up():
    first = {"0": {"slowest": [[3.0, "a"], [2.0, "b"], [2.0, "b"]]},
             "1": {"slowest": [[5.0, "a"], [4.5, "b|c"]]}}  # fmt: skip
    busy = {"0": {"slowest": [[9.0, "a"], [8.0, "only when busy"]]}}
    rows = report.slowest_cells({"1 thread": first, "busy": busy})
    assert rows == [["4.5", "", "`b\\|c`"], ["4.0", "9.0", "`a`"], ["4.0", "", "`b`"]]


def test_figures_are_written_with_three_digits():
    assert [report.number(v) for v in (1234.5, 12.34, 0.01234, -0.5, 0, math.inf)] == [
        "1,234", "12.3", "0.0123", "−0.500", "0", "never"]  # fmt: skip
    assert report.spread([3.0, 1.0, 2.0]) == "2.00 (1.00 to 3.00)"


def test_a_text_without_markers_is_refused():
    with pytest.raises(ValueError, match="no <!-- measured"):
        report.fill("nothing", {})


# Measuring


def test_a_note_costs_no_measured_time(monkeypatch):
    now = iter([0.0, 1.0, 5.0, 6.5, 9.0])  # the clock between the calls
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(now))
    watch = measure.Watch(every=2)
    for _ in range(4):
        watch(lambda: "state")
    assert watch.notes == [(1.0, "state"), (2.5, "state")]


SCRIPT = """import sys
from pathlib import Path

from benchmarks import measure
measure.PROGRESS, measure.RESULTS = Path({results!r}), Path({results!r}) / "published"

def one(name, seed, *, quick, full):
    if name == "broken" and not Path({results!r}, "mended").exists():
        raise ValueError("it does not work")
    return {{"seed": seed}}

measure.command(__file__, ["a", "broken", "b"], one, sources=[], packages=["torch", "no-such"],
                minutes="no time")
"""


def test_runs_go_round_are_kept_and_go_on(tmp_path):
    script = tmp_path / "trial.py"
    folder = {"benchmarks": str(ROOT / "benchmarks"), "results": str(tmp_path)}
    script.write_text(SCRIPT.format(**folder))

    def call(repetitions):
        command = [sys.executable, str(script), "--repetitions", str(repetitions)]
        return subprocess.run(command, capture_output=True, text=True)

    first = call(2)
    assert first.returncode == 1 and "it does not work" in first.stderr
    order = [line.split(": ")[1] for line in first.stdout.splitlines()]
    assert order == [f"{name}, seed {seed}" for seed in (0, 1) for name in ("a", "broken", "b")]
    stored = json.loads((tmp_path / "trial.json").read_text())
    assert stored["runs"]["a"] == {"0": {"seed": 0}, "1": {"seed": 1}}
    assert stored["runs"]["broken"] == {} and stored["versions"]["no-such"] == "not installed"
    second = call(3)
    assert "a, seed 2" in second.stdout and "a, seed 1" not in second.stdout
    script.write_text(script.read_text() + "\n# a comment")
    assert "a, seed" not in call(3).stdout
    published = tmp_path / "published" / "trial.json"
    assert not published.exists()  # one competitor is missing
    (tmp_path / "mended").touch()
    assert call(3).returncode == 0
    assert json.loads(published.read_text()) == json.loads((tmp_path / "trial.json").read_text())
    script.write_text(script.read_text() + "\nchanged = True")
    assert "a, seed 0" in call(1).stdout


# The densities


@pytest.mark.parametrize("place", densities.DENSITIES)
def test_entropy_by_quadrature(place):
    density = densities.DENSITIES[place]
    x, cell = flows.nb.grid(density.box, 700)
    log_p = torch.cat([density.log_prob(part) for part in x.split(100_000)]).double()
    assert abs(log_p.exp().sum().item() * cell - 1) < 1e-3
    integrand = torch.where(log_p > -100, log_p.exp() * log_p, 0)
    assert abs(-integrand.sum().item() * cell - density.entropy) < 1e-3
    assert abs(-density.log_prob(density.sample(50_000, 1)).mean() - density.entropy) < 0.02
    assert torch.equal(density.sample(10, 3), density.sample(10, 3))


# The competitors


@pytest.mark.parametrize("name", bnn.COMPETITORS)
def test_bnn_is_what_it_says_and_trains(name):
    need(name)
    data = bnn.load(0)
    x, y = data.x_train, data.y_train
    bnn.check(name, x, y)
    watch = measure.Watch()
    predict = bnn.COMPETITORS[name].train(x, y, 0, 20, None, watch)
    assert watch.calls == 20
    mean, scale = predict(watch.notes[-1][1], data.x_val, 3)
    assert mean.shape == scale.shape == (3, len(data.y_val)) and (scale > 0).all()
    error, density = bnn.score(predict, watch.notes[-1][1], data.x_val, data.y_val, data.target, 3)
    assert 0.4 < error < 3 and density < 0


def test_bnn_batches_come_scaled_to_all_wines(monkeypatch):
    data, start = bnn.load(0), bnn.UsualNet.__init__
    monkeypatch.setattr(bnn.UsualNet, "__init__", lambda self, d, n: start(self, d, 64))
    with pytest.raises(AssertionError):
        bnn.check("usual Pyro style", data.x_train, data.y_train)


def test_folds_of_the_benchmark_share_no_wine(monkeypatch):
    # Standardised by other training wines, the same wine would look different in another fold.
    monkeypatch.setattr(bnn.nb, "standardise", lambda values, reference: values)
    data = [bnn.load(seed) for seed in range(2)]
    assert not any((row == data[1].x_test).all(1).any() for row in data[0].x_test)
    assert sum(map(len, (data[0].y_train, data[0].y_val, data[0].y_test))) == 1599


@pytest.fixture(scope="module")
def digits():
    return vae.load_mnist()


@pytest.mark.parametrize("name", vae.COMPETITORS)
def test_vae_is_scored_as_known_and_trains(name, digits):
    need(name)
    x = vae.nb.binarise(digits.x_test[:20])
    vae.check(vae.NEW[name](), x, digits.x_train.mean(0).clamp(1e-4, 1 - 1e-4))
    few = digits.x_train[:300]
    fitted, watch, images = vae.COMPETITORS[name](few, digits.x_val[:20], 0, 1, 5)
    assert watch.notes and images in (300, 1000) and fitted.elbo(x).shape == (20,)


def test_a_vae_with_the_sigmoid_applied_twice_is_refused(digits):
    class Squashed(nn.Linear):
        def forward(self, z):
            return super().forward(z).sigmoid()

    wrong = vae.StockVae()
    wrong.decoder[-1] = Squashed(400, vae.PIXELS)
    x = vae.nb.binarise(digits.x_test[:20])
    with pytest.raises(AssertionError):
        vae.check(wrong, x, digits.x_train.mean(0).clamp(1e-4, 1 - 1e-4))


@pytest.mark.parametrize("name", ["notebook", "Pyro's tutorial"])
def test_operations_are_counted_as_by_hand(name):
    model = vae.NEW[name]()
    layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
    products = [2 * m.in_features * m.out_features for m in layers]
    # forward, and two products backward; the pixels of the first layer need no gradient
    by_hand = 3 * sum(products) - products[0]
    assert vae.flops_per_image(model, torch.ones(8, vae.PIXELS)) == by_hand


@pytest.mark.parametrize("name", flows.COMPETITORS)
def test_flow_is_a_density_and_trains(name):
    need(name)
    competitor, moons = flows.COMPETITORS[name], densities.DENSITIES["moons"]
    x = moons.sample(1200, 1)
    torch.manual_seed(0)
    rough = 0.2 if name == "Pyro" else 0.03  # its random start is too rough for a grid
    flows.check(competitor.build(x, 0), x, rough)
    flow, watch = flows.train(competitor, x, x[:100], 2, 0)
    assert len(watch.notes) == 1 and flow.log_prob(x).isfinite().all()
    assert flows.GLOBALS["build_flow"] is flows.BUILD


def test_a_flow_without_the_jacobian_of_the_scale_is_refused():
    class Wrong(flows.Zuko):
        def log_prob(self, x):
            return self.score((x - self.shift) / self.scale)

    x = densities.DENSITIES["moons"].sample(500, 1)
    with pytest.raises(AssertionError):
        flows.check(Wrong(x), x, 0.2)
