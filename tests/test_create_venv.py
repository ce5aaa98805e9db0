"""Setting up: what ``make env`` does to a folder, and the files it reads; without a network."""

import filecmp
import importlib.metadata as metadata
import itertools
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path
from unittest import mock

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tests import wheels
from tests.bad_input import raising
from tests.requirements import with_git, with_make
from tools import create_venv

ROOT = Path(__file__).resolve().parents[1]
PINNED = ["--constraint", "constraints.txt"]


@pytest.fixture
def setup(tmp_path, monkeypatch):
    """Set up an empty course folder; ``pip`` and ``venv`` are recorded, not run."""
    venv = tmp_path / ".venv"
    places = {"ROOT": tmp_path, "VENV": venv, "STAMP": venv / "stamp", "PYTHON": venv / "python"}
    for name, path in places.items():
        monkeypatch.setattr(create_venv, name, path)
    monkeypatch.setattr(create_venv.sys, "platform", "linux")
    monkeypatch.setattr(create_venv.shutil, "which", lambda name: None)  # no uv
    monkeypatch.setattr(create_venv, "unsuitable", lambda: "")
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    calls: list[list[str]] = []

    def run(command, **kwargs):
        words = [str(word) for word in command]
        calls.append(words[words.index("install") + 1 :] if "install" in words else words)
        if "venv" in words:
            (venv / "python").touch()
        if "nvidia-smi" in words:
            raise FileNotFoundError
        return subprocess.CompletedProcess(command, int("venv" not in words and main.fails(words)))

    monkeypatch.setattr(create_venv.subprocess, "run", run)

    def main(*arguments: str) -> list[list[str]]:
        calls.clear()
        monkeypatch.setattr(sys, "argv", ["create_venv.py", *arguments])
        create_venv.main()
        return calls

    main.calls, main.fails = calls, lambda words: False
    return main


def change_constraints() -> None:
    with (create_venv.ROOT / "constraints.txt").open("a") as file:
        file.write("# changed\n")


def test_torch_comes_first_and_alone_without_cuda_and_without_the_tests(setup):
    """Only torch is looked for in another index than the user's."""
    cuda, venv, pip, torch, rest, check = [*setup()]
    index = ["--extra-index-url", create_venv.CPU_WHEELS]
    assert cuda[0] == "nvidia-smi" and venv[2:] == ["-m", "venv", str(create_venv.VENV)]
    assert pip == ["--quiet", "--upgrade", *PINNED, "pip"]
    assert torch == ["--no-deps", *index, *PINNED, "torch"]
    assert rest == [*PINNED, "--editable", "."]
    assert check[1:] == ["-I", "-m", "course_utils", "packages"]
    assert setup("--here") == [pip, torch, rest, [sys.executable, *check[1:]]]  # without a .venv


def test_what_was_asked_for_by_hand_is_kept_by_later_calls(setup, monkeypatch):
    monkeypatch.setattr(create_venv, "has_nvidia", lambda: True)
    setup()
    assert setup.calls[2] == ["--no-deps", *PINNED, "torch"]  # with CUDA, because there is a card
    assert "venv" in setup("--torch", "cpu")[0]  # another build needs a new start
    assert setup() == []
    assert setup("--tests")[-2][-2:] == ["--group", "test"]  # added to what is there
    assert setup() == setup("--tests") == setup("--torch", "cpu") == []
    change_constraints()
    assert setup()[-2][-2:] == ["--group", "test"]


def test_second_call_does_nothing_until_the_content_of_a_file_changes(setup):
    setup()
    (create_venv.ROOT / "constraints.txt").touch()
    assert setup() == []
    change_constraints()
    assert len(setup()) == 4  # updated in place
    create_venv.PYTHON.unlink()
    assert "venv" in setup()[0]  # half removed, so made again


@pytest.mark.parametrize(
    ("pip", "told"),
    [
        (raising(KeyboardInterrupt()), "interrupted"),
        (lambda words: "pip" in words, "the installation failed"),
        (lambda words: "packages" in words, "not everything is there"),
    ],
)
def test_a_setup_that_did_not_end_well_says_so_and_starts_over(setup, pip, told):
    setup.fails = pip
    with pytest.raises(SystemExit, match=f"^course: {told}"):
        setup("--torch", "cpu")
    setup.fails = lambda words: False
    assert "venv" in setup()[1]
    assert setup() == []


def test_two_installations_in_one_folder_wait_for_each_other(setup, capsys):
    fcntl = pytest.importorskip("fcntl")
    order, folder = [], os.open(create_venv.ROOT, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    other = threading.Thread(target=lambda: (setup(), order.append("installed")))
    other.start()
    other.join(1)
    order.append("released")
    os.close(folder)
    other.join()
    assert order == ["released", "installed"] and "waiting for another" in capsys.readouterr().out


def test_an_environment_of_uv_is_left_to_uv(setup, monkeypatch):
    """Unless it was moved: then its scripts do not start."""
    activate = create_venv.VENV / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.write_text(f"VIRTUAL_ENV='{create_venv.VENV}'")
    (create_venv.VENV / "pyvenv.cfg").write_text("home = /usr/bin\nuv = 0.13.9\n")
    with pytest.raises(SystemExit, match="^course: .*was made by uv, which is not here"):
        setup()
    monkeypatch.setattr(create_venv.shutil, "which", lambda name: name)
    with pytest.raises(SystemExit, match="^course: uv takes"):
        setup("--torch", "cpu")
    assert setup("--tests") == [["uv", "sync", "--inexact", "--group", "test"]]
    assert activate.exists()
    activate.write_text("VIRTUAL_ENV='/elsewhere/.venv'")
    assert len(setup()) == 1 and not create_venv.VENV.exists()


def test_what_uv_run_has_changed_is_brought_back_only_where_uv_is_not(setup, monkeypatch):
    below = create_venv.VENV / ("Lib" if os.name == "nt" else "lib/python3.11") / "site-packages"
    setup()
    (below / "zuko-1.dist-info").mkdir(parents=True)
    (below / "zuko-1.dist-info" / "INSTALLER").write_text("uv")
    change_constraints()
    assert len(setup()) == 4
    monkeypatch.setattr(create_venv.shutil, "which", lambda name: name)
    assert len(setup()) == 1


@pytest.mark.parametrize(
    ("obstacle", "message"),
    [
        (mock.patch.dict(sys.modules, {"ensurepip": None}), "sudo apt install python3-venv"),
        (mock.patch.object(os, "access", lambda *_: False), "no permission to write"),
    ],
)
def test_an_obstacle_is_named(setup, obstacle, message):
    with obstacle, pytest.raises(SystemExit, match=f"^course: .*{message}"):
        setup()
    assert setup.calls[1:] == []


# What Python says of itself on a machine: version, system, processor, C library, release of macOS.
MACHINES = {
    "Debian 12": ((3, 11), "linux-x86_64", "x86_64", ("glibc", "2.36"), "", ""),
    "ARM": ((3, 15), "linux-aarch64", "aarch64", ("glibc", "2.28"), "", ""),
    "Windows": ((3, 13), "win-amd64", "AMD64", ("", ""), "", ""),
    "Apple chip": ((3, 12), "macosx-11.0-universal2", "arm64", ("", ""), "14.6.1", ""),
    "old Python": ((3, 10), "linux-x86_64", "x86_64", ("glibc", "2.36"), "", "CPython 3.10"),
    "new Python": ((3, 16), "linux-x86_64", "x86_64", ("glibc", "2.36"), "", "CPython 3.16"),
    "musl": ((3, 12), "linux-x86_64", "x86_64", ("", ""), "", "another libc"),
    "CentOS 7": ((3, 12), "linux-x86_64", "x86_64", ("glibc", "2.17"), "", "glibc 2.17"),
    "Raspberry Pi of 32 bits": ((3, 11), "linux-armv7l", "armv7l", ("glibc", "2.36"), "", "armv7l"),
    "Windows of 32 bits": ((3, 12), "win32", "AMD64", ("", ""), "", "win32"),
    "Windows on ARM": ((3, 12), "win-arm64", "ARM64", ("", ""), "", "win-arm64"),
    "Intel Mac": ((3, 12), "macosx-10.13-universal2", "x86_64", ("", ""), "15.1", "x86_64"),
    "macOS 13": ((3, 12), "macosx-11.0-arm64", "arm64", ("", ""), "13.7", "macOS 13.7"),
}


@pytest.mark.parametrize("machine", MACHINES)
def test_a_machine_without_packages_is_refused_before_anything_is_installed(monkeypatch, machine):
    version, system, processor, libc, release, problem = MACHINES[machine]
    monkeypatch.setattr(sys, "version_info", (*version, 1))
    monkeypatch.setattr(platform, "python_version", lambda: ".".join(map(str, version)))
    monkeypatch.setattr(sysconfig, "get_platform", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: processor)
    monkeypatch.setattr(platform, "libc_ver", lambda: libc)
    monkeypatch.setattr(platform, "mac_ver", lambda: (release, ("", "", ""), processor))
    names = {"linux": "linux", "macosx": "darwin", "win": "win32", "win32": "win32"}
    monkeypatch.setattr(sys, "platform", names[system.split("-")[0]])
    found = create_venv.unsuitable()
    assert (problem in found) if problem else not found, found
    if problem:
        with pytest.raises(SystemExit, match="^course: there are no packages for .*What works: "):
            create_venv.check_machine(1)


@pytest.mark.parametrize("torch", ["cpu", "cuda"])
def test_no_space(setup, monkeypatch, torch):
    needed = create_venv.GIGABYTES[torch]
    space = mock.Mock(free=(needed - 0.1) * 1e9)
    monkeypatch.setattr(create_venv.shutil, "disk_usage", lambda path: space)
    wanted = f"^course: {needed} GB of free disk space are needed, .* has {needed - 0.1:.1f} GB"
    with pytest.raises(SystemExit, match=wanted):
        setup("--torch", torch)
    assert setup.calls == []
    space.free = needed * 1e9
    assert len(setup("--torch", torch)) == 5
    change_constraints()
    space.free = 1e9  # an update needs no room for another torch
    assert len(setup()) == 4


@with_make
def test_variables_of_the_environment_are_no_arguments(tmp_path):
    """WSL exports NAME, which is the computer's."""
    env = os.environ | {"NAME": "DESKTOP-AB12", "TORCH": "1", "PYTHON": "perl", "ARGS": "-x"}
    command = ["make", "--dry-run", "notebooks", "lab", "test"]
    plain, other = (
        subprocess.run(command, cwd=ROOT, env=given, capture_output=True, check=True).stdout
        for given in (os.environ, env)
    )
    assert plain == other


@pytest.fixture
def course(tmp_path, monkeypatch):
    """Run create_venv in a folder that holds only what it needs; packages are stubs, pip is not."""
    folder, found = tmp_path / "größer als" / "course", tmp_path / "wheels"
    folder.mkdir(parents=True)
    needed = ("pyproject.toml", "setup.py", "constraints.txt", "README.md", "LICENSE")
    for name in (*needed, "course_utils"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    (folder / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "create_venv.py", folder / "tools")
    real = {"pip", "setuptools", "packaging"}
    wheels.stub_wheels(found, {name: wheels.PINNED[name] for name in wheels.NEEDED - real})
    wheels.stub_wheels(found, {"zuko": wheels.PINNED["zuko"]}, requires="leaf")
    wheels.stub_wheels(found, {"leaf": "1"})
    for name in real:
        wheels.real_wheel(found, name)
    own = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(found), "LANG": "C", "LC_ALL": "C"}
    for name, value in own.items():
        monkeypatch.setenv(name, value)

    def run(*words: str, where: Path = folder, **env: str) -> str:
        command = [sys.executable, str(where / "tools" / "create_venv.py"), *words]
        done = subprocess.run(command, env=os.environ | env, capture_output=True, text=True)
        return done.stdout + done.stderr

    run.folder = folder
    return run


def installed(folder: Path) -> tuple[Path, set[str]]:
    """Where an environment's own course_utils lies, and what is installed."""
    script = """import importlib.metadata as m, json, course_utils
print(json.dumps([course_utils.__file__, [d.name for d in m.distributions()]]))"""
    command = [str(folder / create_venv.PYTHON.relative_to(ROOT)), "-I", "-c", script]
    file, names = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return Path(file).parents[1], set(names)


@pytest.mark.slow
def test_an_environment_is_repaired_and_follows_its_folder(course, tmp_path):
    """Blanks and umlauts in the path, and LANG=C, are in the way, too."""
    assert "environment ready" in course()
    assert course() == ""
    first, names = installed(course.folder)
    assert first == course.folder and {"zuko", "leaf", "torch"} <= names
    python = course.folder / create_venv.PYTHON.relative_to(ROOT)
    remove = ["-I", "-m", "pip", "uninstall", "--yes", "--quiet", "leaf"]
    subprocess.run([str(python), *remove], check=True)
    assert "environment ready" in course() and "leaf" in installed(course.folder)[1]
    copy = tmp_path / "copy"
    shutil.copytree(course.folder, copy, symlinks=True)
    assert "environment ready" in course(where=copy)
    assert installed(copy)[0] == copy and course(where=copy) == ""
    # What is packed installs without an index.
    course("--pack", str(tmp_path / "packed"))
    (tmp_path / "packed").rename(course.folder / "wheels")
    shutil.rmtree(course.folder / ".venv")
    out = course(PIP_FIND_LINKS="", PIP_INDEX_URL="http://127.0.0.1:9/", PIP_NO_INDEX="0")
    assert "environment ready" in out, out


@pytest.mark.slow
def test_settings_of_pip_change_neither_what_is_installed_nor_where(course, tmp_path):
    config = tmp_path / "config" / "pip" / "pip.conf"
    config.parent.mkdir(parents=True)
    config.write_text(f"[global]\ntarget = {tmp_path / 'a'}\n[install]\nuser = yes\nno-deps = 1\n")
    other = {"PIP_USER": "1", "PIP_TARGET": str(tmp_path / "b"), "PIP_PYTHON": "/usr/bin/python3"}
    own = tmp_path / "own.conf"
    own.write_text("[install]\nuser = yes\nno-deps = yes\n")
    other["PIP_CONFIG_FILE"] = str(own)
    out = course(XDG_CONFIG_HOME=str(config.parents[1]), HOME=str(tmp_path), **other)
    assert "environment ready" in out, out
    assert {"zuko", "leaf", "torch"} <= installed(course.folder)[1]
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()


@pytest.mark.slow
def test_somebody_elses_environment_is_kept_and_a_link_is_followed(course, tmp_path):
    venv = course.folder / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "mine").touch()
    out = course()
    assert out.startswith("course: ") and "is not of this course. Remedy: rename" in out
    assert sorted(venv.rglob("*")) == [venv / "bin", venv / "bin" / "mine"]
    shutil.rmtree(venv)
    venv.symlink_to(tmp_path / "elsewhere")
    assert "environment ready" in course() and venv.is_symlink()
    assert installed(course.folder)[0] == course.folder
    check = [venv / create_venv.PYTHON.relative_to(create_venv.VENV), "-m", "course_utils"]
    done = [subprocess.run([*check, "python"], cwd=course.folder).returncode]
    activate = venv / "bin" / "activate"  # as uv leaves it when its folder is renamed
    activate.write_text(activate.read_text().replace("elsewhere", "renamed"))
    assert [*done, subprocess.run([*check, "python"], cwd=course.folder).returncode] == [0, 1]


def test_every_dependency_is_pinned_inside_its_bounds():
    """No address, no host: the constraints are names, versions, and for which Python they are."""
    pins = {}
    for pin in wheels.PINS:
        assert not pin.url and re.fullmatch(r"==[A-Za-z0-9.]+", str(pin.specifier))
        pins.setdefault(canonicalize_name(pin.name), []).append(str(pin.specifier)[2:])
    assert [*pins] == sorted(pins)
    asked = wheels.PROJECT["project"]["dependencies"], wheels.PROJECT["dependency-groups"]["test"]
    for wanted in map(Requirement, itertools.chain(*asked)):
        assert all(version in wanted.specifier for version in pins[canonicalize_name(wanted.name)])


def test_uv_takes_the_tested_versions_of_what_the_course_names():
    lines = wheels.PROJECT["tool"]["uv"]["constraint-dependencies"]
    own, all_pins = (
        {(canonicalize_name(pin.name), str(pin.specifier), str(pin.marker)) for pin in pins}
        for pins in (map(Requirement, lines), wheels.PINS)
    )
    [index] = wheels.PROJECT["tool"]["uv"]["index"]
    assert index["url"] == create_venv.CPU_WHEELS
    assert own <= all_pins and wheels.NEEDED <= {name for name, _, _ in own}


def test_what_is_tested_installs_on_the_oldest_python():
    """Some releases need a later patch of Python 3.11 than Debian 12 has."""
    for found in metadata.distributions():
        wanted = SpecifierSet(found.metadata.get("Requires-Python") or "")
        if wheels.PINNED.get(canonicalize_name(found.name)) == found.version:  # with uv, some float
            assert wanted.contains("3.11.0"), f"{found.name} {found.version} needs Python {wanted}"


def test_conda_takes_everything_but_python_from_the_project():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, *rest = conda["dependencies"]
    given = (python.removeprefix("python"), wheels.PROJECT["project"]["requires-python"])
    assert len(set(map(SpecifierSet, given))) == 1
    index = f"--extra-index-url {create_venv.CPU_WHEELS}"
    assert rest == ["pip", {"pip": [index, "--constraint constraints.txt", "--editable ."]}]


@with_make
def test_help_lists_every_target():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split()
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert re.findall(r"^make (\S+)", done.stdout, re.MULTILINE) == targets


@with_git
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="a download without git")
def test_a_clone_with_windows_line_ends_has_the_same_bytes(tmp_path):
    for name, convert in (("unix", "false"), ("windows", "true")):
        option = f"core.autocrlf={convert}"
        command = ["git", "clone", "--quiet", "-c", option, str(ROOT), str(tmp_path / name)]
        subprocess.run(command, check=True)
        shutil.rmtree(tmp_path / name / ".git")
    unix = tmp_path / "unix"
    files = [path.relative_to(unix) for path in unix.rglob("*") if path.is_file()]
    _, differ, lost = filecmp.cmpfiles(unix, tmp_path / "windows", files, shallow=False)
    assert len(files) > 100 and not differ and not lost


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="the container has a Unix shell")
def test_the_commands_of_the_dev_container_end_with_the_students_copies(course, monkeypatch):
    notebooks = course.folder / "notebooks"
    notebooks.mkdir()
    for name in ("START.md", "flows.ipynb"):
        shutil.copy(ROOT / "notebooks" / name, notebooks)
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text("utf-8"))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    monkeypatch.setenv("PATH", path)
    for moment in ("postCreateCommand", "postStartCommand"):
        subprocess.run(["bash", "-ec", container[moment]], cwd=course.folder, check=True)
    opened = container["customizations"]["codespaces"]["openFiles"]
    python = container["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    for path in (*opened, "work/flows.ipynb", python.replace("${containerWorkspaceFolder}/", "")):
        assert (course.folder / path).is_file(), path
