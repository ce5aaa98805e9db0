"""Draw the curves of RESULTS.md: quality over seconds of training, as SVG.

    python -m benchmarks.curves [--quick]

With ``--quick`` those of the trials in build/benchmarks/quick, and print the trials' tables.
"""

import sys

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

from benchmarks import measure, report
from course_utils.plotting import PALETTE, use_course_style

LABELS = {
    "bnn": "validation log density (nats per wine)",
    "vae": "test ELBO (nats per image)",
    "vae_full": "test ELBO (nats per image)",
    "flows": "gap to the truth (nats)",
}
BOTTOM = {"bnn": -1.3, "vae": -160, "vae_full": -160}


def draw(runs: dict, ax: Axes, place: str | None) -> None:
    """One thin line per seed, one colour per competitor; seconds on a logarithmic axis."""
    for colour, (name, each) in zip(PALETTE.values(), runs.items(), strict=False):
        for run in each.values():
            points = run[place]["curve"] if place else run["curve"]
            marker = "o" if len(points) == 1 else None
            ax.plot(*zip(*points, strict=True), color=colour, lw=1, alpha=0.6, marker=marker)
        ax.plot([], [], color=colour, lw=2.5, label=name)  # for the legend
    ax.set(xscale="log", xlabel="seconds of training")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter("")


def picture(name: str, runs: dict) -> plt.Figure:
    """The curves of one benchmark; of the flows one panel per density."""
    if name != "flows":
        fig, ax = plt.subplots(figsize=(7, 4))
        draw(runs, ax, None)
        ax.set(ylabel=LABELS[name], ylim=(BOTTOM[name], None))
        ax.legend(loc="lower right")
        return fig
    fig, axes = plt.subplots(1, 3, figsize=(12, 4.5))
    for place, ax in zip(report.PLACES, axes, strict=True):
        draw(runs, ax, place)
        ax.set(yscale="log", title=place)
        ax.yaxis.set_major_formatter("{x:g}")
    axes[0].set_ylabel(LABELS[name])
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    return fig


if __name__ == "__main__":
    quick = "--quick" in sys.argv
    folder = measure.TRIALS if quick else measure.RESULTS
    stored = report.load(folder)
    use_course_style()
    plt.rcParams["svg.hashsalt"] = "course"  # the same file for the same figures
    for name in stored.keys() & LABELS.keys():
        picture(name, stored[name]["runs"]).savefig(folder / f"{name}.svg", metadata={"Date": None})
    if quick:
        print(*report.results(stored).values(), sep="\n\n")
