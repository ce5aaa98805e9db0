"""Wheels made here, so that pip has something to install without a network."""

import importlib.metadata as metadata
import zipfile
from pathlib import Path

WHEEL = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def pack(folder: Path, name: str, version: str, files: dict[str, bytes]) -> None:
    """Write a wheel for any machine; pip asks for RECORD, and not for what it says."""
    stem = f"{name.replace('-', '_')}-{version}"
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
        files = {
            f"{module}/__init__.py": f"__version__ = {version!r}\n".encode(),
            f"{info}/METADATA": about.encode(),
            f"{info}/WHEEL": WHEEL.encode(),
        }
        pack(folder, name, version, files)


def real_wheel(folder: Path, name: str) -> None:
    """An installed distribution of pure Python, as the wheel that it came from."""
    found = metadata.distribution(name)
    inside = {  # neither scripts (``../../../bin/pip``) nor what was made when it was installed
        path.as_posix(): path.read_binary()
        for path in found.files
        if ".." not in path.parts and path.suffix != ".pyc"
        and path.name not in {"RECORD", "INSTALLER", "REQUESTED"}
    }  # fmt: skip
    pack(folder, found.name, found.version, inside)
