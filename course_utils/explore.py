"""The explorables in a notebook: figures that answer to the hand, and compute in the page."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

from IPython.display import HTML

from course_utils.validation import require

EXPLORE = Path(__file__).resolve().parents[1] / "explore"
NAMES = sorted(path.stem for path in EXPLORE.glob("*.js") if (path.with_suffix(".png")).is_file())


def module(name: str) -> str:
    """The script of an explorable as a module with the interface of anywidget.

    Raises:
        ValueError: If there is no explorable of this name, or its data are damaged.
    """
    require(isinstance(name, str) and name in NAMES, "name", " or ".join(NAMES), name)
    parts = [(EXPLORE / "common.js").read_text(encoding="utf-8")]
    data = EXPLORE / f"{name}.data.js"
    if data.is_file():
        parts.append(data.read_text(encoding="utf-8"))
        try:
            json.loads(parts[-1].split(f"course.data.{name} = ")[1].rstrip("\n;"))
        except (IndexError, ValueError):
            raise ValueError(f"{data} is damaged. Remedy: fetch the course anew") from None
    parts.append((EXPLORE / f"{name}.js").read_text(encoding="utf-8"))
    return "\n".join([*parts, f"export default {{ render: course.{name}.render }};\n"])


def picture(name: str) -> str:
    """Its static picture, as HTML that needs no other file."""
    page = (EXPLORE / "index.html").read_text(encoding="utf-8")
    alt = re.search(rf'<img src="{name}\.png" alt="(.+?)">', page)[1]
    content = base64.b64encode((EXPLORE / f"{name}.png").read_bytes()).decode()
    return f'<img style="max-width: 100%" alt="{alt}" src="data:image/png;base64,{content}">'


def explore(name: str, start: Any = None) -> Any:
    """An explorable, to be the last line of a cell; without a kernel, its static picture.

    Args:
        name: Of a script in ``explore/``.
        start: Where it begins: for ``"doubt"`` a dictionary with ``points`` and ``settings``, for
            ``"digits"`` and ``"bend"`` a point z, for ``"elbo"`` mean and scale of q.
    """
    code, html = module(name), picture(name)
    try:
        import anywidget
        import traitlets
    except ImportError:  # an environment from before the explorables
        return HTML(f"<p>To move this figure: pip install anywidget, and run again.</p>{html}")

    class Explorable(anywidget.AnyWidget):
        _esm = code
        _css = (EXPLORE / "explore.css").read_text(encoding="utf-8")
        start = traitlets.Any().tag(sync=True)

        def _repr_mimebundle_(self, **options: Any) -> tuple[dict, dict]:
            data, metadata = super()._repr_mimebundle_(**options)
            return data | {"text/plain": f"explorable: {name}", "text/html": html}, metadata

    return Explorable(start=start)
