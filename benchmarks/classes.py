"""What a class of any size needs, computed from the rehearsal and from whole runs of the notebooks;
fills the marked parts of docs/classes.md.

python benchmarks/classes.py
"""

import json
import math
import re
import statistics
from pathlib import Path

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "classes.md"
SIZES = (30, 300, 3000)
WAIT = 60  # seconds that a class may wait when all run sections 1 to 3 at once
SYSTEM_GB = 2  # operating system, Hub and proxy
GUARANTEE_GB = 2 * 2**30 / 1e9  # of each student on Kubernetes
NODE_GB, NODE_CORES, USABLE = 32, 8, 0.9  # a node, and the part of it that pods may use


def load() -> dict:
    """What ``make classroom`` stored."""
    return json.loads((HERE / "classroom.json").read_text(encoding="utf-8"))


def load_peaks() -> dict[str, float]:
    """Per notebook the largest resident memory (MB) of its kernel in all stored whole runs."""
    peaks: dict[str, float] = {}
    for run in json.loads((HERE / "seeds.json").read_text(encoding="utf-8")):
        seen = peaks.get(run["notebook"], 0)
        peaks[run["notebook"]] = max(seen, run.get("peak_memory_mb", 0))  # 0: the run failed
    return peaks


def student(figures: dict, peaks: dict[str, float], *, kernels: int = 2, shared: bool) -> dict:
    """Needs of one student.

    Args:
        figures: What the rehearsal measured.
        peaks: Largest memory of each notebook's kernel (MB).
        kernels: Notebooks that are open, those that need most; students leave the first one open.
        shared: Count pages that students share once for all, as one machine does; else count
            all resident pages, as a container does.

    Returns:
        ``gb`` of memory for a server and the kernels; processor seconds for ``start`` (login,
        server, pull) and for the ``lesson``; seconds that the Hub needs for one ``login``.
    """

    def median(name):
        return statistics.median(each[name] for each in figures["class"]["usage"])

    common = median("kernel_rss") - median("kernel_mb") if shared else 0
    memory = median("server_mb" if shared else "server_rss")
    memory += sum(peak - common for peak in sorted(peaks.values())[-kernels:])
    return {
        "gb": memory / 1000,
        "start": median("server_cpu"),
        "lesson": median("kernel_cpu"),
        "login": max(figures["class"]["login"]) / figures["class"]["students"],
    }


def arrival(students: int, one: dict, cores: float) -> float:
    """Seconds until all have a server: cores share the work, but one Hub logs everybody in."""
    return max(students * one["start"] / cores, students * one["login"])


def plan(students: int, one: dict) -> dict:
    """Memory on one machine and guaranteed (GB), cores, seconds to arrive, and nodes."""
    cores = max(2, math.ceil(students * one["lesson"] / WAIT))
    by_memory = math.floor(NODE_GB * USABLE / GUARANTEE_GB)
    by_cores = math.ceil(cores / (NODE_CORES * USABLE))
    return {
        "memory": students * one["gb"] + SYSTEM_GB,
        "guaranteed": students * GUARANTEE_GB,
        "cores": cores,
        "arrival": arrival(students, one, cores),
        "nodes": max(math.ceil(students / by_memory), by_cores),
    }


def tables(figures: dict, peaks: dict[str, float]) -> dict[str, str]:
    """The generated parts of the page."""
    one, cores = student(figures, peaks, shared=True), figures["machine"]["cores"]
    plans = [plan(students, one) for students in SIZES]
    apart = student(figures, peaks, shared=False)
    rows = [
        (
            "memory of one machine (GB)",
            [f"{plans[0]['memory']:,.0f}", *["more than one machine"] * (len(SIZES) - 1)],
        ),
        ("memory guaranteed on Kubernetes (GB)", [f"{p['guaranteed']:,.0f}" for p in plans]),
        ("cores", [f"{p['cores']:,}" for p in plans]),
        (
            "seconds until all have a server, if all arrive at once",
            [f"{p['arrival']:,.0f}" for p in plans],
        ),
        (
            f"nodes of {NODE_CORES} cores and {NODE_GB} GB on Kubernetes",
            [f"{p['nodes']:,}" for p in plans],
        ),
        ("placeholders, if they log in within five minutes", [f"{n:,}" for n in SIZES]),
    ]
    many = figures["class"]
    n = many["students"]
    checks = [
        ("all servers ready (s)", arrival(n, one, cores), max(many["ready"]) + max(many["pull"])),
        (
            "all have finished section 3 (s)",
            n * one["lesson"] / cores,
            max(sum(cells) for cells in many["cells"]) + max(many["kernel"]),
        ),
    ]
    return {
        "needs": "\n".join(
            [
                f"| students | {' | '.join(f'{n:,}' for n in SIZES)} |",
                f"| --- |{' --- |' * len(SIZES)}",
                *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows),
            ]
        ),
        "student": (
            f"One student needs up to {one['gb']:.2f} GB on a shared machine, and"
            f" {apart['gb']:.2f} GB in a container of the student's own: a server, and the two"
            " notebooks that take most memory. A student needs"
            f" {one['start']:.1f} processor seconds to arrive (login, server, pull), and"
            f" {one['lesson']:.1f} for sections 1 to 3 of the wine notebook, imports included."
            f" The Hub takes {one['login']:.2f} seconds for each login."
        ),
        "peaks": (
            "- **Memory** is the hard limit: when it runs out, kernels are killed. The most that a"
            " whole notebook took with any seed (["
            "`seeds.json`](../benchmarks/seeds.json)) is "
            + ", ".join(f"{peak:,.0f} MB for `{name}`" for name, peak in sorted(peaks.items()))
            + ". The table counts two at once, because students leave the first notebook open when"
            f" they begin the second, and on one machine {SYSTEM_GB} GB for the system. On one"
            " machine students share the pages of the libraries; on Kubernetes each has"
            f" {GUARANTEE_GB:.2f} GB guaranteed."
        ),
        "check": "\n".join(
            [
                f"| {n} students, {cores} cores | computed | measured |",
                "| --- | --- | --- |",
                *(f"| {name} | {said:.0f} | {seen:.0f} |" for name, said, seen in checks),
            ]
        ),
    }


def fill(text: str, figures: dict, peaks: dict[str, float]) -> str:
    """The page with its generated parts made anew."""
    for name, content in tables(figures, peaks).items():
        pattern = rf"(<!-- {name} -->\n)(?:(?!<!--).)*(<!-- end -->)"
        text, count = re.subn(
            pattern, lambda match, c=content: f"{match[1]}{c}\n{match[2]}", text, flags=re.DOTALL
        )
        if count != 1:
            raise ValueError(f"the page has {count} places for {name!r}")
    return text


def main() -> None:
    text = fill(PAGE.read_text(encoding="utf-8"), load(), load_peaks())
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
