"""The explorables in a real browser, from a file: numbers, hands, bad data; and in JupyterLab."""

import base64
import json
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pytest

from course_utils import explore
from tests.bad_input import JUNK, refusals
from tests.browser import artefacts, chromium, inaccessible
from tests.jupyter_server import jupyterlab, open_in_lab
from tools import notebook_sources
from tools import student_version as student

PAGE = explore.EXPLORE / "index.html"
SLIDERS = {"doubt": 7, "digits": 3, "bend": 3, "noise": 3, "elbo": 2}
browser_test = pytest.mark.browser

test_a_bad_name_is_refused = refusals(
    (explore.module, {"name": "doubt"}, {"name": [*JUNK, "", "common", "../doubt"]})
)


def data(name: str) -> dict:
    """The exported data of an explorable."""
    text = (explore.EXPLORE / f"{name}.data.js").read_text(encoding="utf-8")
    return json.loads(text.split(f"course.data.{name} = ")[1].rstrip("\n;"))


def test_the_files_are_small_name_no_host_and_say_their_licence():
    files = [path for path in explore.EXPLORE.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 1.5e6
    for path in files:
        text = path.read_text(encoding="utf-8") if path.suffix != ".png" else ""
        hosts = set(text.split("https://")[1:])
        assert all(host.startswith("creativecommons.org/licenses/by-sa/3.0/") for host in hosts)
        assert "http://" not in text
    assert "licence\n// CC BY-SA 3.0" in (explore.EXPLORE / "digits.data.js").read_text("utf-8")
    assert set(explore.NAMES) == set(SLIDERS)


def test_damaged_data_are_named_in_a_notebook(tmp_path, monkeypatch):
    shutil.copytree(explore.EXPLORE, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(explore, "EXPLORE", tmp_path)
    explore.module("bend")
    path = tmp_path / "bend.data.js"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged. Remedy"):
        explore.module("bend")


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture
def visit(browser):
    """Returns what opens the page; in the end nothing was asked for that is no file."""
    opened, asked, complaints = [], [], []

    def visited(page_file: Path = PAGE, script: str = "", **options):
        page = browser.new_context(**options).new_page()
        page.set_default_timeout(60_000)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda fault: complaints.append(str(fault)))
        if script:
            page.add_init_script(script)
        page.goto(page_file.as_uri())
        opened.append(page)
        return page

    visited.complaints = complaints
    yield visited
    for page in opened:
        page.context.close()
    assert all(url.startswith(("file:", "data:", "blob:")) for url in asked), asked


@browser_test
def test_the_decoder_gives_the_pixels_of_pytorch(visit):
    page, check = visit(), data("digits")["check"]
    decoded = page.evaluate(
        """(places) => {
          const net = course.digits.load(course.data.digits);
          return places.map((z) => [...course.digits.decode(net, z)]);
        }""",
        check["z"],
    )
    found = 1 / (1 + np.exp(-np.array(decoded)))
    wanted = np.frombuffer(base64.b64decode(check["pixels"]), np.uint8).reshape(found.shape) / 255
    assert np.abs(found - wanted).max() < 0.04 and wanted.std() > 0.2
    rates, costs = page.evaluate("""() => {
      const d = course.digits, net = d.load(course.data.digits), first = [...Array(20).keys()];
      return [first.map((i) => d.rate(net, i)),
        first.map((i) => d.cost(net, i, d.decode(net, net.code(i))))];
    }""")
    assert np.abs(np.array(rates) - check["rate"]).max() < 1e-3
    assert np.abs(np.array(costs) - check["distortion"]).max() < 1  # of about 150 nats


@browser_test
def test_the_flow_has_the_log_densities_of_pytorch(visit):
    check = data("bend")["check"]
    log_q, path = visit().evaluate(
        """([points, z]) => {
          const net = course.bend.load(course.data.bend);
          return [points.map((x) => course.bend.logProb(net, x).total), course.bend.path(net, z)];
        }""",
        [check["x"], check["path"][0][0]],
    )
    assert np.allclose(log_q, check["log_q"], rtol=1e-5, atol=1e-4) and np.std(log_q) > 1
    assert np.abs(np.array(path) - np.array(check["path"])[:, 0]).max() < 1e-5


@browser_test
def test_both_denoisers_guess_as_pytorch_does(visit):
    check = data("noise")["check"]
    found = visit().evaluate(
        """({ z, sigmas }) => {
          const net = course.noise.load(course.data.noise);
          return ["learnt", "exact"].map((name) =>
            sigmas.map((sigma) => z.map((place) => course.noise[name](net, place, sigma))));
        }""",
        {key: check[key] for key in ("z", "sigmas")},
    )
    for name, guesses in zip(("learnt", "exact"), found, strict=True):
        assert np.abs(np.array(guesses) - check[name]).max() < 1e-4, name


@browser_test
def test_the_posterior_of_doubt_is_that_of_linear_algebra(visit):
    points = np.array([[-2, 0.5], [-1.2, 1.0], [0.3, -0.4], [1.9, 0.8]])
    given = {"wiggle": 3.0, "scale": 1.4, "noise": 0.3}
    xs = np.linspace(-3, 3, 7)
    first, mean, covariance, evidence = visit().evaluate(
        """([points, given, xs]) => {
          const found = course.doubt.posterior(points, given, xs);
          return [course.doubt.first, found.mean, xs.map((_, i) => xs.map((_, j) =>
            found.covariance(i, j))), found.evidence];
        }""",
        [points.tolist(), given, xs.tolist()],
    )
    a, b = np.array(first).reshape(2, -1)

    def features(x):
        units = np.tanh(given["wiggle"] * (x[:, None] * a + b)) / len(a) ** 0.5
        return given["scale"] * np.column_stack([np.ones(len(x)), units])  # (n, p)

    seen, new, (_, y) = features(points[:, 0]), features(xs), points.T
    precision = np.eye(seen.shape[1]) + seen.T @ seen / given["noise"] ** 2  # of the weights
    weights = np.linalg.solve(precision, seen.T @ y) / given["noise"] ** 2
    assert np.allclose(new @ weights, mean, atol=1e-8)
    assert np.allclose(new @ np.linalg.solve(precision, new.T), covariance, atol=1e-8)
    total = seen @ seen.T + given["noise"] ** 2 * np.eye(len(y))
    exact = -0.5 * (y @ np.linalg.solve(total, y) + np.linalg.slogdet(2 * np.pi * total)[1])
    assert np.isclose(evidence, exact, atol=1e-8)


@browser_test
def test_elbo_and_gap_add_up_and_the_climb_ends_at_the_top(visit):
    found = visit().evaluate("""() => {
      const { elbo, reverse, forward, climb, logEvidence, spread } = course.elbo;
      const ms = course.steps(-2.5, 2.5, 101), ss = course.steps(0.1, 2.4, 93);
      const some = [[0, 1], [1.2, 0.2], [-2, 0.1], [0.4, 2.4]];
      const grid = (f) => Math.min(...ms.flatMap((m) => ss.map((s) => f(m, s))));
      return {
        logEvidence, sums: some.map(([m, s]) => elbo(m, s) + reverse(m, s)),
        tops: [0.4, -0.4].map((m) => climb(m, 0.8).at(-1)),
        top: climb(0.4, 0.8).map(([m, s]) => elbo(m, s)).at(-1), grid: -grid((m, s) => -elbo(m, s)),
        least: forward(0, spread), gridForward: grid(forward),
      };
    }""")
    theta = np.linspace(-8, 8, 20_001)
    log_joint = -(theta**2) / 2 - np.log(2 * np.pi * 0.4) - (1.5 - theta**2) ** 2 / (2 * 0.4**2)
    exact = np.log(np.exp(log_joint).sum() * (theta[1] - theta[0]))
    assert np.isclose(found["logEvidence"], exact, atol=1e-9)
    assert np.abs(np.array(found["sums"]) - exact).max() < 1e-6
    right, left = found["tops"]
    assert right[0] > 1 and np.allclose(right, [-left[0], left[1]], atol=1e-4)
    assert 0 <= found["top"] - found["grid"] < 0.02  # no place of the grid is higher
    assert 0 <= found["gridForward"] - found["least"] < 1e-3


def said(page, name: str) -> str:
    return page.evaluate(f"document.querySelector('[data-explore={name}]').figure.sentence")


@browser_test
@pytest.mark.parametrize("name", SLIDERS)
def test_every_input_answers_to_mouse_finger_and_keyboard(visit, name):
    page = visit(viewport={"width": 1280, "height": 900}, has_touch=True, reduced_motion="reduce")
    figure = page.locator(f"[data-explore={name}]")
    canvas, sliders = figure.locator("canvas"), figure.locator("input[type=range]:visible")
    assert len(canvas.get_attribute("aria-label").split()) > 15
    assert figure.locator("[role=status]").inner_text() == said(page, name)
    for folded in figure.locator("summary").all():
        folded.click()
    assert sliders.count() == SLIDERS[name]
    figure.locator("input, select").first.focus()
    seen = set()
    for _ in range(figure.locator(":is(input, select, button, summary):visible").count()):
        seen.add(page.evaluate("document.activeElement.labels?.[0]?.textContent"))
        before, tag = said(page, name), page.evaluate("document.activeElement.type")
        if tag == "range":
            words = page.evaluate("document.activeElement.ariaValueText ?? ''")
            page.keyboard.press("ArrowRight")
            page.wait_for_function(ANOTHER, arg=[name, before])
            assert words and page.evaluate("document.activeElement.ariaValueText") != words
        page.keyboard.press("Tab")
    assert len(seen) >= SLIDERS[name]
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    x, y = box["x"] + 0.3 * box["width"], box["y"] + 0.2 * box["height"]

    def hand(*moves) -> None:
        before = said(page, name)
        for move in moves:
            move()
        page.wait_for_function(ANOTHER, arg=[name, before])

    hand(lambda: page.mouse.click(x, y))
    hand(page.mouse.down, lambda: page.mouse.move(x + 40, y + 30, steps=4))
    page.mouse.up()
    hand(lambda: page.touchscreen.tap(x + 90, y))
    for button in figure.locator("button").all():
        hand(button.click)
    page.wait_for_timeout(400)
    assert figure.locator("[role=status]").inner_text() == said(page, name)
    assert visit.complaints == []


@browser_test
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_are_accessible_and_fit_a_telephone_and_a_wall(visit, scheme):
    sizes = {"narrow": (360, 740), "usual": (1280, 900), "wide": (3840, 2160)}
    page = visit(color_scheme=scheme)
    for name, (width, height) in sizes.items():
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.screenshot(path=artefacts("explore") / f"{name}-{scheme}.png", full_page=True)
        assert inaccessible(page) == []
        wide = page.evaluate("[...document.querySelectorAll('canvas')].map((c) => c.width)")
        assert min(wide) > 0.28 * width
    ink = page.evaluate("course.palette(document.body).dark")
    assert ink == (scheme == "dark")


@browser_test
def test_a_change_of_the_theme_is_followed(visit):
    page = visit()
    shot = "document.querySelector('canvas').toDataURL()"
    before = page.evaluate(shot)
    page.evaluate("""() => { document.body.style.color = "#fff";
      document.documentElement.dataset.theme = "dark"; }""")
    page.wait_for_function(f"(before) => {shot} !== before", arg=before)


@browser_test
def test_without_javascript_there_are_pictures(visit):
    page = visit(java_script_enabled=False)
    pictures = page.locator("[data-explore] > img")
    assert pictures.count() == len(SLIDERS)
    for picture in pictures.all():
        assert picture.bounding_box()["height"] > 100
        assert len(picture.get_attribute("alt").split()) > 10


def cut(text: str) -> str:
    return text[:-1000]


DAMAGE = {
    "cut": cut,
    "empty": lambda text: "",
    "short weights": lambda text: text.replace('"scale":', '"scale":"AAAA","old":', 1),
    "no weights": lambda text: text.replace('"weight', '"wait'),
    "no base 64": lambda text: text.replace('eight":"', 'eight":"?!', 1),
}


@browser_test
@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["digits", "bend", "noise"])
def test_damaged_data_leave_one_sentence(visit, tmp_path, name, damage):
    shutil.copytree(explore.EXPLORE, tmp_path, dirs_exist_ok=True)
    path = tmp_path / f"{name}.data.js"
    path.write_text(DAMAGE[damage](path.read_text(encoding="utf-8")), encoding="utf-8")
    page = visit(tmp_path / "index.html")
    figure = page.locator(f"[data-explore={name}]")
    sentence = f"This figure cannot be shown: its data, {name}.data.js, are"
    assert figure.inner_text().startswith(sentence) and figure.locator("canvas").count() == 0
    assert page.locator("canvas").count() == len(SLIDERS) - 1  # the others are as ever


@browser_test
def test_a_browser_without_canvas_gets_one_sentence(visit):
    page = visit(script="HTMLCanvasElement.prototype.getContext = () => null")
    for name in SLIDERS:
        text = page.locator(f"[data-explore={name}]").inner_text()
        assert text.startswith("This figure cannot be shown: this browser") and "Remedy" in text


@browser_test
@pytest.mark.parametrize("name", SLIDERS)
def test_how_long_it_takes_is_reported(visit, name):
    first, drag = visit().evaluate(TIMED, name)
    with (artefacts("explore") / "times.jsonl").open("a") as file:
        row = {"name": name, "first_ms": round(first), "drag_ms": round(drag, 1)}
        file.write(json.dumps(row) + "\n")
    assert 0 < drag < 5000 and 0 < first < 5000


@pytest.mark.slow
@browser_test
@pytest.mark.kernel
def test_two_of_them_move_in_jupyterlab(browser, tmp_path):
    pytest.importorskip("anywidget")
    cells = ["from course_utils.explore import explore", "explore('digits')", "explore('doubt')"]
    cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
    notebook = nbformat.v4.new_notebook(
        cells=cells, metadata={"kernelspec": notebook_sources.KERNEL}
    )
    nbformat.write(notebook, tmp_path / "moves.ipynb")
    env = student.alone(explore.EXPLORE.parent)
    with jupyterlab(tmp_path, tmp_path / "state", env=env) as address:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        open_in_lab(page, address, "moves.ipynb")
        page.locator(".jp-Notebook .jp-Cell").first.click()
        for _ in cells:
            page.keyboard.press("Shift+Enter")
        for name, where in (("digits", "z = ("), ("doubt", "points")):
            figure = page.locator(f".explorable:has-text('{where}')")
            figure.locator("canvas").wait_for()
            before = figure.locator("[role=status]").inner_text()
            slider = figure.locator("input[type=range]").first
            slider.focus()
            slider.press("PageUp")
            page.wait_for_function(
                "([el, before]) => el.textContent !== before",
                arg=[figure.locator("[role=status]").element_handle(), before],
            )
            figure.screenshot(path=artefacts("explore") / f"lab-{name}.png")
        assert inaccessible(page, context={"include": [[".explorable"]]}) == []


# Another sentence than before.
ANOTHER = """([name, before]) =>
  document.querySelector(`[data-explore=${name}]`).figure.sentence !== before"""

# Milliseconds until a new figure is drawn, and of each drawing later.
TIMED = """(name) => {
  const el = document.body.appendChild(document.createElement("div")), start = performance.now();
  course[name].render({ model: { get() {} }, el });
  const first = performance.now() - start;
  for (let i = 0; i < 20; i++) el.figure.draw();
  return [first, (performance.now() - start - first) / 20];
}"""
