"""Parts of a page between ``<!-- NAME -->`` and ``<!-- /NAME -->`` (behind ``# `` in YAML)."""

import re


def fill(text: str, parts: dict[str, str]) -> str:
    """Put each part between its marks.

    Args:
        text: The page.
        parts: Contents by name.

    Returns:
        The page with these contents.

    Raises:
        ValueError: If the page does not have exactly one place for a part.
    """
    for name, content in parts.items():
        pattern = rf"(<!-- {name} -->\n).*?((?:# )?<!-- /{name} -->)"
        text, count = re.subn(
            pattern,
            lambda found, new=content: f"{found[1]}{new}\n{found[2]}",
            text,
            flags=re.DOTALL,
        )
        if count != 1:
            raise ValueError(f"the page has {count} places for <!-- {name} -->, not one")
    return text
