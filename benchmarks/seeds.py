"""Do all checkpoints of the notebooks hold for other seeds and thread counts?

    python -m benchmarks.seeds [NAME ...] [--seeds 10] [--threads 1 2] [--together 2]

Runs each notebook from its source once per seed and thread count, in a new process, and keeps what
happened in ``seeds.json``; ``make pages`` writes it into ``SEEDS.md``. Exits with 1 if a checkpoint
failed. With ``--together 2`` two runs share the machine.
"""

import argparse
import itertools
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import date

from benchmarks import measure, notebook_runtime
from tools import catalogue


def run(job: tuple[str, int, int]) -> dict:
    """Peak memory of a notebook with so many threads and a seed, or the ``error`` it ended with."""
    name, threads, seed = job
    found = notebook_runtime.run(name, seed, threads)
    kept = {key: found[key] for key in ("error", "peak_memory_mb") if key in found}
    print(f"{name}, seed {seed}, {threads} threads: {kept}", flush=True)
    code = measure.code_digest(catalogue.find(name).source)
    head = {"notebook": name, "seed": seed, "threads": threads, "code": code}
    return head | {"date": date.today().isoformat()} | kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="all if none")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--together", type=int, default=1)
    given = parser.parse_args()
    jobs = itertools.product(given.names or catalogue.files(), given.threads, range(given.seeds))
    with ThreadPoolExecutor(given.together) as pool:
        fresh = list(pool.map(run, jobs))
    newest = {}
    for each in [*measure.load("seeds")["runs"], *fresh]:
        newest[each["notebook"], each["threads"], each["seed"]] = each
    stored = measure.origin(__spec__.name, ["torch", "pyro-ppl"])
    stored["runs"] = [newest[key] for key in sorted(newest)]
    measure.write(measure.place("seeds"), stored)
    return int(any("error" in each for each in fresh))


if __name__ == "__main__":
    sys.exit(main())
