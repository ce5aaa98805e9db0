"""Start the class's JupyterHub on loopback, and act like a student's browser.

``tests/test_hub.py`` and ``benchmarks/classroom.py`` use it; nothing here belongs to a real class.
"""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import psutil
import requests
import websocket

ROOT = Path(__file__).resolve().parents[1]
BINDER = ROOT / "binder" / "jupyterhub"

import students  # noqa: E402

PROXY = BINDER / "node_modules" / ".bin" / "configurable-http-proxy"
NEEDED = [ROOT, Path(sys.prefix), Path(sys.base_prefix)]  # by every student
PATIENCE = float(os.environ.get("PATIENCE", 600))  # seconds; the machine may do other work


def wait_until(done: Callable[[], object], what: str) -> None:
    """Ask again until something is true; a TimeoutError says what never came."""
    end = time.monotonic() + PATIENCE
    while not done():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {PATIENCE:.0f} seconds")
        time.sleep(0.2)


def page_text(html: str) -> str:
    """The words that one of the Hub's pages shows."""
    return " ".join(re.sub(r"<script.*?</script>|<[^>]*>", " ", html, flags=re.DOTALL).split())


def serve_repository(repository: Path, folder: Path) -> tuple[subprocess.Popen, str]:
    """Serve a bare clone below a folder on loopback; returns the server and the address."""
    subprocess.run(
        ["git", "clone", "-q", "--bare", "--no-local", str(repository), str(folder / "course.git")],
        check=True,
    )
    [port] = free_ports(1)
    command = ["git", "daemon", "--listen=127.0.0.1", f"--port={port}", "--export-all"]
    command += [f"--base-path={folder}", str(folder)]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: listening(port), "an answer of git daemon")
    except TimeoutError:
        server.terminate()
        raise
    return server, f"git://127.0.0.1:{port}/course.git"


def listening(port: int) -> bool:
    """Whether somebody answers on a port of the loopback interface."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listens to."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def readable(paths: list[Path]) -> list[str]:
    """Words to put before a command, so that other Unix users can read these paths below it.

    A Python below ``/root``, as CI has it, is closed to students. Inside a mount namespace of its
    own the command sees, in place of the closed folder, one that holds nothing but the path. The
    machine itself stays as it is.

    Args:
        paths: What the students need.

    Returns:
        The words; none where nothing is closed or where this process is not root.
    """
    closed = {path.resolve(): students.closed_folder(path) for path in paths}
    closed = {path: folder for path, folder in closed.items() if folder}
    if os.geteuid() or not closed:
        return []
    lines = ["set -e"]
    for folder in set(closed.values()):
        lines.append('view=$(mktemp -d); chmod 711 "$view"')
        for path in (path for path, at in closed.items() if at == folder):
            at = f'"$view"/{shlex.quote(str(path.relative_to(folder)))}'
            lines.append(f"mkdir -p {at}; mount --bind {shlex.quote(str(path))} {at}")
        lines.append(f'mount --rbind "$view" {shlex.quote(str(folder))}')
    script = "\n".join([*lines, 'exec "$@"'])
    return ["unshare", "--mount", "--propagation=private", "sh", "-c", script, "sh"]


class Hub:
    """The committed configuration, with a class list, on free ports; ``setting`` without CLASS_."""

    def __init__(self, names: list[str], **setting):
        # Below /tmp itself, because students must be able to enter it.
        self.folder = Path(tempfile.mkdtemp(prefix="class-"))
        self.folder.chmod(0o711)
        self.homes = self.folder / "homes"
        (self.folder / "students.txt").write_text("\n".join(names) + "\n")
        self.setting = setting
        self.ports = free_ports(3)
        self.url = f"http://127.0.0.1:{self.ports[0]}"
        self.log = self.folder / "hub.log"
        self.process = None

    def launch(self) -> subprocess.Popen:
        """Start the process, without waiting for an answer."""
        public, hub, api = self.ports
        command = [
            *readable(NEEDED),
            *(sys.executable, "-m", "jupyterhub", f"--config={BINDER / 'jupyterhub_config.py'}"),
            *(f"--port={public}", f"--JupyterHub.hub_port={hub}"),
            f"--ConfigurableHTTPProxy.api_url=http://127.0.0.1:{api}",
        ]
        setting = {f"CLASS_{name.upper()}": str(value) for name, value in self.setting.items()}
        env = os.environ | {"CLASS_DIR": str(self.folder)} | setting
        with self.log.open("a") as log:
            return subprocess.Popen(
                command, cwd=self.folder, env=env, stdout=log, stderr=log, start_new_session=True
            )

    def start(self) -> float:
        """Start it, and wait until it answers; returns the seconds."""
        began = time.perf_counter()
        self.process = self.launch()
        while time.perf_counter() - began < PATIENCE:
            if self.process.poll() is not None:
                raise RuntimeError(self.log.read_text()[-3000:])
            try:
                if requests.get(f"{self.url}/hub/api", timeout=10).ok:
                    return time.perf_counter() - began
            except requests.RequestException:
                pass
            time.sleep(0.2)
        raise TimeoutError(self.log.read_text()[-3000:])

    def stop(self) -> None:
        """End the Hub and its proxy; students' servers go on."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            for each in psutil.Process(self.process.pid).children(recursive=True):
                each.kill()
            self.process.kill()
            self.process.wait(PATIENCE)
            log = self.log.read_text()[-3000:] if self.log.exists() else ""
            raise TimeoutError(f"the Hub had to be killed\n{log}") from None

    def clear(self) -> None:
        """End everything, and remove the homes."""
        try:
            if self.process and self.process.poll() is None:
                self.stop()
        finally:
            for process in self.student_processes():
                process.kill()
            shutil.rmtree(self.folder)

    def student_processes(self, name: str | None = None) -> list[psutil.Process]:
        """Servers and kernels of this Hub's students, or of one."""
        found = []
        for process in psutil.process_iter():
            try:
                env = process.environ()
            except psutil.Error:
                continue
            user = env.get("JUPYTERHUB_USER")
            mine = f":{self.ports[1]}/" in env.get("JUPYTERHUB_API_URL", "")
            if mine and user and name in (user, None):
                found.append(process)
        return found

    def kernels(self, name: str) -> list[psutil.Process]:
        """Kernels of a student."""
        return [
            each for each in self.student_processes(name) if "ipykernel_launcher" in each.cmdline()
        ]


class KernelDied(Exception):
    """The kernel ended while a cell was running."""


class Kernel:
    """A websocket to a kernel."""

    def __init__(self, url: str, token: str):
        self.url = url
        address = url.replace("http", "ws", 1) + "/channels"
        header = {"Authorization": f"token {token}"}
        self.socket = websocket.create_connection(address, header=header, timeout=PATIENCE)
        self.session = uuid.uuid4().hex

    def receive(self, end: float) -> dict | None:
        """The next message before a moment of ``time.monotonic``; None for a sign of life."""
        self.socket.settimeout(max(end - time.monotonic(), 0.01))
        kind, content = self.socket.recv_data(control_frame=True)
        return json.loads(content) if kind == websocket.ABNF.OPCODE_TEXT else None

    def run(self, code: str, patience: float | None = None) -> dict:
        """Execute; returns seconds, what was printed, and the error (None if there was none).

        Raises:
            KernelDied: When the server says so.
            TimeoutError: When the cell is not done after ``patience`` (``PATIENCE``) seconds. The
                server's regular pings do not count as answers.
        """
        patience = PATIENCE if patience is None else patience
        end = time.monotonic() + patience
        head = {"msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "version": "5.3"}
        head |= {"session": self.session, "username": "", "date": ""}
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False}
        message = {"header": head, "parent_header": {}, "metadata": {}, "content": content}
        began = time.perf_counter()
        self.socket.settimeout(patience)
        self.socket.send(json.dumps(message | {"channel": "shell", "buffers": []}))
        text, error, waiting = "", None, {"idle", "reply"}
        while waiting:
            try:
                got = self.receive(end)
            except websocket.WebSocketTimeoutException:
                got = None
            if time.monotonic() > end:
                raise TimeoutError(f"not done within {patience:.0f} seconds: {code[:80]}")
            if got is None:
                continue
            kind, content = got["header"]["msg_type"], got["content"]
            if kind == "status" and content["execution_state"] in ("restarting", "dead"):
                raise KernelDied(content["execution_state"])
            if got["parent_header"].get("msg_id") != head["msg_id"]:
                continue
            if kind == "stream" and content["name"] == "stdout":
                text += content["text"]
            elif kind == "error":
                error = f"{content['ename']}: {content['evalue']}"
            elif kind == "execute_reply":
                waiting.discard("reply")
            elif kind == "status" and content["execution_state"] == "idle":
                waiting.discard("idle")
        return {"seconds": time.perf_counter() - began, "text": text, "error": error}


class Browser(requests.Session):
    """Keeps cookies, and does not wait for ever."""

    def request(self, *arguments, **options) -> requests.Response:
        return super().request(*arguments, **{"timeout": PATIENCE} | options)


class Student:
    """One browser."""

    def __init__(self, hub: Hub, name: str, password: str = "correct horse"):
        self.hub, self.name, self.password = hub, name, password
        self.browser = Browser()
        self.home = f"{hub.url}/user/{name.lower()}"
        self.token = ""

    def login(self) -> requests.Response:
        """Fill in the form; the answer is the page behind it, or the form with a message."""
        form = f"{self.hub.url}/hub/login?next=%2Fhub%2Fhome"
        self.browser.get(form)
        fields = {"username": self.name, "password": self.password}
        fields["_xsrf"] = self.browser.cookies.get("_xsrf", path="/hub/")
        return self.browser.post(form, data=fields)

    def api(self, method: str, path: str, **options) -> requests.Response:
        """Ask the Hub, or the own server when the path does not begin with /hub."""
        address = self.hub.url + path if path.startswith("/hub") else self.home + path
        headers = {"Authorization": f"token {self.token}"}
        return Browser().request(method, address, headers=headers, **options)

    def get_token(self) -> None:
        """What scripts use in place of the browser's cookies."""
        address = f"{self.hub.url}/hub/api/users/{self.name.lower()}/tokens"
        xsrf = {"X-XSRFToken": self.browser.cookies.get("_xsrf", path="/hub/")}
        answer = self.browser.post(address, json={}, headers=xsrf)
        answer.raise_for_status()
        self.token = answer.json()["token"]

    def start_server(self) -> float:
        """Start the own server, and wait as the Hub's progress page does; returns the seconds."""
        began = time.perf_counter()
        user = f"/hub/api/users/{self.name.lower()}"
        self.api("POST", f"{user}/server").raise_for_status()
        last = list(self.events(f"{user}/server/progress"))[-1]
        if not last.get("ready"):
            raise RuntimeError(f"{self.name}: {last}")
        return time.perf_counter() - began

    def events(self, path: str, **options):
        """Server-sent events of an address."""
        end = time.monotonic() + PATIENCE
        with self.api("GET", path, stream=True, **options) as answer:
            answer.raise_for_status()
            for line in answer.iter_lines():
                if time.monotonic() > end:  # empty lines keep the connection alive
                    raise TimeoutError(f"{path}: not done within {PATIENCE:.0f} seconds")
                if line.startswith(b"data:"):
                    yield json.loads(line[5:])

    def pull(self, repository: str) -> float:
        """What an nbgitpuller link does; returns the seconds."""
        began = time.perf_counter()
        link = {"repo": repository, "targetpath": "course"}
        last = list(self.events("/git-pull/api", params=link))[-1]
        if last["phase"] != "finished":
            raise RuntimeError(f"{self.name}: {last}")
        return time.perf_counter() - began

    def open_kernel(self, notebook: str) -> Kernel:
        """Start a kernel for a notebook, in the notebook's folder."""
        asked = {"path": notebook, "name": notebook, "type": "notebook"}
        answer = self.api("POST", "/api/sessions", json=asked | {"kernel": {"name": "python3"}})
        answer.raise_for_status()
        return Kernel(f"{self.home}/api/kernels/{answer.json()['kernel']['id']}", self.token)

    def save(self, path: str, notebook: dict) -> requests.Response:
        """Save as JupyterLab does."""
        model = {"type": "notebook", "format": "json", "content": notebook}
        return self.api("PUT", f"/api/contents/{path}", json=model)
