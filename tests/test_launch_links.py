"""The launch badges of the README."""

import re
import sys
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from tools import catalogue, launch_links

ROOT = Path(__file__).resolve().parents[1]
BADGE = re.compile(r"^\[!\[(Open on .+?)\]\(https://.+?\)\]\((https?://[^)]+)\)$", re.MULTILINE)


@pytest.fixture
def write(tmp_path, monkeypatch):
    """The tool, writing into a copy of the README; returns what is there afterwards."""
    path = tmp_path / "README.md"
    path.write_bytes((ROOT / "README.md").read_bytes())
    monkeypatch.setattr(launch_links, "ROOT", tmp_path)

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["launch_links", *arguments])
        launch_links.main()
        return path.read_text(encoding="utf-8")

    return run


def test_badges_lead_to_files_of_this_repository(write):
    labels, addresses = zip(*BADGE.findall(write("someone/some.course")), strict=True)
    assert len(set(labels)) == len(labels)  # each says in words what it opens
    binder, puller, *colab = map(urlsplit, addresses)
    assert (binder.netloc, binder.path) == ("mybinder.org", "/v2/gh/someone/some.course/main")
    (path,) = parse_qs(binder.query)["urlpath"]
    assert (ROOT / path.removeprefix("lab/tree/")).is_file()
    query = parse_qs(puller.query)
    assert query["repo"] == ["https://github.com/someone/some.course"]
    assert query["urlpath"] == [f"lab/tree/some.course/{path.removeprefix('lab/tree/')}"]
    opened = [unquote(url.path).removeprefix("/github/someone/some.course/") for url in colab]
    assert opened == [f"blob/main/notebooks/{name}.ipynb" for name in catalogue.files()]


def test_another_call_replaces_and_changes_nothing_else(write):
    before = (ROOT / "README.md").read_text(encoding="utf-8")
    once = write("someone/course")
    assert write("someone/course") == once
    text = write("other/course", "--branch", "term/2027", "--hub", "https://hub.example.org/")
    assert "someone" not in text and "other/course/term%2F2027?" in text
    assert "https://hub.example.org/hub/user-redirect/git-pull?repo=" in text
    assert "git clone --depth 1 https://github.com/other/course " in text
    added = set(text.splitlines()) - set(before.splitlines())
    assert all("other/course" in line or "hub.example.org" in line for line in added)


MALFORMED = ["", "name", "a/b/c", "/name", "owner/", "-o/name", "o--o/name", "owner/..",
             "owner/name.git", "https://github.com/owner/name", "owner/na me", "owner/name?x",
             "owner/name)", "öwner/name", "owner/name\n"]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--", name), "owner/name of a GitHub repository is needed") for name in MALFORMED]
    + [(("o/n", "--branch", "a b"), "the name of a branch is needed")]
    + [
        (("o/n", "--hub", hub), "the address of a JupyterHub is needed")
        for hub in ("hub.example.org", "ftp://hub.example.org", "https://")
    ],
)
def test_what_cannot_be_part_of_an_address_is_refused(write, arguments, message):
    with pytest.raises(SystemExit, match=f"^course: {message}"):
        write(*arguments)
    assert (launch_links.ROOT / "README.md").read_bytes() == (ROOT / "README.md").read_bytes()
