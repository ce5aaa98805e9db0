"""Where the course is published: one command writes it down, and what follows from it."""

import re
import sys
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from tools import catalogue, fill_pages, launch_links

FILES = ("README.md", "CITATION.cff", "notebooks/catalogue.toml")
BADGE = re.compile(r"^\[!\[(Open .+?)\]\(https://.+?\)\]\((https?://[^)]+)\)$", re.MULTILINE)


def texts(folder) -> dict[str, str]:
    return {name: (folder / name).read_text(encoding="utf-8") for name in FILES}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """The tool, or without arguments its undoing, in a copy; returns what the files then hold."""
    (tmp_path / "notebooks").mkdir()
    for name in FILES:
        (tmp_path / name).write_bytes((catalogue.ROOT / name).read_bytes())
    monkeypatch.setattr(catalogue, "CATALOGUE", tmp_path / FILES[-1])
    monkeypatch.setattr(fill_pages, "ROOT", tmp_path)
    monkeypatch.setattr(fill_pages, "PAGES", {f: fill_pages.PAGES[f] for f in FILES[:2]})

    def run(*arguments: str) -> dict[str, str]:
        monkeypatch.setattr(sys, "argv", ["launch_links", *arguments])
        if arguments:
            launch_links.main()
        else:
            launch_links.publish(repository="", branch="main", hub="")
            fill_pages.main()
        return texts(tmp_path)

    return run


def test_badges_lead_to_the_first_page_and_to_the_notebooks(write):
    readme = write("someone/some.course")["README.md"]
    opened = dict(BADGE.findall(readme))  # each says in words of its own what it opens
    binder, space, puller, *colab = opened.values()
    assert binder == "https://mybinder.org/v2/gh/someone/some.course/main?urlpath=course"
    assert space == "https://codespaces.new/someone/some.course/tree/main"
    query = parse_qs(urlsplit(puller).query)
    assert query["repo"] == ["https://github.com/someone/some.course"]
    assert query["urlpath"] == ["course?folder=some.course"]
    tagged = f"github/someone/some.course/blob/v{catalogue.version()}/notebooks"
    files = [f"https://colab.research.google.com/{tagged}/{f}.ipynb" for f in catalogue.files()]
    assert colab == files


def test_another_call_replaces_and_changes_nothing_else(write):
    before = write()
    assert not BADGE.search(before["README.md"])
    assert write("someone/course") == write("someone/course")
    branch, hub = "term/2027", "https://hub.example.org/"
    after = write("other/course", "--branch", branch, "--hub", hub)
    assert catalogue.published() == ("other/course", branch, hub)
    assert "other/course/term%2F2027?" in after["README.md"]
    assert f"{hub}hub/user-redirect/git-pull?repo=" in after["README.md"]
    citation = yaml.safe_load(after["CITATION.cff"])
    assert citation["repository-code"] == "https://github.com/other/course"
    assert citation["url"] == "https://other.github.io/course/"
    assert "someone" not in "".join(after.values())
    assert write() == before


MALFORMED = ["", "name", "a/b/c", "/name", "owner/", "-o/name", "o--o/name", "owner/..",
             "owner/name.git", "https://github.com/owner/name", "owner/na me", "owner/name?x",
             "owner/name)", "öwner/name", "owner/name\n"]  # fmt: skip
NO_HUB = ["hub.example.org", "ftp://hub.example.org", "https://", 'https://a"b', "https://a/)"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--", name), "owner/name of a GitHub repository is needed") for name in MALFORMED]
    + [(("o/n", "--branch", "a b"), "the name of a branch is needed")]
    + [(("o/n", "--hub", hub), "the address of a JupyterHub is needed") for hub in NO_HUB],
)
def test_what_cannot_be_part_of_an_address_is_refused(write, tmp_path, arguments, message):
    before = texts(tmp_path)
    with pytest.raises(SystemExit, match=f"^course: {message}"):
        write(*arguments)
    assert texts(tmp_path) == before
