"""Do all checkpoints of the notebooks hold for other seeds and thread counts?

    python benchmarks/seeds.py [NAME ...] [--seeds 10] [--threads 1 2] [--together 2]

Runs each notebook from its source once per seed and thread count, in a new process, keeps the
figures in ``seeds.json`` and writes ``SEEDS.md`` from all that are kept there. Exits with 1 if a
checkpoint failed. With ``--together 2`` two runs share the machine, which is quicker; their seconds
mean nothing then and are left out.
"""

import argparse
import json
import os
import platform
import statistics
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from importlib.metadata import version
from pathlib import Path

from benchmarks import measure
from tools import catalogue

HERE = Path(__file__).resolve().parent
STORE = HERE / "seeds.json"


def code_digest(name: str) -> str:
    """The code of a notebook, whatever its prose: twelve hexadecimal digits."""
    return measure.code_digest(catalogue.NOTEBOOKS / f"{name}.py")


def run(name: str, seed: int, threads: int, timed: bool) -> dict:
    """Figures of one run; key ``error`` holds the last line of a failure."""
    options = ["run", name, "--seed", str(seed), "--threads", str(threads)]
    command = [sys.executable, str(HERE.parent / "tools" / "notebooks.py"), *options]
    figures = {"notebook": name, "seed": seed, "threads": threads, "code": code_digest(name)}
    figures["date"] = date.today().isoformat()
    found = measure.run_alone(command)
    keys = ["error", "peak_memory_mb", *(["seconds", "slowest_cell_seconds"] if timed else [])]
    figures |= {key: found[key] for key in keys if key in found}
    print(figures, flush=True)
    return figures


def listed(seeds: list[int]) -> str:
    """Seeds as text: all of them, or first and last if none between is missing."""
    low, high = min(seeds), max(seeds)
    if len(seeds) > 2 and len(seeds) == high - low + 1:
        return f"{low} to {high}"
    return ", ".join(map(str, sorted(seeds)))


def table(runs: list[dict]) -> list[str]:
    """SEEDS.md: one line per notebook and thread count."""
    lines = [
        "# Checkpoints under other seeds and thread counts",
        "",
        f"Measured by `python benchmarks/seeds.py` until {max(r['date'] for r in runs)}: "
        f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}, torch "
        f"{version('torch')}. Median (largest). *Code* is a SHA-256, without comments.",
        "",
        "| notebook | threads | seeds | all held | seconds | slowest cell (s) | MB | code |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for key in sorted({(r["notebook"], r["threads"], r["code"]) for r in runs}):
        chosen = [r for r in runs if (r["notebook"], r["threads"], r["code"]) == key]
        good = [r for r in chosen if "error" not in r]
        held = f"{len(good)} of {len(chosen)}"
        cells = [key[0], str(key[1]), listed([r["seed"] for r in chosen]), held]
        for figure in ("seconds", "slowest_cell_seconds", "peak_memory_mb"):
            values = [r[figure] for r in good if figure in r]
            some = f"{statistics.median(values):.0f} ({max(values):.0f})" if values else ""
            cells.append(some)
        code = f"`{key[2]}`" if key[2] == code_digest(key[0]) else "an older version"
        lines.append("| " + " | ".join([*cells, code]) + " |")
    failed = [r for r in runs if "error" in r]
    return lines + [f"\nFailed: {r['notebook']}, seed {r['seed']}: {r['error']}" for r in failed]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {catalogue.files()}; all if none"
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--together", type=int, default=1)
    arguments = parser.parse_args()
    jobs = [
        (name, seed, threads, arguments.together == 1)
        for name in arguments.names or catalogue.files()
        for threads in arguments.threads
        for seed in range(arguments.seeds)
    ]
    with ThreadPoolExecutor(arguments.together) as pool:
        fresh = list(pool.map(lambda job: run(*job), jobs))
    kept = {}
    for figures in [*(json.loads(STORE.read_text()) if STORE.exists() else []), *fresh]:
        kept[figures["notebook"], figures["threads"], figures["seed"]] = figures  # the newest
    runs = [kept[key] for key in sorted(kept)]
    STORE.write_text("[\n" + ",\n".join(map(json.dumps, runs)) + "\n]\n", encoding="utf-8")
    (HERE / "SEEDS.md").write_text("\n".join(table(runs)) + "\n", encoding="utf-8")
    return int(any("error" in figures for figures in fresh))


if __name__ == "__main__":
    sys.exit(main())
