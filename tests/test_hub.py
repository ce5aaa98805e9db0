"""The class's JupyterHub, as ``binder/jupyterhub`` configures it, on loopback."""

import http.server
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import requests

from tests.requirements import need

ROOT = Path(__file__).resolve().parents[1]


if sys.platform == "win32":
    pytest.skip("JupyterHub does not run on Windows", allow_module_level=True)
import students  # noqa: E402

from benchmarks import hub as hub_module
from benchmarks import incidents
from benchmarks.hub import (  # noqa: E402
    NEEDED,
    PROXY,
    Browser,
    Hub,
    Kernel,
    KernelDied,
    Student,
    page_text,
    readable,
    wait_until,
)  # fmt: skip

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give students Unix users")
TMPFS_MB = 20


@pytest.fixture(scope="module")
def tools():
    need(shutil.which("node"), "no Node on this machine")
    need(PROXY.exists(), "the proxy is not installed: npm ci in binder/jupyterhub")
    opened = [*readable(NEEDED), "true"]  # nothing but true, where others may read all of it
    if subprocess.run(opened, capture_output=True).returncode:  # such as inside a chroot
        pytest.skip(
            "Python is below a folder that only root may enter, which cannot be changed here"
        )


REPO = "https://example.org/owner/course"


@pytest.fixture(scope="module")
def hub(tools):
    setting = {"disk": "50M", "memory": "1G", "threads": 3, "repo": REPO}
    running = Hub(["Anna", "bob  # sits in front", "dora"], **setting)
    small = running.homes / "dora"  # her home is a disk of its own, if that is permitted
    small.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_MB}m", "tmpfs", str(small)]
    running.small_disk = not subprocess.run(mount, capture_output=True).returncode
    try:
        running.start()
        yield running
    finally:
        if running.small_disk:
            subprocess.run(["umount", "--lazy", str(small)], check=True)
        running.clear()


def enter(hub: Hub, name: str) -> Student:
    student = Student(hub, name)
    assert student.login().ok
    student.get_token()
    student.start_server()
    return student


@pytest.fixture(scope="module")
def anna(hub):
    return enter(hub, "Anna")


@pytest.fixture(scope="module")
def bob(hub):
    return enter(hub, "bob")


@pytest.fixture(scope="module")
def kernel(anna):
    return anna.open_kernel("first.ipynb")


# ------------------------------------------------------------------ nobody waits for ever


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(hub_module, "PATIENCE", 0.5)


@pytest.fixture
def slow_server():
    """Every answer begins at once, is kept alive with empty lines, and does not end."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            while not over.wait(0.05):
                self.wfile.write(b"\n" * 512)  # as many as are read at once

        def log_message(self, *_):
            pass

    over = threading.Event()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever).start()
    yield f"http://127.0.0.1:{server.server_port}"
    over.set()
    server.shutdown()
    server.server_close()


class Socket:
    """A websocket on which there is nothing but what ``sends`` returns."""

    def __init__(self, sends):
        self.sends = sends

    def settimeout(self, seconds):
        self.seconds = seconds

    def send(self, message):
        pass

    def recv_data(self, control_frame):
        assert control_frame  # else the library answers pings, and waits again
        return self.sends(self.seconds)


def silence(seconds):
    time.sleep(seconds)
    raise hub_module.websocket.WebSocketTimeoutException


def pings(seconds):
    time.sleep(0.05)
    return hub_module.websocket.ABNF.OPCODE_PING, b""


def restarting(seconds):
    time.sleep(0.05)
    status = '{"header": {"msg_type": "status"}, "content": {"execution_state": "restarting"}}'
    return hub_module.websocket.ABNF.OPCODE_TEXT, status.encode()


def kernel_with(sends) -> Kernel:
    kernel = Kernel.__new__(Kernel)
    kernel.socket, kernel.session = Socket(sends), "session"
    return kernel


@pytest.mark.parametrize("sends", [silence, pings])
def test_a_kernel_that_never_answers_is_given_up(impatient, sends):
    with pytest.raises(TimeoutError, match="not done within 0 seconds: 6 [*] 7"):
        kernel_with(sends).run("6 * 7", patience=0.3)
    with pytest.raises(TimeoutError, match="an answer of the restarted kernel"):
        incidents.wait_for(kernel_with(sends))


def test_a_kernel_that_always_restarts_is_given_up(impatient):
    with pytest.raises(KernelDied):
        kernel_with(restarting).run("6 * 7")
    with pytest.raises(TimeoutError, match="an answer of the restarted kernel"):
        incidents.wait_for(kernel_with(restarting))


def test_a_server_that_never_answers_is_given_up(impatient, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connected, but never served
        nobody = Hub([])
        nobody.url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        student = Student(nobody, "anna")
        for ask in (student.login, lambda: student.api("GET", "/hub/api"), student.start_server):
            with pytest.raises(requests.Timeout):
                ask()
        nobody.clear()


def test_events_that_never_end_are_given_up(impatient, slow_server):
    nobody = Hub([])
    nobody.url = slow_server
    with pytest.raises(TimeoutError, match="/hub/progress: not done within"):
        list(Student(nobody, "anna").events("/hub/progress"))
    nobody.clear()


def test_a_hub_that_does_not_end_is_killed_with_its_proxy(impatient):
    stubborn = Hub([])
    ignores = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    child = f'{ignores} print("ready", flush=True); time.sleep(60)'
    parent = f"{ignores} import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    command = [sys.executable, "-c", parent]
    stubborn.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert stubborn.process.stdout.readline() == "ready\n"
    with pytest.raises(TimeoutError, match="had to be killed"):
        stubborn.clear()
    assert stubborn.process.stdout.read() == ""  # it ends only when both have ended
    assert not stubborn.folder.exists()


def test_waiting_for_what_never_comes(impatient):
    with pytest.raises(TimeoutError, match="the moon"):
        wait_until(lambda: False, "the moon")


def test_no_request_without_a_deadline():
    """What is called on the module ``requests`` itself waits for ever."""
    for path in (ROOT / "benchmarks" / "hub.py", Path(__file__)):
        calls = re.findall(r"^.*requests\.(?:get|post|request)\(.*$", path.read_text("utf-8"), re.M)
        assert all("timeout=" in call for call in calls), calls


# ------------------------------------------------------------------ the class list


def class_list(folder: Path, text: str) -> Path:
    path = folder / "students.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_class_list_ignores_case_comments_and_blank_lines(tmp_path):
    text = "Anna\n\n# row 2\nbob # front\nlu-2\n"
    names = students.read_class(class_list(tmp_path, text))
    assert names == {"anna", "bob", "lu-2"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Anna\nbob\nanna\n", "lines 1 and 3: both students are 'anna'.*Remedy.*anna2"),
        ("../root\n", "line 1: '../root' is no name"),
        ("anna\nBoris Müller\n", "line 2: 'boris müller' is no name"),
        ("a" * 33, "at most 31"),
    ],
)
def test_class_list_that_the_hub_cannot_keep_apart(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        students.read_class(class_list(tmp_path, text))


def test_hub_does_not_start_with_two_students_of_one_name(tools):
    twins = Hub(["Anna", "anna"])
    with pytest.raises(RuntimeError, match="course: students.txt, lines 1 and 2: both students"):
        twins.start()
    twins.clear()


def test_hub_does_not_start_without_a_class_list(tools):
    empty = Hub([])
    (empty.folder / "students.txt").unlink()
    with pytest.raises(RuntimeError, match="course: .*students.txt is missing. Remedy: write one"):
        empty.start()
    empty.clear()


@as_root
def test_hub_does_not_start_where_students_cannot_read(tools):
    closed = Hub(["anna"])
    closed.folder.chmod(0o700)
    inner = closed.folder / "inner"
    shutil.copytree(closed.folder, inner, dirs_exist_ok=True)
    outer, closed.folder = closed.folder, inner
    with pytest.raises(RuntimeError, match=f"only its owner may enter {outer}. Remedy"):
        closed.start()
    shutil.rmtree(outer)


def test_who_is_not_root_is_told_that_students_are_not_apart(hub):
    told = "course: not started as root" in hub.log.read_text(encoding="utf-8")
    assert told == (os.geteuid() != 0)


def test_start_page_pulls_the_course_where_there_is_one():
    assert students.start_page(None) == "/lab"
    page = students.start_page("https://example.org/owner/course.git")
    assert page.startswith("/git-pull?repo=https%3A%2F%2Fexample.org%2Fowner%2Fcourse.git&")
    assert page.endswith("targetpath=course&urlpath=lab%2Ftree%2Fcourse%2Fnotebooks")


# ------------------------------------------------------------------ the door


@pytest.mark.parametrize(
    ("name", "password", "message"),
    [
        ("anna", "wrong horse", "Invalid username or password"),
        ("anna", "", "Invalid username or password"),
        ("ANNA", "wrong horse", "Invalid username or password"),
        ("bob", "short", "Password too short! Please choose a password at least 7"),
        ("bob", "x" * 100, "Password longer than 72 bytes"),
        ("anna", "x" * 100, "Password longer than 72 bytes"),
        ("eve", "correct horse", "Invalid username or password"),
        ("../bob", "correct horse", "Invalid username or password"),
        ("root", "correct horse", "Invalid username or password"),
        ("", "correct horse", "Invalid username or password"),
    ],
)
def test_refused_at_the_door_with_a_message(hub, anna, name, password, message):
    stranger = Student(hub, name, password)
    answer = stranger.login()
    assert answer.status_code == 403 and message in page_text(answer.text)
    assert Browser().get(f"{hub.url}/hub/home", cookies=stranger.browser.cookies).url != (
        f"{hub.url}/hub/home"
    )
    assert {home.name for home in hub.homes.iterdir()} <= {"anna", "bob", "dora"}


def test_form_without_its_token_is_refused(hub):
    fields = {"username": "anna", "password": "correct horse"}
    answer = Browser().post(f"{hub.url}/hub/login", data=fields)
    assert answer.status_code == 403


@pytest.mark.parametrize("token", [None, "", "nonsense"])
@pytest.mark.parametrize(
    "path", ["/user/anna/api/contents", "/hub/api/users", "/hub/api/users/anna"]
)
def test_missing_or_wrong_token_is_refused(hub, anna, token, path):
    headers = {} if token is None else {"Authorization": f"token {token}"}
    answer = Browser().get(hub.url + path, headers=headers)
    assert answer.status_code == 403
    assert re.search("Forbidden|Missing or invalid credentials", answer.json()["message"])


def test_page_without_login_leads_to_the_form(hub, anna):
    answer = Browser().get(f"{anna.home}/lab")
    assert answer.url.startswith(f"{hub.url}/hub/login") and "Sign in" in page_text(answer.text)


def test_two_spellings_are_one_student_with_one_home(hub, anna):
    again = Student(hub, "ANNA")
    assert again.login().ok
    assert [home.name for home in hub.homes.iterdir() if home.name.lower() == "anna"] == ["anna"]


# ------------------------------------------------------------------ an ordinary day


def test_server_and_kernel_run_a_cell(anna, kernel):
    assert kernel.run("print(6 * 7)")["text"] == "42\n"
    assert kernel.run("1 / 0")["error"] == "ZeroDivisionError: division by zero"


def test_server_opens_with_the_link_that_pulls_the_course(anna):
    page = anna.browser.get(f"{anna.home}/")
    assert page.url.startswith(anna.home + students.start_page(REPO))
    assert REPO in page.text


def test_lab_asks_nobody_for_news(anna):
    plugin = "@jupyterlab/apputils-extension:notification"
    schema = anna.api("GET", f"/lab/api/settings/{plugin}").json()["schema"]
    assert schema["properties"]["fetchNews"]["default"] == "false"


def test_link_pulls_the_course_into_the_home(anna, tmp_path):
    with served_repository(tmp_path) as address:
        anna.pull(address)
    got = anna.api("GET", "/api/contents/course/readme.txt").json()
    assert got["content"] == "pulled\n"


class served_repository:
    """A repository of one commit, served on loopback as the web would."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __enter__(self) -> str:
        from hub import serve_repository

        work = self.folder / "work"
        git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-C", str(work)]
        subprocess.run(["git", "init", "-q", "-b", "main", str(work)], check=True)
        (work / "readme.txt").write_text("pulled\n")
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "-q", "-m", "First"], check=True)
        self.server, address = serve_repository(work, self.folder)
        return address

    def __exit__(self, *_):
        self.server.terminate()  # not killed: it has a child, and tells it
        self.server.wait(60)


def test_thread_limit_reaches_the_kernel(kernel):
    assert kernel.run("import os; print(os.environ['OMP_NUM_THREADS'])")["text"] == "3\n"


def test_memory_limit_is_an_error_in_the_cell_and_the_kernel_goes_on(kernel):
    assert kernel.run("alive = 1; block = bytearray(1_200_000_000)")["error"].startswith("MemoryE")
    assert kernel.run("print(alive)")["text"] == "1\n"


MEMORY = """import pyro, torch
lines = dict(line.split(":") for line in open("/proc/self/status"))
print(*(int(lines[key].split()[0]) / 1e6 for key in ("VmData", "RssAnon", "VmSize")))"""


def test_the_memory_of_an_idle_kernel_is_what_the_page_says(anna):
    """In GB: what the limit counts, what the kernel has of its own, and its address space."""
    page = (ROOT / "binder" / "jupyterhub" / "README.md").read_text(encoding="utf-8")
    said = [float(gb) for gb in re.findall(r"about ([0-9.]+) GB", page)]
    measured = [float(gb) for gb in anna.open_kernel("imports.ipynb").run(MEMORY)["text"].split()]
    assert measured == pytest.approx(said, rel=0.4)


# ------------------------------------------------------------------ nobody reads another's files


def test_own_token_opens_no_other_door(hub, anna, bob):
    answer = Browser().get(
        f"{anna.home}/api/contents", headers={"Authorization": f"token {bob.token}"}
    )
    assert answer.status_code == 403
    page = bob.browser.get(f"{anna.home}/lab")
    assert page.status_code == 403
    assert "You do not have permission to access Server at /user/anna/" in page_text(page.text)
    users = bob.api("GET", "/hub/api/users")
    assert users.status_code == 403


@as_root
def test_code_reads_nobody_elses_files(hub, anna, bob, kernel):
    anna.save("secret.ipynb", incidents.notebook("secret")).raise_for_status()
    server = next(p for p in hub.student_processes("anna") if "ipykernel" not in str(p.cmdline()))
    forbidden = [
        f"open({str(hub.homes / 'anna' / 'secret.ipynb')!r}).read()",
        f"os.listdir({str(hub.homes / 'anna')!r})",
        f"os.listdir({str(hub.homes)!r})",
        f"os.listdir({str(hub.folder / 'private')!r})",
        f"open('/proc/{server.pid}/environ').read()",  # holds anna's token
        f"os.kill({server.pid}, 0)",
        f"open({str(hub.homes / 'anna' / 'from_bob')!r}, 'w')",
    ]
    other = bob.open_kernel("curious.ipynb")
    other.run("import os")
    for attempt in forbidden:
        error = other.run(attempt)["error"]
        assert error and error.startswith("PermissionError"), (attempt, error)
    assert (
        other.run("print(os.getuid(), os.getgroups())")["text"]
        != (kernel.run("import os; print(os.getuid(), os.getgroups())")["text"])
    )
    assert other.run("open('own', 'w').write('x')")["error"] is None
    described = "from ipykernel.connect import get_connection_info as f; print(f(unpack=True))"
    assert "'transport': 'ipc'" in other.run(described)["text"]  # no port that others can listen to


# ------------------------------------------------------------------ too large


def test_notebook_beyond_the_quota_is_refused_and_kept(anna):
    outcome = incidents.fill_disk(anna, megabytes=30)
    assert outcome["status"] >= 500
    assert re.search(
        r"work.ipynb was not saved: your disk space is full. Saving needs 60.0 MB, [345]\d.\d MB"
        " are free. The version saved last is unchanged",
        outcome["message"],
    )


def test_file_beyond_the_quota_is_an_error_in_the_cell(kernel):
    assert "File too large" in kernel.run("open('big', 'wb').write(bytes(60_000_000))")["error"]
    kernel.run("import os; os.remove('big')")


def test_full_disk_is_refused_and_the_notebook_kept(hub):
    if not hub.small_disk:
        pytest.skip("a small disk cannot be mounted here")
    dora = enter(hub, "dora")
    full = dora.open_kernel("fill.ipynb").run("open('big', 'wb').write(bytes(40_000_000))")
    assert "No space left on device" in full["error"]
    dora.open_kernel("fill.ipynb").run("import os; os.truncate('big', 12_000_000)")
    outcome = incidents.fill_disk(dora, megabytes=5)  # far below the quota
    assert re.search("work.ipynb was not saved: your disk .* [0-8].[0-9] MB", outcome["message"])


# ------------------------------------------------------------------ accidents


def test_killed_kernel_is_announced_and_replaced(kernel):
    kernel.run("gone = 1")
    assert incidents.kill_kernel(kernel)["message"] == "restarting"
    assert kernel.run("gone")["error"] == "NameError: name 'gone' is not defined"


def test_restarted_hub_finds_kernels_as_they_were(hub, anna, kernel):
    assert incidents.restart_hub(hub, anna, kernel)["message"] == "42"
    assert anna.api("GET", "/api/contents").ok  # the token still holds
    assert not Student(hub, "anna", "wrong horse").login().ok  # and so does the password


def test_killed_server_is_announced_and_replaced(hub, anna):
    outcome = incidents.kill_server(hub, anna)
    assert "Your server is not running. Would you like to start it?" in outcome["message"]
    assert not hub.kernels("anna")  # none is left behind without a server
    kept = anna.api("GET", "/api/contents/work.ipynb").json()["content"]["cells"]
    assert kept[0]["source"] == "kept"


def test_idle_servers_are_ended(hub, anna, bob):
    """Last, because it ends them all."""
    hub.stop()
    hub.setting["idle_seconds"] = 2
    hub.start()
    wait_until(lambda: not hub.student_processes(), "the end of the idle servers")
    assert "Culling server" in hub.log.read_text(encoding="utf-8")
    assert anna.api("GET", "/hub/api/users/anna").json()["server"] is None
