"""What a full disk must not do to a notebook."""

import json
import shutil

from jupyter_server.services.contents.manager import ContentsManager
from tornado.web import HTTPError


def refuse_what_does_not_fit(
    model: dict, path: str, contents_manager: ContentsManager, **_: object
) -> None:
    """Raise an error, which JupyterLab shows, before a save overwrites anything.

    Jupyter keeps a copy while it saves, and puts it back when writing fails; but not when only the
    last few kilobytes did not fit.
    """
    size = len(json.dumps(model.get("content") or "", indent=1))
    free = shutil.disk_usage(contents_manager.root_dir).free
    if size and 2 * size > free:
        raise HTTPError(
            507,
            f"{path} was not saved, because the disk is full: {2 * size / 1e6:.1f} MB are needed,"
            f" {free / 1e6:.1f} MB are free. The version saved last is unchanged, and nothing in"
            " this window is lost. Delete files or clear large outputs, then save again.",
        )
