"""What the stored measurements say: the generated parts of RESULTS.md, SEEDS.md and the README.

Nothing is measured here; ``make pages`` fills the pages.
"""

import math
import re
import statistics
from collections.abc import Iterable
from functools import partial

from benchmarks import measure
from tools import catalogue
from tools.catalogue import table

BEST, FLOOR, USUAL, STOCK = "notebook, best", "bare PyTorch", "usual Pyro style", "Pyro's tutorial"
REFERENCE = {"bnn": USUAL, "vae": STOCK, "vae_full": STOCK}  # it ends with the quality to reach
LIBRARY = f"(?!notebook|{FLOOR}|{USUAL}|{STOCK}).*"
STORES = ("bnn", "vae", "vae_full", "flows", "notebook_runtime")
PACKAGES = ("bayesian-torch", "blitz", "torchbnn", "pythae", "zuko", "nflows", "normflows")
Stored = dict[str, dict]  # by the name of the store


def seconds_to(curve: list, goal: float) -> float:
    """When a curve of (seconds, quality) first reaches the goal; infinite if never."""
    return next((seconds for seconds, quality in curve if quality >= goal), math.inf)


def compare(stored: Stored) -> Stored:
    """Add to each run what follows beside another one of the same seed.

    ``to_quality``: seconds to the quality that the reference ends with; ``of_reference``: over its
    own. ``lead``: nats on the moons that the notebook's best flow is ahead. ``of_one_core``:
    seconds over those with one thread.
    """
    for store, found in stored.items():
        for name, each in found["runs"].items():
            alone = f"{name.partition(', ')[0]}, 1 thread"
            beside = {"flows": BEST, "notebook_runtime": alone}.get(store) or REFERENCE[store]
            others = found["runs"].get(beside, {})
            for seed in each.keys() & others.keys():
                run, other = each[seed], others[seed]
                if store == "flows":
                    run["lead"] = run["moons"]["gap"] - other["moons"]["gap"]
                elif store in REFERENCE:
                    goal = other["curve"][-1][1]
                    run["to_quality"] = seconds_to(run["curve"], goal)
                    run["of_reference"] = run["to_quality"] / seconds_to(other["curve"], goal)
                elif name.endswith("busy"):
                    run["of_one_core"] = run["seconds"] / other["seconds"]
    return stored


def load() -> Stored:
    """What has been measured."""
    return compare({name: measure.load(name) for name in STORES})


def figures(found: dict, name: str, key: str) -> list[float]:
    """A figure of all runs of a competitor that have it; ``a.b`` is in a part of the run."""
    part, _, figure = key.rpartition(".")
    runs = [run[part] if part else run for run in found["runs"][name].values()]
    return [run[figure] for run in runs if figure in run]


def medians(found: dict, pattern: str, key: str) -> dict[str, float]:
    """The median of a figure, of each competitor whose whole name the pattern matches."""
    names = [name for name in found["runs"] if re.fullmatch(pattern, name)]
    return {name: statistics.median(figures(found, name, key)) for name in names}


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
    error = statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.mean(values):.{places}f} ± {error:.{places}f}".replace("-", "−")


def titled(name: str) -> str:
    """A competitor as it is printed: packages and notebooks in the font of code."""
    start, comma, rest = name.partition(", ")
    return f"`{start}`{comma}{rest}" if start in (*PACKAGES, *catalogue.files()) else name


def machine(found: dict) -> str:
    """Where something was measured, in one line."""
    m, torch = found["machine"], found["versions"]["torch"]
    return f"{m['cores']} cores, {m['system']}, Python {m['python']}, torch {torch}"


TO_QUALITY = "time to the quality that Pyro's network ends with, of its time"
PROMISES = [  # what, store, of whom the worst median counts, which figure, "at most" or "above"
    ("BNN: time to the quality that the usual Pyro style ends with, of its time",
     "bnn", "notebook", "of_reference", "at most", 0.5),
    ("BNN: step, of the bare-PyTorch floor", "bnn", "notebook", "of_floor", "at most", 2),
    (f"VAE, bundled digits: {TO_QUALITY}", "vae", "notebook", "of_reference", "at most", 0.8),
    (f"VAE, all of MNIST: {TO_QUALITY}", "vae_full", "notebook", "of_reference", "at most", 0.8),
    ("Flows: lead over the best peer on the moons at equal time, nats",
     "flows", LIBRARY, "lead", "above", 0),
    ("Notebooks as shipped, the slowest of three: beside a busy process, of what the lost core "
     "explains", "notebook_runtime", ".*, as shipped, busy", "of_one_core", "at most", 1.5),
]  # fmt: skip


def judged(stored: Stored) -> list[list[str]]:
    """Each promise about what is stored, what was measured, and whether it was kept."""
    rows = []
    for text, store, whose, key, sign, limit in PROMISES:
        if store in stored:
            values = medians(stored[store], whose, key).values()
            value = max(values) if sign == "at most" else min(values)
            kept = value <= limit if sign == "at most" else value > limit
            verdict = "reached" if kept else "**missed**"
            rows.append([f"{text}: {sign} {limit}", number(value), verdict])
    return rows


VAE = [
    ("digits seen", "images", spread),
    ("test ELBO (nats)", "test_elbo", partial(mean_error, places=1)),
    ("seconds to quality", "to_quality", spread),
    ("seconds in all", "seconds", spread),
    ("million operations per image", "flops_per_image", lambda values: number(values[0] / 1e6)),
    ("% of the peak", "share_of_peak", lambda values: spread(100 * value for value in values)),
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
    "gaps": ("flows", [(f"gap, {place}", f"{place}.gap", spread)
                       for place in ("moons", "banana", "rings")]),
    "speed": ("flows", [
        ("parameters", "moons.parameters", spread),
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


def comparison(found: dict, columns: list) -> str:
    """One of the tables: a row per competitor."""
    names = [name for name in found["runs"] if name != "start-up"]
    rows = [
        [titled(name), *(show(figures(found, name, key)) for _, key, show in columns)]
        for name in names
    ]
    return table(["", *(heading for heading, _, _ in columns)], rows)


def start_up(found: dict) -> str:
    """Seconds to the first result, and the size of the environment."""
    runs = [*found["runs"]["start-up"].values()]
    names = sorted(runs[0]["seconds"])
    parts = [f"`{name}` {spread(run['seconds'][name] for run in runs)}" for name in names]
    return "; ".join([*parts, f"environment {runs[-1]['bytes']['all'] / 1e9:.2f} GB"])


def origin(name: str, found: dict) -> str:
    """Machine, versions and date of one store."""
    m = found["machine"]
    versions = ", ".join(f"`{p}` {v}" for p, v in sorted(found["versions"].items()))
    return (
        f"- `{name}`: {found['date']}, `{m['processor']}`, {m['cores']} cores, {m['system']}, "
        f"Python {m['python']}, {versions}; repetitions: {len([*found['runs'].values()][0])}; "
        f"digest of script and notebook `{found['code']}`"
    )


def results(stored: Stored) -> dict[str, str]:
    """The parts of RESULTS.md."""
    parts = {name: comparison(stored[store], columns) for name, (store, columns) in TABLES.items()}
    return parts | {
        "promises": table(["promise", "measured", ""], judged(stored)),
        "start-up": start_up(stored["notebook_runtime"]),
        "origins": "\n".join(origin(name, found) for name, found in stored.items()),
    }


SUBJECTS = [  # of the README: what, store, figure, the notebook's, and the best of these beside it
    ("Bayesian network: seconds to the quality that the usual style ends with",
     "bnn", "to_quality", "notebook", USUAL),
    ("The same, beside the fastest library", "bnn", "to_quality", "notebook", LIBRARY),
    ("Bayesian network: milliseconds per step", "bnn", "ms_per_step", "notebook", FLOOR),
    ("Autoencoder: seconds to the quality that the tutorial's network ends with",
     "vae", "to_quality", "notebook", STOCK),
    ("Flow: nats from the true moons, after equal time", "flows", "moons.gap", BEST, LIBRARY),
]  # fmt: skip


def overview(stored: Stored) -> str:
    """The README's table: one line per subject, the notebook beside something else."""
    rows = []
    for subject, store, key, own, pattern in SUBJECTS:
        found = stored[store]
        values = medians(found, pattern, key)
        other = min(values, key=values.get)
        beside = f"{spread(figures(found, other, key))}: {titled(other)}"
        rows.append([subject, spread(figures(found, own, key)), beside])
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
    head = ["notebook", "threads", "code", "seeds", "held", "peak memory (MiB)"]
    return {"machine": f"Until {found['date']}: {machine(found)}.", "seeds": table(head, rows)}
