"""Draw the curves of RESULTS.md: quality over seconds of training, as SVG.

    python -m benchmarks.curves [--quick]

With ``--quick`` those of the trials in build/benchmarks/quick, and print the trials' tables.
"""

import argparse
from collections.abc import Callable

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

from benchmarks import measure, report
from course_utils.plotting import PALETTE, use_course_style

LIMITS = {  # of the vertical axis, and its label
    "bnn": (-1.3, "validation log density (nats per wine)"),
    "vae": (-160, "test ELBO (nats per image)"),
    "vae_full": (-160, "test ELBO (nats per image)"),
}


def draw(runs: dict, ax: Axes, curve: Callable[[dict], list]) -> None:
    """One thin line per seed, one colour per competitor; seconds on a logarithmic axis."""
    for colour, (name, each) in zip(PALETTE.values(), runs.items(), strict=False):
        for points in filter(None, map(curve, each.values())):
            marker = "o" if len(points) == 1 else None
            ax.plot(*zip(*points, strict=True), color=colour, lw=1, alpha=0.6, marker=marker)
        ax.plot([], [], color=colour, lw=2.5, label=name)  # for the legend
    ax.set(xscale="log", xlabel="seconds of training")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter("")


def picture(name: str, runs: dict) -> plt.Figure:
    """The curves of one benchmark."""
    if name in LIMITS:
        bottom, label = LIMITS[name]
        fig, ax = plt.subplots(figsize=(7, 4))
        draw(runs, ax, lambda run: run["curve"])
        ax.set(ylabel=label, ylim=(bottom, None))
        ax.legend(loc="lower right")
        return fig
    fig, axes = plt.subplots(1, 3, figsize=(12, 4.5))
    for place, ax in zip(("moons", "banana", "rings"), axes, strict=True):
        draw(runs, ax, lambda run, place=place: run.get(place, {}).get("curve"))
        ax.set(yscale="log", title=place)
        ax.yaxis.set_major_formatter("{x:g}")
    axes[0].set_ylabel("gap to the truth (nats)")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    return fig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="of the trials")
    quick = parser.parse_args().quick
    folder = measure.TRIALS if quick else measure.RESULTS
    stored = report.load(folder)
    use_course_style()
    plt.rcParams["svg.hashsalt"] = "course"  # the same file for the same figures
    for name in stored.keys() & {*LIMITS, "flows"}:
        fig = picture(name, stored[name]["runs"])
        fig.savefig(folder / f"{name}.svg", metadata={"Date": None})
        plt.close(fig)
    if quick:
        for name, part in report.results(stored).items():
            print(f"\n{name}\n\n{part}")


if __name__ == "__main__":
    main()
