"""Every known mistake has a guard or is listed as open, and every guard names a known mistake."""

import re
import tomllib
from pathlib import Path

TESTS = Path(__file__).resolve().parent


def guarded() -> set[str]:
    """The rows that tests are marked with, and cells of notebooks tagged with."""
    sources = [*TESTS.glob("test_*.py"), *(TESTS.parent / "notebooks").glob("*.py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    marks = " ".join(re.findall(r"^@pytest\.mark\.mistake\((.*)\)$", text, re.MULTILINE))
    cells = " ".join(re.findall(r"^# %%.*", text, re.MULTILINE))
    return {*re.findall(r'"(\w+)"', marks), *re.findall(r'"mistake-(\w+)"', cells)}


def test_every_row_is_guarded_or_open_and_every_guard_names_a_row():
    groups = tomllib.loads((TESTS / "mistakes.toml").read_text(encoding="utf-8"))
    still_open, guards = set(groups.pop("open")["rows"]), guarded()
    rows = {row for group in groups.values() for row in group}
    assert guards <= rows and still_open <= rows, "a guard or an open row names no mistake"
    assert not rows - guards - still_open, "neither guarded nor open"
    assert not guards & still_open, "guarded, so no longer open"
