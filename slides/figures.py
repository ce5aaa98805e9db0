"""Draw the lecture's figures as SVG: one function each, one unit is one pixel of the slide.

    python -m slides.figures FOLDER

Text becomes outlines, so that no font is needed; drawing twice gives the same bytes.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Polygon
from scipy.stats import norm

from course_utils.plotting import PALETTE

BLUE, ORANGE, GREEN = PALETTE["blue"], PALETTE["orange"], PALETTE["green"]
BLACK, GREY = PALETTE["black"], PALETTE["grey"]
DATA, LATENT, MAP = BLUE, ORANGE, GREEN  # one colour per role in all figures
TEXT, SYMBOL = 26, 34  # font sizes; a subscript has 0.7 of its symbol's size
LINE = 3
STYLE = {
    "svg.fonttype": "path",
    "svg.hashsalt": "course",
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "mathtext.fontset": "cm",  # the letters of the formulas on the slides
    "font.size": TEXT,
}


# ------------------------------------------------------------------ pieces


def canvas(width: int, height: int) -> tuple[Figure, Axes]:
    """An empty figure whose coordinates are pixels, the origin at the bottom left."""
    figure = Figure(figsize=(width / 72, height / 72))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(0, height))
    ax.axis("off")
    return figure, ax


def write(ax: Axes, x: float, y: float, text: str, size: float = TEXT, **options) -> None:
    """Text centred on a point."""
    ax.text(x, y, text, **{"size": size, "ha": "center", "va": "center"} | options)


def tint(colour: str) -> tuple[float, float, float]:
    """The colour, thinned so that black text on it can be read."""
    return tuple(1 - 0.18 * (1 - part) for part in matplotlib.colors.to_rgb(colour))


def box(ax: Axes, x: float, y: float, width: float, height: float, colour: str, text="", **options):
    """A rounded box with its centre at a point."""
    corner = (x - width / 2, y - height / 2)
    style = {"facecolor": tint(colour), "edgecolor": colour, "linewidth": LINE}
    shape = "round,pad=0,rounding_size=8"
    ax.add_patch(FancyBboxPatch(corner, width, height, boxstyle=shape, **style))
    write(ax, x, y, text, **options)


def wedge(ax: Axes, left: float, right: float, y: float, heights: tuple, colour: str, text: str):
    """A trapezium that narrows or widens from left to right."""
    (a, b), style = heights, {"facecolor": tint(colour), "edgecolor": colour, "linewidth": LINE}
    corners = [(left, y - a / 2), (left, y + a / 2), (right, y + b / 2), (right, y - b / 2)]
    ax.add_patch(Polygon(corners, **style))
    write(ax, (left + right) / 2, y, text)


def arrow(ax: Axes, start: tuple, end: tuple, colour: str = BLACK, **options) -> None:
    """An arrow between two points."""
    style = {"arrowstyle": "-|>", "mutation_scale": 26, "linewidth": LINE, "shrinkA": 0}
    ax.add_patch(FancyArrowPatch(start, end, color=colour, **style | {"shrinkB": 0} | options))


# ------------------------------------------------------------------ networks


def three() -> Figure:
    """The three models of the lecture in miniature, with what is new in each."""
    figure, ax = canvas(1160, 330)
    y = 215
    box(ax, 75, y, 60, 130, DATA, "$x$", size=SYMBOL)
    box(ax, 195, y, 110, 130, GREY)
    write(ax, 195, y + 32, "$W$", SYMBOL)
    _weight(ax, 195, y - 30, 11, 2)
    box(ax, 315, y, 60, 70, DATA, "$y$", size=SYMBOL)
    box(ax, 460, y, 50, 130, DATA, "$x$", size=SYMBOL)
    wedge(ax, 500, 560, y, (130, 64), GREY, "")
    box(ax, 590, y, 44, 60, LATENT, "$z$", size=SYMBOL)
    wedge(ax, 620, 680, y, (64, 130), GREY, "")
    box(ax, 720, y, 50, 130, DATA, r"$\hat{x}$", size=SYMBOL)
    box(ax, 880, y, 60, 130, DATA, "$x$", size=SYMBOL)
    box(ax, 1080, y, 60, 130, LATENT, "$z$", size=SYMBOL)
    arrow(ax, (109, y), (136, y))
    arrow(ax, (254, y), (281, y))
    arrow(ax, (918, y + 25), (1042, y + 25))
    arrow(ax, (1042, y - 25), (918, y - 25), GREY, linestyle=(0, (3, 1.5)))
    captions = (
        (195, "Bayesian neural network", "uncertain weights"),
        (590, "variational autoencoder", "a hidden code"),
        (980, "normalizing flow", "an invertible code"),
    )
    for x, name, news in captions:
        write(ax, x, 105, name, weight="bold")
        write(ax, x, 60, news)
    return figure


def split() -> Figure:
    """Training, validation and test set, each with its use."""
    figure, ax = canvas(1160, 160)
    parts = (
        ("training set", "fit the model", 640, BLUE),
        ("validation set", "compare models", 250, GREEN),
        ("test set", "once, at the end", 250, ORANGE),
    )
    left = 5
    for name, use, width, colour in parts:
        box(ax, left + width / 2, 100, width - 8, 80, colour, name)
        write(ax, left + width / 2, 30, use)
        left += width + 5
    return figure


def training() -> Figure:
    """Input, layers, output; a loss at the end of the chain, and the gradient running back."""
    figure, ax = canvas(1160, 260)
    y = 205
    names = ("input", "layer 1", "layer 2", "…", "layer $L$", "output")
    colours = (DATA, GREY, GREY, None, GREY, DATA)
    for index, (name, colour) in enumerate(zip(names, colours, strict=True)):
        x = 80 + index * 200
        if colour:
            box(ax, x, y, 144, 90, colour, name)
        else:
            write(ax, x, y, name, SYMBOL)
        if index:
            arrow(ax, (x - 124, y), (x - 76, y))
    box(ax, 1080, 75, 144, 76, ORANGE, "loss")
    arrow(ax, (1080, 158), (1080, 117))
    ax.plot([1004, 278.5], [75, 75], color=ORANGE, linewidth=LINE)
    for x in (880, 480, 280):
        arrow(ax, (x, 75), (x, 156), ORANGE)
    write(ax, 580, 30, "gradient with respect to the weights (backpropagation)")
    return figure


def _weight(ax: Axes, x: float, y: float, doubt: float | None, scale: float = 1) -> None:
    """A weight on its edge: a stick for one value, a bell for a distribution."""
    width, height = 36 * scale, 28 * scale
    ax.plot([x - width / 2, x + width / 2], [y - 8, y - 8], color=GREY, linewidth=1.5, zorder=4)
    if doubt is None:
        ax.plot([x, x], [y - 8, y + 9], color=ORANGE, linewidth=5, zorder=5)
        return
    offset = np.linspace(-width / 2, width / 2, 61)
    bell = y - 8 + height * (5 / doubt) ** 0.5 * np.exp(-0.5 * (offset / doubt) ** 2)
    ax.fill_between(x + offset, y - 8, bell, color=ORANGE, linewidth=0, zorder=5)


def _network(bayesian: bool) -> Figure:
    figure, ax = canvas(620, 500)
    columns = {60: 3, 230: 3, 400: 3, 560: 1}
    doubts = np.random.default_rng(4).uniform(3, 9, 21)
    nodes = {x: [265 + 150 * (i - (n - 1) / 2) for i in range(n)] for x, n in columns.items()}
    places = [
        ((x, y), (x_next, y_next))
        for x, x_next in zip(columns, list(columns)[1:], strict=False)
        for y in nodes[x]
        for y_next in nodes[x_next]
    ]
    for (start, end), doubt in zip(places, doubts, strict=True):
        ax.plot(*zip(start, end, strict=True), color=GREY, linewidth=1.5, zorder=1)
        part = 0.25 if end[0] < 500 else 0.45
        x, y = (a + part * (b - a) for a, b in zip(start, end, strict=True))
        _weight(ax, x, y, doubt if bayesian else None)
    for x, ys in nodes.items():
        colour = DATA if x in (60, 560) else GREY
        for y in ys:
            face = tint(colour)
            ax.add_patch(Circle((x, y), 24, facecolor=face, edgecolor=colour, lw=LINE, zorder=6))
    for x, text in ((60, "input"), (315, "two hidden layers"), (560, "output")):
        write(ax, x, 25, text)
    for x, text in ((60, "$x$"), (230, "$h_1$"), (400, "$h_2$"), (560, r"$\hat{y}$")):
        write(ax, x, max(nodes[x]) + 55, text, SYMBOL)
    return figure


def dense() -> Figure:
    """A dense network; every weight is a single value."""
    return _network(bayesian=False)


def bayesian() -> Figure:
    """The same network with a density on every weight."""
    return _network(bayesian=True)


# ------------------------------------------------------------------ autoencoders and flows


def autoencoder() -> Figure:
    """Input, encoder, narrow code, decoder, reconstruction."""
    figure, ax = canvas(1120, 330)
    y = 190
    box(ax, 60, y, 70, 270, DATA, "$x$", size=SYMBOL)
    wedge(ax, 190, 440, y, (250, 110), GREY, "encoder")
    box(ax, 560, y, 70, 100, LATENT, "$z$", size=SYMBOL)
    wedge(ax, 680, 930, y, (110, 250), GREY, "decoder")
    box(ax, 1060, y, 70, 270, DATA, r"$\hat{x}$", size=SYMBOL)
    for start, end in ((100, 185), (445, 520), (600, 675), (935, 1020)):
        arrow(ax, (start, y), (end, y))
    write(ax, 5, 22, "$D$ numbers", 29, ha="left")
    write(ax, 560, 105, "bottleneck")
    write(ax, 560, 62, "$K < D$ numbers", 29)
    write(ax, 1115, 22, "$D$ numbers", 29, ha="right")
    return figure


def vae() -> Figure:
    """The encoder gives z_mu and z_sigma; noise makes z of them; the decoder maps z back."""
    figure, ax = canvas(1120, 360)
    y = 220
    box(ax, 45, y, 66, 270, DATA, "$x$", size=SYMBOL)
    wedge(ax, 135, 345, y, (250, 170), GREY, "")
    write(ax, 240, y + 28, "encoder")
    write(ax, 240, y - 22, r"$q_\phi(z\,|\,x)$", SYMBOL)
    box(ax, 455, y + 65, 84, 84, LATENT, r"$z_\mu$", size=SYMBOL)
    box(ax, 455, y - 65, 84, 84, LATENT, r"$z_\sigma$", size=SYMBOL)
    box(ax, 400, 38, 220, 66, GREY, r"$\varepsilon \sim \mathcal{N}(0, I)$", size=SYMBOL)
    box(ax, 650, y, 70, 150, LATENT, "$z$", size=SYMBOL)
    wedge(ax, 750, 960, y, (170, 250), GREY, "")
    write(ax, 855, y + 28, "decoder")
    write(ax, 855, y - 22, r"$p_\theta(x\,|\,z)$", SYMBOL)
    box(ax, 1070, y, 66, 270, DATA, r"$\hat{x}$", size=SYMBOL)
    arrow(ax, (82, y), (131, y))
    arrow(ax, (349, y + 50), (409, y + 65))
    arrow(ax, (349, y - 50), (409, y - 65))
    arrow(ax, (501, y + 65), (610, y + 25))
    arrow(ax, (501, y - 65), (610, y - 10))
    arrow(ax, (514, 42), (612, y - 60))
    arrow(ax, (689, y), (746, y))
    arrow(ax, (964, y), (1033, y))
    write(ax, 855, 40, r"$z = z_\mu + z_\sigma\,\varepsilon$", 36)
    return figure


def flow() -> Figure:
    """x and z equally wide; f from x to z, its inverse back."""
    figure, ax = canvas(1120, 380)
    y = 200
    box(ax, 60, y, 70, 260, DATA, "$x$", size=SYMBOL)
    box(ax, 1060, y, 70, 260, LATENT, "$z$", size=SYMBOL)
    for x, name in ((330, "$f_1$"), (560, "$f_2$"), (790, "$f_3$")):
        box(ax, x, y, 110, 200, MAP, name, size=SYMBOL)
    for start, end in ((105, 265), (395, 495), (625, 725), (855, 1015)):
        arrow(ax, (start, y + 50), (end, y + 50))
        arrow(ax, (end, y - 50), (start, y - 50), GREY, linestyle=(0, (3, 1.5)))
    write(ax, 560, 350, "density:  $z = f(x)$,  data to latent", 29)
    write(ax, 560, 38, "sampling:  $x = f^{-1}(z)$,  latent to data", 29)
    write(ax, 60, 38, "$D$", 29)
    write(ax, 1060, 38, "$D$", 29)
    return figure


def coupling() -> Figure:
    """Half of x passes unchanged and decides how the other half is scaled and shifted."""
    figure, ax = canvas(620, 420)
    top, bottom = 330, 90
    box(ax, 50, top, 80, 110, DATA, "$x_a$", size=SYMBOL)
    box(ax, 50, bottom, 80, 110, DATA, "$x_b$", size=SYMBOL)
    box(ax, 310, (top + bottom) / 2, 130, 76, GREY, "$s,\\ t$", size=SYMBOL)
    box(ax, 310, bottom, 250, 76, MAP, "$x_b\\, e^{s} + t$", size=SYMBOL)
    box(ax, 570, top, 80, 110, LATENT, "$z_a$", size=SYMBOL)
    box(ax, 570, bottom, 80, 110, LATENT, "$z_b$", size=SYMBOL)
    arrow(ax, (94, top), (526, top))
    arrow(ax, (310, top), (310, 252))
    arrow(ax, (310, 168), (310, 132))
    arrow(ax, (94, bottom), (181, bottom))
    arrow(ax, (439, bottom), (526, bottom))
    write(ax, 310, top + 28, "unchanged")
    write(ax, 455, (top + bottom) / 2, "a network")
    return figure


# ------------------------------------------------------------------ computed pictures


def gaussian_bound(scale: np.ndarray) -> tuple[np.ndarray, float]:
    """ELBO and evidence in nats, exact: z ~ N(0, 1), x | z ~ N(z, 1), x = 1, q = N(1/2, scale^2).

    The posterior is N(1/2, 1/2), so the bound touches the evidence at scale = sqrt(1/2).
    """
    evidence = float(norm.logpdf(1, 0, 2**0.5))
    divergence = -np.log(scale * 2**0.5) + scale**2 - 0.5
    return evidence - divergence, evidence


def bound() -> Figure:
    """The ELBO as a function of the width of q, below the evidence; the gap is the KL."""
    figure = Figure(figsize=(580 / 72, 500 / 72))
    ax = figure.add_axes((0.19, 0.17, 0.77, 0.82))
    scale = np.linspace(0.25, 1.5, 200)
    elbo, evidence = gaussian_bound(scale)
    ax.fill_between(scale, elbo, evidence, color=tint(ORANGE), linewidth=0)
    ax.plot(scale, elbo, color=BLUE, linewidth=4)
    ax.axhline(evidence, color=BLACK, linewidth=LINE, linestyle=(0, (4, 2)))
    best = 0.5**0.5
    ax.plot(best, evidence, "o", color=BLUE, markersize=14)
    write(ax, best, evidence + 0.07, r"$\log p(x)$", SYMBOL)
    write(ax, 0.88, -2.13, "ELBO", 26, color=BLUE)
    ax.annotate("", (1.3, evidence), (1.3, gaussian_bound(np.array(1.3))[0]),
                arrowprops={"arrowstyle": "<|-|>", "lw": LINE, "color": BLACK,
                            "mutation_scale": 22, "shrinkA": 0, "shrinkB": 0})  # fmt: skip
    write(ax, 1.24, -1.7, "KL", 26)
    ax.annotate("", (0.8, gaussian_bound(np.array(0.8))[0] - 0.02), (0.86, -2.06),
                arrowprops={"arrowstyle": "-", "lw": 2, "color": BLUE})  # fmt: skip
    ax.set(xlim=(0.2, 1.5), ylim=(-2.35, -1.38))
    ax.set_xlabel("standard deviation of $q$", size=24)
    ax.set_ylabel("nats", size=24)
    _axes(ax, [0.5, 1.0, 1.5], [-2.2, -2.0, -1.8, -1.6, -1.4])
    return figure


def _axes(ax: Axes, xticks: list, yticks: list) -> None:
    ax.set_xticks(xticks)
    ax.set_yticks(yticks)
    ax.tick_params(labelsize=22, width=2, length=8)
    ax.spines[["top", "right"]].set_visible(False)


PEAKS = ((0.45, -1.6, 0.55), (0.55, 1.4, 0.6))  # weight, mean and scale of each peak in x


def p_x(x: np.ndarray) -> np.ndarray:
    """A density with two peaks."""
    return sum(weight * norm.pdf(x, mean, scale) for weight, mean, scale in PEAKS)


def f(x: np.ndarray) -> np.ndarray:
    """The increasing map from x to z under which p_x becomes N(0, 1): z has x's quantile."""
    return norm.ppf(sum(weight * norm.cdf(x, mean, scale) for weight, mean, scale in PEAKS))


def change_of_variables() -> Figure:
    """p_x below, z = f(x) above it, p_z at the side; two strips of equal area."""
    figure = Figure(figsize=(540 / 72, 540 / 72))
    main = figure.add_axes((0.33, 0.42, 0.65, 0.56))
    side = figure.add_axes((0.085, 0.42, 0.235, 0.56))
    below = figure.add_axes((0.33, 0.08, 0.65, 0.33))
    x, z = np.linspace(-3.6, 3.6, 400), np.linspace(-3, 3, 400)
    main.plot(x, f(x), color=MAP, linewidth=5)
    below.fill_between(x, p_x(x), color=tint(DATA), linewidth=0)
    below.plot(x, p_x(x), color=DATA, linewidth=4)
    side.fill_betweenx(z, norm.pdf(z), color=tint(LATENT), linewidth=0)
    side.plot(norm.pdf(z), z, color=LATENT, linewidth=4)
    low, high = 0.9, 1.5  # the strip in x
    strip = np.linspace(low, high, 60)
    below.fill_between(strip, p_x(strip), color=DATA, linewidth=0)
    strip = np.linspace(f(low), f(high), 60)
    side.fill_betweenx(strip, norm.pdf(strip), color=LATENT, linewidth=0)
    for edge in (low, high):
        main.plot([edge, edge, -3.6], [-3, f(edge), f(edge)], color=GREY, linewidth=2, zorder=1)
    middle = (low + high) / 2
    arrow(main, (middle, -2.9), (middle, f(middle) - 0.1), zorder=3)
    arrow(main, (middle - 0.1, f(middle)), (-3.5, f(middle)), zorder=3)
    write(main, -1.3, 1.35, "$z = f(x)$", SYMBOL)
    write(below, -0.1, 0.44, "$p_x(x)$", SYMBOL)
    write(side, 0.24, 2.55, "$p_z(z)$", SYMBOL)
    write(below, 3.3, -0.065, "$x$", SYMBOL)
    write(side, 0.53, 2.7, "$z$", SYMBOL)
    main.set(xlim=(-3.6, 3.6), ylim=(-3, 3), xticks=[], yticks=[])
    below.set(xlim=(-3.6, 3.6), ylim=(0, 0.5), yticks=[])
    side.set(ylim=(-3, 3), xlim=(0.46, 0), xticks=[])
    below.set_xticks([-2, 0, 2])
    side.set_yticks([-2, 0, 2], ["−2", "0", "2"])
    for ax, hidden in ((main, "top right left bottom"), (below, "top right left"),
                       (side, "top right bottom")):  # fmt: skip
        ax.spines[hidden.split()].set_visible(False)
        ax.tick_params(labelsize=22, width=2, length=8)
        ax.patch.set_alpha(0)
    return figure


FIGURES: tuple[Callable[[], Figure], ...] = (
    three, split, training, bound, dense, bayesian, autoencoder, vae, flow,
    change_of_variables, coupling,
)  # fmt: skip


def draw(folder: Path) -> None:
    """Write every figure as ``NAME.svg``."""
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        for figure in FIGURES:
            target = folder / f"{figure.__name__}.svg"
            figure().savefig(target, metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
