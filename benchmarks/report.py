"""What the stored measurements say: the generated parts of RESULTS.md, SEEDS.md and the README.

Nothing is measured here. ``make pages`` fills the pages; ``benchmarks.curves`` draws the pictures.
"""

import json
import math
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from benchmarks import measure
from tools import catalogue
from tools.catalogue import table

BEST, FLOOR, USUAL, STOCK = "notebook, best", "bare PyTorch", "usual Pyro style", "Pyro's tutorial"
REFERENCE = {"bnn": USUAL, "vae": STOCK, "vae_full": STOCK}  # it ends with the quality to reach
STORES = ("bnn", "vae", "vae_full", "flows", "notebook_runtime")
PACKAGES = ("bayesian-torch", "blitz", "torchbnn", "pythae", "zuko", "nflows", "normflows")
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


def mean_error(places: int) -> Callable[[list[float]], str]:
    """Mean ± standard error."""

    def show(values: list[float]) -> str:
        text = f"{statistics.mean(values):.{places}f}"
        if len(values) > 1:
            text += f" ± {statistics.stdev(values) / math.sqrt(len(values)):.{places}f}"
        return text.replace("-", "−")

    return show


def titled(name: str) -> str:
    """A competitor as it is printed: packages and notebooks in the font of code."""
    start, comma, rest = name.partition(", ")
    return f"`{start}`{comma}{rest}" if start in (*PACKAGES, *catalogue.files()) else name


# ------------------------------------------------------------------ promises


class Promise(NamedTuple):
    """What the course promises of the medians of a figure: the worst of some competitors counts."""

    text: str
    store: str
    whose: Callable[[str], bool]
    key: str
    limit: float
    at_most: bool = True

    def value(self, stored: Stored) -> float | None:
        """None where it was not measured."""
        runs = stored.get(self.store, {}).get("runs", {})
        values = [figures(stored, self.store, name, self.key) for name in runs if self.whose(name)]
        medians = [statistics.median(each) for each in values if each]
        return (max if self.at_most else min)(medians, default=None)

    def kept(self, stored: Stored) -> bool:
        value = self.value(stored)
        if value is None:
            return False
        return value <= self.limit if self.at_most else value > self.limit

    def row(self, stored: Stored) -> list[str]:
        value = self.value(stored)
        if value is None:
            return [self.text, "not measured", ""]
        text = f"{self.text}: {'at most' if self.at_most else 'above'} {self.limit:g}"
        return [text, number(value), "reached" if self.kept(stored) else "**missed**"]


def ours(name: str) -> bool:
    return name.startswith("notebook")


def library(name: str) -> bool:
    return not ours(name) and name not in (FLOOR, USUAL, STOCK)


PYRO = "time to the quality that Pyro's network ends with, of its time"
PROMISES = [
    Promise("BNN: time to the quality that the usual Pyro style ends with, of its time",
            "bnn", ours, "of_reference", 0.5),
    Promise("BNN: step, of the bare-PyTorch floor", "bnn", ours, "of_floor", 2.0),
    Promise(f"VAE, bundled digits: {PYRO}", "vae", ours, "of_reference", 0.8),
    Promise(f"VAE, all of MNIST: {PYRO}", "vae_full", ours, "of_reference", 0.8),
    Promise("Flows: lead over the best peer on the moons at equal time, nats",
            "flows", library, "lead", 0.0, at_most=False),
    Promise("Notebooks as shipped, the slowest of three: beside a busy process, of what the lost "
            "core explains",
            "notebook_runtime", lambda name: name.endswith("as shipped, busy"), "of_one_core", 1.5),
]  # fmt: skip


# ------------------------------------------------------------------ tables


def same(unit: float = 1) -> Callable[[list[float]], str]:
    """Of figures that are the same in all runs, whole or in units."""
    return lambda values: f"{values[0]:,}" if unit == 1 else number(values[0] / unit)


def percent(values: list[float]) -> str:
    return spread(100 * value for value in values)


VAE = [
    ("digits seen", "images", same()),
    ("test ELBO (nats)", "test_elbo", mean_error(1)),
    ("seconds to quality", "to_quality", spread),
    ("seconds in all", "seconds", spread),
    ("million operations per image", "flops_per_image", same(1e6)),
    ("% of the peak", "share_of_peak", percent),
]
TABLES = {  # by its name: the store, and for each column its heading, figure and format
    "bnn": ("bnn", [
        ("ms per step", "ms_per_step", spread),
        ("of the floor", "of_floor", spread),
        ("seconds to quality", "to_quality", spread),
        ("seconds in all", "seconds", spread),
        ("test log density (nats)", "test_log_density", mean_error(3)),
        ("test RMSE (points)", "test_rmse", mean_error(3)),
    ]),
    "vae": ("vae", VAE),
    "vae_full": ("vae_full", VAE),
    "gaps": ("flows", [
        (f"gap, {place}", f"{place}.gap", spread) for place in ("moons", "banana", "rings")
    ]),
    "speed": ("flows", [
        ("parameters", "moons.parameters", same()),
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
    runs = list(stored.get("notebook_runtime", {}).get("runs", {}).get("start-up", {}).values())
    if not runs:
        return NOT_MEASURED
    seconds = {name: spread(run["seconds"][name] for run in runs) for name in runs[0]["seconds"]}
    size = {name: f"{number / 1e9:.2f}" for name, number in runs[-1]["bytes"].items()}
    whole = size.pop("all")
    return (
        "From starting the kernel until imports, parameters and device are through, seconds: "
        f"{'; '.join(f'`{name}` {text}' for name, text in seconds.items())}.\n\n"
        f"The installed environment, tests included, takes {whole} GB; the largest parts in GB: "
        f"{', '.join(f'`{name}` {text}' for name, text in size.items())}."
    )


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
    rows = [promise.row(stored) for promise in PROMISES]
    parts = {"promises": table(["promise", "measured", ""], rows)}
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
    rows, m = [], found["machine"]
    for key in sorted({(r["notebook"], r["threads"], r["code"]) for r in found["runs"]}):
        chosen = [r for r in found["runs"] if (r["notebook"], r["threads"], r["code"]) == key]
        peaks = [r["peak_memory_mb"] for r in chosen if "error" not in r]
        name, threads, code = key
        tried = ", ".join(str(r["seed"]) for r in chosen)
        held = f"{len(peaks)} of {len(chosen)}"
        rows.append([titled(name), str(threads), tried, held, spread(peaks), f"`{code}`"])
    head = ["notebook", "threads", "seeds", "all held", "peak memory (MiB)", "code"]
    failed = [
        f"\n\nFailed: {r['notebook']}, seed {r['seed']}, {r['threads']} threads: {r['error']}"
        for r in found["runs"]
        if "error" in r
    ]
    machine = f"{m['cores']} cores, {m['system']}, Python {m['python']}"
    made = f"Measured until {found['date']}: {machine}, torch {found['versions']['torch']}."
    return {"machine": made, "seeds": table(head, rows) + "".join(failed)}
