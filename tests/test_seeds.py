"""The checkpoints hold for a seed that nobody has looked at, with one thread.

``benchmarks/seeds.py`` runs ten seeds with one and with two threads; this repeats a part of it.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import notebooks as tool

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.skipif(sys.platform == "win32", reason="the command measures memory, not on Windows")
@pytest.mark.parametrize("name", tool.names())
def test_another_seed(name):
    options = ["run", name, "--seed", "4", "--threads", "1"]
    command = [sys.executable, str(ROOT / "tools" / "notebooks.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["parameters"] == {"SEED": 4, "THREADS": 1}
