"""Posteriors of the wine notebook that were computed before the lesson."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from course_utils.data.files import DATA_DIR

if TYPE_CHECKING:
    from torch import Tensor

NAME = "posteriors.json"


def load_posteriors() -> dict[str, Any]:
    """Load what NUTS, Laplace and mean field say, as ``benchmarks/wine_posterior.py`` stored it.

    Lists come as float64 tensors. A pair is a value and its Monte Carlo error, from the spread of
    the chains, unless stated. Doubts and densities are in quality points.

    Returns:
        ``"date"``, ``"script"``, ``"versions"``, ``"machine"`` of the last run, and three parts,
        each with its own ``"date"``, ``"code"`` (a digest), ``"seed"`` and ``"seconds"``.

        ``"wine"``, NUTS given the first 54 wines of order 0: ``"aleatoric"`` and ``"epistemic"``,
        pairs (2,), the roots of the mean variances over the validation wines; ``"sigma"``,
        posterior mean and deviation (2,); ``"log_density"`` (nats) and ``"rmse"`` of the mixture of
        all draws; ``"mean"`` and ``"sd"`` (n,), the predictive mean of each validation wine and
        its epistemic deviation; ``"predictive_means"`` and ``"log_sigma"`` with ``"r_hat_median"``,
        ``"r_hat_largest"``, ``"ess_median"``, ``"ess_smallest"`` (of log sigma also ``"mean"`` and
        ``"sd"``, in scales of the score); ``"step_sizes"`` (chains,); ``"draws"`` (s, p), a few
        thinned draws in units of the prior scales, log sigma last; ``"log_joint"`` (s,), nats;
        ``"log_joint_all"``, mean and deviation (2,) over all draws.

        ``"doubts"``: ``"sizes"`` (m,), training wines; ``"laplace"`` (sigma chosen by the
        evidence, on a grid with steps of 5 %), ``"mean_field"`` (sigma learnt) and
        ``"mean_field_fixed"`` (the sigma of Laplace), aleatoric and epistemic deviation (orders, m,
        2); ``"mean_field_nuts"`` (2,), order 0 and 54 wines with the sigma of NUTS;
        ``"twice_the_steps"``, the same pairs (2,) of order 0 after twice as many ``"steps"``.

        ``"told"``: ``"laplace"`` (three starts, 2), the same pairs with the sigma of NUTS.

        ``"gap"``, NUTS on the toy: ``"line"`` (n,); ``"mean"``, ``"sd"``, ``"lower"`` (5 %) and
        ``"upper"`` (95 %) of the functions there, ``"r_hat"``, ``"ess"``, each (n,); their
        summaries ``"functions"`` and ``"functions_in_gap"``; ``"doubt_in_gap"``, a pair (2,), the
        mean of ``"sd"`` where abs(x) <= 0.7, both ends included.

    Raises:
        FileNotFoundError: If the file is missing.

    Example:
        >>> load_posteriors()["doubts"]["laplace"].shape
        torch.Size([5, 4, 2])
    """
    path = DATA_DIR / NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing. It belongs to the course. Remedy: put {NAME} from a fresh "
            f"download of the course into {DATA_DIR}"
        )
    return _tensors(json.loads(path.read_text(encoding="utf-8")))


def _tensors(value: Any) -> Any:
    """The same with tensors in place of lists and of packed numbers."""
    if isinstance(value, list):
        import torch

        return torch.tensor(value, dtype=torch.float64)
    if isinstance(value, dict):
        packed = value.keys() == {"shape", "float32"}
        return _unpacked(**value) if packed else {key: _tensors(v) for key, v in value.items()}
    return value


def _unpacked(shape: list[int], float32: str) -> Tensor:
    """Numbers that are stored as 32-bit floats, little-endian, in base 64."""
    import numpy as np
    import torch

    numbers = np.frombuffer(base64.b64decode(float32), "<f4").astype(np.float64)
    return torch.from_numpy(numbers).reshape(shape)
