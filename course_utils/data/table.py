"""A table of one's own: a CSV file, read strictly, with messages that name the place."""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from course_utils.data.files import locate
from course_utils.data.splits import duplicate_groups
from course_utils.validation import require

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

AT_HAND = {
    "red wine": "winequality-red.csv",
    "white wine": "winequality-white-400.csv",
    "diabetes": "",  # comes with scikit-learn
}
LEAST = 40  # rows, so that each of five folds has a few
GROUPS = 10  # at least two for each of five folds
SHARE = 0.6  # of the rows are in the smallest training set: three folds of five
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
DATE = re.compile(r"\d{1,4}([-/.])\d{1,2}\1\d{1,4}([T ].*)?|\d{1,2}:\d{2}.*")
MISSING = {"", "na", "n/a", "nan", "null", "none", "?", "-", "."}
SAVE = 'Remedy: save the sheet as "CSV UTF-8", one table with the names of the columns in row 1'


class Table(NamedTuple):
    """x (n, d) and y (n,), float64; rows that belong together have one label in groups (n,)."""

    x: Tensor
    y: Tensor
    groups: Tensor
    columns: tuple[str, ...]
    target: str


def load_table(
    table: str | Path, *, target: str = "", group: str = "", drop: Collection[str] = ()
) -> Table:
    """Read a table at hand or a CSV file, and refuse what no model could use.

    Commas, semicolons or tabs part the columns, decimal commas go with the last two. Row 1 holds
    the names. Rows are counted as a spreadsheet does.

    Args:
        table: ``"red wine"``, ``"white wine"`` (400 rows), ``"diabetes"``, or the path of a file.
        target: Column to predict; the last one when empty.
        group: Column that says which rows belong together, numbers or text; it is no input.
        drop: Columns to leave out.

    Returns:
        The table. Rows with equal inputs, or with the same entry in ``group``, share a label.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such table; the message names column, row and remedy.

    Source:
        Wine: Cortez et al. (2009), doi:10.24432/C56S3T, CC BY 4.0. Diabetes: Efron, Hastie,
        Johnstone and Tibshirani (2004), doi:10.1214/009053604000000067, from scikit-learn.

    Example:
        >>> wine = load_table("white wine")
        >>> wine.x.shape, len(wine.groups.unique())
        (torch.Size([400, 11]), 316)
    """
    import numpy as np
    import torch

    names, rows, comma = _diabetes() if table == "diabetes" else _read(_path(table))
    target = target or names[-1]
    leave = [drop] if isinstance(drop, str) else [*drop]
    for what, name in (
        ("TARGET", target),
        ("GROUP", group or target),
        *(("DROP", n) for n in leave),
    ):
        require(name in names, what, f"one of the columns {names}", name)
    require(target not in leave and target != group, "TARGET", "a column of its own", target)
    inputs = [name for name in names if name not in {target, group, *leave}]
    require(bool(inputs), "DROP", "shorter: no column is left to predict from", leave)
    numbers = _numbers(names, rows, [*inputs, target], comma)  # (n, d + 1)
    together = [row[names.index(group)].strip() for _, row in rows] if group else []
    _examine(numbers, inputs, target)
    groups = _join(duplicate_groups(numbers[:, :-1]).numpy(), together)
    sizes = np.unique(groups, return_counts=True)[1]
    if len(sizes) < GROUPS or 4 * max(sizes) > len(groups):
        raise ValueError(
            f"{len(sizes)} groups of rows with equal inputs or one GROUP entry, the largest has "
            f"{max(sizes)} of {len(groups)} rows. At least {GROUPS} are needed, none larger than a "
            "quarter. Remedy: another GROUP column, or one more input that tells rows apart"
        )
    x, y = torch.from_numpy(numbers[:, :-1].copy()), torch.from_numpy(numbers[:, -1].copy())
    return Table(x, y, torch.from_numpy(groups), tuple(inputs), target)


# ------------------------------------------------------------------ from a file to rows of text


def _diabetes() -> tuple[list[str], list[tuple[int, list[str]]], bool]:
    from sklearn.datasets import load_diabetes

    data = load_diabetes(scaled=False)
    rows = enumerate(zip(*data.data.T.tolist(), data.target.tolist(), strict=True), 2)
    names = [*data.feature_names, "disease progression"]
    return names, [(number, [*map(repr, row)]) for number, row in rows], False


def _path(table: str | Path) -> Path:
    if isinstance(table, str) and table in AT_HAND:
        return locate(AT_HAND[table])
    named = isinstance(table, str | Path) and str(table).strip()
    require(named, "TABLE", f"one of {[*AT_HAND]} or the path of a CSV file", table)
    path = Path(table).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"{path.resolve()} is {'a folder' if path.is_dir() else 'missing'}. Remedy: put the "
            f"file beside your notebook and write its name, or take one of {[*AT_HAND]}"
        )
    return path


def _read(path: Path) -> tuple[list[str], list[tuple[int, list[str]]], bool]:
    """Names, numbered rows of text, and whether a decimal comma is possible."""
    raw = path.read_bytes()
    if not raw.strip():
        raise ValueError(f"{path.name} is empty. {SAVE}")
    if b"\0" in raw or raw.lstrip()[:2] in (b"PK", b"%P") or raw.lstrip()[:1] in (b"<", b"{"):
        raise ValueError(f"{path.name} is not a CSV file. {SAVE}")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:  # an older Excel; numbers are the same in all of them
        text = raw.decode("latin-1")
    (names, *rows), comma = _parted(path, text)
    names = [name.strip() for name in names]
    for number, name in enumerate(names, 1):
        if not name:
            raise ValueError(f"column {number} has no name. Remedy: name it in row 1, or delete it")
    if all(map(NUMBER.fullmatch, names)):
        raise ValueError(f"row 1 holds numbers ({names[0]}, …) in place of names. {SAVE}")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"two columns are called {twice[0]!r}. Remedy: rename one in row 1")
    for number, row in rows:
        if len(row) != len(names):
            raise ValueError(
                f"row {number} has {len(row)} entries, row 1 has {len(names)} names. Remedy: mend "
                "that row; decimal commas go only with semicolons or tabs between columns"
            )
    return names, rows, comma


def _parted(path: Path, text: str) -> tuple[list, bool]:
    """The names and the numbered rows, parted as gives most columns in the most regular way."""
    best, found = (False, 1), None
    for delimiter in ";\t,":
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        try:
            rows = [(reader.line_num, row) for row in reader if any(map(str.strip, row))]
        except csv.Error:
            continue
        width = len(rows[0][1])
        regular = width > 1 and all(len(row) == width for _, row in rows)
        if (regular, width) > best:
            best, found = (regular, width), ([rows[0][1], *rows[1:]], delimiter != ",")
    if found is None:
        raise ValueError(f"{path.name} is not a CSV file, or has one column only. {SAVE}")
    return found


# ------------------------------------------------------------------ from text to numbers


def _numbers(
    names: list[str], rows: list[tuple[int, list[str]]], wanted: list[str], comma: bool
) -> np.ndarray:
    """The wanted columns (n, d + 1); the first entry that is no number is named."""
    import numpy as np

    table, marks = np.empty((len(rows), len(wanted))), {}
    for j, name in enumerate(wanted):
        column = [(number, row[names.index(name)].strip()) for number, row in rows]
        empty = [number for number, entry in column if entry.lower() in MISSING]
        if empty and len(empty) == len(column):
            raise ValueError(f"column {name!r} is empty. Remedy: name it in DROP")
        for i, (number, entry) in enumerate(column):
            for mark in ".," if comma else "":
                if mark in entry:
                    marks.setdefault(mark, f"{entry!r} in column {name!r}, row {number}")
            plain = entry.replace(",", ".") if comma else entry
            if not NUMBER.fullmatch(plain) or not math.isfinite(float(plain)):
                raise ValueError(_complaint(name, number, entry, empty))
            table[i, j] = float(plain)
    if len(marks) == 2:
        raise ValueError(
            f"decimal commas and decimal points: {marks[',']}, and {marks['.']}. Remedy: write all "
            "numbers in one way, without a mark for thousands"
        )
    return table


def _complaint(name: str, number: int, entry: str, empty: list[int]) -> str:
    place = f"column {name!r}, row {number}: "
    if number in empty:
        more = f" ({len(empty)} such rows in this column)" if len(empty) > 1 else ""
        told = f"a value is missing{more}. Remedy: fill it in or delete the row, and say so where"
        return f"{place}{told} you report results; or name the column in DROP"
    if DATE.fullmatch(entry):
        return (
            f"{place}{entry!r} is a date or a time. Remedy: write a number, such as days since the "
            "first one, or name the column in DROP"
        )
    return (
        f"{place}{entry[:40]!r} is not a number. Remedy: one column of 0 and 1 for each kind of "
        "text, numbers without unit; or name the column in DROP, or in GROUP"
    )


def _examine(numbers: np.ndarray, inputs: list[str], target: str) -> None:
    """Refuse too few rows, too many columns, and columns that say nothing."""
    import numpy as np

    n, d = len(numbers), len(inputs)
    if n < LEAST:
        raise ValueError(f"the table has {n} rows, at least {LEAST} are needed. Remedy: more rows")
    if d >= int(SHARE * n):
        raise ValueError(
            f"{d} columns to predict from, and only {int(SHARE * n)} of {n} rows to train on. "
            "Remedy: more rows, or name columns in DROP (chosen without looking at the target)"
        )
    for name, column in zip([*inputs, target], numbers.T, strict=True):
        values = np.unique(column)
        if len(values) == 1:
            raise ValueError(
                f"column {name!r} is constant: {values[0]:g} in every row. Remedy: name it in DROP"
                + (", and another one in TARGET" if name == target else "")
            )
        if name == target and len(values) == 2:
            raise ValueError(
                f"column {name!r}, the target, has two values only. Yes or no needs a Bernoulli "
                "likelihood, which this notebook has not. Remedy: another TARGET, a measured one"
            )


def _join(twins: np.ndarray, together: list[str]) -> np.ndarray:
    """One label for all rows that are linked by equal inputs or by the same entry."""
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not together:
        return twins
    own = np.unique(together, return_inverse=True)[1] + twins.max() + 1
    links = coo_array((np.ones(len(twins)), (twins, own)), shape=2 * (own.max() + 1,))
    return connected_components(links, directed=False)[1][twins].astype(np.int64)
