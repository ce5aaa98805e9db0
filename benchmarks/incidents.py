"""What can go wrong in a class: the seconds until it works again; fails when anything is lost."""

import contextlib
import os
import signal
import time

import nbformat
from websocket import WebSocketTimeoutException

from benchmarks.hub import SMALL_MB, Hub, Kernel, Student, wait_until


def notebook(text: str) -> dict:
    """A notebook of one cell."""
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])


def kept(student: Student) -> str:
    """What is in the notebook that was saved last."""
    content = student.api("GET", "/api/contents/work.ipynb").json()["content"]
    return content["cells"][0]["source"]


def kill_kernel(kernel: Kernel) -> float:
    """As when memory runs out on the machine; the server says so, and starts another."""
    kernel.run("gone = 1")
    began = time.perf_counter()
    with contextlib.suppress(ConnectionAbortedError):
        kernel.run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
        raise AssertionError("nobody is told that the kernel died")

    def answers() -> bool:  # what is sent before it listens is lost
        with contextlib.suppress(ConnectionAbortedError, WebSocketTimeoutException):
            return kernel.run("pass", patience=5)["error"] is None
        return False

    wait_until(answers, "an answer of the restarted kernel")
    seconds = time.perf_counter() - began
    assert kernel.run("gone")["error"] == "NameError: name 'gone' is not defined"
    return seconds


def kill_server(hub: Hub, student: Student) -> float:
    """The student's whole server: the Hub's page says so, and offers another."""
    student.save("work.ipynb", notebook("kept")).raise_for_status()
    [server] = hub.processes(student.name, "jupyterhub.singleuser")
    began = time.perf_counter()
    server.kill()

    def offered() -> bool:
        page = student.browser.get(f"{student.address}/lab").text
        return "Your server is not running" in " ".join(page.split())

    wait_until(offered, "the page that says so")
    student.start_server()
    seconds = time.perf_counter() - began
    assert not hub.processes(student.name, "ipykernel_launcher"), "a kernel is left behind"
    assert kept(student) == "kept"
    return seconds


def kill_hub(hub: Hub, student: Student, kernel: Kernel) -> float:
    """The Hub ends at once, and is started anew; the kernel must not notice."""
    kernel.run("value = 42")
    began = time.perf_counter()
    os.killpg(hub.process.pid, signal.SIGKILL)  # the proxy is left behind
    hub.process.wait()
    hub.start()
    again = Kernel(kernel.url, student.token)
    assert again.run("print(value)")["text"].strip() == "42", "the kernel lost its variables"
    return time.perf_counter() - began


def fill_disk(student: Student) -> float:
    """Save a notebook, then one that does not fit: it is refused, and the first one stays."""
    student.save("work.ipynb", notebook("kept")).raise_for_status()
    began = time.perf_counter()
    answer = student.save("work.ipynb", notebook("x" * SMALL_MB * 2**20))
    seconds = time.perf_counter() - began
    assert "the disk is full" in answer.json()["message"]
    assert kept(student) == "kept"
    return seconds
