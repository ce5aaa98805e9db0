"""Score the models of the wine notebook as the literature does: on random 90/10 splits.

    python -m benchmarks.wine_splits    # writes benchmarks/wine_splits.json

Twins are torn apart by such splits (see the notebook), so the figures are comparable with the
published ones and with nothing else. Forty splits, in two groups of twenty: the second shows how
much another choice of splits would change.
"""

import itertools
from pathlib import Path

import torch

from benchmarks import measure
from benchmarks.baselines import bnn
from course_utils.data import load_wine_quality
from course_utils.metrics import mean_and_error

MODELS = ("fit_linear", "fit_mean_field_bnn", "fit_laplace", "fit_mixture", "fit_forest")
GROUPS = {"first": range(20), "second": range(20, 40)}


def score(fit, split: int) -> tuple[float, float]:
    """RMSE (quality points) and mean log density (nats) on the 160 wines of one random split."""
    wine = load_wine_quality("red")
    order = torch.randperm(len(wine.y), generator=torch.Generator().manual_seed(split))
    held, used = order[: len(order) // 10 + 1], order[len(order) // 10 + 1 :]
    (x_mean, x_scale), (y_mean, y_scale) = (
        (values[used].mean(0), values[used].std(0)) for values in (wine.x, wine.y)
    )
    x = ((wine.x - x_mean) / x_scale).float()
    predict = fit(x[used], ((wine.y[used] - y_mean) / y_scale).float(), seed=split)
    return bnn.score(predict, x[held], wine.y[held], (y_mean, y_scale), bnn.DRAWS)


def main() -> None:
    torch.set_num_threads(1)
    runs: dict[str, dict[str, list]] = {name: {} for name in MODELS}
    for name, group in itertools.product(MODELS, GROUPS):
        values = torch.tensor([score(getattr(bnn.nb, name), split) for split in GROUPS[group]])
        print(name, group, "mean and error of RMSE and log density:", mean_and_error(values))
        runs[name][group] = [[round(v, 4) for v in row] for row in values.tolist()]
    stored = measure.origin(__spec__.name, ["torch", "pyro-ppl"])
    stored |= {"code": measure.code_digest(Path(__file__), bnn.BOOK.source), "runs": runs}
    measure.write(measure.place("wine_splits"), stored)


if __name__ == "__main__":
    main()
