"""What the stored measurements say: the tables of RESULTS.md, SEEDS.md and the README.

Nothing is measured here. ``make pages`` fills the pages, which say what the figures mean.
"""

import math
import re
import statistics
from collections.abc import Iterable

from benchmarks import measure
from tools.catalogue import table

BEST, FLOOR, USUAL, STOCK = "notebook, best", "bare PyTorch", "usual Pyro style", "Pyro's tutorial"
LIBRARY = f"(?!notebook|{FLOOR}|{USUAL}|{STOCK}).*"
STORES = ("bnn", "vae", "vae_full", "flows", "notebook_runtime")
BESIDE = {"bnn": USUAL, "vae": STOCK, "vae_full": STOCK, "flows": BEST}  # what a run is compared to
QUALITY = "seconds_to_quality"
PROMISES = [  # the store, of whom the worst median counts, the figure, and what it may be at most
    ("bnn", "notebook", "of_reference", 0.5),
    ("bnn", "notebook", "of_floor", 2),
    ("vae", "notebook", "of_reference", 0.8),
    ("vae_full", "notebook", "of_reference", 0.8),
    ("flows", LIBRARY, "ahead_of_best", 0),
    ("notebook_runtime", ".*, as shipped, busy", "of_one_core", 1.5),
]
VAE = f"images test_elbo {QUALITY} seconds flops_per_image share_of_peak"
SPEED = "moons.parameters moons.seconds moons.ms_per_step moons.step_of_best"
SPEED += " moons.us_per_density moons.us_per_sample"
TABLES = {  # the store, and the figures of each competitor
    "bnn": ("bnn", f"ms_per_step of_floor {QUALITY} seconds test_log_density test_rmse"),
    "vae": ("vae", VAE),
    "vae_full": ("vae_full", VAE),
    "gaps": ("flows", "moons.gap banana.gap rings.gap"),
    "speed": ("flows", SPEED),
    "runtime": ("notebook_runtime", "seconds processor_seconds peak_memory_mb of_one_core"),
}
SUBJECTS = [  # of the README: what, store, figure, the notebook's, and the best of these beside it
    ("Bayesian network: seconds to the usual style's quality", "bnn", QUALITY, "notebook", USUAL),
    ("The same, beside the fastest library", "bnn", QUALITY, "notebook", LIBRARY),
    ("Bayesian network: milliseconds per step", "bnn", "ms_per_step", "notebook", FLOOR),
    ("Autoencoder: seconds to the tutorial's quality", "vae", QUALITY, "notebook", STOCK),
    ("Flow: nats from the true moons, after equal time", "flows", "moons.gap", BEST, LIBRARY),
]
Stored = dict[str, dict]  # by the name of the store


def seconds_to(curve: list, goal: float) -> float:
    """When a curve of (seconds, quality) first reaches the goal; infinite if never."""
    return next((seconds for seconds, quality in curve if quality >= goal), math.inf)


def beside(run: dict, other: dict) -> dict[str, float]:
    """What follows from a run beside another one of the same seed."""
    if "moons" in run:
        return {"ahead_of_best": other["moons"]["gap"] - run["moons"]["gap"]}
    if "curve" in run:
        own, its = (seconds_to(each["curve"], other["curve"][-1][1]) for each in (run, other))
        return {QUALITY: own, "of_reference": own / its}
    return {"of_one_core": run["seconds"] / other["seconds"]}


def compare(stored: Stored) -> Stored:
    """Add to each run what follows beside the one that its store is compared to."""
    for store, found in stored.items():
        for name, each in found["runs"].items():
            other = BESIDE.get(store, f"{name.partition(', ')[0]}, 1 thread")
            others = found["runs"].get(other, {})
            for seed in each.keys() & others.keys():
                each[seed] |= beside(each[seed], others[seed])
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


def shown(found: dict, name: str, key: str) -> str:
    """A figure of all runs: of scores mean ± standard error, of all else the spread."""
    values = figures(found, name, key)
    if not key.startswith("test_"):
        return spread(values)
    mean, error = statistics.mean(values), statistics.stdev(values) / math.sqrt(len(values))
    places = max(0, 1 - math.floor(math.log10(error)))
    return f"{mean:.{places}f} ± {error:.{places}f}".replace("-", "−")


def comparison(found: dict, keys: str) -> str:
    """One of the tables: a row per competitor."""
    names = [name for name in found["runs"] if name != "start-up"]
    rows = [[f"`{name}`", *(shown(found, name, key) for key in keys.split())] for name in names]
    return table(["", *(re.sub("[_.]", " ", key) for key in keys.split())], rows)


def start_up(found: dict) -> str:
    """Seconds to the first result, and the size of the environment."""
    runs = [*found["runs"]["start-up"].values()]
    names = [*runs[0]["seconds"]]
    seconds = [spread(run["seconds"][name] for run in runs) for name in names]
    return table([*names, "GB"], [[*seconds, number(runs[-1]["bytes"]["all"] / 1e9)]])


def origin(found: dict) -> str:
    """Date, machine and versions of what is stored."""
    about = found["machine"] | found["versions"]
    return ", ".join([found["date"], *(f"`{name} {value}`" for name, value in about.items())])


def judged(stored: Stored) -> list[list[str]]:
    """Each promise about what is stored, what was measured, and whether it was kept."""
    rows = []
    for store, whose, key, limit in PROMISES:
        if store in stored:
            worst = max(medians(stored[store], whose, key).values())
            verdict = "reached" if worst <= limit else "**missed**"
            rows.append([f"`{store}`: {key.replace('_', ' ')}", str(limit), number(worst), verdict])
    return rows


def results(stored: Stored) -> dict[str, str]:
    """The parts of RESULTS.md."""
    parts = {name: comparison(stored[store], keys) for name, (store, keys) in TABLES.items()}
    origins = [f"- `{k}`: {origin(found)}; code `{found['code']}`" for k, found in stored.items()]
    return parts | {
        "promises": table(["promise", "at most", "measured", ""], judged(stored)),
        "start-up": start_up(stored["notebook_runtime"]),
        "origins": "\n".join(origins),
    }


def overview(stored: Stored) -> str:
    """The README's table: one line per subject, the notebook beside something else."""
    rows = []
    for subject, store, key, own, pattern in SUBJECTS:
        values = medians(stored[store], pattern, key)
        other = min(values, key=values.get)
        ours, theirs = (shown(stored[store], name, key) for name in (own, other))
        rows.append([subject, ours, f"{theirs}: `{other}`"])
    return table(["median (smallest to largest)", "the notebook", "beside it"], rows)


def seeds(found: dict) -> dict[str, str]:
    """The parts of SEEDS.md: one line per notebook, number of threads and version of its code."""
    groups: dict[tuple, list[dict]] = {}
    for run in found["runs"]:
        groups.setdefault((run["notebook"], run["threads"], run["code"]), []).append(run)
    rows = []
    for key, runs in groups.items():
        failures = "; ".join(f"seed {r['seed']}: {r['error']}" for r in runs if "error" in r)
        peaks = spread(run["peak_memory_mb"] for run in runs if "error" not in run)
        tried = ", ".join(str(run["seed"]) for run in runs)
        rows.append([*map("`{}`".format, key), tried, failures or "all", peaks])
    head = ["notebook", "threads", "code", "seeds", "held", "peak memory (MiB)"]
    return {"machine": f"The last run: {origin(found)}.", "seeds": table(head, rows)}
