"""Build what Binder would build, as far as that goes without Docker, and measure it.

    python binder/rehearse.py [FOLDER]

Renders the Dockerfile with repo2docker's own library. Then, in FOLDER (default: build/binder), a
new environment stands for conda's, a copy of the committed and changed files for the repository,
and every RUN line that follows the copying is executed. At last JupyterLab is started as the image
would do it. The last line printed is the result as JSON; it is kept in binder/rehearsal.json, and
binder/README.md says it in words. Takes a few minutes and 2 GB.
"""

import contextlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "binder" / "README.md"
STORED = ROOT / "binder" / "rehearsal.json"
LIMIT = 2.5  # GB of installed packages


def build_pack(repository: Path):
    """The build pack that repo2docker chooses for a repository."""
    from repo2docker.app import Repo2Docker

    app = Repo2Docker(platform="linux/amd64")
    with contextlib.chdir(repository):
        for kind in app.buildpacks:
            pack = kind(base_image=app.base_image)
            if pack.detect():
                pack.platform = app.platform
                return pack
    raise SystemExit("course: repo2docker finds nothing to build")


def dockerfile(repository: Path) -> str:
    """What repo2docker would hand to Docker."""
    pack = build_pack(repository)
    with contextlib.chdir(repository):
        return pack.render()


def steps(text: str) -> tuple[list[str], list[str]]:
    """The RUN lines of a Dockerfile, before and after the repository is copied into the image."""
    lines = [line.strip() for line in re.split(r"(?<!\\)\n", text)]
    copied = next(i for i, line in enumerate(lines) if re.match(r"COPY .* src/ ", line))
    before, after = (
        [line.removeprefix("RUN").strip() for line in part if line.startswith("RUN ")]
        for part in (lines[:copied], lines[copied:])
    )
    return before, after


def copy_repository(target: Path) -> None:
    """Files that git knows or would take, as they are now."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def gigabytes(folder: Path) -> float:
    """Size on disk, links not followed."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*")) / 1e9


def start_page(environment: dict, home: Path) -> str:
    """Where the root of the server leads to."""
    port = "18888"
    command = ["jupyter", "lab", "--no-browser", f"--port={port}", "--port-retries=0"]
    command += ["--ip=127.0.0.1", "--IdentityProvider.token=rehearsal", "--allow-root"]
    server = subprocess.Popen(command, cwd=home, env=environment)
    try:
        while server.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/?token=rehearsal") as answer:
                    return answer.url
            except urllib.error.URLError:  # not listening yet
                time.sleep(0.5)
        raise SystemExit("course: JupyterLab did not start (see above)")
    finally:
        server.terminate()
        server.wait()


def missing_or_extra(python: Path) -> list[str]:
    """Requirements of pyproject.toml without what the tests need, against what is installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {str(Requirement(text)) for text in project["dependencies"]}
    ask = "import importlib.metadata as m, json; print(json.dumps(m.requires('course-utils')))"
    told = subprocess.run([python, "-I", "-c", ask], capture_output=True, check=True).stdout
    found = {str(Requirement(text)) for text in json.loads(told) if "extra ==" not in text}
    checked = subprocess.run([python, "-I", "-m", "pip", "check"], capture_output=True, text=True)
    return sorted(wanted ^ found) + checked.stdout.splitlines() * bool(checked.returncode)


def sentences(result: dict) -> str:
    """What was measured, in words."""
    return (
        f"The {result['steps that need Docker']} steps before (system packages, the user, conda's"
        " own base) need Docker and are only parsed.\n\n"
        f"Measured on {result['date']} ({result['system']}, Python {result['python']}, PyTorch"
        f" {result['torch']}): the environment with all dependencies of the course takes"
        f" **{result['gigabytes']:.2f} GB**, and the limit is {LIMIT} GB."
    )


def fill(text: str, result: dict) -> str:
    """The page with what was measured put between its two marks."""
    pattern = r"(<!-- measured -->\n).*(\n<!-- end -->)"
    words = sentences(result)
    text, count = re.subn(pattern, lambda m: m[1] + words + m[2], text, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"the page has {count} places for what was measured")
    return text


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build" / "binder").resolve()
    shutil.rmtree(folder, ignore_errors=True)
    home, conda = folder / "home", folder / "environment"
    home.mkdir(parents=True)
    copy_repository(home)
    text = dockerfile(home)
    (folder / "Dockerfile").write_text(text, encoding="utf-8")
    before, after = steps(text)
    wanted = build_pack(home).environment_yaml["dependencies"]
    version = build_pack(home).python_version
    subprocess.run([f"python{version}", "-m", "venv", conda], check=True)
    python = conda / "bin" / "python"
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "VIRTUAL"))}
    environment = keep | {"HOME": str(home), "PATH": f"{conda / 'bin'}:{os.environ['PATH']}"}
    others = [name for name in wanted if re.split("[=<>]", name)[0] not in ("python", "pip")]
    if others:
        subprocess.run([python, "-m", "pip", "install", "--quiet", *others], check=True)
    seconds = {}
    for step in after:
        start = time.perf_counter()
        subprocess.run(["sh", "-c", step], cwd=home, env=environment, check=True)
        seconds[step] = round(time.perf_counter() - start, 1)
    ask = "import torch; print(torch.__version__)"
    torch = subprocess.run([python, "-I", "-c", ask], capture_output=True, check=True, text=True)
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "system": platform.freedesktop_os_release()["PRETTY_NAME"],
        "python": version,
        "torch": torch.stdout.strip(),
        "gigabytes": round(gigabytes(conda), 2),
        "seconds": seconds,
        "steps that need Docker": len(before),
        "start page": start_page(environment, home).split("?")[0].split("/", 3)[3],
        "other than pyproject.toml": missing_or_extra(python),
    }
    print(json.dumps(result))
    if result["gigabytes"] > LIMIT or result["other than pyproject.toml"]:
        raise SystemExit(f"course: more than {LIMIT} GB, or other packages than pyproject.toml's")
    STORED.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    README.write_text(fill(README.read_text(encoding="utf-8"), result), encoding="utf-8")


if __name__ == "__main__":
    main()
