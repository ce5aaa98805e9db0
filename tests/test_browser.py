"""The notebooks as a student meets them: JupyterLab in a real browser, Run All Cells, explorables.

What is run is the version without solutions, untouched, in its own folder and with its own
course_utils and data; only the seed is another one (``benchmarks/SEEDS.md`` has ten). What is
wrong is seen in the file that Lab saves and in the page. Screenshots are kept in ``build/browser``
(or below ``COURSE_ARTEFACTS``).
"""

import re
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest

from tests.browser import MATHEMATICS, artefacts, chromium, inaccessible
from tests.jupyter_server import jupyterlab, open_in_lab
from tools import catalogue, notebook_sources, run_notebook
from tools import student_version as student

pytestmark = [pytest.mark.browser, pytest.mark.slow]

IDLE = ".jp-Notebook-ExecutionIndicator[data-status=idle]"
# What the course writes and draws; the rest is the frame and the editors of Lab. One fault no
# course can mend: Lab writes no alternative text to a picture that a cell draws, whatever its
# metadata say. So there is a sentence beside each that says what it shows, see untold_pictures.
CONTENT = {
    "include": [[".jp-MarkdownOutput"], [".jp-OutputArea-output"]],
    "exclude": [[".jp-RenderedImage > img"]],
}

# Every change of an output is looked at, so that no state of a progress bar is missed.
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

# Pictures that cannot be shown.
BROKEN = "(images) => images.filter((i) => !i.naturalWidth).map((image) => image.outerHTML)"


def menu(page, *titles: str) -> None:
    """Choose an entry of Lab's menu bar."""
    page.locator(".lm-MenuBar-itemLabel", has_text=re.compile(rf"^{titles[0]}$")).click()
    page.locator(".lm-Menu-itemLabel", has_text=re.compile(rf"^{titles[1]}$")).click()


def run_and_save(page, path: Path) -> nbformat.NotebookNode:
    """Run > Run All Cells, until the last cell is done or one has failed; then File > Save."""
    page.wait_for_selector(IDLE, state="attached")
    page.evaluate(WATCH)
    page.locator(".jp-Notebook .jp-Cell").first.click()
    menu(page, "Run", "Run All Cells")
    page.wait_for_function(FINISHED, polling=500)
    if not page.query_selector(".jp-Dialog"):
        menu(page, "File", "Save Notebook")
        page.wait_for_selector(".lm-TabBar-tab.jp-mod-dirty", state="detached")
    return nbformat.read(path, as_version=4)


def dead_explorables(page, wanted: int) -> list[str]:
    """Explorables that are not there, or whose sentence stays the same when a slider is moved."""
    figures = page.query_selector_all(".jp-OutputArea-output .explorable")
    dead = ["missing"] * (wanted - len(figures))
    for figure in figures:
        said = figure.query_selector("[role=status]")
        before = said.inner_text()
        figure.query_selector("input[type=range]").press("PageUp")
        page.wait_for_timeout(2000)
        if said.inner_text() == before or not before:
            dead.append(before)
    return dead


def untold_pictures(cells: list[nbformat.NotebookNode]) -> list[str]:
    """Code cells that draw a picture, with no sentence among the three cells above and below.

    The sentence is a text, or the answer to a prediction.
    """
    untold = []
    for i, cell in enumerate(cells):
        drawn = any("image/png" in output.get("data", {}) for output in cell.get("outputs", []))
        beside = cells[max(i - 3, 0) : i + 4]
        texts = [
            c for c in beside if c.cell_type == "markdown" or "answer" in notebook_sources.tags(c)
        ]
        if drawn and not any(len(text.source.split()) >= 8 for text in texts):
            untold.append(cell.source[:200])
    return untold


def visit(path: Path, state: Path) -> dict[str, list]:
    """Run a notebook of a student's folder in a browser of its own; what is wrong, by its kind."""
    env = student.alone(path.parents[1]) | {"OMP_NUM_THREADS": "1"}  # another one runs beside it
    asked = []
    with chromium() as browser, jupyterlab(path.parent, state, env=env) as address:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.on("request", lambda request: asked.append(request.url))
        page.on("websocket", lambda socket: asked.append(socket.url))
        open_in_lab(page, address, path.name)
        saved = run_and_save(page, path)
        code = notebook_sources.code_cells(saved)
        outputs = [output for cell in code for output in cell.outputs]
        page.wait_for_function("[...document.images].every((image) => image.complete)")
        dialogs = [dialog.inner_text() for dialog in page.query_selector_all(".jp-Dialog")]
        page.screenshot(path=artefacts("browser") / f"{path.stem}-end.png")
        explorables = sum(len(re.findall(r"\bexplore\(", cell.source)) for cell in code)
        wrong = {
            "not executed": [n for n, cell in enumerate(code, 1) if cell.execution_count != n],
            "failed": [o.evalue for o in outputs if o.output_type == "error"] + dialogs,
            "bar stays": [o.text for o in outputs if "%|" in o.get("text", "")],
            "mathematics": page.evaluate(MATHEMATICS, ".jp-MarkdownOutput"),
            "picture": page.eval_on_selector_all(".jp-Notebook img", BROKEN),
            "untold picture": untold_pictures(saved.cells),
            "explorable": dead_explorables(page, explorables),
            "inaccessible": inaccessible(page, context=CONTENT),
        }
        page.screenshot(path=artefacts("browser") / f"{path.stem}-explorables.png")
        states = page.evaluate("Math.max(0, ...Object.values(progress).map((each) => each.size))")
        wrong["bar does not move"] = [] if states >= 3 else [states]
        here = re.compile(
            rf"(http|ws)://{re.escape(address.removeprefix('http://'))}/|(data|blob|attachment):"
        )
        wrong["asked outside"] = [url for url in asked if not here.match(url)]
        return wrong


FAULTY = (
    ("markdown", "A formula $\\frac{1$ and pictures <img src='a.png'> ![b](http://x.invalid/b.png)"),
    ("code", "from tqdm import tqdm\nfor _ in tqdm(range(1)): pass"),
    ("code", """
import base64
from IPython.display import Image
dot = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
Image(dot)"""),
    ("code", "# explore()"), ("code", ""), ("code", "Image(dot)"),
    ("code", "from IPython.display import HTML\nHTML('<button></button>')"),
    ("code", "1 / 0"),
    ("code", "1"),
)  # fmt: skip


def prepare(folder: Path, name: str) -> Path:
    """The notebook's file in the student's folder, with another seed; or one full of faults."""
    path = folder / "notebooks" / f"{name}.ipynb"
    if name == "faulty":
        cells = [getattr(nbformat.v4, f"new_{kind}_cell")(source) for kind, source in FAULTY]
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
    """What will be wrong with the chosen notebooks, of which two are run at a time."""
    folder = tmp_path_factory.mktemp("handed-out") / "student"
    student.write(folder)
    here = [item for item in request.session.items if item.path == request.path]
    chosen = [item.callspec.params["name"] for item in here]
    with ThreadPoolExecutor(2) as pool:
        yield {
            name: pool.submit(visit, prepare(folder, name), tmp_path_factory.mktemp("state"))
            for name in chosen
        }


@pytest.mark.parametrize("name", catalogue.files())
def test_nothing_is_wrong(visits, name):
    assert not {fault: found for fault, found in visits[name].result().items() if found}


@pytest.mark.parametrize("name", ["faulty"])
def test_each_fault_would_be_found(visits, name):
    assert all(visits[name].result().values()), visits[name].result()
