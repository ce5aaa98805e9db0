"""Create or update the course's environment in .venv; needs nothing but Python's standard library.

An old Python must come as far as the message that it is too old: no annotation here is newer.

    python tools/create_venv.py [--torch auto|cpu|cuda] [--tests] [--here] [--pack FOLDER]

``--here`` installs into the Python that runs this file instead: in an image for Binder or for a
JupyterHub, which exists for this course alone. ``--pack`` collects the wheels of a finished .venv:
put into the course's folder as ``wheels``, they install it without a network.

A second call returns at once unless something has changed: the files that decide what is installed,
the folder, or the packages. What was interrupted has an unfinished stamp, and starts over.
"""

import argparse
import contextlib
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
STAMP = VENV / "course-environment"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
PYTHONS = ((3, 11), (3, 15))  # oldest and newest with wheels of everything
GIGABYTES = {"cpu": 3, "cuda": 12}  # wheels, which pip keeps, and what they unpack to
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"
WORKS = (
    "What works: Linux (x86-64 or ARM, glibc 2.28 or newer), Windows (x86-64), macOS 14 or newer on"
    " Apple chips, each with CPython 3.11 to 3.15 of 64 bits (make lab PYTHON=python3.12 chooses"
    " one); else Binder or a JupyterHub"
)
# Settings of pip that change what is installed, or where; those that say where from are kept.
SWITCHES = (
    *("user", "no-deps", "pre", "dry-run", "require-hashes"),
    *("ignore-installed", "ignore-requires-python"),
)
NEUTRALISED = (
    *SWITCHES,
    *("target", "prefix", "root", "src", "python", "python-version", "platform", "constraint"),
    *("requirement", "editable", "group", "no-binary", "only-binary", "no-build-isolation"),
)


def stop(message: str) -> None:
    """End with one line on stderr."""
    raise SystemExit(f"course: {message}")


def fingerprint() -> str:
    """Digest of the files that decide what is installed."""
    content = b"".join((ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt"))
    return hashlib.sha256(content).hexdigest()


def unsuitable() -> str:
    """Why there are no wheels for this Python or machine; empty if there are."""
    this = sys.version_info[:2]
    if not PYTHONS[0] <= this <= PYTHONS[1] or platform.python_implementation() != "CPython":
        return f"{platform.python_implementation()} {platform.python_version()}"
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "Python without its global lock"
    system, libc = sysconfig.get_platform(), platform.libc_ver()
    if sys.platform == "linux" and sys.maxsize > 2**32 and system.endswith(("x86_64", "aarch64")):
        new = libc[0] == "glibc" and tuple(map(int, libc[1].split("."))) >= (2, 28)
        return "" if new else f"Linux with {' '.join(libc).strip() or 'another libc than glibc'}"
    if sys.platform == "darwin" and platform.machine() == "arm64":
        release = platform.mac_ver()[0]
        return "" if int(release.split(".")[0]) >= 14 else f"macOS {release}"
    return "" if system == "win-amd64" else f"{system}, {platform.machine()}"


def check_machine(gigabytes: int) -> None:
    """Stop with one clear line where the environment cannot be made."""
    problem = unsuitable()
    if problem:
        stop(f"there are no packages for {problem}. {WORKS}")
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        stop("Python's venv module is missing. Remedy on Debian: sudo apt install python3-venv")
    if not os.access(ROOT, os.W_OK):
        stop(f"no permission to write to {ROOT}. Remedy: copy the course to a folder of yours")
    free = shutil.disk_usage(VENV.resolve() if VENV.exists() else ROOT).free / 1e9
    if free < gigabytes:
        stop(
            f"{gigabytes} GB of free disk space are needed, {ROOT} has {free:.1f} GB. Remedy: make"
            " room" + (f", or TORCH=cpu, which needs {GIGABYTES['cpu']} GB" * (gigabytes > 3))
        )


def has_nvidia() -> bool:
    """Whether nvidia-smi answers, on Linux: elsewhere the usual PyTorch has no CUDA."""
    try:
        command = ["nvidia-smi", "-L"]
        done = sys.platform == "linux" and subprocess.run(command, capture_output=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return bool(done) and done.returncode == 0


def packages() -> list:
    """What is in .venv: one folder for each package, named after its version."""
    below = "Lib/site-packages" if os.name == "nt" else "lib/python*/site-packages"
    return sorted(VENV.glob(below + "/*.dist-info"))


def kept_by_uv() -> bool:
    """Whether uv has made .venv, or is here and has installed into it since."""
    config = VENV / "pyvenv.cfg"
    if config.is_file() and "\nuv = " in "\n" + config.read_text(encoding="utf-8"):
        return True
    marks = [path / "INSTALLER" for path in packages() if shutil.which("uv")]
    return any(mark.read_text("utf-8").strip() == "uv" for mark in marks if mark.is_file())


def stamped() -> dict:
    """What is known of .venv; empty if nothing, or if it was never finished."""
    try:
        return json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def pip(python: Path, *arguments: str) -> None:
    """Call an environment's pip, or stop with one line below its own messages."""
    keys = {name: "PIP_" + name.upper().replace("-", "_") for name in NEUTRALISED}
    env = {key: value for key, value in os.environ.items() if key not in keys.values()}
    env.update({keys[name]: "0" for name in SWITCHES})  # which no file overrides
    env["PYTHONWARNINGS"] = "ignore"  # setuptools has advice for those who write packages
    wheels = ROOT / "wheels"
    options = ["--no-index", "--find-links", str(wheels)] if wheels.is_dir() else []
    command = [str(python), "-I", "-m", "pip", "--disable-pip-version-check", *arguments, *options]
    if subprocess.run(command, cwd=ROOT, env=env).returncode:
        stop(
            "the installation failed (see above). Remedy: call again; if that does not help, check"
            + (" what is in the folder wheels" if options else " the network")
            + ", and what `pip config list` says"
        )


def install_packages(python: Path, torch: str, tests: bool) -> None:
    """Install torch first and alone, so that nothing else chooses its build; then the rest."""
    pinned = ["--constraint", "constraints.txt"]
    # The pip of Debian 12 needs ten minutes to find the same packages.
    pip(python, "install", "--quiet", "--upgrade", *pinned, "pip")
    index = ["--extra-index-url", CPU_WHEELS] if torch == "cpu" and sys.platform == "linux" else []
    print(f"course: installing PyTorch ({torch}), then the other packages", flush=True)
    pip(python, "install", "--no-deps", *index, *pinned, "torch")
    group = ["--group", "test"] if tests else []
    pip(python, "install", *pinned, "--editable", ".", *group)
    # In a Python of its own: what only PYTHONPATH or the current folder has, is not installed.
    command = [str(python), "-I", "-m", "course_utils", "packages"]
    if subprocess.run(command, cwd=ROOT).returncode:
        stop("not everything is there (see above). Remedy: look at `pip config list`")


def create() -> None:
    """Make an empty .venv, which holds an unfinished stamp from its first moment on."""
    print(f"course: creating {VENV} (minutes, once)", flush=True)
    VENV.resolve().mkdir(parents=True, exist_ok=True)  # of a link: where it leads
    STAMP.touch()
    for path in VENV.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path != STAMP:
            path.unlink()
    python = getattr(sys, "_base_executable", sys.executable)  # .venv cannot make itself
    if subprocess.run([python, "-I", "-m", "venv", str(VENV.resolve())]).returncode:
        stop(f"{VENV} could not be created (see above)")
    empty = "".join(f"{name} =\n" for name in NEUTRALISED)
    config = VENV / ("pip.ini" if os.name == "nt" else "pip.conf")  # it overrides the user's
    config.write_text(f"[global]\n{empty}[install]\n{empty}", encoding="utf-8")


def update(torch: str, tests: bool) -> None:
    """Bring .venv to the wanted state, if it is not in it."""
    known = stamped()
    if torch == "auto":
        torch = known.get("torch") or ("cuda" if has_nvidia() else "cpu")
    tests = tests or known.get("tests", False)
    wanted = {"files": fingerprint(), "torch": torch, "tests": tests, "folder": str(ROOT)}
    have = {path.name for path in packages()}
    complete = have.issuperset(known.get("packages", []))
    if PYTHON.is_file() and complete and {**known, **wanted} == known:
        return
    if VENV.exists() and not STAMP.exists() and (not VENV.is_dir() or any(VENV.iterdir())):
        stop(f"{VENV} is not of this course. Remedy: rename it, or remove it")
    fresh = not PYTHON.is_file() or any(known.get(k) != wanted[k] for k in ("torch", "folder"))
    check_machine(GIGABYTES[torch] if fresh else 1)
    if fresh:
        create()
    STAMP.write_text("", encoding="utf-8")
    install_packages(PYTHON, torch, tests)
    wanted["packages"] = [path.name for path in packages()]
    STAMP.write_text(json.dumps(wanted, indent=1), encoding="utf-8")
    print("course: environment ready", flush=True)


def update_with_uv(torch: str, tests: bool) -> None:
    """Leave .venv to uv, which keeps it; one that was moved has scripts that do not start."""
    if not shutil.which("uv"):
        stop(f"{VENV} was made by uv, which is not here. Remedy: remove it, then call again")
    if torch != "auto":
        stop("uv takes PyTorch without CUDA, and with UV_NO_SOURCES=1 the other. Remedy: say that")
    activate, names = VENV / "bin" / "activate", map(str, (VENV, VENV.resolve()))
    if activate.is_file() and not any(os.fsencode(n) in activate.read_bytes() for n in names):
        shutil.rmtree(str(VENV.resolve()))
    command = ["uv", "sync", "--inexact", *(["--group", "test"] if tests else [])]
    if subprocess.run(command, cwd=ROOT).returncode:
        stop("uv could not bring the environment up to date (see above)")


def pack(folder: Path) -> None:
    """Collect the wheels of all that is in .venv, and of what builds the course."""
    ask = [str(PYTHON), "-I", "-m", "pip", "freeze", "--all", "--exclude-editable"]
    done = subprocess.run(ask, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        stop(f"{VENV} has no pip. Remedy: remove it, then call make without uv")
    index = ["--extra-index-url", CPU_WHEELS] if "+cpu" in done.stdout else []
    wanted = [line for line in done.stdout.split() if not line.startswith("setuptools==")]
    options = ["--no-deps", "--dest", str(folder), "--constraint", "constraints.txt", *index]
    pip(PYTHON, "download", *options, "setuptools", *wanted)
    print(f"course: put {folder} into the course's folder as `wheels`, then install as always")


@contextlib.contextmanager
def one_at_a_time():
    """Wait for another installation in this folder; Windows has no such lock."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    folder = os.open(str(ROOT), os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print("course: waiting for another installation in this folder", flush=True)
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--torch",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="auto: what is there, else CUDA where nvidia-smi answers, else the smaller CPU build",
    )
    parser.add_argument("--tests", action="store_true", help="with what the tests need")
    parser.add_argument("--here", action="store_true", help="into this Python")
    parser.add_argument("--pack", type=Path, metavar="FOLDER", help="collect the wheels of .venv")
    arguments = parser.parse_args()
    if arguments.torch == "cuda" and sys.platform != "linux":
        stop("only Linux has PyTorch with CUDA from the usual index. Remedy: see pytorch.org")
    try:
        with one_at_a_time():
            if arguments.pack:
                pack(arguments.pack)
            elif arguments.here:
                torch = "cuda" if arguments.torch == "cuda" else "cpu"
                install_packages(Path(sys.executable), torch, arguments.tests)
            elif kept_by_uv():
                update_with_uv(arguments.torch, arguments.tests)
            else:
                update(arguments.torch, arguments.tests)
    except KeyboardInterrupt:
        stop("interrupted; the next call starts over")


if __name__ == "__main__":
    main()
