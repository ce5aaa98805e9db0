"""Every test, and every kernel that a test starts, runs without a network and without a cache."""

import os
import tempfile
from pathlib import Path

NO_NETWORK = Path(__file__).resolve().parent / "tests" / "no_network"

# --doctest-modules would import, that is run, the sources of the notebooks.
collect_ignore_glob = ["notebooks/*.py", "tests/no_network/*"]

os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(NO_NETWORK), os.environ.get("PYTHONPATH")])
)
os.environ["COURSE_DATA_DIR"] = tempfile.mkdtemp(prefix="course-data-")
os.environ["MPLBACKEND"] = "agg"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers share the cores

from tests.no_network import sitecustomize  # noqa: E402, F401 - this process was started without it
