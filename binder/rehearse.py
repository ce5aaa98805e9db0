"""Build what Binder would build, as far as that goes without Docker, and measure it.

Renders the Dockerfile with repo2docker's own library. Then, in build/binder, a new environment
stands for conda's, a copy of the committed and changed files for the repository, and every RUN line
that follows the copying is executed. What was measured is kept in rehearsal.json, and ``make
pages`` puts it into README.md. Takes a few minutes and 2 GB.
"""

import contextlib
import json
import os
import platform
import re
import shutil
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STORED = ROOT / "binder" / "rehearsal.json"
LIMIT = 2.5  # GB of installed packages


def build_pack(repository: Path):
    """The build pack that repo2docker chooses for a repository."""
    from repo2docker.app import Repo2Docker

    app = Repo2Docker(platform="linux/amd64")
    with contextlib.chdir(repository):
        packs = (kind(base_image=app.base_image) for kind in app.buildpacks)
        pack = next(pack for pack in packs if pack.detect())
    pack.platform = app.platform
    return pack


def dockerfile(repository: Path) -> str:
    """What repo2docker would hand to Docker."""
    pack = build_pack(repository)
    with contextlib.chdir(repository):
        return pack.render()


def steps(text: str) -> tuple[list[str], list[str]]:
    """The RUN lines of a Dockerfile, before and after the repository is copied into the image."""
    lines = [line.strip() for line in re.split(r"(?<!\\)\n", text)]
    copied = next(i for i, line in enumerate(lines) if re.match(r"COPY .* src/ ", line))
    parts = lines[:copied], lines[copied:]
    return tuple([line[4:].strip() for line in part if line.startswith("RUN ")] for part in parts)


def copy_repository(target: Path) -> None:
    """Files that git knows or would take, as they are now; without git, all that are not built."""
    if not (ROOT / ".git").exists():
        built = (".venv", "build", "work", "wheels", "node_modules", "__pycache__", ".*_cache")
        shutil.copytree(ROOT, target, ignore=shutil.ignore_patterns(*built), dirs_exist_ok=True)
        return
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def measured() -> dict[str, str]:
    """What is stored, in words, for README.md."""
    stored = json.loads(STORED.read_text(encoding="utf-8"))
    words = (
        f"The {stored['steps that need Docker']} steps before (system packages, the user, conda's"
        " own base) need Docker and are only parsed.\n\n"
        f"Measured on {stored['date']} ({stored['system']}, Python {stored['python']}, PyTorch"
        f" {stored['torch']}): the environment with all dependencies of the course takes"
        f" **{stored['gigabytes']:.2f} GB**, and the limit is {LIMIT} GB."
    )
    return {"measured": words}


def main() -> None:
    folder = ROOT / "build" / "binder"
    shutil.rmtree(folder, ignore_errors=True)
    home, conda = folder / "home", folder / "environment"
    home.mkdir(parents=True)
    copy_repository(home)
    before, after = steps(dockerfile(home))
    pack = build_pack(home)
    subprocess.run([f"python{pack.python_version}", "-m", "venv", conda], check=True)
    python = conda / "bin" / "python"
    given = pack.environment_yaml["dependencies"]
    others = [name for name in given if not name.startswith(("python", "pip"))]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *others], check=True)
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "VIRTUAL"))}
    environment = keep | {"HOME": str(home), "PATH": f"{conda / 'bin'}:{os.environ['PATH']}"}
    seconds = {}
    for step in after:
        start = time.perf_counter()
        subprocess.run(["sh", "-c", step], cwd=home, env=environment, check=True)
        seconds[step] = round(time.perf_counter() - start, 1)
    subprocess.run([python, "-I", "-m", "pip", "check"], check=True)
    ask = [python, "-I", "-c", "import torch; print(torch.__version__)"]
    torch = subprocess.run(ask, capture_output=True, check=True, text=True).stdout.strip()
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "system": platform.freedesktop_os_release()["PRETTY_NAME"],
        "python": pack.python_version,
        "torch": torch,
        "gigabytes": round(sum(p.lstat().st_blocks * 512 for p in conda.rglob("*")) / 1e9, 2),
        "seconds": seconds,
        "steps that need Docker": len(before),
    }
    if result["gigabytes"] > LIMIT:
        raise SystemExit(f"course: more than {LIMIT} GB: {result}")
    STORED.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
