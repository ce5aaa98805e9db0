"""Write the launch badges (Binder, nbgitpuller, Colab) of a public repository into README.md.

    python -m tools.launch_links owner/name [--branch main] [--hub https://hub.example.org]

A second call replaces them. The lines for Colab, further down, are told the repository too. Without
``--hub`` the badge of nbgitpuller opens the page that makes a link for any JupyterHub, filled in
for this course.
"""

import argparse
import re
from pathlib import Path
from urllib.parse import quote, urlencode, urlsplit

from tools import catalogue, marked

ROOT = Path(__file__).resolve().parents[1]
MARK = "launch badges"  # in the README
START = "notebooks/START.md"
# As GitHub allows them; a name of dots alone would be a path.
REPOSITORY = re.compile(r"[A-Za-z0-9](?:-?[A-Za-z0-9]){0,38}/(?!\.+$)[A-Za-z0-9._-]{1,100}")
BRANCH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")


def stop(message: str) -> None:
    """End with one line on stderr."""
    raise SystemExit(f"course: {message}")


def checked(repository: str, branch: str, hub: str) -> None:
    """Stop with one clear line at what cannot be part of an address."""
    if not REPOSITORY.fullmatch(repository) or repository.endswith(".git"):
        stop(f"owner/name of a GitHub repository is needed, this is {repository!r}")
    if not BRANCH.fullmatch(branch):
        stop(f"the name of a branch is needed, this is {branch!r}")
    if hub and not (urlsplit(hub).scheme in ("http", "https") and urlsplit(hub).hostname):
        stop(f"the address of a JupyterHub is needed, this is {hub!r}")


def badge(label: str, image: str, address: str) -> str:
    """A picture that is a link, in Markdown."""
    return f"[![{label}]({image})]({address})"


def badges(repository: str, branch: str = "main", hub: str = "") -> str:
    """One line for Binder, one for a JupyterHub, and one for each notebook on Colab."""
    name = repository.split("/")[1]
    binder = f"https://mybinder.org/v2/gh/{repository}/{quote(branch, safe='')}?"
    binder += urlencode({"urlpath": f"lab/tree/{START}"})
    pull = {"repo": f"https://github.com/{repository}", "branch": branch}
    pull["urlpath"] = f"lab/tree/{name}/{START}"
    if hub:
        puller = f"{hub.rstrip('/')}/hub/user-redirect/git-pull?{urlencode(pull)}"
    else:
        puller = f"https://nbgitpuller.readthedocs.io/en/latest/link.html?{urlencode(pull)}"
    shield = "https://img.shields.io/badge/JupyterHub-open-orange?logo=jupyter"
    colab = f"https://colab.research.google.com/github/{repository}/blob/{branch}/notebooks"
    image = "https://colab.research.google.com/assets/colab-badge.svg"
    lines = [
        badge("Open on Binder", "https://mybinder.org/badge_logo.svg", binder),
        badge("Open on a JupyterHub", shield, puller),
        *(
            badge(f"Open on Colab: {each.topic}", image, f"{colab}/{each.file}.ipynb")
            for each in catalogue.load()
        ),
    ]
    return "\n".join(lines)


def name_for_colab(text: str, repository: str) -> str:
    """Name the repository where the README says what Colab has to fetch."""
    return re.sub(r"(git clone --depth 1 https://github\.com/)\S+", rf"\g<1>{repository}", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("repository", metavar="owner/name")
    parser.add_argument("--branch", default="main")
    parser.add_argument("--hub", default="", help="address of the JupyterHub")
    arguments = parser.parse_args()
    checked(arguments.repository, arguments.branch, arguments.hub)
    lines = badges(arguments.repository, arguments.branch, arguments.hub)
    readme = ROOT / "README.md"
    text = name_for_colab(readme.read_text(encoding="utf-8"), arguments.repository)
    readme.write_text(marked.fill(text, {MARK: lines}), encoding="utf-8")


if __name__ == "__main__":
    main()
