"""Every command of the README and of the guides is executed, or said to be not tested here."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.requirements import with_make
from tools import catalogue, create_venv

ROOT = Path(__file__).resolve().parents[1]
TEXTS = ("README.md", "CONTRIBUTING.md", "docs/instructor.md", "docs/student.md")
NOBODY = "not tested here"  # stands beside a command that nothing executes
# What executes a command; all others run in a small copy of the course.
ELSEWHERE = {
    "bash .ci/run": ".ci/run",
    "make node": ".ci/run",
    "make quick": ".github/workflows/test.yml",
    "make test": ".ci/run",
    'make test ARGS="-k flows"': ".ci/run",
    "make test-all": ".ci/run",
    "make lab": "tests/test_make_lab.py",
    'make lab ARGS="--no-browser"': "tests/test_make_lab.py",
    ".venv/bin/python -m course_utils": "tests/test_self_check.py",
    "make check": ".github/workflows/test.yml",
    "make present NAME=flows": "tests/test_presenting.py",
    "make offline": "tests/test_create_venv.py",
    "uv run jupyter lab": ".github/workflows/test.yml",
    "make slides": "tests/test_slides.py",
    "make site": "tests/test_site.py",
    "make student": "tests/test_student_version.py",
    ".venv/bin/python -m course_utils collect FOLDER --csv solved.csv": "tests/test_collect.py",
}
# What stands afterwards in a file of the copy, or on the screen.
LEFT = {
    "--threads 1": ("screen", '"parameters": {"SEED": 3, "THREADS": 1}'),
    "--set": ("screen", '"SPLINE_STEPS": 400, "REALNVP_STEPS": 800'),
    "make notebooks NAME": ("notebooks/flows.ipynb", "0 2 800 1500"),
    "make links": ("notebooks/flows.ipynb", "https://github.com/owner/name"),
    ".copies": ("work/START.md", "(flows.ipynb)"),
    "pre-commit": (".git/hooks/pre-commit", "pre_commit"),
}
SMALL = """# %% tags=["parameters"]
SEED, THREADS, SPLINE_STEPS, REALNVP_STEPS = 0, 2, 800, 1500

# %%
print(SEED, THREADS, SPLINE_STEPS, REALNVP_STEPS)

# %% [markdown]
"""
FENCED = re.compile(r"^ *```(?:sh|powershell|ipython3)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:make|bash|\.venv/bin/\S+) [^`]+)`")


def commands() -> list[str]:
    """Each command, unless its section, sentence or row of a table says that nobody executes it."""
    found = []
    for name in TEXTS:
        for part in re.split(
            r"^(?=#+ |\||- )|(?<=\|\n)(?=\n)", (ROOT / name).read_text("utf-8"), flags=re.MULTILINE
        ):
            lines = "\n".join(FENCED.findall(part)).splitlines() + INLINE.findall(part)
            found += [line.strip() for line in lines if line.strip() and NOBODY not in part]
    return sorted(set(found))


def test_what_is_executed_elsewhere_stands_in_a_text():
    assert set(ELSEWHERE) <= set(commands())
    assert all((ROOT / path).is_file() for path in ELSEWHERE.values())


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """The course with small notebooks, and with this environment as its .venv."""
    folder = tmp_path_factory.mktemp("scratch") / "course"
    skipped = shutil.ignore_patterns(
        ".git", ".venv", "build", "work", "node_modules", ".*_cache", "*.ipynb"
    )
    shutil.copytree(ROOT, folder, ignore=skipped)
    for each in catalogue.load():
        headings = "".join(f"# ## {part.number} {part.title}\n" for part in each.sections)
        (folder / "notebooks" / each.source.name).write_text(SMALL + headings, encoding="utf-8")
    venv = folder / ".venv"
    venv.mkdir()
    for path in Path(sys.prefix).iterdir():
        if path.name != create_venv.STAMP.name:
            (venv / path.name).symlink_to(path)
    known = {"files": create_venv.fingerprint(), "torch": "cpu", "tests": True}
    stamp = json.dumps(known | {"folder": str(folder)})
    (venv / create_venv.STAMP.name).write_text(stamp, encoding="utf-8")
    if shutil.which("git"):
        subprocess.run(["git", "init", "--quiet", folder], check=True)
    return folder


@with_make
@pytest.mark.kernel
@pytest.mark.parametrize("command", [c for c in commands() if c not in ELSEWHERE])
def test_command_works(scratch, command):
    if "make lab" in command:
        command += " ARGS=--version"  # where it serves for good, tests/test_make_lab.py looks
    env = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    done = subprocess.run(command, shell=True, cwd=scratch, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for part, (place, words) in LEFT.items():
        if part in command:
            text = done.stdout if place == "screen" else (scratch / place).read_text("utf-8")
            assert words in text, text
