"""Setting up: what make calls, without downloading anything."""

import ast
import builtins
import hashlib
import importlib.metadata as metadata
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tests import browser as chromium
from tests.requirements import with_make
from tools import create_venv as environment

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONSTRAINTS = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()


@pytest.fixture
def course(tmp_path, monkeypatch):
    """An empty course folder; ``pip`` and ``venv`` are recorded, not run."""
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
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
        environment.check_machine(0)


@pytest.mark.parametrize("tool", ["environment", "links"])
def test_an_old_python_can_read_what_it_runs(tool):
    """Annotations of functions are evaluated, so they must be names; see PEP 604."""
    source = (ROOT / "tools" / f"{tool}.py").read_text(encoding="utf-8")
    nodes = list(ast.walk(ast.parse(source, feature_version=(3, 7))))
    annotations = [node.annotation for node in nodes if isinstance(node, (ast.arg, ast.AnnAssign))]
    annotations += [node.returns for node in nodes if isinstance(node, ast.FunctionDef)]
    assert len(annotations) > 5
    for annotation in filter(None, annotations):
        assert isinstance(annotation, (ast.Name, ast.Constant)), ast.unparse(annotation)


def older_pythons() -> list[str]:
    """Interpreters of this machine that are too old for the course, and that do start."""
    found = filter(None, (shutil.which(f"python3.{minor}") for minor in range(6, 11)))
    return [
        path
        for path in found
        if not subprocess.run([path, "-c", ""], capture_output=True).returncode
    ]


def test_an_old_python_says_one_line():
    """For real, where there is one."""
    olds = older_pythons()
    if not olds:
        pytest.skip("no Python below 3.11 on this machine")
    for old in olds:
        command = [old, str(ROOT / "tools" / "environment.py"), "--torch", "cpu"]
        if environment.installed() == (environment.fingerprint(), "cpu"):
            command[-1] = "default"  # else there would be nothing to do
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 1 and done.stdout == ""
        assert re.fullmatch("course: Python 3.11 or newer is needed, .*\n", done.stderr), (
            done.stderr
        )


def test_no_venv_module(monkeypatch):
    found = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "ensurepip":
            raise ImportError(name)
        return found(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(SystemExit, match="Remedy on Debian: sudo apt install python3-venv"):
        environment.check_machine(0)


def with_space(monkeypatch, gigabytes: float, system: str, *arguments: str) -> None:
    usage = type("Usage", (), {"free": gigabytes * 1e9})
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(environment.sys, "platform", system)
    monkeypatch.setattr(sys, "argv", ["environment.py", *arguments])
    environment.main()


@pytest.mark.parametrize(
    ("system", "arguments", "needed"),
    [
        ("linux", ["--torch", "cpu"], 4),
        ("linux", [], 12),  # with CUDA
        ("darwin", [], 4),
        ("win32", [], 4),
    ],
)
def test_no_space(course, monkeypatch, system, arguments, needed):
    wanted = f"^course: {needed} GB of free disk space are needed, .* has {needed - 0.1:.1f} GB"
    with pytest.raises(SystemExit, match=f"{wanted}. Remedy") as stopped:
        with_space(monkeypatch, needed - 0.1, system, *arguments)
    assert ("TORCH=cpu, which needs 4 GB" in str(stopped.value)) == (needed > 4)
    assert course == []
    with_space(monkeypatch, needed, system, *arguments)
    assert len(course) == 4


def test_an_update_needs_no_room_for_another_torch(course, monkeypatch):
    with_space(monkeypatch, 12, "linux")
    course.clear()
    with (environment.ROOT / "constraints.txt").open("a") as file:
        file.write("# changed\n")
    with_space(monkeypatch, 4, "linux")
    assert len(course) == 3


def test_no_permission(monkeypatch):
    monkeypatch.setattr(environment.os, "access", lambda path, mode: False)
    with pytest.raises(SystemExit, match="no permission to write"):
        environment.check_machine(0)


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
    conda = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert conda["channels"] == ["conda-forge"]
    python, pip, lines = conda["dependencies"]
    assert SpecifierSet(python.removeprefix("python")) == SpecifierSet(PROJECT["requires-python"])
    assert pip == "pip"
    pin = environment.pinned("torch")
    assert lines == {"pip": ["--constraint constraints.txt", pin, "--editable .[test]"]}


def test_no_file_address_and_no_host_in_the_constraints():
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._]+", line) for line in CONSTRAINTS)


@with_make
def test_help_lists_every_target():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split()
    command = ["make", "--no-print-directory", "help"]  # the tests may run inside make
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert [line.split()[1] for line in done.stdout.splitlines()] == targets


def test_fingerprint_follows_content_not_dates():
    files = [(ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt")]
    assert environment.fingerprint() == hashlib.sha256(b"".join(files)).hexdigest()


def test_the_readme_names_only_what_exists():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = set(
        re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)[
            1
        ].split()
    )
    assert {"lab", "test"} <= set(re.findall(r"^make (\w+)", text, re.M)) <= targets
    files = re.findall(r"\b(?:tools|data|notebooks)[/\\][\w.]+\.\w+", text)
    assert files
    for name in set(files) - {"notebooks/NAME.py", "notebooks/NAME.ipynb"}:
        assert (ROOT / name.replace("\\", "/")).is_file(), name


def test_the_workflow_runs_the_readmes_commands_everywhere_and_weekly():
    workflow = yaml.safe_load(
        (ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")
    )
    when, job = workflow[True], workflow["jobs"]["test"]  # YAML reads the key "on" as true
    assert "push" in when and when["schedule"][0]["cron"].endswith("* * 1")
    systems = {name.split("-")[0] for name in job["strategy"]["matrix"]["os"]}
    assert systems == {"ubuntu", "macos", "windows"}
    commands = " ".join(step.get("run", "") for step in job["steps"])
    assert "make test" in commands and r"tools\environment.py" in commands


def test_the_workflow_installs_on_linux_what_the_gate_installs():
    workflow = yaml.safe_load(
        (ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")
    )
    steps = workflow["jobs"]["test"]["steps"]
    linux = [step["run"] for step in steps if step.get("if") == "runner.os == 'Linux'"]
    tests = [number for number, step in enumerate(steps) if "make test" in step.get("run", "")]
    assert len(linux) == 1 and steps[tests[0] - 1]["run"] == linux[0]
    gate = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    folders = re.findall(r"^\(cd \S+ && npm ci .*\)$", gate, re.M)
    assert len(folders) == len(list(ROOT.glob("*/package.json"))) + 1
    for what in (*folders, "libatomic1", "fonts-liberation", "COURSE_REQUIRE=browser"):
        assert what in gate and what in linux[0], what


def test_no_browser_test_is_skipped_where_all_are_required(monkeypatch):
    monkeypatch.setattr(chromium.build, "browser", lambda: "a browser")
    monkeypatch.setitem(sys.modules, "playwright", None)  # as if it were not installed
    monkeypatch.setenv("COURSE_REQUIRE", "browser")
    either = (pytest.fail.Exception, pytest.skip.Exception)  # else a skip would skip this test
    with pytest.raises(either, match="playwright") as required:
        chromium.chromium().__enter__()
    monkeypatch.delenv("COURSE_REQUIRE")
    with pytest.raises(either, match="playwright") as wished:
        chromium.chromium().__enter__()
    assert (required.type, wished.type) == either


def limits() -> tuple[int, int]:
    """Seconds for a test and for a cell, from pyproject.toml."""
    options = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]
    words = options["ini_options"]["addopts"]
    return tuple(
        int(re.search(rf"--{name}=(\d+)", words)[1]) for name in ("timeout", "nbval-cell-timeout")
    )


def test_a_cell_is_interrupted_before_its_test_is_given_up():
    test, cell = limits()
    assert 600 <= cell < test <= 900


HANGING = """
import threading

def test_hangs():
    threading.Event().wait()

def test_goes_on():
    pass
"""


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="here a test that hangs ends its worker")
def test_a_test_that_hangs_fails_and_the_others_go_on(tmp_path, pytestconfig):
    assert pytestconfig.getoption("timeout") is not None
    (tmp_path / "test_hanging.py").write_text(HANGING, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadfile", "--timeout=1"]
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=100
    )
    assert re.search("FAILED test_hanging.py::test_hangs .*Timeout", done.stdout), done.stdout
    assert "1 failed, 1 passed" in done.stdout


def test_what_is_tested_installs_on_the_oldest_python():
    """Some releases need a later patch of Python 3.11 than Debian 12 has."""
    for found in metadata.distributions():
        wanted = SpecifierSet(found.metadata.get("Requires-Python") or "")
        assert wanted.contains("3.11.0"), f"{found.name} {found.version} needs Python {wanted}"
