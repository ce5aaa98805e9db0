"""JupyterLab on this machine, with its own empty settings, for tests and rehearsals."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

PATIENCE = 600  # seconds until something counts as hanging, on however slow a machine

# Every cell stays in the page, also when it is off screen; no news and no pop-ups.
SETTINGS = {
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/docmanager-extension/plugin": {"autosave": False},
}


@contextlib.contextmanager
def jupyterlab(folder: Path, state: Path, *options: str, settings: dict | None = None):
    """Serve a folder; yields the address until the block ends.

    Args:
        folder: What the browser sees as the root.
        state: An empty folder for configuration, settings, workspaces and the log.
        options: Further options of ``jupyter lab``.
        settings: User settings by plug-in, added to ``SETTINGS``.
    """
    for name, values in (SETTINGS | (settings or {})).items():
        path = state / "settings" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # ipykernel chooses the backend that shows figures only where nothing else is asked for.
    environment = {key: value for key, value in os.environ.items() if key != "MPLBACKEND"} | {
        "JUPYTER_CONFIG_DIR": str(state / "config"),
        "JUPYTER_DATA_DIR": str(state / "data"),
        "JUPYTER_RUNTIME_DIR": str(state / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(state / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(state / "workspaces"),
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1"]
    command += [f"--port={port}", "--port-retries=0", "--IdentityProvider.token=test"]
    command += [f"--notebook-dir={folder}", "--allow-root", *options]
    with (state / "log").open("w") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(address, process, state / "log")
        yield address
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:  # it can wait for ever for a kernel that is starting
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)


def tries(what: str, pause: Callable[[float], None] = time.sleep) -> Iterator[None]:
    """Five times a second for ``PATIENCE`` seconds; then a TimeoutError says what never came."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        yield
        pause(0.2)
    raise TimeoutError(f"{what}: not within {PATIENCE} seconds")


def wait_for(address: str, process: subprocess.Popen, log: Path) -> None:
    """Return when the server answers; fail with its log when it ends instead."""
    for _ in tries("an answer of JupyterLab"):
        if process.poll() is not None:
            raise RuntimeError(log.read_text(encoding="utf-8"))
        with contextlib.suppress(OSError):  # not listening yet
            ask(f"{address}/api/status")
            return


def ask(address: str, method: str = "GET") -> bytes:
    """The answer of the server's REST interface."""
    request = urllib.request.Request(f"{address}?token=test", method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read()


def kernels(address: str) -> list[dict]:
    """What the server says about its kernels."""
    for _ in tries("the list of kernels"):
        try:
            return json.loads(ask(f"{address}/api/kernels"))
        except urllib.error.HTTPError as error:  # while a kernel is starting, it fails at times
            if error.code != 500:
                raise


def shut_down_kernels(address: str) -> None:
    """Free their memory."""
    for kernel in kernels(address):
        ask(f"{address}/api/kernels/{kernel['id']}", "DELETE")
