"""Who the students are, and what each gets: a Unix user, a private home, and hard limits."""

import os
import pwd
import re
import resource
from pathlib import Path
from urllib.parse import urlencode

from firstuseauthenticator import FirstUseAuthenticator
from jupyterhub.spawner import LocalProcessSpawner
from jupyterhub.traitlets import ByteSpecification
from traitlets import Unicode

NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
LONGEST_PASSWORD = 72  # bytes, of bcrypt
FIRST_UID, LAST_UID = 40_000, 49_999  # no distribution gives these to accounts


def read_class(path: Path) -> set[str]:
    """The students of a class list: one name a line, ``#`` begins a comment.

    Args:
        path: The list.

    Returns:
        The names in lower case, as the Hub knows them.

    Raises:
        FileNotFoundError: If there is no list.
        ValueError: If a name cannot be used, or if two are one name to the Hub.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. Remedy: write one student's name on each line")
    names: dict[str, int] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        name = line.partition("#")[0].strip().lower()
        if not name:
            continue
        if not NAME.fullmatch(name):
            raise ValueError(
                f"{path.name}, line {number}: {name!r} is no name that can be used."
                " Remedy: a letter, then at most 31 letters, digits, - or _, without accents"
            )
        if name in names:
            raise ValueError(
                f"{path.name}, lines {names[name]} and {number}: both students are {name!r} to the"
                f" Hub, which ignores case. Remedy: call one of them {name}2"
            )
        names[name] = number
    return set(names)


def start_page(repository: str | None) -> str:
    """Where a server opens: JupyterLab, or first nbgitpuller, which updates the course."""
    if not repository:
        return "/lab"
    name = repository.rstrip("/").rpartition("/")[2].removesuffix(".git")
    target = {"repo": repository, "targetpath": name, "urlpath": f"lab/tree/{name}/notebooks"}
    return f"/git-pull?{urlencode(target)}"


def closed_folder(path: Path) -> Path | None:
    """The topmost folder on the way to a path that other Unix users may not enter, if any."""
    path = path.resolve()
    ways = [*reversed(path.parents), path]
    return next((folder for folder in ways if not folder.stat().st_mode & 0o001), None)


def make_home(homes: Path, name: str) -> tuple[Path, int]:
    """Make a student's home, unless it is there; nobody else may enter it.

    The home's owner is the record of who has which user number, so it outlives the Hub's database.

    Args:
        homes: Folder of all homes.
        name: The student's name.

    Returns:
        The home, and the number of the Unix user that owns it: when this process is root, one that
        no other student and no account has; else its own.

    Raises:
        RuntimeError: If all user numbers are taken.
    """
    home = homes / name
    home.mkdir(mode=0o700, exist_ok=True)
    owner = home.stat().st_uid
    if os.geteuid() == 0 and owner == 0:
        taken = {other.stat().st_uid for other in homes.iterdir()}
        taken |= {account.pw_uid for account in pwd.getpwall()}
        owner = next((uid for uid in range(FIRST_UID, LAST_UID + 1) if uid not in taken), None)
        if owner is None:
            raise RuntimeError(f"every user number from {FIRST_UID} to {LAST_UID} is taken")
        os.chown(home, owner, owner)
    home.chmod(0o700)
    return home, owner


class ClassAuthenticator(FirstUseAuthenticator):
    """The first password that a student of the list gives is the student's password."""

    async def authenticate(self, handler, data: dict) -> str | None:
        """Refuse what bcrypt cannot take, in place of failing."""
        if len(data["password"].encode()) > LONGEST_PASSWORD:
            handler.custom_login_error = f"Password longer than {LONGEST_PASSWORD} bytes"
            return None
        return await super().authenticate(handler, data)


class StudentSpawner(LocalProcessSpawner):
    """Local processes under limits; ``mem_limit`` holds for each process, not for their sum."""

    homes = Unicode(help="Folder of all homes").tag(config=True)
    disk_limit = ByteSpecification(help="Bytes in a home, and in one file").tag(config=True)

    def user_env(self, env: dict) -> dict:
        """Without an account there is no entry to read these from."""
        home = str(Path(self.homes) / self.user.name)
        return env | {
            "HOME": home,
            "USER": self.user.name,
            "LOGNAME": self.user.name,
            "SHELL": "/bin/bash",
            "DISK_LIMIT": str(self.disk_limit),
            "JUPYTER_RUNTIME_DIR": f"{home}/.run",  # short: it holds sockets
        }

    def make_preexec_fn(self, name: str):
        """What the new process does before it becomes the student's server."""
        home, uid = make_home(Path(self.homes), name)
        memory, disk = self.mem_limit, self.disk_limit
        isolated = os.geteuid() == 0

        def become_student():
            resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
            resource.setrlimit(resource.RLIMIT_FSIZE, (disk, disk))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            if isolated:
                os.setgroups([])
                os.setgid(uid)
                os.setuid(uid)
            os.umask(0o077)
            os.chdir(home)

        return become_student
