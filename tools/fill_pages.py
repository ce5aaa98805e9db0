"""Fill the parts of pages that follow from stored data.

python -m tools.fill_pages
"""

from collections.abc import Callable
from pathlib import Path

from benchmarks import classes, measure, report
from binder import rehearse
from slides import lecture
from tools import catalogue, mistakes
from tools.catalogue import Notebook, table
from tools.marked import fill

ROOT = Path(__file__).resolve().parents[1]


def overview(folder: str) -> str:
    """Names, levels and times, with links from a page in this folder."""
    head = ["notebook", "level", "reading and running", "exercises", "computing"]
    rows = [
        [
            f"[`{each.file}`]({folder}{each.file}.ipynb): {each.topic}",
            each.level,
            f"{each.minutes} min",
            f"{each.exercise_minutes} min",
            catalogue.computing(each),
        ]
        for each in catalogue.load()
    ]
    return table(head, rows)


def start_page() -> str:
    """What a student does in each notebook, and how long it takes."""
    rows = [
        [
            f"{number}. [{each.title}]({each.file}.ipynb)",
            each.promise,
            f"{each.minutes} min",
            f"{each.exercise_minutes} min",
            catalogue.computing(each),
        ]
        for number, each in enumerate(catalogue.load(), 1)
    ]
    return table(["notebook", "what you do", "reading and running", "exercises", "computing"], rows)


def guide() -> dict[str, str]:
    """The plans; per notebook its sections with their minutes, and its exercises."""

    def section(each: catalogue.Section) -> list[str]:
        title = f"{each.number} {each.title}"
        return [f"**{title}**" if each.core else title, str(each.minutes)]

    def parts(each: Notebook) -> str:
        sections = table(["section", "minutes"], [section(part) for part in each.sections])
        tasks = [[f"{t.number} {t.title}", str(t.minutes)] for t in each.exercises]
        return f"{sections}\n\n{table(['exercise', 'minutes'], tasks)}"

    plans = {f"plan of {length} minutes": lecture.plan(length) for length in (90, 180)}
    return plans | {f"{each.nickname} minutes": parts(each) for each in catalogue.load()}


PAGES: dict[str, Callable[[], dict[str, str]]] = {
    "README.md": lambda: {
        "notebooks": overview("notebooks/"),
        "measured": report.overview(report.load()),
    },
    "benchmarks/RESULTS.md": lambda: report.results(report.load()),
    "benchmarks/SEEDS.md": lambda: report.seeds(measure.load("seeds")),
    "benchmarks/CLASSROOM.md": classes.rehearsal,
    "binder/README.md": rehearse.measured,
    "docs/classes.md": classes.page,
    "docs/student.md": lambda: {"notebooks": overview("../notebooks/")},
    "docs/instructor.md": guide,
    "docs/slides.md": lambda: {"summary": lecture.summary()},
    "notebooks/START.md": lambda: {"notebooks": start_page()},
    "docs/mistakes.md": mistakes.page,
}


def filled(page: str) -> str:
    """The text of a page with its generated parts made anew."""
    return fill((ROOT / page).read_text(encoding="utf-8"), PAGES[page]())


def main() -> None:
    for page in PAGES:
        text = filled(page)
        (ROOT / page).write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
