"""What a student does in JupyterLab: click a prediction, unfold its answer, see a verdict."""

import shutil

import nbformat
import pytest

from tests.browser import artefacts, chromium, inaccessible
from tests.jupyter_server import jupyterlab, open_in_lab
from tools import catalogue
from tools.notebook_sources import KERNEL

pytestmark = pytest.mark.browser

LONG = "How wide may a line be, so that the eye finds the next one without searching for it? " * 5
CELLS = (
    "from course_utils.checks import flows as checks\nfrom course_utils.predictions import answer, "
    'predict\nimport torch\npredict("twins", "one in twenty", "one in five")',
    'answer("twins", "one in five", "Count the `twins`: $n_t / n$.")',
    "def my_lognormal(x):\n    return x\n\n\nchecks.check_lognormal(my_lognormal)",
    "def my_lognormal(x):\n    return ...\n\n\nchecks.check_lognormal(my_lognormal)",
    "my_lognormal = torch.distributions.LogNormal(0.0, 1.0).log_prob\n"
    "checks.check_lognormal(my_lognormal)",
    "from course_utils.plotting import use_course_style\nimport matplotlib.pyplot as plt\n"
    "use_course_style()\n_ = plt.plot([1, 2])",
)
# Characters in each line of a paragraph, but the last.
WIDTHS = """() => {
  const text = document.querySelector(".jp-MarkdownOutput p").firstChild;
  const range = document.createRange(), lines = new Map();
  for (let i = 0; i < text.length; i++) {
    range.setStart(text, i);
    range.setEnd(text, i + 1);
    const top = Math.round(range.getBoundingClientRect().top);
    lines.set(top, (lines.get(top) ?? 0) + 1);
  }
  return [...lines.values()].slice(0, -1);
}"""


@pytest.fixture
def page(tmp_path):
    """A copy with these cells, in the ``work`` of a course, all run but the first answer."""
    work = tmp_path / "course" / "work"
    shutil.copytree(catalogue.NOTEBOOKS, work.parent / "notebooks")
    work.mkdir()
    cells = [nbformat.v4.new_markdown_cell(LONG), *map(nbformat.v4.new_code_cell, CELLS)]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": KERNEL})
    nbformat.write(notebook, work / "trial.ipynb")
    env = {"MPLBACKEND": "agg"}  # a user's own setting, which would hide every figure
    with jupyterlab(work.parent, tmp_path, env=env) as address, chromium() as browser:
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        open_in_lab(page, address, "work/trial.ipynb")
        yield page


def run(page, number: int) -> None:
    page.locator(".jp-Cell").nth(number).click()
    page.keyboard.press("Shift+Enter")


def test_click_unfold_and_be_told(page, tmp_path):
    run(page, 1)
    page.get_by_label("one in twenty").click()
    for number in range(2, len(CELLS) + 1):
        run(page, number)
    page.wait_for_selector(".jp-OutputArea img")
    told = page.locator("details[open]").inner_text()
    assert "You said: one in twenty. Answer: one in five. Count the twins:" in told
    assert page.locator("details mjx-container").count() == 1
    verdicts = page.locator(".jp-OutputArea [role=status]")
    words = ["Not yet:", "Not tried yet:", "Right:"]
    assert [text.split(" ", 1)[1][: len(w)] for text, w in zip(verdicts.all_inner_texts(), words,
            strict=True)] == words  # fmt: skip
    edges = verdicts.evaluate_all("all => all.map(e => getComputedStyle(e).borderLeftColor)")
    assert len(set(edges)) == 3
    assert max(page.evaluate(WIDTHS)) <= 80 and min(page.evaluate(WIDTHS)) > 40
    page.screenshot(path=artefacts("browser") / "doing.png")
    context = {"include": [[".jp-OutputArea-output"]], "exclude": [[".jp-RenderedImage > img"]]}
    assert not inaccessible(page, context=context)
    kept = (tmp_path / "course" / "work" / "progress.json").read_text(encoding="utf-8")
    assert '"said": "one in twenty"' in kept and '"solved": true' in kept
