"""The JupyterHub of a rehearsal, as ``binder/jupyterhub`` configures it, on loopback."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

if sys.platform == "win32":
    pytest.skip("JupyterHub does not run on Windows", allow_module_level=True)

import nbformat
import psutil
import requests
from websocket import WebSocketTimeoutException

from benchmarks import hub as rehearsal
from benchmarks.hub import Hub, Kernel, Student
from tests.requirements import need
from tools import npm
from tools.ports import wait_until

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.hub
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make accounts")


@pytest.fixture(scope="module")
def tools():
    need(shutil.which("node"), "no Node on this machine")
    need((npm.PACKAGES / ".bin" / "configurable-http-proxy").exists(), "no proxy: make node")
    # Nothing but true, where others may read all that they need; else a mount.
    if subprocess.run([*rehearsal.opened(), "true"], capture_output=True).returncode:
        pytest.skip("Python is below a folder that only root may enter, and mounts are forbidden")


@pytest.fixture(scope="module")
def hub(tools):
    with Hub(["anna", "bob", "dora"], small="dora") as running:
        yield running


@pytest.fixture(scope="module")
def anna(hub):
    return Student(hub, "anna").arrive()


@pytest.fixture(scope="module")
def bob(hub):
    return Student(hub, "bob").arrive()


@pytest.fixture
def kernel(anna):
    """The same one, connected anew: a server gives up who does not answer its pings."""
    return anna.open_kernel("first.ipynb")


def save(student: Student, text: str) -> requests.Response:
    """Save a notebook of one cell."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
    model = {"type": "notebook", "format": "json", "content": notebook}
    return student.api("PUT", "/api/contents/work.ipynb", json=model)


def test_a_server_runs_a_cell_with_one_thread(anna, kernel):
    ran = kernel.run("import os; print(os.environ['OMP_NUM_THREADS'], os.getcwd())")
    assert ran["text"] == f"1 {anna.hub.homes / anna.name}\n"
    assert kernel.run("1 / 0")["error"] == "ZeroDivisionError: division by zero"


def test_the_link_of_the_guide_pulls_the_course_and_opens_its_first_page(anna):
    page = (ROOT / "docs" / "classes.md").read_text(encoding="utf-8")
    link = urlsplit(re.search(r"https://\S+/hub/user-redirect/git-pull\?\S+", page)[0])
    asked = {name: value for name, [value] in parse_qs(link.query).items()}
    with rehearsal.served(ROOT) as ours:
        anna.pull(ours)
    opened = anna.api("GET", f"/{asked['urlpath']}")
    assert opened.ok and opened.url.endswith("/tree/course/work/START.md")
    assert anna.api("GET", "/api/contents/course/work/START.md").ok


@as_root
@pytest.mark.parametrize(("name", "password"), [("anna", "wrong"), ("anna", ""), ("eve", None)])
def test_refused_at_the_door_with_a_message(hub, anna, name, password):
    stranger = Student(hub, name, anna.password if password is None else password)
    answer = stranger.ask_to_enter()
    assert answer.status_code == 403
    assert "Invalid username or password" in answer.text
    assert "/hub/login" in stranger.browser.get(f"{anna.address}/lab").url


@as_root
def test_an_account_outside_the_class_stays_outside(hub):
    mallory = Student(hub, "mallory")
    subprocess.run(["useradd", "--create-home", mallory.name], check=True)
    try:
        line = f"{mallory.name}:{mallory.password}\n"
        subprocess.run(["chpasswd"], input=line, text=True, check=True)
        assert mallory.ask_to_enter().status_code == 403
    finally:
        subprocess.run(["userdel", "--remove", mallory.name], capture_output=True, check=True)


def test_own_token_opens_no_other_door(anna, bob):
    header = {"Authorization": f"token {bob.token}"}
    assert requests.get(f"{anna.address}/api/contents", headers=header).status_code == 403
    assert bob.browser.get(f"{anna.address}/lab").status_code == 403
    assert bob.api("GET", "/hub/api/users").status_code == 403


@as_root
def test_code_reads_nobody_elses_files(hub, anna, bob, kernel):
    save(anna, "secret").raise_for_status()
    home = hub.homes / anna.name
    [server] = hub.processes(anna.name, "jupyterhub.singleuser")
    other = bob.open_kernel("curious.ipynb")
    other.run("import os")
    for attempt in (
        f"open({str(home / 'work.ipynb')!r}).read()",
        f"os.listdir({str(home)!r})",
        f"open({str(home / 'from_bob')!r}, 'w')",
        f"os.listdir({str(hub.folder)!r})",  # the Hub's own records
        f"open('/proc/{server.pid}/environ').read()",  # holds anna's token
        f"os.kill({server.pid}, 0)",
    ):
        error = other.run(attempt)["error"]
        assert error and error.startswith("PermissionError"), (attempt, error)
    assert other.run("open('own', 'w').write('x')")["error"] is None
    modes = "import os; print([oct(os.stat(name).st_mode) for name in ('.', 'work.ipynb')])"
    assert kernel.run(modes)["text"] == "['0o40700', '0o100600']\n"
    described = "from ipykernel.connect import get_connection_info as f; print(f(unpack=True))"
    assert "'transport': 'ipc'" in other.run(described)["text"]  # no port that others can listen to


@as_root
def test_an_account_that_was_there_before_is_left_alone(monkeypatch):
    monkeypatch.setattr(rehearsal, "account", lambda name: name)
    with pytest.raises(RuntimeError, match="left alone: nobody"):
        Hub(["nobody", "anna"])


@as_root
def test_accounts_are_made_only_where_that_is_asked_for(tools):
    with pytest.raises(subprocess.CalledProcessError, match="chpasswd"):  # there is nobody
        Hub(["carl"], CLASS_ACCOUNTS="").__enter__()


def test_without_root_it_promises_nothing_and_listens_on_loopback_alone(tools):
    with Hub(["erin"], root=False) as shared:
        assert "any password is right and everybody can read everything" in shared.log.read_text()
        student = Student(shared, "erin", password="whatever").arrive()
        assert student.open_kernel("a.ipynb").run("print(6 * 7)")["text"] == "42\n"
        processes = [*psutil.Process(shared.process.pid).children(), *shared.processes()]
        found = [place for each in processes for place in each.net_connections("inet")]
        assert {each.laddr.ip for each in found if each.status == "LISTEN"} == {"127.0.0.1"}


@as_root
def test_full_disk_is_refused_and_the_notebook_kept(hub):
    dora = Student(hub, "dora").arrive()
    save(dora, "kept").raise_for_status()
    large = save(dora, "x" * rehearsal.SMALL_MB * 2**20)
    filled = dora.open_kernel("fill.ipynb").run("open('big', 'wb').write(bytes(40_000_000))")
    assert "No space left on device" in filled["error"]
    for refused in (large, save(dora, "small")):
        assert "the disk is full" in refused.json()["message"]
    assert "kept" in (hub.small / "work.ipynb").read_text()  # to open it, make room first


def test_killed_kernel_is_announced_and_replaced(kernel):
    """As when memory runs out on the machine."""
    kernel.run("gone = 1")
    with pytest.raises(ConnectionAbortedError):
        kernel.run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")

    def answers() -> bool:  # what is sent before it listens is lost
        with contextlib.suppress(ConnectionAbortedError, WebSocketTimeoutException):
            return kernel.run("pass", patience=5)["error"] is None
        return False

    wait_until(answers, "an answer of the restarted kernel")
    assert kernel.run("gone")["error"] == "NameError: name 'gone' is not defined"


def test_killed_hub_finds_kernels_as_they_were(hub, anna, kernel):
    kernel.run("value = 42")
    os.killpg(hub.process.pid, signal.SIGKILL)  # the proxy is left behind
    hub.process.wait()
    hub.start()
    assert Kernel(kernel.url, anna.token).run("print(value)")["text"] == "42\n"
    assert anna.api("GET", "/api/contents").ok  # the token still holds


def test_killed_server_is_announced_and_replaced(hub, anna):
    save(anna, "kept").raise_for_status()
    [server] = hub.processes(anna.name, "jupyterhub.singleuser")
    server.kill()

    def offered() -> bool:
        page = anna.browser.get(f"{anna.address}/lab").text
        return "Your server is not running" in " ".join(page.split())

    wait_until(offered, "the page that says so")
    anna.start_server()
    assert not hub.processes(anna.name, "ipykernel_launcher"), "a kernel is left behind"
    saved = anna.api("GET", "/api/contents/work.ipynb").json()["content"]
    assert saved["cells"][0]["source"] == "kept"


def test_idle_servers_are_ended(hub, anna, bob):
    """Last, because it ends them all."""
    hub.stop()
    hub.setting["CLASS_IDLE_SECONDS"] = "2"
    hub.start()
    wait_until(lambda: not hub.processes(), "the end of the idle servers")
    assert anna.api("GET", anna.user).json()["server"] is None
