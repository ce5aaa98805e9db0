"""What an instructor is told to do to make the course another's: each step is done here."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from course_utils import copies, progress
from slides import lecture
from tools import catalogue, fill_pages
from tools import student_version as student

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "yours.md").read_text(encoding="utf-8")
ALONE = "flows"


@pytest.mark.parametrize("page", ["yours.md", "feedback.md", "closed/polls.md", "closed/exam.md"])
def test_what_a_page_names_is_there(page):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    paths = re.findall(r"`((?:[\w.]+/)+[\w.]+)`", text)
    places = [path for path in paths if not path.startswith("build/")]
    assert [path for path in places if not (ROOT / path).exists()] == []
    links = re.findall(r"\]\((?!#|https?:)([^)#]+)", text)
    assert [
        link for link in links if not (ROOT / "docs" / page).parent.joinpath(link).exists()
    ] == []


@pytest.mark.skipif(os.name == "nt" or not shutil.which("git"), reason="a command of a shell")
def test_one_command_changes_the_title_and_leaves_the_credits(tmp_path):
    (command,) = re.findall(r"^git grep .+$", PAGE, re.MULTILINE)
    old, new = re.search(r"s/(.+?)/(.+?)/", command).groups()
    done = subprocess.run(["git", "clone", "-q", ROOT, tmp_path / "mine"], capture_output=True)
    if done.returncode:
        pytest.skip("this copy of the course is no clone")
    mine = tmp_path / "mine"
    kept = {name: (mine / name).read_bytes() for name in ("LICENSE-CONTENT", "CITATION.cff")}
    subprocess.run(["bash", "-c", command], cwd=mine, check=True)
    sources = [f"notebooks/{name}.py" for name in catalogue.files()]
    for name in [
        *sources,
        "notebooks/START.md",
        "README.md",
        "slides/lecture.md",
        "slides/theme.css",
    ]:
        text = (mine / name).read_text(encoding="utf-8")
        assert new in text and old not in text, name
    assert all((mine / name).read_bytes() == text for name, text in kept.items())


def test_one_notebook_alone_is_handed_out(tmp_path):
    student.write(tmp_path)
    name, folder = catalogue.find(ALONE).file, tmp_path / "notebooks"
    for path in folder.glob("*.ipynb"):
        path.stem == name or path.unlink()
    page = (folder / "START.md").read_text(encoding="utf-8").splitlines(keepends=True)
    others = [each for each in catalogue.files() if each != name]
    rows = [line for line in page if not any(f"({each}.ipynb)" in line for each in others)]
    (folder / "START.md").write_text("".join(rows), encoding="utf-8")
    assert copies.make(tmp_path) == [f"{name}.ipynb: new"]
    start = (tmp_path / "work" / "START.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", start)
    assert f"{name}.ipynb" in links
    assert [link for link in links if not (tmp_path / "work" / link).exists()] == []
    assert {task.notebook for task in progress.tasks(course=tmp_path)} == {name}


def test_another_order_is_an_exchange_in_the_catalogue(tmp_path, monkeypatch):
    head, *parts = re.split(
        r"(?=^\[\[notebook\]\])", catalogue.CATALOGUE.read_text("utf-8"), flags=re.M
    )
    (one,), (other,) = (
        [n for n, part in enumerate(parts) if f'nickname = "{name}"' in part]
        for name in ("vae", "flows")
    )
    parts[one], parts[other] = parts[other], parts[one]
    (tmp_path / "catalogue.toml").write_text(head + "".join(parts), encoding="utf-8")
    monkeypatch.setattr(catalogue, "CATALOGUE", tmp_path / "catalogue.toml")
    rows = re.findall(r"^\| (\d+)\. \[.+?\]\((\w+)", fill_pages.start_page(), re.MULTILINE)
    assert [name for _, name in rows] == catalogue.files()
    assert catalogue.files()[one] == catalogue.find("flows").file
    for page in fill_pages.PAGES:
        fill_pages.filled(page)


@pytest.mark.parametrize(
    ("loads", "marker"),
    [(r"load_mnist\(", "CC BY-SA 3.0"), (r"load_wine_quality\(|TABLE = .red wine", "credit for")],
)
def test_every_picture_of_others_data_has_its_licence(loads, marker):
    """Notebooks and slides with such pictures are named in the row of their licence."""
    text = (ROOT / "LICENSE-CONTENT").read_text(encoding="utf-8")
    text = text.split("which licence:\n\n")[1].split("\n\n")[0]
    (row,) = [row for row in re.split(r"(?m)^(?=    (?:pictures|all) )", text) if marker in row]
    for each in catalogue.load():
        code = each.source.read_text(encoding="utf-8")
        loaded = bool(re.search(loads, code))
        assert loaded == (each.file in row), each.file
        taken = f"({each.nickname}/" in lecture.SOURCE.read_text(encoding="utf-8")
        assert (taken and loaded) >= (f" {each.nickname}/" in row), each.nickname
    assert re.search(r" \w+/(\s|,)", row)  # some pictures on the slides
