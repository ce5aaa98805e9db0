"""Say whether this machine is ready for the course: ``python -m course_utils``."""

from __future__ import annotations

import importlib.metadata as metadata
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from course_utils.data.files import DATA_DIR, SOURCES, cache_dir, locate

ROOT = DATA_DIR.parent
OK, WARNING, FAILURE = "ok", "warning", "failure"
Line = tuple[str, str, str]  # level, what was found, remedy
INSTALL = "run `make env` (Windows: py tools\\create_venv.py)"


def python() -> Iterator[Line]:
    """Version and whether it is the course's own environment."""
    level = OK if sys.version_info >= (3, 11) else FAILURE
    yield (
        level,
        f"Python {platform.python_version()} at {sys.prefix}",
        "install Python 3.11 or newer",
    )


def packages() -> Iterator[Line]:
    """What is installed against what pyproject.toml needs and constraints.txt has tested."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    pairs = (line.split("==") for line in lines)
    tested = {canonicalize_name(name): version for name, version in pairs}
    found = 0
    for text in metadata.requires("course-utils") or ():
        need = Requirement(text)
        if need.marker and not need.marker.evaluate({"extra": "test"}):
            continue
        try:
            version = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            yield FAILURE, f"{need.name} is not installed", INSTALL
            continue
        found += 1
        if version not in need.specifier:
            yield FAILURE, f"{need.name} {version}, needed {need.specifier}", INSTALL
        elif version.split("+")[0] != tested.get(canonicalize_name(need.name)):
            yield (
                WARNING,
                f"{need.name} {version}, tested with {tested.get(canonicalize_name(need.name))}",
                INSTALL,
            )
    yield OK, f"{found} packages installed, torch {metadata.version('torch')}", ""


def device() -> Iterator[Line]:
    """Devices that PyTorch can use."""
    from course_utils.runtime import get_device, present_devices

    yield OK, f"device {get_device()} (present: {', '.join(present_devices())})", ""


def threads() -> Iterator[Line]:
    """Threads, and how they wait."""
    from course_utils.runtime import available_cores, set_threads

    policy = os.environ.get("OMP_WAIT_POLICY", "")
    level = OK if policy.upper() == "PASSIVE" else WARNING
    found = f"{set_threads()} threads on {available_cores()} cores, OMP_WAIT_POLICY={policy}"
    yield level, found, "unset OMP_WAIT_POLICY, or set it to PASSIVE: see benchmarks/threads.py"


def memory() -> Iterator[Line]:
    """Memory of the machine or of the container, whichever is smaller."""
    import psutil

    limits = [psutil.virtual_memory().total]
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = Path(name).read_text().strip() if Path(name).is_file() else ""
        limits += [int(text)] if text.isdigit() else []
    gigabytes = min(limits) / 1e9
    level = OK if gigabytes >= 2 else WARNING  # half of it for the system, JupyterLab, a browser
    remedy = "close other notebooks: one of them needs up to 1.1 GB, see benchmarks/SEEDS.md"
    yield level, f"memory {gigabytes:.1f} GB", remedy


def kernel() -> Iterator[Line]:
    """The Jupyter kernel named python3 must run in this very environment."""
    from jupyter_client.kernelspec import KernelSpecManager

    command = KernelSpecManager().get_kernel_spec("python3").argv[0]
    own = not os.path.isabs(command) or Path(command).samefile(sys.executable)
    found = f"Jupyter kernel python3 runs {'this Python' if own else command}"
    yield OK if own else FAILURE, found, "python -m ipykernel install --sys-prefix --name python3"


def files() -> Iterator[Line]:
    """Hashes of the bundled files, and of those that were downloaded before."""
    for name, source in SOURCES.items():
        if not source.bundled and not (cache_dir() / name).is_file():
            yield OK, f"{name} not downloaded yet (only on request)", ""
            continue
        try:
            yield OK, f"{locate(name)} as expected", ""
        except (OSError, ValueError) as error:
            problem, _, remedy = str(error).partition(" Remedy: ")
            yield FAILURE, problem, remedy


def writing() -> Iterator[Line]:
    """Notebooks are saved beside their sources."""
    folder = ROOT / "notebooks"
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(2**20))  # as much as a notebook; a full disk shows only now
            file.flush()
            yield OK, f"{folder} can be written to", ""
    except OSError as error:
        yield (
            FAILURE,
            f"{folder} cannot be written to ({error})",
            "make room on the disk, or copy the course to a folder of yours",
        )


CHECKS: tuple[Callable[[], Iterator[Line]], ...] = (
    python, packages, device, threads, memory, kernel, files, writing,
)  # fmt: skip


def main() -> int:
    """Print one line per fact, and return 1 if one of them is a failure."""
    failed = False
    for check in CHECKS:
        try:
            lines = list(check())
        except Exception as error:  # a broken installation must not hide the other lines
            lines = [(FAILURE, f"{check.__name__}: {type(error).__name__}: {error}", INSTALL)]
        for level, found, remedy in lines:
            print(f"{level:8}{found}" + (f"\n        remedy: {remedy}" if level != OK else ""))
            failed |= level == FAILURE
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
