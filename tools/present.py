"""Open a notebook as slides in JupyterLab, with a kernel.

    python tools/present.py [NAME] [options of jupyter lab]

Lab gets settings of its own in build/presenting, so that the next ``make lab`` looks as always.
"""

import json
import os
import shutil
import sys
from pathlib import Path

from tools import catalogue

STATE = Path(__file__).resolve().parents[1] / "build" / "presenting"
SETTINGS = {
    "jupyterlab-slideshow/plugin": {"active": True},
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
}


def write_settings(folder: Path) -> None:
    """Put the settings where JupyterLab looks for those of a user."""
    for name, values in SETTINGS.items():
        path = folder / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values), encoding="utf-8")


def command(name: str, options: list[str]) -> list[str]:
    """How JupyterLab is started, with one notebook open."""
    return [
        *(sys.executable, "-m", "jupyterlab", f"--notebook-dir={catalogue.NOTEBOOKS}"),
        *(f"--LabApp.default_url=/lab/tree/{name}.ipynb", *options),
    ]


def main() -> None:
    name, *options = sys.argv[1:] or [""]
    if name not in catalogue.files():
        choice = ", ".join(catalogue.files())
        raise SystemExit(f"course: NAME is one of {choice}. Remedy: make present NAME=flows")
    shutil.rmtree(STATE / "workspaces", ignore_errors=True)  # it would open the last one, too
    write_settings(STATE / "settings")
    os.environ["JUPYTERLAB_SETTINGS_DIR"] = str(STATE / "settings")
    os.environ["JUPYTERLAB_WORKSPACES_DIR"] = str(STATE / "workspaces")
    os.execv(sys.executable, command(name, options))


if __name__ == "__main__":
    main()
