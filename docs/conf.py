"""The web site's settings. tools/build_site.py lays out what Sphinx reads, and calls it."""

import os
import shutil
import tomllib
from pathlib import Path

DOCS = Path(__file__).resolve().parent
PACKAGES = DOCS.parent / "tools" / "node_modules"
SLIDES = ("lecture.html", "lecture.pdf", "lecture-notes.pdf")


catalogue = (DOCS.parent / "notebooks" / "catalogue.toml").read_text(encoding="utf-8")
published = tomllib.loads(catalogue)["published"]  # written by make links
repository = os.environ.get("COURSE_REPOSITORY", published["repository"])  # owner/name, or ""

project = "Deep learning architectures"
author = "the course's contributors"
copyright = "2026, the course's contributors. CC BY 4.0, pictures with digits CC BY-SA 3.0"
language = "en"  # in en_GB Sphinx lacks the words for the number of results of a search
extensions = ["myst_nb"]
include_patterns = [
    "index.md",
    "docs/*.md",
    "notebooks/*.ipynb",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "data/README.md",
    "benchmarks/*.md",
    "binder/jupyterhub/README.md",
]

nb_execution_mode = "off"  # the outputs are those that the notebooks store
nb_render_markdown_format = "myst"  # of outputs: tables and formulas as in the text
nb_ipywidgets_js = {}  # would come from a CDN; every slider has a static picture above it
nb_mime_priority_overrides = [("html", "image/gif", 15)]
suppress_warnings = ["mystnb.unknown_mime_type"]  # results for the slides have a plain text, too
nb_code_prompt_show = "Show the solution"  # nothing else is hidden
nb_code_prompt_hide = "Hide the solution"
myst_enable_extensions = ["deflist", "dollarmath"]
myst_dmath_double_inline = True
myst_heading_anchors = 3

# python -m tools.build_site --links
linkcheck_ignore = [r"https://doi\.org/"]  # they last; what they lead to turns programs away
linkcheck_anchors = False  # many are made by the page's own script
linkcheck_timeout = 30
linkcheck_retries = 3

html_theme = "sphinx_book_theme"
html_title = "Deep learning architectures"
html_static_path = ["_static"]
html_css_files = ["course.css"]
html_favicon = "_static/favicon.svg"
html_copy_source = True
html_show_sphinx = False
html_use_index = False  # there is nothing in it
html_theme_options = {
    "use_download_button": True,
    "use_fullscreen_button": False,
    "show_toc_level": 2,
    # Wide tables need the room: no contents beside the measurements.
    "secondary_sidebar_items": {
        "[!b]**": ["page-toc"],
        "binder/**": ["page-toc"],
    },
    "home_page_in_toc": True,
    "navbar_persistent": [],  # the search field is in the sidebar
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
if repository:
    html_theme_options |= {
        "repository_url": f"https://github.com/{repository}",
        "repository_branch": published["branch"],
        "use_repository_button": True,
        "launch_buttons": {
            "binderhub_url": "https://mybinder.org",
            "colab_url": "https://colab.research.google.com",
            "notebook_interface": "jupyterlab",
        },
    }

# MathJax from the npm package, beside the pages; Sphinx would load it from a CDN.
mathjax_path = "mathjax/tex-svg.js"
mathjax4_config = {
    "loader": {"paths": {"fonts": "[mathjax]/.."}},
    "output": {"displayOverflow": "linebreak"},  # a wide formula is wrapped, not scrolled
    "options": {
        "enableMenu": False,
        "menuOptions": {"settings": {"enrich": False, "speech": False, "assistiveMml": True}},
    },
}
MATHJAX = {
    "mathjax": shutil.ignore_patterns("*chtml*", "mml-*", "tex-mml-*", "node-*", "sre", "*.md"),
    "@mathjax/mathjax-newcm-font": shutil.ignore_patterns("chtml*", "cjs", "mjs", "def", "tex-*"),
}


def copy_files(app, error) -> None:
    """Put MathJax with its font, explorables and slides beside the pages."""
    if error or app.builder.name != "html":
        return
    out = Path(app.outdir)
    for package, ignore in MATHJAX.items():
        target = out / "_static" / Path(package).name
        shutil.copytree(PACKAGES / package, target, ignore=ignore, dirs_exist_ok=True)
    shutil.copytree(DOCS.parent / "explore", out / "explore", dirs_exist_ok=True)
    (out / "slides").mkdir(exist_ok=True)
    for name in SLIDES:
        shutil.copy(DOCS.parent / "slides" / name, out / "slides")


def setup(app) -> None:
    app.connect("build-finished", copy_files)
