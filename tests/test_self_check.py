"""``python -m course_utils`` on a good machine and on damaged ones."""

import re
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel

from benchmarks import measure
from course_utils import __main__ as report
from course_utils import runtime
from course_utils.data import files
from tests.bad_input import raising

ROOT = Path(__file__).resolve().parents[1]


def lines(capsys) -> str:
    status = report.main()
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
    out = lines(capsys)
    for name, trouble in (("winequality-red.csv", "is missing"), ("mnist.npz", "was altered")):
        assert f"failure {tmp_path / name} {trouble}" in out
    assert "source: https://doi.org/10.24432/C56S3T" in out
    assert "remedy: git checkout -- data/winequality-red.csv" in out
    assert "Python 3" in out and "can be written to" in out


def test_missing_and_old_packages(capsys, monkeypatch):
    version = report.metadata.version

    def other(name):
        if name == "zuko":
            raise report.metadata.PackageNotFoundError(name)
        return {"pooch": "0.1", "tqdm": "4.999"}.get(name) or version(name)

    monkeypatch.setattr(report.metadata, "version", other)
    monkeypatch.setattr(report, "CHECKS", (report.packages,))
    out = lines(capsys)
    assert "failure zuko is not installed" in out and "make env" in out
    assert "failure pooch 0.1, needed >=1.8" in out
    assert "warning tqdm 4.999, tested with" in out


def test_the_users_wait_policy_and_little_memory_are_warnings(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setattr(report, "CHECKS", (report.threads,))
    assert lines(capsys).startswith("warning ")
    limit = tmp_path / "memory.max"  # of a container
    monkeypatch.setattr(report, "Path", lambda name: limit)
    monkeypatch.setattr(report, "CHECKS", (report.memory,))
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=1.9e9))
    for text, found in (("1500000000\n", "1.5"), ("max\n", "1.9")):  # no limit: the machine's
        limit.write_text(text, encoding="utf-8")
        out = lines(capsys)
        assert out.startswith(f"warning memory {found} GB")
    stated = float(re.search(r"one of them needs up to ([\d.]+) GB", out)[1])
    needed = max(run["peak_memory_mb"] for run in measure.load("seeds")["runs"]) / 1000
    assert stated - 0.1 < needed <= stated


ABSENT = report.metadata.PackageNotFoundError("course-utils")
KERNEL = (KernelSpecManager, "get_kernel_spec")
OTHER = KernelSpec(argv=[__file__])
FULL = mock.MagicMock()
FULL.return_value.__enter__.return_value.write.side_effect = OSError("No space left")
TROUBLES = {  # what is broken, and how; the line that notices it; its words
    "device": (runtime, "present_devices", raising(ImportError("no torch")), "device", "no torch"),
    "disk": (report.tempfile, "TemporaryFile", FULL, "writing", "No space left"),
    "folder": (report, "ROOT", Path("/nowhere"), "writing", "cannot be written to"),
    "pins": (Path, "read_text", raising(FileNotFoundError("gone")), "packages", "gone"),
    "install": (report.metadata, "requires", raising(ABSENT), "packages", "course-utils"),
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
