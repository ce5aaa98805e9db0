"""The browser of the tests: Debian's Chromium (or Chrome), driven by playwright."""

import contextlib
import importlib.util
import os
from pathlib import Path

from tests.requirements import need
from tools import npm

LEVELS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]  # of axe
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync"
)

# Formulas that are broken, or that are still what their author typed.
MATHEMATICS = r"""(where) => {
  const left = [...document.querySelectorAll(where)].flatMap((part) => {
    const copy = part.cloneNode(true);
    copy.querySelectorAll("code, pre, script, style, mjx-container").forEach((e) => e.remove());
    return copy.textContent.match(/.*(\$|\\[a-z([]).*/g) ?? [];
  });
  const broken = [...document.querySelectorAll("mjx-merror, [data-mml-node=merror]")];
  return left.concat(broken.map((formula) => formula.textContent));
}"""


@contextlib.contextmanager
def chromium():
    """A running browser; skips without one, or fails where COURSE_REQUIRE asks for it."""
    need(npm.browser(), "no chromium")
    need(importlib.util.find_spec("playwright"), "no playwright")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=npm.browser(), args=FLAGS.split())
        yield browser
        browser.close()


def inaccessible(page, rules: list[str] = LEVELS, context: dict | None = None) -> list[str]:
    """What axe finds in a page, or in the part of it that is its context."""
    from axe_playwright_python.sync_playwright import Axe

    options = {"runOnly": rules, "resultTypes": ["violations"]}
    found = Axe().run(page, context=context, options=options).response["violations"]
    return [f"{fault['id']}: {node['html'][:200]}" for fault in found for node in fault["nodes"]]


def artefacts(part: str) -> Path:
    """Folder for the screenshots of a test: below ``COURSE_ARTEFACTS``, or else ``build/``."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("COURSE_ARTEFACTS") or root / "build") / part
    folder.mkdir(parents=True, exist_ok=True)
    return folder
