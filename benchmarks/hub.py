"""Start the JupyterHub of a rehearsal on loopback, and act like a student's browser."""

import contextlib
import json
import os
import pwd
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import requests
import websocket
from jupyter_client.jsonutil import json_default
from jupyter_client.session import Session

from tools.ports import PATIENCE, free_ports, wait_until

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "binder" / "jupyterhub" / "jupyterhub_config.py"
PASSWORD = secrets.token_urlsafe()
SMALL_MB = 20


def account(name: str) -> str:
    """Name of a student's account: one that this process alone uses."""
    return f"course-{os.getpid()}-{name}"


@contextlib.contextmanager
def served(repository: Path) -> Iterator[str]:
    """Serve a clone on loopback, as the web would; yields its address."""
    [port] = free_ports(1)
    with tempfile.TemporaryDirectory() as folder:
        clone = ["git", "clone", "-q", "--bare", "--no-local", repository, f"{folder}/course"]
        subprocess.run(clone, check=True)
        command = ["git", "daemon", "--listen=127.0.0.1", f"--port={port}", "--export-all"]
        command += [f"--base-path={folder}", folder]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
            try:
                address = ("127.0.0.1", port)
                wait_until(lambda: not socket.socket().connect_ex(address), "git daemon")
                yield f"git://127.0.0.1:{port}/course"
            finally:
                server.terminate()  # not killed: it has a child, and tells it


def opened() -> list[str]:
    """Words before a command, so that other accounts can read Python and the course below it.

    A Python below ``/root``, as CI has it, is closed to them. In a mount namespace of its own the
    command sees a folder there that holds nothing but what is needed; the machine stays as it is.
    """
    closed = {}  # by path the topmost folder on its way that others may not enter
    for path in map(Path.resolve, (ROOT, Path(sys.prefix), Path(sys.base_prefix))):
        for folder in (path, *path.parents):
            if not folder.stat().st_mode & 0o001:
                closed[shlex.quote(str(path))] = shlex.quote(str(folder))
    if os.geteuid() or not closed:
        return []
    steps = ["set -e", "view=$(mktemp -d)", "mount -t tmpfs view $view"]
    steps += [f"mkdir -p $view{path} && mount --rbind {path} $view{path}" for path in closed]
    steps += [f"mount -t tmpfs -o mode=711 view {folder}" for folder in set(closed.values())]
    steps += [f"mkdir -p {path} && mount --rbind $view{path} {path}" for path in closed]
    steps += ["umount --lazy $view", "rmdir $view"]
    script = "\n".join([*steps, 'exec "$@"'])
    return ["unshare", "--mount", "--propagation=slave", "sh", "-c", script, "sh"]


class Hub:
    """The committed configuration on free ports; ``with Hub(["anna"])`` starts and ends it.

    As root it makes an account for each student, and removes it in the end.

    Args:
        names: Of the students.
        root: Whether it may be root where this process is; else it is ``nobody``.
        small: Whose home is a disk of ``SMALL_MB``, where students have accounts.
        setting: Further environment variables of the configuration.
    """

    def __init__(self, names: list[str], *, root: bool = True, small: str = "", **setting: str):
        self.names, self.setting = [account(name) for name in names], setting
        self.accounts = root and os.geteuid() == 0
        if there := set(self.names) & {entry.pw_name for entry in pwd.getpwall()}:
            raise RuntimeError(f"not of this rehearsal, so left alone: {', '.join(there)}")
        self.words, self.ports = opened(), free_ports(3)
        self.url = f"http://127.0.0.1:{self.ports[0]}"
        self.folder = Path(tempfile.mkdtemp(prefix="class-"))
        self.log = self.folder / "hub.log"
        self.homes = Path("/home") if self.accounts else self.folder / "homes"
        self.small = self.homes / account(small) if small and self.accounts else None
        if os.geteuid() == 0 and not root:
            self.words += ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
            shutil.chown(self.folder, "nobody", "nogroup")

    def __enter__(self) -> "Hub":
        if self.small:
            self.small.mkdir()
            disk = ["-t", "tmpfs", "-o", f"size={SMALL_MB}m,mode=700", "disk", self.small]
            subprocess.run(["mount", *disk], check=True)
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self) -> None:
        """Start it, wait until it answers, and give out passwords."""
        public, hub, api = self.ports
        command = [*self.words, sys.executable, "-m", "jupyterhub", f"--config={CONFIG}"]
        command += [f"--port={public}", f"--JupyterHub.hub_port={hub}"]
        command += [f"--ConfigurableHTTPProxy.api_url=http://127.0.0.1:{api}"]
        asked = {"CLASS_STUDENTS": " ".join(self.names), "CLASS_ACCOUNTS": "create"}
        env = os.environ | {"HOME": str(self.folder)} | asked | self.setting
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=env, stdout=log, stderr=log, start_new_session=True
            )
        wait_until(self.answers, "an answer of the Hub")
        if self.accounts:
            lines = "".join(f"{name}:{PASSWORD}\n" for name in self.names)
            subprocess.run(["chpasswd"], input=lines, text=True, check=True)
        if self.small:
            shutil.chown(self.small, self.small.name)

    def answers(self) -> bool:
        """Whether it does; a RuntimeError with its log when it has ended instead."""
        if self.process.poll() is not None:
            raise RuntimeError(self.log.read_text()[-3000:])
        with contextlib.suppress(requests.RequestException):
            return requests.get(f"{self.url}/hub/api").ok
        return False

    def stop(self) -> None:
        """End Hub and proxy; the students' servers go on."""
        self.process.terminate()
        self.process.wait()

    def __exit__(self, *_) -> None:
        self.stop()
        for process in self.processes(helpers=True):  # those of a killed Hub live on
            process.kill()
        if self.small:
            subprocess.run(["umount", "--lazy", self.small], check=True)
        for name in self.names if self.accounts else ():
            subprocess.run(["userdel", "--force", "--remove", name], capture_output=True)
        shutil.rmtree(self.folder)

    def processes(self, name: str = "", module: str = "", helpers: bool = False) -> list:
        """Servers (``jupyterhub.singleuser``) and kernels (``ipykernel_launcher``) of students."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                env, command = process.environ(), process.cmdline()
                user = env.get("JUPYTERHUB_USER")  # empty: a helper of the Hub
                wanted = (user or helpers) and name in ("", user) and module in ("", *command)
                if wanted and f":{self.ports[1]}/" in env.get("JUPYTERHUB_API_URL", ""):
                    found.append(process)
        return found


class Kernel:
    """A websocket to a kernel."""

    def __init__(self, url: str, token: str):
        self.url = url
        address = url.replace("http", "ws", 1) + "/channels"
        header = {"Authorization": f"token {token}"}
        self.socket = websocket.create_connection(address, header=header, timeout=PATIENCE)

    def run(self, code: str, patience: float = PATIENCE) -> dict:
        """Execute; returns what was printed, and the error (None if there was none)."""
        message = Session().msg("execute_request", {"code": code, "silent": False})
        self.socket.settimeout(patience)
        self.socket.send(json.dumps(message | {"channel": "shell"}, default=json_default))
        text, error, state = "", None, "busy"
        while state != "idle":
            got = json.loads(self.socket.recv())
            kind, content = got["header"]["msg_type"], got["content"]
            if content.get("execution_state") in ("restarting", "dead"):
                raise ConnectionAbortedError("the kernel died")
            if got["parent_header"].get("msg_id") != message["msg_id"]:
                continue
            if kind == "stream" and content["name"] == "stdout":
                text += content["text"]
            elif kind == "error":
                error = f"{content['ename']}: {content['evalue']}"
            elif kind == "status":
                state = content["execution_state"]
        return {"text": text, "error": error}


class Student:
    """One browser."""

    def __init__(self, hub: Hub, name: str, password: str = PASSWORD):
        self.hub, self.name, self.password = hub, account(name), password
        self.browser, self.token = requests.Session(), ""
        self.address = f"{hub.url}/user/{self.name}"
        self.user = f"/hub/api/users/{self.name}"

    def ask_to_enter(self) -> requests.Response:
        """Fill in the form; the answer is the page behind it, or the form with a message."""
        form = f"{self.hub.url}/hub/login?next=%2Fhub%2Fhome"
        self.browser.get(form)
        fields = {"username": self.name, "password": self.password}
        fields["_xsrf"] = self.browser.cookies.get("_xsrf", path="/hub/")
        return self.browser.post(form, data=fields)

    def login(self) -> None:
        """Enter, and get a token, which scripts use in place of the browser's cookies."""
        self.ask_to_enter().raise_for_status()
        xsrf = {"X-XSRFToken": self.browser.cookies.get("_xsrf", path="/hub/")}
        answer = self.browser.post(f"{self.hub.url}{self.user}/tokens", json={}, headers=xsrf)
        self.token = answer.json()["token"]

    def arrive(self) -> "Student":
        """From the login form to a server that is ready."""
        self.login()
        self.start_server()
        return self

    def api(self, method: str, path: str, **options) -> requests.Response:
        """Ask the Hub, or the own server when the path does not begin with /hub."""
        address = self.hub.url if path.startswith("/hub") else self.address
        headers = {"Authorization": f"token {self.token}"}
        return requests.request(method, address + path, headers=headers, **options)

    def last_event(self, path: str, **options) -> dict:
        """Of the events that an address sends, such as the Hub's progress page shows."""
        with self.api("GET", path, stream=True, **options) as answer:
            answer.raise_for_status()
            *_, last = (line for line in answer.iter_lines() if line.startswith(b"data:"))
        return json.loads(last[5:])

    def start_server(self) -> None:
        """Start the own server, and wait until it is ready."""
        self.api("POST", f"{self.user}/server").raise_for_status()
        assert self.last_event(f"{self.user}/server/progress").get("ready"), self.name

    def pull(self, repository: str) -> None:
        """What an nbgitpuller link does."""
        last = self.last_event("/git-pull/api", params={"repo": repository})
        assert last["phase"] == "finished", last

    def open_kernel(self, notebook: str) -> Kernel:
        """Start a kernel for a notebook, in the notebook's folder."""
        asked = {"path": notebook, "name": notebook, "type": "notebook"}
        answer = self.api("POST", "/api/sessions", json=asked | {"kernel": {"name": "python3"}})
        answer.raise_for_status()
        return Kernel(f"{self.address}/api/kernels/{answer.json()['kernel']['id']}", self.token)
