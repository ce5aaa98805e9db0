"""Recipes for a whole university: Helm values, Slurm scripts, and the page of arithmetic."""

import asyncio
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from jupyter_client import KernelManager
from jupyter_client.kernelspec import KernelSpecManager

from benchmarks import classes

ROOT = Path(__file__).resolve().parents[1]


UNIVERSITY = ROOT / "binder" / "university"
SLURM = sorted((UNIVERSITY / "slurm").iterdir())
VALUES = yaml.safe_load((UNIVERSITY / "values.yaml").read_text())
SCHEMA = json.loads((UNIVERSITY / "values.schema.json").read_text())
GIB = 2**30
BUSY = "Too many users trying to log in right now"
posix = pytest.mark.skipif(
    sys.platform == "win32", reason="bash scripts, and kernels on ipc sockets: Slurm runs on Linux"
)

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
    assert cpu["resources"]["requests"] == {"cpu": 0.1, "memory": 2 * GIB}
    assert cpu["resources"]["limits"] == {"cpu": 2, "memory": 3 * GIB}
    assert gpu["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "nvidia.com/gpu" not in cpu["resources"]["limits"]
    assert gpu["image"] == cpu["image"] + "-cuda"
    for container, threads in ((cpu, "1"), (gpu, "4")):
        env = {each["name"]: each["value"] for each in container["env"]}
        assert env["OMP_NUM_THREADS"] == threads and env["NBGITPULLER_PARENTPATH"] == "work"
    assert [each["key"] for each in pods["gpu"]["tolerations"]] == ["nvidia.com/gpu"]


def test_guarantee_holds_what_was_measured():
    """All resident memory of whole notebooks: two for the guarantee, all three for the limit."""
    memory = VALUES["singleuser"]["memory"]
    guarantee, limit = (int(memory[k].removesuffix("G")) for k in ("guarantee", "limit"))
    peaks = classes.load_peaks()
    assert set(peaks) == {path.stem for path in (ROOT / "notebooks").glob("*.py")}
    two, three = (
        classes.student(classes.load(), peaks, kernels=n, shared=False)["gb"] for n in (2, 3)
    )
    assert guarantee * GIB / 1e9 == classes.GUARANTEE_GB
    assert classes.GUARANTEE_GB / 2 < two < classes.GUARANTEE_GB < three < limit * GIB / 1e9


def test_peaks_are_the_largest_of_the_stored_runs(tmp_path, monkeypatch):
    runs = [{"notebook": "a", "peak_memory_mb": 3}, {"notebook": "a", "peak_memory_mb": 5}]
    runs += [{"notebook": "a", "error": "no checkpoint"}, {"notebook": "b", "peak_memory_mb": 4}]
    (tmp_path / "seeds.json").write_text(json.dumps(runs))
    monkeypatch.setattr(classes, "HERE", tmp_path)
    assert classes.load_peaks() == {"a": 5, "b": 4}


def test_a_process_of_the_class_hub_may_take_what_was_measured():
    """The limit is on each process, and counts more than resident memory: see the Hub's page."""
    text = (ROOT / "binder" / "jupyterhub" / "jupyterhub_config.py").read_text()
    limit = int(re.search(r'"CLASS_MEMORY", "(\d+)G"', text)[1]) * GIB
    assert limit > 2 * max(classes.load_peaks().values()) * 1e6


def test_places_that_limit_how_many_servers_start_agree_and_say_what_students_see():
    config = (ROOT / "binder" / "jupyterhub" / "jupyterhub_config.py").read_text()
    limit = int(re.search(r"concurrent_spawn_limit = (\d+)", config)[1])
    assert limit == VALUES["hub"]["concurrentSpawnLimit"]
    page = " ".join(classes.PAGE.read_text(encoding="utf-8").split())
    values = (UNIVERSITY / "values.yaml").read_text().replace("\n  #", "")
    assert f"starts at most {limit} servers at a time" in page
    assert all(BUSY in text for text in (page, values, config))
    # so many servers are ready before the class's Hub gives one up
    timeout = int(re.search(r"http_timeout = (\d+)", config)[1])
    one = classes.student(classes.load(), classes.load_peaks(), shared=True)
    assert classes.arrival(limit, one, cores=2) < timeout / 2


@posix
def test_the_hub_refuses_who_comes_above_the_limit():
    from jupyterhub.handlers.base import BaseHandler

    source = inspect.getsource(BaseHandler.spawn_single_user)
    assert re.search(rf'429,\s*f"{BUSY}\. Try again', source)


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


# Most commands start a server, a cluster or an hour of work. They are not run here: targets, files,
# options and names are looked up.
PAGES = [ROOT / "docs" / name for name in ("classes.md", "presenting.md")]
PAGES += [ROOT / "binder" / "README.md", ROOT / "binder" / "jupyterhub" / "README.md"]
NAMES = {path.stem for path in (ROOT / "notebooks").glob("*.py")}
TAKES_OPTIONS_OF = {"run_notebooks.sbatch": "notebooks.py", "install_kernel.sh": "environment.py"}
# Written as a rehearsal of three lines that needs nothing of the course.
PLAIN = ("mkdir -p ~/class", r"printf 'anna\nbob\n' > ~/class/students.txt")


def commands(text: str) -> list[str]:
    """Fenced lines, and commands within a sentence; ``&&`` joins two."""
    lines = [
        line
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        for line in block.splitlines()
    ]
    rest = " ".join(re.sub(r"```.*?```", "", text, flags=re.DOTALL).split())
    lines += re.findall(r"`((?:make|sbatch|kubectl|jupyter-repo2docker|\.venv\S+) [^`]+)`", rest)
    return [part.strip() for line in lines for part in line.split("&&")]


def mistake(command: str) -> str:
    """What a command names that is not there; empty if nothing."""
    if command in PLAIN:
        return ""
    program, *words = shlex.split(
        command.replace(".venv\\Scripts\\", ".venv/bin/").replace("\\", "/")
    )
    if program == "make":
        return unknown_to_make(words)
    if program == "npm":
        fine = words[:2] == ["ci", "--prefix"] and (ROOT / words[2] / "package-lock.json").is_file()
        return "" if fine else "no lock file"
    if program == "kubectl":
        namespace = re.search(r"--namespace (\w+)", (UNIVERSITY / "values.yaml").read_text())[1]
        known = rf"--namespace {namespace} scale statefulset/user-placeholder --replicas=\d+"
        return "" if re.fullmatch(known, " ".join(words)) else "not what values.yaml installs"
    if program == "jupyter-repo2docker":
        return unknown_to_repo2docker(words)
    if program == ".venv/bin/jupyterhub":
        fine = words[0] == "--config" and (ROOT / words[1]).is_file() and not words[2:]
        return "" if fine else "no such configuration"
    if program == ".venv/bin/python" and words[0] == "-c":
        compile(words[1], "page", "exec")
        return ""
    if program in (".venv/bin/python", "sbatch"):
        program, *words = words
    return unknown_to_script(ROOT / program, words)


def unknown_to_make(words: list[str]) -> str:
    text = (ROOT / "Makefile").read_text()
    target, *settings = words
    recipe = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", text, re.MULTILINE)
    if not recipe:
        return "no such target"
    for setting in settings:
        name, _, value = setting.partition("=")
        if not re.search(rf"\$\({name}\)", recipe[1]):
            return f"{target} does not use {name}"
        if name == "NAME" and value not in NAMES:
            return "no such notebook"
        if value.startswith("tests/") and not (ROOT / value).is_file():
            return "no such test"
    return ""


def unknown_to_repo2docker(words: list[str]) -> str:
    from repo2docker.__main__ import get_argparser

    try:
        told = get_argparser().parse_args(words)
    except SystemExit:
        return "repo2docker does not know this"
    image = "{name}:{tag}".format(**VALUES["singleuser"]["image"])
    return (
        "" if told.image_name == image and told.push and not told.run else "not values.yaml's image"
    )


def unknown_to_script(script: Path, words: list[str]) -> str:
    if not script.is_file():
        return "no such script"
    source = ROOT / "tools" / TAKES_OPTIONS_OF.get(script.name, script.name)
    options = [word for word in words if word.startswith("--")]
    names = [word for word in words if not word.startswith("--") and not word.isdigit()]
    if any(f'"{option}"' not in source.read_text() for option in options):
        return "no such option"
    return "" if set(names) <= NAMES else "no such notebook"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
@posix
def test_commands_of_the_pages_name_what_is_there(page):
    found = commands(page.read_text(encoding="utf-8"))
    assert found
    assert [(command, mistake(command)) for command in found if mistake(command)] == []


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("make klassroom", "no such target"),
        ("make binder NAME=flows", "binder does not use NAME"),
        ("make present NAME=flow", "no such notebook"),
        ('make test ARGS="tests/test_present.py"', "no such test"),
        ("npm ci --prefix binder", "no lock file"),
        ("kubectl --namespace class scale statefulset/user-placeholder --replicas=3", "not what"),
        ("jupyter-repo2docker --no-run --pushh --image-name a .", "repo2docker does not know"),
        ("jupyter-repo2docker --no-run --push --image-name a .", "not values.yaml's image"),
        (".venv/bin/jupyterhub --config binder/jupyterhub_config.py", "no such configuration"),
        (".venv/bin/python tools/slidecut.py flow --write", "no such notebook"),
        (r".venv\Scripts\python tools\slides.py flows", "no such script"),
        ("sbatch binder/university/slurm/run_notebooks.sbatch --sed 3", "no such option"),
        ("binder/university/slurm/install_kernel.sh --threads", "no such option"),
    ],
)
@posix
def test_a_command_that_names_nothing_is_found(wrong, why):
    assert mistake(wrong).startswith(why)


# ------------------------------------------------------------------ Slurm


@posix
@pytest.mark.parametrize("script", SLURM, ids=lambda path: path.name)
def test_scripts_are_sound(script):
    for command in (["bash", "-n"], ["shellcheck"]):
        tool = Path(sys.executable).parent / command[0]  # shellcheck lies beside Python
        command[0] = str(tool) if tool.exists() else command[0]
        done = subprocess.run([*command, str(script)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def install_kernel(folder: Path, **setting: str) -> KernelSpecManager:
    """Run the script on a login node; returns where the kernel is."""
    env = os.environ | {"HOME": str(folder), "COURSE_PYTHON": sys.executable}
    env |= {"JUPYTER_DATA_DIR": str(folder / "data")} | setting
    script = UNIVERSITY / "slurm" / "install_kernel.sh"
    subprocess.run(["bash", str(script)], env=env, check=True, capture_output=True)
    kernels = str(folder / "data" / "kernels")
    return KernelSpecManager(kernel_dirs=[kernels], ensure_native_kernel=False)


@posix
def test_kernel_has_one_thread_unless_told(tmp_path):
    """What the login node gives itself means nothing for a later session."""
    specs = install_kernel(tmp_path, SLURM_CPUS_PER_TASK="7")
    assert specs.get_kernel_spec("bayesian-deep-learning").env == {"OMP_NUM_THREADS": "1"}


@posix
def test_installed_kernel_runs_the_course(tmp_path):
    specs = install_kernel(tmp_path, COURSE_THREADS="3")
    spec = specs.get_kernel_spec("bayesian-deep-learning")
    assert spec.display_name == "Bayesian deep learning"
    assert spec.argv[0] == sys.executable
    manager = KernelManager(kernel_name="bayesian-deep-learning", kernel_spec_manager=specs)
    manager.transport, manager.ip = "ipc", str(tmp_path / "k")
    manager.start_kernel()
    client = manager.blocking_client()
    client.start_channels()
    client.wait_for_ready(timeout=120)  # else the answer may come before anybody listens
    said = []
    client.execute_interactive(
        "import os, course_utils; print(os.environ['OMP_NUM_THREADS'])",
        output_hook=lambda message: said.append(message["content"].get("text", "")),
        timeout=120,
    )
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    assert "".join(said) == "3\n"


def run_batch(folder: Path, task: int, *options: str) -> list[str]:
    """Number of threads, then the command, of one job of the array."""
    lines = ["#!/bin/sh", 'for word in "$OMP_NUM_THREADS" "$@"; do echo "$word"; done', ""]
    (folder / "python").write_text("\n".join(lines))
    (folder / "python").chmod(0o755)
    slurm = {"SLURM_SUBMIT_DIR": str(ROOT), "SLURM_ARRAY_TASK_ID": str(task)}
    slurm |= {"SLURM_CPUS_PER_TASK": "2", "SLURM_JOB_ID": "77"}
    command = ["bash", str(UNIVERSITY / "slurm" / "run_notebooks.sbatch"), *options]
    env = os.environ | slurm | {"COURSE_PYTHON": str(folder / "python")}
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


@posix
def test_the_job_array_runs_every_notebook(tmp_path):
    """Without --threads, which would replace what each notebook decides."""
    found = set()
    for task in range(3):
        threads, *words = run_batch(tmp_path, task, "--seed", "3")
        assert threads == "2" and words[:2] == ["tools/notebooks.py", "run"]
        assert words[3:] == ["--save", f"{words[2]}-77.ipynb", "--seed", "3"]
        found.add(words[2])
    assert found == {path.stem for path in (ROOT / "notebooks").glob("*.py")}
    assert "#SBATCH --array=0-2" in (UNIVERSITY / "slurm" / "run_notebooks.sbatch").read_text()


@posix
def test_batch_script_outside_slurm_says_so(tmp_path):
    script = UNIVERSITY / "slurm" / "run_notebooks.sbatch"
    done = subprocess.run(["bash", str(script)], capture_output=True, text=True)
    assert done.returncode != 0 and "start this with sbatch" in done.stderr


# ------------------------------------------------------------------ arithmetic


def test_the_page_follows_from_the_measurement():
    text = classes.PAGE.read_text(encoding="utf-8")
    made = classes.fill(text, classes.load(), classes.load_peaks())
    assert made == text, "Remedy: python benchmarks/classes.py"


def test_the_page_says_what_the_arithmetic_assumes():
    text = " ".join(classes.PAGE.read_text(encoding="utf-8").split())
    assert classes.WAIT == 60 and "to wait one minute" in text
    assert "with a tenth of these cores the class still works, and waits ten minutes" in text
    scaled = re.findall(r"user-placeholder --replicas=(\d+)", text)
    assert scaled == ["300", str(VALUES["scheduling"]["userPlaceholder"]["replicas"])]


def test_what_needs_a_cluster_docker_or_a_gpu_is_marked():
    text = classes.PAGE.read_text(encoding="utf-8")
    parts = text.split("\n## ")
    for command in ("jupyter-repo2docker", "kubectl", "gpu.Dockerfile", "the chart itself"):
        (part,) = [part for part in parts if command in part]
        # from the paragraph before, which introduces it, to the end of its own
        paragraphs = part.split("\n\n")
        at = next(i for i, paragraph in enumerate(paragraphs) if command in paragraph)
        around = " ".join(" ".join(paragraphs[at - 1 : at + 1]).split())
        assert "*not tested here*" in around.lower(), command
    assert "gain nothing" not in text + (UNIVERSITY / "values.yaml").read_text()


@posix
def test_the_rehearsals_page_follows_from_the_measurement():
    import classroom

    page = (ROOT / "benchmarks" / "CLASSROOM.md").read_text(encoding="utf-8")
    assert classroom.report(classes.load()) == page
    assert "load" in classroom.machine()  # of the machine before the Hub starts


def test_arithmetic_by_hand():
    one = {"server_mb": 100, "kernel_mb": 300, "server_cpu": 3, "kernel_cpu": 12}
    one |= {"server_rss": 150, "kernel_rss": 400}
    figures = {"class": {"usage": [one, one, one], "students": 3, "login": [0.2, 0.3, 0.3]}}
    peaks = {"a": 500, "b": 900, "c": 700}
    student = classes.student(figures, peaks, shared=True)
    # 100 for the server; 900 and 700, of which 100 each is shared
    assert student == {"gb": 1.5, "start": 3, "lesson": 12, "login": pytest.approx(0.1)}
    assert classes.student(figures, peaks, shared=False)["gb"] == 1.75  # 150 + 900 + 700
    assert classes.student(figures, peaks, kernels=3, shared=False)["gb"] == 2.25
    plan = classes.plan(300, student)
    assert plan["memory"] == 300 * 1.5 + 2
    assert plan["guaranteed"] == pytest.approx(300 * 2.147, rel=1e-3)  # 2 GiB each
    assert plan["cores"] == 60  # 300 lessons of 12 s in one minute
    assert plan["arrival"] == pytest.approx(30)  # 300 logins; 300 servers of 3 s take 15 on 60
    assert plan["nodes"] == 24  # 300 guarantees of 2 GiB, 13 to a node
    assert classes.plan(3, student)["cores"] == 2
    assert classes.plan(3, student)["arrival"] == 4.5  # 3 servers of 3 s on 2 cores
    assert classes.plan(3000, student)["arrival"] == pytest.approx(300)  # as the class, not 15


def test_the_arithmetic_comes_close_to_the_rehearsal():
    rows = classes.tables(classes.load(), classes.load_peaks())["check"].splitlines()[2:]
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
