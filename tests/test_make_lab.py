"""``make lab`` serves the notebooks."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests import jupyter_server as lab
from tests.requirements import with_make

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def server():
    """JupyterLab as ``make lab`` starts it, on a free port; yields address and token."""
    if Path(sys.prefix) != ROOT / ".venv":
        pytest.skip("make lab uses .venv, these tests run in another environment")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = "secret-of-this-test"
    arguments = f"--no-browser --port={port} --IdentityProvider.token={token}"
    process = subprocess.Popen(
        ["make", "lab", f"ARGS={arguments}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    yield f"http://127.0.0.1:{port}", token
    end(process, patience=120)


def end(process: subprocess.Popen, patience: float) -> None:
    """End a process and its children, by force after a while; then the test has failed."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=patience)
        pytest.fail(f"{process.args} did not end within {patience} seconds")


def get(address: str, token: str = "") -> bytes:
    request = urllib.request.Request(address, headers={"Authorization": f"token {token}"})
    for _ in lab.tries(address):
        try:
            return urllib.request.urlopen(request, timeout=60).read()
        except urllib.error.HTTPError:
            raise
        except urllib.error.URLError:  # not listening yet
            pass


@with_make
def test_lab_serves_the_notebooks_and_a_kernel_to_those_who_know_the_token(server):
    address, token = server
    listing = json.loads(get(f"{address}/api/contents", token))
    assert "bayesian_neural_networks_wine.ipynb" in [entry["name"] for entry in listing["content"]]
    assert b"jupyter-config-data" in get(f"{address}/lab", token)
    kernels = json.loads(get(f"{address}/api/kernelspecs", token))
    assert "python3" in kernels["kernelspecs"]
    with pytest.raises(urllib.error.HTTPError, match="403"):
        get(f"{address}/api/contents", "wrong")


# ------------------------------------------------------------------ nobody waits for ever


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="this system has no groups of processes")
def test_what_does_not_end_is_killed():
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    command = [sys.executable, "-c", f"{code}; print('ready', flush=True); time.sleep(60)"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout.readline() == "ready\n"
    with pytest.raises(pytest.fail.Exception, match="did not end within 0.5 seconds"):
        end(process, patience=0.5)
    assert process.returncode == -signal.SIGKILL


def test_a_server_that_never_answers_is_given_up(monkeypatch, tmp_path):
    monkeypatch.setattr(lab, "PATIENCE", 0.5)
    (tmp_path / "log").write_text("it never came", encoding="utf-8")
    with socket.socket() as taken:  # bound, but not listening
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as alive:
            with pytest.raises(TimeoutError, match="an answer of JupyterLab"):
                lab.wait_for(address, alive, tmp_path / "log")
        with pytest.raises(RuntimeError, match="it never came"):
            lab.wait_for(address, alive, tmp_path / "log")
        with pytest.raises(TimeoutError, match=address):
            get(address)


def test_an_answer_that_never_comes_is_given_up(monkeypatch):
    asked = urllib.request.urlopen
    monkeypatch.setattr(
        lab.urllib.request,
        "urlopen",
        lambda request, timeout: asked(request, timeout=timeout / 100),
    )
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connected, but never served
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        for ask in (lab.ask, get):
            with pytest.raises(TimeoutError):
                ask(address)


def test_tries_end_in_a_failure(monkeypatch):
    monkeypatch.setattr(lab, "PATIENCE", 0.5)
    paused = []
    with pytest.raises(TimeoutError, match="the moon: not within 0.5 seconds"):
        list(lab.tries("the moon", lambda seconds: paused.append(lab.time.sleep(seconds))))
    assert 2 <= len(paused) <= 4
    assert next(lab.tries("the sun")) is None  # once at least
