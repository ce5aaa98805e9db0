"""Wheels made here, so that pip has something to install without a network."""

import importlib.metadata as metadata
import tomllib
import zipfile
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
NEEDED = {canonicalize_name(Requirement(text).name) for text in PROJECT["project"]["dependencies"]}
PINS = [Requirement(pin) for pin in (ROOT / "constraints.txt").read_text("utf-8").splitlines()]
PINNED = {  # the tested versions on this Python
    canonicalize_name(pin.name): str(pin.specifier).removeprefix("==")
    for pin in PINS
    if not pin.marker or pin.marker.evaluate()
}
WHEEL = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def pack(folder: Path, stem: str, files: dict[str, bytes | str]) -> None:
    """Write a wheel for any machine; pip asks for RECORD, and not for what it says."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        for path, content in files.items():
            wheel.writestr(path, content)
        record = [f"{path},,\n" for path in [*files, f"{stem}.dist-info/RECORD"]]
        wheel.writestr(f"{stem}.dist-info/RECORD", "".join(record))


def stub_wheels(folder: Path, versions: dict[str, str], requires: str = "") -> None:
    """Packages that hold nothing but their version; ``some-name`` is imported as ``some_name``."""
    for name, version in versions.items():
        module = name.replace("-", "_")
        info = f"{module}-{version}.dist-info"
        about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        about += f"Requires-Dist: {requires}\n" if requires else ""
        code = f"__version__ = {version!r}\n"
        files = {f"{module}/__init__.py": code, f"{info}/METADATA": about, f"{info}/WHEEL": WHEEL}
        pack(folder, f"{module}-{version}", files)


def real_wheel(folder: Path, name: str) -> None:
    """An installed distribution of pure Python, as the wheel that it came from."""
    found = metadata.distribution(name)
    made = {"RECORD", "INSTALLER", "REQUESTED"}  # when it was installed
    inside = {
        path.as_posix(): path.read_binary()
        for path in found.files
        if ".." not in path.parts and path.suffix != ".pyc" and path.name not in made
    }
    pack(folder, f"{found.name}-{found.version}", inside)
