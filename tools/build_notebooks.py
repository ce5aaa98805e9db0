"""Build the notebooks from their sources, or run one with other parameters.

    python tools/notebooks.py build [NAME ...]
    python tools/notebooks.py run NAME [--seed 3] [--threads 1] [--set STEPS=200] [--save FILE]

``build`` executes ``notebooks/NAME.py`` and writes ``notebooks/NAME.ipynb`` with its outputs; it
refuses a notebook that warns. ``run`` writes nothing unless asked; it prints the ten slowest cells
and, as the last line, time and peak memory of the kernel as JSON.
"""

import argparse
import ast
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from traitlets.config import Config

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
PROGRESS = re.compile(r"^[^\n]*\d+%\|.*$|^\s*$|^[^\n]*\d+it \[.*$")
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
LANGUAGE = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python"}


def names() -> list[str]:
    """Names of all notebooks that have a source."""
    return sorted(path.stem for path in NOTEBOOKS.glob("*.py"))


def digest(name: str) -> str:
    """SHA-256 of a notebook's source text, the same on every system."""
    text = (NOTEBOOKS / f"{name}.py").read_text(encoding="utf-8")
    return hashlib.sha256(text.encode()).hexdigest()


def read_source(name: str) -> NotebookNode:
    """The notebook that a source describes, without outputs, with cell ids that follow the text."""
    notebook = jupytext.read(NOTEBOOKS / f"{name}.py", config=_jupytext_config())
    notebook.metadata = NotebookNode(kernelspec=KERNEL, course={"source_sha256": digest(name)})
    seen: set[str] = set()
    for cell in notebook.cells:
        cell.id = hashlib.sha256(cell.source.encode()).hexdigest()[:8]
        while cell.id in seen:
            cell.id = hashlib.sha256(cell.id.encode()).hexdigest()[:8]
        seen.add(cell.id)
    return notebook


def _jupytext_config():
    from jupytext.config import load_jupytext_config

    return load_jupytext_config(str(NOTEBOOKS))


def override(notebook: NotebookNode, parameters: dict) -> None:
    """Put other values into a cell after the one that is tagged ``parameters``."""
    for index, cell in enumerate(notebook.cells):
        if "parameters" in cell.metadata.get("tags", []):
            lines = [f"{name} = {value!r}" for name, value in parameters.items()]
            notebook.cells.insert(index + 1, nbformat.v4.new_code_cell("\n".join(lines)))
            return
    raise SystemExit("no cell is tagged parameters")


def execute(
    notebook: NotebookNode, on_cell=None, *, folder: Path | None = None, env: dict | None = None
) -> float:
    """Execute in place, in a folder (that of the notebooks); return the seconds it took."""
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
        resources={"metadata": {"path": str(folder or NOTEBOOKS)}},
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


def tidy(notebook: NotebookNode) -> None:
    """Drop what is gone with the kernel (widgets, progress bars); refuse warnings."""
    notebook.metadata.pop("widgets", None)
    notebook.metadata.language_info = LANGUAGE  # without the Python version of this machine
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        kept = []
        for output in cell.outputs:
            if output.get("name") == "stderr":
                lines = re.split(r"[\r\n]+", output.text)
                loud = [line for line in lines if not PROGRESS.match(line)]
                if loud:
                    raise SystemExit(f"a cell writes to stderr: {loud[:3]}\n{cell.source}")
            elif "application/vnd.jupyter.widget-view+json" not in output.get("data", {}):
                kept.append(output)
        cell.outputs = kept


def build(name: str) -> None:
    """Execute a source and write the notebook; nothing is written when a cell fails."""
    notebook = read_source(name)
    seconds = execute(notebook)
    tidy(notebook)
    nbformat.validate(notebook)
    target = NOTEBOOKS / f"{name}.ipynb"
    draft = target.with_suffix(".draft")
    nbformat.write(notebook, draft)
    draft.replace(target)
    print(f"{target.name}: {seconds:.0f} s, {target.stat().st_size / 1e6:.2f} MB")


def run(name: str, parameters: dict, save: Path | None) -> None:
    """Execute with other parameters and report seconds per cell and peak memory."""
    import resource  # not on Windows, where only this command is missing

    notebook = read_source(name)
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
    commands = parser.add_subparsers(dest="command", required=True)
    build_parser = commands.add_parser("build", help="execute sources and write the notebooks")
    build_parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {names()}; all if none")
    run_parser = commands.add_parser("run", help="execute one with other parameters")
    run_parser.add_argument("name", metavar="NAME", choices=names())
    run_parser.add_argument("--seed", type=int)
    run_parser.add_argument("--threads", type=int)
    run_parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    run_parser.add_argument("--save", type=Path, help="keep the executed notebook here")
    arguments = parser.parse_args()
    if arguments.command == "build":
        for name in arguments.names or names():
            build(name)
        return
    parameters = {} if arguments.seed is None else {"SEED": arguments.seed}
    for pair in arguments.set:
        key, _, value = pair.partition("=")
        parameters[key] = ast.literal_eval(value)
    if arguments.threads:
        parameters["THREADS"] = arguments.threads
    run(arguments.name, parameters, arguments.save)


if __name__ == "__main__":
    main()
