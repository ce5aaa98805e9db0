"""Rehearse a class: twenty students log in, pull the course and run a notebook at the same time.

    python benchmarks/classroom.py [--students 20] [--note TEXT]

starts the Hub of ``binder/jupyterhub`` on loopback, measures one student alone, then all of them,
then the accidents, and writes ``classroom.json`` and ``CLASSROOM.md`` beside itself. Every student
runs sections 1 to 3 of the wine notebook, from the imports to the first trained network. Nothing
leaves the machine: the course is pulled from a clone that is served on loopback.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import nbformat
import psutil

from benchmarks import incidents
from benchmarks.hub import ROOT, Hub, Student, serve_repository

HERE = Path(__file__).resolve().parent
NOTEBOOK = "notebooks/bayesian_neural_networks_wine.ipynb"
END = "## 4 "  # the first cell that is not run
DISK_MB = 20  # of the student whose disk fills up


def lesson(notebook: dict) -> list[str]:
    """Source of the code cells of sections 1 to 3, imports first."""
    sources = []
    for cell in nbformat.from_dict(notebook).cells:
        if cell.source.startswith(END):
            return sources
        if cell.cell_type == "code":
            sources.append(cell.source)
    raise ValueError(f"no cell begins with {END!r}")


def together(task, students: list[Student]) -> list:
    """One thread for each student; the answers in their order."""
    with ThreadPoolExecutor(len(students)) as pool:
        return list(pool.map(task, students))


def arrive(student: Student) -> dict:
    """From the login form to a server that is ready."""
    began = time.perf_counter()
    student.login().raise_for_status()
    student.get_token()
    logged_in = time.perf_counter() - began
    student.start_server()
    return {"login": logged_in, "ready": time.perf_counter() - began}


def work(student: Student) -> dict:
    """Open the notebook, start a kernel, run the cells; stops at the first failure."""
    began = time.perf_counter()
    answer = student.api("GET", f"/api/contents/course/{NOTEBOOK}")
    answer.raise_for_status()
    kernel = student.open_kernel(f"course/{NOTEBOOK}")
    kernel.run("pass")
    kernel_ready = time.perf_counter() - began
    cells = []
    for source in lesson(answer.json()["content"]):
        result = kernel.run(source)
        if result["error"]:
            raise RuntimeError(f"{student.name}: {result['error']}\n{source}")
        cells.append(result["seconds"])
    student.kernel = kernel
    return {"kernel": kernel_ready, "cells": cells}


def usage(hub: Hub, student: Student) -> dict:
    """MB (mb: shared pages are divided among those who share; rss: not) and processor seconds."""
    processes = hub.student_processes(student.name)
    kernels = {each.pid for each in hub.kernels(student.name)}
    found = dict.fromkeys(
        (f"{a}_{b}" for a in ("server", "kernel") for b in ("mb", "rss", "cpu")), 0.0
    )
    for process in processes:
        kind = "kernel" if process.pid in kernels else "server"
        memory = process.memory_full_info()
        found[f"{kind}_mb"] += memory.pss / 1e6
        found[f"{kind}_rss"] += memory.rss / 1e6
        found[f"{kind}_cpu"] += sum(process.cpu_times()[:4])  # children included
    return found


def attempt(task, failures: list[str]):
    """The task, with an exception noted in place of raised."""

    def guarded(student: Student):
        try:
            return task(student)
        except Exception as error:  # noqa: BLE001 - every failure counts
            failures.append(f"{task.__name__}: {error}")

    return guarded


def rehearse(hub: Hub, names: list[str], address: str) -> dict:
    """All students go through the lesson together; each step begins when all are there."""
    students = [Student(hub, name) for name in names]
    failures: list[str] = []

    def pull(student):
        return student.pull(address)

    arrivals = together(attempt(arrive, failures), students)
    pulls = together(attempt(pull, failures), students)
    works = together(attempt(work, failures), students)
    figures = {
        "students": len(names),
        "failures": failures,
        "login": [each["login"] for each in arrivals if each],
        "ready": [each["ready"] for each in arrivals if each],
        "pull": [each for each in pulls if each],
        "kernel": [each["kernel"] for each in works if each],
        "cells": [each["cells"] for each in works if each],
        "usage": [usage(hub, student) for student in students],
    }
    return figures, students


def leave(students: list[Student]) -> None:
    """Stop the servers, and wait until they are gone."""
    for student in students:
        student.api("DELETE", f"/hub/api/users/{student.name}/server").raise_for_status()
    for student in students:
        while student.hub.student_processes(student.name):
            time.sleep(0.5)


def small_disk(home: Path) -> bool:
    """Mount a small disk as a home, where that is permitted."""
    home.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(home)]
    return os.name == "posix" and not subprocess.run(mount, capture_output=True).returncode


def accidents(hub: Hub, student: Student, small: Student | None) -> dict:
    """The four accidents, one after the other, while the rest of the class stays."""
    outcome = {"kernel killed": incidents.kill_kernel(student.kernel)}
    outcome["Hub restarted"] = incidents.restart_hub(hub, student, student.kernel)
    outcome["server killed"] = incidents.kill_server(hub, student)
    if small:
        arrive(small)
        outcome["disk full"] = incidents.fill_disk(small, DISK_MB)
    return outcome


def measure(count: int) -> dict:
    """The whole rehearsal."""
    names = [f"student{number:02d}" for number in range(1, count + 1)]
    hub = Hub([*names, "warm", "alone", "small"])
    has_small = small_disk(hub.homes / "small")
    with tempfile.TemporaryDirectory() as folder:
        server, address = serve_repository(ROOT, Path(folder))
        try:
            start = hub.start()
            for name in ("warm", "alone"):  # the first one only fills the machine's cache of files
                alone, students = rehearse(hub, [name], address)
                leave(students)
            everybody, students = rehearse(hub, names, address)
            if everybody["failures"]:
                raise SystemExit("\n".join(["failures:", *everybody["failures"]]))
            proxy_and_hub = [hub.process.pid, *children(hub.process.pid)]
            figures = {
                "hub_start": start,
                "hub_mb": sum(psutil.Process(pid).memory_full_info().pss for pid in proxy_and_hub)
                / 1e6,
                "alone": alone,
                "class": everybody,
                "accidents": accidents(
                    hub, students[0], Student(hub, "small") if has_small else None
                ),
            }
        finally:
            server.terminate()
            if has_small:
                subprocess.run(["umount", "--lazy", str(hub.homes / "small")], check=True)
            hub.clear()
    return figures


def children(pid: int) -> list[int]:
    """The Hub's own helpers, without the students' servers."""
    found = psutil.Process(pid).children(recursive=True)
    return [each.pid for each in found if "JUPYTERHUB_USER" not in each.environ()]


def machine() -> dict:
    """What it was measured on."""
    packages = ("jupyterhub", "jupyterlab", "jupyter_server", "ipykernel", "torch", "pyro-ppl")
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "load": psutil.getloadavg()[0],  # of the last minute, before the Hub starts
        "versions": {name: version(name) for name in packages},
    }


def spread(values: list[float], digits: int = 1) -> str:
    """Median, and the largest."""
    return f"{statistics.median(values):.{digits}f} ({max(values):.{digits}f})"


def report(figures: dict) -> str:
    """The page that people read."""
    at, one, many = figures["machine"], figures["alone"], figures["class"]
    n = many["students"]
    versions = ", ".join(f"`{name} {number}`" for name, number in at["versions"].items())
    rows = [
        ("seconds from the login form to a ready server", "ready", 1),
        ("of these, the login", "login", 2),
        ("seconds to pull the course", "pull", 1),
        ("seconds to start a kernel", "kernel", 1),
    ]
    table = [f"| {text} | {spread(one[k], d)} | {spread(many[k], d)} |" for text, k, d in rows]
    total = [[sum(cells) for cells in each["cells"]] for each in (one, many)]
    table.append(f"| seconds for all cells | {spread(total[0])} | {spread(total[1])} |")
    for text, key in (
        ("MB of memory, server", "server_mb"),
        ("MB of memory, kernel", "kernel_mb"),
        ("processor seconds, server", "server_cpu"),
        ("processor seconds, kernel", "kernel_cpu"),
    ):
        values = [spread([each[key] for each in run["usage"]], 0) for run in (one, many)]
        table.append(f"| {text} | {values[0]} | {values[1]} |")
    slow = []
    for index, seconds in enumerate(one["cells"][0]):
        median = statistics.median(cells[index] for cells in many["cells"])
        worst = max(cells[index] for cells in many["cells"])
        lines = figures["lesson"][index].splitlines()
        shown = " … ".join(line.strip()[:45].replace("|", "\\|") for line in (lines[0], lines[-1]))
        times = f"{seconds:.2f} | {median:.2f} ({worst:.2f}) | {median / seconds:.0f}"
        slow.append((seconds, f"| `{shown}` | {times} |"))
    slow = [line for seconds, line in slow if seconds >= 0.2]
    told = [
        f"| {name} | {outcome['seconds']:.1f} | {figures['told'][name]} |"
        for name, outcome in figures["accidents"].items()
    ]
    note = f" {figures['note']}" if figures["note"] else ""
    return "\n".join(
        [
            "# A class on one machine",
            "",
            f"Measured by `make classroom` on {at['date']}: {at['cores']} cores,"
            f" {at['memory_gb']} GB, {at['system']}, Python {at['python']}; {versions}. One thread"
            " for each kernel. The script that plays the students runs on the same cores and opens"
            f" no browser windows. The load average was {at['load']:.2g} before the start.{note}",
            "",
            f"**{n} students, {len(many['failures'])} failures.** Each step begins when all"
            " students have finished the one before. Median (largest).",
            "",
            f"| | one student | {n} students |",
            "| --- | --- | --- |",
            *table,
            "",
            "Memory is the proportional set size after the last cell: pages that several students"
            f" share are divided among them. The Hub and its proxy take {figures['hub_mb']:.0f} MB,"
            f" and start in {figures['hub_start']:.1f} s.",
            "",
            "## Cells that take longer than a fifth of a second",
            "",
            f"| cell: first … last line | one student (s) | {n} students (s) | times as long |",
            "| --- | --- | --- | --- |",
            *slow,
            "",
            "## Accidents, while the class stays",
            "",
            "| what | seconds until it works again | what the student sees |",
            "| --- | --- | --- |",
            *told,
            "",
        ]
    )


def tell(outcome: dict) -> dict:
    """What the students see, in words."""
    words = {
        "kernel killed": "JupyterLab announces that the kernel died and restarts it; variables are"
        " gone, the notebook is not",
        "Hub restarted": "nothing: the kernel still has its variables",
        "server killed": "“Your server is not running. Would you like to start it?”; the notebook"
        " is there",
        "disk full": "",
    }
    assert outcome["kernel killed"]["message"] == "restarting"
    assert outcome["Hub restarted"]["message"] == "42"
    assert "Your server is not running. Would you" in outcome["server killed"]["message"]
    if "disk full" in outcome:
        message = outcome["disk full"]["message"].partition("(")[2].rstrip(")")
        words["disk full"] = f"“{message}” The version saved last is still there"
    return words


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--students", type=int, default=20)
    parser.add_argument("--note", default="", help="what else the machine did meanwhile")
    parser.add_argument("--folder", type=Path, default=HERE, help="where the results go")
    arguments = parser.parse_args()
    notebook = nbformat.read(ROOT / NOTEBOOK, as_version=4)
    figures = {"machine": machine(), "note": arguments.note, "lesson": lesson(notebook)}
    figures |= measure(arguments.students)
    figures["told"] = tell(figures["accidents"])
    rounded = json.loads(json.dumps(figures), parse_float=lambda text: round(float(text), 3))
    (arguments.folder / "classroom.json").write_text(
        json.dumps(rounded, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    page = report(rounded)
    (arguments.folder / "CLASSROOM.md").write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
