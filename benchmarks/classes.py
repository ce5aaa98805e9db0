"""What a class of any size needs, computed from the rehearsal; fills the tables of docs/classes.md.

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
GUARANTEE_GB = 1.5 * 2**30 / 1e9  # of each student on Kubernetes
NODE_GB, NODE_CORES, USABLE = 32, 8, 0.9  # a node, and the part of it that pods may use


def load() -> dict:
    """What ``make classroom`` stored."""
    return json.loads((HERE / "classroom.json").read_text(encoding="utf-8"))


def student(figures: dict, *, shared: bool = True) -> dict:
    """Median needs of one student.

    Args:
        figures: What the rehearsal measured.
        shared: Divide shared pages among the students, as one machine does; else count all
            resident pages, as a container does.

    Returns:
        ``gb`` of memory for a server and two kernels, because students leave the first notebook
        open; processor seconds for ``start`` (login, server, pull) and for the ``lesson``.
    """
    unit = "mb" if shared else "rss"

    def median(name):
        return statistics.median(each[name] for each in figures["class"]["usage"])

    memory = median(f"server_{unit}") + 2 * median(f"kernel_{unit}")
    return {"gb": memory / 1000, "start": median("server_cpu"), "lesson": median("kernel_cpu")}


def plan(students: int, one: dict) -> dict:
    """Memory (GB), cores, seconds until all have a server, and nodes on Kubernetes."""
    cores = max(2, math.ceil(students * one["lesson"] / WAIT))
    by_memory = math.floor(NODE_GB * USABLE / GUARANTEE_GB)
    by_cores = math.ceil(cores / (NODE_CORES * USABLE))
    return {
        "memory": students * one["gb"] + SYSTEM_GB,
        "cores": cores,
        "login": students * one["start"] / cores,
        "nodes": max(math.ceil(students / by_memory), by_cores),
    }


def tables(figures: dict) -> dict[str, str]:
    """The generated parts of the page."""
    one, cores = student(figures), figures["machine"]["cores"]
    plans = [plan(students, one) for students in SIZES]
    rows = [
        ("memory (GB)", [f"{p['memory']:,.0f}" for p in plans]),
        ("cores", [f"{p['cores']:,}" for p in plans]),
        (
            "seconds until all have a server, if all arrive at once",
            [f"{p['login']:.0f}" for p in plans],
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
        ("all servers ready (s)", n * one["start"] / cores, max(many["ready"]) + max(many["pull"])),
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
            f"One student needs {one['gb']:.2f} GB for a server and two kernels,"
            f" {one['start']:.1f} processor seconds to arrive (login, server, pull), and"
            f" {one['lesson']:.1f} for sections 1 to 3 of the wine notebook, imports included."
        ),
        "check": "\n".join(
            [
                f"| {n} students, {cores} cores | computed | measured |",
                "| --- | --- | --- |",
                *(f"| {name} | {said:.0f} | {seen:.0f} |" for name, said, seen in checks),
            ]
        ),
    }


def fill(text: str, figures: dict) -> str:
    """The page with its generated parts made anew."""
    for name, content in tables(figures).items():
        pattern = rf"(<!-- {name} -->\n)(?:(?!<!--).)*(<!-- end -->)"
        text, count = re.subn(
            pattern, lambda match, c=content: f"{match[1]}{c}\n{match[2]}", text, flags=re.DOTALL
        )
        if count != 1:
            raise ValueError(f"the page has {count} places for {name!r}")
    return text


def main() -> None:
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), load()), encoding="utf-8")


if __name__ == "__main__":
    main()
