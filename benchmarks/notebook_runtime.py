"""The notebooks as a whole: time and memory, alone and beside a busy process, for several seeds.

    python -m benchmarks.notebook_runtime ["NAME, SETTING" ...] [--repetitions 10]

Each repetition, with a seed of its own, takes about 25 minutes. On Linux everything, the busy
process too, is kept on two cores, however many there are. ``seeds.json`` keeps whether all
checkpoints held without a busy process: the newest of each notebook, number of threads and seed.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import measure
from tools import catalogue, notebook_sources, run_notebook

SETTINGS = {  # threads (None: what the notebook's parameters say), and whether a core is busy
    "1 thread": (1, False),
    "2 threads": (2, False),
    "2 threads, busy": (2, True),
    "as shipped, busy": (None, True),
}
START = "start-up"
PACKAGES = ("torch", "pyro-ppl", "ipykernel", "nbclient")


def start_up(name: str) -> float:
    """Seconds from starting a kernel until imports and the first settings are through."""
    notebook = notebook_sources.read(name)
    codes = [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    notebook.cells = notebook.cells[: codes[4] + 1]  # imports, parameters, seed, device
    start, ends = time.perf_counter(), [0.0]
    run_notebook.execute(notebook, lambda *_: ends.append(time.perf_counter() - start))
    return ends[-1]


def remember(notebook: str, seed: int, threads: int, found: dict) -> None:
    """Put peak memory, or the error that a run ended with, in the place of what is stored."""
    head = measure.origin(__spec__.name, PACKAGES)
    run = {"notebook": notebook, "seed": seed, "threads": threads, "date": head["date"]}
    run["code"] = measure.code_digest(catalogue.find(notebook).source)
    run |= {key: found[key] for key in ("error", "peak_memory_mb") if key in found}
    kept = [*measure.load("seeds")["runs"], run]
    newest = {(each["notebook"], each["threads"], each["seed"]): each for each in kept}
    runs = [newest[key] for key in sorted(newest)]
    measure.write(measure.place("seeds"), head | {"runs": runs})


def one(name: str, seed: int, size: str) -> dict:
    """A notebook in one setting (``NAME, SETTING``), or the start-up of all and the size."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    if name == START:
        seconds = {notebook: start_up(notebook) for notebook in catalogue.files()}
        files = [path for path in Path(sys.prefix).rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files if not path.is_symlink())
        return {"seconds": seconds, "bytes": {"all": size}}
    notebook, _, setting = name.partition(", ")
    threads, busy = SETTINGS[setting]
    options = ["--threads", str(threads)] if threads else []
    command = ["-m", "tools.run_notebook", notebook, "--seed", str(seed), *options]
    with subprocess.Popen([sys.executable, "-c", "while True: pass" if busy else "pass"]) as other:
        found = measure.run_alone(*command)
        other.kill()
    if not busy:
        remember(notebook, seed, threads, found)
    if "error" in found:
        raise SystemExit(found["error"])
    return found


if __name__ == "__main__":
    jobs = [START, *(f"{name}, {setting}" for name in catalogue.files() for setting in SETTINGS)]
    if "quick" in sys.argv:  # a notebook cannot be made smaller: its checkpoints would fail
        jobs = [START]
    sources = [notebook.source for notebook in catalogue.load()]
    measure.command(__spec__, jobs, one, sources=sources, packages=PACKAGES)
