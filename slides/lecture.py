"""The text of the lecture: its slides, its plan, and what the notebooks put into it.

In ``lecture.md``, ``[[wine.gain]]`` is a result that the notebook of this nickname publishes in a
cell tagged ``slides``. ``number``, ``file``, ``topic`` and ``section`` (what the lecture shows of
it) come from the catalogue, and so do the ``[[minutes]]`` of a visit to a notebook. The picture
``(wine/doubts.png)`` comes out of the cell tagged ``picture-doubts``.
"""

import re
from itertools import accumulate, groupby
from pathlib import Path
from typing import NamedTuple

import nbformat

from course_utils.results import MIME
from tools import catalogue
from tools.notebook_sources import code_cells, tags

SOURCE = Path(__file__).resolve().parent / "lecture.md"
MINUTES = "[[minutes]]"  # of a visit to a notebook


class Slide(NamedTuple):
    """A slide, as ``lecture.md`` has it."""

    number: int
    part: int  # of the plan
    text: str
    notes: str

    def note(self, pattern: str, default: str = "") -> str:
        """What a line of the notes says."""
        found = re.search(f"^{pattern}$", self.notes, re.MULTILINE)
        return found[1] if found else default

    @property
    def visited(self) -> catalogue.Notebook | None:
        """The notebook that this slide opens."""
        found = re.search(r"\[\[(\w+)\.section\]\]", self.text)
        return catalogue.find(found[1]) if found else None

    @property
    def minutes(self) -> int:
        if self.visited:
            return sum(part.minutes for part in self.visited.sections if part.demo)
        return int(self.note(r"Minutes: (\d+)", "0"))


def slides(text: str | None = None) -> list[Slide]:
    """The slides of a lecture, of ``lecture.md`` when None."""
    pages = re.split(r"^---$", text or SOURCE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    found, part = [], 0
    for number, page in enumerate(pages[2:], 1):  # the first two enclose the settings
        notes = "\n".join(re.findall(r"<!--\n(.*?)-->", page, re.DOTALL))
        part += "Part: " in notes
        found.append(Slide(number, part, re.sub("<!--.*?-->", "", page, flags=re.DOTALL), notes))
    return found


# ------------------------------------------------------------------ out of the notebooks


def put_out(notebook: catalogue.Notebook, tag: str, mime: str) -> list:
    """What the cells with a tag have put out in this form."""
    if not notebook.built.is_file():
        remedy = f"Remedy: make notebooks NAME={notebook.file}"
        raise SystemExit(f"course: {notebook.built.name} is missing. {remedy}")
    cells = code_cells(nbformat.read(notebook.built, as_version=4))
    outputs = [output for cell in cells if tag in tags(cell) for output in cell.outputs]
    return [output.data[mime] for output in outputs if mime in output.get("data", {})]


def only(found: list, what: str, notebook: catalogue.Notebook, tag: str):
    """The one thing that was found, or stop."""
    if len(found) != 1:
        cells = f"the cells of {notebook.built.name} that are tagged {tag}"
        raise SystemExit(f"course: {cells} put out {what} {len(found)} times, not once.")
    return found[0]


def picture(name: str) -> str:
    """The picture NICKNAME/NAME of a notebook, a PNG in base 64."""
    nickname, _, name = name.partition("/")
    notebook, tag = catalogue.find(nickname), f"picture-{name}"
    return only(put_out(notebook, tag, "image/png"), "a picture", notebook, tag)


def fact(name: str) -> str:
    """What NICKNAME.KEY stands for."""
    nickname, _, key = name.partition(".")
    notebook = catalogue.find(nickname)
    if key in ("file", "topic"):
        return getattr(notebook, key)
    if key == "number":
        return str(catalogue.files().index(notebook.file))  # the first steps are number 0
    if key == "section":
        return "*, *".join(f"{part.number} {part.title}" for part in notebook.sections if part.demo)
    results = [each[key] for each in put_out(notebook, "slides", MIME) if key in each]
    number = only(results, f"result {key!r}", notebook, "slides")
    return number.replace("-", "−").replace(" ", "\u00a0")  # never broken


def filled(text: str) -> str:
    """A text with everything that stands in double brackets."""
    return re.sub(r"\[\[(\w+\.\w+)\]\]", lambda found: fact(found[1]), text)


def source() -> str:
    """All of ``lecture.md``, filled."""
    text = SOURCE.read_text(encoding="utf-8")
    for slide in slides(text):
        if slide.visited:  # both in the text and in the notes
            text = text.replace(MINUTES, str(slide.minutes), 2)
    return filled(text)


# ------------------------------------------------------------------ the plan


def timed(steps: list[tuple[int, str, str]], last: str) -> str:
    """A table of steps with their minutes, beginning at 0:00."""
    clock = accumulate((minutes for minutes, *_ in steps), initial=0)
    rows = [
        [f"{start // 60}:{start % 60:02}", str(minutes), *cells]
        for start, (minutes, *cells) in zip(clock, steps, strict=False)
    ]
    return catalogue.table(["from", "minutes", "what", last], rows)


def plan_of_90() -> str:
    """The lecture: its parts with the notebooks' sections tagged ``demo``, minutes and slides."""
    steps = []
    for _, group in groupby(slides(), lambda slide: slide.part):
        part = list(group)
        numbers = [str(part[0].number), str(part[-1].number)]
        what = part[0].note("Part: (.+)")
        if part[0].visited:
            what += f", section *[[{part[0].visited.nickname}.section]]*"
        minutes = sum(each.minutes for each in part)
        steps.append((minutes, filled(what), "–".join(dict.fromkeys(numbers))))
    return timed(steps, "slides")


def plan_of_180() -> str:
    """The hands-on: the cores of the notebooks that the lecture shows, exercises and breaks."""
    found = [each for each in catalogue.load() if any(part.demo for part in each.sections)]
    steps = [(5, "Open the notebook; how a section runs: predict, run, compare", "")]
    left = 180 - 10 - 10 * (len(found) - 1) - sum(each.core_minutes for each in found)
    for each in found:
        core = [part for part in each.sections if part.core]
        steps += [(part.minutes, f"{part.number} {part.title}", each.nickname) for part in core]
        steps.append(
            (left // len(found), "its exercises, in pairs; the rest at home", each.nickname)
        )
        steps.append((10, "Break", ""))
    steps[-1] = (180 - sum(minutes for minutes, *_ in steps[:-1]), "What we saw; questions", "")
    return timed(steps, "notebook")


def summary() -> str:
    """How long the lecture is."""
    found = slides()
    minutes = sum(slide.minutes for slide in found)
    visits = sum(slide.minutes for slide in found if slide.visited)
    return (
        f"The lecture between the notebooks: {len(found)} slides, {minutes} minutes, "
        f"{visits} of them in the notebooks."
    )
