"""Recipes for a whole university: Helm values, Slurm scripts, and the page of arithmetic."""

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from jupyter_client import KernelManager
from jupyter_client.kernelspec import KernelSpecManager

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import classes  # noqa: E402

UNIVERSITY = ROOT / "binder" / "university"
SLURM = sorted((UNIVERSITY / "slurm").iterdir())
VALUES = yaml.safe_load((UNIVERSITY / "values.yaml").read_text())
SCHEMA = json.loads((UNIVERSITY / "values.schema.json").read_text())
GIB = 2**30

# ------------------------------------------------------------------ Kubernetes


def test_values_follow_the_schema():
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.validate(VALUES, SCHEMA)


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("singleuser.memory.limits", "2G"),  # a misspelt key
        ("singleuser.memory.limit", "2 gigabytes"),
        ("cull.timeout", "1h"),
        ("prePuller.continuous", True),
        ("singleuser.storage.type", "persistent"),
    ],
)
def test_schema_refuses_mistakes(path, wrong):
    values = json.loads(json.dumps(VALUES))
    *folders, key = path.split(".")
    inner = values
    for folder in folders:
        inner = inner[folder]
    inner[key] = wrong
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values, SCHEMA)


def test_login_settings_exist():
    from oauthenticator.generic import GenericOAuthenticator

    known = GenericOAuthenticator.class_traits(config=True)
    asked = VALUES["hub"]["config"]["GenericOAuthenticator"]
    assert set(asked) <= set(known)
    assert not {"client_secret", "client_id"} & set(asked)  # these stay out of repositories
    assert asked["allowed_groups"]  # else whoever can log in may come


@pytest.fixture
def pods(tmp_path, monkeypatch):
    """The container of each profile, as KubeSpawner renders it; it asks no cluster."""
    settings = {"apiVersion": "v1", "kind": "Config", "current-context": "none"}
    settings["contexts"] = [{"name": "none", "context": {"cluster": "none", "user": "none"}}]
    settings["clusters"] = [{"name": "none", "cluster": {"server": "http://127.0.0.1:1"}}]
    settings["users"] = [{"name": "none", "user": {}}]
    (tmp_path / "config").write_text(yaml.safe_dump(settings))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    from kubespawner import KubeSpawner
    from traitlets.config import Config

    async def render(profile):
        user, config = VALUES["singleuser"], Config()
        config.KubeSpawner = Config(
            {
                "image": "{name}:{tag}".format(**user["image"]),
                "cmd": user["cmd"],
                "environment": user["extraEnv"],
                "profile_list": user["profileList"],
                **{f"mem_{name}": value for name, value in user["memory"].items()},
                **{f"cpu_{name}": value for name, value in user["cpu"].items()},
            }
        )
        spawner = KubeSpawner(config=config, _mock=True)
        spawner.user_options = {"profile": profile}
        await spawner.load_user_options()
        return (await spawner.get_pod_manifest()).to_dict()["spec"]

    async def render_all():
        return {name: await render(name) for name in ("cpu", "gpu")}

    return asyncio.run(render_all())


def test_profiles_render_to_pods(pods):
    cpu, gpu = (pods[name]["containers"][0] for name in ("cpu", "gpu"))
    assert cpu["resources"]["requests"] == {"cpu": 0.1, "memory": 1.5 * GIB}
    assert cpu["resources"]["limits"] == {"cpu": 2, "memory": 2 * GIB}
    assert gpu["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "nvidia.com/gpu" not in cpu["resources"]["limits"]
    assert gpu["image"] == cpu["image"] + "-cuda"
    for container, threads in ((cpu, "1"), (gpu, "4")):
        env = {each["name"]: each["value"] for each in container["env"]}
        assert env["OMP_NUM_THREADS"] == threads and env["NBGITPULLER_PARENTPATH"] == "work"
    assert [each["key"] for each in pods["gpu"]["tolerations"]] == ["nvidia.com/gpu"]


def test_guarantee_holds_what_was_measured():
    """All resident memory, with a second notebook left open."""
    needed = classes.student(classes.load(), shared=False)["gb"]
    assert VALUES["singleuser"]["memory"]["guarantee"] == "1.5G"
    assert classes.GUARANTEE_GB == 1.5 * GIB / 1e9
    assert classes.GUARANTEE_GB / 2 < needed < classes.GUARANTEE_GB


def test_gpu_image_pins_torch_as_the_course_does():
    text = (UNIVERSITY / "gpu.Dockerfile").read_text()
    assert "FROM ${IMAGE}" in text and "--constraint constraints.txt" in text
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert "torch==2.13.0" in lines  # what the grep of the Dockerfile finds


# ------------------------------------------------------------------ three commands


def test_both_pages_give_the_same_three_commands():
    pages = [ROOT / "binder" / "jupyterhub" / "README.md", classes.PAGE]
    commands = [re.search(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)[1] for page in pages]
    assert commands[0] == commands[1] and len(commands[0].splitlines()) == 3
    for path in re.findall(r"binder/[\w/.]+", commands[0]):
        assert (ROOT / path).exists(), path


# ------------------------------------------------------------------ Slurm


@pytest.mark.parametrize("script", SLURM, ids=lambda path: path.name)
def test_scripts_are_sound(script):
    for command in (["bash", "-n"], ["shellcheck"]):
        tool = Path(sys.executable).parent / command[0]  # shellcheck lies beside Python
        command[0] = str(tool) if tool.exists() else command[0]
        done = subprocess.run([*command, str(script)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_installed_kernel_runs_the_course(tmp_path, monkeypatch):
    env = os.environ | {"HOME": str(tmp_path), "COURSE_PYTHON": sys.executable}
    env |= {"SLURM_CPUS_PER_TASK": "3", "JUPYTER_DATA_DIR": str(tmp_path / "data")}
    script = UNIVERSITY / "slurm" / "install_kernel.sh"
    subprocess.run(["bash", str(script)], env=env, check=True, capture_output=True)
    folder = tmp_path / "data" / "kernels"
    specs = KernelSpecManager(kernel_dirs=[str(folder)], ensure_native_kernel=False)
    spec = specs.get_kernel_spec("bayesian-deep-learning")
    assert spec.display_name == "Bayesian deep learning"
    assert spec.argv[0] == sys.executable
    manager = KernelManager(kernel_name="bayesian-deep-learning", kernel_spec_manager=specs)
    manager.transport, manager.ip = "ipc", str(tmp_path / "k")
    manager.start_kernel()
    client = manager.blocking_client()
    client.start_channels()
    said = []
    client.execute_interactive(
        "import os, course_utils; print(os.environ['OMP_NUM_THREADS'])",
        output_hook=lambda message: said.append(message["content"].get("text", "")),
    )
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    assert "".join(said) == "3\n"


def run_batch(folder: Path, task: int, *options: str) -> list[str]:
    """The command that one job of the array would run."""
    (folder / "python").write_text('#!/bin/sh\nfor word in "$@"; do echo "$word"; done\n')
    (folder / "python").chmod(0o755)
    slurm = {"SLURM_SUBMIT_DIR": str(ROOT), "SLURM_ARRAY_TASK_ID": str(task)}
    slurm |= {"SLURM_CPUS_PER_TASK": "2", "SLURM_JOB_ID": "77"}
    command = ["bash", str(UNIVERSITY / "slurm" / "run_notebooks.sbatch"), *options]
    env = os.environ | slurm | {"COURSE_PYTHON": str(folder / "python")}
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


def test_the_job_array_runs_every_notebook(tmp_path):
    found = set()
    for task in range(3):
        words = run_batch(tmp_path, task, "--seed", "3")
        assert words[:2] == ["tools/notebooks.py", "run"]
        assert words[3:] == ["--threads", "2", "--save", f"{words[2]}-77.ipynb", "--seed", "3"]
        found.add(words[2])
    assert found == {path.stem for path in (ROOT / "notebooks").glob("*.py")}
    assert "#SBATCH --array=0-2" in (UNIVERSITY / "slurm" / "run_notebooks.sbatch").read_text()


def test_batch_script_outside_slurm_says_so(tmp_path):
    script = UNIVERSITY / "slurm" / "run_notebooks.sbatch"
    done = subprocess.run(["bash", str(script)], capture_output=True, text=True)
    assert done.returncode != 0 and "start this with sbatch" in done.stderr


# ------------------------------------------------------------------ arithmetic


def test_the_page_follows_from_the_measurement():
    text = classes.PAGE.read_text(encoding="utf-8")
    assert classes.fill(text, classes.load()) == text, "Remedy: python benchmarks/classes.py"


def test_arithmetic_by_hand():
    one = {"server_mb": 100, "kernel_mb": 300, "server_cpu": 3, "kernel_cpu": 12}
    one |= {"server_rss": 150, "kernel_rss": 400}
    figures = {"class": {"usage": [one, one, one], "students": 3}}
    student = classes.student(figures)
    assert student == {"gb": 0.7, "start": 3, "lesson": 12}
    assert classes.student(figures, shared=False)["gb"] == pytest.approx(0.95)
    plan = classes.plan(300, student)
    assert plan["memory"] == 300 * 0.7 + 2
    assert plan["cores"] == 60  # 300 lessons of 12 s in one minute
    assert plan["login"] == 15  # 300 servers of 3 s on these cores
    assert plan["nodes"] == 18  # 300 guarantees of 1.5 GiB, 17 to a node
    assert classes.plan(3, student)["cores"] == 2


def test_the_arithmetic_comes_close_to_the_rehearsal():
    rows = classes.tables(classes.load())["check"].splitlines()[2:]
    for row in rows:
        said, seen = (float(cell) for cell in row.split("|")[2:4])
        assert 0.5 < said / seen < 2, row


def test_the_rehearsal_had_twenty_students_and_no_failure():
    figures = classes.load()
    assert figures["class"]["students"] == 20 and not figures["class"]["failures"]
    assert set(figures["accidents"]) == {
        "kernel killed",
        "Hub restarted",
        "server killed",
        "disk full",
    }
