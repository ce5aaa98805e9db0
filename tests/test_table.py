"""A table of one's own: what its reader takes and refuses, and the notebook's mathematics."""

import numpy as np
import pytest
import torch

from course_utils.data.table import load_table
from tests.answers import right
from tools import notebook_sources, run_notebook
from tools.notebook_definitions import definitions

BOOK, NAMES = definitions("your_own_table"), ["a, in m", "Größe", "y"]
MANY = [[f"{v:.2f}" for v in row] for row in np.random.default_rng(0).normal(size=(50, 30))]
ROWS = [row[:2] for row in MANY]


def csv(rows=ROWS, names=NAMES, mark=";", end="\n"):  # the last column is the sum of the others
    lines = [[*row, f"{sum(map(float, row)):.2f}"] for row in rows]
    quoted = [f'"{name}"' if mark in name else name for name in names]
    return end.join(map(mark.join, [quoted, *lines])) + end


def but(column, entry):  # in row 4, or in all of them
    lines = [line.split(";") for line in csv().splitlines()]
    for number, line in enumerate(lines[1:], 2):
        line[column] = entry(number) if callable(entry) else line[column] if number - 4 else entry
    return "\n".join(map(";".join, lines))


def write(path, content):
    (path / "mine.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    return path / "mine.csv"


TABS = csv(mark="\t", end="\r\n")
SAME = [csv(mark=","), TABS, csv().replace(".", ","), TABS.replace(".", ",") + "\n\n"]
SAME += [csv().encode("utf-8-sig"), csv().encode("latin-1"), csv().replace(";", " ; ")]


@pytest.mark.parametrize("content", SAME)
def test_whatever_parts_the_columns_the_table_is_the_same(tmp_path, content):
    table = load_table(write(tmp_path, content))
    assert table.columns == tuple(NAMES[:2]) and table.target == "y"
    np.testing.assert_allclose(table.x, np.array(ROWS, float))
    np.testing.assert_allclose(table.y, np.array(ROWS, float).sum(1), atol=0.006)


BAD = [  # words of the message, file, options
    ("is empty", b" \n"), ("not a CSV file", b"PK\x03\x04\x00"), ("not a CSV file", "<html>"),
    ("one column only", "one\n1\n2\n"), ("in place of names", csv().split("\n", 1)[1]),
    ("column 2 has no name", csv(names=["a", "", "y"])), ("row 52 has 2 ent", csv() + "1;2\n"),
    ("columns are called 'a'", csv(names=["a", "a", "y"])), ("has 4 rows, at", csv(ROWS[:4])),
    ("column 'a, in m', row 4: a value is missing", but(0, "")), ("missing", but(0, "NA")),
    ("column 'a, in m' is empty", but(0, lambda n: "")), ("is constant: 7", but(0, lambda n: "7")),
    ("another one in TARGET", but(2, lambda n: "7")), ("Bernoulli", but(2, lambda n: f"{n % 2}")),
    ("column 'Größe', row 4: 'red' is not a number", but(1, "red")), ("no", but(1, "1.234,5")),
    ("decimal points: '1,5' in column 'Größe', row 4", but(1, "1,5")), ("not", but(1, "1e999")),
    ("'2024-03-01' is a date or a time", but(1, "2024-03-01")), ("a time", but(1, "12:30")),
    ("30 columns to predict from, and only 30 of 50", csv(MANY, [*map("c{}".format, range(31))])),
    ("TARGET must be one of", csv(), {"target": "z"}), ("GROUP must", csv(), {"group": "z"}),
    ("DROP must be one of", csv(), {"drop": "z"}), ("shorter", csv(), {"drop": NAMES[:2]}),
    ("TARGET must be a column of its own", csv(), {"group": "y"}),
    ("At least 10 are needed", but(1, lambda n: f"p{n % 3}"), {"group": "Größe"}),
]  # fmt: skip


@pytest.mark.parametrize(("words", "content", "options"), [(*row, {})[:3] for row in BAD])
def test_what_cannot_work_gets_one_clear_message(tmp_path, words, content, options):
    with pytest.raises(ValueError) as caught:
        load_table(write(tmp_path, content), **options)
    told = str(caught.value)
    assert words in told and len(told) < 400 and ("Remedy: " in told or " must be " in told)
    with pytest.raises(FileNotFoundError, match="yours.csv is missing. Remedy: .*'diabetes'"):
        load_table(str(tmp_path / "yours.csv"))


def test_rows_are_linked_by_equal_inputs_or_by_their_group(tmp_path):
    rows = [[str(n // 2 if n < 4 else n), "0"] for n in range(80)]  # twins 0 1 and 2 3
    names = csv(rows).replace(";0;", ";p{};").format(*[0, 1, 1, 2, *range(3, 79)])
    groups = load_table(write(tmp_path, names), group="Größe").groups
    assert len(groups[:4].unique()) == 1 and len(groups.unique()) == 77


def test_ends_are_found_in_any_unit_and_groups_are_drawn_whole():
    for unit in (1e-9, 1.0, 1e12):
        normal = torch.distributions.Normal(torch.tensor([5.0, -3.0]).double() * unit, unit)
        found = BOOK.invert(normal.cdf, 0.95, torch.tensor([0.0, 1e6]).double() * unit)
        assert torch.allclose(found, normal.icdf(torch.tensor(0.95)), atol=0)
    kept = BOOK.draw_rows(torch.arange(300) // 7, 100, 0)
    assert 93 < len(kept) <= 100 and set((kept // 7).bincount().tolist()) <= {0, 7, 6}


def test_the_error_over_groups_is_right_where_the_usual_one_is_not():
    torch.manual_seed(0)
    groups = torch.arange(200).repeat_interleave(torch.arange(200) % 4 + 1)  # 500 rows
    runs = [0.3 * torch.randn(500).double() + torch.randn(200).double()[groups] for _ in range(800)]
    found = torch.tensor([right.paired_difference(run, 0 * run, groups) for run in runs])
    assert found[:, 1].mean().item() == pytest.approx(found[:, 0].std().item(), rel=0.1)
    assert runs[0].std() / 500**0.5 < 0.75 * found[:, 1].mean()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["white wine", "diabetes", "mine.csv"])
def test_the_notebook_runs_on_another_table(tmp_path, name):
    path = str(write(tmp_path, csv())) if name == "mine.csv" else name
    notebook = notebook_sources.type_in(notebook_sources.read("your_own_table"))
    run_notebook.override(notebook, {"TABLE": path, "STEPS": 100, "FLOW_STEPS": 50})
    run_notebook.execute(notebook)
