"""The web site: built once, offline; then its files are read, and pages opened in a browser."""

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from bs4 import BeautifulSoup

from tests.browser import MATHEMATICS, artefacts, chromium, inaccessible
from tests.requirements import need
from tools import build_site, catalogue, fill_pages, marked, npm

pytestmark = pytest.mark.node

ROOT = Path(__file__).resolve().parents[1]
FILES = catalogue.files()
REPOSITORY = "someone/course"
HOST = "http://site.invalid/"
TYPESET = "() => !window.MathJax || MathJax.startup.promise.then(() => true)"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Folder of the site of a public repository, as make builds it, but without a network."""
    need(npm.installed(), "packages of npm are missing: make node")
    folder = tmp_path_factory.mktemp("built") / "site"
    command = [sys.executable, "-m", "tools.build_site", str(folder)]
    env = os.environ | {"COURSE_REPOSITORY": REPOSITORY}
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout + done.stderr == f"course: open {folder / 'index.html'}\n"  # no warning
    return folder


@pytest.fixture(scope="module")
def pages(site) -> dict[str, BeautifulSoup]:
    """Every page, without what Sphinx and the theme bring along."""
    paths = [path for path in sorted(site.rglob("*.html")) if "_static" not in path.parts]
    return {
        path.relative_to(site).as_posix(): BeautifulSoup(path.read_text("utf-8"), "html.parser")
        for path in paths
    }


def test_every_internal_link_leads_somewhere(site, pages):
    anchors = {
        site / name: {tag.get(key) for tag in page.find_all(True) for key in ("id", "name")}
        for name, page in pages.items()
    }
    checked = 0
    for name, page in pages.items():
        for tag in page.select("[href], [src]"):
            link, here = urlsplit(tag.get("href") or tag.get("src")), site / name
            if link.scheme or link.netloc:
                continue
            goal = (here.parent / unquote(link.path)).resolve() if link.path else here
            assert goal.exists(), (name, link)
            anchor = unquote(link.fragment)
            assert not anchor or goal not in anchors or anchor in anchors[goal], (name, link)
            checked += 1
    assert checked > 1000


@pytest.mark.parametrize("name", FILES)
def test_a_notebook_can_be_read_and_opened_elsewhere(pages, name):
    """Answers are folded, pictures described, tables are tables, and buttons launch it."""
    cells = nbformat.read(catalogue.find(name).built, as_version=4).cells
    page = pages[f"notebooks/{name}.html"]
    tags = [set(cell.metadata.get("tags", [])) for cell in cells]
    answers = sum(bool(some & {"solution", "reference"}) for some in tags)
    folded = page.select(".tag_solution details.hide, .tag_reference details.hide")
    assert len(folded) == answers > 3
    described = [image.get("alt", "") for image in page.select(".cell_output img")]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    shown = [(kind, text) for o in outputs for kind, text in o.get("data", {}).items()]
    pictures = [kind for kind, text in shown if kind.startswith("image/") or "<img" in text]
    assert len(described) == len(pictures) > 2
    for alt in described:
        assert len(alt.split()) >= 5, alt
        assert not re.search(r"[*`$\\]", alt)  # no marks in a sentence that is read aloud
    tables = sum("| --- |" in output.get("data", {}).get("text/markdown", "") for output in outputs)
    assert len(page.select(".cell_output table")) == tables
    links, path = {tag["href"] for tag in page.select("a[href]")}, f"notebooks/{name}.ipynb"
    assert f"https://mybinder.org/v2/gh/{REPOSITORY}/main?urlpath=lab/tree/{path}" in links
    assert f"https://colab.research.google.com/github/{REPOSITORY}/blob/main/{path}" in links


@pytest.mark.parametrize("repository", ["", REPOSITORY])
def test_the_catalogue_chooses_the_repository_and_badges_stay_off_the_site(
    tmp_path, monkeypatch, repository
):
    for name in ("docs", "notebooks", "explore"):
        (tmp_path / name).mkdir()
    for name in ("docs/index.md", "docs/explore.md", "explore/index.html"):
        (tmp_path / name).touch()
    published = f"[published]\nrepository = {repository!r}\nbranch = 'main'\n"
    (tmp_path / "notebooks" / "catalogue.toml").write_text(published, "utf-8")
    badges = fill_pages.badges(catalogue.Published(repository, "main", ""))
    readme = marked.fill((ROOT / "README.md").read_text("utf-8"), {fill_pages.BADGES: badges})
    (tmp_path / "README.md").write_text(readme, "utf-8")
    monkeypatch.delenv("COURSE_REPOSITORY", raising=False)
    settings = {"__file__": str(tmp_path / "docs" / "conf.py")}
    exec((ROOT / "docs" / "conf.py").read_text("utf-8"), settings)
    assert settings["repository"] == repository
    assert ("launch_buttons" in settings["html_theme_options"]) == bool(repository)
    monkeypatch.setattr(build_site, "ROOT", tmp_path)
    build_site.lay_out(tmp_path / "build")
    assert fill_pages.IMAGES[0] not in (tmp_path / "build" / "index.md").read_text("utf-8")


@pytest.fixture(scope="module")
def visit(site):
    """Returns what opens a page, typeset, that asks for nothing but files of the site."""
    with chromium() as browser:

        def opened(name: str, scheme: str = "light"):
            page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme=scheme)
            page.set_default_timeout(240_000)
            complaints = []

            def answer(route):
                path = site / unquote(urlsplit(route.request.url).path)[1:]
                there = route.request.url.startswith(HOST) and path.is_file()
                route.fulfill(path=path) if there else route.abort()

            page.route("**", answer)
            for event in ("requestfailed", "pageerror"):
                page.on(event, lambda what: complaints.append(str(what)))
            page.goto(HOST + name)
            page.wait_for_load_state("networkidle")
            page.wait_for_function(TYPESET)
            assert complaints == [], name
            return page

        yield opened


@pytest.mark.browser
def test_every_page_is_typeset_and_accessible(pages, visit):
    formulas = 0
    for name in pages:
        if name.startswith("slides/"):  # tests/test_slides.py looks at these
            continue
        page = visit(name)
        assert page.evaluate(MATHEMATICS, "article, body:not(:has(article))") == [], name
        formulas += page.locator("mjx-container").count()
        assert inaccessible(page) == [], name
        page.screenshot(path=artefacts("site") / f"{name.replace('/', '-')}.png")
        page.close()
    assert formulas > 400


@pytest.mark.browser
@pytest.mark.parametrize("name", ["index", "docs/student", f"notebooks/{FILES[-1]}"])
def test_dark_pages_can_be_read_and_a_narrow_window_scrolls_only_downwards(visit, name):
    page = visit(f"{name}.html", scheme="dark")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert inaccessible(page, ["color-contrast"]) == []  # nothing else differs in the dark
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 391
    page.screenshot(path=artefacts("site") / f"narrow-{name.replace('/', '-')}.png")
    page.close()


@pytest.mark.browser
def test_search_finds_a_word_of_the_notebooks(visit):
    page = visit("search.html?q=reparametrisation")
    vae = catalogue.find("vae").file
    page.wait_for_selector(f"#search-results li a[href*='notebooks/{vae}.html']")
    page.wait_for_selector("text=/found \\d+ pages/")
    page.close()
