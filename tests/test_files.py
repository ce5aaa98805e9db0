"""Files of the course: damaged, missing, and downloaded under every trouble; loopback only."""

import hashlib
import os
import shutil
import signal
import socketserver
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from course_utils.data import DATA_DIR, SOURCES, Source, files, load_wine_quality, locate
from tests.bad_input import JUNK, raising, refusals

CONTENT = b"0;1\n" * 5000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
NAME, BUNDLED = "winequality-white.csv", "winequality-red.csv"
linux = pytest.mark.skipif(sys.platform != "linux", reason="names devices and signals of Linux")

OK = b"HTTP/1.0 200 OK\r\n"
WHOLE = OK + f"Content-Length: {len(CONTENT)}\r\n\r\n".encode() + CONTENT
PAGES = {  # what is sent before the connection is closed
    "whole": WHOLE,
    "slow": WHOLE[:2000],
    "half": WHOLE[:2000],
    "gzip": OK + b"Content-Encoding: gzip\r\n\r\nno gzip",
    "empty": OK + b"\r\n",
    "wrong": OK + b"\r\n<html>",
    "loop": b"HTTP/1.0 302 Found\r\nLocation: /loop\r\n\r\n",
    "gone": b"HTTP/1.0 404 Not Found\r\n\r\n",
    "dropped": b"",
}

test_a_bad_name_is_refused = refusals(
    (locate, {"name": BUNDLED}, {"name": [*JUNK, "", "rose.csv", "../README.md", "mnist.npz "]})
)


class Server(socketserver.StreamRequestHandler):
    """Sends the pages, and stops in the middle of /slow."""

    def handle(self):
        request = iter(self.rfile.readline, b"\r\n")
        page = next(request).split()[1].decode().strip("/")
        list(request)  # the rest of it
        self.wfile.write(PAGES[page])
        if page == "slow":
            self.server.halfway.set()
            self.rfile.read()  # until the other side is gone


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """A server; ``path`` is the cache's file, ``choose(page)`` says where it is to come from."""
    path = tmp_path / "cache" / NAME
    monkeypatch.setenv("COURSE_DATA_DIR", str(path.parent))

    def choose(page):
        url = page if "//" in page else f"http://127.0.0.1:{server.server_address[1]}/{page}"
        monkeypatch.setitem(SOURCES, NAME, Source(url, DIGEST, bundled=False))
        return url

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Server) as server:
        server.path, server.choose, server.halfway = path, choose, threading.Event()
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.skipif(not shutil.which("git") or os.name == "nt", reason="pastes git into a shell")
@pytest.mark.parametrize("end", [None, 0, 100, -1])
def test_a_damaged_file_of_the_course_is_named_kept_and_restored(tmp_path, monkeypatch, end):
    """Outside of a clone, tests/test_self_check.py looks at the remedy."""
    path = tmp_path / "my course" / "data" / BUNDLED
    path.parent.mkdir(parents=True)
    shutil.copy(DATA_DIR / BUNDLED, path)
    user = ("-c", "user.name=A", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    for words in (("init", "-q"), ("add", "."), (*user, "commit", "-qm", "Begin")):
        subprocess.run(["git", *words], cwd=path.parents[1], check=True)
    monkeypatch.setattr(files, "DATA_DIR", path.parent)
    damaged, named = path.read_bytes()[:end], [str(path)]
    path.unlink()
    if end is not None:
        path.write_bytes(damaged)
        named += [SOURCES[BUNDLED].sha256, hashlib.sha256(damaged).hexdigest(), "altered"]
    with pytest.raises(FileNotFoundError if end is None else ValueError) as caught:
        load_wine_quality()
    message, _, remedy = str(caught.value).partition(" Remedy: ")
    assert all(part in message for part in named)
    assert end is None or path.read_bytes() == damaged  # the course's own is never removed
    subprocess.run(remedy, shell=True, cwd=tmp_path, check=True)
    load_wine_quality()


@pytest.mark.parametrize("folder", ["~/mydata", "$HOME/mydata"])
def test_a_folder_below_home_is_found_again(remote, monkeypatch, folder):
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(remote.path.parent))
    monkeypatch.setenv("COURSE_DATA_DIR", folder)
    for page in ("whole", "gone"):
        remote.choose(page)
        assert locate(NAME) == remote.path.parent / "mydata" / NAME


@pytest.mark.parametrize("altered", [b"", CONTENT[:-1], CONTENT + b"\0", b"1" + CONTENT[1:]])
def test_an_altered_download_is_named_and_removed(remote, monkeypatch, altered):
    remote.choose("gone")
    remote.path.parent.mkdir()
    remote.path.write_bytes(altered)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", raising(PermissionError("open in another program")))
        with pytest.raises(ValueError, match="altered.*Remedy: remove the file; call again"):
            locate(NAME)
    with pytest.raises(ValueError, match=f"{DIGEST}.*the file has been removed; call again"):
        locate(NAME)
    assert not remote.path.exists()
    with pytest.raises(FileNotFoundError, match="put the file there by hand"):
        locate(NAME)
    remote.path.write_bytes(CONTENT)  # what the message advises
    assert locate(NAME) == remote.path


@linux
@pytest.mark.parametrize(
    "folder", ["file", "file/deeper", "/dev/null/cache", "/proc/course", "n" * 300, "loop", "taken"]
)
def test_a_folder_that_cannot_hold_a_download_is_named(tmp_path, monkeypatch, folder):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "taken" / NAME).mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setenv("COURSE_DATA_DIR", str(tmp_path / folder))
    with pytest.raises(FileNotFoundError, match="COURSE_DATA_DIR chooses another") as caught:
        locate(NAME)
    assert str(tmp_path / folder / NAME) in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


NOBODY = ["http://127.0.0.1:9/x", "http://course.invalid/", "http://192.0.2.1/"]
WRONG = {"empty": hashlib.sha256(b"").hexdigest(), "wrong": hashlib.sha256(b"<html>").hexdigest()}


@pytest.mark.parametrize("page", ["gone", "half", "dropped", "loop", "gzip", *NOBODY, *WRONG])
def test_a_failed_download_names_path_source_and_remedy_and_leaves_nothing(remote, page):
    source = remote.choose(page)
    with pytest.raises(ValueError if page in WRONG else FileNotFoundError) as caught:
        locate(NAME)
    hashes = [DIGEST, WRONG[page]] if page in WRONG else []
    for part in (str(remote.path), source, "Remedy", *hashes):
        assert part in str(caught.value)
    assert not list(remote.path.parent.glob("*"))
    for later in ("whole", "gone"):  # once it is there, nobody is asked again
        remote.choose(later)
        assert locate(NAME) == remote.path and remote.path.read_bytes() == CONTENT


FETCH = """import sys
from course_utils import data
data.SOURCES[sys.argv[1]] = data.Source(*sys.argv[2:], bundled=False)
data.locate(sys.argv[1])"""


@linux
@pytest.mark.parametrize("how", ["SIGINT", "SIGKILL"])
def test_an_interrupted_download_is_no_file(remote, how):
    command = [sys.executable, "-c", FETCH, NAME, remote.choose("slow"), DIGEST]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert remote.halfway.wait(120)
    process.send_signal(getattr(signal, how))
    assert process.wait() and not remote.path.exists()
    assert how == "SIGKILL" or not list(remote.path.parent.glob("*"))
    remote.choose("whole")
    assert locate(NAME).read_bytes() == CONTENT
