"""The browser of the tests: Debian's Chromium (or Chrome), driven by playwright."""

import contextlib
import os
import shutil
from pathlib import Path

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync"
)


def executable() -> str:
    """Path of the browser, empty if there is none; ``CHROME_PATH`` chooses one."""
    names = filter(None, (os.environ.get("CHROME_PATH"), *BROWSERS))
    return next(filter(None, map(shutil.which, names)), "")


@contextlib.contextmanager
def chromium():
    """A running browser; skips without one, or fails where COURSE_REQUIRE asks for it."""
    if not executable() and "browser" in os.environ.get("COURSE_REQUIRE", ""):
        pytest.fail("no chromium, and COURSE_REQUIRE asks for it")
    if not executable():
        pytest.skip("no chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=executable(), args=FLAGS.split())
        yield browser
        browser.close()


def artefacts(part: str) -> Path:
    """Folder for the screenshots of a test: below ``COURSE_ARTEFACTS``, or else ``build/``."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("COURSE_ARTEFACTS") or root / "build") / part
    folder.mkdir(parents=True, exist_ok=True)
    return folder
