"""Write a version of the course without solutions, and run it.

    python tools/student.py [--no-run]

Writes build/student/ and build/student.zip. The notebooks have their exercises, checks and hints,
and neither solutions nor outputs. Each is executed once, in that folder and with its course_utils
and data, so that what is handed out works; the outputs of that run are thrown away.
"""

import argparse
import copy
import os
import re
import shutil
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from tools import catalogue, notebook_sources, run_notebook

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "build" / "student"
NEEDED = (
    *("course_utils", "data", "LICENSE", "LICENSE-CONTENT", "pyproject.toml", "constraints.txt"),
    *("environment.yml", "tools/environment.py", "slides/lecture.html", "slides/lecture.pdf"),
)
START = """# Lecture 4: Deep learning architectures

Three notebooks with exercises; the solutions come after the class. You need Python 3.11 or newer
and 4 GB of disk space; 12 GB on Linux, unless you add `--torch cpu` below.

Linux and macOS, in this folder:

    python3 tools/environment.py
    .venv/bin/jupyter lab --notebook-dir=notebooks

Windows (PowerShell):

    py tools\\environment.py --torch cpu
    .venv\\Scripts\\jupyter lab --notebook-dir=notebooks

The first line takes minutes, once, and needs a network. Without an NVIDIA card, `--torch cpu`
makes it much smaller.
If something does not work: `.venv/bin/python -m course_utils` says what, and the remedy.

Begin with `bayesian_neural_networks_wine.ipynb`. The slides are in `slides/`.
"""


def strip(notebook: NotebookNode) -> NotebookNode:
    """A copy without solution cells, outputs, execution counts and notes of the build."""
    bare = copy.deepcopy(notebook)
    bare.metadata = NotebookNode(
        {key: value for key, value in bare.metadata.items() if key in ("kernelspec",)}
    )
    bare.cells = [c for c in bare.cells if "solution" not in c.metadata.get("tags", [])]
    for cell in bare.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return bare


def copy_course(target: Path) -> None:
    """Everything else that a student needs."""
    ignore = shutil.ignore_patterns("__pycache__")
    for name in NEEDED:
        source, copied = ROOT / name, target / name
        copied.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copied, ignore=ignore)
        else:
            shutil.copy(source, copied)
    (target / "README.md").write_text(START, encoding="utf-8")
    project = target / "pyproject.toml"
    text = project.read_text(encoding="utf-8")  # students need nothing of what the tests need
    text = re.sub(r"^test = \[.*?^\]", "test = []", text, flags=re.DOTALL | re.MULTILINE)
    project.write_text(text, encoding="utf-8")


def write(target: Path) -> list[Path]:
    """Write the student's version into an empty folder; return its notebooks."""
    copy_course(target)
    (target / "notebooks").mkdir()
    written = []
    for name in catalogue.files():
        written.append(target / "notebooks" / f"{name}.ipynb")
        nbformat.write(strip(notebook_sources.read(name)), written[-1])
    return written


def run(path: Path) -> float:
    """Execute a written notebook with the files beside it alone; return the seconds it took."""
    before = os.environ.get("PYTHONPATH")
    own = os.pathsep.join(filter(None, [str(path.parents[1]), before]))
    env = os.environ | {"PYTHONPATH": own, "PYTHONDONTWRITEBYTECODE": "1"}
    return run_notebook.execute(nbformat.read(path, as_version=4), folder=path.parent, env=env)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--no-run", action="store_true", help="write only, do not execute")
    arguments = parser.parse_args()
    shutil.rmtree(TARGET, ignore_errors=True)
    for path in write(TARGET):
        if not arguments.no_run:
            print(f"{path.name} without solutions: {run(path):.0f} s", flush=True)
    archive = shutil.make_archive(str(TARGET), "zip", TARGET.parent, TARGET.name)
    print(f"course: wrote {TARGET} and {archive}")


if __name__ == "__main__":
    main()
