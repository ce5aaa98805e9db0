"""Run a notebook from its source with other parameters; nothing is written unless asked.

    python -m tools.run_notebook NAME [--seed 3] [--threads 1] [--set KEY=1] [--core] [--save FILE]

Prints the ten slowest cells and, as the last line, time and peak memory of the kernel as JSON.
"""

import argparse
import ast
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from traitlets.config import Config

from tools import catalogue, notebook_sources


def execute(
    notebook: NotebookNode,
    on_cell: Callable[[NotebookNode, float], None] | None = None,
    *,
    folder: Path | None = None,
    env: dict[str, str] | None = None,
) -> float:
    """Execute in place, in a folder (that of the notebooks); return the seconds it took.

    Args:
        notebook: Its outputs are replaced.
        on_cell: Called with each executed cell and its seconds.
        folder: Where the kernel works.
        env: Environment of the kernel; that of this process when None.
    """
    started: dict[int, float] = {}

    def begin(cell, cell_index):
        started[cell_index] = time.perf_counter()

    def end(cell, cell_index, execute_reply):
        if on_cell:
            on_cell(cell, time.perf_counter() - started[cell_index])

    # Kernel and client talk through files, not through ports that others could listen to.
    pipe = Path(tempfile.mkdtemp(prefix="kernel-")) / "socket"
    files = {"transport": "ipc", "ip": str(pipe)} if os.name == "posix" else {}
    client = NotebookClient(
        notebook,
        config=Config({"KernelManager": files}),
        timeout=600,
        resources={"metadata": {"path": str(folder or catalogue.NOTEBOOKS)}},
        record_timing=False,
        coalesce_streams=True,
        on_cell_start=begin,
        on_cell_executed=end,
    )
    start = time.perf_counter()
    try:
        client.execute(env={**(env or os.environ)})
    finally:
        shutil.rmtree(pipe.parent, ignore_errors=True)
    return time.perf_counter() - start


def override(notebook: NotebookNode, parameters: dict) -> None:
    """Put other values into a cell after the one that is tagged ``parameters``."""
    for index, cell in enumerate(notebook.cells):
        if "parameters" in notebook_sources.tags(cell):
            lines = [f"{name} = {value!r}" for name, value in parameters.items()]
            notebook.cells.insert(index + 1, nbformat.v4.new_code_cell("\n".join(lines)))
            return
    raise SystemExit("course: no cell is tagged parameters")


def run(name: str, parameters: dict, save: Path | None = None, *, core: bool = False) -> None:
    """Execute with other parameters and report seconds per cell and peak memory."""
    import resource  # not on Windows, where only this command is missing

    notebook = notebook_sources.read(name)
    notebook = notebook_sources.core(notebook) if core else notebook
    override(notebook, parameters)
    cells: list[tuple[float, str]] = []

    def note(cell, seconds):
        if cell.cell_type == "code":
            first = next((line for line in cell.source.splitlines() if line.strip()), "")
            cells.append((seconds, first[:70]))

    try:
        seconds = execute(notebook, note)
    finally:
        if save:
            nbformat.write(notebook, save)
    for cell_seconds, first in sorted(cells, reverse=True)[:10]:
        print(f"{cell_seconds:7.2f} s  {first}")
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    figures = {
        "notebook": name,
        "parameters": parameters,
        "seconds": round(seconds, 1),
        "slowest_cell_seconds": round(max(cells)[0], 1),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_memory_mb": round(usage.ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)),
    }
    print(json.dumps(figures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", metavar="NAME", choices=catalogue.files())
    parser.add_argument("--seed", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--core", action="store_true", help="only the sections of the core")
    parser.add_argument("--save", type=Path, help="keep the executed notebook here")
    arguments = parser.parse_args()
    parameters = {} if arguments.seed is None else {"SEED": arguments.seed}
    for pair in arguments.set:
        key, _, value = pair.partition("=")
        parameters[key] = ast.literal_eval(value)
    if arguments.threads:
        parameters["THREADS"] = arguments.threads
    run(arguments.name, parameters, arguments.save, core=arguments.core)


if __name__ == "__main__":
    main()
