"""Polls and examination: complete, right, traceable, and kept from those who are asked."""

import doctest
import re
from pathlib import Path

import pytest

from tools import build_site, catalogue
from tools import student_version as student

CLOSED = Path(__file__).resolve().parents[1] / "docs" / "closed"
PAGES = sorted(CLOSED.glob("*.md"))
FORM = CLOSED.parent / "feedback.md"
SOURCE = re.compile(r"`(\w+)`, \*(\d+) ([^*]+)\*")
SECTIONS = {(e.file, str(s.number), s.title) for e in catalogue.load() for s in e.sections}


def questions(name: str) -> dict[str, str]:
    """The questions of a page, by their titles."""
    _, *parts = re.split(r"^## (\d+\. .+)\n", (CLOSED / name).read_text("utf-8"), flags=re.M)
    return dict(zip(parts[::2], parts[1::2], strict=True))


POLLS, EXAM = questions("polls.md"), questions("exam.md")


@pytest.mark.parametrize("page", [*PAGES, FORM], ids=lambda path: path.name)
def test_the_numbers_of_the_answers_are_computed(page):
    done = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert done.failed == 0 and done.attempted >= 2


@pytest.mark.parametrize("text", [*POLLS.values(), *EXAM.values()], ids=[*POLLS, *EXAM])
def test_a_question_comes_from_sections_that_exist(text):
    (line,) = re.findall(r"^\*From:\* (.+)$", text, re.MULTILINE)
    named = SOURCE.findall(line)
    assert "; ".join(f"`{f}`, *{n} {t}*" for f, n, t in named) == line
    assert {*named} <= SECTIONS


def test_every_notebook_of_the_lecture_is_asked_for():
    for page in (POLLS, EXAM):
        named = {file for text in page.values() for file, _, _ in SOURCE.findall(text)}
        assert {catalogue.find(name).file for name in ("wine", "vae", "flows")} <= named


@pytest.mark.parametrize("text", POLLS.values(), ids=POLLS)
def test_a_poll_has_one_right_answer_and_a_reason_for_each_other(text):
    assert re.findall(r"^- \*\*(\w)\*\* \S", text, re.MULTILINE) == [*"ABCD"]
    shown, _, folded = text.partition("<details>")
    (right,) = re.findall(r"^\*\*([A-D])\.\*\* \S", folded, re.MULTILINE)
    assert re.findall(r"^- ([A-D]): \S", folded, re.MULTILINE) == [c for c in "ABCD" if c != right]


def test_there_are_twelve_polls_and_whoever_always_says_the_same_is_wrong():
    right = [re.search(r"^\*\*([A-D])\.\*\*", text, re.M)[1] for text in POLLS.values()]
    assert len(right) == 12 and max(map(right.count, "ABCD")) <= 4


def test_the_points_of_the_steps_make_those_of_the_questions():
    assert len(EXAM) == 8
    head = (CLOSED / "exam.md").read_text("utf-8").split("\n## ")[0]
    table = [int(points) for points in re.findall(r"^\| \d \| (\d+) \|", head, re.MULTILINE)]
    promised = [int(re.search(r"\((\d+) points\)$", title)[1]) for title in EXAM]
    for text, points in zip(EXAM.values(), promised, strict=True):
        _, answer = text.split("### Model answer")
        assert sum(map(int, re.findall(r"\((\d) points?\b[^)]*\)", answer))) == points
    assert table == promised and f" {sum(promised)} points," in head


def test_students_get_neither(tmp_path):
    """Nor do they find them on the web site, which reads what is laid out here."""
    student.write(tmp_path / "student")
    build_site.lay_out(tmp_path / "site")
    settings: dict = {"__file__": str(build_site.DOCS / "conf.py")}
    exec((build_site.DOCS / "conf.py").read_text("utf-8"), settings)
    patterns = settings["include_patterns"]
    read = [path for pattern in patterns for path in (tmp_path / "site").glob(pattern)]
    given = [path for path in (tmp_path / "student").rglob("*") if path.is_file()]
    assert tmp_path / "site" / "docs" / "student.md" in read
    for page in PAGES:
        assert page.name not in {path.name for path in [*read, *given]}
