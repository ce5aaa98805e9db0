"""Write a version of the course without solutions, and run it.

    python -m tools.student_version [--no-run]

Writes build/student/ and build/student.zip. The notebooks have their exercises, checks and hints,
and neither solutions nor outputs. Each is executed once, in that folder and with its course_utils
and data, so that what is handed out works; the outputs of that run are thrown away.
"""

import argparse
import os
import shutil
from pathlib import Path

import nbformat
from nbconvert.preprocessors import TagRemovePreprocessor

from tools import catalogue, create_venv, notebook_sources, run_notebook

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "build" / "student"
NEEDED = (
    *(
        "course_utils",
        "data",
        "explore",
        "LICENSE",
        "LICENSE-CONTENT",
        "environment.yml",
        "constraints.txt",
    ),
    *("pyproject.toml", "setup.py", "tools/create_venv.py", "notebooks/START.md"),
    "notebooks/catalogue.toml",  # of which exercises there are
    *(".gitattributes", ".gitignore"),  # for a repository that a Hub pulls
    *("docs/student.md", "docs/picture.png", "slides/lecture.html", "slides/lecture.pdf"),
)


def write(target: Path) -> list[Path]:
    """Write the student's version into an empty folder; return its notebooks."""
    for name in NEEDED:
        source, copied = ROOT / name, target / name
        copied.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copied, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copied)
    python, gigabytes = ".".join(map(str, create_venv.PYTHONS[0])), create_venv.GIGABYTES["cpu"]
    readme = (ROOT / "tools" / "student_readme.md").read_text(encoding="utf-8")
    readme = readme.format(python=python, gigabytes=gigabytes)
    (target / "README.md").write_text(readme, encoding="utf-8")
    written = [target / "notebooks" / f"{name}.ipynb" for name in catalogue.files()]
    strip = TagRemovePreprocessor(remove_cell_tags={"solution"})  # a source has no outputs
    for path in written:
        nbformat.write(strip.preprocess(notebook_sources.read(path.stem), {})[0], path)
    return written


def alone(target: Path) -> dict[str, str]:
    """Variables for a kernel that takes the course from a folder, and leaves it as it is."""
    path = os.pathsep.join(filter(None, [str(target), os.environ.get("PYTHONPATH")]))
    return {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}


def run(path: Path) -> float:
    """Execute a written notebook with the files beside it alone; return the seconds it took."""
    env = os.environ | alone(path.parents[1])
    return run_notebook.execute(nbformat.read(path, 4), folder=path.parent, env=env)


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
