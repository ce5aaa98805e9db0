"""Where the packages of npm are, and one line for who lacks them."""

import json
import os
import shutil
import subprocess
from pathlib import Path

TOOLS = Path(__file__).resolve().parent
PACKAGES = TOOLS / "node_modules"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def installed() -> bool:
    """Whether all packages are there in the versions that package.json pins."""
    wanted = json.loads((TOOLS / "package.json").read_text(encoding="utf-8"))["dependencies"]
    found = {name: PACKAGES / name / "package.json" for name in wanted}
    return all(
        path.is_file() and json.loads(path.read_text(encoding="utf-8"))["version"] == wanted[name]
        for name, path in found.items()
    )


def install() -> None:
    """Install what package-lock.json pins, unless it is there; stop with one line if that fails."""
    for tool in ("node", "npm"):
        if not shutil.which(tool):
            raise SystemExit(
                f"course: {tool} was not found. Remedy on Debian: sudo apt install nodejs npm"
            )
    command = [shutil.which("npm"), "ci", "--no-audit", "--no-fund", "--loglevel=error"]
    if not installed() and subprocess.run(command, cwd=TOOLS).returncode:
        raise SystemExit("course: npm failed (see above). Remedy: check the network, call again")


def browser() -> str:
    """Path of a Chromium or Chrome, ``CHROME_PATH`` chooses one; empty if there is none."""
    names = filter(None, (os.environ.get("CHROME_PATH"), *BROWSERS))
    return next(filter(None, map(shutil.which, names)), "")
