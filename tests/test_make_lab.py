"""``make lab`` serves the notebooks."""

import json
import sys
import urllib.error
from pathlib import Path

import pytest

from tests.jupyter_server import TOKEN, ask, served
from tests.requirements import with_make
from tools import catalogue
from tools.ports import free_ports

ROOT = Path(__file__).resolve().parents[1]


@with_make
@pytest.mark.kernel
@pytest.mark.skipif(Path(sys.prefix) != ROOT / ".venv", reason="make lab uses .venv")
def test_lab_serves_the_notebooks_and_a_kernel_to_those_who_know_the_token(tmp_path):
    [port] = free_ports(1)
    arguments = f"ARGS=--no-browser --port={port} --IdentityProvider.token={TOKEN}"
    address = f"http://127.0.0.1:{port}"
    with served(["make", "lab", arguments], address, tmp_path / "log", cwd=ROOT):
        listing = json.loads(ask(f"{address}/api/contents"))
        names = {entry["name"] for entry in listing["content"]}
        assert {f"{name}.ipynb" for name in catalogue.files()} <= names
        assert b"jupyter-config-data" in ask(f"{address}/lab")
        assert "python3" in json.loads(ask(f"{address}/api/kernelspecs"))["kernelspecs"]
        with pytest.raises(urllib.error.HTTPError, match="403"):
            ask(f"{address}/api/contents", "wrong")
