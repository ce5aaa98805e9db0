"""The launch badges of the README."""

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from tests.requirements import with_make
from tools import launch_links as links

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def readme(tmp_path, monkeypatch):
    """A copy of the README, into which the tool writes."""
    path = tmp_path / "README.md"
    path.write_text((ROOT / "README.md").read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(links, "ROOT", tmp_path)
    return path


def write(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["links.py", *arguments])
    links.main()


def addresses(text: str) -> list[str]:
    """What the badges lead to."""
    return re.findall(r"\]\((https?://[^)]+)\)$", text, re.MULTILINE)


def test_badges_lead_to_files_of_this_repository(readme, monkeypatch):
    write(monkeypatch, "someone/some.course")
    binder, puller, *colab = addresses(readme.read_text(encoding="utf-8").split(links.END)[0])
    assert urlsplit(binder).netloc == "mybinder.org"
    assert urlsplit(binder).path == "/v2/gh/someone/some.course/main"
    (path,) = parse_qs(urlsplit(binder).query)["urlpath"]
    assert (ROOT / path.removeprefix("lab/tree/")).is_file()
    query = parse_qs(urlsplit(puller).query)
    assert query["repo"] == ["https://github.com/someone/some.course"]
    assert query["urlpath"] == [f"lab/tree/some.course/{path.removeprefix('lab/tree/')}"]
    files = [unquote(urlsplit(url).path).split("/blob/main/")[1] for url in colab]
    assert sorted(files) == sorted(f"notebooks/{p.name}" for p in ROOT.glob("notebooks/*.ipynb"))


def test_every_badge_says_in_words_what_it_does(readme, monkeypatch):
    write(monkeypatch, "someone/course")
    labels = re.findall(r"\[!\[(.*?)\]", readme.read_text(encoding="utf-8"))
    assert len(labels) == len(set(labels)) == 5 and all("Open on" in label for label in labels)


def test_again_changes_nothing_and_another_repository_replaces(readme, monkeypatch):
    before = readme.read_text(encoding="utf-8")
    write(monkeypatch, "someone/course")
    once = readme.read_text(encoding="utf-8")
    write(monkeypatch, "someone/course")
    assert readme.read_text(encoding="utf-8") == once
    write(monkeypatch, "other/course", "--branch", "term/2027", "--hub", "https://hub.example.org/")
    text = readme.read_text(encoding="utf-8")
    assert "someone" not in text and "other/course/term%2F2027?" in text
    assert "https://hub.example.org/hub/user-redirect/git-pull?repo=" in text
    block = re.compile(f"{links.BEGIN}.*?{links.END}\n\n?", re.DOTALL)
    colab = "git clone --depth 1 https://github.com/"
    rest = block.sub("", text).replace(f"{colab}other/course ", f"{colab}OWNER/NAME ")
    assert colab in rest
    assert rest == links.name_for_colab(block.sub("", before), "OWNER/NAME")  # nothing else


@pytest.mark.parametrize(
    "repository",
    ["", "name", "a/b/c", "/name", "owner/", "-o/name", "o--o/name", "owner/..", "owner/name.git",
     "https://github.com/owner/name", "owner/na me", "owner/name?x", "owner/name)", "öwner/name",
     "owner/name\n"],
)  # fmt: skip
def test_malformed_repository_is_refused(readme, monkeypatch, repository):
    before = readme.read_text(encoding="utf-8")
    with pytest.raises(SystemExit, match="course: owner/name of a GitHub repository is needed"):
        write(monkeypatch, "--", repository)
    assert readme.read_text(encoding="utf-8") == before


def test_malformed_branch_and_hub_are_refused(readme, monkeypatch):
    with pytest.raises(SystemExit, match="the name of a branch is needed"):
        write(monkeypatch, "o/n", "--branch", "a b")
    for hub in ("hub.example.org", "ftp://hub.example.org", "https://"):
        with pytest.raises(SystemExit, match="the address of a JupyterHub is needed"):
            write(monkeypatch, "o/n", "--hub", hub)


def test_half_a_pair_of_markers_is_refused(readme, monkeypatch):
    readme.write_text(f"# Title\n{links.BEGIN}\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="do not form a pair"):
        write(monkeypatch, "o/n")


@with_make
def test_make_passes_the_repository_on():
    command = [
        "make",
        "--dry-run",
        "--no-print-directory",
        "links",
        "REPO=o/n",
        "HUB=https://h.org",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "tools/links.py --hub https://h.org -- o/n" in done.stdout.replace('"', "")
    done = subprocess.run(["make", "links"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode and "make links REPO=owner/name" in done.stderr
