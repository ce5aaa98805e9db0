"""Build the web site from the guides, the slides and the notebooks' stored outputs.

    python -m tools.build_site [FOLDER]
    python -m tools.build_site --links  # instead, ask whether the addresses outside are still there

Writes to build/site unless told otherwise. Needs Node for MathJax (once, from npm); nothing is
executed, and a warning of Sphinx is an error. COURSE_REPOSITORY=owner/name adds launch buttons.
"""

import base64
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat

from slides import lecture
from tools import catalogue, fill_pages, marked, npm

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PICTURE = "flows/moons"  # of a notebook: what the README shows
BUILT = ("build", "work", "wheels", "node_modules", "__pycache__", "*.egg-info")
ELSEWHERE = shutil.ignore_patterns(".*", *BUILT)


def picture() -> bytes:
    """The README's picture, as a notebook has stored it."""
    return base64.b64decode(lecture.picture(PICTURE))


def dress(notebook: nbformat.NotebookNode) -> None:
    """Fold what is folded, leave the generated cell out; tell what pictures show."""
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        tags = cell.metadata.get("tags", [])
        if cell.metadata.get("jupyter", {}).get("source_hidden"):
            cell.metadata.tags = [*tags, "hide-input"]
        if "alone" in tags:
            cell.metadata.tags = [*tags, "remove-cell"]
        if "alt" in cell.metadata:
            cell.metadata.mystnb = {"image": {"alt": cell.metadata.alt}}


def hang(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Write attached pictures into files beside the notebook: MyST-NB does not read attachments."""
    for cell in notebook.cells:
        for name, kinds in cell.pop("attachments", {}).items():
            file = path.with_name(f"{path.stem}-{name}")
            file.write_bytes(base64.b64decode(*kinds.values()))
            cell.source = cell.source.replace(f"attachment:{name}", file.name)


def embed(figures: Path, page: Path) -> None:
    """Put the parts of the page of explorables, each between its marks, into a page of the site."""
    text = page.read_text(encoding="utf-8")
    code = figures.read_text(encoding="utf-8").replace('src="', 'src="../explore/')
    for name, part in re.findall(r"<!-- (\w+) -->\n(.*?)<!-- /\1 -->", code, re.DOTALL):
        text = text.replace("{{" + name + "}}", part)
    page.write_text(text, encoding="utf-8")


def lay_out(folder: Path) -> None:
    """Copy the repository into a folder as Sphinx should read it; the README becomes the index."""
    shutil.copytree(ROOT, folder, ignore=ELSEWHERE, dirs_exist_ok=True)
    for path in (folder / "notebooks").glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        dress(notebook)
        hang(notebook, path)
        nbformat.write(notebook, path)
    readme = (folder / "README.md").read_text(encoding="utf-8")
    contents = (folder / "docs" / "index.md").read_text(encoding="utf-8")
    notebooks = "\n".join(f"notebooks/{name}" for name in catalogue.files())
    contents = contents.replace("{{notebooks}}", notebooks)
    readme = marked.fill(readme, {fill_pages.BADGES: ""})  # their pictures come from elsewhere
    (folder / "index.md").write_text(f"{readme}\n{contents}", encoding="utf-8")
    (folder / "docs" / "index.md").unlink()
    embed(folder / "explore" / "index.html", folder / "docs" / "explore.md")
    for path in folder.rglob("*.md"):
        text = path.read_text(encoding="utf-8")
        text = re.sub(r"(\]\((?:\.\./)*)README\.md", r"\1index.md", text)
        path.write_text(text, encoding="utf-8")


def build_pages(target: Path, builder: str = "html") -> None:
    """Build the pages into a folder, or stop below Sphinx's own messages."""
    with tempfile.TemporaryDirectory(prefix="site-") as name:
        lay_out(Path(name))
        options = ["-b", builder, "-W", "--keep-going", "-q", "-c", DOCS, "-d", f"{name}/.doctrees"]
        done = subprocess.run([sys.executable, "-m", "sphinx", *options, name, target])
    if done.returncode:
        raise SystemExit("course: the site could not be built (see above)")


def main() -> None:
    if sys.argv[1:] == ["--links"]:
        build_pages(ROOT / "build" / "links", "linkcheck")
        return
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "site"
    npm.install()
    (DOCS / "picture.png").write_bytes(picture())
    shutil.rmtree(target, ignore_errors=True)
    build_pages(target)
    print(f"course: open {target / 'index.html'}")


if __name__ == "__main__":
    main()
