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


def error(values: list[float]) -> float:
    """The standard error of their mean."""
    return stdev(values) / len(values) ** 0.5


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
    """Scores of longer fits, one run each, for the notebook on autoencoders."""
    stored = runs("all_of_mnist")
    fits = [stored[name]["notebook"] for name in ("five", "ten", "long") if name in stored]
    columns = {"k": "k", "hidden": "hidden units", "steps": "steps"}
    if any("together" in fit["settings"] for fit in fits):
        columns["together"] = "steps more with a learnt prior"
    rows = []
    for fit in fits:
        settings = [f"{fit['settings'].get(key, 0):,}" for key in columns]
        rows.append([*settings, number(fit["elbo"], 1), number(fit["bound_500"], 1)])
    head = [*columns.values(), "test ELBO (nats)", "K = 500 bound (nats)"]
    return table(head, rows)


def learnt_priors() -> str:
    """Means and standard errors over seeds of the priors of the notebook on autoencoders."""
    stored, rows = [run["scores"] for run in runs("learnt_priors").values()], []
    for name in stored[0]:
        cells = []
        for values in zip(*(scores[name] for scores in stored), strict=True):
            cells.append(f"{number(mean(values), 2)} ± {number(error(values), 2)}")
        rows.append([name, *cells])
    return table(["prior, five seeds", "test ELBO (nats)", "K = 500 bound (nats)"], rows)


def ablation() -> str:
    """What each part of fit_vae is worth, paired by seed, for the notebook on autoencoders."""
    text = (BENCHMARKS / "learnt_priors.json").read_text(encoding="utf-8")
    stored, rows = json.loads(text).get("ablation", {}), []
    for name, elbos in stored.items():
        lost = [elbo - whole for elbo, whole in zip(elbos, stored["nothing"], strict=True)]
        cells = [number(mean(elbos), 1), f"{number(mean(lost), 2)} ± {number(error(lost), 2)}"]
        rows.append([name, *(cells if any(lost) else [cells[0], "–"])])
    return table(["without", "test ELBO (nats)", "difference"], rows)


QUOTED = {
    "random splits": random_splits,
    "all of MNIST": all_of_mnist,
    "learnt priors": learnt_priors,
    "ablation": ablation,
}
