"""Where the course's files come from, where they lie, and what they must hash to."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

from course_utils.validation import require

DATA_DIR = Path(__file__).resolve().parents[2] / "data"


class Source(NamedTuple):
    """Where a file comes from and what it must hash to."""

    url: str
    sha256: str
    bundled: bool


SOURCES = {
    "winequality-red.csv": Source(
        "https://doi.org/10.24432/C56S3T",
        "34a629542e4b23f86998e887f068b66eef4c797d2d48a1a3b46c6bfebd7e06e4",
        bundled=True,
    ),
    "winequality-white-400.csv": Source(
        "https://doi.org/10.24432/C56S3T",
        "5c5af242bdb36709fa94370fad91677877c49edb1654627bc237e0c55139c0b4",
        bundled=True,
    ),
    "winequality-white.csv": Source(
        "https://archive.ics.uci.edu/ml/machine-learning-databases/wine-quality/winequality-white.csv",
        "76c3f809815c17c07212622f776311faeb31e87610d52c26d87d6e361b169836",
        bundled=False,
    ),
    "mnist-20000.npz": Source(
        "http://yann.lecun.com/exdb/mnist/",
        "97aa4d15d1e3c1090729aba049f07b9e8251e87d0fe12984cc9990f083a8988a",
        bundled=True,
    ),
    "mnist.npz": Source(
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz",
        "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1",
        bundled=False,
    ),
}


def command(*words: str) -> str:
    """A command line to paste into JupyterLab's terminal, which is PowerShell on Windows."""
    if os.name != "nt":
        return shlex.join(words)
    plain = re.compile(r"[\w.:/\\=-]+")
    quoted = [w if plain.fullmatch(w) else "'" + w.replace("'", "''") + "'" for w in words]
    return " ".join(["&", *quoted] if quoted[0].startswith("'") else quoted)


def cache_dir() -> Path:
    """Folder of downloaded files: ``COURSE_DATA_DIR``, or the user's cache when that is not set."""
    if chosen := os.environ.get("COURSE_DATA_DIR"):
        return Path(os.path.expanduser(os.path.expandvars(chosen)))  # "~" where no shell did it
    import pooch

    return Path(pooch.os_cache("bayesian-deep-learning-course"))


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def locate(name: str) -> Path:
    """Find a data file and check its hash; download it when it is not a bundled one.

    Args:
        name: A key of ``SOURCES``.

    Returns:
        The path of a file whose SHA-256 is the one in ``SOURCES``.

    Raises:
        FileNotFoundError: If a bundled file is missing, or a download fails (nothing stays behind).
        ValueError: If the name is unknown, or the file was altered. An altered download is
            removed, a bundled file is not.
    """
    require(isinstance(name, str) and name in SOURCES, "name", f"one of {[*SOURCES]}", name)
    source = SOURCES[name]
    git = shutil.which("git") and (DATA_DIR.parent / ".git").exists()
    restore = command("git", "-C", str(DATA_DIR.parent), "checkout", "--", f"data/{name}")
    restore = restore if git else f"put {name} from a fresh download of the course into {DATA_DIR}"
    path = (DATA_DIR if source.bundled else cache_dir()) / name
    if not os.path.isfile(path):  # unlike Path.is_file, false also for a path that cannot exist
        if source.bundled:
            raise FileNotFoundError(
                f"{path} is missing. It belongs to the course (source: {source.url}). "
                f"Remedy: {restore}"
            )
        _download(source, path)
    found = sha256(path)
    if found != source.sha256:
        if source.bundled:
            remedy = restore
        else:
            with contextlib.suppress(OSError):  # gone already, or not ours to remove
                path.unlink()
            removed = "remove the file" if path.exists() else "the file has been removed"
            remedy = f"{removed}; call again to download it"
        raise ValueError(
            f"{path} was altered: expected SHA-256 {source.sha256}, found {found}. Remedy: {remedy}"
        )
    return path


def _download(source: Source, path: Path) -> None:
    """Download beside ``path``; the file takes that name only when its hash is right."""
    import pooch

    try:
        pooch.retrieve(
            source.url, f"sha256:{source.sha256}", path.name, path.parent, progressbar=True
        )
    except ValueError as error:  # pooch's message names the expected and the found hash
        raise ValueError(
            f"{source.url} delivered something else: {error} Nothing was kept. "
            f"Remedy: try again later, or put the right file at {path}"
        ) from error
    except (OSError, RuntimeError) as error:  # no network, permission or space; a loop of links
        raise FileNotFoundError(
            f"{path} is missing and could not be downloaded from {source.url} "
            f"({type(error).__name__}: {error}). Remedy: connect and call again, or put the file "
            "there by hand; the environment variable COURSE_DATA_DIR chooses another folder"
        ) from error
