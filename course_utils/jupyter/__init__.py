"""What Jupyter's server does for the course; switched on when the course is installed.

``GET course`` makes the student's missing copies, and shows the first page. ``?folder=NAME`` is for
a course that lies in another folder than the installed one, such as a clone in a student's home.
"""

import os
import sys
from pathlib import Path
from urllib.parse import quote

from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.utils import url_path_join
from tornado.web import HTTPError, RedirectHandler, authenticated

from course_utils import copies
from course_utils.jupyter.saving import refuse_what_does_not_fit


class FirstPage(JupyterHandler):
    """The way into the course."""

    @authenticated
    def get(self) -> None:
        top = Path(self.serverapp.root_dir).resolve()
        folder = self.get_argument("folder", "")
        course = (top / folder).resolve() if folder else copies.ROOT
        if not course.is_relative_to(top) or not (course / "notebooks" / "START.md").is_file():
            raise HTTPError(404, f"no course in {course}. Start JupyterLab in the course's folder")
        try:
            copies.make(course)
        except OSError as error:  # the page shows it
            raise HTTPError(500, f"no copies in {course / 'work'} ({error})") from None
        page = (course / "work" / "START.md").relative_to(top).as_posix()
        self.redirect(url_path_join(self.base_url, "lab/workspaces/course/tree", quote(page)))


def _load_jupyter_server_extension(server) -> None:
    """Add the page; open it first where nothing else was asked for."""
    address = url_path_join(server.base_url, "course")
    server.web_app.add_handlers(".*$", [(address, FirstPage)])
    server.contents_manager.register_pre_save_hook(refuse_what_does_not_fit)
    # jupytext may put another manager in its place, which reads this.
    server.config.FileContentsManager.pre_save_hook = refuse_what_does_not_fit
    # JupyterLab is loaded after this, and looks there; a user's own custom.css comes first.
    for lab in server.extension_manager.extension_apps.get("jupyterlab", ()):
        lab.custom_css = True
    server.web_app.settings["static_custom_path"].append(str(Path(__file__).parent / "style"))
    # `!pip` in a notebook means the Python that Jupyter runs in.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    chosen = server.default_url != url_path_join(server.base_url, "lab")
    if not chosen and copies.ROOT.is_relative_to(Path(server.root_dir).resolve()):
        server.default_url = address
        top = [(server.base_url + "?", RedirectHandler, {"url": address, "permanent": False})]
        server.web_app.add_handlers(".*$", top)


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "course_utils.jupyter"}]
