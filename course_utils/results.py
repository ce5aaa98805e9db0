"""Results of a notebook that the lecture's slides show."""

from IPython.display import display

MIME = "application/vnd.course.results+json"


def bundle(**results: str) -> dict[str, str | dict[str, str]]:
    """The same results as data, and as a sentence for readers.

    Args:
        results: Numbers by name, written as the slide shall show them.

    Returns:
        Contents of an output cell by MIME type.

    Example:
        >>> bundle(linear="-0.995 ± 0.017", mean_field="-0.957 ± 0.013")["text/plain"]
        'On the lecture’s slides: linear -0.995 ± 0.017; mean field -0.957 ± 0.013'
    """
    sentence = "; ".join(f"{name.replace('_', ' ')} {text}" for name, text in results.items())
    return {MIME: results, "text/plain": f"On the lecture’s slides: {sentence}"}


def publish(**results: str) -> None:
    """Show results in a cell that is tagged ``slides``; the lecture calls them by their names."""
    display(bundle(**results), raw=True)
