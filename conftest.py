"""No test needs a network or a cache; notebooks are run as by a student who solved everything."""

import os
import tempfile
from pathlib import Path
from unittest import mock

import hypothesis
import nbval.plugin
import pytest

NO_NETWORK = Path(__file__).resolve().parent / "tests" / "no_network"

# --doctest-modules would import, that is run, the sources of the notebooks.
collect_ignore_glob = ["notebooks/*.py", "tests/no_network/*"]

os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(NO_NETWORK), os.environ.get("PYTHONPATH")])
)
os.environ["COURSE_DATA_DIR"] = tempfile.mkdtemp(prefix="course-data-")
os.environ["MPLBACKEND"] = "agg"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers share the cores

# The same examples everywhere: a new failure comes from the change, not from chance.
hypothesis.settings.register_profile("course", derandomize=True)
hypothesis.settings.load_profile("course")

# This process was started without the guard, and every kernel is started with it.
from tests.no_network import sitecustomize  # noqa: E402, F401
from tools import notebook_sources  # noqa: E402

COLLECT = nbval.plugin.IPyNbFile.collect


def collect_solved(self):
    """The cells of a notebook whose solutions are typed into their stubs before nbval runs it.

    They are marked ``notebook``, and ``mistake(row)`` where a tag ``mistake-ROW`` says so.
    """
    read = nbval.plugin.nbformat.read

    def solved(*args, **kwargs):
        return notebook_sources.type_in(read(*args, **kwargs))

    with mock.patch.object(nbval.plugin.nbformat, "read", solved):
        cells = list(COLLECT(self))
    for cell in cells:
        cell.add_marker("notebook")
        for tag in notebook_sources.tags(cell.cell):
            if tag.startswith("mistake-"):
                cell.add_marker(pytest.mark.mistake(tag.removeprefix("mistake-")))
    return cells


nbval.plugin.IPyNbFile.collect = collect_solved
