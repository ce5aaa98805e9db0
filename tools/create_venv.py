"""Create or update the course's environment in .venv; needs nothing but Python's standard library.

An old Python must come as far as the message that it is too old: no annotation here is newer.

    python tools/environment.py [--torch cpu] [--here]

``--here`` installs the course, without what the tests need, into the Python that runs this file
instead: in an image for Binder or for a JupyterHub, which exists for this course alone.

A second call returns at once unless pyproject.toml or constraints.txt have changed. A call that was
interrupted leaves its stamp incomplete, so the next one starts over (pip keeps its downloads).
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
STAMP = VENV / "course-environment"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
OLDEST_PYTHON = (3, 11)
GIGABYTES_NEEDED = 4
# A new environment on Linux: some 4 GB of wheels, which pip keeps, and 7 GB that they unpack to.
GIGABYTES_WITH_CUDA = 12
INCOMPLETE = "incomplete"
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"


def stop(message: str) -> None:
    """End with one line on stderr."""
    raise SystemExit(f"course: {message}")


def fingerprint() -> str:
    """Digest of the files that decide what is installed."""
    content = b"".join((ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt"))
    return hashlib.sha256(content).hexdigest()


def pinned(name: str) -> str:
    """The line of constraints.txt that pins a package, e.g. ``torch==2.13.0``."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith(f"{name}=="))


def installed() -> tuple:
    """Fingerprint (or INCOMPLETE) and torch variant of the environment; empty if there is none."""
    if not (STAMP.is_file() and PYTHON.is_file()):
        return "", ""
    words = STAMP.read_text(encoding="utf-8").split()
    return (words[0], words[1]) if len(words) == 2 else ("", "")


def check_machine(gigabytes: int) -> None:
    """Stop with one clear line where the environment cannot be made."""
    if sys.version_info < OLDEST_PYTHON:
        have = ".".join(map(str, sys.version_info[:3]))
        stop(f"Python 3.11 or newer is needed, this is {have}. Remedy: make PYTHON=python3.12 lab")
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        stop("Python's venv module is missing. Remedy on Debian: sudo apt install python3-venv")
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < gigabytes:
        less = f" Remedy: without an NVIDIA card TORCH=cpu, which needs {GIGABYTES_NEEDED} GB"
        stop(
            f"{gigabytes} GB of free disk space are needed, {ROOT} has {free:.1f} GB."
            + (less if gigabytes > GIGABYTES_NEEDED else " Remedy: make room")
        )
    if not os.access(ROOT, os.W_OK):
        stop(f"no permission to write to {ROOT}")


def pip_install(python: Path, *arguments: str) -> None:
    """Install into an environment, or stop with one line below pip's own messages."""
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "install", *arguments]
    if subprocess.run(command, cwd=ROOT).returncode:
        stop("the installation failed (see above). Remedy: check the network, then call again")


def install_packages(python: Path, torch: str, project: str) -> None:
    """Install torch first and alone, so that nothing else chooses its variant; then the rest."""
    # The pip of Debian 12 needs ten minutes to find the same packages.
    pip_install(python, "--quiet", "--upgrade", pinned("pip"))
    wheels = ["--extra-index-url", CPU_WHEELS] if torch == "cpu" else []
    print("course: installing PyTorch, then the other packages", flush=True)
    pip_install(python, *wheels, pinned("torch"))
    pip_install(python, "--quiet", "--constraint", "constraints.txt", "--editable", project)


def install(torch: str, fresh: bool) -> None:
    """Make .venv, and stamp it when it is complete."""
    if fresh:
        print(f"course: creating {VENV} (one to ten minutes)", flush=True)
        if subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)]).returncode:
            stop(f"{VENV} could not be created (see above)")
    STAMP.write_text(f"{INCOMPLETE} {torch}\n", encoding="utf-8")
    # What is handed out to students has no tests, and needs nothing of what they need.
    install_packages(PYTHON, torch, ".[test]" if (ROOT / "tests").is_dir() else ".")
    STAMP.write_text(f"{fingerprint()} {torch}\n", encoding="utf-8")
    print("course: environment ready", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--torch",
        choices=("default", "cpu"),
        help="cpu: the smaller build for machines without an NVIDIA card; kept by later calls",
    )
    parser.add_argument("--here", action="store_true", help="into this Python, without the tests")
    arguments = parser.parse_args()
    if arguments.here:
        install_packages(Path(sys.executable), arguments.torch or "default", ".")
        return
    found, variant = installed()
    torch = arguments.torch or variant or "default"
    if found == fingerprint() and torch == variant:
        return
    fresh = found in ("", INCOMPLETE) or torch != variant
    with_cuda = fresh and torch == "default" and sys.platform == "linux"
    check_machine(GIGABYTES_WITH_CUDA if with_cuda else GIGABYTES_NEEDED)
    try:
        install(torch, fresh)
    except KeyboardInterrupt:
        stop("interrupted; the next call starts over")


if __name__ == "__main__":
    main()
