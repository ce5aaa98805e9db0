"""Guides and sources as other people's tools see them, and what a guide promises to instructors."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.requirements import need
from tools import catalogue, notebook_sources, npm

ROOT = Path(__file__).resolve().parents[1]
GUIDE = (ROOT / "docs" / "instructor.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "command", ["ruff check .", "ruff format --check .", "pre_commit validate-config"]
)
def test_standard_tools_are_content(command):
    subprocess.run([sys.executable, "-m", *command.split()], cwd=ROOT, check=True)


def test_every_page_names_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    version, date = project["version"], citation["date-released"]
    assert citation["version"] == version
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## \[(\d.+)\] - (.+)$", changes, re.MULTILINE)[0] == (version, date)
    assert f"Version {version}, {date[:4]}." in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.node
def test_spelling_is_british(tmp_path):
    """The commit hook is content with the course, and finds what is planted."""
    need(shutil.which("node") and npm.installed(), "cspell is not installed: make node")
    (hooks,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    (entry,) = (hook["entry"] for hook in hooks["hooks"] if hook["id"] == "spelling")

    def misspelt(*words: str) -> list[str]:
        command = [*entry.split(), "--no-summary", *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
        assert done.returncode in (0, 1) and not done.stderr.strip(), done.stderr
        return done.stdout.splitlines()

    assert misspelt() == []
    planted = {  # "color" stands once in prose, and elsewhere where it does no harm
        "cells.py": "# %% [markdown]\n# `color`, $x_{color}$, color.\n# %%\ncolor = 'color'\n",
        "page.md": "The `color`, $x_{color}$, color.\n```sh\ncolor\n```\n",
    }
    for name, text in planted.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert len(misspelt("--root", tmp_path, *planted)) == len(planted)


def test_the_guide_has_every_section_and_every_exercise():
    sections, rest = GUIDE.split("## The exercises")
    _, *parts = re.split(r"^### (\d+ .+)\n", sections, flags=re.MULTILINE)
    wanted = [f"{part.number} {part.title}" for each in catalogue.load() for part in each.sections]
    assert parts[::2] == wanted
    for title, text in zip(parts[::2], parts[1::2], strict=True):
        words = re.findall(r"^- \*\*(\w+):\*\* \S", text, re.MULTILINE)
        assert words == ["Say", "Skip", "Ask", "Expect"], title
    rows = re.findall(r"^\| (\d+) \| (\w+) ", rest.split("\n## ")[0], re.MULTILINE)
    assert rows == [
        (str(n), task.number) for n, each in enumerate(catalogue.load()) for task in each.exercises
    ]


def parameters() -> dict[str, str]:
    """Names and values in the notebooks' cells of parameters."""
    cells = [cell for name in catalogue.files() for cell in notebook_sources.read(name).cells]
    source = "\n".join(cell.source for cell in cells if "parameters" in notebook_sources.tags(cell))
    return dict(re.findall(r"^(\w+) = (\S+)", source, re.MULTILINE))


def test_parameters_that_the_guide_changes_exist():
    part = GUIDE.split("## Change data, seeds and run times")[1].split("\n## ")[0]
    named = {a or b for a, b in re.findall(r"`([A-Z_]+)`|--set (\w+)=", part)}
    assert named and named <= set(parameters())


@pytest.mark.mistake("D6")
def test_five_repetitions_or_more():
    counts = [int(n) for name, n in parameters().items() if name.endswith(("SEEDS", "FOLDS"))]
    assert counts and min(counts) >= 5
