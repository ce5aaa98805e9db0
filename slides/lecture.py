"""The text of the lecture: its slides, its plan, and what the notebooks put into it.

In ``lecture.md``, ``[[wine.gain]]`` is a result that the notebook of this nickname publishes in a
cell tagged ``slides``. ``number``, ``file``, ``topic`` and ``section`` (what the lecture shows of
it) come from the catalogue, and so do the ``[[minutes]]`` of a visit to a notebook.
``{{learnt priors}}`` is a table of stored runs, ``{{learnt priors|mixture|test ELBO (nats)}}`` one
cell of it. The picture ``(wine/doubts.png)`` comes out of the cell tagged ``picture-doubts``.
"""

import re
from itertools import accumulate, groupby
from pathlib import Path
from typing import NamedTuple

import nbformat

from course_utils.results import MIME
from tools import catalogue, quoted
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
    """The picture NICKNAME/NAME of a notebook, in base 64: a PNG, unless it is NAME.gif."""
    nickname, name, *ending = re.split("[/.]", name)
    notebook, tag = catalogue.find(nickname), f"picture-{name}"
    kind = f"image/{ending[0] if ending else 'png'}"
    return only(put_out(notebook, tag, kind), "a picture", notebook, tag)


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


def measured(name: str) -> str:
    """A table of stored runs, or its cell ``TABLE|ROW|COLUMN``."""
    name, *place = name.split("|")
    whole = quoted.QUOTED[name]()
    cells = [line.strip("| ").split(" | ") for line in whole.splitlines()]
    rows = {row: dict(zip(cells[0], [row, *rest], strict=True)) for row, *rest in cells}
    return rows[place[0]][place[1]].replace(" ", "\u00a0") if place else whole


def filled(text: str) -> str:
    """A text with everything that stands in double brackets or braces."""
    text = re.sub(r"\{\{(.+?)\}\}", lambda found: measured(found[1]), text)
    return re.sub(r"\[\[(\w+\.\w+)\]\]", lambda found: fact(found[1]), text)


def source() -> str:
    """All of ``lecture.md``, filled."""
    text = SOURCE.read_text(encoding="utf-8")
    for slide in slides(text):
        if slide.visited:  # both in the text and in the notes
            text = text.replace(MINUTES, str(slide.minutes), 2)
    return filled(text)


# ------------------------------------------------------------------ the plans

SLACK = 10  # minutes of 90
OPEN, BREAK, LAST, LUNCH = 5, 10, 5, 60


def timed(steps: list[tuple], *heads: str) -> str:
    """A table of steps with their minutes, beginning at 0:00."""
    clock = accumulate((minutes for minutes, *_ in steps), initial=0)
    rows = [
        [f"{start // 60}:{start % 60:02}", str(minutes), *cells]
        for start, (minutes, *cells) in zip(clock, steps, strict=False)
    ]
    return catalogue.table(["from", "minutes", *heads], rows)


def parts() -> list[list[Slide]]:
    """The slides of each part; a notebook that is opened is one."""
    return [list(part) for _, part in groupby(slides(), lambda slide: slide.part)]


def length(part: list[Slide]) -> int:
    return sum(slide.minutes for slide in part)


def places(part: list[Slide]) -> str:
    """The numbers of its slides."""
    return "–".join(dict.fromkeys((str(part[0].number), str(part[-1].number))))


def shown() -> list[catalogue.Notebook]:
    """The notebooks that the lecture opens."""
    return [slide.visited for slide in slides() if slide.visited]


def core(each: catalogue.Notebook, seen: bool) -> dict[catalogue.Section, list]:
    """Sections of the core with their exercises; without what the lecture has shown, if seen."""
    of = {task.number: task for task in each.exercises}
    text = re.sub(r"^# ?", "", each.source.read_text(encoding="utf-8"), flags=re.MULTILINE)
    texts = re.split(r"^(?=## \d+ )", text, flags=re.MULTILINE)[1:]
    return {
        part: [of[number] for number, *_ in catalogue.EXERCISE.findall(text)]
        for part, text in zip(each.sections, texts, strict=True)
        if part.core and not (seen and part.demo)
    }


def exercise(sections: dict[catalogue.Section, list], minutes: int) -> catalogue.Exercise | None:
    """The longest that fits, if one does; of several the last."""
    fits = [task for tasks in sections.values() for task in tasks if task.minutes <= minutes]
    return max(reversed(fits), key=lambda task: task.minutes, default=None)


def plan_of_90() -> str:
    """The lecture: its parts with what is opened of the notebooks, and slack."""
    steps = []
    for part in parts():
        what = part[0].note("Part: (.+)")
        if part[0].visited:
            cells = re.findall(r"^\d\. (.+)$", part[0].text, re.MULTILINE)
            question = re.search(r"\*\*Question\*\* (.+)", part[0].text)[1]
            section = f"*[[{part[0].visited.nickname}.section]]*"
            what += f", {section}: {'; '.join(cells)}. *{question}*"
        steps.append((length(part), filled(what), places(part)))
    return timed([*steps, (SLACK, "Slack: questions, the slowest machine", "")], "what", "slides")


def hands_on(seen: bool = False) -> list[tuple]:
    """Cores, breaks, one exercise for all; without what the lecture of the same day has shown."""
    steps = [(OPEN, "Open the notebook; how a section runs: predict, run, compare", "", "")]
    cores = [(each.nickname, core(each, seen)) for each in shown()]
    spare = 180 - OPEN - LAST - BREAK * (len(cores) - 1)
    slot = (spare - sum(part.minutes for _, each in cores for part in each)) // len(cores)
    for name, sections in cores:
        for_all = exercise(sections, slot)
        for part, tasks in sections.items():
            more = [f"{task.number} ({task.minutes})" for task in tasks if task != for_all]
            fast = f"exercise {', '.join(more)}" if more else ""
            steps.append((part.minutes, f"{part.number} {part.title}", name, fast))
            if for_all in tasks:
                what = f"all type exercise {for_all.number}: {for_all.title}"
                steps.append((slot, what, name, ""))
        steps.append((BREAK, "Break", "", ""))
    steps[-1] = (180 - sum(minutes for minutes, *_ in steps[:-1]), "What we saw; questions", "", "")
    return steps


def plan_of_180() -> str:
    """The hands-on without slides."""
    return timed(hands_on(), "what", "notebook", "fast pairs do")


def plan_of_a_day() -> str:
    """The lecture, a long break, and what the lecture has not shown of the cores."""
    before = [(90, "The lecture, by the plan above", "", ""), (LUNCH, "Lunch", "", "")]
    return timed(before + hands_on(seen=True), "what", "notebook", "fast pairs do")


def plans_of_one() -> str:
    """Ninety minutes for one of the models, side by side."""
    bound, *others = parts()
    columns = []
    for each in shown():
        at = next(k for k, part in enumerate(others) if part[0].visited == each)
        around = [others[at - 1], others[at + 1]]
        spent = length(bound) + sum(map(length, around)) + each.core_minutes
        task = exercise(core(each, seen=False), 90 - SLACK - spent)
        columns.append([
            f"{length(bound)} (slides {places(bound)})",
            f"{length(around[0])} (slides {places(around[0])})",
            f"{each.core_minutes}",
            f"{length(around[1])} (slides {places(around[1])})",
            f"{90 - SLACK - spent}" + (f" (exercise {task.number}: {task.title})" if task else ""),
            f"{SLACK}",
        ])  # fmt: skip
    what = [
        "the bound",
        "the model",
        "core of its notebook",
        "what we saw",
        "one exercise",
        "slack",
    ]
    rows = [list(row) for row in zip(what, *columns, strict=True)]
    return catalogue.table(["minutes for", *(each.topic for each in shown())], rows)


def summary() -> str:
    """How long the lecture is."""
    visits = sum(slide.minutes for slide in slides() if slide.visited)
    return (
        f"The lecture between the notebooks: {len(slides())} slides, {length(slides())} minutes, "
        f"{visits} of them in the notebooks."
    )
