"""The slides: as a browser shows them, in step with their sources, and true in their figures."""

import base64
import io
import itertools
import re
import shutil

import matplotlib
import nbformat
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from PIL import Image, ImageChops
from pypdf import PdfReader
from scipy.stats import norm

from course_utils.results import bundle
from slides import build_slides as build
from slides import figures, lecture
from tests.browser import chromium
from tests.requirements import need
from tools import catalogue, npm

TEXT = lecture.SOURCE.read_text(encoding="utf-8")
SLIDES = lecture.slides()
PICTURES = re.findall(r"!\[w:(\d+) [^\]]*\]" + build.PICTURE.pattern, TEXT)
SMALLEST = 20  # px at 1280 x 720
CONTRAST = 4.5

# Places are relative to the slide. Formulas are paths in units of a thousandth of their size.
LOOK = """() => {
  const texts = [], images = [], slides = [...document.querySelectorAll("section")];
  const paper = (e) => {
    const colour = getComputedStyle(e).backgroundColor;
    return /, 0\\)$/.test(colour) && e.parentElement ? paper(e.parentElement) : colour;
  };
  const rgb = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255);
  slides.forEach((slide, index) => {
    const frame = slide.getBoundingClientRect(), number = index + 1;
    const place = (r) => [r.left, r.top, r.right, r.bottom].map(
      (edge, i) => edge - (i % 2 ? frame.top : frame.left));
    const add = (e, r, fields) => texts.push({number, place: place(r), paper: rgb(paper(e)),
                                              ink: rgb(getComputedStyle(e).color), ...fields});
    const walker = document.createTreeWalker(slide, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const text = walker.currentNode.data, e = walker.currentNode.parentElement;
      if (!text.trim() || e.closest("style, script")) continue;
      const size = parseFloat(getComputedStyle(e).fontSize), range = new Range();
      range.selectNodeContents(walker.currentNode);
      for (const r of range.getClientRects()) add(e, r, {text, size, faults: [], formula: false});
    }
    for (const e of slide.querySelectorAll("mjx-container > svg")) {
      const sizes = [...e.querySelectorAll("path")].map((p) => p.getScreenCTM().a * 1000);
      const broken = [...e.querySelectorAll("text, [fill=red], [data-mml-node=merror]")];
      const text = e.getAttribute("aria-label"), faults = broken.map((part) => part.textContent);
      add(e, e.getBoundingClientRect(), {text, size: Math.min(...sizes), faults, formula: true});
    }
    for (const e of slide.querySelectorAll("img"))
      images.push({number, place: place(e.getBoundingClientRect()), text: e.alt, src: e.src,
                   loaded: e.complete && e.naturalWidth > 0});
  });
  const notes = [...document.querySelectorAll(".bespoke-marp-note")].map((n) => n.textContent);
  return {texts, images, notes, slides: slides.length, lang: document.documentElement.lang};
}"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    need(shutil.which("node") and npm.installed() and npm.browser(), "make node, or no Chromium")
    folder = tmp_path_factory.mktemp("slides")
    build.build(folder)
    return folder


@pytest.fixture(scope="module")
def seen(built):
    """What a browser shows of the HTML, all slides below each other, and what it asked for."""
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.route(re.compile("^http"), lambda route: route.abort())
        page.goto((built / "lecture.html").as_uri())
        page.wait_for_load_state("networkidle")
        page.emulate_media(media="print")
        return page.evaluate(LOOK) | {"asked": asked}


def contrast(*colours) -> float:
    """Ratio of the luminances of ink and paper, as in WCAG 2."""
    rgb = np.array([to_rgb(colour) for colour in colours])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    dark, light = sorted(linear @ (0.2126, 0.7152, 0.0722))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.browser
def test_nothing_is_cut_off_or_overlaps(seen):
    """Of 720 px, the lowest fifty belong to the number of the slide."""
    assert seen["slides"] == len(SLIDES)
    for item in seen["texts"] + seen["images"]:
        left, top, right, bottom = item["place"]
        assert left >= -1 and top >= -1 and right <= 1281 and bottom <= 671, item
    for image, text in itertools.product(seen["images"], seen["texts"]):
        a, b = image["place"], text["place"]
        apart = a[2] <= b[0] + 1 or b[2] <= a[0] + 1 or a[3] <= b[1] + 1 or b[3] <= a[1] + 1
        assert apart or image["number"] != text["number"], text


@pytest.mark.browser
def test_text_is_large_and_dark_enough_and_every_formula_is_rendered(seen):
    for text in seen["texts"]:
        assert text["size"] >= SMALLEST - 0.05, text
        assert contrast(text["ink"], text["paper"]) >= CONTRAST, text
        assert not text["faults"], text
        assert text["formula"] or not re.search(r"[$\\]|\[\[|\{\{|\^\{|_\{", text["text"]), text


@pytest.mark.browser
def test_one_file_has_every_picture_and_asks_nobody_for_anything(seen):
    page, *others = [url for url in seen["asked"] if not url.startswith("data:")]
    assert page.startswith("file:") and not others
    assert len(seen["images"]) == len(figures.FIGURES) + len(PICTURES)
    for image in seen["images"]:
        assert image["loaded"] and image["src"].startswith("data:image/")
        assert len(image["text"].split()) >= 8, image["text"]  # for those who cannot see it


@pytest.mark.browser
def test_notes_are_in_the_browser_and_on_paper(seen):
    pages = PdfReader(build.SLIDES / "lecture-notes.pdf").pages
    for page, note in zip(pages, seen["notes"], strict=True):
        printed = [each.get_object().get("/Contents", "") for each in page["/Annots"]]
        assert "Misunderstanding: " in note and "Misunderstanding: " in " ".join(printed)
    assert len(seen["notes"]) == len(SLIDES) and seen["lang"] == "en-GB"


def test_notes_on_every_slide_and_ten_minutes_of_ninety_to_spare():
    for slide in SLIDES:
        for word in ("Say", "Ask", "Answer", "Misunderstanding"):
            assert len(slide.note(rf"{word}: (.+)").split()) >= 2, (slide.number, word)
        assert slide.minutes and slide.part, slide.number
    assert sum(slide.minutes for slide in SLIDES) == 80


def test_committed_files_were_built_from_this_source():
    page = (build.SLIDES / "lecture.html").read_text(encoding="utf-8")
    built_from = f"built from {build.sources()}"
    assert built_from in page, "Remedy: make slides"
    assert page == build.seal(page.rpartition("\n<!-- ")[0]), "changed by hand: make slides"
    for name in build.OUTPUTS[1:]:
        pdf = PdfReader(build.SLIDES / name)
        assert built_from in pdf.metadata["/Keywords"], "Remedy: make slides"
        assert len(pdf.pages) == len(SLIDES)
    deck = b"".join((build.SLIDES / name).read_bytes() for name in build.OUTPUTS)
    assert not re.search(rb"file://|/(home|root|tmp|work)/", deck)  # paths of a machine


@pytest.mark.browser
def test_committed_html_is_the_rebuilt_one(built):
    """But for the bytes of pictures, which other versions draw and pack otherwise."""
    pages = [(folder / "lecture.html").read_text("utf-8") for folder in (built, build.SLIDES)]
    new, old = (re.sub(r'data:image/[^"]+|\n<!-- \w+ -->', "", page) for page in pages)
    assert new == old, "Remedy: make slides"


def test_results_and_pictures_come_once_from_tagged_cells(tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue.Notebook, "built", tmp_path / "nb.ipynb")
    with pytest.raises(SystemExit, match="nb.ipynb is missing. Remedy: make notebooks NAME=flows"):
        lecture.fact("flows.gap")
    shown = [("slides", bundle(gap="-0.02 ± 0.01", twice="1")), ("slides", bundle(twice="1"))]
    notebook = nbformat.v4.new_notebook()
    for tag, data in [*shown, ("picture-moons", {"image/png": "aGVsbG8="})]:
        outputs = [nbformat.v4.new_output("display_data", data=data)]
        notebook.cells.append(nbformat.v4.new_code_cell(metadata={"tags": [tag]}, outputs=outputs))
    nbformat.write(notebook, tmp_path / "nb.ipynb")
    assert lecture.filled("by [[flows.gap]] nats") == "by −0.02\u00a0±\u00a00.01 nats"
    assert lecture.picture("flows/moons") == "aGVsbG8="
    with pytest.raises(SystemExit, match="tagged slides put out result 'twice' 2 times, not"):
        lecture.fact("flows.twice")
    with pytest.raises(SystemExit, match="tagged picture-sun put out a picture 0 times, not"):
        lecture.picture("flows/sun")


@pytest.mark.parametrize(("shown", "name", "part"), PICTURES)
def test_a_picture_from_a_notebook_is_large_and_cut_along_white_edges(shown, name, part):
    """Its text has 12 points; a letter that is cut through would leave ink on an edge.

    A GIF does not say how many dots an inch has: matplotlib's hundred.
    """
    image = build.cut(name, part)
    assert 12 / 72 * int(shown) * image.info.get("dpi", (100,))[0] / image.width >= SMALLEST
    ink = np.asarray(image.convert("L")) < 128
    assert not (ink[0].any() or ink[-1].any() or ink[:, 0].any() or ink[:, -1].any())


@pytest.mark.filterwarnings("error")  # a missing glyph is a warning
@pytest.mark.parametrize("draw", figures.FIGURES)
def test_text_in_a_figure_is_large_dark_and_has_its_letters(draw):
    with matplotlib.rc_context(figures.STYLE):
        figure = draw()
        figure.draw_without_rendering()
    shown = re.search(rf"w:(\d+) [^\]]*\]\(figures/{draw.__name__}\.svg", TEXT)[1]
    for text in filter(Text.get_text, figure.findobj(Text)):
        smallest = 0.7 if re.search("[_^]", text.get_text()) else 1  # part of its size
        pixels = smallest * text.get_size() * int(shown) / (72 * figure.get_figwidth())
        assert pixels >= SMALLEST and contrast(text.get_color(), "white") >= CONTRAST, text


@pytest.mark.parametrize("colour", [figures.DATA, figures.LATENT, figures.MAP, figures.GREY])
def test_black_text_can_be_read_on_a_tint(colour):
    assert contrast("black", figures.tint(colour)) >= 7


def test_the_map_of_the_picture_turns_two_peaks_into_one():
    x = np.linspace(-3.5, 3.5, 701)
    density = figures.p_x(x)
    assert ((density[1:-1] > density[:-2]) & (density[1:-1] > density[2:])).sum() == 2
    # p_x(x) = p_z(f(x)) |df/dx|, the derivative by central differences
    slope = (figures.f(x + 1e-5) - figures.f(x - 1e-5)) / 2e-5
    assert np.all(slope > 0)
    np.testing.assert_allclose(norm.pdf(figures.f(x)) * slope, density, rtol=1e-5)


@pytest.mark.parametrize("scale", [0.3, 0.5**0.5, 1.2])
def test_the_bound_of_the_picture_is_the_elbo(scale):
    """Against quadrature of E_q[log p(x, z) - log q(z)]; equal to the evidence at the posterior."""
    elbo, evidence = figures.gaussian_bound(np.array(scale))
    q = norm(0.5, scale)
    gain = q.expect(lambda z: norm.logpdf(z) + norm.logpdf(1, z, 1) - q.logpdf(z))
    assert elbo == pytest.approx(gain, abs=1e-7)
    assert elbo == pytest.approx(evidence) if scale == 0.5**0.5 else elbo < evidence


@pytest.mark.parametrize("tool", ["node", "npm", "chromium"])
def test_missing_tool_is_named(monkeypatch, tool):
    monkeypatch.setattr(npm, "installed", lambda: True)
    monkeypatch.setattr(npm, "browser", lambda: "")
    monkeypatch.setattr(shutil, "which", lambda name: None if name == tool else name)
    with pytest.raises(SystemExit, match=f"(?i){tool} was (not )?found. Remedy on Debian"):
        build.check_tools()


# ------------------------------------------------------------------ plans and visits


def rows(plan: str) -> list[list[str]]:
    """The cells of a table, without its head."""
    return [line.strip("| ").split(" | ") for line in plan.splitlines()[2:]]


def clock(plan: str) -> int:
    """The sum of a plan's minutes, which must agree with its clock times."""
    at = 0
    for start, minutes, *_ in rows(plan):
        assert start == f"{at // 60}:{at % 60:02}" and int(minutes) > 0, (start, minutes)
        at += int(minutes)
    return at


def test_plans_fill_their_time():
    assert clock(lecture.plan_of_90()) == 90 and int(rows(lecture.plan_of_90())[-1][1]) == 10
    assert clock(lecture.plan_of_180()) == 180
    assert clock(lecture.plan_of_a_day()) == 90 + lecture.LUNCH + 180
    for column in list(zip(*rows(lecture.plans_of_one()), strict=True))[1:]:
        assert sum(int(cell.split()[0]) for cell in column) == 90


@pytest.mark.parametrize("seen", [False, True])
def test_the_hands_on_is_the_cores_and_an_exercise_each_that_fits(seen):
    """After the lecture of the same day without what that has shown; fast pairs get the others."""
    steps, exercises = lecture.hands_on(seen), []
    for each in lecture.shown():
        own = [step for step in steps if step[2] == each.nickname]
        parts = [p for p in each.sections if p.core and not (seen and p.demo)]
        for_all = [what for _, what, *_ in own if what.startswith("all type exercise")]
        wanted = [(p.minutes, f"{p.number} {p.title}") for p in parts]
        assert [step[:2] for step in own if step[1] not in for_all] == wanted
        assert len(for_all) == 1
        [typed] = [task for task in each.exercises if f" {task.number}: {task.title}" in for_all[0]]
        [slot] = [minutes for minutes, what, *_ in own if what in for_all]
        assert typed.minutes <= slot
        fast = re.findall(r"(\w+) \(\d+\)", " ".join(step[3] for step in own))
        assert fast and typed.number not in fast
        exercises.append(typed)
    assert len(exercises) == 3 and [step[1] for step in steps].count("Break") == 2


@pytest.mark.parametrize("slide", [slide for slide in SLIDES if slide.visited])
def test_the_three_cells_of_a_visit_are_there_in_this_order(slide):
    """A prediction, a picture, and the answer, in sections that the lecture shows."""
    cells = re.findall(r"^\d\. (.+)$", slide.text, re.MULTILINE)
    name = re.search(r'`predict\("(.+)"\)`', cells[0])[1]
    assert len(cells) == 3 and "picture" in cells[1] and f'`answer("{name}")`' in cells[2]
    assert re.search(r"\*\*Question\*\* .+\?", slide.text)
    section, seen = None, []
    for cell in nbformat.read(slide.visited.built, as_version=4).cells:
        if cell.cell_type == "markdown":
            head = catalogue.HEADING.search(cell.source)
            section = int(head[1]) if head else section
            continue
        kinds = [k for k in ("predict", "answer") if re.search(rf'{k}\(\s*"{name}"', cell.source)]
        kinds += [tag[:7] for tag in cell.metadata.get("tags", []) if tag.startswith("picture-")]
        seen += [(kind, section) for kind in kinds]
    start = [kind for kind, _ in seen].index("predict")
    stop = [kind for kind, _ in seen].index("answer")
    assert start < stop and "picture" in [kind for kind, _ in seen[start:stop]]
    demo = [part.number for part in slide.visited.sections if part.demo]
    assert {at for _, at in seen[start : stop + 1]} <= set(demo)


def test_ten_slides_show_results_and_none_names_the_number_of_another_or_of_a_section():
    assert sum(bool(build.PICTURE.search(slide.text)) for slide in SLIDES) >= 10
    for slide in SLIDES:
        assert not re.search(r"(slides?|sections?) \d", (slide.text + slide.notes).lower())
        titles = {part.title for each in catalogue.load() for part in each.sections}
        assert set(re.findall(r'section "(.+?)"', slide.notes)) <= titles, slide.number


def test_what_a_notebook_says_is_on_the_slides_is_on_them():
    text = lecture.SOURCE.read_text(encoding="utf-8")
    said = {
        f"{notebook.nickname}.{key}"
        for notebook in catalogue.load()
        for results in lecture.put_out(notebook, "slides", lecture.MIME)
        for key in results
    }
    assert said and all(f"[[{name}]]" in text for name in said)


def test_a_cell_of_a_stored_table_is_found_by_its_row_and_column():
    whole = lecture.measured("learnt priors")
    [row] = [row for row in rows(whole) if row[0] == "mixture"]
    assert lecture.measured("learnt priors|mixture|K = 500 bound (nats)").split() == row[2].split()


@pytest.mark.browser
def test_an_animation_moves_in_the_browser_and_stands_still_at_its_end_on_paper(built):
    page = (built / "lecture.html").read_text(encoding="utf-8")
    [moving] = re.findall(r"data:image/gif;base64,([\w+/=]+)", page)
    assert Image.open(io.BytesIO(base64.b64decode(moving))).n_frames > 1
    [name] = re.findall(r"\((\w+/\w+\.gif)\)", TEXT)
    still, film = Image.open(built / name), Image.open(io.BytesIO(base64.b64decode(moving)))
    film.seek(film.n_frames - 1)
    assert still.n_frames == 1
    difference = ImageChops.difference(still.convert("RGB"), film.convert("RGB"))
    assert np.asarray(difference).mean() < 3


@pytest.mark.browser
def test_three_uses_of_one_bound_are_revealed_column_by_column(built):
    [number] = [slide.number for slide in SLIDES if "three uses" in slide.text.lower()[:200]]
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        page.goto((built / "lecture.html").as_uri() + f"#{number}")
        look = """() => [...document.querySelectorAll("svg.bespoke-marp-active li")].map(
            (e) => [getComputedStyle(e).visibility == "visible", e.getBoundingClientRect().left])"""
        seen = []
        for _ in range(4):
            page.wait_for_timeout(200)
            seen.append(page.evaluate(look))
            page.keyboard.press("ArrowRight")
        assert [sum(visible for visible, _ in step) for step in seen] == [1, 2, 3, 4]
        left = [edge for _, edge in seen[-1]]
        assert left == sorted(set(left))  # beside each other
