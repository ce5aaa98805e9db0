"""Every known mistake has a guard or is listed as open, and every guard names a known mistake."""

from tools import mistakes


def test_every_row_is_guarded_or_open_and_every_guard_names_a_row():
    groups = mistakes.groups()
    still_open = set(groups.pop("open")["rows"])
    rows = {row for group in groups.values() for row in group}
    guarded = set(mistakes.guards())
    assert guarded <= rows and still_open <= rows, "a guard or an open row names no mistake"
    assert not rows - guarded - still_open, "neither guarded nor open"
    assert not guarded & still_open, "guarded, so no longer open"
