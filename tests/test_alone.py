"""A notebook that was opened alone fetches its course, and changes no package that is there."""

import importlib.metadata as metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from tests.wheels import NEEDED, PINNED, real_wheel, stub_wheels
from tools import catalogue, notebook_sources

TAG = f"v{catalogue.version()}"
OLD = {"torch": "1.0+cu99", "tqdm": "4.1", "numpy": "1.0"}  # older than the course wants
NOTICE = "def notice(tag):\n    print('copy of', tag)\n"


def first_cell(monkeypatch, address: str) -> str:
    """The first cell of code of a notebook, as ``make links`` with this address writes it."""
    monkeypatch.setattr(catalogue, "published", lambda: mock.Mock(address=address))
    return notebook_sources.code_cells(notebook_sources.read("flows"))[0].source


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """The course as a git repository, with its tag."""
    course = tmp_path_factory.mktemp("published") / "the course"
    skipped = shutil.ignore_patterns("__pycache__")
    shutil.copytree(catalogue.ROOT / "course_utils", course / "course_utils", ignore=skipped)
    (course / "course_utils" / "copies.py").write_text(NOTICE)
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(catalogue.ROOT / name, course)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a", "-C", str(course)]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "Course"], ["tag", TAG]):
        subprocess.run([*git, *words], check=True)
    return course


class Bare:
    """A Python of its own, which has pip and some old packages, and folders for what it finds."""

    def __init__(self, folder: Path, old: dict[str, str]) -> None:
        self.place, self.wheels, there = folder / "a folder", folder / "wheels", folder / "there"
        self.place.mkdir()
        self.python = folder / "v" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "v"], check=True)
        stub_wheels(there, old)
        real_wheel(there, "pip")
        pip = [sys.executable, "-m", "pip", "--python", self.python, "install", "-q", "--no-index"]
        subprocess.run([*pip, "--no-deps", *there.iterdir()], check=True)

    def run(self, code: str) -> subprocess.CompletedProcess:
        """Run a cell as the first of a kernel."""
        pip = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels)}
        env = os.environ | pip | {"PIP_CONFIG_FILE": os.devnull}
        command = [self.python, "-c", code]
        return subprocess.run(command, cwd=self.place, env=env, capture_output=True, text=True)

    def packages(self) -> dict[str, str]:
        site = next(self.python.parents[1].rglob("site-packages"))
        return {each.name: each.version for each in metadata.distributions(path=[str(site)])}


def test_the_course_is_fetched_and_only_what_is_missing_is_added(tmp_path, monkeypatch, published):
    bare = Bare(tmp_path, OLD)
    stub_wheels(bare.wheels, {name: PINNED[name] for name in NEEDED})
    stub_wheels(bare.wheels, {"zuko": "99"})  # newer than what is tested
    cell = first_cell(monkeypatch, str(published))
    asks = "\nimport course_utils, zuko\nprint(course_utils.__file__)"
    before, done = bare.packages(), bare.run(cell + asks)
    assert done.returncode == 0, done.stderr
    assert f"copy of {TAG}\n{bare.place / 'course' / 'course_utils'}" in done.stdout
    added = NEEDED - set(OLD) - {"ipykernel", "jupyterlab", "jupytext"}
    assert bare.packages() == before | {name: PINNED[name] for name in added}
    again = bare.run(cell)  # the next day
    assert (again.returncode, again.stdout) == (0, f"copy of {TAG}\n"), again.stderr


def test_other_versions_where_the_tested_ones_would_change_what_is_there(tmp_path, published):
    """And one line below pip's where there are none."""
    old = dict.fromkeys(NEEDED - {"zuko"}, "0.1")
    bare = Bare(tmp_path, old)
    code = f"import sys; sys.path.insert(0, {str(published)!r})\n"
    code += "from course_utils.alone import add_missing; add_missing()"
    assert "\ncourse: pip failed" in bare.run(code).stderr
    stub_wheels(bare.wheels, {"zuko": PINNED["zuko"]}, requires="tqdm>=4.66")
    stub_wheels(bare.wheels, {"zuko": "1.3.0", "tqdm": "4.99"})
    assert bare.run(code).returncode == 0
    assert bare.packages() == old | {"zuko": "1.3.0", "pip": PINNED["pip"]}


SHELL = """import sys
sys.modules |= {"course_utils": None, "course_utils.copies": None}  # as if not installed
from IPython.core.interactiveshell import InteractiveShell
InteractiveShell.instance().run_cell(sys.argv[1])"""


@pytest.mark.parametrize("address", ["", "/nowhere/course", "published"])
def test_without_the_course_one_line_says_where_it_is(tmp_path, monkeypatch, published, address):
    """Where nothing can be fetched, or the course lies beside and only the kernel is wrong."""
    if address == "published":
        address = str(published)
        (tmp_path / "course_utils").mkdir()
    (tmp_path / "work").mkdir()
    command = [sys.executable, "-c", SHELL, first_cell(monkeypatch, address)]
    env = os.environ | {"IPYTHONDIR": str(tmp_path / "ipython")}
    done = subprocess.run(command, cwd=tmp_path / "work", env=env, capture_output=True, text=True)
    told = f"fetch all of it from {address} ({TAG})" if address else "ask for all of it"
    if (tmp_path / "course_utils").is_dir():
        told = "choose the kernel"
    assert done.stdout.startswith("course: ") and f". Remedy: {told}" in done.stdout
    assert done.stdout.count("\n") == 1
    assert not list((tmp_path / "work").iterdir())
