"""Open a notebook as slides in JupyterLab, with a kernel: a copy of it, with its results.

    python -m tools.present NAME [options of jupyter lab]

Lab gets settings of its own in build/presenting, so that the next ``make lab`` looks as always.
"""

import json
import os
import shutil
import sys
from pathlib import Path

from course_utils import copies
from tools import catalogue

STATE = Path(__file__).resolve().parents[1] / "build" / "presenting"
SETTINGS = {
    "jupyterlab-slideshow/plugin": {"active": True},
    # A slide scrolls, but the next one would begin where the last one was left; a cell as high as
    # the screen is shown from its top, and scrolls by itself.
    "@deathbeds/jupyterlab-fonts/fonts": {
        "styles": {
            ".jp-Deck .jp-Cell.jp-deck-mod-onscreen": {
                "max-height": "calc(100vh - 20px)",
                "overflow-y": "auto",
            }
        }
    },
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
}


def write_settings(folder: Path, settings: dict) -> None:
    """Put settings where JupyterLab looks for those of a user."""
    for name, values in settings.items():
        path = folder / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values), encoding="utf-8")


def copy_with_results(original: Path, work: Path) -> Path:
    """A copy in ``work/``; one that is there is used again until the course has changed."""
    _, version = copies.origin(copies.fresh(original))
    for path in work.glob(f"{original.stem}-with-results*.ipynb"):
        if copies.read(path).get("metadata", {}).get("presented") == version:
            return path
    notebook = copies.read(original)
    notebook["metadata"]["presented"] = version
    work.mkdir(exist_ok=True)
    path = copies.free_name(work / f"{original.stem}-with-results.ipynb")
    copies.save(path, notebook)
    return path


def main() -> None:
    name, *options = sys.argv[1:] or [""]
    notebook = catalogue.find(name)
    shutil.rmtree(STATE / "workspaces", ignore_errors=True)  # it would open the last one, too
    write_settings(STATE / "settings", SETTINGS)
    os.environ["JUPYTERLAB_SETTINGS_DIR"] = str(STATE / "settings")
    os.environ["JUPYTERLAB_WORKSPACES_DIR"] = str(STATE / "workspaces")
    path = copy_with_results(notebook.built, catalogue.ROOT / "work")
    command = [sys.executable, "-m", "jupyterlab", f"--notebook-dir={catalogue.ROOT}"]
    command += [f"--LabApp.default_url=/lab/tree/work/{path.name}", *options]
    os.execv(sys.executable, command)


if __name__ == "__main__":
    main()
