"""What the benchmarks share: one process per run, competitors in turn, every run kept at once.

A run is one competitor with one seed. Runs go round: all competitors with seed 0, then all with
seed 1, and so on, so that whatever else the machine does hits all of them alike. Each is kept in
``build/benchmarks``, below the digest of the code (script and notebook); a second call goes on
where the first one stopped. When all are there, they become ``results/NAME.json``: what is
published was measured in one working copy. Trials (``--size quick``) stay apart.
"""

import argparse
import ast
import copy
import hashlib
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from datetime import date
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS = HERE / "results"
PROGRESS = ROOT / "build" / "benchmarks"
REPETITIONS = 5


class Watch:
    """Seconds of training, and states noted on the way; taking a note costs no measured time."""

    def __init__(self, every: int = 1) -> None:
        self.every, self.calls, self.seconds, self.notes = every, 0, 0.0, []
        self.started = time.perf_counter()

    def __call__(self, state: Callable[[], object]) -> None:
        self.calls += 1
        if self.calls % self.every == 0:
            self.seconds += time.perf_counter() - self.started
            self.notes.append((self.seconds, copy.deepcopy(state())))
            self.started = time.perf_counter()


def seconds(function: Callable[[], object]) -> float:
    """Of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def medians(*clocks: Callable[[], float], rounds: int = 5) -> list[float]:
    """Median of what each clock says; they take turns, after one round to warm up."""
    turns = [[clock() for clock in clocks] for _ in range(rounds + 1)]
    return [statistics.median(times) for times in zip(*turns[1:], strict=True)]


def code_digest(*paths: Path) -> str:
    """The code in some files, whatever their comments: twelve hexadecimal digits."""
    code = [ast.dump(ast.parse(path.read_text(encoding="utf-8"))) for path in paths]
    return hashlib.sha256("\n".join(code).encode()).hexdigest()[:12]


def origin(script: str, packages: Iterable[str]) -> dict[str, object]:
    """Where and when figures were measured: the head of a stored file."""
    info = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    processor = models[0] if models else platform.processor() or platform.machine()
    machine = {"cores": os.cpu_count(), "processor": processor}
    machine |= {"system": platform.system(), "python": platform.python_version()}
    versions = {}
    for package in packages:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    today = date.today().isoformat()
    return {"script": script, "date": today, "machine": machine, "versions": versions}


def place(name: str) -> Path:
    """The stored file of that name."""
    published = RESULTS / f"{name}.json"
    return published if published.exists() else HERE / published.name


def load(name: str) -> dict:
    """A stored file, by its name without ending; FileNotFoundError if it was never measured."""
    return json.loads(place(name).read_text(encoding="utf-8"))


def write(path: Path, stored: dict) -> None:
    """Write JSON, short lists on one line, so that an interrupted write leaves the old file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    text = re.sub(
        r"([\[{])\n\s+([^\[\]{}]+)\n\s+([\]}])",
        lambda found: found[1] + re.sub(r"\n\s+", " ", found[2]) + found[3],
        json.dumps(stored, indent=1),
    )
    draft.write_text(text + "\n", encoding="utf-8")
    draft.replace(path)


def run_alone(*command: str, **settings: str) -> dict:
    """The JSON in the last line of ``python COMMAND``, or its last words under the key ``error``.

    Of the caller's environment all is passed on but what concerns threads: that is in ``settings``.
    """
    env = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "MKL_", "GOMP_"))}
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, cwd=ROOT, env=env | settings
    )
    if done.returncode:
        plain = re.sub(r"\x1b\[[\d;]*m", "", done.stderr)  # without colours
        lines = [line for line in plain.splitlines() if line.strip()] or ["?"]
        where = [line for line in lines if line.startswith("---")][-1:]  # a notebook's arrow
        return {"error": " ".join([*where, lines[-1]]).strip()}
    return json.loads(done.stdout.splitlines()[-1])


def command(
    spec: ModuleSpec,
    names: Collection[str],
    one: Callable[[str, int, str], dict],
    *,
    sources: Iterable[Path],
    packages: Iterable[str],
    sizes: Iterable[str] = ("quick", "normal"),
) -> None:
    """The command line of a benchmark.

    Args:
        spec: The script's ``__spec__``; the last part of its name becomes that of the results.
        names: Its competitors.
        one: Called as ``one(name, seed, size)`` in a process of its own; returns what is stored.
        sources: Files whose code is measured, besides the script.
        packages: Whose versions are stored.
        sizes: Of the work: "quick" is a trial, which is not published.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {list(names)}; all if none")
    parser.add_argument("--repetitions", type=int, default=REPETITIONS, help="seeds per competitor")
    parser.add_argument("--size", choices=sizes, default="normal")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(given.one[0], int(given.one[1]), given.size)))
        return
    title = spec.name.rpartition(".")[2] + ("" if given.size == "normal" else f"_{given.size}")
    digest, seeds = code_digest(Path(spec.origin), *sources), range(given.repetitions)
    folder, failed = PROGRESS / title / digest, {}
    paths = {(name, seed): folder / f"{name}, {seed}.json" for seed in seeds for name in names}
    for (name, seed), path in paths.items():
        if path.exists() or (given.names and name not in given.names):
            continue
        start = time.perf_counter()
        result = run_alone("-m", spec.name, "--one", name, str(seed), "--size", given.size)
        took = f"{time.perf_counter() - start:.0f} s"
        print(f"{title}: {path.stem}: {result.get('error', took)}", flush=True)
        if "error" in result:
            failed[name] = result["error"]
        else:
            write(path, result)
    if failed:
        raise SystemExit(f"{title}: not measured: {failed}")
    if given.size != "quick" and all(path.exists() for path in paths.values()):
        runs = {name: {} for name in names}
        for (name, seed), path in paths.items():
            runs[name][str(seed)] = json.loads(path.read_text())
        stored = origin(spec.name, packages) | {"code": digest, "runs": runs}
        write(RESULTS / f"{title}.json", stored)
