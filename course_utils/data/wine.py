"""The Wine Quality data."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from course_utils.data.files import locate
from course_utils.validation import require

if TYPE_CHECKING:
    from torch import Tensor

WINE_FEATURES = {
    "fixed acidity": "g/L tartaric acid",
    "volatile acidity": "g/L acetic acid",
    "citric acid": "g/L",
    "residual sugar": "g/L",
    "chlorides": "g/L sodium chloride",
    "free sulfur dioxide": "mg/L",
    "total sulfur dioxide": "mg/L",
    "density": "g/mL",
    "pH": "pH units",
    "sulphates": "g/L potassium sulphate",
    "alcohol": "% by volume",
}


class WineQuality(NamedTuple):
    """x (n, 11) in ``units``; y (n,) in quality points; one name and one unit per feature."""

    x: Tensor
    y: Tensor
    feature_names: tuple[str, ...]
    units: tuple[str, ...]


def load_wine_quality(colour: str = "red") -> WineQuality:
    """Load the Wine Quality data: measurements of Portuguese vinho verde and a taster's score.

    Args:
        colour: ``"red"`` (1,599 wines, bundled), ``"white"`` (4,898 wines, downloaded) or
            ``"white-400"`` (400 of the white ones with all their twins, bundled).

    Returns:
        x ``(n, 11)`` in the units of ``WINE_FEATURES`` and y ``(n,)`` in quality points, the median
        score of at least three tasters between 0 and 10; both float64.

    Raises:
        ValueError: If ``colour`` is none of these, or the file was altered.
        FileNotFoundError: If the file is missing and cannot be downloaded.

    Source:
        Cortez et al. (2009), Modeling wine preferences by data mining from physicochemical
        properties, doi:10.1016/j.dss.2009.05.016. UCI, doi:10.24432/C56S3T, CC BY 4.0.

    Example:
        >>> load_wine_quality("red").x.shape, load_wine_quality("white-400").x.shape
        (torch.Size([1599, 11]), torch.Size([400, 11]))
    """
    import numpy as np
    import torch

    known = isinstance(colour, str) and colour in ("red", "white", "white-400")
    require(known, "colour", '"red", "white" or "white-400"', colour)
    numbers = np.loadtxt(locate(f"winequality-{colour}.csv"), delimiter=";", skiprows=1)
    table = torch.from_numpy(numbers)  # (n, 12)
    names, units = tuple(WINE_FEATURES), tuple(WINE_FEATURES.values())
    return WineQuality(table[:, :-1].contiguous(), table[:, -1].contiguous(), names, units)
