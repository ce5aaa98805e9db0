"""What the stored measurements say: the generated parts of RESULTS.md, SEEDS.md and the README.

Nothing is measured here; ``make pages`` fills the pages.
"""

import json
import math
import statistics
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from benchmarks import measure
from tools import catalogue
from tools.catalogue import table

BEST, FLOOR, USUAL, STOCK = "notebook, best", "bare PyTorch", "usual Pyro style", "Pyro's tutorial"
REFERENCE = {"bnn": USUAL, "vae": STOCK, "vae_full": STOCK}  # it ends with the quality to reach
STORES = ("bnn", "vae", "vae_full", "flows", "notebook_runtime")
PACKAGES = ("bayesian-torch", "blitz", "torchbnn", "pythae", "zuko", "nflows", "normflows")
PLACES = ("moons", "banana", "rings")
NOT_MEASURED = "Not measured."
Stored = dict[str, dict]  # by the name of the store


def seconds_to(curve: list, goal: float) -> float:
    """When a curve of (seconds, quality) first reaches the goal; infinite if never."""
    return next((seconds for seconds, quality in curve if quality >= goal), math.inf)


def compare(stored: Stored) -> Stored:
    """Add to each run what follows beside another one of the same seed.

    ``to_quality``: seconds to the quality that the reference ends with; ``of_reference``: over its
    own. ``lead``: nats on the moons that the notebook's best flow is ahead. ``of_one_core``:
    seconds beside a busy process, over those with one thread alone.
    """
    for store, found in stored.items():
        runs = found["runs"]
        for name, each in runs.items():
            beside = REFERENCE.get(store, BEST)
            if store == "notebook_runtime" and name.endswith("busy"):
                beside = f"{name.partition(', ')[0]}, 1 thread"
            for seed in each.keys() & runs.get(beside, {}).keys():
                run, other = each[seed], runs[beside][seed]
                if store in REFERENCE:
                    goal = other["curve"][-1][1]
                    run["to_quality"] = seconds_to(run["curve"], goal)
                    run["of_reference"] = run["to_quality"] / seconds_to(other["curve"], goal)
                elif store == "flows":
                    run["lead"] = run["moons"]["gap"] - other["moons"]["gap"]
                else:
                    run["of_one_core"] = run["seconds"] / other["seconds"]
    return stored


def load(folder: Path = measure.RESULTS) -> Stored:
    """What has been measured."""
    paths = {name: folder / f"{name}.json" for name in STORES}
    return compare({n: json.loads(p.read_text("utf-8")) for n, p in paths.items() if p.exists()})


def figures(stored: Stored, store: str, name: str, key: str) -> list[float]:
    """A figure of all runs of a competitor that have it; ``a.b`` is in a part of the run."""
    part, _, figure = key.rpartition(".")
    runs = stored[store]["runs"].get(name, {}).values() if store in stored else []
    found = [run.get(part, {}) if part else run for run in runs]
    return [run[figure] for run in found if figure in run]


# ------------------------------------------------------------------ how figures are written


def number(value: float, digits: int = 3) -> str:
    """A few significant digits, and a true minus sign."""
    if not math.isfinite(value):
        return "never"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{places}f}".replace("-", "−")


def spread(values: Iterable[float]) -> str:
    """Median, and in brackets smallest and largest; nothing of nothing."""
    if not (values := list(values)):
        return ""
    low, middle, high = (number(f(values)) for f in (min, statistics.median, max))
    return middle if low == high else f"{middle} ({low} to {high})"


def mean_error(values: list[float], places: int) -> str:
    """Mean ± standard error."""
    text = f"{statistics.mean(values):.{places}f}"
    if len(values) > 1:
        text += f" ± {statistics.stdev(values) / math.sqrt(len(values)):.{places}f}"
    return text.replace("-", "−")


def percent(values: list[float]) -> str:
    return spread(100 * value for value in values)


def first(values: list[float], unit: float = 1) -> str:
    """Of figures that are the same in all runs."""
    return f"{values[0]:,}" if unit == 1 else number(values[0] / unit)


def titled(name: str) -> str:
    """A competitor as it is printed: packages and notebooks in the font of code."""
    start, comma, rest = name.partition(", ")
    return f"`{start}`{comma}{rest}" if start in (*PACKAGES, *catalogue.files()) else name


def ours(name: str) -> bool:
    return name.startswith("notebook")


def library(name: str) -> bool:
    return not ours(name) and name not in (FLOOR, USUAL, STOCK)


def shipped(name: str) -> bool:
    return name.endswith("as shipped, busy")


TO_QUALITY = "time to the quality that Pyro's network ends with, of its time"
PROMISES = [  # what, store, of whom the worst median counts, which figure, "at most" or "above"
    ("BNN: time to the quality that the usual Pyro style ends with, of its time",
     "bnn", ours, "of_reference", "at most", 0.5),
    ("BNN: step, of the bare-PyTorch floor", "bnn", ours, "of_floor", "at most", 2),
    (f"VAE, bundled digits: {TO_QUALITY}", "vae", ours, "of_reference", "at most", 0.8),
    (f"VAE, all of MNIST: {TO_QUALITY}", "vae_full", ours, "of_reference", "at most", 0.8),
    ("Flows: lead over the best peer on the moons at equal time, nats",
     "flows", library, "lead", "above", 0),
    ("Notebooks as shipped, the slowest of three: beside a busy process, of what the lost core "
     "explains", "notebook_runtime", shipped, "of_one_core", "at most", 1.5),
]  # fmt: skip


def judged(stored: Stored) -> list[list[str]]:
    """Each promise, what was measured, and whether it was kept."""
    rows = []
    for text, store, whose, key, sign, limit in PROMISES:
        names = filter(whose, stored[store]["runs"] if store in stored else [])
        values = [found for name in names if (found := figures(stored, store, name, key))]
        if not values:
            rows.append([text, "not measured", ""])
            continue
        medians = map(statistics.median, values)
        value = max(medians) if sign == "at most" else min(medians)
        kept = value <= limit if sign == "at most" else value > limit
        rows.append([f"{text}: {sign} {limit}", number(value), "reached" if kept else "**missed**"])
    return rows


# ------------------------------------------------------------------ tables


VAE = [
    ("digits seen", "images", first),
    ("test ELBO (nats)", "test_elbo", partial(mean_error, places=1)),
    ("seconds to quality", "to_quality", spread),
    ("seconds in all", "seconds", spread),
    ("million operations per image", "flops_per_image", partial(first, unit=1e6)),
    ("% of the peak", "share_of_peak", percent),
]
TABLES = {  # by its name: the store, and for each column its heading, figure and format
    "bnn": ("bnn", [
        ("ms per step", "ms_per_step", spread),
        ("of the floor", "of_floor", spread),
        ("seconds to quality", "to_quality", spread),
        ("seconds in all", "seconds", spread),
        ("test log density (nats)", "test_log_density", partial(mean_error, places=3)),
        ("test RMSE (points)", "test_rmse", partial(mean_error, places=3)),
    ]),
    "vae": ("vae", VAE),
    "vae_full": ("vae_full", VAE),
    "gaps": ("flows", [(f"gap, {place}", f"{place}.gap", spread) for place in PLACES]),
    "speed": ("flows", [
        ("parameters", "moons.parameters", first),
        ("seconds in all", "moons.seconds", spread),
        ("ms per step", "moons.ms_per_step", spread),
        ("of the best flow's step", "moons.step_of_best", spread),
        ("µs per density", "moons.us_per_density", spread),
        ("µs per sample", "moons.us_per_sample", spread),
    ]),
    "runtime": ("notebook_runtime", [
        ("seconds", "seconds", spread),
        ("processor seconds", "processor_seconds", spread),
        ("peak memory (MiB)", "peak_memory_mb", spread),
        ("of one core's time", "of_one_core", spread),
    ]),
}  # fmt: skip


def comparison(stored: Stored, name: str) -> str:
    """One of the tables: a row per competitor."""
    store, columns = TABLES[name]
    if store not in stored:
        return NOT_MEASURED
    rows = [
        [titled(each), *(show(figures(stored, store, each, key)) for _, key, show in columns)]
        for each in stored[store]["runs"]
        if each != "start-up"
    ]
    return table(["", *(heading for heading, _, _ in columns)], rows)


def start_up(stored: Stored) -> str:
    """Seconds to the first result, and the size of the environment."""
    runs = stored.get("notebook_runtime", {}).get("runs", {}).get("start-up", {}).values()
    seconds = {name for run in runs for name in run["seconds"]}
    parts = [f"`{name}` {spread(run['seconds'][name] for run in runs)}" for name in sorted(seconds)]
    parts += [f"environment {run['bytes']['all'] / 1e9:.2f} GB" for run in [*runs][-1:]]
    return "; ".join(parts) or NOT_MEASURED


def origin(name: str, found: dict) -> str:
    """Machine, versions and date of one store."""
    m = found["machine"]
    versions = ", ".join(f"`{p}` {v}" for p, v in sorted(found["versions"].items()))
    counts = [len(each) for each in found["runs"].values()]
    repetitions = " to ".join(map(str, sorted({min(counts), max(counts)})))
    return (
        f"- `{name}`: {found['date']}, `{m['processor']}`, {m['cores']} cores, {m['system']}, "
        f"Python {m['python']}, {versions}; repetitions: {repetitions}; "
        f"digest of script and notebook `{found['code']}`"
    )


def results(stored: Stored) -> dict[str, str]:
    """The parts of RESULTS.md."""
    parts = {"promises": table(["promise", "measured", ""], judged(stored))}
    parts |= {name: comparison(stored, name) for name in TABLES}
    origins = [origin(name, found) for name, found in stored.items()]
    return parts | {"start-up": start_up(stored), "origins": "\n".join(origins)}


SUBJECTS = [  # of the README: what, store, figure, the notebook's, and beside it (None: the best)
    ("Bayesian network: seconds to the quality that the usual style ends with",
     "bnn", "to_quality", "notebook", USUAL),
    ("The same, beside the fastest library", "bnn", "to_quality", "notebook", None),
    ("Bayesian network: milliseconds per step", "bnn", "ms_per_step", "notebook", FLOOR),
    ("Autoencoder: seconds to the quality that the tutorial's network ends with",
     "vae", "to_quality", "notebook", STOCK),
    ("Flow: nats from the true moons, after equal time", "flows", "moons.gap", BEST, None),
]  # fmt: skip


def overview(stored: Stored) -> str:
    """The README's table: one line per subject, the notebook beside something else."""
    rows = []
    for subject, store, key, own, other in SUBJECTS:
        values = {name: figures(stored, store, name, key) for name in stored[store]["runs"]}
        best = min(filter(library, values), key=lambda name: statistics.median(values[name]))
        beside = other or best
        rows.append([subject, spread(values[own]), f"{spread(values[beside])}: {titled(beside)}"])
    return table(["median (smallest to largest)", "the notebook", "beside it"], rows)


def seeds(found: dict) -> dict[str, str]:
    """The parts of SEEDS.md: one line per notebook, number of threads and version of its code."""
    groups: dict[tuple, list[dict]] = {}
    for run in found["runs"]:
        key = (f"`{run['notebook']}`", str(run["threads"]), f"`{run['code']}`")
        groups.setdefault(key, []).append(run)
    rows = []
    for key, runs in groups.items():
        peaks = [run["peak_memory_mb"] for run in runs if "error" not in run]
        failures = "; ".join(f"seed {r['seed']}: {r['error']}" for r in runs if "error" in r)
        tried = ", ".join(str(run["seed"]) for run in runs)
        rows.append([*key, tried, failures or "all", spread(peaks)])
    m, torch = found["machine"], found["versions"]["torch"]
    machine = f"{m['cores']} cores, {m['system']}, Python {m['python']}, torch {torch}"
    head = ["notebook", "threads", "code", "seeds", "held", "peak memory (MiB)"]
    return {"machine": f"Until {found['date']}: {machine}.", "seeds": table(head, rows)}
