"""The slides: built anew in a browser, compared with the committed files and with their source."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib
import nbformat
import numpy as np
import pytest
from PIL import Image
from pypdf import PdfReader
from scipy.integrate import quad
from scipy.stats import norm

from slides import build_slides as build
from slides import figures
from tests.browser import chromium
from tests.requirements import need

SLIDES = Path(__file__).resolve().parents[1] / "slides"
TEXT = (SLIDES / "lecture.md").read_text(encoding="utf-8")
PAGES = re.split(r"^---$", TEXT, flags=re.MULTILINE)[2:]  # the first two enclose the settings
FOOTER = 50  # px at the bottom of a slide that belong to its number
SMALLEST = 20  # px at 1280 x 720
CONTRAST = 4.5


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    build.prepare(folder)
    return folder


@pytest.fixture(scope="module")
def built(prepared, tmp_path_factory):
    need(shutil.which("node"), "no Node on this machine")
    need(build.browser(), "no Chromium on this machine")
    need(build.MARP.is_dir(), "Marp is not installed: make slides does it")
    folder = tmp_path_factory.mktemp("built") / "slides"
    shutil.copytree(prepared, folder)
    build.build(folder)
    return folder


@pytest.fixture(scope="module", params=["rebuilt", "committed"])
def seen(request, browser):
    """What a browser shows of the HTML, all slides below each other, and what it asked for."""
    fresh = request.param == "rebuilt"
    folder = request.getfixturevalue("built") if fresh else SLIDES
    page = browser.new_page(viewport={"width": 1280, "height": 720})
    requests = []
    page.on("request", lambda asked: requests.append(asked.url))
    page.goto((folder / "lecture.html").as_uri())
    page.wait_for_load_state("networkidle")
    page.emulate_media(media="print")
    return page.evaluate(LOOK) | {"requests": requests}


# Positions are relative to the slide. Formulas are paths in units of a thousandth of their size.
LOOK = """() => {
  const BROKEN = "text, [fill=red], [data-mml-node=merror]";
  const opaque = (e) => {
    for (; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (!/, 0\\)$/.test(colour)) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const missing = (text, style) => {
    const draw = (letter) => {
      const canvas = Object.assign(document.createElement("canvas"), {width: 60, height: 60});
      const context = canvas.getContext("2d");
      context.font = `40px ${style.fontFamily}`;
      context.fillText(letter, 5, 45);
      return canvas.toDataURL();
    };
    const box = draw("\\u{10fffd}");
    return [...new Set(text)].filter((letter) => letter.trim() && draw(letter) === box);
  };
  const slides = [...document.querySelectorAll("section")].map((slide) => {
    const frame = slide.getBoundingClientRect();
    const place = (r) => [r.left - frame.left, r.top - frame.top, r.right - frame.left,
                          r.bottom - frame.top];
    const texts = [];
    const walker = document.createTreeWalker(slide, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const node = walker.currentNode, parent = node.parentElement;
      if (!node.data.trim() || parent.closest("style, script")) continue;
      const style = getComputedStyle(parent), range = document.createRange();
      range.selectNodeContents(node);
      for (const r of range.getClientRects()) {
        texts.push({text: node.data, place: place(r), size: parseFloat(style.fontSize),
                    ink: style.color, paper: opaque(parent), missing: missing(node.data, style)});
      }
    }
    for (const formula of slide.querySelectorAll("mjx-container")) {
      const sizes = [...formula.querySelectorAll("path")].map((p) => p.getScreenCTM().a * 1000);
      texts.push({text: formula.querySelector("svg").getAttribute("aria-label"), formula: true,
                  place: place(formula.querySelector("svg").getBoundingClientRect()),
                  size: Math.min(...sizes), ink: getComputedStyle(formula).color,
                  paper: opaque(formula),
                  missing: formula.querySelectorAll(BROKEN).length});
    }
    const footer = getComputedStyle(slide, "::after");
    texts.push({text: "footer", footer: true, place: [0, 0, 1, 1],
                size: parseFloat(footer.fontSize), ink: footer.color, paper: opaque(slide),
                missing: []});
    const images = [...slide.querySelectorAll("img")].map((image) => ({
      alt: image.alt, place: place(image.getBoundingClientRect()), src: image.src,
      loaded: image.complete && image.naturalWidth > 0}));
    return {texts, images, size: [frame.width, frame.height]};
  });
  const notes = [...document.querySelectorAll(".bespoke-marp-note")].map((n) => n.textContent);
  return {slides, notes, lang: document.documentElement.lang};
}"""


def luminance(colour: str) -> float:
    """Relative luminance of rgb(…) or #rrggbb, as in WCAG 2."""
    if colour.startswith("#"):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    else:
        parts = [float(part) / 255 for part in re.findall(r"[\d.]+", colour)[:3]]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    dark, light = sorted((luminance(a), luminance(b)))
    return (light + 0.05) / (dark + 0.05)


# ------------------------------------------------------------------ what is seen


def test_every_slide_has_its_page(built):
    assert 25 <= len(PAGES) <= 30
    for name in ("lecture.pdf", "lecture-notes.pdf"):
        for folder in (built, SLIDES):
            assert len(PdfReader(folder / name).pages) == len(PAGES)


def test_slides_are_complete(seen):
    assert len(seen["slides"]) == len(PAGES)
    assert seen["lang"].startswith("en")
    assert all(slide["size"] == [1280, 720] for slide in seen["slides"])


def test_lists_appear_point_by_point(built):
    page = (built / "lecture.html").read_text(encoding="utf-8")
    counts = [int(count) for count in re.findall(r'data-marpit-fragments="(\d+)"', page)]
    stars = [len(re.findall(r"^\* ", slide, re.MULTILINE)) for slide in PAGES]
    assert counts == [count for count in stars if count] and sum(counts) > 50


def test_nothing_is_cut_off_or_overlaps(seen):
    for number, slide in enumerate(seen["slides"], 1):
        for item in slide["texts"] + slide["images"]:
            left, top, right, bottom = item["place"]
            inside = left >= -1 and top >= -1 and right <= 1281 and bottom <= 721 - FOOTER
            assert inside, (number, item.get("text") or item["alt"], item["place"])
        for image in slide["images"]:
            a = image["place"]
            for text in slide["texts"]:
                b = text["place"]
                apart = a[2] <= b[0] + 1 or b[2] <= a[0] + 1 or a[3] <= b[1] + 1 or b[3] <= a[1] + 1
                assert apart or text.get("footer"), (number, text["text"])


def test_text_is_large_and_dark_enough(seen):
    for number, slide in enumerate(seen["slides"], 1):
        for text in slide["texts"]:
            assert text["size"] >= SMALLEST - 0.05, (number, text["text"], text["size"])
            ratio = contrast(text["ink"], text["paper"])
            assert ratio >= CONTRAST, (number, text["text"], ratio)


def test_every_letter_has_a_glyph_and_every_formula_is_rendered(seen, built):
    shown = 0
    for number, slide in enumerate(seen["slides"], 1):
        for text in slide["texts"]:
            assert not text["missing"], (number, text["text"], text["missing"])
            shown += "formula" in text
            source = re.search(r"[$\\]|\[\[|\{\{|\^\{|_\{", text["text"])
            assert "formula" in text or not source, (number, text["text"])
    assert shown == len(build.formulas((built / "lecture.md").read_text(encoding="utf-8"))) > 50
    for page in PdfReader(SLIDES / "lecture.pdf").pages:
        assert not re.search(r"\$|\\[a-z]{2}|\[\[", page.extract_text())


def test_opening_the_slides_asks_nobody_for_anything(seen):
    page, *others = [url for url in seen["requests"] if not url.startswith("data:")]
    assert page.startswith("file:") and not others


def test_every_picture_is_there_and_described(seen):
    images = [image for slide in seen["slides"] for image in slide["images"]]
    assert len(images) == len(figures.FIGURES) + len(build.PICTURES)
    for image in images:
        assert image["loaded"] and image["src"].startswith("data:image/")
        assert len(image["alt"].split()) >= 8, image["alt"]


def test_no_path_of_this_machine_in_the_committed_files():
    pdf = b"".join((SLIDES / name).read_bytes() for name in build.OUTPUTS)
    assert not re.search(rb"file://|/(home|root|tmp|work)/", pdf)


# ------------------------------------------------------------------ notes


def test_notes_on_every_slide_and_ninety_minutes(seen):
    assert len(seen["notes"]) == len(PAGES)
    minutes = 0
    for number, note in enumerate(seen["notes"], 1):
        for word in ("Minutes", "Say", "Ask", "Answer", "Misunderstanding"):
            part = re.search(rf"^\s*{word}: (.+)", note, re.MULTILINE)
            assert part, (number, word)
            assert word == "Minutes" or len(part[1].split()) >= 2, (number, word)
        minutes += int(re.search(r"Minutes: (\d+)", note)[1])
    assert minutes == 90


def test_minutes_for_a_notebook_are_the_same_on_slide_and_in_notes():
    announced = re.findall(r"\*\*Time\*\* (\d+) minutes.*?^Minutes: (\d+)$", TEXT, re.M | re.S)
    assert len(announced) == 3
    assert all(slide == note for slide, note in announced)


def test_pdf_with_notes_has_them_on_every_page(built):
    for folder in (built, SLIDES):
        for page in PdfReader(folder / "lecture-notes.pdf").pages:
            notes = [note.get_object().get("/Contents") for note in page.get("/Annots", [])]
            assert any(note and "Misunderstanding: " in note for note in notes)


# ------------------------------------------------------------------ in step


def test_committed_files_were_built_from_this_source(prepared):
    """By content: text, theme, figures, pictures and numbers out of the notebooks."""
    stamp = json.loads((SLIDES / "built.json").read_text())
    pinned = f"matplotlib=={matplotlib.__version__}" in (
        SLIDES.parent / "constraints.txt"
    ).read_text(encoding="utf-8")
    found = build.sources(prepared)
    if not (pinned and sys.platform == "linux"):  # other versions draw other curves
        found, stamp["sources"] = (
            {name: digest for name, digest in hashes.items() if not name.startswith("figures/")}
            for hashes in (found, stamp["sources"])
        )
    changed = {k for k in found | stamp["sources"] if found.get(k) != stamp["sources"].get(k)}
    assert not changed, f"older than {sorted(changed)}. Remedy: make slides"
    for name, digest in stamp["outputs"].items():
        assert build.digest(SLIDES / name) == digest, f"{name} is not the one that was built"
    for name, digest in stamp["sources"].items():
        if name.startswith("figures/"):
            assert build.digest(SLIDES / name) == digest, name


def test_announced_notebooks_have_the_announced_sections():
    slides = [page for page in PAGES if "_class: notebook" in page]
    names = []
    for slide in slides:
        name = re.search(r"notebooks/(\w+)\.ipynb", slide)[1]
        section = re.search(r"section \*(.+)\*$", slide, re.MULTILINE)[1]
        source = (build.NOTEBOOKS / f"{name}.py").read_text(encoding="utf-8")
        assert re.search(rf"^# ## {re.escape(section)}$", source, re.MULTILINE), section
        assert re.findall(r"\]\((.*?)\)", slide) == [f"http://localhost:8888/lab/tree/{name}.ipynb"]
        names.append(name)
    assert names == ["bayesian_neural_networks_wine", "var_mod", "flows"]


@pytest.mark.parametrize("name", ["wine", "moons"])
def test_text_in_a_picture_from_a_notebook_is_large_enough(name):
    """Notebooks draw with 12 points, unless a cell says otherwise."""
    cell = build.picture_cell(*build.PICTURES[name][:2])
    sizes = [float(size) for size in re.findall(r"\b(?:font)?size=([\d.]+)", cell.source)]
    image = build.picture(*build.PICTURES[name])
    inches = image.width / image.info["dpi"][0]
    shown = int(re.search(rf"w:(\d+) [^\]]*\]\(figures/{name}\.png", TEXT)[1])
    assert min([12.0, *sizes]) / 72 * shown / inches >= SMALLEST


def test_part_of_a_picture_is_cut_out_along_white_edges(prepared):
    """A letter or a panel that is cut through would leave ink on an edge."""
    for name in ("wine", "digits"):
        ink = ink_of(prepared, name)
        assert not (ink[0].any() or ink[-1].any() or ink[:, 0].any() or ink[:, -1].any()), name


def test_picture_of_the_digits_is_the_square_mosaic_and_nothing_else(prepared):
    """Its title, in small letters, would make it oblong."""
    ink = ink_of(prepared, "digits")
    height, width = (np.ptp(np.flatnonzero(ink.any(axis))) for axis in (1, 0))
    assert abs(width / height - 1) < 0.05


def ink_of(folder: Path, name: str) -> np.ndarray:
    with Image.open(folder / "figures" / f"{name}.png") as image:
        return np.asarray(image.convert("L")) < 128


def test_numbers_out_of_a_notebook_must_be_found_once(monkeypatch, tmp_path):
    monkeypatch.setattr(build, "NOTEBOOKS", tmp_path)
    with pytest.raises(SystemExit, match="nb.ipynb is missing. Remedy: make notebooks NAME=nb"):
        build.value("nb", "gap")
    output = nbformat.v4.new_output("stream", text="gap 0.02 nats\n")
    cell = nbformat.v4.new_code_cell("print(gap)", outputs=[output])
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "nb.ipynb")
    assert build.value("nb", r"gap ([\d.]+) nats") == "0.02"
    with pytest.raises(SystemExit, match="occurs 0 times in the outputs of nb"):
        build.value("nb", "loss ([0-9]+)")
    with pytest.raises(SystemExit, match="0 cells of nb draw a picture and contain 'gap'"):
        build.picture("nb", "gap")


# ------------------------------------------------------------------ figures


def test_drawing_again_gives_the_same_bytes(prepared, tmp_path):
    """In another process, with another hash seed."""
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    command = [sys.executable, "-W", "error", SLIDES / "figures.py", tmp_path]
    subprocess.run(command, env=environment, check=True)  # a missing glyph is a warning
    for figure in figures.FIGURES:
        name = f"{figure.__name__}.svg"
        assert (tmp_path / name).read_bytes() == (prepared / "figures" / name).read_bytes()


@pytest.mark.parametrize("name", [figure.__name__ for figure in figures.FIGURES])
def test_text_in_a_figure_is_large_dark_and_inside(prepared, name):
    svg = (prepared / "figures" / f"{name}.svg").read_text()
    assert "<text" not in svg and "http://localhost" not in svg
    width = float(re.search(r'width="([\d.]+)pt"', svg)[1])
    shown = int(re.search(rf"w:(\d+) [^\]]*\]\(figures/{name}\.svg", TEXT)[1])
    # Outlines are drawn at 100 units per size; letters of a formula are scaled once more.
    svg = re.sub(r"<defs>.*?</defs>", "", svg, flags=re.DOTALL)
    for group in re.findall(r'<g id="text_\d+">.*?(?=<g id="|</svg>)', svg, re.DOTALL):
        outer = float(re.search(r"scale\(([\d.]+) -[\d.]+\)", group)[1])
        inner = [float(scale) for scale in re.findall(r"scale\(([\d.]+)\)", group)]
        size = 100 * outer * min([1.0, *inner]) * shown / width
        assert size >= SMALLEST, (group[:80], size)
        for ink in re.findall(r"fill: (#[0-9a-f]{6})", group):
            assert contrast(ink, "#ffffff") >= CONTRAST, ink


def test_black_text_can_be_read_on_every_tint():
    for colour in (figures.DATA, figures.LATENT, figures.MAP, figures.GREY):
        paper = matplotlib.colors.to_hex(figures.tint(colour))
        assert contrast("#000000", paper) >= 7


def test_the_map_of_the_picture_turns_two_peaks_into_one():
    x = np.linspace(-3.5, 3.5, 701)
    density = figures.p_x(x)
    peaks = (density[1:-1] > density[:-2]) & (density[1:-1] > density[2:])
    assert peaks.sum() == 2
    assert quad(figures.p_x, -8, 8, points=[-1.6, 1.4])[0] == pytest.approx(1, abs=1e-8)
    # p_x(x) = p_z(f(x)) |df/dx|, the derivative by central differences
    slope = (figures.f(x + 1e-5) - figures.f(x - 1e-5)) / 2e-5
    assert np.all(slope > 0)
    np.testing.assert_allclose(norm.pdf(figures.f(x)) * slope, density, rtol=1e-5)


def test_the_bound_of_the_picture_is_the_elbo():
    """Against quadrature of E_q[log p(x, z) - log q(z)]; equal to the evidence at the posterior."""
    for scale in (0.3, 0.5**0.5, 1.2):
        elbo, evidence = figures.gaussian_bound(np.array(scale))

        def integrand(z, scale=scale):
            q = norm(0.5, scale)
            return q.pdf(z) * (norm.logpdf(z) + norm.logpdf(1, z, 1) - q.logpdf(z))

        assert elbo == pytest.approx(quad(integrand, -9, 9, points=[0.5])[0], abs=1e-7)
        assert evidence >= elbo - 1e-12
    assert figures.gaussian_bound(np.array(0.5**0.5))[0] == pytest.approx(evidence)


# ------------------------------------------------------------------ building


@pytest.mark.parametrize("tool", ["node", "npm"])
def test_missing_node_is_named(monkeypatch, tool):
    monkeypatch.setattr(build.shutil, "which", lambda name: None if name == tool else name)
    with pytest.raises(SystemExit, match=f"{tool} was not found. Remedy on Debian: .*nodejs npm"):
        build.check_tools()


def test_missing_browser_is_named(monkeypatch):
    monkeypatch.delenv("CHROME_PATH", raising=False)
    monkeypatch.setattr(build.shutil, "which", lambda n: None if n in build.BROWSERS else n)
    with pytest.raises(SystemExit, match="no Chromium was found. Remedy on Debian: .* chromium"):
        build.check_tools()


def test_npm_packages_are_pinned_without_addresses():
    lock_text = (SLIDES / "package-lock.json").read_text(encoding="utf-8")
    assert not re.search(r"resolved|https?:", lock_text)
    lock = json.loads(lock_text)["packages"]
    wanted = json.loads((SLIDES / "package.json").read_text())["dependencies"]
    assert lock[""]["dependencies"] == wanted
    for name, version in wanted.items():
        assert lock[f"node_modules/{name}"]["version"] == version
