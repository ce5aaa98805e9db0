"""``python -m course_utils`` on a good machine and on damaged ones."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

from benchmarks import measure
from course_utils import __main__ as report
from course_utils import runtime
from course_utils.data import files
from tests.bad_input import raising

ROOT = Path(__file__).resolve().parents[1]
posix = pytest.mark.skipif(os.name == "nt", reason="pastes into a POSIX shell")


def call(*words: str, cwd: Path = ROOT, **env: str) -> tuple[int, str]:
    """Status and output of a new ``python -m course_utils``, which never shows a traceback."""
    command = [sys.executable, "-m", "course_utils", *words]
    found = subprocess.run(command, cwd=cwd, env=os.environ | env, capture_output=True, text=True)
    assert "Traceback" not in found.stdout + found.stderr
    return found.returncode, found.stdout


def lines(capsys, *names: str) -> str:
    status = report.main(names)
    out = capsys.readouterr().out
    assert status == ("\nfailure" in "\n" + out)
    return out


def test_everything_is_fine_here(capsys):
    out = lines(capsys)
    assert "failure" not in out
    for fact in ("Python 3", "torch 2", "device", "threads on", "memory", "kernel", "mnist-20000"):
        assert fact in out


def test_damaged_data(capsys, monkeypatch, tmp_path):
    (tmp_path / "mnist.npz").write_bytes(b"half a file")
    monkeypatch.setenv("COURSE_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(files, "DATA_DIR", tmp_path)
    out = lines(capsys, "files")
    for name, trouble in (("winequality-red.csv", "is missing"), ("mnist.npz", "was altered")):
        assert f"failure {tmp_path / name} {trouble}" in out
    assert "source: https://doi.org/10.24432/C56S3T" in out
    assert "remedy: put winequality-red.csv from a fresh download of the course into" in out


BROKEN = [  # what each package does when it is imported
    {"numpy": "raise ImportError('\\n\\nREAD THIS\\nno C extension')"},
    {"scipy": "not Python", "packaging": "raise RuntimeError('half')"},
    {"torch": "raise OSError('libtorch.so: cannot open')", "pooch": "raise SystemExit(3)"},
]


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_package_is_one_line_among_the_others(broken, tmp_path):
    for name, code in broken.items():
        (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]])
    status, out = call(PYTHONPATH=path, COURSE_DATA_DIR="")
    assert status == 1
    for name in broken:
        line = rf"^failure no import of .*\b{name}\b.*: .+\n +remedy: (.*create_venv|as above)"
        assert re.search(line, out, re.MULTILINE)
    for fact in ("Python 3", "memory", f"{files.DATA_DIR / 'mnist-20000.npz'} as expected"):
        assert f"ok      {fact}" in out


@posix
def test_files_that_hide_modules_are_named_until_they_are_renamed(tmp_path):
    hiding = ["torch.py", "random.py", "platform.py", "tempfile.py", "numpy"]
    (tmp_path / "numpy").mkdir()
    for name in [*hiding[:-1], "numpy/__init__.py", "mine.py"]:
        (tmp_path / name).write_text("raise ValueError", encoding="utf-8")
    (tmp_path / "scipy").mkdir()  # holds no module
    status, out = call("shadows", cwd=tmp_path)
    assert status == 1 and out.count("failure") == len(hiding)
    for name in hiding:
        assert f"failure {tmp_path / name} hides the module {name.removesuffix('.py')}\n" in out
    for remedy in re.findall("remedy: (.*)", out):
        subprocess.run(remedy, shell=True, check=True, stdin=subprocess.DEVNULL)
    assert call("shadows", cwd=tmp_path) == (0, "")


def test_the_courses_own_files_hide_nothing_but_a_copy_of_them_does(monkeypatch, tmp_path):
    own = {path.stem for folder in (ROOT, ROOT / "notebooks") for path in folder.iterdir()}
    monkeypatch.setattr(report.metadata, "packages_distributions", lambda: own)
    assert [level for level, *_ in report.shadows()] == ["ok"]
    (tmp_path / "flows.py").touch()
    monkeypatch.chdir(tmp_path)
    assert [level for level, *_ in report.shadows()] == ["failure"]


@posix
@pytest.mark.parametrize("var", ["HOME", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR"])
def test_a_home_that_cannot_be_written_to_gets_a_variable_that_helps(var, monkeypatch):
    for name in ("JUPYTER_CONFIG_DIR", "IPYTHONDIR", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(var, f"{__file__}/below")  # where not even root can write
    status, out = call("home")
    assert status == (var != "MPLCONFIGDIR") and out.count("cannot be written to") == 1
    remedy = re.search("remedy: (.*)", out)[1]
    assert remedy.startswith(f"export {var}=") and ";" not in remedy
    monkeypatch.setenv(var, shlex.split(remedy)[1].partition("=")[2])
    assert call("home") == (0, "")


def test_only_named_checks_run_and_say_only_what_is_wrong(capsys, monkeypatch):
    monkeypatch.setattr(report, "CHECKS", (report.python, raising(AssertionError), report.memory))
    assert lines(capsys, "python", "memory") == ""
    assert lines(capsys, "function").startswith("failure function")
    with pytest.raises(SystemExit, match="tyop, but python, function, memory"):
        report.main(["python", "tyop"])


def test_missing_and_old_packages(capsys, monkeypatch, tmp_path):
    needs = ["gone", "old>=1.8", "other>=1", "tested>=1", "absent; python_version < '3'"]
    pins = "# all\nother==4\ntested==1; python_version < '3'\ntested==2; python_version >= '3'\n"
    (tmp_path / "pyproject.toml").write_text(f"[project]\ndependencies = {needs}")
    (tmp_path / "constraints.txt").write_text(pins)
    for name in ("course", "installed"):
        monkeypatch.setattr(report, name, lambda: tmp_path)
    found = [report.metadata.PackageNotFoundError("gone"), "0.1", "4.1", "2+cpu"]
    monkeypatch.setattr(report.metadata, "version", mock.Mock(side_effect=found))
    out = lines(capsys, "packages")
    assert re.findall("(?:failure|warning) .*", out) == [
        "failure gone is not installed",
        "failure old 0.1, needed >=1.8",
        "warning other 4.1, tested with 4",
    ]
    assert "create_venv.py" in out


@posix
@pytest.mark.parametrize(
    ("prefix", "broken"), [(".venv", []), (".venv", ["none"]), ("conda", []), ("usr", ["none"])]
)
def test_the_remedy_installs_from_any_folder(tmp_path, monkeypatch, prefix, broken):
    """A copy of the course's folder, with a tool that notes how it is called.

    No package is called none: a wrong remedy would remove it from this very Python.
    """
    course = tmp_path / "my course"
    for name in ("course_utils", "tools", "work", ".venv", prefix):
        (course / name).mkdir(parents=True, exist_ok=True)
    for name in ("course_utils/__init__.py", "pyproject.toml"):
        shutil.copy(ROOT / name, course / name)
    note = "import sys; open(sys.argv[0] + '.called', 'w').write(str(sys.argv[1:]))"
    (course / "tools" / "create_venv.py").write_text(note, encoding="utf-8")
    monkeypatch.setattr(sys, "prefix", str(course / prefix))
    monkeypatch.setattr(report, "installed", lambda: course if prefix != "usr" else None)
    monkeypatch.chdir(course / "work")
    remedy = report.again(*broken)
    subprocess.run(remedy, shell=True, cwd=tmp_path, check=True, stdin=subprocess.DEVNULL)
    called = (course / "tools" / "create_venv.py.called").read_text()
    assert called == ("['--here']" if prefix == "conda" else "[]")
    removed = (prefix, broken) == (".venv", ["none"])  # nothing but the course's own ever is
    assert (course / prefix).exists() != removed


def test_the_users_wait_policy_and_little_memory_are_warnings(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert lines(capsys, "threads").startswith("warning ")
    limit = tmp_path / "memory.max"  # of a container
    monkeypatch.setattr(report, "Path", lambda name: limit)
    monkeypatch.setattr("psutil.virtual_memory", lambda: mock.Mock(total=1.9e9))
    for text, found in (("1500000000\n", "1.5"), ("max\n", "1.9")):  # no limit: the machine's
        limit.write_text(text, encoding="utf-8")
        out = lines(capsys, "memory")
        assert out.startswith(f"warning memory {found} GB")
    stated = float(re.search(r"one of them needs up to ([\d.]+) GB", out)[1])
    needed = max(run["peak_memory_mb"] for run in measure.load("seeds")["runs"]) / 1000
    assert stated - 0.1 < needed <= stated


KERNEL = (KernelSpecManager, "get_kernel_spec")
OTHER = mock.Mock(argv=[__file__])
FULL = mock.MagicMock()
FULL.return_value.__enter__.return_value.write.side_effect = OSError("No space left")
TROUBLES = {  # what is broken, and how; the line that notices it; its words
    "device": (runtime, "present_devices", raising(ImportError("no torch")), "device", "no torch"),
    "disk": (report.tempfile, "TemporaryFile", FULL, "writing", "No space left"),
    "folder": (report, "course", lambda: Path(__file__), "writing", "cannot be written to"),
    "gone": (Path, "cwd", raising(FileNotFoundError("gone")), "shadows", "gone"),
    "pins": (Path, "read_text", raising(FileNotFoundError("gone")), "packages", "gone"),
    "install": (report, "installed", lambda: None, "packages", "course_utils is not installed"),
    "no kernel": (*KERNEL, raising(NoSuchKernel("python3")), "kernel", "NoSuchKernel"),
    "other kernel": (*KERNEL, lambda *args: OTHER, "kernel", f"runs {__file__}"),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_broken_check_does_not_hide_the_others(trouble, capsys, monkeypatch):
    owner, name, value, check, words = TROUBLES[trouble]
    monkeypatch.setattr(report, "CHECKS", (getattr(report, check), report.python))
    monkeypatch.setattr(owner, name, value)
    out = lines(capsys)
    monkeypatch.undo()
    assert out.startswith("failure ") and words in out and "remedy:" in out
    assert "\nok      Python 3" in out
