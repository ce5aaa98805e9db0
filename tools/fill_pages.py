"""Fill the parts of pages that follow from stored data.

python -m tools.fill_pages
"""

from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, urlencode

from benchmarks import classes, measure, report
from binder import rehearse
from slides import lecture
from tools import catalogue, platforms
from tools.catalogue import Notebook, Published, table
from tools.marked import fill

ROOT = Path(__file__).resolve().parents[1]
BADGES = "launch badges"  # of the README
IMAGES = (  # Binder, Codespaces, a JupyterHub, Colab
    "https://mybinder.org/badge_logo.svg",
    "https://github.com/codespaces/badge.svg",
    "https://img.shields.io/badge/JupyterHub-open-orange?logo=jupyter",
    "https://colab.research.google.com/assets/colab-badge.svg",
)
UNPUBLISHED = """Binder, Codespaces, Colab and a Hub need an address. Once the course is published,
`make links REPO=owner/name` puts their badges on top of this page."""
TIMES = ["core", "all of it", "exercises", "computing"]


def times(each: Notebook) -> list[str]:
    return [
        f"{each.core_minutes}\u00a0min",
        f"{each.minutes}\u00a0min",
        f"{each.exercise_minutes}\u00a0min",
        catalogue.computing(each),
    ]


def overview(link: str = "`{0}`") -> str:
    """Names, levels and times; without links, for readers who open copies of their own."""
    rows = [
        [f"{link.format(each.file)}: {each.topic}", each.level, *times(each)]
        for each in catalogue.load()
    ]
    return table(["notebook", "level", *TIMES], rows)


def start_page() -> str:
    """What a student does in each notebook, and how long it takes."""
    rows = [
        [f"{number}. [{each.title}]({each.file}.ipynb)", each.promise, *times(each)]
        for number, each in enumerate(catalogue.load())
    ]
    return table(["notebook", "what you do", *TIMES], rows)


def addresses(published: Published) -> dict[str, str]:
    """What opens the course elsewhere: the words of a badge, and where it leads."""
    repository, branch, hub = published
    words, puller = "Open on a JupyterHub", f"{hub.rstrip('/')}/hub/user-redirect/git-pull"
    if not hub:  # a page that makes the link for it
        words = "Open on your JupyterHub"
        puller = "https://nbgitpuller.readthedocs.io/en/latest/link.html"
    folder = repository.split("/")[1]  # where nbgitpuller puts it
    pull = {"repo": published.address, "branch": branch, "urlpath": f"course?folder={folder}"}
    binder = f"https://mybinder.org/v2/gh/{repository}/{quote(branch, safe='')}?urlpath=course"
    # The tag is the one from which a notebook's first cell fetches the course.
    colab = f"https://colab.research.google.com/github/{repository}/blob/v{catalogue.version()}"
    return {
        "Open on Binder": binder,
        "Open in GitHub Codespaces": f"https://codespaces.new/{repository}/tree/{branch}",
        words: f"{puller}?{urlencode(pull)}",
    } | {
        f"Open on Colab: {each.topic}": f"{colab}/notebooks/{each.file}.ipynb"
        for each in catalogue.load()
    }


def badges(published: Published) -> str:
    """Pictures that open the course elsewhere: none before it is published."""
    found = addresses(published) if published.repository else {}
    pairs = zip(found.items(), IMAGES + IMAGES[-1:] * len(found), strict=False)
    return "\n".join(f"[![{words}]({image})]({address})" for (words, address), image in pairs)


def routes(published: Published) -> str:
    """The same as words, with what to expect; or how to come by them."""
    if not published.repository:
        return UNPUBLISHED
    binder, space, hub, *colab = addresses(published).values()
    notebooks = zip(catalogue.load(), colab, strict=True)
    alone = ", ".join(f"[{each.nickname}]({address})" for each, address in notebooks)
    own = "copy the course to your folder on the Hub"
    rows = [
        ["GitHub Pages", f"[read the course]({published.site})"],
        ["Binder", f"[open the start page]({binder}); what you type is lost when you leave"],
        ["Codespaces", f"[make a machine of your own]({space}), with the course in VS Code"],
        ["JupyterHub", f"[{own if published.hub else 'make the link for your Hub'}]({hub})"],
        ["Colab", f"open one notebook: {alone}; its first cell fetches the rest"],
    ]
    return table(["online", "what you do"], rows)


def cited(published: Published) -> str:
    """The course's address for CITATION.cff, as soon as there is one."""
    address, site = published.address, published.site
    return f"repository-code: {address}\nurl: {site}" if address else ""


def guide() -> dict[str, str]:
    """The plans; per notebook its sections with their minutes, and its exercises."""

    def row(part: catalogue.Section | catalogue.Exercise, mark: str = "") -> list[str]:
        return [f"{mark}{part.number} {part.title}{mark}", str(part.minutes)]

    def parts(each: Notebook) -> str:
        sections = [row(part, "**" if part.core else "") for part in each.sections]
        tasks = table(["exercise", "minutes"], [row(task) for task in each.exercises])
        return f"{table(['section', 'minutes'], sections)}\n\n{tasks}"

    plans = {
        "plan of 90 minutes": lecture.plan_of_90(),
        "plan of 180 minutes": lecture.plan_of_180(),
        "plan of a day": lecture.plan_of_a_day(),
        "plans of one model": lecture.plans_of_one(),
    }
    return plans | {f"{each.nickname} minutes": parts(each) for each in catalogue.load()}


PAGES: dict[str, Callable[[], dict[str, str]]] = {
    "README.md": lambda: {
        BADGES: badges(catalogue.published()),
        "notebooks": overview("[`{0}`](notebooks/{0}.ipynb)"),
        "routes online": routes(catalogue.published()),
        "platforms": platforms.page(platforms.load()),
        "measured": report.overview(report.load()),
    },
    "CITATION.cff": lambda: {"address": cited(catalogue.published())},
    "benchmarks/RESULTS.md": lambda: report.results(report.load()),
    "benchmarks/SEEDS.md": lambda: report.seeds(measure.load("seeds")),
    "benchmarks/CLASSROOM.md": classes.rehearsal,
    "binder/README.md": rehearse.measured,
    "docs/classes.md": classes.page,
    "docs/student.md": lambda: {"notebooks": overview()},
    "docs/instructor.md": guide,
    "docs/slides.md": lambda: {"summary": lecture.summary()},
    "notebooks/START.md": lambda: {"notebooks": start_page()},
}


def filled(page: str) -> str:
    """The text of a page with its generated parts made anew."""
    return fill((ROOT / page).read_text(encoding="utf-8"), PAGES[page]())


def main() -> None:
    for page in PAGES:
        (ROOT / page).write_text(filled(page), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
