"""JupyterLab on this machine, with its own empty settings, for tests and rehearsals."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

from tools import present
from tools.ports import PATIENCE, free_ports, wait_until

TOKEN = "test"

# Every cell stays in the page, also when it is off screen; no news and no pop-ups.
SETTINGS = {
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/docmanager-extension/plugin": {"autosave": False},
}


@contextlib.contextmanager
def served(command: list[str], address: str, log: Path, **options):
    """Run a command that starts a server, wait for its answer, and end it after the block."""
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, start_new_session=True, **options
        )

    def answers() -> bytes | None:
        if process.poll() is not None:
            raise RuntimeError(log.read_text(encoding="utf-8"))
        with contextlib.suppress(OSError):  # not listening yet
            return ask(f"{address}/api/status")

    try:
        wait_until(answers, "an answer of JupyterLab")
        yield address
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:  # it can wait for ever for a kernel that is starting
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)


def jupyterlab(
    folder: Path,
    state: Path,
    *options: str,
    settings: dict | None = None,
    env: dict[str, str] | None = None,
):
    """Serve a folder, with ``SETTINGS`` and others by plug-in; yields the address.

    ``state`` is for configuration, settings, workspaces and the log. Variables of ``env`` are added
    to those of this process.
    """
    present.write_settings(state / "settings", SETTINGS | (settings or {}))
    # ipykernel chooses the backend that shows figures only where nothing else is asked for.
    environment = {key: value for key, value in os.environ.items() if key != "MPLBACKEND"}
    for part in ("CONFIG", "DATA", "RUNTIME"):
        environment[f"JUPYTER_{part}_DIR"] = str(state / part.lower())
    for part in ("SETTINGS", "WORKSPACES"):
        environment[f"JUPYTERLAB_{part}_DIR"] = str(state / part.lower())
    [port] = free_ports(1)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1"]
    command += [f"--port={port}", "--port-retries=0", f"--IdentityProvider.token={TOKEN}"]
    command += [f"--notebook-dir={folder}", "--allow-root", *options]
    address = f"http://127.0.0.1:{port}"
    return served(command, address, state / "log", env=environment | (env or {}))


def follow(address: str, token: str = TOKEN) -> tuple[str, bytes]:
    """Where an address leads in the end, below the server's root, and what is there."""
    request = urllib.request.Request(address, headers={"Authorization": f"token {token}"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.url.split("/", 3)[3], answer.read()


def ask(address: str, token: str = TOKEN) -> bytes:
    """The answer of the server's REST interface."""
    return follow(address, token)[1]


def open_in_lab(page, address: str, path: str) -> None:
    """Show one notebook in Lab, alone, with the kernel that it asks for."""
    page.set_default_timeout(PATIENCE * 1000)
    page.goto(f"{address}/lab/tree/{path}?token={TOKEN}&reset")
    page.wait_for_selector(".jp-Notebook .jp-Cell")

    def connected() -> bool | None:
        with contextlib.suppress(urllib.error.HTTPError):  # at times while a kernel is starting
            kernels = json.loads(ask(f"{address}/api/kernels"))
            return any(kernel["connections"] for kernel in kernels)

    # Lab shows an idle kernel before it is connected to it; what is run then is lost.
    wait_until(connected, "a connection to the kernel")
