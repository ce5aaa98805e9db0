"""Every test, and every kernel that a test starts, runs without a network and without a cache."""

import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent
NO_NETWORK = str(ROOT / "tests" / "no_network")

# --doctest-modules would import, that is run, the sources of the notebooks.
collect_ignore_glob = ["notebooks/*.py", "tests/no_network/*"]

sys.path[:0] = [
    *(str(ROOT / folder) for folder in ("tests", "tools", "slides", "benchmarks")),
    NO_NETWORK,
]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [NO_NETWORK, os.environ.get("PYTHONPATH")]))
os.environ["COURSE_DATA_DIR"] = tempfile.mkdtemp(prefix="course-data-")
os.environ["MPLBACKEND"] = "agg"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers share the cores

import sitecustomize  # noqa: E402, F401 - this process was started without it
