"""The notebooks of the course, as ``notebooks/catalogue.toml`` and the notebooks themselves say.

    python -m tools.catalogue

prints the names of the files, one a line, for scripts that go through all notebooks.
"""

import re
import tomllib
from pathlib import Path
from typing import NamedTuple

import nbformat

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
CATALOGUE = NOTEBOOKS / "catalogue.toml"
HEADING = re.compile(r"^## (\d+) (.+?)(?: · (?:core|deeper))?$", re.MULTILINE)
EXERCISE = re.compile(r"^### Exercise (\w+): (.+) \((\d+) minutes\)$", re.MULTILINE)
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


class Section(NamedTuple):
    """A numbered section of a notebook."""

    number: int
    title: str
    minutes: int  # to read and run
    core: bool = False  # part of the short path
    demo: bool = False  # shown in the lecture of 90 minutes


class Exercise(NamedTuple):
    """An exercise of a notebook."""

    number: str
    title: str
    minutes: int


class Notebook(NamedTuple):
    """What is known of a notebook without running it."""

    file: str  # without its ending
    nickname: str
    title: str
    topic: str
    level: str
    promise: str
    sections: list[Section]

    @property
    def source(self) -> Path:
        return NOTEBOOKS / f"{self.file}.py"

    @property
    def built(self) -> Path:
        return NOTEBOOKS / f"{self.file}.ipynb"

    @property
    def minutes(self) -> int:
        """To read and run all sections."""
        return sum(section.minutes for section in self.sections)

    @property
    def core_minutes(self) -> int:
        """To read and run the core."""
        return sum(section.minutes for section in self.sections if section.core)

    @property
    def exercises(self) -> list[Exercise]:
        """As their headings say."""
        text = re.sub(r"^# ?", "", self.source.read_text(encoding="utf-8"), flags=re.MULTILINE)
        return [Exercise(number, name, int(m)) for number, name, m in EXERCISE.findall(text)]

    @property
    def exercise_minutes(self) -> int:
        return sum(exercise.minutes for exercise in self.exercises)

    @property
    def seconds(self) -> dict[str, float]:
        """Per section the seconds that its cells took when the notebook was built."""
        metadata = nbformat.read(self.built, as_version=4).metadata if self.built.exists() else {}
        return metadata.get("course", {}).get("seconds", {})


class Published(NamedTuple):
    """Where the course is to be found; empty strings until ``make links`` has been told."""

    repository: str  # owner/name on GitHub
    branch: str
    hub: str  # address of a JupyterHub

    @property
    def address(self) -> str:
        return f"https://github.com/{self.repository}" if self.repository else ""

    @property
    def site(self) -> str:
        """Where GitHub Pages has the web site."""
        owner, _, name = self.repository.partition("/")
        return f"https://{owner}.github.io/{name}/" if self.repository else ""


def read() -> dict:
    """The catalogue as it is written."""
    return tomllib.loads(CATALOGUE.read_text(encoding="utf-8"))


def published() -> Published:
    """Where the course is published."""
    return Published(**read()["published"])


def version() -> str:
    """The version of the course; its release is tagged ``v`` and this."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["version"]


def load() -> list[Notebook]:
    """All notebooks, in the order of the course."""
    found = []
    for entry in read()["notebook"]:
        sections = [
            Section(number, title, **facts)
            for number, (title, facts) in enumerate(entry.pop("sections").items(), 1)
        ]
        found.append(Notebook(**entry, sections=sections))
    return found


def find(name: str) -> Notebook:
    """The notebook of a file name or nickname."""
    for notebook in load():
        if name in (notebook.file, notebook.nickname):
            return notebook
    raise SystemExit(f"course: {name!r} is no notebook. Remedy: one of {', '.join(files())}")


def files() -> list[str]:
    """File names of all notebooks, without their ending."""
    return [notebook.file for notebook in load()]


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def seconds(value: float | None) -> str:
    """A measured time for readers: whole seconds, because the next machine differs anyway."""
    if value is None:
        return ""
    return "under 1" if value < 1 else f"{value:.0f}"


def computing(notebook: Notebook) -> str:
    """What all cells together took."""
    return f"{max(1, round(sum(notebook.seconds.values()) / 60))}\u00a0min"


def timetable(notebook: Notebook, took: dict[str, float]) -> str:
    """Sections of a notebook with their minutes, and what their cells took, for its first page."""
    rows = [
        [
            f"{part.number} {part.title}",
            path(part),
            f"{part.minutes}",
            seconds(took.get(part.title)),
        ]
        for part in notebook.sections
    ]
    return table(["section", "path", "minutes to read and run", "seconds of computing"], rows)


def path(part: Section) -> str:
    """Which of the two ways through a notebook a section belongs to."""
    return "core" if part.core else "deeper"


def ways(notebook: Notebook) -> str:
    """The short way and the whole one, in a sentence."""
    core = (
        f"**Core:** {notebook.core_minutes} minutes. It needs none of the sections marked *deeper*"
    )
    count = len(notebook.exercises)
    words = NUMBERS[count] if count < len(NUMBERS) else str(count)
    what = "exercise takes" if count == 1 else f"{words} exercises take"
    return (
        f"{core}. All sections: {notebook.minutes} minutes. "
        f"The {what} another {notebook.exercise_minutes} minutes"
    )


if __name__ == "__main__":
    print(*files(), sep="\n")
