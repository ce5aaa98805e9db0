"""``make present``: a notebook as slides in JupyterLab, of which every line can be reached."""

from pathlib import Path

import nbformat
import pytest

from tests.browser import artefacts, chromium
from tests.jupyter_server import jupyterlab, open_in_lab
from tools import catalogue, present
from tools.notebook_sources import KERNEL

SCREEN = {"width": 1280, "height": 720}


def test_present_opens_one_notebook_with_settings_of_its_own(tmp_path, monkeypatch):
    """A copy of it, see tests/test_copies.py."""
    notebook, called = catalogue.load()[-1], []
    monkeypatch.setattr(catalogue, "ROOT", tmp_path)
    monkeypatch.setattr(present, "STATE", tmp_path)
    (tmp_path / "workspaces").mkdir()
    monkeypatch.setattr(present.os, "execv", lambda *arguments: called.extend(arguments[-1]))
    monkeypatch.setattr(present.os, "environ", {})
    monkeypatch.setattr(present.sys, "argv", ["present.py", notebook.nickname, "--port=9"])
    present.main()
    [copy] = (tmp_path / "work").iterdir()
    assert called[-2:] == [f"--LabApp.default_url=/lab/tree/work/{copy.name}", "--port=9"]
    assert not (tmp_path / "workspaces").exists()
    assert Path(present.os.environ["JUPYTERLAB_SETTINGS_DIR"]).is_relative_to(tmp_path)


@pytest.mark.parametrize("arguments", [[], ["../flows"]])
def test_present_names_the_choice(monkeypatch, arguments):
    monkeypatch.setattr(present.sys, "argv", ["present.py", *arguments])
    with pytest.raises(SystemExit, match=f"no notebook. Remedy: .*{', '.join(catalogue.files())}"):
        present.main()


# Formulas are typeset and pictures are loaded.
READY = """() => {
  const count = document.querySelectorAll(".jp-Cell mjx-container").length;
  const settled = count > 0 && count === window.formulas;
  window.formulas = count;
  return settled && [...document.images].every((image) => image.complete);
}"""
# The active cell and its slide. The end is that of the whole cell, were it not for its scroll bar.
LOOK = """() => {
  const all = [...document.querySelectorAll(".jp-Deck .jp-Cell")];
  const active = document.querySelector(".jp-Deck .jp-Cell.jp-mod-active");
  const box = active.getBoundingClientRect();
  const slide = document.querySelector(".jp-Deck .jp-WindowedPanel-outer");
  const height = active.scrollHeight, end = box.top + height - active.scrollTop;
  return {cell: all.indexOf(active), top: box.top, end, slide: slide.scrollHeight, height};
}"""


def longest_section(name: str) -> list[nbformat.NotebookNode]:
    """The cells of a notebook's longest section, on one slide."""
    sections: list[list] = []
    for cell in nbformat.read(catalogue.find(name).built, as_version=4).cells:
        kind = cell.metadata.pop("slideshow", {}).get("slide_type")
        if kind == "slide":
            cell.metadata.slideshow = {"slide_type": "slide"}
            sections.append([])
        if kind != "skip":
            sections[-1].append(cell)
    return max(sections, key=len)


def press(page, key: str) -> dict:
    """Press a key; what is seen when nothing moves any more."""
    page.keyboard.press(key)
    before, now = None, page.evaluate(LOOK)
    while now != before:
        page.wait_for_timeout(100)
        before, now = now, page.evaluate(LOOK)
    return now


@pytest.mark.browser
def test_every_cell_of_a_slide_that_is_higher_than_the_screen_can_be_reached(tmp_path):
    """On a section of each notebook, and on a cell that no screen shows as a whole."""
    lines = "\n\n".join(f"Line {line}" for line in range(60))
    tall = nbformat.v4.new_markdown_cell(lines, metadata={"slideshow": {"slide_type": "slide"}})
    cells = [*(cell for name in catalogue.files() for cell in longest_section(name)), tall]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": KERNEL})
    nbformat.write(notebook, tmp_path / "tall.ipynb")
    settings, seen = present.SETTINGS, {}
    with chromium() as browser, jupyterlab(tmp_path, tmp_path, settings=settings) as address:
        page = browser.new_page(viewport=SCREEN)
        open_in_lab(page, address, "tall.ipynb")
        page.wait_for_selector(".jp-Deck .jp-Cell.jp-deck-mod-onscreen")
        page.wait_for_function(READY, polling=2000)
        page.locator(".jp-Deck .jp-mod-active").focus()
        while (shown := press(page, "Space" if seen else "Home"))["cell"] not in seen:
            seen[shown["cell"]] = shown
            if "slideshow" in cells[shown["cell"]].metadata:
                page.screenshot(path=artefacts("presenting") / f"{shown['cell']}.png")
            assert shown["top"] >= -1, shown  # a cell begins where it can be read
            if shown["end"] > SCREEN["height"]:
                shown["end"] = press(page, "End")["end"]
            assert shown["end"] <= SCREEN["height"], shown
    assert list(seen) == list(range(len(cells)))
    assert all(seen[index]["slide"] > SCREEN["height"] for index in range(len(cells) - 1))
    assert seen[len(cells) - 1]["height"] > 2 * SCREEN["height"]
