"""Say whether this machine is ready for the course: ``python -m course_utils [CHECK ...]``.

``python -m course_utils progress [--json]`` says instead which exercises are solved, and
``python -m course_utils collect FOLDER`` which are in the notebooks that a class has handed in.

It starts with the standard library alone, so that it can name whatever else is broken.
"""

# ruff: noqa: E402
from __future__ import annotations

import sys

if __name__ == "__main__" and not getattr(sys.flags, "safe_path", sys.flags.isolated):
    del sys.path[0]  # the current folder: a random.py in it must not stop what is to name it

import contextlib
import importlib
import importlib.metadata as metadata
import os
import platform
import re
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from course_utils.data.files import DATA_DIR, SOURCES, cache_dir, command, locate

ROOT = DATA_DIR.parent
OK, WARNING, FAILURE = "ok", "warning", "failure"
Line = "tuple[str, str, str]"  # level, what was found, remedy; a string for Python 3.8
OWN = {"benchmarks", "binder", "conftest", "course_utils", "setup", "slides", "tests", "tools"}


def course() -> Path:
    """The course around the current folder; outside of one, that of this file."""
    marks = ("pyproject.toml", "course_utils/__init__.py")
    with contextlib.suppress(FileNotFoundError):  # the current folder may be gone
        for folder in (Path.cwd(), *Path.cwd().parents):
            if all(os.path.isfile(folder / mark) for mark in marks):
                return folder
    return ROOT


def installed() -> Path | None:
    """The course whose ``course_utils`` this Python imports in every folder."""
    specs = (finder.find_spec("course_utils", None) for finder in sys.meta_path)
    origins = (spec.origin for spec in specs if spec and spec.origin)
    return next((Path(origin).resolve().parents[1] for origin in origins), None)


def again(*broken: str) -> str:
    """The command that installs what is missing, and anew what is broken; for any folder."""
    venv, tool = Path(sys.prefix), str(course() / "tools" / "create_venv.py")
    own = venv.name == ".venv" and (venv.parent / "course_utils").is_dir()
    if installed() and not own:  # Binder, a Hub, conda
        remove = [command(sys.executable, "-m", "pip", "uninstall", "--yes", *broken)]
        install = command(sys.executable, tool, "--here")
    else:  # a .venv cannot make itself
        remove = [command("rm", "-r", str(venv))] if own else []
        install = command(getattr(sys, "_base_executable", sys.executable), tool)
    return "; ".join([*(remove if broken else []), install])


def said(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {textwrap.shorten(str(error), 200)}"


def needs() -> list[str]:
    """What pyproject.toml asks for."""
    import tomllib

    text = (course() / "pyproject.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)["project"]["dependencies"]


def python() -> Iterator[Line]:
    """Version and whether it is the course's own environment."""
    activate = Path(sys.prefix) / "bin" / "activate"  # uv does not notice that a .venv was moved
    names = map(os.fsencode, (sys.prefix, os.path.realpath(sys.prefix)))
    if activate.is_file() and not any(name in activate.read_bytes() for name in names):
        yield FAILURE, f"{sys.prefix} was made in another folder", again("course-utils")
    level = OK if sys.version_info >= (3, 11) else FAILURE
    yield (
        level,
        f"Python {platform.python_version()} at {sys.prefix}",
        "install Python 3.11 or newer",
    )


def shadows() -> Iterator[Line]:
    """Files that Python imports in place of a module, because they lie nearer."""
    modules = {*sys.stdlib_module_names, *metadata.packages_distributions()}
    root = course()
    own = {path.with_suffix("") for path in (root / "notebooks").glob("*.ipynb")}
    own |= {root / name for name in OWN}
    folders = [f for f in {Path.cwd(), root / "notebooks", root / "work"} if f.is_dir()]
    paths = sorted(path for folder in folders for path in folder.iterdir())
    python = (path for path in paths if path.suffix == ".py" or (path / "__init__.py").is_file())
    hiding = [p for p in python if p.stem in modules and p.with_suffix("") not in own]
    for path in hiding:
        remedy = command("mv", str(path), str(path.with_name(f"my_{path.name}")))
        yield FAILURE, f"{path} hides the module {path.stem}", remedy
    if not hiding:
        yield OK, "no file hides a module", ""


def packages() -> Iterator[Line]:
    """What is installed against what pyproject.toml needs and constraints.txt has tested."""
    root, source = course(), installed()
    if source is None:
        yield FAILURE, "course_utils is not installed", again()
    elif not source.samefile(root):
        yield FAILURE, f"course_utils comes from {source}, not from {root}", again()
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    def apply(lines: Sequence[str]) -> list[Requirement]:
        found = [Requirement(line) for line in lines if line.strip() and line[0] != "#"]
        return [each for each in found if not each.marker or each.marker.evaluate()]

    pins = apply((root / "constraints.txt").read_text(encoding="utf-8").splitlines())
    tested = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}
    found = {}
    for need in apply(needs()):
        try:
            version = found[need.name] = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            yield FAILURE, f"{need.name} is not installed", again()
            continue
        best = tested.get(canonicalize_name(need.name))
        if version not in need.specifier:
            yield FAILURE, f"{need.name} {version}, needed {need.specifier}", again()
        elif version.split("+")[0] != best:
            yield WARNING, f"{need.name} {version}, tested with {best}", again()
    yield OK, f"{len(found)} packages installed, torch {found.get('torch')}", ""


def imports() -> Iterator[Line]:
    """Whether what is installed is whole."""
    names = {re.match(r"[\w.-]+", need)[0] for need in needs()}
    works, faults = 0, {}
    for module, owners in metadata.packages_distributions().items():
        if module.startswith("_") or not names.intersection(owners):
            continue
        try:
            importlib.import_module(module)
            works += 1
        except (Exception, SystemExit) as error:
            faults.setdefault(said(error), {})[module] = owners[0]
    for fault, broken in faults.items():  # one package brings down all that need it
        yield FAILURE, f"no import of {', '.join(broken)}: {fault}", again(*broken.values())
    if not faults:
        yield OK, f"{works} modules can be imported", ""


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
    yield level, found, "unset OMP_WAIT_POLICY, or set it to PASSIVE: others slow a notebook down"


def memory() -> Iterator[Line]:
    """Memory of the machine or of the container, whichever is smaller."""
    import psutil

    limits = [psutil.virtual_memory().total]
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = Path(name).read_text().strip() if Path(name).is_file() else ""
        limits += [int(text)] if text.isdigit() else []
    gigabytes = min(limits) / 1e9
    level = OK if gigabytes >= 2 else WARNING  # half of it for the system, JupyterLab, a browser
    remedy = "close other notebooks: one of them needs up to 1.0 GB"
    yield level, f"memory {gigabytes:.1f} GB", remedy


def kernel() -> Iterator[Line]:
    """The Jupyter kernel named python3 must run in this very environment."""
    from jupyter_client.kernelspec import KernelSpecManager

    argv = KernelSpecManager().get_kernel_spec("python3").argv[0]
    there = os.path.exists(argv) and os.path.samefile(argv, sys.executable)
    own = there or not os.path.isabs(argv)
    found = f"Jupyter kernel python3 runs {'this Python' if own else argv}"
    words = ("-m", "ipykernel", "install", "--sys-prefix", "--name", "python3")
    yield OK if own else FAILURE, found, command(sys.executable, *words)


def files() -> Iterator[Line]:
    """Hashes of the bundled files, and of those that were downloaded before."""
    for name in sorted(SOURCES, key=lambda name: not SOURCES[name].bundled):
        if not SOURCES[name].bundled and not (cache_dir() / name).is_file():
            yield OK, f"{name} not downloaded yet (only on request)", ""
            continue
        try:
            yield OK, f"{locate(name)} as expected", ""
        except (OSError, ValueError) as error:
            problem, _, remedy = str(error).partition(" Remedy: ")
            yield FAILURE, problem, remedy


def refusal(folder: Path) -> str:
    """Why nothing can be written to a folder, or where it would be made; empty if it can."""
    place = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(bytes(2**20))  # as much as a notebook; a full disk shows only now
            file.flush()
    except OSError as error:
        return f"{folder} cannot be written to ({error.strerror or error})"
    return ""


def home() -> Iterator[Line]:
    """Where Jupyter, IPython and Matplotlib write; the last two can do without."""
    from jupyter_core import paths

    plots = "~/.config/matplotlib" if sys.platform == "linux" else "~/.matplotlib"
    folders = (  # and the variables that choose it
        (paths.jupyter_config_dir(), "JUPYTER_CONFIG_DIR"),
        (paths.jupyter_data_dir(), "JUPYTER_DATA_DIR"),
        (paths.jupyter_runtime_dir(), "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR"),
        (os.environ.get("IPYTHONDIR") or "~/.ipython", "IPYTHONDIR"),
        (os.environ.get("MPLCONFIGDIR") or plots, "MPLCONFIGDIR"),
    )
    windows, told = os.name == "nt", set()
    for folder, *names in folders:
        why = refusal(Path(folder).expanduser())
        usual = names[0] if windows else "HOME"  # of which Jupyter on Windows knows nothing
        name = next((name for name in names if name in os.environ), usual)
        if why and name not in told:  # what helps one helps all that it chooses
            told.add(name)
            place = str(course() / "work" / ".home" / name)
            quoted = "'" + place.replace("'", "''") + "'"
            remedy = f"$env:{name} = {quoted}" if windows else f"export {name}={command(place)}"
            yield FAILURE if names[0].startswith("JUPYTER") else WARNING, why, remedy
    if not told:
        yield OK, "Jupyter's own folders can be written to", ""


def writing() -> Iterator[Line]:
    """Notebooks are saved in the course's folder."""
    folder = course() / "work" if (course() / "work").is_dir() else course()
    why = refusal(folder)
    remedy = "make room on the disk, or copy the course to a folder of yours"
    yield FAILURE if why else OK, why or f"{folder} can be written to", remedy


CHECKS: tuple[Callable[[], Iterator[Line]], ...] = (
    python, shadows, packages, imports, device, threads, memory, kernel, files, home, writing,
)  # fmt: skip


def lines(check: Callable[[], Iterator[Line]]) -> Iterator[Line]:
    """What a check finds; an error is one more line, because it must not hide the others."""
    try:
        yield from check()
    except (Exception, SystemExit) as error:
        yield FAILURE, f"{check.__name__}: {said(error)}", again()


def main(names: Sequence[str] = ()) -> int:
    """Print one line per fact, of named checks only what is not ok; return 1 after a failure."""
    if names[:1] == ["progress"]:
        from course_utils import progress

        progress.report(course(), names[1:] == ["--json"])
        return 0
    if names[:1] == ["collect"]:
        from course_utils import collect

        return collect.main(names[1:], course())
    known = {check.__name__: check for check in CHECKS}
    if unknown := [name for name in names if name not in known]:
        raise SystemExit(f"course: no check is called {unknown[0]}, but {', '.join(known)}")
    failed, last = False, ""
    for check in (known[name] for name in names or known):
        for level, found, remedy in lines(check):
            failed |= level == FAILURE
            if not names or level != OK:
                print(f"{level:8}{found}")
            if level != OK:
                print(f"        remedy: {'as above' if remedy == last else remedy}")
                last = remedy
    if not names:
        print("something is wrong, see the remedies" if failed else "the course is ready")
    return int(failed)


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # any path in any encoding
    sys.exit(main(sys.argv[1:]))
