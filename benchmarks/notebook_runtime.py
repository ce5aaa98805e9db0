"""The notebooks as a whole: time and memory, alone and beside a busy process.

    python -m benchmarks.notebook_runtime ["NAME, SETTING" ...] [--repetitions 1]

Each repetition runs every notebook with one thread, with two, and, while another process keeps a
core busy, with two and with as many as the notebook itself asks for: about 25 minutes in all, two
hours for five repetitions, each with a seed of its own. Then the seconds from the start of a kernel
to the first result, and the size of the environment. On Linux everything, the busy process too, is
kept on two cores, however many there are.
"""

import os
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


def run(name: str, seed: int, threads: int | None) -> dict:
    """Seconds and peak memory of one notebook in a process of its own, or its ``error``."""
    options = ["--threads", str(threads)] if threads else []
    return measure.run_alone("-m", "tools.run_notebook", name, "--seed", str(seed), *options)


def start_up(name: str) -> float:
    """Seconds from starting a kernel until imports and the first settings are through."""
    notebook = notebook_sources.read(name)
    codes = [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    notebook.cells = notebook.cells[: codes[3] + 1]  # imports, parameters, seed and device
    ends: list[float] = []
    start = time.perf_counter()
    run_notebook.execute(notebook, lambda cell, seconds: ends.append(time.perf_counter() - start))
    return ends[-1]


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
    threads, beside = SETTINGS[setting]
    with measure.busy(beside):
        found = run(notebook, seed, threads)
    if "error" in found:
        raise SystemExit(found["error"])
    return found


if __name__ == "__main__":
    jobs = [START, *(f"{name}, {setting}" for name in catalogue.files() for setting in SETTINGS)]
    if "quick" in sys.argv:  # a notebook cannot be made smaller: its checkpoints would fail
        jobs = [START]
    sources = [notebook.source for notebook in catalogue.load()]
    packages = ["torch", "pyro-ppl", "ipykernel", "nbclient"]
    measure.command(__spec__, jobs, one, sources=sources, packages=packages)
