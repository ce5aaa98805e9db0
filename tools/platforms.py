"""Ask uv whether the tested versions have wheels for each system and Python; nothing is installed.

    python -m tools.platforms

Needs uv and a network. Keeps the answers in platforms.json, for the README.
"""

import json
import os
import platform
import re
import subprocess
from datetime import date
from pathlib import Path

from tools import create_venv
from tools.catalogue import table

ROOT = Path(__file__).resolve().parents[1]
STORED = ROOT / "tools" / "platforms.json"
SYSTEMS = {  # what uv calls a platform, and what Python calls it
    "Linux, x86-64": ("x86_64-manylinux_2_28", "Linux", "x86_64"),
    "Linux, ARM": ("aarch64-manylinux_2_28", "Linux", "aarch64"),
    "Windows, x86-64": ("x86_64-pc-windows-msvc", "Windows", "AMD64"),
    "macOS 14, Apple chips": ("aarch64-apple-darwin", "Darwin", "arm64"),
}
OLDEST, NEWEST = create_venv.PYTHONS
PYTHONS = [f"3.{minor}" for minor in range(OLDEST[1], NEWEST[1] + 1)]
OPTIONS = "--quiet --no-header --no-annotate --no-progress --only-binary :all:"
NO_WHEEL = re.compile(r"([\w.-]+)(?:[=<>!~][^ ]*)? has no (?:usable )?wheels")


def resolved(target: str, python: str, *group: str) -> str:
    """The version of PyTorch, or which package has no wheel."""
    command = ["uv", "pip", "compile", *OPTIONS.split(), "--constraint", "constraints.txt"]
    command += ["--python-platform", target, "--python-version", python, *group, "pyproject.toml"]
    env = os.environ | {"UV_NO_SOURCES": "1", "MACOSX_DEPLOYMENT_TARGET": "14.0"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    if not done.returncode:
        return re.search(r"(?m)^torch==(\S+)", done.stdout)[1]
    missing = NO_WHEEL.search(done.stderr)
    if not missing:
        raise SystemExit(f"{done.stderr}course: uv cannot tell (see above)")
    return f"{missing[1]} has no wheel"


def page(stored: dict) -> str:
    """The table of the README."""

    def cell(python: str, system: str) -> str:
        alone, tests = (stored[part][python][system] for part in ("course", "tests"))
        if " " in alone:
            return f"not possible: {alone}"
        words = "works (run here)" if [system, python] == stored["here"] else "resolves (not run)"
        return words if tests == alone else f"{words}; tests not possible: {tests}"

    def torch(python: str) -> str:
        return ", ".join(sorted({v for v in stored["course"][python].values() if " " not in v}))

    rows = [[p, *(cell(p, system) for system in SYSTEMS), torch(p)] for p in PYTHONS]
    return table(["Python", *SYSTEMS, "PyTorch"], rows)


def load() -> dict:
    """What uv answered last."""
    return json.loads(STORED.read_text(encoding="utf-8"))


def main() -> None:
    machine, python = (platform.system(), platform.machine()), platform.python_version_tuple()
    here = next((name for name, each in SYSTEMS.items() if each[1:] == machine), "elsewhere")
    found = {"date": date.today().isoformat(), "here": [here, ".".join(python[:2])]}
    for part, group in (("course", ()), ("tests", ("--group", "test"))):
        found[part] = {}
        for version in PYTHONS:
            print(f"course: {part}, Python {version}", flush=True)
            found[part][version] = {
                name: resolved(target, version, *group) for name, (target, *_) in SYSTEMS.items()
            }
    STORED.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
