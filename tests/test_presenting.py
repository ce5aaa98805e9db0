"""``make present``: the notebooks as slides in JupyterLab, each no higher than the screen."""

import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest

from tests.browser import artefacts, chromium
from tests.jupyter_server import jupyterlab
from tools import build_notebooks, catalogue, notebook_sources, present, slidecut

SCREEN = {"width": 1280, "height": 720}


# ------------------------------------------------------------------ cutting


def cell(kind: str, source: str = "", **metadata) -> nbformat.NotebookNode:
    make = {"code": nbformat.v4.new_code_cell, "text": nbformat.v4.new_markdown_cell}[kind]
    return make(source, metadata=metadata)


SLIDE = {"slide_type": "slide"}


def test_a_cell_that_does_not_fit_begins_a_sub_slide():
    cells = [cell("text", "## 1", slideshow=SLIDE), cell("code"), cell("code"), cell("code")]
    assert slidecut.cut(cells, [100, 300, 300, 300], 700) == ["slide", "", "", "subslide"]
    assert slidecut.cut(cells, [100, 300, 301, 300], 700) == ["slide", "", "subslide", ""]


def test_text_goes_with_its_code_where_both_fit():
    cells = [cell("text", "## 1", slideshow=SLIDE), cell("code"), cell("text"), cell("code")]
    assert slidecut.cut(cells, [50, 350, 100, 400], 700) == ["slide", "", "subslide", ""]
    # too high for one slide together: the text stays where it fits
    assert slidecut.cut(cells, [50, 350, 100, 650], 700) == ["slide", "", "", "subslide"]


def test_hints_and_solutions_are_skipped_and_take_no_room():
    cells = [cell("text", "## 1", slideshow=SLIDE), cell("code", tags=["solution"])]
    cells += [cell("text", "<details>"), cell("code")]
    assert slidecut.cut(cells, [100, 600, 600, 600], 700) == ["slide", "skip", "skip", ""]


def test_a_heading_begins_a_sub_slide():
    cells = [cell("text", "## 1", slideshow=SLIDE), cell("text", "### Exercise 1"), cell("code")]
    assert slidecut.cut(cells, [50, 50, 50], 700) == ["slide", "subslide", ""]


def test_marks_are_replaced_and_nothing_else():
    source = '# %% [markdown] slideshow={"slide_type": "slide"}\n# # T\n\n# %% tags=["a"]\nx = 1\n'
    once = slidecut.marked(source, ["slide", "subslide"])
    assert once == source.replace('["a"]', '["a"] slideshow={"slide_type": "subslide"}')
    assert slidecut.marked(once, ["slide", "subslide"]) == once
    assert slidecut.marked(once, ["slide", ""]) == source
    with pytest.raises(SystemExit, match="fewer cells"):
        slidecut.marked(source, ["slide", "", ""])


def test_writing_keeps_source_and_notebook_in_step(tmp_path, monkeypatch):
    shutil.copy(catalogue.NOTEBOOKS.parent / "jupytext.toml", tmp_path)
    monkeypatch.setattr(tool, "NOTEBOOKS", tmp_path)
    (tmp_path / "nb.py").write_text('# %% [markdown]\n# # Title\n\n# %% tags=["exercise"]\nx = 1\n')
    built = notebook_sources.read("nb")
    built.cells[1].outputs = [nbformat.v4.new_output("stream", text="1\n")]
    nbformat.write(built, tmp_path / "nb.ipynb")
    slidecut.write("nb", ["slide", "subslide"])
    after, source = nbformat.read(tmp_path / "nb.ipynb", as_version=4), notebook_sources.read("nb")
    assert [cell.metadata.slideshow.slide_type for cell in after.cells] == ["slide", "subslide"]
    assert [cell.metadata for cell in after.cells] == [cell.metadata for cell in source.cells]
    assert after.metadata.course.source_sha256 == build_notebooks.digest("nb")
    for one, other in zip(built.cells, after.cells, strict=True):  # no code, no output changes
        assert (one.source, one.id) == (other.source, other.id)
    assert after.cells[1].outputs == built.cells[1].outputs
    (tmp_path / "nb.py").write_text("# %%\nx = 2\n")
    with pytest.raises(SystemExit, match="older than its source"):
        slidecut.write("nb", ["slide", "subslide"])


# ------------------------------------------------------------------ opening


def test_present_opens_one_notebook_with_settings_of_its_own(tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(present, "STATE", tmp_path)
    (tmp_path / "workspaces").mkdir()
    monkeypatch.setattr(present.os, "execv", lambda *arguments: called.append(arguments))
    monkeypatch.setattr(present.os, "environ", {})
    monkeypatch.setattr(present.sys, "argv", ["present.py", "flows", "--no-browser"])
    present.main()
    ((_, command),) = called
    assert "--LabApp.default_url=/lab/tree/flows.ipynb" in command
    assert command[-1] == "--no-browser"
    assert not (tmp_path / "workspaces").exists()
    assert Path(present.os.environ["JUPYTERLAB_SETTINGS_DIR"]).is_relative_to(tmp_path)


@pytest.mark.parametrize("arguments", [[], ["flow"], ["../flows"], ["flows.ipynb"]])
def test_present_names_the_choice(monkeypatch, arguments):
    monkeypatch.setattr(present.sys, "argv", ["present.py", *arguments])
    with pytest.raises(SystemExit, match="NAME is one of bayesian_neural_networks_wine, flows"):
        present.main()


def test_the_page_says_what_the_slides_are_made_for():
    text = (catalogue.NOTEBOOKS.parent / "docs" / "presenting.md").read_text(encoding="utf-8")
    text = " ".join(text.split())
    assert "made for {width} × {height} points".format(**SCREEN) in text
    (wide, high), percent = re.findall(r"projector with (\d+) × (\d+)", text)[0], 150
    assert f"to {percent} %" in text
    assert int(wide) * 100 == SCREEN["width"] * percent
    assert int(high) * 100 == SCREEN["height"] * percent
    assert all(f"`{name}`" in text for name in catalogue.files())


# ------------------------------------------------------------------ in the browser

# All cells on one long page, as high as they are on their slides.
MEASURE = """() => {
  const cells = [...document.querySelectorAll(".jp-Deck .jp-Notebook .jp-Cell")];
  for (const cell of cells) cell.classList.add("jp-deck-mod-visible", "jp-deck-mod-onscreen");
  const box = document.querySelector(".jp-Deck .jp-WindowedPanel-outer").getBoundingClientRect();
  const tops = cells.map((cell) => cell.getBoundingClientRect().top);
  const end = cells.at(-1).getBoundingClientRect().bottom;
  return {room: box.height, heights: tops.map((top, i) => (tops[i + 1] ?? end) - top)};
}"""


@pytest.fixture(scope="module")
def decks(tmp_path_factory):
    """Per notebook what was measured; with the screenshot of its first slide."""
    folder, state = tmp_path_factory.mktemp("served"), tmp_path_factory.mktemp("state")
    kept, found = artefacts("presenting"), {}
    for name in catalogue.files():
        shutil.copy(catalogue.NOTEBOOKS / f"{name}.ipynb", folder)
    with chromium() as browser, jupyterlab(folder, state, settings=present.SETTINGS) as address:
        for name in catalogue.files():
            page = browser.new_page(viewport=SCREEN)
            page.set_default_timeout(20 * 60_000)
            page.goto(f"{address}/lab/tree/{name}.ipynb?token=test&reset")
            page.wait_for_selector(".jp-Deck .jp-Cell.jp-deck-mod-onscreen")
            page.wait_for_function(READY, polling=3000)
            page.screenshot(path=kept / f"{name}.png")
            found[name] = page.evaluate(MEASURE)
            found[name]["sources"] = [c.source for c in notebook_sources.read(name).cells]
            (kept / f"{name}.json").write_text(json.dumps(found[name]))
            page.close()
    return found


# Formulas are typeset and pictures are loaded.
READY = """() => {
  const count = document.querySelectorAll(".jp-Cell mjx-container").length;
  const settled = count > 0 && count === window.formulas;
  window.formulas = count;
  return settled && [...document.images].every((image) => image.complete);
}"""


@pytest.mark.parametrize("name", catalogue.files())
def test_no_slide_is_higher_than_the_screen(decks, name):
    deck, cells = (
        decks[name],
        nbformat.read(catalogue.NOTEBOOKS / f"{name}.ipynb", as_version=4).cells,
    )
    assert len(deck["heights"]) == len(cells)
    slides = []
    for one, height in zip(cells, deck["heights"], strict=True):
        kind = one.metadata.get("slideshow", {}).get("slide_type", "")
        if kind in ("slide", "subslide") or not slides:
            slides.append([one.source.splitlines()[0], 0])
        slides[-1][1] += height if kind != "skip" else 0
    high = [f"{height:.0f} px: {title}" for title, height in slides if height > deck["room"]]
    remedy = f"python tools/slidecut.py {name} --write"
    assert not high, "\n".join([f"{len(high)} of {len(slides)} slides; {remedy}", *high])
