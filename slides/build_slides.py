"""Build the lecture's slides: HTML, PDF and PDF with notes.

    python -m slides.build_slides

Needs Node and Chromium. Numbers and pictures of the slides after each notebook come out of the
executed notebooks (see ``slides.lecture``). Everything is made in ``build/slides``. All three files
carry a digest of their sources as a keyword.
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
from pathlib import Path

from PIL import Image

from slides import figures, lecture
from tools import npm

SLIDES = Path(__file__).resolve().parent
ROOT = SLIDES.parent
MARP = npm.PACKAGES / "@marp-team" / "marp-cli"
WHOLE = "0,0,100,100"
OUTPUTS = ("lecture.html", "lecture.pdf", "lecture-notes.pdf")
# Picture of a notebook, and the part that is shown: left, top, width, height in per cent.
PICTURE = re.compile(r"\((\w+/\w+\.(?:png|gif))(?:#xywh=percent:([\d,]+))?\)")


def stop(message: str) -> None:
    """End with one line on stderr."""
    raise SystemExit(f"course: {message}")


def check_tools() -> None:
    """Install Marp, or stop with one clear line where the slides cannot be built."""
    npm.install()
    if not npm.browser():
        stop("no Chromium was found. Remedy on Debian: sudo apt install chromium")


# ------------------------------------------------------------------ what the deck is made of


def digest(*parts: str) -> str:
    """Sixteen hexadecimal digits."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def sources() -> str:
    """Digest of what the deck is made of.

    Drawn figures are not, because another platform draws them with other bytes: their source and
    the pinned version of what draws them is.
    """
    text = lecture.source()
    pictures = [lecture.picture(name) for name, _ in PICTURE.findall(text)]
    files = [SLIDES / "theme.css", SLIDES / "figures.py", npm.TOOLS / "package.json"]
    theme, drawing, packages = (path.read_text(encoding="utf-8") for path in files)
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = re.search(r"^matplotlib==.+$", constraints, re.MULTILINE)[0]
    versions = [json.loads(packages)["dependencies"]["@marp-team/marp-cli"], pinned]
    return digest(text, theme, drawing, str(figures.PALETTE), *versions, *pictures)


def seal(page: str) -> str:
    """The HTML with its own digest at its end, so that a change by hand is noticed."""
    return f"{page}\n<!-- {digest(page)} -->\n"


def cut(name: str, part: str) -> Image.Image:
    """A picture of a notebook, or a part of it: left, top, width, height in per cent.

    Of an animation the last frame, for paper.
    """
    image = Image.open(io.BytesIO(base64.b64decode(lecture.picture(name))))
    image.seek(getattr(image, "n_frames", 1) - 1)
    left, top, width, height = (int(number) / 100 for number in (part or WHOLE).split(","))
    box = (left, top, left + width, top + height)
    return image.crop([round(a * b) for a, b in zip(box, image.size * 2, strict=True)])


def prepare(folder: Path, moving: bool = False) -> None:
    """Write everything that the slides are made of into a folder."""
    figures.draw(folder / "figures")
    text = lecture.source()
    for name, part in PICTURE.findall(text):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        cut(name, part).save(path)
        if moving and path.suffix == ".gif":
            path.write_bytes(base64.b64decode(lecture.picture(name)))
    text = PICTURE.sub(r"(\1)", text)
    keywords = f"keywords: [deep learning, built from {sources()}]"  # one alone Marp leaves out
    text = text.replace("---\n", f"---\n{keywords}\n", 1)
    (folder / "lecture.md").write_text(text, encoding="utf-8", newline="\n")
    shutil.copy(SLIDES / "theme.css", folder)


# ------------------------------------------------------------------ building


def marp(folder: Path, *options: str) -> None:
    """Run Marp on the prepared folder, or stop with its messages."""
    command = [shutil.which("node"), MARP / "marp-cli.js", "lecture.md", "--no-config-file"]
    command += ["--theme-set", "theme.css", "--allow-local-files", "--browser-path", npm.browser()]
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
    kinds = {".svg": "image/svg+xml", ".png": "image/png", ".gif": "image/gif"}

    def data(match: re.Match) -> str:
        image = page.parent / match[1]
        code = base64.b64encode(image.read_bytes()).decode()
        return f'src="data:{kinds[image.suffix]};base64,{code}"'

    text = re.sub(r'src="(\w+/\w+\.(?:svg|png|gif))"', data, page.read_text(encoding="utf-8"))
    start, *rest = re.split(r'(?<=role="img") (?=focusable)', text)
    labels = formulas((page.parent / "lecture.md").read_text(encoding="utf-8"))
    if len(labels) != len(rest):
        stop(f"lecture.md has {len(labels)} formulas, the HTML {len(rest)}: one is left as source")
    for label, part in zip(labels, rest, strict=True):
        start += f' aria-label="{html.escape(label)}" {part}'
    page.write_text(seal(start), encoding="utf-8", newline="\n")


def build(folder: Path) -> None:
    """Make everything in a folder that is new or empty."""
    folder.mkdir(parents=True, exist_ok=True)
    prepare(folder, moving=True)
    marp(folder, "--html", "--output", "lecture.html")
    finish(folder / "lecture.html")
    prepare(folder)
    marp(folder, "--pdf", "--pdf-outlines", "--output", "lecture.pdf")
    marp(folder, "--pdf", "--pdf-outlines", "--pdf-notes", "--output", "lecture-notes.pdf")


def main() -> None:
    check_tools()
    folder = ROOT / "build" / "slides"
    shutil.rmtree(folder, ignore_errors=True)
    build(folder)
    for output in OUTPUTS:
        shutil.copy(folder / output, SLIDES)
    print(f"course: wrote {', '.join(OUTPUTS)} into {SLIDES}")


if __name__ == "__main__":
    main()
