"""What can go wrong in a class, done to a student of a running Hub.

Each function returns how long it took (seconds) and what the student was told.
"""

import contextlib
import time

from benchmarks.hub import Hub, Kernel, KernelDied, Student, page_text, wait_until

NOTEBOOK = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []}


def notebook(text: str) -> dict:
    """A notebook of one cell."""
    cell = {"cell_type": "markdown", "id": "a", "metadata": {}, "source": text}
    return NOTEBOOK | {"cells": [cell]}


def wait_for(kernel: Kernel) -> None:
    """Until a kernel that is being restarted answers; what is sent before it listens is lost."""

    def answers() -> bool:
        with contextlib.suppress(KernelDied, TimeoutError):
            kernel.run("pass", patience=5)
            return True
        return False

    wait_until(answers, "an answer of the restarted kernel")


def kill_kernel(kernel: Kernel) -> dict:
    """As when memory runs out on the machine; the server starts another."""
    began = time.perf_counter()
    try:
        kernel.run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
        raise AssertionError("the kernel survived")
    except KernelDied as death:
        told = str(death)
    wait_for(kernel)
    return {"seconds": time.perf_counter() - began, "message": told}


def kill_server(hub: Hub, student: Student) -> dict:
    """The student's whole server; returns with a new one."""
    processes = hub.student_processes(student.name.lower())
    server = next(each for each in processes if "jupyterhub.singleuser" in each.cmdline())
    began = time.perf_counter()
    server.kill()

    def page() -> str:
        return page_text(student.browser.get(f"{student.home}/lab").text)

    wait_until(lambda: "not running" in page(), "the page that says so")
    told = page()
    student.start_server()
    return {"seconds": time.perf_counter() - began, "message": told}


def restart_hub(hub: Hub, student: Student, kernel: Kernel) -> dict:
    """Hub and proxy end and come again; the kernel must not notice."""
    kernel.run("kept = 42")
    began = time.perf_counter()
    hub.stop()
    hub.start()
    again = Kernel(kernel.url, student.token)
    kept = again.run("print(kept)")["text"].strip()
    return {"seconds": time.perf_counter() - began, "message": kept}


def fill_disk(student: Student, megabytes: int) -> dict:
    """Save a notebook, then one that does not fit; the first must stay."""
    small = notebook("kept")
    student.save("work.ipynb", small).raise_for_status()
    began = time.perf_counter()
    answer = student.save("work.ipynb", notebook("x" * megabytes * 10**6))
    seconds = time.perf_counter() - began
    assert not answer.ok, "the notebook fitted"
    kept = student.api("GET", "/api/contents/work.ipynb").json()["content"]["cells"]
    assert [cell["source"] for cell in kept] == ["kept"], "the notebook is lost"
    return {"seconds": seconds, "status": answer.status_code, "message": answer.json()["message"]}
