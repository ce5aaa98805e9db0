"""Say in notebooks/catalogue.toml where the course is published, and fill what follows from it.

    python -m tools.launch_links owner/name [--branch main] [--hub https://hub.example.org]

A second call replaces what the first one wrote.
"""

import argparse
import json
import re

from tools import catalogue, fill_pages

ARGUMENTS = {  # what is needed, and what can be part of an address
    # As GitHub allows them; a name of dots alone would be a path.
    "repository": (
        "owner/name of a GitHub repository",
        r"[A-Za-z0-9](-?[A-Za-z0-9]){0,38}/(?!\.+$)[\w.-]{1,100}(?<!\.git)",
    ),
    "branch": ("the name of a branch", r"[A-Za-z0-9][\w./-]*"),
    "hub": ("the address of a JupyterHub", r"(https?://[A-Za-z0-9.-]+(:\d+)?(/[\w.~/-]*)?)?"),
}


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
    facts = vars(parser.parse_args())
    for key, (needed, pattern) in ARGUMENTS.items():
        if not re.fullmatch(pattern, facts[key], re.ASCII):
            raise SystemExit(f"course: {needed} is needed, this is {facts[key]!r}")
    publish(**facts)
    fill_pages.main()
    print(f"course: commit and push this, then a tag v{catalogue.version()}, which Colab opens")


if __name__ == "__main__":
    main()
