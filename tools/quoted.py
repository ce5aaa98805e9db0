"""Stored measurements as the notebooks quote them, for the double braces in their sources."""

import json
from pathlib import Path
from statistics import mean, stdev

from tools.catalogue import table

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def runs(name: str) -> dict:
    """The runs that a script of benchmarks/ has stored."""
    return json.loads((BENCHMARKS / f"{name}.json").read_text(encoding="utf-8"))["runs"]


def number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".replace("-", "−")


def random_splits() -> str:
    """Means over twenty random splits and over another twenty, for the wine notebook."""
    names = {
        "fit_linear": "straight line",
        "fit_mean_field_bnn": "mean field",
        "fit_laplace": "Laplace",
        "fit_mixture": "ten mean-field networks",
        "fit_forest": "random forest",
    }
    head = ["ours, on random splits", "RMSE (points)", "log density (nats)"]
    stored, rows = runs("wine_splits"), []
    for model, name in names.items():
        groups = [zip(*stored[model][group], strict=True) for group in ("first", "second")]
        scores = zip(*groups, strict=True)  # RMSE and log density, of both groups each
        rows.append([name, *(" / ".join(number(mean(s), 3) for s in pair) for pair in scores)])
    return table(head, rows)


def all_of_mnist() -> str:
    """Scores of longer fits, for the notebook on autoencoders."""
    head = ["k", "hidden units", "steps", "test ELBO (nats)", "K = 500 bound (nats)"]
    rows = []
    for fit in (runs("all_of_mnist")[name]["notebook"] for name in ("five", "long")):
        settings = [f"{fit['settings'][key]:,}" for key in ("k", "hidden", "steps")]
        rows.append([*settings, number(fit["elbo"], 1), number(fit["bound_500"], 1)])
    return table(head, rows)


def flows_of_the_plane() -> str:
    """Settings, and means over seeds of what they cost and how near they come to the moons."""
    stored = json.loads((BENCHMARKS / "flow_table.json").read_text(encoding="utf-8"))
    head = ["model", "layers", "steps", "batch", "Gaussians in the base", "parameters"]
    head += ["training (s)", "gap (nats)", "inverse / forward time"]
    rows, keys = [], ("parameters", "seconds", "gap", "inverse")
    for name, found in stored["runs"].items():
        given = stored["settings"][name]
        shown = [f"{given[k]:,}" if k in given else "–" for k in ("layers", "steps", "batch")]
        of = {key: [run[key] for run in found.values() if key in run] for key in keys}
        shown += [str(given.get("components", "–")), spread(of["parameters"])]
        gap, error = mean(of["gap"]), stdev(of["gap"]) / len(of["gap"]) ** 0.5
        gap = f"{number(gap, 4)} ± {number(error, 4)}"
        ratio = number(mean(of["inverse"]), 1) if of["inverse"] else "–"
        rows.append([name, *shown, number(mean(of["seconds"]), 1), gap, ratio])
    return table(head, rows)


def spread(counts: list[int]) -> str:
    """One number, or from the smallest to the largest."""
    return " to ".join(f"{count:,}" for count in sorted({min(counts), max(counts)}))


QUOTED = {
    "random splits": random_splits,
    "all of MNIST": all_of_mnist,
    "flows of the plane": flows_of_the_plane,
}
