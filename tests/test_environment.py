"""Setting up: what make calls, without downloading anything."""

import builtins
import hashlib
import importlib.metadata as metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import environment

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONSTRAINTS = (ROOT / "constraints.txt").read_text().splitlines()


@pytest.fixture
def course(tmp_path, monkeypatch):
    """An empty course folder; ``pip`` and ``venv`` are recorded, not run."""
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    venv = tmp_path / ".venv"
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(environment, "VENV", venv)
    monkeypatch.setattr(environment, "STAMP", venv / "stamp")
    monkeypatch.setattr(environment, "PYTHON", venv / "python")
    calls = []

    class Done:
        returncode = 0

    def run(command, **kwargs):
        calls.append([str(word) for word in command])
        if "venv" in command:
            venv.mkdir(exist_ok=True)
            (venv / "python").touch()
        return Done()

    monkeypatch.setattr(environment.subprocess, "run", run)
    monkeypatch.setattr(sys, "argv", ["environment.py"])
    return calls


def failing_pip(error):
    def pip_install(*arguments):
        raise error

    return pip_install


def test_torch_comes_first_and_alone(course):
    environment.main()
    assert course[0][1:3] == ["-m", "venv"]
    pip, torch, rest = (call[call.index("install") + 1 :] for call in course[1:])
    assert pip[:2] == ["--quiet", "--upgrade"]
    assert torch == ["torch==2.13.0"]
    assert rest == ["--quiet", "--constraint", "constraints.txt", "--editable", ".[test]"]


def test_second_call_does_nothing_until_a_file_changes(course):
    environment.main()
    course.clear()
    environment.main()
    assert course == []
    with (environment.ROOT / "constraints.txt").open("a") as file:
        file.write("# changed\n")
    environment.main()
    assert len(course) == 3 and "venv" not in course[0]  # updated in place


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit("course: no network")])
def test_interrupted_setup_starts_over(course, monkeypatch, error):
    monkeypatch.setattr(sys, "argv", ["environment.py", "--torch", "cpu"])
    pip_install = environment.pip_install
    monkeypatch.setattr(environment, "pip_install", failing_pip(error))
    with pytest.raises(SystemExit, match="course: "):
        environment.main()
    monkeypatch.setattr(environment, "pip_install", pip_install)
    monkeypatch.setattr(sys, "argv", ["environment.py"])
    course.clear()
    environment.main()
    assert "--clear" in course[0]
    assert environment.CPU_WHEELS in course[2]  # still the variant that was asked for
    course.clear()
    environment.main()
    assert course == []


def test_half_removed_environment_is_made_again(course):
    environment.main()
    environment.PYTHON.unlink()
    course.clear()
    environment.main()
    assert "--clear" in course[0]


def test_cpu_wheels_only_for_torch_and_kept_by_later_calls(course, monkeypatch):
    environment.main()
    course.clear()
    monkeypatch.setattr(sys, "argv", ["environment.py", "--torch", "cpu"])
    environment.main()
    assert "--clear" in course[0]  # another build of the same version needs a new start
    assert [environment.CPU_WHEELS in call for call in course] == [False, False, True, False]
    course.clear()
    monkeypatch.setattr(sys, "argv", ["environment.py"])
    environment.main()
    assert course == []


def test_here_is_this_python_without_what_the_tests_need(course, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["environment.py", "--here", "--torch", "cpu"])
    environment.main()
    assert [call[0] for call in course] == [sys.executable] * 3  # no venv
    torch, rest = (call[call.index("install") + 1 :] for call in course[1:])
    assert torch == ["--extra-index-url", environment.CPU_WHEELS, "torch==2.13.0"]
    assert rest == ["--quiet", "--constraint", "constraints.txt", "--editable", "."]
    assert not environment.STAMP.exists()


def test_old_python(monkeypatch):
    monkeypatch.setattr(environment.sys, "version_info", (3, 9, 1))
    with pytest.raises(SystemExit, match="3.11 or newer is needed, this is 3.9.1. Remedy"):
        environment.check_machine()


def test_no_venv_module(monkeypatch):
    found = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "ensurepip":
            raise ImportError(name)
        return found(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(SystemExit, match="Remedy on Debian: sudo apt install python3-venv"):
        environment.check_machine()


def test_no_space(monkeypatch):
    usage = type("Usage", (), {"free": 1.2e9})
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(SystemExit, match="4 GB of free disk space are needed, .* has 1.2 GB"):
        environment.check_machine()


def test_no_permission(monkeypatch):
    monkeypatch.setattr(environment.os, "access", lambda path, mode: False)
    with pytest.raises(SystemExit, match="no permission to write"):
        environment.check_machine()


def test_without_network_pip_fails_with_one_line_and_the_next_call_starts_over(tmp_path):
    """For real: a new environment whose pip can reach nothing."""
    (tmp_path / "tools").mkdir()
    for name in ("pyproject.toml", "constraints.txt", "tools/environment.py"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    # An empty configuration and no index: neither network nor local files.
    env = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")}
    env |= {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    command = [sys.executable, "tools/environment.py"]
    for _ in range(2):
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith("course: the installation failed")
        assert "creating" in done.stdout


# ------------------------------------------------------------------ files that must agree


def test_every_dependency_is_pinned_inside_its_bounds():
    pins = dict(line.split("==") for line in CONSTRAINTS)
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    assert pins["torch"] == "2.13.0"
    for text in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]:
        need = Requirement(text)
        assert pins[canonicalize_name(need.name)] in need.specifier
        assert {spec.operator for spec in need.specifier} == {">="}  # loose lower bounds


def test_conda_environment_takes_everything_from_the_project():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert conda["channels"] == ["conda-forge"]
    python, pip, lines = conda["dependencies"]
    assert SpecifierSet(python.removeprefix("python")) == SpecifierSet(PROJECT["requires-python"])
    assert pip == "pip"
    pin = environment.pinned("torch")
    assert lines == {"pip": ["--constraint constraints.txt", pin, "--editable .[test]"]}


def test_no_file_address_and_no_host_in_the_constraints():
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._]+", line) for line in CONSTRAINTS)


@pytest.mark.skipif(not shutil.which("make"), reason="no make: see the README for Windows")
def test_help_lists_every_target():
    text = (ROOT / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split()
    command = ["make", "--no-print-directory", "help"]  # the tests may run inside make
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert [line.split()[1] for line in done.stdout.splitlines()] == targets


def test_fingerprint_follows_content_not_dates():
    files = [(ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt")]
    assert environment.fingerprint() == hashlib.sha256(b"".join(files)).hexdigest()


def test_the_readme_names_only_what_exists():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = set(re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split())
    assert {"lab", "test"} <= set(re.findall(r"^make (\w+)", text, re.M)) <= targets
    files = re.findall(r"\b(?:tools|data|notebooks)[/\\][\w.]+\.\w+", text)
    assert files
    for name in set(files) - {"notebooks/NAME.py", "notebooks/NAME.ipynb"}:
        assert (ROOT / name.replace("\\", "/")).is_file(), name


def test_the_workflow_runs_the_readmes_commands_everywhere_and_weekly():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    when, job = workflow[True], workflow["jobs"]["test"]  # YAML reads the key "on" as true
    assert "push" in when and when["schedule"][0]["cron"].endswith("* * 1")
    systems = {name.split("-")[0] for name in job["strategy"]["matrix"]["os"]}
    assert systems == {"ubuntu", "macos", "windows"}
    commands = " ".join(step.get("run", "") for step in job["steps"])
    assert "make test" in commands and r"tools\environment.py" in commands


def test_what_is_tested_installs_on_the_oldest_python():
    """Some releases need a later patch of Python 3.11 than Debian 12 has."""
    for found in metadata.distributions():
        wanted = SpecifierSet(found.metadata.get("Requires-Python") or "")
        assert wanted.contains("3.11.0"), f"{found.name} {found.version} needs Python {wanted}"
