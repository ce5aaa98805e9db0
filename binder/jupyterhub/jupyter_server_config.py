"""Each student's server: refuse a save that does not fit, before anything is overwritten."""

import json
import os
import shutil

from tornado.web import HTTPError

c = get_config()  # noqa: F821 - Jupyter provides it


def used(folder: str) -> int:
    """Bytes on disk below a folder."""
    files = (os.path.join(at, name) for at, _, names in os.walk(folder) for name in names)
    return sum(os.lstat(file).st_blocks * 512 for file in files)


def refuse_what_does_not_fit(model: dict, path: str, contents_manager, **_) -> None:
    """Raise 507 with a message that JupyterLab shows; twice the size: saving keeps a copy."""
    if model["type"] == "directory":
        return
    content = model["content"]
    size = len(content if isinstance(content, str) else json.dumps(content))
    home, limit = contents_manager.root_dir, int(os.environ["DISK_LIMIT"])
    free = min(limit - used(home), shutil.disk_usage(home).free)
    if 2 * size > free:
        raise HTTPError(
            507,
            f"{path} was not saved: your disk space is full. Saving needs {2 * size / 1e6:.1f} MB,"
            f" {max(free, 0) / 1e6:.1f} MB are free. The version saved last is unchanged, and"
            " nothing in this window is lost. Clear large outputs or delete files, then save"
            " again.",
        )


c.FileContentsManager.pre_save_hook = refuse_what_does_not_fit
# binder/overrides.json: no question about news, Markdown shown as it reads.
c.LabApp.app_settings_dir = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
c.LabApp.extension_manager = "readonly"  # nobody can install into the class's environment
# Sockets in the student's own folder: who is on this machine cannot listen to a kernel.
c.KernelManager.transport = "ipc"
