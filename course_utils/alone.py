"""Make a Python that others set up (Colab, Kaggle) run one notebook of the course.

Needs the standard library alone, because it adds the rest.
"""

import importlib
import importlib.metadata as metadata
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOT_NEEDED = {"ipykernel", "jupyterlab", "jupytext"}  # where a notebook is open
# What pip accepts behind ``==``; Debian adds other versions.
VERSION = re.compile(r"(\d+!)?\d+(\.\d+)*((a|b|rc)\d+)?(\.post\d+)?(\.dev\d+)?(\+[\w.]+)?")


def _name(requirement: str) -> str:
    """The name of a package as pip compares it, from ``Some_name>=1.2``."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def add_missing() -> None:
    """Install what is missing for the notebooks, and change no package that is there.

    Raises:
        SystemExit: If it cannot be installed; below what pip says.
    """
    there: dict[str, str] = {}
    for found in metadata.distributions():
        if found.name:
            there.setdefault(_name(found.name), found.version)  # the first one is imported
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    missing = [text for text in project["dependencies"] if _name(text) not in {*there, *NOT_NEEDED}]
    if not missing:
        return
    print("course: adding", *map(_name, missing), flush=True)
    fixed = [f"{name}=={v}" for name, v in there.items() if VERSION.fullmatch(v or "")]
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    tested = [line for line in pinned if _name(line) not in there]
    # The tested versions; if they do not go with what is there, any that do.
    if not (_pip(missing, [*fixed, *tested], quiet=True) or _pip(missing, fixed)):
        raise SystemExit("course: pip failed (see above). Remedy: try again with a network")
    importlib.invalidate_caches()


def _pip(wanted: list[str], constraints: list[str], *, quiet: bool = False) -> bool:
    """Whether pip could install packages under constraints."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "constraints.txt")
        path.write_text("\n".join(constraints), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        command += ["--constraint", str(path), *wanted]
        return subprocess.run(command, capture_output=quiet).returncode == 0
