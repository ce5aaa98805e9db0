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


def flows_of_the_plane() -> str:
    """Settings, and means over seeds of what they cost and how near they come to the moons."""
    stored = json.loads((BENCHMARKS / "flow_table.json").read_text(encoding="utf-8"))
    head = ["model", "layers", "steps", "batch", "Gaussians in the base", "parameters"]
    head += ["training (s)", "gap (nats)", "on training points", "inverse / forward time"]
    rows, keys = [], ("parameters", "seconds", "gap", "gap_train", "inverse")
    for name, found in stored["runs"].items():
        if not found:
            continue
        given = stored["settings"][name]
        shown = [f"{given[k]:,}" if k in given else "–" for k in ("layers", "steps", "batch")]
        of = {key: [run[key] for run in found.values() if key in run] for key in keys}
        shown += [str(given.get("components", "–")), spread(of["parameters"])]
        gap = number(mean(of["gap"]), 4)
        if len(found) > 1:
            gap += f" ± {number(error(of['gap']), 4)}"
        last = number(mean(of["gap_train"]), 4)
        ratio = number(mean(of["inverse"]), 1) if of["inverse"] else "–"
        rows.append([name, *shown, number(mean(of["seconds"]), 1), gap, last, ratio])
    return table(head, rows)


def spread(counts: list[int]) -> str:
    """One number, or from the smallest to the largest."""
    return " to ".join(f"{count:,}" for count in sorted({min(counts), max(counts)}))


def over_seeds(found: dict[str, dict], key: str, digits: int) -> str:
    """Mean and standard error over seeds."""
    values = [run[key] for run in found.values()]
    return f"{number(mean(values), digits)} ± {number(error(values), digits)}"


def flows_in_eight_dimensions() -> str:
    """Models of the chain, for the notebook on flows."""
    rows = []
    for name, found in runs("flow_dimensions")["chain"].items():
        each = {k: [run[k] for run in found.values() if k in run] for k in ("inverse", "steps")}
        ratio = number(mean(each["inverse"]), 1) if each["inverse"] else "–"
        steps = f"{round(mean(each['steps'])):,}" if each["steps"] else "–"
        seconds = number(mean(run["seconds"] for run in found.values()), 1)
        parts = sorted({run.get("parts", 1) for run in found.values()})
        name += f" ({' or '.join(map(str, parts))})" if parts != [1] else ""
        rows.append([name, steps, seconds, over_seeds(found, "gap", 3), ratio])
    return table(["model", "steps", "seconds", "gap (nats)", "inverse / forward time"], rows)


def flows_on_other_densities() -> str:
    """The notebook's flow beside zuko's, on densities fixed beforehand."""
    rows, stored = [], runs("flow_dimensions")
    for place in stored:
        theirs, ours = (stored[place][name] for name in ("zuko's NSF", "one wide layer of splines"))
        ahead = {s: {"gap": theirs[s]["gap"] - ours[s]["gap"]} for s in ours}
        each = (stored[place]["mixture of Gaussians"], theirs, ours, ahead)
        rows.append([place, *(over_seeds(one, "gap", 3) for one in each)])
    head = ["gaps (nats)", "mixture", "NSF", "one wide layer", "NSF less one layer, paired"]
    return table(head, rows)


def densities_of_wine() -> str:
    """Bounds of the log probability of a wine, twins together or torn apart."""
    text = (BENCHMARKS / "flow_dimensions.json").read_text(encoding="utf-8")
    stored, rows = json.loads(text)["wine"], []
    for name in ("one Gaussian", "mixture of Gaussians", "flow", "flow less mixture"):
        keys = [f"{name}, together", f"{name}, torn apart", f"{name}, torn apart less together"]
        pairs = [stored.get(key) for key in keys]
        rows.append(
            [name, *("–" if p is None else " ± ".join(number(v, 2) for v in p) for p in pairs)]
        )
    return table(["nats per wine", "twins together", "torn apart", "difference, paired"], rows)


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
    "flows of the plane": flows_of_the_plane,
    "flows in eight dimensions": flows_in_eight_dimensions,
    "flows on other densities": flows_on_other_densities,
    "densities of wine": densities_of_wine,
    "learnt priors": learnt_priors,
    "ablation": ablation,
}
