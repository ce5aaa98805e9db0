"""The web site: built offline, then opened page by page in a browser."""

import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import nbformat
import pytest
from bs4 import BeautifulSoup

from tests.browser import artefacts, chromium
from tests.requirements import need
from tools import build_site as website
from tools import launch_links, marked

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("bayesian_neural_networks_wine", "var_mod", "flows")
TYPESET = "() => !window.MathJax || MathJax.startup.promise.then(() => true)"
# Text that a reader sees, without code and without formulas.
PROSE = """() => {
  const page = document.querySelector("article") || document.body;
  const walker = document.createTreeWalker(page, NodeFilter.SHOW_TEXT);
  const parts = [];
  while (walker.nextNode()) {
    const hidden = "pre, code, script, style, mjx-container, mjx-assistive-mml";
    if (!walker.currentNode.parentElement.closest(hidden)) parts.push(walker.currentNode.data);
  }
  return parts.join(" ");
}"""
LEVELS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
RULES = {  # nothing but colours differs in the dark
    "light": {"type": "tag", "values": LEVELS},
    "dark": {"type": "rule", "values": ["color-contrast"]},
}
SLOW = 240_000  # milliseconds that a page may take on a busy machine


def build(target: Path, repository: str) -> str:
    """Run the tool as make does, without a network; returns what it prints."""
    installed = (website.DOCS / "node_modules" / "mathjax").is_dir()
    need(installed, "MathJax is not installed: npm ci in docs/")
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "website.py", target],
        env=os.environ | {"COURSE_REPOSITORY": repository},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Folder of the site, without a repository, and what the build said."""
    folder = tmp_path_factory.mktemp("built") / "site"
    return folder, build(folder, "")


def html(folder: Path) -> list[Path]:
    """Every page, without what Sphinx and the theme bring along."""
    return sorted(p for p in folder.rglob("*.html") if "_static" not in p.parts)


@pytest.fixture(scope="module")
def address(site):
    """The site on a server on this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=str(site[0]))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


class Links(HTMLParser):
    """Addresses and anchors of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses, self.anchors, self.loaded = [], {""}, []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.anchors |= {values.get("id", ""), values.get("name") or ""}
        self.addresses += filter(None, (values.get("href"), values.get("src")))
        if tag in ("script", "img", "iframe") or values.get("rel") in ("stylesheet", "preload"):
            self.loaded += filter(None, (values.get("src"), values.get("href")))


def read(path: Path) -> Links:
    parser = Links()
    parser.feed(path.read_text(encoding="utf-8"))
    return parser


# ------------------------------------------------------------------ the files


def test_the_command_of_the_readme_builds_the_site(site):
    folder, said = site
    assert said == f"course: open {folder / 'index.html'}\n"  # no warning, offline
    assert "\tpython tools/website.py" in re.sub(
        r"@\$\(BIN\)/", "", (ROOT / "Makefile").read_text()
    )
    found = {path.relative_to(folder).as_posix() for path in html(folder)}
    pages = {f"notebooks/{name}.html" for name in NAMES} | {"index.html", "slides/lecture.html"}
    pages |= {f"docs/{path.stem}.html" for path in (ROOT / "docs").glob("*.md")}
    assert pages - {"docs/index.html"} <= found
    assert (folder / "slides" / "lecture.pdf").stat().st_size > 100_000


def test_every_internal_link_leads_somewhere(site):
    folder, _ = site
    pages = {path: read(path) for path in html(folder)}
    checked = 0
    for path, page in pages.items():
        for link in page.addresses:
            target, anchor = urldefrag(link)
            if urlsplit(link).scheme or link.startswith("//"):
                continue
            goal = (path.parent / unquote(target.split("?")[0])).resolve() if target else path
            assert goal.exists(), (path.name, link)
            if anchor and goal in pages:
                assert unquote(anchor) in pages[goal].anchors, (path.name, link)
            checked += 1
    assert checked > 1000


def test_no_page_loads_anything_from_elsewhere(site):
    for path in html(site[0]):
        assert not [link for link in read(path).loaded if re.match(r"(https?:)?//", link)], path


def test_solutions_are_folded_and_pictures_described(site):
    for name in NAMES:
        text = (site[0] / "notebooks" / f"{name}.html").read_text(encoding="utf-8")
        source = (ROOT / "notebooks" / f"{name}.py").read_text(encoding="utf-8")
        assert text.count("Show the solution") == source.count("\n# Solution\n")
        described = re.findall(r'alt="Picture, described in the text: ([^"]+)"', text)
        assert len(described) == len(re.findall(r'<img [^>]*src="\.\./_images/', text)) > 5
        assert all(len(words.split()) >= 3 for words in described)


@pytest.mark.parametrize("name", NAMES)
def test_every_table_that_a_notebook_shows_is_a_table(site, name):
    cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    shown = sum("| --- |" in output.get("data", {}).get("text/markdown", "") for output in outputs)
    page = (site[0] / "notebooks" / f"{name}.html").read_text(encoding="utf-8")
    assert len(BeautifulSoup(page, "html.parser").select(".cell_output table")) == shown > 0


def test_a_sentence_for_a_picture_has_no_marks_in_it():
    text = "**Left:** the *plane* of [codes](x.md), $z$. Right: more."
    assert website.first_sentence(text) == "Left: the plane of codes, z."
    assert website.first_sentence("The `curve` of $L_K$ rises. And more.") == (
        "The curve of L_K rises."
    )


def test_launch_buttons_only_with_a_repository(site, tmp_path):
    pages = [(site[0] / "notebooks" / f"{name}.html").read_text() for name in NAMES]
    assert not any("mybinder.org" in page or "colab.research" in page for page in pages)
    build(tmp_path / "site", "someone/course")
    for name in NAMES:
        page = (tmp_path / "site" / "notebooks" / f"{name}.html").read_text(encoding="utf-8")
        path = f"notebooks/{name}.ipynb"
        assert f"https://mybinder.org/v2/gh/someone/course/main?urlpath=lab/tree/{path}" in page
        assert f"https://colab.research.google.com/github/someone/course/blob/main/{path}" in page
        assert (ROOT / path).is_file()


def test_badges_of_the_readme_choose_the_repository_and_stay_off_the_site(tmp_path, monkeypatch):
    course = tmp_path / "course"
    skipped = shutil.ignore_patterns(".*", "build", "node_modules", "data", "slides", "tests")
    shutil.copytree(ROOT, course, ignore=skipped)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    readme = marked.fill(readme, {launch_links.MARK: launch_links.badges("someone/course")})
    (course / "README.md").write_text(readme, encoding="utf-8")
    monkeypatch.delenv("COURSE_REPOSITORY", raising=False)
    settings = {"__file__": str(course / "docs" / "conf.py")}
    exec((course / "docs" / "conf.py").read_text(), settings)
    assert settings["repository"]() == "someone/course"
    monkeypatch.setattr(website, "ROOT", course)
    website.lay_out(tmp_path / "laid")
    assert "mybinder.org" not in (tmp_path / "laid" / "index.md").read_text(encoding="utf-8")


# ------------------------------------------------------------------ in a browser


def opened(browser, url: str, **options):
    """A page, typeset; what it asked for and complained about."""
    page = browser.new_page(viewport={"width": 1280, "height": 900}, **options)
    page.set_default_timeout(SLOW)
    asked, complaints = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("response", lambda r: complaints.append(f"{r.status} {r.url}") if r.status > 399 else 0)
    page.goto(url)
    page.wait_for_load_state("networkidle")
    page.wait_for_function(TYPESET)
    return page, asked, complaints


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_alone_typeset_and_accessible(site, address, browser, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    formulas = 0
    for path in html(site[0]):
        name = path.relative_to(site[0]).as_posix()
        if name.startswith("slides/"):  # tests/test_slides.py looks at these
            continue
        page, asked, complaints = opened(browser, address + name, color_scheme=scheme)
        assert not [url for url in asked if not url.startswith((address, "data:"))], name
        assert complaints == [], name
        assert page.evaluate("document.documentElement.dataset.theme") == scheme
        left = re.search(r"\\\(|\\\[|\$\$|\\[a-z]{2,}\b", page.evaluate(PROSE))
        assert not left, (name, left)
        assert page.locator("[data-mml-node=merror], mjx-merror").count() == 0, name
        formulas += page.locator("mjx-container").count()
        options = {"runOnly": RULES[scheme], "resultTypes": ["violations"]}
        found = axe.run(page, options=options).response["violations"]
        assert [(v["id"], v["nodes"][0]["html"][:200]) for v in found] == [], name
        page.screenshot(path=artefacts("site") / f"{scheme}-{name.replace('/', '-')}.png")
        page.close()
    assert formulas > 400


def test_a_fault_would_be_found(address, browser):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page, *_ = opened(browser, address + "docs/slides.html")
    page.evaluate("document.querySelector('article').innerHTML = '<img src=x> \\\\(x\\\\)'")
    found = axe.run(page, options={"runOnly": RULES["light"]}).response["violations"]
    assert "image-alt" in [violation["id"] for violation in found]
    assert re.search(r"\\\(", page.evaluate(PROSE))
    page.close()


def test_search_finds_a_word_of_the_notebooks(address, browser):
    page, asked, _ = opened(browser, address + "search.html?q=reparametrisation")
    page.wait_for_selector("#search-results li a")
    found = [a.get_attribute("href") for a in page.locator("#search-results li a").all()]
    assert any("notebooks/var_mod.html" in link for link in found)
    assert all(url.startswith((address, "data:")) for url in asked)
    page.close()


def test_the_button_changes_between_light_and_dark(address, browser):
    page, *_ = opened(browser, address + "index.html", color_scheme="light")
    colours = {}
    for mode in ("dark", "light"):
        page.locator("button.theme-switch-button:visible").first.click()
        page.locator(f"button.theme-change-button[data-mode={mode}]:visible").first.click()
        assert page.evaluate("document.documentElement.dataset.theme") == mode
        style = "getComputedStyle(document.documentElement)"
        colours[mode] = page.evaluate(f"{style}.getPropertyValue('--pst-color-background')")
    assert len(set(colours.values())) == 2
    page.close()


@pytest.mark.parametrize("name", ["index", "docs/student", "docs/instructor", "notebooks/flows"])
def test_a_narrow_window_scrolls_only_downwards(address, browser, name):
    page, *_ = opened(browser, f"{address}{name}.html")
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 391
    page.screenshot(path=artefacts("site") / f"narrow-{name.replace('/', '-')}.png")
    page.close()
