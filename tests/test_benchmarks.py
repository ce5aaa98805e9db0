"""The benchmarks: competitors that compete, runs that are not mixed, promises that are judged."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from benchmarks import measure, report
from benchmarks.baselines import bnn, densities, flows, vae


def here(competitors):
    """Without the libraries that only ``PYTHONPATH=build/baselines`` adds."""
    absent = [] if find_spec("torchbnn") else {*report.PACKAGES} - {"zuko"}
    return [name for name in competitors if name not in absent]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small networks, as in the benchmarks
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", [*report.STORES, "seeds", "wine_splits", "all_of_mnist"])
def test_a_stored_file_says_where_it_comes_from(name):
    stored = measure.load(name)
    assert find_spec(stored["script"]) and stored["date"] and stored["versions"]["torch"]
    if name in report.STORES:  # complete, of one version of the code
        counts = {len(each) for each in stored["runs"].values()}
        assert counts == {measure.REPETITIONS} and stored["code"]


def test_stored_scores_of_the_network_are_those_of_the_code():
    data, (train, size, epochs) = bnn.load(0), bnn.COMPETITORS["notebook"]
    watch = measure.Watch(every=20)
    predict = train(data.x_train, data.y_train, 0, epochs, size, watch)
    found = bnn.score(predict, watch.notes[-1][1], data.x_test, data.y_test, data.target, bnn.DRAWS)
    stored = measure.load("bnn")["runs"]["notebook"]["0"]
    assert found == pytest.approx((stored["test_rmse"], stored["test_log_density"]), abs=0.002)


def judged(seconds, of_floor, quality=-0.9):
    """Verdicts, if the usual style takes 4 s, and with the other seed both take twice as long."""
    mine = {seed: {"curve": [[0.1, -2], [seconds * (1 + int(seed)), quality]], "of_floor": of_floor}
            for seed in "017"}  # fmt: skip
    usual = {"1": {"curve": [[8, -1.0]]}, "0": {"curve": [[4, -1.0]]}}  # another order, and no 7
    stored = report.compare({"bnn": {"runs": {"notebook": mine, report.USUAL: usual}}})
    return [row[1:] for row in report.judged(stored)]


def test_times_are_compared_seed_by_seed_and_a_missed_promise_is_shown():
    assert judged(2, 2.0)[:3] == [["0.500", "reached"], ["2.00", "reached"], ["not measured", ""]]
    assert judged(2.1, 2.1)[:2] == [["0.525", "**missed**"], ["2.10", "**missed**"]]
    assert judged(2, 2.0, quality=-1.5)[0] == ["never", "**missed**"]


def test_the_best_library_and_one_thread_alone_are_what_counts():
    gaps = {report.BEST: 0.012, "notebook, RealNVP": 0.001, "zuko": 0.02, "nflows": 0.011}
    seconds = {"a, 1 thread": 10.0, "a, 2 threads": 6.0, "a, as shipped, busy": 16.0}
    plane = {name: {"0": {"moons": {"gap": gap}}} for name, gap in gaps.items()}
    whole = {name: {"0": {"seconds": value}} for name, value in seconds.items()}
    stored = report.compare({"flows": {"runs": plane}, "notebook_runtime": {"runs": whole}})
    assert [row[1:] for row in report.judged(stored)[4:]] == [
        ["−0.00100", "**missed**"], ["1.60", "**missed**"]]  # fmt: skip


def test_a_note_costs_no_measured_time(monkeypatch):
    now = iter([0.0, 1.0, 5.0, 6.5, 9.0])  # the clock between the calls
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(now))
    watch = measure.Watch(every=2)
    for _ in range(4):
        watch(lambda: "state")
    assert watch.notes == [(1.0, "state"), (2.5, "state")]


SCRIPT = """from pathlib import Path

from benchmarks import measure
HERE = Path(__file__).parent
measure.PROGRESS, measure.TRIALS, measure.RESULTS = HERE, HERE / "quick", HERE / "published"

def one(name, seed, size):
    if name == "broken" and not (HERE / "mended").exists():
        raise ValueError("it does not work")
    return {"seed": seed}

if __name__ == "__main__":
    measure.command(__spec__, ["a", "broken", "b"], one, sources=[], packages=["torch"])
"""


def test_runs_go_round_are_kept_go_on_and_are_not_mixed(tmp_path):
    script, published = tmp_path / "trial.py", tmp_path / "published" / "trial.json"
    script.write_text(SCRIPT)
    env = os.environ | {"PYTHONPATH": f"{measure.ROOT}{os.pathsep}{tmp_path}"}

    def call(repetitions, *options):
        command = [sys.executable, "-m", "trial", "--repetitions", str(repetitions), *options]
        return subprocess.run(command, capture_output=True, text=True, env=env)

    first = call(2)
    assert first.returncode == 1 and "it does not work" in first.stderr
    order = [line.split(": ")[1] for line in first.stdout.splitlines()]
    assert order == [f"{name}, seed {seed}" for seed in (0, 1) for name in ("a", "broken", "b")]
    script.write_text(SCRIPT + "\n# a comment")
    second = call(3, "a")
    assert "a, seed 2" in second.stdout and "a, seed 1" not in second.stdout
    assert second.returncode == 0 and not published.exists()  # the others are missing
    (tmp_path / "mended").touch()
    assert call(1, "--size", "quick").returncode == 0 and not published.exists()  # a trial
    assert call(3).returncode == 0
    stored = json.loads(published.read_text())
    assert stored["runs"]["a"] == {str(seed): {"seed": seed} for seed in range(3)}
    assert stored["script"] == "trial"
    script.write_text(SCRIPT + "\nchanged = True")
    assert "a, seed 0" in call(1).stdout


@pytest.mark.parametrize("place", densities.DENSITIES)
def test_points_come_from_the_density(place):
    density = densities.DENSITIES[place]
    x, cell = flows.nb.grid(density.box, 300)
    log_p = density.log_prob(x).double()
    assert abs(log_p.exp().sum().item() * cell - 1) < 1e-3
    entropy = -torch.where(log_p > -100, log_p.exp() * log_p, 0).sum().item() * cell
    assert abs(-density.log_prob(density.sample(50_000, 1)).mean() - entropy) < 0.02


@pytest.mark.parametrize("name", here(bnn.COMPETITORS))
def test_bnn_is_what_it_says_and_trains(name):
    data = bnn.load(0)
    bnn.check(name, data.x_train, data.y_train)
    watch = measure.Watch()
    predict = bnn.COMPETITORS[name][0](data.x_train, data.y_train, 0, 20, None, watch)
    assert watch.calls == 20  # the same steps for all
    mean, scale = predict(watch.notes[-1][1], data.x_val, 3)
    assert mean.shape == scale.shape == (3, len(data.y_val)) and (scale > 0).all()


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


DIGITS = vae.load_mnist()
FREQUENCY = DIGITS.x_train.mean(0).clamp(1e-4, 1 - 1e-4)


@pytest.mark.parametrize("name", here(vae.COMPETITORS))
def test_vae_is_scored_as_known_and_trains(name):
    x = vae.nb.binarise(DIGITS.x_test[:20])
    vae.check(vae.NEW[name](), x, FREQUENCY)
    fitted, watch, images = vae.COMPETITORS[name](DIGITS.x_train[:300], DIGITS.x_val[:20], 0, 1, 5)
    assert watch.notes and images in (300, 1000) and fitted.elbo(x).shape == (20,)


def test_a_vae_with_the_sigmoid_applied_twice_is_refused():
    wrong = vae.StockVae()
    wrong.decoder[-1].register_forward_hook(lambda layer, z, logits: logits.sigmoid())
    with pytest.raises(AssertionError):
        vae.check(wrong, vae.nb.binarise(DIGITS.x_test[:20]), FREQUENCY)


@pytest.mark.parametrize("name", ["notebook", "Pyro's tutorial"])
def test_operations_are_counted_as_by_hand(name):
    model = vae.NEW[name]()
    products = [2 * m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear)]
    # forward, and two products backward; the pixels of the first layer need no gradient
    by_hand = 3 * sum(products) - products[0]
    assert vae.flops_per_image(model, torch.ones(8, vae.PIXELS)) == by_hand


@pytest.mark.parametrize("name", here(flows.COMPETITORS))
def test_flow_is_a_density_and_trains(name):
    competitor, x = flows.COMPETITORS[name], densities.DENSITIES["moons"].sample(1200, 1)
    torch.manual_seed(0)
    rough = 0.2 if name == "Pyro" else 0.03  # its random start is too rough for a grid
    flows.check(competitor.build(x, 0), x, rough, points=300)
    flow, watch = flows.train(competitor, x, x[:100], 2, 0)
    assert len(watch.notes) == 1 and flow.log_prob(x).isfinite().all()
    assert flows.GLOBALS["build_flow"] is flows.BUILD


def test_a_flow_without_the_jacobian_of_the_scale_is_refused():
    x = densities.DENSITIES["moons"].sample(500, 1)
    wrong = flows.Zuko(x)
    wrong.log_prob = lambda points: wrong.score((points - wrong.shift) / wrong.scale)
    with pytest.raises(AssertionError):
        flows.check(wrong, x, 0.2, points=300)
