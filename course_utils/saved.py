"""Files of a student, written so that nothing is lost. Needs the standard library alone."""

from __future__ import annotations

import datetime
import os
from pathlib import Path


def write(path: Path, text: str) -> None:
    """Write all of a file, or nothing."""
    draft = path.with_name(path.name + ".draft")
    try:
        draft.write_text(text, encoding="utf-8", newline="\n")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def free_name(path: Path) -> Path:
    """This file name, or if it is taken the next with today's date in it."""
    today, number = f"{path.stem}-{datetime.date.today().isoformat()}", 1
    found = path
    while os.path.lexists(found):
        found = path.with_stem(today if number == 1 else f"{today}-{number}")
        number += 1
    return found
