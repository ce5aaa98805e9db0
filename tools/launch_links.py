"""Say in notebooks/catalogue.toml where the course is published, and fill what follows from it.

    python -m tools.launch_links owner/name [--branch main] [--hub https://hub.example.org]

A second call replaces what the first one wrote.
"""

import argparse
import json
import re

from tools import catalogue, fill_pages

# As GitHub allows them; a name of dots alone would be a path.
REPOSITORY = re.compile(r"[A-Za-z0-9](?:-?[A-Za-z0-9]){0,38}/(?!\.+$)[A-Za-z0-9._-]{1,100}")
BRANCH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")
HUB = re.compile(r"https?://[A-Za-z0-9.-]+(?::\d+)?(?:/[A-Za-z0-9._~/-]*)?")


def stop(message: str) -> None:
    """End with one line on stderr."""
    raise SystemExit(f"course: {message}")


def checked(repository: str, branch: str, hub: str) -> None:
    """Stop with one clear line at what cannot be part of an address."""
    if not REPOSITORY.fullmatch(repository) or repository.endswith(".git"):
        stop(f"owner/name of a GitHub repository is needed, this is {repository!r}")
    if not BRANCH.fullmatch(branch):
        stop(f"the name of a branch is needed, this is {branch!r}")
    if hub and not HUB.fullmatch(hub):
        stop(f"the address of a JupyterHub is needed, this is {hub!r}")


def publish(**facts: str) -> None:
    """Write repository, branch and hub into the catalogue, and keep everything else."""
    text = catalogue.CATALOGUE.read_text(encoding="utf-8")
    for key, value in facts.items():
        text = re.sub(rf"(?m)^{key} = .*$", f"{key} = {json.dumps(value)}", text, count=1)
    catalogue.CATALOGUE.write_text(text, encoding="utf-8", newline="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("repository", metavar="owner/name")
    parser.add_argument("--branch", default="main")
    parser.add_argument("--hub", default="", help="address of the JupyterHub")
    arguments = parser.parse_args()
    checked(arguments.repository, arguments.branch, arguments.hub)
    publish(**vars(arguments))
    fill_pages.main()
    print(f"course: commit and push this, then a tag v{catalogue.version()}, which Colab opens")


if __name__ == "__main__":
    main()
