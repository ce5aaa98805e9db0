"""Setting up: what ``make env`` calls, and the files that it reads. Nothing is downloaded."""

import importlib.metadata as metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from unittest import mock

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tests.bad_input import raising
from tests.requirements import with_make
from tools import create_venv

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONSTRAINTS = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
TORCH = create_venv.pinned("torch")
COURSE = ["--quiet", "--constraint", "constraints.txt", "--editable"]


@pytest.fixture
def setup(tmp_path, monkeypatch):
    """Set up an empty course folder; ``pip`` and ``venv`` are recorded, not run."""
    venv = tmp_path / ".venv"
    places = {"ROOT": tmp_path, "VENV": venv, "STAMP": venv / "stamp", "PYTHON": venv / "python"}
    for name, path in places.items():
        monkeypatch.setattr(create_venv, name, path)
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    calls: list[list[str]] = []

    def run(command, **kwargs):
        calls.append([str(word) for word in command])
        if "venv" in command:
            venv.mkdir(exist_ok=True)
            (venv / "python").touch()
        return subprocess.CompletedProcess(command, main.pip() if "pip" in command else 0)

    monkeypatch.setattr(create_venv.subprocess, "run", run)

    def main(*arguments: str) -> list[list[str]]:
        calls.clear()
        monkeypatch.setattr(sys, "argv", ["create_venv.py", *arguments])
        create_venv.main()
        return [call[call.index("install") + 1 :] if "pip" in call else call for call in calls]

    main.calls, main.pip = calls, lambda: 0
    return main


def change_constraints() -> None:
    with (create_venv.ROOT / "constraints.txt").open("a") as file:
        file.write("# changed\n")


def test_torch_comes_first_and_alone(setup):
    (create_venv.ROOT / "tests").mkdir()
    venv, pip, torch, rest = setup()
    assert venv == [sys.executable, "-m", "venv", "--clear", str(create_venv.VENV)]
    assert pip == ["--quiet", "--upgrade", create_venv.pinned("pip")]
    assert torch == [TORCH] and rest == [*COURSE, ".[test]"]


def test_second_call_does_nothing_until_the_content_of_a_file_changes(setup):
    setup()
    assert setup() == []
    (create_venv.ROOT / "constraints.txt").touch()
    assert setup() == []
    change_constraints()
    assert [call[0] for call in setup()] == ["--quiet", TORCH, "--quiet"]  # updated in place
    create_venv.PYTHON.unlink()
    assert "--clear" in setup()[0]  # half removed, so made again


@pytest.mark.parametrize("pip", [raising(KeyboardInterrupt()), lambda: 1])
def test_a_setup_that_was_interrupted_or_failed_says_so_and_starts_over(setup, pip):
    setup.pip = pip
    with pytest.raises(SystemExit, match="^course: (interrupted|the installation failed)"):
        setup("--torch", "cpu")
    setup.pip = lambda: 0
    venv, _, torch, _ = setup()
    assert "--clear" in venv
    assert create_venv.CPU_WHEELS in torch  # still the variant that was asked for
    assert setup() == []


def test_wheels_without_cuda_only_for_torch_and_kept_by_later_calls(setup):
    setup()
    venv, pip, torch, rest = setup("--torch", "cpu")
    assert "--clear" in venv  # another build of the same version needs a new start
    assert torch == ["--extra-index-url", create_venv.CPU_WHEELS, TORCH]
    assert create_venv.CPU_WHEELS not in pip + rest
    assert setup() == []


def test_here_is_this_python_without_what_the_tests_need(setup):
    _, torch, rest = setup("--here", "--torch", "cpu")
    assert {call[0] for call in setup.calls} == {sys.executable}  # no venv
    assert create_venv.CPU_WHEELS in torch and rest == [*COURSE, "."]
    assert not create_venv.STAMP.exists()


# ------------------------------------------------------------------ one line for each obstacle


@pytest.mark.parametrize(
    ("obstacle", "message"),
    [
        (mock.patch.object(sys, "version_info", (3, 9, 1)), "3.11 or newer is needed, this is 3.9"),
        (
            mock.patch.dict(sys.modules, {"ensurepip": None}),
            "sudo apt install python3-venv",
        ),
        (mock.patch.object(os, "access", lambda *_: False), "no permission to write"),
    ],
)
def test_an_obstacle_is_named(setup, obstacle, message):
    with obstacle, pytest.raises(SystemExit, match=f"^course: .*{message}"):
        setup()
    assert setup.calls == []


@pytest.mark.parametrize(
    ("system", "arguments", "needed"),
    [
        ("linux", [], create_venv.GIGABYTES_WITH_CUDA),
        ("linux", ["--torch", "cpu"], create_venv.GIGABYTES_NEEDED),
        ("darwin", [], create_venv.GIGABYTES_NEEDED),
    ],
)
def test_no_space(setup, monkeypatch, system, arguments, needed):
    space = mock.Mock(free=(needed - 0.1) * 1e9)
    monkeypatch.setattr(create_venv.shutil, "disk_usage", lambda path: space)
    monkeypatch.setattr(create_venv.sys, "platform", system)
    wanted = f"^course: {needed} GB of free disk space are needed, .* has {needed - 0.1:.1f} GB"
    with pytest.raises(SystemExit, match=wanted):
        setup(*arguments)
    assert setup.calls == []
    space.free = needed * 1e9
    assert len(setup(*arguments)) == 4
    change_constraints()
    space.free = create_venv.GIGABYTES_NEEDED * 1e9  # an update needs no room for another torch
    assert len(setup(*arguments)) == 3


# ------------------------------------------------------------------ files that must agree


def test_every_dependency_is_pinned_inside_its_bounds():
    """No address, no host: the constraints are names and versions."""
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._]+", line) for line in CONSTRAINTS)
    pins = dict(line.split("==") for line in CONSTRAINTS)
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    for text in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]:
        wanted = Requirement(text)
        assert pins[canonicalize_name(wanted.name)] in wanted.specifier, text


def test_what_is_tested_installs_on_the_oldest_python():
    """Some releases need a later patch of Python 3.11 than Debian 12 has."""
    for found in metadata.distributions():
        wanted = SpecifierSet(found.metadata.get("Requires-Python") or "")
        assert wanted.contains("3.11.0"), f"{found.name} {found.version} needs Python {wanted}"


def test_conda_takes_everything_but_python_from_the_project():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, *rest = conda["dependencies"]
    assert SpecifierSet(python.removeprefix("python")) == SpecifierSet(PROJECT["requires-python"])
    assert rest == ["pip", {"pip": ["--constraint constraints.txt", "--editable .[test]"]}]


@with_make
def test_help_lists_every_target():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split()
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert re.findall(r"^make (\S+)", done.stdout, re.MULTILINE) == targets
