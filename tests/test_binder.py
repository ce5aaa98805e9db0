"""What Binder would build: rendered by repo2docker's own library, its steps checked and run."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from binder import rehearse, warm
from tests.browser import artefacts, chromium
from tests.jupyter_server import jupyterlab

ROOT = Path(__file__).resolve().parents[1]
BINDER = ROOT / "binder"


pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="images are built on Linux")


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A copy, so that nothing of this checkout but its files decides."""
    folder = tmp_path_factory.mktemp("repository")
    rehearse.copy_repository(folder)
    return folder


@pytest.fixture(scope="module")
def dockerfile(repository):
    return rehearse.dockerfile(repository)


def test_binder_is_the_folder_that_is_used(repository, dockerfile):
    pack = rehearse.build_pack(repository)
    assert type(pack).__name__ == "CondaBuildPack"
    with rehearse.contextlib.chdir(repository):
        assert pack.binder_dir == "binder"
        assert pack.environment_yaml_path == "binder/environment.yml"
    assert (repository / "environment.yml").is_file()  # there, and not read
    assert not re.search(r"(?<!binder/)\benvironment\.yml", dockerfile)


def test_python_is_one_that_the_course_supports(repository):
    version = rehearse.build_pack(repository).python_version
    project = rehearse.tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert version == "3.11"  # the version that the constraints were tested with
    assert version in SpecifierSet(project["requires-python"])


def test_the_course_is_installed_after_the_files_are_there(dockerfile):
    before, after = rehearse.steps(dockerfile)
    assert after == ["chmod +x binder/postBuild", "./binder/postBuild"]
    assert "pip install" not in "".join(before)


def test_conda_brings_only_python_and_what_a_hub_needs():
    """All else is what pyproject.toml asks for, see the next test."""
    conda = yaml.safe_load((BINDER / "environment.yml").read_text())
    assert conda["channels"] == ["conda-forge"]
    names = [canonicalize_name(re.split("[=<>]", text)[0]) for text in conda["dependencies"]]
    assert names == ["python", "pip", "nbgitpuller"]


def test_post_build_installs_what_pyproject_asks_for_and_nothing_else(repository, tmp_path):
    """For real, with commands that write down how they are called."""
    calls = tmp_path / "calls"
    for name in ("python", "jupyter"):
        stub = tmp_path / name
        stub.write_text(
            f'#!/bin/sh\necho "{name} $* PIP_NO_CACHE_DIR=$PIP_NO_CACHE_DIR" >> {calls}\n'
        )
        stub.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    for step in rehearse.steps(rehearse.dockerfile(repository))[1]:
        subprocess.run(["sh", "-c", step], cwd=repository, env=environment, check=True)
    install, warmed, trusted = calls.read_text().splitlines()
    # What --here installs is tested in test_environment.py: torch alone, then "--editable .".
    assert install == "python tools/environment.py --here --torch cpu PIP_NO_CACHE_DIR=1"
    assert warmed.startswith("python binder/warm.py ")
    assert trusted.count(".ipynb") == len(list(ROOT.glob("notebooks/*.ipynb")))


def test_post_build_stops_at_the_first_failure(repository, tmp_path):
    stub = tmp_path / "python"
    stub.write_text("#!/bin/sh\nexit 7\n")
    stub.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["binder/postBuild"], cwd=repository, env=environment)
    assert done.returncode == 7


def test_every_shell_step_can_be_parsed(dockerfile):
    for step in sum(rehearse.steps(dockerfile), []):
        subprocess.run(["bash", "-n", "-c", step], check=True)
    shellcheck = Path(sys.executable).parent / "shellcheck"
    subprocess.run([shellcheck, BINDER / "postBuild"], check=True)


def test_no_step_names_a_place_of_this_machine():
    for path in (path for path in BINDER.iterdir() if path.is_file()):
        assert not re.search(r"(?<![\w./])/(home|root|tmp|work)/", path.read_text()), path


def test_settings_open_the_start_page_as_text_for_readers(tmp_path):
    warm.configure(tmp_path)
    server = json.loads((tmp_path / "etc/jupyter/jupyter_server_config.json").read_text())
    pages = {values["default_url"] for values in server.values()}
    (page,) = pages
    assert {"ServerApp", "LabApp", "JupyterNotebookApp"} == set(server)
    assert (ROOT / page.removeprefix("/lab/tree/")).is_file()
    lab = json.loads((tmp_path / "share/jupyter/lab/settings/overrides.json").read_text())
    viewers = lab["@jupyterlab/docmanager-extension:plugin"]["defaultViewers"]
    assert viewers == {"markdown": "Markdown Preview"}


def test_a_browser_sees_the_start_page_and_a_link_opens_a_notebook(tmp_path, monkeypatch):
    """With the settings of the image, and with no address but the server's root."""
    prefix, home = tmp_path / "prefix", tmp_path / "home"
    warm.configure(prefix)
    (home / "notebooks").mkdir(parents=True)
    for name in ("START.md", "flows.ipynb"):
        shutil.copy(ROOT / "notebooks" / name, home / "notebooks")
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", str(prefix / "etc/jupyter"))
    settings = f"--LabApp.app_settings_dir={prefix / 'share/jupyter/lab/settings'}"
    with chromium() as browser, jupyterlab(home, tmp_path / "state", settings) as address:
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        page.set_default_timeout(10 * 60_000)
        page.goto(f"{address}/?token=test")
        page.wait_for_selector(".jp-MarkdownViewer h1 >> text=Start here")
        page.screenshot(path=artefacts("binder") / "start.png")
        page.click(".jp-MarkdownViewer a[href*='flows.ipynb']")
        page.wait_for_selector(".jp-NotebookPanel .jp-RenderedMarkdown h1")


def test_overrides_name_settings_that_jupyterlab_knows():
    schemas = Path(sys.prefix) / "share/jupyter/lab/schemas"
    for plugin, values in json.loads((BINDER / "overrides.json").read_text()).items():
        package, _, name = plugin.partition(":")
        schema = json.loads((schemas / package / f"{name}.json").read_text())
        assert set(values) <= set(schema["properties"])


@pytest.mark.parametrize("name", warm.notebooks.names())
def test_first_cells_run_without_the_others(name):
    assert warm.run_head(name) > 0


def test_first_cells_are_those_up_to_the_parameters(monkeypatch):
    executed = []
    monkeypatch.setattr(warm.notebooks, "execute", executed.append)
    for name in warm.notebooks.names():
        warm.run_head(name)
    for notebook in executed:
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert len(code) == 3 and "parameters" in code[-1].metadata.tags


@pytest.mark.parametrize(
    "target", re.findall(r"\]\((\S+?)\)", (ROOT / "notebooks/START.md").read_text())
)
def test_start_page_leads_to_every_notebook(target):
    assert (ROOT / "notebooks" / target).is_file()


def test_start_page_says_how_long_each_notebook_takes():
    rows = re.findall(
        r"\[(.+?)\]\((\w+)\.ipynb\).*?\| (\d+) minutes", (ROOT / "notebooks/START.md").read_text()
    )
    assert sorted(name for _, name, _ in rows) == warm.notebooks.names()
    for title, name, minutes in rows:
        cells = warm.notebooks.read_source(name).cells
        begins = next(i for i, cell in enumerate(cells) if cell.cell_type == "code")
        head = "\n".join(cell.source for cell in cells[:begins])
        assert head.startswith(f"# {title}")
        table = [line.split("|") for line in head.splitlines() if line.startswith("| ")]
        column = next(i for i, text in enumerate(table[0]) if "minutes" in text)
        assert int(minutes) == sum(int(row[column]) for row in table[2:])


def test_the_page_says_what_the_rehearsal_measured(repository, dockerfile):
    result = json.loads(rehearse.STORED.read_text(encoding="utf-8"))
    page = rehearse.README.read_text(encoding="utf-8")
    assert rehearse.fill(page, result) == page, "Remedy: make binder"
    assert f"**{result['gigabytes']:.2f} GB**" in page and result["gigabytes"] <= rehearse.LIMIT
    before, after = rehearse.steps(dockerfile)
    assert result["steps that need Docker"] == len(before)
    assert list(result["seconds"]) == after
    assert result["other than pyproject.toml"] == []
    assert result["start page"] == "lab/tree/notebooks/START.md"
    assert result["python"] == rehearse.build_pack(repository).python_version
    pinned = (ROOT / "constraints.txt").read_text().splitlines()
    assert f"torch=={result['torch'].removesuffix('+cpu')}" in pinned, "Remedy: make binder"


def test_a_page_without_room_for_the_measurement_is_refused():
    result = json.loads(rehearse.STORED.read_text(encoding="utf-8"))
    with pytest.raises(ValueError, match="0 places"):
        rehearse.fill("nothing", result)


def test_copy_for_the_rehearsal_holds_what_git_would_take(repository):
    assert (repository / "binder" / "postBuild").stat().st_mode & 0o100
    assert not (repository / "build").exists() and not (repository / ".venv").exists()
