"""Do all checkpoints of the notebooks hold for other seeds and thread counts?

    python benchmarks/seeds.py [NAME ...] [--seeds 10] [--threads 1 2] [--together 2]

Runs each notebook from its source once per seed and thread count, each time in a new process, and
writes benchmarks/SEEDS.md. Exits with 1 if a checkpoint failed. With ``--together 2`` two runs
share the machine, which is quicker; their seconds mean nothing then and are left out.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import notebooks as tool  # noqa: E402


def run(name: str, seed: int, threads: int) -> dict:
    """Figures of one run; key ``error`` holds the last line of a failure."""
    options = ["run", name, "--seed", str(seed), "--threads", str(threads)]
    command = [sys.executable, str(ROOT / "tools" / "notebooks.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        figures = {"error": lines[-1] if lines else "no message"}
    else:
        figures = json.loads(done.stdout.splitlines()[-1])
    print(name, seed, threads, figures, flush=True)
    return {"name": name, "seed": seed, "wanted": threads} | figures


def row(name: str, threads: int, runs: list[dict], timed: bool) -> str:
    """One line of the table."""
    good = [figures for figures in runs if "error" not in figures]
    text = f"| {name} | {threads} | {len(good)} of {len(runs)} "
    for key in ("seconds", "slowest_cell_seconds", "peak_memory_mb"):
        values = [figures[key] for figures in good]
        shown = values and (timed or key == "peak_memory_mb")
        text += f"| {statistics.median(values):.0f} (up to {max(values):.0f}) " if shown else "| "
    return text + f"| `{tool.digest(name)[:12]}` |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {tool.names()}; all if none")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--together", type=int, default=1)
    arguments = parser.parse_args()
    jobs = [
        (name, seed, threads)
        for name in arguments.names or tool.names()
        for threads in arguments.threads
        for seed in range(arguments.seeds)
    ]
    with ThreadPoolExecutor(arguments.together) as pool:
        results = list(pool.map(lambda job: run(*job), jobs))
    import torch

    lines = [
        "# Checkpoints under other seeds and thread counts",
        "",
        f"Measured by `python benchmarks/seeds.py` on {date.today()}: {os.cpu_count()} cores, "
        f"{platform.system()}, Python {platform.python_version()}, torch {torch.__version__}; "
        f"seeds 0 to {arguments.seeds - 1}. Median (largest); *source* is the SHA-256 of the .py.",
        "",
        "| notebook | threads | checkpoints held | seconds | slowest cell (s) | MB | source |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, threads in dict.fromkeys((name, threads) for name, _, threads in jobs):
        runs = [r for r in results if (r["name"], r["wanted"]) == (name, threads)]
        lines.append(row(name, threads, runs, timed=arguments.together == 1))
    failed = [r for r in results if "error" in r]
    lines += [f"\nFailed: {r['name']}, seed {r['seed']}: {r['error']}" for r in failed]
    (ROOT / "benchmarks" / "SEEDS.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
