"""What Binder would build: rendered by repo2docker's own library, its steps checked and run."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from binder import rehearse, warm
from tools import catalogue, run_notebook

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="images are built on Linux")


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A copy, so that nothing of this checkout but its files decides."""
    folder = tmp_path_factory.mktemp("repository")
    rehearse.copy_repository(folder)
    return folder


@pytest.fixture(scope="module")
def dockerfile(repository):
    return rehearse.dockerfile(repository)


def test_a_download_without_git_is_copied_too(tmp_path, monkeypatch):
    """What is built, and what students write, stays behind."""
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "mine.ipynb").touch()
    (tmp_path / "README.md").touch()
    monkeypatch.setattr(rehearse, "ROOT", tmp_path)
    rehearse.copy_repository(tmp_path / "build" / "copy")
    copied = [path.name for path in (tmp_path / "build" / "copy").iterdir()]
    assert copied == ["README.md"]


def test_conda_brings_only_python_and_what_a_hub_needs(repository):
    """All else is what pyproject.toml asks for, see below."""
    with contextlib.chdir(repository):  # whose own environment.yml is there, and not read
        given = rehearse.build_pack(repository).environment_yaml["dependencies"]
    assert [name.partition("=")[0] for name in given] == ["python", "pip", "nbgitpuller"]


def run(steps: list[str], repository: Path, stubs: Path, script: str):
    """Steps of the image, with commands that do what a script says in place of their work."""
    for name in ("python", "jupyter"):
        (stubs / name).write_text(f"#!/bin/sh\n{script}\n")
        (stubs / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{stubs}{os.pathsep}{os.environ['PATH']}"}
    command = ["sh", "-ec", "\n".join(steps)]
    return subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True)


def test_post_build_installs_what_pyproject_asks_for(repository, dockerfile, tmp_path):
    """What ``--here`` installs is tested with create_venv: torch alone, then the course."""
    before, after = rehearse.steps(dockerfile)
    assert "pip install" not in "".join(before)  # before the files are there
    done = run(after, repository, tmp_path, 'echo "$(basename $0) $*, cache $PIP_NO_CACHE_DIR"')
    install, warmed, trusted = done.stdout.splitlines()
    assert install == "python tools/create_venv.py --here --torch cpu, cache 1"
    assert warmed.startswith("python -m binder.warm")
    assert trusted.count(".ipynb") == len(catalogue.files())


def test_post_build_stops_at_the_first_failure(repository, tmp_path):
    done = run(["binder/postBuild"], repository, tmp_path, 'echo "$0"; exit 7')
    assert done.returncode == 7 and len(done.stdout.splitlines()) == 1


def test_overrides_name_settings_that_jupyterlab_knows():
    shared = Path(sys.prefix) / "share/jupyter/lab"  # where the installation has put them
    for plugin, values in json.loads(
        (shared / "settings/overrides.d/course_utils.json").read_text()
    ).items():
        package, _, name = plugin.partition(":")
        schema = json.loads((shared / "schemas" / package / f"{name}.json").read_text())
        assert set(values) <= set(schema["properties"])


@pytest.mark.kernel
def test_first_cells_run_without_the_others():
    notebook = warm.head(catalogue.files()[0])
    run_notebook.execute(notebook)
    assert "parameters" in notebook.cells[-1].metadata.tags


def test_the_rehearsal_was_of_what_is_built_today(repository, dockerfile):
    stored = json.loads(rehearse.STORED.read_text(encoding="utf-8"))
    assert list(stored["seconds"]) == rehearse.steps(dockerfile)[1]
    assert stored["python"] == rehearse.build_pack(repository).python_version
    pin = f"torch=={stored['torch'].removesuffix('+cpu')};"
    assert pin in (ROOT / "constraints.txt").read_text(), "Remedy: make binder"
