"""``python -m course_utils`` on a good machine and on damaged ones."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from course_utils import __main__ as report
from course_utils import data

ROOT = Path(__file__).resolve().parents[1]


def lines(capsys) -> str:
    status = report.main()
    out = capsys.readouterr().out
    assert status == ("\nfailure" in "\n" + out)
    return out


def test_everything_is_fine_here():
    command = [sys.executable, "-m", "course_utils"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    levels = {line.split()[0] for line in done.stdout.splitlines() if not line.startswith(" ")}
    own = Path(sys.prefix).resolve() == (ROOT / ".venv").resolve()  # elsewhere versions may differ
    assert levels == {"ok"} or (levels == {"ok", "warning"} and not own), done.stdout
    for fact in ("Python 3", "torch 2", "device", "threads on", "memory", "kernel", "mnist-20000"):
        assert fact in done.stdout


@pytest.mark.parametrize("damage", ["missing", "altered"])
def test_damaged_data(tmp_path, damage):
    """A copy of the course with a damaged file: the fault, the remedy, and exit status 1."""
    for folder in ("course_utils", "data"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    (tmp_path / "notebooks").mkdir()
    for name in ("constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    wine = tmp_path / "data" / "winequality-red.csv"
    if damage == "missing":
        wine.unlink()
    else:
        wine.write_bytes(wine.read_bytes()[:-10])
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "course_utils"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == 1
    assert f"failure {wine} " in done.stdout and damage in done.stdout
    assert "remedy: git checkout -- data/winequality-red.csv" in done.stdout
    assert "mnist-20000.npz as expected" in done.stdout


def test_missing_and_old_packages(capsys, monkeypatch):
    version = report.metadata.version

    def other(name):
        if name == "zuko":
            raise report.metadata.PackageNotFoundError(name)
        return {"pooch": "0.1", "tqdm": "4.999"}.get(name) or version(name)

    monkeypatch.setattr(report.metadata, "version", other)
    out = lines(capsys)
    assert "failure zuko is not installed" in out and "make env" in out
    assert "failure pooch 0.1, needed >=1.8" in out
    assert "warning tqdm 4.999, tested with" in out


def test_wait_policy_of_the_user_is_a_warning(capsys, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    out = lines(capsys)
    assert "warning " in out and "benchmarks/threads.py" in out


def test_little_memory_is_a_warning_that_states_the_largest_notebook(capsys, monkeypatch):
    class Memory:
        total = 1.9e9

    monkeypatch.setattr("psutil.virtual_memory", Memory)
    monkeypatch.setattr(report, "CHECKS", (report.memory,))
    out = lines(capsys)
    assert out.startswith("warning memory 1.9 GB")
    stated = float(re.search(r"one of them needs up to ([\d.]+) GB", out)[1])
    measured = json.loads((ROOT / "benchmarks" / "seeds.json").read_text(encoding="utf-8"))
    largest = max(row["peak_memory_mb"] for row in measured) / 1000
    assert stated - 0.1 < largest <= stated


def test_the_containers_memory_counts(capsys, monkeypatch, tmp_path):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(report, "Path", lambda name: limit)
    monkeypatch.setattr(report, "CHECKS", (report.memory,))
    limit.write_text("1500000000\n", encoding="utf-8")
    assert lines(capsys).startswith("warning memory 1.5 GB")
    limit.write_text("max\n", encoding="utf-8")  # no limit
    assert "memory 1.5 GB" not in lines(capsys)


def test_a_broken_check_does_not_hide_the_others(capsys, monkeypatch):
    def broken():
        raise ImportError("no torch")
        yield

    monkeypatch.setattr(report, "CHECKS", (broken, report.python))
    out = lines(capsys)
    assert "failure broken: ImportError: no torch" in out and "Python 3" in out


def test_notebooks_folder_must_be_writable(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(report, "ROOT", tmp_path)  # has no notebooks folder at all
    monkeypatch.setattr(report, "CHECKS", (report.writing,))
    assert "cannot be written to" in lines(capsys)


def test_altered_download_is_named(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_DATA_DIR", str(tmp_path))
    (tmp_path / "mnist.npz").write_bytes(b"half a file")
    monkeypatch.setattr(report, "CHECKS", (report.files,))
    out = lines(capsys)
    assert "mnist.npz was altered: expected SHA-256" in out
    assert data.SOURCES["mnist.npz"].sha256 in out
