"""Build the lecture's slides: figures, HTML, PDF and PDF with notes.

    python slides/build.py

Needs Node and Chromium. Pictures and figures of the slides after each notebook come out of the
executed notebooks. ``built.json`` holds the hashes of what the committed files were built from.
"""

import base64
import hashlib
import html
import io
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import nbformat
from PIL import Image

from slides import figures
from tools import npm

SLIDES = Path(__file__).resolve().parent


NOTEBOOKS = SLIDES.parent / "notebooks"
MARP = npm.PACKAGES / "@marp-team" / "marp-cli"
OUTPUTS = ("lecture.html", "lecture.pdf", "lecture-notes.pdf")
WINE, DIGITS, MOONS = "bayesian_neural_networks_wine", "var_mod", "flows"
# Picture on a slide: notebook, words that only the cell which draws it contains, and the part that
# is shown (left, top, right, bottom as fractions).
WHOLE = (0, 0, 1, 1)
PICTURES = {
    "wine": (WINE, "ax.errorbar(sizes", (0, 0, 0.53, 1)),
    "digits": (DIGITS, "decoded plane", (0, 0.07, 0.43, 0.93)),
    "moons": (MOONS, '"true density"', WHOLE),
}
# [[NAME]] in lecture.md: notebook, and a pattern that occurs once in what its cells print.
ROW = r"(?m)^\| {} (?:\|[^|]+){{{}}}\| (-?[\d.]+ ± [\d.]+) \|"  # a table's row, columns to skip
VALUES = {
    "wine epistemic": (WINE, r"Laplace +aleatoric .*epistemic × ([\d.]+ ± [\d.]+)"),
    "wine aleatoric": (WINE, r"Laplace +aleatoric × ([\d.]+ ± [\d.]+)"),
    "wine artefact": (WINE, r"mean field +aleatoric × ([\d.]+ ± [\d.]+)"),
    "wine linear": (WINE, ROW.format("linear", 1)),
    "wine network": (WINE, ROW.format("mean field", 1)),
    "wine gain": (WINE, r"(?m)^\| mean field \| linear \| [^|]+\| (\+[\d.]+ ± [\d.]+) \|"),
    "digits two": (DIGITS, r"this notebook, k = 2, in Pyro \| [^|]+ \| (-[\d.]+) \|"),
    "digits many": (DIGITS, r"this notebook, k = 32 \| [^|]+ \| (-[\d.]+) \|"),
    "digits bound": (DIGITS, r"this notebook, k = 32 \| [^|]+ \| -[\d.]+ \| (-[\d.]+) \|"),
    "moons realnvp": (MOONS, ROW.format("RealNVP by hand", 3)),
    "moons spline": (MOONS, ROW.format(r"spline \(zuko\)", 3)),
    "moons mixture": (MOONS, r"(?m)^gap ([\d.]+ ± [\d.]+) nats after"),
    "moons plain": (MOONS, r"32 Gaussians \(full\), no layers \| [^|]+ \| ([\d.]+ ± [\d.]+) \|"),
}


def stop(message: str) -> None:
    """End with one line on stderr."""
    raise SystemExit(f"course: {message}")


def check_tools() -> None:
    """Install Marp, or stop with one clear line where the slides cannot be built."""
    npm.install()
    if not npm.browser():
        stop("no Chromium was found. Remedy on Debian: sudo apt install chromium")


# ------------------------------------------------------------------ out of the notebooks


def _cells(notebook: str) -> list[nbformat.NotebookNode]:
    path = NOTEBOOKS / f"{notebook}.ipynb"
    if not path.is_file():
        stop(f"{path} is missing. Remedy: make notebooks NAME={notebook}")
    cells = nbformat.read(path, as_version=4).cells
    return [cell for cell in cells if cell.cell_type == "code"]


def picture_cell(notebook: str, words: str) -> nbformat.NotebookNode:
    """The one cell whose source contains the words and which shows a picture."""
    pictures = [
        cell
        for cell in _cells(notebook)
        if words in cell.source and any("image/png" in o.get("data", {}) for o in cell.outputs)
    ]
    if len(pictures) != 1:
        stop(f"{len(pictures)} cells of {notebook} draw a picture and contain {words!r}, not one")
    return pictures[0]


def picture(notebook: str, words: str, part: tuple[float, ...] = WHOLE) -> Image.Image:
    """The picture that this cell shows, or a part of it."""
    shown = (o.data["image/png"] for o in picture_cell(notebook, words).outputs if "data" in o)
    image = Image.open(io.BytesIO(base64.b64decode(next(shown))))
    if part == WHOLE:
        return image
    return image.crop([round(a * b) for a, b in zip(part, image.size * 2, strict=True)])


def value(notebook: str, pattern: str) -> str:
    """The first group of a pattern in the text that the cells of a notebook show."""
    texts = []
    for cell in _cells(notebook):
        for output in cell.outputs:
            data = output.get("data", {})
            texts.append(output.get("text") or data.get("text/markdown") or data.get("text/plain"))
    found = re.findall(pattern, "\n".join(filter(None, texts)))
    if len(found) != 1:
        stop(f"{pattern!r} occurs {len(found)} times in the outputs of {notebook}, not once")
    return found[0]


# ------------------------------------------------------------------ building


def prepare(folder: Path) -> None:
    """Write everything that the slides are made of into an empty folder."""
    figures.draw(folder / "figures")
    for name, source in PICTURES.items():
        picture(*source).save(folder / "figures" / f"{name}.png")
    text = (SLIDES / "lecture.md").read_text(encoding="utf-8")
    for name, source in VALUES.items():
        number = value(*source).replace("-", "−").replace(" ", "\u00a0")  # never broken
        text = text.replace(f"[[{name}]]", number)
    (folder / "lecture.md").write_text(text, encoding="utf-8", newline="\n")
    shutil.copy(SLIDES / "theme.css", folder)


def marp(folder: Path, *options: str) -> None:
    """Run Marp on the prepared folder, or stop with its messages."""
    command = [shutil.which("node"), MARP / "marp-cli.js", "lecture.md", "--no-config-file"]
    command += ["--theme", "theme.css", "--allow-local-files", "--browser-path", npm.browser()]
    # Chromium refuses its sandbox to root, as in most containers.
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    environment = os.environ | ({"CHROME_NO_SANDBOX": "1"} if root else {})
    done = subprocess.run(
        [*command, *options],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        stop(f"Marp failed:\n{done.stderr}")


def formulas(text: str) -> list[str]:
    """The TeX of every formula of the slides in order, without the speaker notes."""
    text = re.sub("<!--.*?-->", "", text, flags=re.DOTALL)
    return [a or b for a, b in re.findall(r"\$\$(.+?)\$\$|\$(.+?)\$", text)]


def finish(page: Path) -> None:
    """Put the pictures into the HTML, so that it is one file; give formulas their TeX as label."""
    kinds = {".svg": "image/svg+xml", ".png": "image/png"}

    def data(match: re.Match) -> str:
        image = page.parent / match[1]
        code = base64.b64encode(image.read_bytes()).decode()
        return f'src="data:{kinds[image.suffix]};base64,{code}"'

    text = re.sub(r'src="(figures/[^"]+)"', data, page.read_text(encoding="utf-8"))
    start, *rest = re.split(r'(?<=role="img") (?=focusable)', text)
    labels = formulas((page.parent / "lecture.md").read_text(encoding="utf-8"))
    if len(labels) != len(rest):
        stop(f"lecture.md has {len(labels)} formulas, the HTML {len(rest)}: one is left as source")
    for label, part in zip(labels, rest, strict=True):
        start += f' aria-label="{html.escape(label)}" {part}'
    page.write_text(start, encoding="utf-8")


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def sources(folder: Path) -> dict[str, str]:
    """What a prepared folder is built from: the hash of every file, the version of Marp."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    hashes = {path.relative_to(folder).as_posix(): digest(path) for path in files}
    return hashes | json.loads((npm.TOOLS / "package.json").read_text())["dependencies"]


def build(folder: Path) -> None:
    """Build all three files in a prepared folder."""
    marp(folder, "--html", "--output", "lecture.html")
    finish(folder / "lecture.html")
    marp(folder, "--pdf", "--pdf-outlines", "--output", "lecture.pdf")
    marp(folder, "--pdf", "--pdf-outlines", "--pdf-notes", "--output", "lecture-notes.pdf")


def main() -> None:
    check_tools()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        built_from = sources(folder)
        build(folder)
        shutil.rmtree(SLIDES / "figures", ignore_errors=True)
        shutil.copytree(folder / "figures", SLIDES / "figures")
        for output in OUTPUTS:
            shutil.copy(folder / output, SLIDES)
    outputs = {name: digest(SLIDES / name) for name in OUTPUTS}
    stamp = {"sources": built_from, "outputs": outputs}
    (SLIDES / "built.json").write_text(json.dumps(stamp, indent=2) + "\n", encoding="utf-8")
    print(f"course: wrote {', '.join(OUTPUTS)} into {SLIDES}")


if __name__ == "__main__":
    main()
