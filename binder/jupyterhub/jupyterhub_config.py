"""A JupyterHub for one class on one machine: see README.md beside this file.

Everything that a class may want to change is an environment variable that begins with CLASS_.
"""

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

import students  # noqa: E402

c = get_config()  # noqa: F821 - JupyterHub provides it
ROOT_USER = os.geteuid() == 0

folder = Path(os.environ.get("CLASS_DIR", "/srv/class" if ROOT_USER else "~/class")).expanduser()
teacher = os.environ.get("CLASS_TEACHER")
idle_seconds = int(os.environ.get("CLASS_IDLE_SECONDS", 3600))
repository = os.environ.get("CLASS_REPO")

# ------------------------------------------------------------------ folders
homes, private = folder / "homes", folder / "private"
for path, mode in ((folder, 0o711), (homes, 0o711), (private, 0o700)):
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)
c.JupyterHub.db_url = f"sqlite:///{private}/jupyterhub.sqlite"
c.JupyterHub.cookie_secret_file = str(private / "cookie_secret")
c.ConfigurableHTTPProxy.pid_file = str(private / "proxy.pid")
c.FirstUseAuthenticator.dbm_path = str(private / "passwords")

if ROOT_USER:
    for path in (folder, HERE, Path(sys.prefix), Path(sys.base_prefix)):
        if closed := students.closed_folder(path):
            raise SystemExit(
                f"course: students cannot use {path}, because only its owner may enter {closed}."
                " Remedy: put it where everyone may read, such as /opt or /srv"
            )
else:
    print(
        "course: not started as root, so all students share one Unix user and can read each"
        " other's files. Good for a rehearsal alone; start it as root for a class",
        file=sys.stderr,
    )

# ------------------------------------------------------------------ who may come in
try:
    names = students.read_class(folder / "students.txt")
except (OSError, ValueError) as error:
    raise SystemExit(f"course: {error}") from None
c.JupyterHub.authenticator_class = students.ClassAuthenticator
c.FirstUseAuthenticator.create_users = False  # who is not in the list has no first use
c.Authenticator.allowed_users = names
if teacher in names:
    raise SystemExit(f"course: {teacher!r} is in the class list, and would rule over the Hub")
c.Authenticator.admin_users = {teacher} if teacher else set()
c.Authenticator.username_pattern = f"^{students.NAME.pattern}$"

# ------------------------------------------------------------------ each student's server
c.JupyterHub.spawner_class = students.StudentSpawner
c.StudentSpawner.homes = str(homes)
c.StudentSpawner.disk_limit = os.environ.get("CLASS_DISK", "1G")
c.Spawner.mem_limit = os.environ.get("CLASS_MEMORY", "2G")
c.Spawner.environment = {"OMP_NUM_THREADS": os.environ.get("CLASS_THREADS", "1")}
c.Spawner.cmd = [sys.executable, "-m", "jupyterhub.singleuser"]
c.Spawner.args = [f"--config={HERE / 'jupyter_server_config.py'}"]
c.Spawner.default_url = students.start_page(repository)
c.Spawner.start_timeout = c.Spawner.http_timeout = 300  # a whole class starts at once
c.Spawner.poll_interval = 5  # seconds until a server that died is offered anew

# ------------------------------------------------------------------ the Hub itself
c.JupyterHub.ip = "127.0.0.1"  # --ip= and --port= on the command line change it
c.JupyterHub.cleanup_servers = False  # kernels go on while the Hub restarts
# While so many servers start, others read "Too many users trying to log in right now" and wait.
c.JupyterHub.concurrent_spawn_limit = 64
proxy = HERE / "node_modules" / ".bin" / "configurable-http-proxy"
if not proxy.exists():
    raise SystemExit(f"course: the proxy is missing. Remedy: npm ci in {HERE}")
c.ConfigurableHTTPProxy.command = [str(proxy)]
c.JupyterHub.services = [
    {
        "name": "idle-culler",
        "command": [
            sys.executable,
            "-m",
            "jupyterhub_idle_culler",
            f"--timeout={idle_seconds}",
        ],
    }
]
c.JupyterHub.load_roles = [
    {
        "name": "idle-culler",
        "services": ["idle-culler"],
        "scopes": ["list:users", "read:users:activity", "read:servers", "delete:servers"],
    }
]
