"""A JupyterHub for a rehearsal, made of JupyterHub's own parts: see README.md beside this file."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
c = get_config()  # noqa: F821 - JupyterHub provides it
os.umask(0o077)  # the Hub's records, and what the students' servers write, are their owner's alone

if os.geteuid() == 0:  # each student has a Unix account, and its password
    c.JupyterHub.authenticator_class = "pam"
    c.JupyterHub.spawner_class = "localprocess"
    c.Authenticator.allowed_users = set(os.environ.get("CLASS_STUDENTS", "").split())
    c.LocalAuthenticator.create_system_users = os.environ.get("CLASS_ACCOUNTS") == "create"
    c.LocalAuthenticator.add_user_cmd = ["useradd", "--create-home", "--key", "HOME_MODE=0700"]
    c.Spawner.args = ["--KernelManager.transport=ipc"]  # no port that others could listen to
else:
    print(
        "course: not started as root, so all students are one Unix user, any password is right and"
        " everybody can read everything. For a rehearsal on your own machine, and for nothing else",
        file=sys.stderr,
    )
    c.JupyterHub.authenticator_class = "dummy"
    c.JupyterHub.spawner_class = "simple"
    c.SimpleLocalProcessSpawner.home_dir_template = str(Path.cwd() / "homes" / "{username}")

c.Authenticator.username_pattern = "^[a-z][a-z0-9-]*$"
c.Spawner.cmd = [sys.executable, "-m", "jupyterhub.singleuser"]
c.Spawner.default_url = "/lab"
c.Spawner.environment = {"OMP_NUM_THREADS": "1"}  # kernels share the cores: benchmarks/THREADS.md
c.Spawner.start_timeout = c.Spawner.http_timeout = 300  # a whole class starts at once
c.Spawner.poll_interval = 5  # seconds until a server that died is offered anew
c.JupyterHub.ip = "127.0.0.1"
c.JupyterHub.cleanup_servers = False  # servers and kernels go on while the Hub restarts
c.JupyterHub.concurrent_spawn_limit = 64
proxy = ROOT / "tools" / "node_modules" / ".bin" / "configurable-http-proxy"  # make node
c.ConfigurableHTTPProxy.command = [str(proxy)]

idle = os.environ.get("CLASS_IDLE_SECONDS", "3600")
culler = [sys.executable, "-m", "jupyterhub_idle_culler", f"--timeout={idle}"]
c.JupyterHub.services = [{"name": "idle-culler", "command": culler}]
scopes = ["list:users", "read:users:activity", "read:servers", "delete:servers"]
c.JupyterHub.load_roles = [{"name": "idle", "services": ["idle-culler"], "scopes": scopes}]
