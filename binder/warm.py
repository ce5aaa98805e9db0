"""Do once, while an image is built, what every student would wait for.

    python -m binder.warm [PREFIX]

Runs the first cells of every notebook (byte code, matplotlib's font cache, IPython's profile), and
puts the settings of JupyterLab and its server into PREFIX (default: this Python's).
"""

import shutil
import sys
from pathlib import Path

from nbformat import NotebookNode

from tools import catalogue, notebook_sources, run_notebook

BINDER = Path(__file__).resolve().parent
SETTINGS = {
    "overrides.json": "share/jupyter/lab/settings/overrides.json",
    "server.json": "etc/jupyter/jupyter_server_config.json",
    "jupyter_server_config.py": "etc/jupyter/jupyter_server_config.py",
}


def configure(prefix: Path) -> None:
    """Copy the settings to where Jupyter looks for them."""
    for name, place in SETTINGS.items():
        (prefix / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(BINDER / name, prefix / place)


def head(name: str) -> NotebookNode:
    """A notebook up to its parameters."""
    notebook = notebook_sources.read(name)
    tags = [notebook_sources.tags(cell) for cell in notebook.cells]
    end = next(i for i, each in enumerate(tags) if "parameters" in each)
    notebook.cells = notebook.cells[: end + 1]
    return notebook


def main() -> None:
    configure(Path(sys.argv[1] if len(sys.argv) > 1 else sys.prefix))
    for name in catalogue.files():
        seconds = run_notebook.execute(head(name))
        print(f"course: the first cells of {name} take {seconds:.1f} s", flush=True)


if __name__ == "__main__":
    main()
