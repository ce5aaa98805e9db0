"""Every command of the README and of the guides is executed, here or by a test named here.

Of the guides those in blocks of their own; of the README also those inside a sentence or a table.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tools import create_venv as environment

ROOT = Path(__file__).resolve().parents[1]
TEXTS = ("README.md", "CONTRIBUTING.md", "docs/instructor.md", "docs/student.md")
# Each command: SCRATCH runs it below, in a small copy of the course, and SERVED does until it gives
# an address; a test runs the same; or a file that is run somewhere else contains it.
SCRATCH, SERVED = "scratch", "scratch, until it serves"
NOWHERE = "nowhere: the README says so"
LAB = "tests/test_lab.py::test_lab_serves_the_notebooks_and_a_kernel_to_those_who_know_the_token"
EXECUTORS = {
    "!git clone --depth 1 https://github.com/OWNER/NAME course"
    " && pip install --quiet pyro-ppl zuko pooch": NOWHERE,
    "%cd course": NOWHERE,
    "make lab": LAB,
    "make lab TORCH=cpu": SERVED,
    'make lab ARGS="--no-browser"': SERVED,
    "make help": SCRATCH,
    "make check": SCRATCH,
    "make links REPO=owner/name": SCRATCH,
    "make test": ".ci/run",
    "make env": SCRATCH,
    "make slides": "tests/test_slides.py::test_every_slide_has_its_page",
    "make site": "tests/test_site.py::test_the_command_of_the_readme_builds_the_site",
    "make student": SCRATCH,
    "make notebooks NAME=flows": SCRATCH,
    r"py tools\environment.py --torch cpu": NOWHERE,
    r".venv\Scripts\jupyter lab --notebook-dir=notebooks": NOWHERE,
    r".venv\Scripts\python -m pytest": NOWHERE,
    "conda env create --file environment.yml": NOWHERE,
    "conda activate bayesian-deep-learning": NOWHERE,
    "jupyter lab --notebook-dir=notebooks": NOWHERE,
    ".venv/bin/python -m course_utils": SCRATCH,
    ".venv/bin/python -m pip freeze --exclude-editable": SCRATCH,
    ".venv/bin/pre-commit install": SCRATCH,
    ".venv/bin/python tools/notebooks.py run flows --seed 3 --threads 1": SCRATCH,
    ".venv/bin/python tools/notebooks.py run flows --seed 1": SCRATCH,
    ".venv/bin/python tools/notebooks.py run flows --seed 3 --set SEEDS=2 --set REALNVP_STEPS=800":
        SCRATCH,
}  # fmt: skip
SMALL = """# %% [markdown]
# # A small notebook

# %% tags=["parameters"]
SEED = 0
THREADS = 2
SEEDS = 5
REALNVP_STEPS = 1500

# %%
print(SEED, THREADS, SEEDS, REALNVP_STEPS)

# %% tags=["solution"]
# Solution
answer = 42
"""


def fenced(text: str) -> list[str]:
    """The commands in the fenced blocks for a shell."""
    blocks = re.findall(
        r"^ *```(?:sh|powershell|ipython3)\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL
    )
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip()]


def inline(text: str) -> list[str]:
    """The calls of make inside a sentence or a table; a placeholder stands for the flows."""
    return [c.replace("NAME=NAME", "NAME=flows") for c in re.findall(r"`(make [^`]+)`", text)]


def commands() -> list[str]:
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in TEXTS]
    return list(dict.fromkeys([*inline(texts[0]), *(c for text in texts for c in fenced(text))]))


def test_every_command_has_an_executor_and_every_executor_a_command():
    assert sorted(commands()) == sorted(EXECUTORS)
    assert fenced("a\n\n```sh\nmake a\nmake b\n```\n\n   ```powershell\n   c\n   ```\n") == [
        "make a",
        "make b",
        "c",
    ]
    assert inline("a `make b C=d` | `make e NAME=NAME` | `f`") == [
        "make b C=d",
        "make e NAME=flows",
    ]


@pytest.mark.parametrize(
    ("command", "executor"),
    [(c, e) for c, e in EXECUTORS.items() if e not in (SCRATCH, SERVED, NOWHERE)],
)
def test_the_named_executor_is_there(command, executor):
    path, _, test = executor.partition("::")
    text = (ROOT / path).read_text(encoding="utf-8")
    if test:
        assert re.search(rf"^def {test}\(", text, re.MULTILINE)
    else:
        assert command in text


def test_what_is_not_executed_is_marked():
    """And nothing else is."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    marked = [part for part in re.split(r"^##+ ", text, flags=re.M) if "(not tested here)" in part]
    untested = [command for command, executor in EXECUTORS.items() if executor == NOWHERE]
    assert sorted(command for part in marked for command in fenced(part)) == sorted(untested)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """The course with one small notebook, and with this environment as its .venv."""
    folder = tmp_path_factory.mktemp("scratch") / "course"
    skipped = shutil.ignore_patterns(".git", ".venv", "build", "node_modules", ".*_cache", "*.pdf")
    shutil.copytree(ROOT, folder, ignore=skipped)
    for path in (folder / "notebooks").iterdir():
        path.unlink() if path.is_file() else shutil.rmtree(path)
    (folder / "notebooks" / "flows.py").write_text(SMALL, encoding="utf-8")
    (folder / "slides" / "lecture.pdf").touch()
    venv = folder / ".venv"
    venv.mkdir()
    for name in ("bin", "lib", "include", "share", "pyvenv.cfg"):
        if (Path(sys.prefix) / name).exists():
            (venv / name).symlink_to(Path(sys.prefix) / name)
    (venv / environment.STAMP.name).write_text(f"{environment.fingerprint()} cpu\n")
    subprocess.run(["git", "init", "--quiet", folder], check=True)
    return folder


@pytest.mark.skipif(not shutil.which("make"), reason="no make: see the README for Windows")
@pytest.mark.parametrize("command", [c for c, e in EXECUTORS.items() if e == SCRATCH])
def test_command_works(scratch, command):
    environment_ = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    done = subprocess.run(
        command, shell=True, cwd=scratch, env=environment_, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if "--seed 3 --threads 1" in command:
        assert '"parameters": {"SEED": 3, "THREADS": 1}' in done.stdout
    if "--set" in command:
        assert '"SEEDS": 2, "REALNVP_STEPS": 800' in done.stdout
    if command == "make student":
        assert (scratch / "build" / "student.zip").is_file()
    if command == "make notebooks NAME=flows":
        assert "0 2 5 1500" in (scratch / "notebooks" / "flows.ipynb").read_text()
    if "pre-commit" in command:
        assert (scratch / ".git" / "hooks" / "pre-commit").is_file()


@pytest.mark.skipif(not shutil.which("make"), reason="no make: see the README for Windows")
@pytest.mark.parametrize("command", [c for c, e in EXECUTORS.items() if e == SERVED])
def test_command_serves(scratch, command):
    process = subprocess.Popen(
        command, shell=True, cwd=scratch, env=os.environ | {"BROWSER": "true"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    said = []
    for line in process.stdout:
        said.append(line)
        if re.search(r"http://(?:localhost|127\.0\.0\.1):\d+/lab", line):
            break
    ended = process.poll()
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate()
    assert ended is None and "http" in said[-1], "".join(said)


def test_parameters_that_a_command_sets_exist():
    for command in commands():
        found = re.search(r"notebooks\.py run (\w+)", command)
        for key in re.findall(r"--set (\w+)=", command):
            source = (ROOT / "notebooks" / f"{found[1]}.py").read_text(encoding="utf-8")
            assert re.search(rf"^{key} = ", source, re.MULTILINE), key


def test_targets_named_inside_sentences_exist():
    targets = set(re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split())
    for name in TEXTS:
        text = (ROOT / name).read_text(encoding="utf-8")
        used = set(re.findall(r"`make ([a-z]+)", text))
        assert used <= targets, (name, used - targets)
