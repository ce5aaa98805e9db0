"""Make build/baselines: the course's packages, and beside them those that it is compared with.

    python -m benchmarks.baselines.install

The packages of the Python that runs this file stay where they are and are seen from the new
environment; nothing is installed twice. A second call returns at once.
"""

import hashlib
import subprocess
import sys
import sysconfig
from pathlib import Path

HERE = Path(__file__).resolve().parent
TARGET = HERE.parents[1] / "build" / "baselines"
NEEDED = HERE / "requirements.txt"


def main() -> None:
    course = sysconfig.get_path("purelib")
    stamp = TARGET / "installed"
    wanted = hashlib.sha256(NEEDED.read_bytes() + course.encode()).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", TARGET], check=True)
    paths = {"base": str(TARGET), "platbase": str(TARGET)}
    own = Path(sysconfig.get_path("purelib", scheme="venv", vars=paths))
    # addsitedir, unlike a plain path, also reads the .pth file of the course's editable install.
    (own / "course.pth").write_text(f"import site; site.addsitedir({course!r})\n")
    python = TARGET / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    options = ["--quiet", "--no-deps", "--requirement", NEEDED]
    if subprocess.run([*pip, "install", *options]).returncode:
        raise SystemExit("course: the packages could not be installed (see above)")
    stamp.write_text(wanted)


if __name__ == "__main__":
    main()
