"""Write RESULTS.md, its pictures and the README's table from the stored measurements.

    python benchmarks/report.py [--quick]

Nothing is measured here. With ``--quick`` the trials in build/benchmarks/quick are shown instead.
"""

import argparse
import json
import math
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator

from course_utils.plotting import PALETTE, use_course_style

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
STORES = ("bnn", "vae", "vae_full", "flows", "whole")
BEGIN, END = "<!-- measured -->", "<!-- /measured -->"
BEST, FLOOR, USUAL, STOCK = "notebook, best", "bare PyTorch", "usual Pyro style", "Pyro's tutorial"
DIGITS = {"vae": "bundled digits", "vae_full": "all of MNIST"}
MINUS = str.maketrans("-", "−")
PACKAGES = ("bayesian-torch", "blitz", "torchbnn", "pythae", "zuko", "nflows", "normflows")


class Target(NamedTuple):
    """A promise of the course, and what came of it; ``value`` is None where it was not measured."""

    text: str
    value: float | None
    limit: float
    store: str
    at_most: bool = True

    @property
    def reached(self) -> bool:
        ahead = self.value is not None and self.value <= self.limit
        return ahead if self.at_most else self.value is not None and self.value > self.limit

    def line(self) -> str:
        if self.value is None:
            return f"| {self.text} | not measured | |"
        sign = "at most" if self.at_most else "above"
        verdict = "reached" if self.reached else "**missed**"
        return f"| {self.text}: {sign} {self.limit:g} | {number(self.value)} | {verdict} |"


def load(folder: Path) -> dict[str, dict]:
    """What has been measured, by name."""
    paths = {name: folder / f"{name}.json" for name in STORES}
    return {n: json.loads(p.read_text(encoding="utf-8")) for n, p in paths.items() if p.exists()}


def number(value: float, digits: int = 3) -> str:
    """A few significant digits, and a true minus sign."""
    if not math.isfinite(value):
        return "never"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{places}f}".translate(MINUS)


def titled(name: str) -> str:
    """A competitor as it is printed: packages in the font of code."""
    return f"`{name}`" if name in PACKAGES else name


def code(text: str) -> str:
    """A line of code for the cell of a table."""
    return "`" + text.replace("|", "\\|") + "`"


def spread(values: Collection[float]) -> str:
    """Median, and in brackets smallest and largest."""
    low, middle, high = (number(f(values)) for f in (min, statistics.median, max))
    return middle if low == high else f"{middle} ({low} to {high})"


def mean_error(values: list[float], places: int) -> str:
    """Mean ± standard error."""
    text = f"{statistics.mean(values):.{places}f}"
    if len(values) > 1:
        text += f" ± {statistics.stdev(values) / math.sqrt(len(values)):.{places}f}"
    return text.translate(MINUS)


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def seconds_to(curve: list, goal: float) -> float:
    """When a curve of (seconds, quality) first reaches the goal; infinite if never."""
    return next((seconds for seconds, quality in curve if quality >= goal), math.inf)


def times_to_quality(runs: dict, of: str) -> dict[str, dict[str, float]]:
    """Seconds, by seed, until each competitor has the quality that ``of`` ends with."""
    goals = {seed: run["curve"][-1][1] for seed, run in runs.get(of, {}).items()}
    return {
        name: {s: seconds_to(run["curve"], goals[s]) for s, run in each.items() if s in goals}
        for name, each in runs.items()
    }


def ratios(above: dict, below: dict, figure) -> list[float]:
    """A figure of one competitor over that of another, pair by pair of the same seed."""
    return [figure(above[seed]) / figure(below[seed]) for seed in above if seed in below]


def paired_times(runs: dict, name: str, of: str) -> list[float]:
    """Seconds to the quality that ``of`` ends with, over its own, pair by pair."""
    times = times_to_quality(runs, of)
    return ratios(times.get(name, {}), times.get(of, {}), lambda seconds: seconds)


def moons_leads(runs: dict) -> dict[str, list[float]]:
    """How far, in nats, the notebook's best flow is ahead of each peer on the moons."""
    best = runs.get(BEST, {})
    return {
        name: [
            run["moons"]["gap"] - best[s]["moons"]["gap"] for s, run in each.items() if s in best
        ]
        for name, each in runs.items()
        if not name.startswith("notebook")
    }


def slowdowns(runs: dict, setting: str = "as shipped, busy") -> dict[str, list[float]]:
    """Seconds in a setting with a busy process, over those with one thread alone."""
    names = sorted({name.partition(", ")[0] for name in runs if ", " in name})
    return {
        name: ratios(
            runs.get(f"{name}, {setting}", {}),
            runs.get(f"{name}, 1 thread", {}),
            lambda run: run["seconds"],
        )
        for name in names
    }


def targets(stored: dict) -> list[Target]:
    """All promises, with their medians."""

    def runs(name):
        return stored.get(name, {}).get("runs", {})

    def median(values):
        return statistics.median(values) if values else None

    bnn = runs("bnn")
    step = [run["of_floor"] for run in bnn.get("notebook", {}).values()]
    leads = [median(values) for values in moons_leads(runs("flows")).values() if values]
    slow = [median(values) for values in slowdowns(runs("whole")).values() if values]
    return [
        Target(
            "BNN: time to the quality that the usual Pyro style ends with, of its time",
            median(paired_times(bnn, "notebook", USUAL)), 0.5, "bnn",
        ),
        Target("BNN: step, of the bare-PyTorch floor", median(step), 2.0, "bnn"),
        *(
            Target(
                f"VAE, {digits}: time to the quality that Pyro's network ends with, of its time",
                median(paired_times(runs(store), "notebook", STOCK)), 0.8, store,
            )
            for store, digits in DIGITS.items()
        ),
        Target(
            "Flows: lead over the best peer on the moons at equal time, nats",
            min(leads, default=None), 0.0, "flows", at_most=False,
        ),
        Target(
            "Notebooks as shipped, the slowest of three: beside a busy process, of what the lost "
            "core explains",
            max(slow, default=None), 1.5, "whole",
        ),
    ]  # fmt: skip


def bnn_section(stored: dict) -> list[str]:
    runs = stored["runs"]
    times, rows = times_to_quality(runs, USUAL), []
    for name, each in runs.items():
        rows.append([
            titled(name),
            spread([run["ms_per_step"] for run in each.values()]),
            spread([run["of_floor"] for run in each.values()]),
            spread(times[name].values()) if times[name] else "",
            spread([run["seconds"] for run in each.values()]),
            mean_error([run["test_log_density"] for run in each.values()], 3),
            mean_error([run["test_rmse"] for run in each.values()], 3),
        ])  # fmt: skip
    head = ["", "ms per step", "of the floor", "seconds to quality", "seconds in all"]
    head += ["test log density (nats)", "test RMSE (points)"]
    return [
        "## Bayesian neural network, red wine",
        "",
        "*ms per step*: a step on all training wines, for everybody; in each process it takes "
        "turns with that of the floor, bare PyTorch. All else is from whole trainings: the "
        "notebook and the floor take 800 such steps, with one cycle of rates up to 0.03; the "
        "others 150 epochs in batches of 64, with Adam at 0.01. All have the notebook's network, "
        f"inputs and prior. *Quality* is the validation log density that the {USUAL} ends with, "
        "with the same seed; all times, its own too, are those when it is first reached. Seed k "
        "is tested on fold k of five; means ± standard errors over the folds. Where a library "
        "starts its posterior was left as it is: that of `torchbnn` starts as wide as the prior, "
        "and 150 epochs are not enough for it. `bayesian-torch` calls a scale `prior_variance` "
        "and averages its KL over the weights; both were mended here, or it would not be an ELBO.",
        "",
        *table(head, rows),
        "",
        "![Validation log density over seconds of training](results/bnn.svg)",
    ]


VAE_TEXT = (
    "Sampled binarisation, afresh in every step; the same binary test digits for all; means ± "
    "standard errors over the repetitions. *Quality* is the test ELBO that the network of Pyro's "
    "tutorial ends with *here*, after the digits that the table counts. The tutorial itself "
    "trains twelve times longer, 100 epochs of 60,000, and on grey digits; that was not measured. "
    "Digits: 16,000 bundled ones for training, 2,000 for the test; of all of MNIST 50,000 and "
    "10,000. Operations: floating-point operations of the matrix products of a training step. "
    "*Peak* is the speed of a product of two 1024 × 1024 matrices in the same process; the share "
    "counts all of training, optimiser and binarisation too."
)


def vae_section(name: str, stored: dict) -> list[str]:
    runs = stored["runs"]
    times, rows = times_to_quality(runs, STOCK), []
    for competitor, each in runs.items():
        values = list(each.values())
        rows.append([
            titled(competitor),
            f"{values[0]['images']:,}",
            mean_error([run["test_elbo"] for run in values], 1),
            spread(times[competitor].values()) if times[competitor] else "",
            spread([run["seconds"] for run in values]),
            number(values[0]["flops_per_image"] / 1e6),
            spread([100 * run["share_of_peak"] for run in values]),
        ])  # fmt: skip
    head = ["", "digits seen", "test ELBO (nats)", "seconds to quality", "seconds in all"]
    head += ["million operations per image", "% of the peak"]
    return [
        f"## Variational autoencoder, {DIGITS[name]}",
        "",
        VAE_TEXT if name == "vae" else "As above, with the larger sets.",
        "",
        *table(head, rows),
        "",
        f"![Test ELBO over seconds of training](results/{name}.svg)",
    ]


def flows_section(stored: dict) -> list[str]:
    runs = stored["runs"]
    places = [key for key in ("moons", "banana", "rings")
              if any(key in run for each in runs.values() for run in each.values())]  # fmt: skip
    gaps, speeds = [], []
    for name, each in runs.items():
        found = {place: [r[place] for r in each.values() if place in r] for place in places}
        gaps.append([titled(name), *(spread([r["gap"] for r in found[p]]) for p in places)])
        figures = ("seconds", "ms_per_step", "step_of_best", "us_per_density", "us_per_sample")
        speeds.append([
            titled(name),
            f"{found['moons'][0]['parameters']:,}",
            *(spread([r[figure] for r in found["moons"]]) for figure in figures),
        ])  # fmt: skip
    return [
        "## Normalizing flows",
        "",
        "Paired gap to the true density on 10,000 test points, in nats; 0 is perfect. All are "
        "trained by the notebook's loop. The notebook's best flow is made of splines from `zuko`, "
        "too: two transforms where the peer has three, and a mixture of 32 Gaussians for a base "
        "where all others have one. Its rate rises to 0.01, as that of RealNVP; the peers' to "
        "0.005, that of `normflows` to 0.002, because more overflows. Equal time: every peer gets "
        "as many steps as should fit into the time of the notebook's best flow, by a timing "
        "beforehand; *seconds in all* shows what came of it. The banana is a Gaussian in two "
        "directions, bent by a shift: an affine coupling layer whose network has learnt a parabola "
        "is exact, splines are not.",
        "",
        *table(["", *(f"gap, {place}" for place in places)], gaps),
        "",
        "On the moons, one thread. A step of the notebook's best flow takes 1,024 points, of all "
        "others 512; its step beside itself shows how exact that timing is. Density and sample: "
        "microseconds per point, 10,000 at once.",
        "",
        *table(["", "parameters", "seconds in all", "ms per step", "of the best flow's step",
                "µs per density", "µs per sample"], speeds),
        "",
        "![Gap over seconds of training, one panel per density](results/flows.svg)",
    ]  # fmt: skip


def slowest_cells(settings: dict[str, dict]) -> list[list[str]]:
    """Rows of a notebook's slowest cells: median seconds in each setting, then the first line.

    Args:
        settings: Per setting, the runs by seed. Cells of a run that begin alike are added up.
    """
    medians: dict[str, dict[str, float]] = {}
    for setting, each in settings.items():
        found = defaultdict(list)
        for run in each.values():
            sums: Counter[str] = Counter()
            for seconds, text in run["slowest"]:
                sums[text] += seconds
            for text, seconds in sums.items():
                found[text].append(seconds)
        medians[setting] = {text: statistics.median(values) for text, values in found.items()}
    first = next(iter(medians.values()))
    largest = sorted(first, key=first.__getitem__, reverse=True)[:10]
    return [
        [*(f"{of[text]:.1f}" if text in of else "" for of in medians.values()), code(text)]
        for text in largest
    ]


def whole_section(stored: dict) -> list[str]:
    runs, rows, cells = stored["runs"], [], []
    notebooks: dict[str, dict[str, dict]] = {}
    for key, each in runs.items():
        name, _, setting = key.partition(", ")
        if not setting:
            continue
        values = list(each.values())
        figures = ("seconds", "processor_seconds", "peak_memory_mb")
        busy = slowdowns(runs, setting)[name] if "busy" in setting else []
        rows.append([
            f"`{name}`",
            setting,
            *(spread([run[figure] for run in values]) for figure in figures),
            spread(busy) if busy else "",
        ])  # fmt: skip
        notebooks.setdefault(name, {})[setting] = each
    for name, settings in notebooks.items():
        head = [*settings, f"`{name}`: the first line of its slowest cells"]
        cells += ["", *table(head, slowest_cells(settings))]
    lines = [
        "## The notebooks as a whole",
        "",
        "Two cores. *Threads* are PyTorch's; processor seconds count all of the kernel's. What the "
        "busy core explains: that only one core is left, so the seconds with "
        "one thread alone. The last column is the time over that. *As shipped*: as many threads as "
        "the notebook asks for itself, one for the small networks of the wine notebook and of "
        "`flows`, which lose by a second thread, all cores for `var_mod`.",
        "",
        *table(["", "", "seconds", "processor seconds", "peak memory (MiB)", "of one core's time"],
               rows),
        "",
        "Of each run the ten slowest cells are known. Here are the slowest with one thread: median "
        "seconds over the runs where a cell is among the ten, empty where it never is. Cells that "
        "begin with the same line share a row, added up as far as they are among the ten.",
        *cells,
    ]  # fmt: skip
    starts = list(runs.get("start-up", {}).values())
    if starts:
        size = starts[-1]["bytes"]
        largest = [f"`{name}` {n / 1e9:.2f}" for name, n in list(size.items()) if name != "all"]
        lines += ["", "From starting the kernel until imports, parameters and device are through, "
                  "seconds: "
                  + "; ".join(f"`{name}` {spread([s['seconds'][name] for s in starts])}"
                              for name in starts[0]["seconds"]) + ".",
                  "", f"The installed environment, tests included, takes {size['all'] / 1e9:.2f} "
                  f"GB; the largest parts in GB: {', '.join(largest)}."]  # fmt: skip
    return lines


def origin(name: str, stored: dict) -> str:
    """Machine, versions and date of one store."""
    m = stored["machine"]
    versions = ", ".join(f"`{p}` {v}" for p, v in sorted(stored["versions"].items()))
    counts = sorted({len(each) for each in stored["runs"].values()})
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return (
        f"- `{name}`: {stored['date']}, `{m['processor']}`, {m['cores']} cores, {m['system']}, "
        f"Python {m['python']}, {versions}; repetitions: {seeds}; "
        f"digest of script and notebook `{stored['code']}`"
    )


def render(stored: dict[str, dict]) -> str:
    """RESULTS.md."""
    goals = targets(stored)
    sections = {
        "bnn": bnn_section,
        "vae": lambda s: vae_section("vae", s),
        "vae_full": lambda s: vae_section("vae_full", s),
        "flows": flows_section,
        "whole": whole_section,
    }
    lines = [
        "# The course beside what a reader would use instead",
        "",
        "Written by `make benchmarks FULL=1` from `benchmarks/results/*.json`; not by hand. "
        "Without `FULL=1` it does not download all of MNIST, and leaves that part as it is. "
        "Medians (smallest to largest) over repetitions, each in a process of its own, competitors "
        "in turn; ratios are taken within a repetition. One thread unless stated.",
        "",
        "| promise | measured | |",
        "| --- | --- | --- |",
        *(goal.line() for goal in goals),
    ]
    for name in stored:
        lines += ["", *sections[name](stored[name])]
        for goal in goals:
            if goal.store == name and goal.value is not None and not goal.reached:
                lines += ["", f"Missed: {goal.text}. Where the notebook's code spends its time:"]
                lines += ["", "```", *profile_of(name, stored[name]), "```"]
    absent = [f"`{name}`" for name in STORES if name not in stored]
    if absent:
        lines += ["", f"Not measured yet: {', '.join(absent)}."]
    lines += [
        "",
        "## Where this was measured",
        "",
        "Date and versions are those of the last run.",
        "",
    ]
    return "\n".join(lines + [origin(name, stored[name]) for name in stored]) + "\n"


def profile_of(name: str, stored: dict) -> list[str]:
    """The stored profile of the notebook's code, of the first repetition."""
    if name == "whole":
        return ["see the slowest cells above"]
    return next(run["profile"] for each in stored["runs"].values() for run in each.values()
                if "profile" in run)  # fmt: skip


def readme_table(stored: dict[str, dict]) -> str:
    """The README's section: one line per subject."""
    rows = []

    def add(subject: str, ours: Collection[float], others: Collection[float], whose: str) -> None:
        rows.append([subject, spread(ours), f"{spread(others)}: {titled(whose)}"])

    if "bnn" in stored:
        runs = stored["bnn"]["runs"]
        times = times_to_quality(runs, USUAL)
        text = "Bayesian network: seconds to the quality that the usual style ends with"
        add(text, times["notebook"].values(), times[USUAL].values(), USUAL)
        peers = [name for name in times if name not in ("notebook", USUAL, FLOOR)]
        fastest = min(peers, key=lambda name: statistics.median(times[name].values()))
        ours, theirs = (times[name].values() for name in ("notebook", fastest))
        add("The same, beside the fastest library", ours, theirs, fastest)
        steps = {name: [run["ms_per_step"] for run in each.values()] for name, each in runs.items()}
        add("Bayesian network: milliseconds per step", steps["notebook"], steps[FLOOR], FLOOR)
    if "vae" in stored:
        times = times_to_quality(stored["vae"]["runs"], STOCK)
        text = "Autoencoder: seconds to the quality that the tutorial's network ends with"
        add(text, times["notebook"].values(), times[STOCK].values(), STOCK)
    if "flows" in stored:
        runs = stored["flows"]["runs"]
        leads = moons_leads(runs)
        peer = min(leads, key=lambda name: statistics.median(leads[name]))
        ours, theirs = ([run["moons"]["gap"] for run in runs[n].values()] for n in (BEST, peer))
        add("Flow: nats from the true moons, after equal time", ours, theirs, peer)
    more = "All figures, how they were measured, and whether each promise was kept:"
    return "\n".join(
        [
            "## Beside what you would use instead",
            "",
            *table(["median (smallest to largest)", "the notebook", "beside it"], rows),
            "",
            f"{more} [benchmarks/RESULTS.md](benchmarks/RESULTS.md).",
        ]
    )


def fill(text: str, stored: dict[str, dict]) -> str:
    """A text with the table between its markers.

    Raises:
        ValueError: If the markers are missing.
    """
    if BEGIN not in text or END not in text:
        raise ValueError(f"no {BEGIN} … {END} in the text")
    content = f"{BEGIN}\n\n{readme_table(stored)}\n\n{END}"
    return re.sub(f"{BEGIN}.*?{END}", lambda _: content, text, flags=re.DOTALL)


def draw(runs: dict, ax, curve) -> None:
    """One thin line per seed, one colour per competitor; seconds on a logarithmic axis."""
    for colour, (name, each) in zip(PALETTE.values(), runs.items(), strict=False):
        lines = [curve(run) for run in each.values() if curve(run)]
        for points in lines:
            marker = "o" if len(points) == 1 else None
            ax.plot(*zip(*points, strict=True), color=colour, lw=1, alpha=0.6, marker=marker)
        ax.plot([], [], color=colour, lw=2.5, label=name)  # for the legend
    ax.set(xscale="log", xlabel="seconds of training")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter("")


def pictures(stored: dict[str, dict], folder: Path) -> None:
    """Curves of quality over time, as SVG."""
    use_course_style()
    plt.rcParams["svg.hashsalt"] = "course"  # the same file for the same figures

    def save(fig, name):
        fig.savefig(folder / f"{name}.svg", metadata={"Date": None})
        plt.close(fig)

    wanted = {
        "bnn": ("validation log density (nats per wine)", (-1.3, None)),
        "vae": ("test ELBO (nats per image)", (-160, None)),
        "vae_full": ("test ELBO (nats per image)", (-160, None)),
    }
    for name, (ylabel, limits) in wanted.items():
        if name in stored:
            fig, ax = plt.subplots(figsize=(7, 4))
            draw(stored[name]["runs"], ax, lambda run: run["curve"])
            ax.set(ylabel=ylabel, ylim=limits)
            ax.legend(loc="lower right")
            save(fig, name)
    if "flows" in stored:
        fig, axes = plt.subplots(1, 3, figsize=(12, 4.5))
        for place, ax in zip(("moons", "banana", "rings"), axes, strict=True):
            draw(stored["flows"]["runs"], ax, lambda run, p=place: run.get(p, {}).get("curve"))
            ax.set(yscale="log", title=place)
            ax.yaxis.set_major_formatter("{x:g}")
        axes[0].set_ylabel("gap to the truth (nats)")
        fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
        save(fig, "flows")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="of the trials")
    quick = parser.parse_args().quick
    folder = ROOT / "build" / "benchmarks" / "quick" if quick else HERE / "results"
    stored = load(folder)
    if not stored:
        raise SystemExit(f"course: nothing is measured in {folder.name}. Remedy: make benchmarks")
    pictures(stored, folder)
    target = folder / "RESULTS.md" if quick else HERE / "RESULTS.md"
    target.write_text(render(stored), encoding="utf-8")
    if quick:
        print(readme_table(stored))
        return
    readme = ROOT / "README.md"
    readme.write_text(fill(readme.read_text(encoding="utf-8"), stored), encoding="utf-8")


if __name__ == "__main__":
    main()
