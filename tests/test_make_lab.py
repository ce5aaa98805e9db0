"""``make lab``, and what Jupyter's server does for the course wherever it is installed."""

import json
import shutil
import sys
import urllib.error
from pathlib import Path

import pytest

from tests.browser import artefacts, chromium
from tests.jupyter_server import TOKEN, ask, follow, jupyterlab, served
from tests.requirements import with_make
from tools import catalogue
from tools.ports import free_ports

ROOT = Path(__file__).resolve().parents[1]


@with_make
@pytest.mark.kernel
@pytest.mark.skipif(Path(sys.prefix) != ROOT / ".venv", reason="make lab uses .venv")
def test_lab_opens_the_first_page_for_those_who_know_the_token(tmp_path):
    [port] = free_ports(1)
    arguments = f"ARGS=--no-browser --port={port} --IdentityProvider.token={TOKEN}"
    address = f"http://127.0.0.1:{port}"
    log = tmp_path / "log"
    with served(["make", "lab", arguments], address, log, cwd=ROOT):
        assert f"{port}/course?token=" in log.read_text(encoding="utf-8")  # what a browser is shown
        for page in ("", "course"):
            place, _ = follow(f"{address}/{page}")
            assert place == "lab/workspaces/course/tree/work/START.md"
        listing = json.loads(ask(f"{address}/api/contents/work"))
        names = {entry["name"] for entry in listing["content"]}
        assert {"START.md", *(f"{name}.ipynb" for name in catalogue.files())} <= names
        assert b"jupyter-config-data" in ask(f"{address}/lab")
        assert "python3" in json.loads(ask(f"{address}/api/kernelspecs"))["kernelspecs"]
        assert follow(f"{address}/course", "wrong")[0].startswith("login?")
        with pytest.raises(urllib.error.HTTPError, match="403"):
            ask(f"{address}/api/contents", "wrong")


@pytest.fixture
def home(tmp_path):
    """A student's home, with a course that a link has pulled into it."""
    course = tmp_path / "home" / "the course" / "notebooks"
    course.mkdir(parents=True)
    shutil.copytree(ROOT / "docs", course.parent / "docs")
    for path in (ROOT / "notebooks" / "START.md", *(each.built for each in catalogue.load())):
        shutil.copy(path, course)
    (tmp_path / "outside" / "notebooks").mkdir(parents=True)
    (tmp_path / "outside" / "notebooks" / "START.md").touch()
    return tmp_path / "home"


@pytest.mark.kernel
def test_a_pulled_course_is_found_and_nothing_outside_of_the_home(home, tmp_path):
    with jupyterlab(home, tmp_path / "state") as address:
        assert "/lab?" in (tmp_path / "state" / "log").read_text("utf-8")  # no course was opened
        for folder in ("", "nowhere", "../outside", str(tmp_path / "outside"), "the course/docs"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                follow(f"{address}/course?folder={folder.replace(' ', '%20')}")
        page, _ = follow(f"{address}/course?folder=the%20course")
        assert page == "lab/workspaces/course/tree/the%20course/work/START.md"
    assert not (tmp_path / "outside" / "work").exists()
    assert len(list((home / "the course" / "work").glob("*.ipynb"))) == len(catalogue.files())


@pytest.mark.browser
def test_a_reader_sees_the_first_page_as_text_and_a_click_opens_an_own_copy(home, tmp_path):
    first = catalogue.load()[0]
    with chromium() as browser, jupyterlab(home, tmp_path / "state") as address:
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        page.set_default_timeout(10 * 60_000)
        page.goto(f"{address}/course?folder=the%20course&token={TOKEN}")
        page.wait_for_selector(".jp-MarkdownViewer h1 >> text=Start here")
        picture = ".jp-MarkdownViewer img"
        page.wait_for_function("s => document.querySelector(s)?.naturalWidth > 0", arg=picture)
        page.screenshot(path=artefacts("first page") / "start.png")
        page.click(f".jp-MarkdownViewer a[href*='{first.file}.ipynb']")
        page.wait_for_selector(".jp-NotebookPanel .jp-RenderedMarkdown h1")
        page.wait_for_selector(".jp-NotebookPanel .jp-CodeCell")
        assert page.locator(".jp-NotebookPanel .jp-OutputArea-output img").count() == 0
        page.screenshot(path=artefacts("first page") / "copy.png")
