"""Tools that a machine may lack: a test without them is skipped, or fails where CI asks for all."""

import os
import shutil
import sys

import pytest

with_make = pytest.mark.skipif(
    sys.platform == "win32" or not shutil.which("make"),
    reason="no make, or none with a Unix shell: see the README for Windows",
)

with_git = pytest.mark.skipif(not shutil.which("git"), reason="no git")


def need(present: object, what: str) -> None:
    """Skip without a tool, or fail where it is required (COURSE_REQUIRE=browser)."""
    if not present and "browser" in os.environ.get("COURSE_REQUIRE", ""):
        pytest.fail(f"{what}, and COURSE_REQUIRE asks for it")
    if not present:
        pytest.skip(what)
