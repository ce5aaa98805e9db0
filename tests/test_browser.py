"""The notebooks as a student meets them: JupyterLab in a real browser, Run All Cells, sliders.

What is run is the version without solutions, untouched, in its own folder and with its own
course_utils and data; only the seed is another one (``benchmarks/seeds.py`` tries ten). The judges
see the file that Lab saves and what the page shows. Screenshots and the findings of axe are kept in
``build/browser`` (or below ``COURSE_ARTEFACTS``).
"""

import json
import re
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.browser import LEVELS, artefacts, chromium
from tests.jupyter_server import jupyterlab, open_in_lab, tries
from tools import catalogue, notebook_sources, run_notebook
from tools import student_version as student

pytestmark = [pytest.mark.browser, pytest.mark.slow]

# What the course writes and draws; the rest of the page is Lab's frame and its editors.
CONTENT = [".jp-MarkdownOutput", ".jp-OutputArea-output"]
# Faults that no course can mend: ipywidgets gives the handle of a slider no name for a screen
# reader, and Lab writes no alternative text to a picture that a cell draws, whatever its metadata
# say. So a sentence beside each such picture says what it shows, see untold_pictures.
TOOLS = {"aria-input-field-name": ".widget-slider *", "image-alt": ".jp-RenderedImage > img"}
IDLE = ".jp-Notebook-ExecutionIndicator[data-status=idle]"


class Seen(NamedTuple):
    """What a browser showed of one notebook, and what it left behind."""

    saved: nbformat.NotebookNode  # the file after Run All and Save
    cells: list[dict]  # LOOK, of every cell
    progress: dict  # per cell the percentages that its progress bar went through
    sliders: list[dict]  # per slider: its label, did its value change, did the picture change
    outside: list[str]  # addresses asked for that are not on this machine
    faults: list[str]  # what axe finds in the course's content
    dialogs: list[str]


LOOK = """() => [...document.querySelectorAll(".jp-Notebook .jp-Cell")].map((cell) => {
  const shown = cell.querySelector(".jp-MarkdownOutput");
  const raw = [];
  if (shown) {
    const walker = document.createTreeWalker(shown, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const node = walker.currentNode;
      const quoted = node.parentElement.closest("code, pre, mjx-container");
      if (!quoted && /\\$|\\\\[a-z]{2}/.test(node.data)) raw.push(node.data);
    }
  }
  return {
    code: cell.classList.contains("jp-CodeCell"),
    prompt: cell.querySelector(".jp-InputPrompt")?.textContent ?? "",
    formulas: shown ? shown.querySelectorAll("mjx-container").length : 0,
    broken: cell.querySelectorAll("mjx-merror, [data-mml-node=merror], .MathJax_Error").length,
    raw,
    images: [...cell.querySelectorAll("img")].map((i) => [i.complete, i.naturalWidth]),
  };
})"""

# Every change of an output is looked at, so that no state of a bar is missed.
WATCH = """() => {
  window.progress = {};
  const cells = [...document.querySelectorAll(".jp-Notebook .jp-Cell")];
  cells.forEach((cell, number) => new MutationObserver(() => {
    for (const area of cell.querySelectorAll(".jp-OutputArea-output"))
      for (const [, percent] of area.textContent.matchAll(/(\\d+)%\\|/g))
        (window.progress[number] ??= new Set()).add(percent);
  }).observe(cell, {childList: true, subtree: true, characterData: true}));
}"""

# Run All marks every cell with a star at once; an error takes the stars away again.
FINISHED = """() => {
  const prompts = [...document.querySelectorAll(".jp-CodeCell .jp-InputPrompt")]
    .map((prompt) => prompt.textContent).join();
  return !prompts.includes("*") && /\\d/.test(prompts) || document.querySelector(".jp-Dialog");
}"""

PICTURE = """(handle) => {
  const box = handle.closest(".jp-OutputArea-output");
  return [...box.querySelectorAll("img")].map((image) => image.src).join();
}"""


def formulas(markdown: str) -> int:
    """Number of formulas in the source of a cell."""
    markdown = re.sub(r"```.*?```|`[^`\n]*`", "", markdown, flags=re.DOTALL)
    return len(re.findall(r"\$\$.+?\$\$|(?<!\\)\$[^$]+?\$", markdown, re.DOTALL))


def menu(page, *titles: str) -> None:
    """Choose an entry of Lab's menu bar."""
    page.locator(".lm-MenuBar-itemLabel", has_text=re.compile(rf"^{titles[0]}$")).click()
    page.locator(".lm-Menu-itemLabel", has_text=re.compile(rf"^{titles[1]}$")).click()


def wait(page, what: str):
    """``tries``, while the page goes on."""
    return tries(what, lambda seconds: page.wait_for_timeout(seconds * 1000))


def run_all(page) -> None:
    """Run > Run All Cells, until the last cell is done or one has failed."""
    page.wait_for_selector(IDLE, state="attached")
    page.evaluate(WATCH)
    page.locator(".jp-Notebook .jp-Cell").first.click()
    menu(page, "Run", "Run All Cells")
    page.wait_for_function(FINISHED, polling=500)


def save(page, path: Path) -> nbformat.NotebookNode:
    """File > Save Notebook, until the file has changed."""
    before = path.stat().st_mtime_ns
    menu(page, "File", "Save Notebook")
    for _ in wait(page, f"a new {path.name}"):
        if path.stat().st_mtime_ns != before:
            break
    return nbformat.read(path, as_version=4)


def move_sliders(page, picture: Path) -> list[dict]:
    """Press the right arrow on every slider; wait for another picture, or ten idle seconds."""
    moved = []
    for handle in page.query_selector_all(".jp-OutputArea-output [role=slider]"):
        handle.scroll_into_view_if_needed()
        value, before = handle.get_attribute("aria-valuenow"), handle.evaluate(PICTURE)
        handle.focus()
        for _ in range(5):
            page.keyboard.press("ArrowRight")
        idle = 0
        for _ in wait(page, "another picture, or an idle kernel"):
            if handle.evaluate(PICTURE) not in ("", before) or idle == 50:
                break
            idle = idle + 1 if page.query_selector(IDLE) else 0
        moved.append(
            {
                "value": handle.get_attribute("aria-valuenow") != value,
                "picture": bool(before) and handle.evaluate(PICTURE) not in ("", before),
            }
        )
        page.screenshot(path=picture.with_stem(f"{picture.stem}{len(moved)}"))
    return moved


def accessibility(page) -> tuple[list[str], list[str]]:
    """Faults of level A and AA in the course's content, and those in Lab's frame."""
    options = {"runOnly": {"type": "tag", "values": LEVELS}, "resultTypes": ["violations"]}
    content, frame = [], []
    for violation in Axe().run(page, options=options).response["violations"]:
        for node in violation["nodes"]:
            target = node["target"][-1]
            ours = page.evaluate(
                """([target, content, tools]) => {
                  const node = document.querySelector(target);
                  return !!node?.closest(content) && !(tools && node.matches(tools));
                }""",
                [target, ", ".join(CONTENT), TOOLS.get(violation["id"])],
            )
            (content if ours else frame).append(f"{violation['id']}: {node['html'][:200]}")
    return content, frame


def visit(path: Path, state: Path) -> Seen:
    """Run a notebook of a student's folder in a browser of its own, and look at it."""
    env = student.alone(path.parents[1]) | {"OMP_NUM_THREADS": "1"}  # another one runs beside it
    with chromium() as browser, jupyterlab(path.parent, state, env=env) as address:
        return look(browser.new_page(viewport={"width": 1280, "height": 900}), address, path)


def look(page, address: str, path: Path) -> Seen:
    """Open, run and save a notebook, move its sliders, and judge its accessibility."""
    folder, name = artefacts("browser"), path.stem
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda socket: asked.append(socket.url))
    open_in_lab(page, address, path.name)
    run_all(page)
    dialogs = [dialog.inner_text() for dialog in page.query_selector_all(".jp-Dialog")]
    saved = save(page, path) if not dialogs else nbformat.read(path, as_version=4)
    page.locator(".jp-Notebook .jp-Cell").last.scroll_into_view_if_needed()
    page.screenshot(path=folder / f"{name}-end.png")
    sliders = move_sliders(page, folder / f"{name}-slider.png")
    page.locator(".jp-Notebook .jp-Cell").first.scroll_into_view_if_needed()
    page.screenshot(path=folder / f"{name}-top.png")
    progress = page.evaluate(
        "() => Object.fromEntries(Object.entries(window.progress).map(([k, v]) => [k, [...v]]))"
    )
    cells = page.evaluate(LOOK)
    faults, frame = accessibility(page)
    report = {"content": faults, "frame": sorted(set(frame)), "progress": progress}
    (folder / f"{name}.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    here = re.compile(rf"(http|ws)://{re.escape(address.removeprefix('http://'))}/|data:|blob:")
    outside = [url for url in asked if not here.match(url)]
    return Seen(saved, cells, progress, sliders, outside, faults, dialogs)


# ------------------------------------------------------------------ what is asked of a notebook


def code(seen: Seen) -> list[nbformat.NotebookNode]:
    return [cell for cell in seen.saved.cells if cell.cell_type == "code"]


def not_executed(seen: Seen) -> list[str]:
    """Code cells that are not numbered in order; outputs were removed before."""
    counts = enumerate((cell.execution_count for cell in code(seen)), 1)
    return [f"cell {number} has number {count}" for number, count in counts if count != number]


def failed(seen: Seen) -> list[str]:
    """Error outputs in the saved file, and dialogs of Lab."""
    outputs = [output for cell in code(seen) for output in cell.outputs]
    return [output.evalue for output in outputs if output.output_type == "error"] + seen.dialogs


def bars(seen: Seen) -> list[str]:
    """No bar that was seen moving; or bars that stayed behind."""
    still = max(map(len, seen.progress.values()), default=0) < 3
    texts = [output.get("text", "") for cell in code(seen) for output in cell.outputs]
    return ["no progress bar moved"] * still + [text for text in texts if "%|" in text]


def dead_sliders(seen: Seen) -> list[str]:
    """Sliders that are not there, did not move, or whose picture stayed the same."""
    source = "\n".join(cell.source for cell in code(seen))
    missing = len(re.findall(r"ipywidgets\.\w*Slider\(", source)) - len(seen.sliders)
    dead = [f"slider {slider}" for slider in seen.sliders if not all(slider.values())]
    return ["a slider is missing"] * missing + dead


def no_mathematics(seen: Seen) -> list[str]:
    """Cells with other formulas than their source has, broken ones, or TeX as text."""
    wrong = []
    for cell, shown in zip(seen.saved.cells, seen.cells, strict=True):
        wanted = formulas(cell.source) if cell.cell_type == "markdown" else 0
        if shown["broken"] or shown["raw"] or shown["formulas"] != wanted:
            wrong.append(f"{shown}, {wanted} wanted: {cell.source[:200]}")
    return wrong


def missing_pictures(seen: Seen) -> list[str]:
    """Cells with a picture that was not loaded."""
    shown = enumerate(seen.cells)
    return [f"cell {i}" for i, cell in shown if not all(all(image) for image in cell["images"])]


def untold_pictures(seen: Seen) -> list[str]:
    """Code cells that draw a picture, with no sentence among the two cells above and below."""
    cells, untold = seen.saved.cells, []
    for i, cell in enumerate(cells):
        drawn = any("image/png" in output.get("data", {}) for output in cell.get("outputs", []))
        texts = [near for near in cells[max(i - 2, 0) : i + 3] if near.cell_type == "markdown"]
        if drawn and not any(len(text.source.split()) >= 8 for text in texts):
            untold.append(cell.source[:200])
    return untold


def outside(seen: Seen) -> list[str]:
    """Addresses on other machines that the page asked for."""
    return seen.outside


def inaccessible(seen: Seen) -> list[str]:
    """Faults of level A and AA that the course's own content causes."""
    return seen.faults


JUDGES = (not_executed, failed, bars, dead_sliders, no_mathematics, missing_pictures,
          untold_pictures, outside, inaccessible)  # fmt: skip


FAULTY = (
    ("markdown", "A formula $\\frac{1$ and pictures <img src='a.png'> ![b](http://x.invalid/b.png)"),
    ("code", "from tqdm import tqdm\nfor _ in tqdm(range(3)): pass"),
    ("code", """
import ipywidgets, base64
from IPython.display import Image
dot = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
_ = ipywidgets.interact(lambda x: Image(dot), x=ipywidgets.FloatSlider(0))"""),
    ("code", ""), ("code", ""), ("code", "Image(dot)"),
    ("code", "from IPython.display import HTML\nHTML('<button></button>')"),
    ("code", "1 / 0"),
    ("code", "1"),
)  # fmt: skip


def prepare(folder: Path, name: str) -> Path:
    """The notebook's file in the student's folder, with another seed; or one full of faults."""
    path = folder / "notebooks" / f"{name}.ipynb"
    if name == "faulty":
        kinds = {"code": nbformat.v4.new_code_cell, "markdown": nbformat.v4.new_markdown_cell}
        cells = [kinds[kind](source) for kind, source in FAULTY]
        metadata = {"kernelspec": notebook_sources.KERNEL}
        notebook = nbformat.v4.new_notebook(cells=cells, metadata=metadata)
    else:
        notebook = nbformat.read(path, as_version=4)
        run_notebook.override(notebook, {"SEED": 4})  # the checkpoints hold for it, too
        where = f"import course_utils\nassert course_utils.__file__.startswith({str(folder)!r})"
        notebook.cells.append(nbformat.v4.new_code_cell(where))
    notebook_sources.write(notebook, path)
    return path


@pytest.fixture(scope="module")
def visits(request, tmp_path_factory) -> dict[str, Future]:
    """What will have been seen of the chosen notebooks, of which two are run at a time."""
    folder = tmp_path_factory.mktemp("handed-out") / "student"
    student.write(folder)
    here = [item for item in request.session.items if item.path == request.path]
    chosen = dict.fromkeys(item.callspec.params["seen"] for item in here)
    with ThreadPoolExecutor(2) as pool:
        yield {
            name: pool.submit(visit, prepare(folder, name), tmp_path_factory.mktemp("state"))
            for name in chosen
        }


@pytest.fixture(scope="module")
def seen(request, visits) -> Seen:
    return visits[request.param].result()


judges = pytest.mark.parametrize("judge", JUDGES, ids=lambda judge: judge.__name__)


@judges
@pytest.mark.parametrize("seen", catalogue.files(), indirect=True)
def test_nothing_is_wrong(seen, judge):
    assert not judge(seen)


@judges
@pytest.mark.parametrize("seen", ["faulty"], indirect=True)
def test_each_fault_would_be_found(seen, judge):
    assert judge(seen)
