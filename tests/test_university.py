"""Recipes for a class: one machine's limits, Helm values, Slurm scripts, and the arithmetic."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from jupyter_client import run_kernel
from jupyter_client.kernelspec import get_kernel_spec

from benchmarks import classes, measure
from tools import catalogue

ROOT = Path(__file__).resolve().parents[1]
UNIVERSITY = ROOT / "binder" / "university"
SLURM = UNIVERSITY / "slurm"
VALUES = yaml.safe_load((UNIVERSITY / "values.yaml").read_text())
KEYS = yaml.safe_load((UNIVERSITY / "values.schema.yaml").read_text())
PAGE = (ROOT / "docs" / "classes.md").read_text(encoding="utf-8")
GIB = 2**30
posix = pytest.mark.skipif(sys.platform == "win32", reason="bash scripts: Slurm runs on Linux")


@posix
def test_commands_for_one_machine_can_be_called():
    """Without the server: what installs it, and its Python's work, are left out."""
    [block] = [part for part in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) if "curl" in part]
    block = block.replace("/srv/course", str(ROOT)).replace("--torch cpu", "--torch cpu --help")
    block = block.replace("/opt/tljh/user/bin/python", sys.executable)
    stubs = 'curl() { :; }; git() { :; }; sudo() { [ "$1" = -E ] || "$@"; }\n'
    subprocess.run(["bash", "-euo", "pipefail", "-c", stubs + block], check=True)


def schema(part) -> dict:
    """A JSON schema from a part of values.schema.yaml, which explains how that is written."""
    if isinstance(part, dict):
        inner = {key: schema(value) for key, value in part.items()}
        return {"type": "object", "additionalProperties": False, "properties": inner}
    if isinstance(part, list):
        return {"type": "array", "items": schema(*part)}
    return {"type": "string", "pattern": part} if part.startswith("^") else {"type": part}


def test_values_follow_the_schema_which_refuses_mistakes():
    jsonschema.validate(VALUES, schema(KEYS))
    for mistake in (
        {"singleuser": {"memory": {"limits": "2G"}}},  # a misspelt key
        {"singleuser": {"memory": {"limit": "2 gigabytes"}}},
        {"singleuser": {"profileList": [{"slugs": "cpu"}]}},
        {"prePuller": {"continuous": True}},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(mistake, schema(KEYS))


def test_login_settings_exist():
    from oauthenticator.generic import GenericOAuthenticator

    asked = VALUES["hub"]["config"]["GenericOAuthenticator"]
    assert set(asked) <= set(GenericOAuthenticator.class_traits(config=True))
    assert not {"client_secret", "client_id"} & set(asked)  # these stay out of repositories
    assert asked["allowed_groups"]  # else whoever can log in may come


async def pod(profile: str) -> dict:
    """What KubeSpawner would start for a profile."""
    from kubespawner import KubeSpawner
    from traitlets.config import Config

    user = VALUES["singleuser"]
    config = {
        "image": "{name}:{tag}".format(**user["image"]),
        "cmd": user["cmd"],
        "environment": user["extraEnv"],
        "profile_list": user["profileList"],
        **{f"mem_{name}": value for name, value in user["memory"].items()},
        **{f"cpu_{name}": value for name, value in user["cpu"].items()},
    }
    spawner = KubeSpawner(config=Config({"KubeSpawner": config}), _mock=True)
    spawner.user_options = {"profile": profile}
    await spawner.load_user_options()
    return (await spawner.get_pod_manifest()).to_dict()["spec"]


@posix
def test_profiles_render_to_pods(monkeypatch):
    monkeypatch.setattr("kubespawner.spawner.load_config", lambda **_: None)  # there is no cluster
    pods = [asyncio.run(pod(profile)) for profile in ("cpu", "gpu")]
    cpu, gpu = (each["containers"][0] for each in pods)
    assert cpu["resources"]["requests"] == {"cpu": 0.1, "memory": 2 * GIB}
    assert cpu["resources"]["limits"] == {"cpu": 2, "memory": 3 * GIB}
    assert gpu["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert gpu["image"] == cpu["image"] + "-cuda"
    for container, threads in ((cpu, "1"), (gpu, "4")):
        env = {each["name"]: each["value"] for each in container["env"]}
        assert env["OMP_NUM_THREADS"] == threads and env["NBGITPULLER_PARENTPATH"] == "work"
    assert [each["key"] for each in pods[1]["tolerations"]] == ["nvidia.com/gpu"]


def test_memory_holds_what_was_measured():
    """Two whole notebooks for the guarantee, three for the limits: those that take most."""
    students, peaks = measure.load("classroom")["class"], classes.load_peaks()
    assert set(peaks) == set(catalogue.files())
    two, three = (
        classes.needs(students, peaks, kernels=n, shared=False)["memory_gb"] for n in (2, 3)
    )
    one_machine = dict(re.findall(r"sudo tljh-config set limits\.(\w+) (\S+)", PAGE))
    pods = VALUES["singleuser"]["memory"]
    sizes = (pods["guarantee"], pods["limit"], one_machine["memory"])
    guarantee, *limits = (int(re.fullmatch(r"(\d+)G", size)[1]) * GIB / 1e9 for size in sizes)
    assert guarantee == classes.GUARANTEE_GB
    assert guarantee / 2 < two < guarantee < three < min(limits)
    assert float(one_machine["cpu"]) >= 1


@posix
def test_scripts_are_sound():
    scripts = [*SLURM.iterdir(), ROOT / "binder" / "postBuild"]
    subprocess.run([Path(sys.executable).parent / "shellcheck", *scripts], check=True)


@posix
@pytest.mark.kernel
def test_installed_kernel_runs_the_course_with_one_thread_unless_told(tmp_path, monkeypatch):
    """What a login node gives itself means nothing for a later session."""
    asked = {"HOME": str(tmp_path), "JUPYTER_DATA_DIR": str(tmp_path), "SLURM_CPUS_PER_TASK": "7"}
    for name, value in (asked | {"COURSE_PYTHON": sys.executable}).items():
        monkeypatch.setenv(name, value)
    for setting, threads in (({}, "1"), ({"COURSE_THREADS": "3"}, "3")):
        command, env = ["bash", str(SLURM / "install_kernel.sh")], os.environ | setting
        subprocess.run(command, env=env, check=True, capture_output=True)
        assert get_kernel_spec("bayesian-deep-learning").env == {"OMP_NUM_THREADS": threads}
    with run_kernel(kernel_name="bayesian-deep-learning") as client:
        done = client.execute_interactive("import course_utils", timeout=120)
    assert done["content"]["status"] == "ok"


@posix
def test_the_job_runs_the_notebook_that_is_asked_for(tmp_path):
    """Number of threads, then the words of the command."""
    (tmp_path / "python").write_text('#!/bin/sh\necho "$OMP_NUM_THREADS" "$@"\n')
    (tmp_path / "python").chmod(0o755)
    slurm = {"SLURM_SUBMIT_DIR": str(ROOT), "SLURM_CPUS_PER_TASK": "2", "SLURM_JOB_ID": "77"}
    env = os.environ | slurm | {"COURSE_PYTHON": str(tmp_path / "python")}
    job = ["bash", str(SLURM / "run_notebook.sbatch")]
    said = subprocess.run([*job, "flows", "--seed", "3"], env=env, capture_output=True, check=True)
    assert said.stdout == b"2 -m tools.run_notebook flows --save flows-77.ipynb --seed 3\n"
    nothing = subprocess.run(job, env=env, capture_output=True, text=True)
    assert nothing.returncode and "which notebook? Remedy:" in nothing.stderr


def test_arithmetic_by_hand():
    one = {"server_mb": 100, "kernel_mb": 300, "server_cpu": 3, "kernel_cpu": 12, "login": 0.3}
    students = [one | {"server_rss": 150, "kernel_rss": 400}] * 3
    peaks = {"a": 500, "b": 900, "c": 700}
    # 100 for the server; 900 and 700, of which 100 each is shared
    student = classes.needs(students, peaks, kernels=2, shared=True)
    assert [*student.values()] == pytest.approx([1.5, 3, 12, 0.1])
    assert classes.needs(students, peaks, kernels=3, shared=False)["memory_gb"] == 2.25
    found = classes.plan(300, student)
    # 2 GB for the system; 2 GiB each; 300 lessons of 12 s in one minute; 300 logins
    assert [*found.values()] == pytest.approx([452, 644.2, 60, 30], rel=1e-3)
    assert [*classes.plan(3, student).values()][2:] == [2, 4.5]  # 3 servers of 3 s
