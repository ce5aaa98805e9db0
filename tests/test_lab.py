"""``make lab`` serves the notebooks."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

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
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate()


def get(address: str, token: str = "") -> bytes:
    request = urllib.request.Request(address, headers={"Authorization": f"token {token}"})
    for _ in range(300):
        try:
            return urllib.request.urlopen(request).read()
        except urllib.error.HTTPError:
            raise
        except urllib.error.URLError:  # not listening yet
            time.sleep(0.2)
    raise TimeoutError(address)


def test_lab_serves_the_notebooks_and_a_kernel_to_those_who_know_the_token(server):
    address, token = server
    listing = json.loads(get(f"{address}/api/contents", token))
    assert "bayesian_neural_networks_wine.ipynb" in [entry["name"] for entry in listing["content"]]
    assert b"jupyter-config-data" in get(f"{address}/lab", token)
    kernels = json.loads(get(f"{address}/api/kernelspecs", token))
    assert "python3" in kernels["kernelspecs"]
    with pytest.raises(urllib.error.HTTPError, match="403"):
        get(f"{address}/api/contents", "wrong")
