"""Do once, while an image is built, what every student would wait for.

    python -m binder.warm

Runs the first cells of every notebook: byte code, matplotlib's font cache, IPython's profile.
"""

from nbformat import NotebookNode

from tools import catalogue, notebook_sources, run_notebook


def head(name: str) -> NotebookNode:
    """A notebook up to its parameters."""
    notebook = notebook_sources.read(name)
    tags = [notebook_sources.tags(cell) for cell in notebook.cells]
    end = next(i for i, each in enumerate(tags) if "parameters" in each)
    notebook.cells = notebook.cells[: end + 1]
    return notebook


def main() -> None:
    for name in catalogue.files():
        seconds = run_notebook.execute(head(name))
        print(f"course: the first cells of {name} take {seconds:.1f} s", flush=True)


if __name__ == "__main__":
    main()
