"""Rehearse a class: twenty students log in, pull the course and run a notebook at the same time.

    python -m benchmarks.classroom [--students 20] [--note TEXT]

starts the Hub of ``binder/jupyterhub`` on loopback, measures one student alone, then all of them,
and writes ``classroom.json``; ``make pages`` puts it into the pages. Each student runs sections 1
to 3 of the wine notebook, from the imports to the first trained network. Nothing leaves the
machine: the course is pulled from a clone that is served on loopback.
"""

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import psutil

from benchmarks import measure
from benchmarks.hub import ROOT, Hub, Student, served
from tools import catalogue
from tools.ports import wait_until

NOTEBOOK = f"course/notebooks/{catalogue.find('wine').file}.ipynb"
PACKAGES = ["jupyterhub", "jupyterlab", "jupyter_server", "ipykernel", "torch", "pyro-ppl"]


def open_notebook(student: Student) -> None:
    """Start its kernel, and wait until that answers."""
    student.kernel = student.open_kernel(NOTEBOOK)
    student.kernel.run("pass")


def run_lesson(student: Student) -> None:
    """Run the cells of sections 1 to 3, imports first; stop at the first failure."""
    cells = student.api("GET", f"/api/contents/{NOTEBOOK}").json()["content"]["cells"]
    end = next(i for i, cell in enumerate(cells) if cell["source"].startswith("## 4 "))
    for cell in cells[:end]:
        if cell["cell_type"] == "code":
            error = student.kernel.run(cell["source"])["error"]
            assert error is None, f"{student.name}: {error}\n{cell['source']}"


def usage(student: Student) -> dict:
    """MB (mb: shared pages are divided among those who share; rss: not) and processor seconds."""
    found = {}
    for kind, module in {"server": "jupyterhub.singleuser", "kernel": "ipykernel_launcher"}.items():
        [process] = student.hub.processes(student.name, module)
        memory = process.memory_full_info()
        found[f"{kind}_mb"], found[f"{kind}_rss"] = memory.pss / 1e6, memory.rss / 1e6
        found[f"{kind}_cpu"] = sum(process.cpu_times()[:4])  # children included
    return found


def rehearse(students: list[Student], repository: str) -> list[dict[str, float]]:
    """All go through the lesson together; each step begins when all are there."""
    steps = {
        "login": Student.login,
        "server": Student.start_server,
        "pull": lambda student: student.pull(repository),
        "kernel": open_notebook,
        "cells": run_lesson,
    }
    took = [{} for _ in students]
    for name, step in steps.items():
        timed = [partial(measure.seconds, partial(step, student)) for student in students]
        with ThreadPoolExecutor(len(students)) as pool:  # a failure of one ends the rehearsal
            for own, value in zip(took, pool.map(lambda each: each(), timed), strict=True):
                own[name] = value
    return [own | usage(student) for own, student in zip(took, students, strict=True)]


def run(count: int) -> dict:
    """The whole rehearsal."""
    names = [f"{number:02d}" for number in range(1, count + 1)]
    single = ["warm", "alone"]  # the first one only fills the machine's cache of files
    with Hub([*names, *single]) as hub, served(ROOT) as repository:
        for student in (Student(hub, name) for name in single):
            [alone] = rehearse([student], repository)
            student.api("DELETE", f"{student.user}/server").raise_for_status()
            wait_until(lambda: not hub.processes(), "the end of the server")
        return {
            "alone": alone,
            "class": rehearse([Student(hub, name) for name in names], repository),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--students", type=int, default=20)
    parser.add_argument("--note", default="", help="what else the machine did meanwhile")
    arguments = parser.parse_args()
    head = measure.origin(__spec__.name, PACKAGES)
    head |= {"note": arguments.note, "load": psutil.getloadavg()[0]}  # before the Hub starts
    figures = head | run(arguments.students)
    rounded = json.loads(json.dumps(figures), parse_float=lambda text: round(float(text), 3))
    measure.write(measure.place("classroom"), rounded)
    print("course: measured. Now make pages")


if __name__ == "__main__":
    main()
