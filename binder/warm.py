"""Do once, while an image is built, what every student would wait for.

    python binder/warm.py [PREFIX]

Runs the first cells of every notebook (byte code, matplotlib's font cache, IPython's profile), and
puts the settings that open JupyterLab at the start page into PREFIX (default: this Python's).
"""

import shutil
import sys
from pathlib import Path

from tools import catalogue, notebook_sources, run_notebook

BINDER = Path(__file__).resolve().parent


SETTINGS = {
    "overrides.json": "share/jupyter/lab/settings/overrides.json",
    "server.json": "etc/jupyter/jupyter_server_config.json",
}


def configure(prefix: Path) -> None:
    """Copy the settings to where Jupyter looks for them."""
    for name, place in SETTINGS.items():
        (prefix / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(BINDER / name, prefix / place)


def run_head(name: str) -> float:
    """Run a notebook up to its parameters; return the seconds it took."""
    notebook = notebook_sources.read(name)
    tagged = [i for i, c in enumerate(notebook.cells) if "parameters" in c.metadata.get("tags", [])]
    notebook.cells = notebook.cells[: tagged[0] + 1]
    return run_notebook.execute(notebook)


def main() -> None:
    configure(Path(sys.argv[1] if len(sys.argv) > 1 else sys.prefix))
    for name in catalogue.files():
        print(f"course: the first cells of {name} take {run_head(name):.1f} s", flush=True)


if __name__ == "__main__":
    main()
