"""The guides: in step with notebooks, slides and checks; spelling, links, licences, citation."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema
import nbformat
import pytest
import yaml

from tests.requirements import need
from tools import clean, notebook_sources, spelling
from tools import launch_links as links

ROOT = Path(__file__).resolve().parents[1]
NAMES = ["bayesian_neural_networks_wine", "var_mod", "flows"]
GUIDE = (ROOT / "docs" / "instructor.md").read_text(encoding="utf-8")
PAGES = re.split(
    r"^---$", (ROOT / "slides" / "lecture.md").read_text(encoding="utf-8"), flags=re.MULTILINE
)[2:]
MINUTES = [int(re.search(r"^Minutes: (\d+)", page, re.MULTILINE)[1]) for page in PAGES]
ADDRESS = re.compile(r"https?://[^\s<>\"'`)\]}|]+")


def markdown(name: str) -> str:
    cells = notebook_sources.read(name).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def tables(text: str) -> list[list[dict[str, str]]]:
    """The Markdown tables of a text; each row a dictionary by column title."""
    found = []
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        rows = [
            [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
            for row in block.split("\n")
        ]
        head, _, *body = [row for row in rows if len(row) > 1]
        found.append([dict(zip(map(str.strip, head), row, strict=True)) for row in body])
    return found


def section_minutes(name: str) -> dict[str, int]:
    """Minutes of each section, from the table at the head of the notebook."""
    rows = tables(markdown(name).split("\n# ")[0])[0]
    column = next(title for title in rows[0] if "minutes" in title)
    return {row["section"]: int(row[column]) for row in rows}


def sections(name: str) -> list[str]:
    """Titles of the numbered sections."""
    return re.findall(r"^## (\d+\W.+)$", markdown(name), re.MULTILINE)


def exercises(name: str) -> dict[str, int]:
    """Minutes of each exercise by its number."""
    heads = re.findall(r"^### Exercise (\w+).*$", markdown(name), re.MULTILINE)
    minutes = re.findall(r"^### Exercise .*?\((\d+) minutes\)", markdown(name), re.MULTILINE)
    return dict(zip(heads, map(int, minutes), strict=True))


def guide_sections() -> dict[str, str]:
    """The guide's text for each section of a notebook, by title."""
    body = GUIDE.split("## Notebook 1:")[1].split("## The exercises")[0]
    parts = re.split(r"^### (.+)$", body, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


# ------------------------------------------------------------------ the instructor's guide


@pytest.mark.parametrize("minutes", [90, 180])
def test_a_plan_adds_up_and_agrees_with_the_speaker_notes(minutes):
    plan = GUIDE.split(f"## The plan for {minutes} minutes")[1].split("\n## ")[0]
    rows = tables(plan)[0]
    clock, shown = 0, []
    for row in rows:
        hours, rest = row["from"].split(":")
        assert 60 * int(hours) + int(rest) == clock, row
        clock += int(row["minutes"])
        if not row["slides"]:
            continue
        first, last = (int(n) for n in (row["slides"].split("–") * 2)[:2])
        shown += range(first, last + 1)
        if minutes == 90 or "Notebook" not in row["what"]:
            assert int(row["minutes"]) == sum(MINUTES[first - 1 : last]), row
    assert clock == minutes and shown == list(range(1, len(PAGES) + 1))


def test_the_long_plan_fills_the_time_in_each_notebook():
    plan = GUIDE.split("## The plan for 180 minutes")[1].split("\n## ")[0]
    whole, parts = tables(plan)
    for row in whole:
        if number := re.fullmatch(r"Notebook (\d)", row["what"]):
            inside = [part for part in parts if part["notebook"] == number[1]]
            assert sum(int(part["minutes"]) for part in inside) == int(row["minutes"]), row
            for part in inside:
                for section in re.findall(r"[Ss]ections? (\d+)", part["what"]):
                    assert any(
                        re.match(rf"{section}\W", t) for t in sections(NAMES[int(number[1]) - 1])
                    )


def test_the_guide_has_every_section_of_every_notebook_with_its_minutes():
    found = guide_sections()
    wanted = [title for name in NAMES for title in sections(name)]
    assert list(found) == wanted
    for title, text in found.items():
        for word in ("Say", "Skip", "Ask", "Expect"):
            answer = re.search(rf"^- \*\*{word}:\*\* (.+)", text, re.MULTILINE)
            assert answer, (title, word)
    for name in NAMES:
        for section, minutes in section_minutes(name).items():
            number = re.match(r"\d+", section)[0]
            title = next(t for t in sections(name) if re.match(rf"{number}\W", t))
            stated = re.search(r"^(\d+) minutes", found[title], re.MULTILINE)
            assert stated and int(stated[1]) == minutes, (name, section)


def test_the_guide_has_every_exercise_with_its_minutes_and_what_its_check_answers():
    rows = tables(GUIDE.split("## The exercises")[1].split("\n## ")[0])[0]
    stated = [(r["notebook"], r["exercise"].split()[0], int(r["minutes"])) for r in rows]
    wanted = [(str(i), n, m) for i, name in enumerate(NAMES, 1) for n, m in exercises(name).items()]
    assert stated == wanted
    messages = (ROOT / "course_utils" / "checks.py").read_text(encoding="utf-8")
    column = list(rows[0])[-1]
    for row in rows:
        quoted = re.search(r"\*([^*]+)\*$", row[column])
        assert quoted and quoted[1] in messages, row


def test_parameters_named_in_the_guide_exist():
    rows = tables(GUIDE.split("## Change data, seeds and run times")[1].split("\n## ")[0])[0]
    sources = "".join((ROOT / "notebooks" / f"{n}.py").read_text(encoding="utf-8") for n in NAMES)
    named = {name for row in rows for name in re.findall(r"`([A-Z_]+)`", row["change"])}
    assert len(named) > 8
    for name in named:
        assert re.search(rf"^{name} = ", sources, re.MULTILINE), name


# ------------------------------------------------------------------ README, student's page


@pytest.mark.parametrize("path", ["README.md", "docs/student.md"])
def test_stated_durations_are_the_sums_of_the_notebooks(path):
    text = (ROOT / path).read_text(encoding="utf-8")
    rows = next(t for t in tables(text) if "reading and running" in t[0])
    assert len(rows) == 3
    for name, row in zip(NAMES, rows, strict=True):
        assert f"notebooks/{name}.ipynb" in row["notebook"]
        assert row["reading and running"] == f"{sum(section_minutes(name).values())} minutes"
        assert row["exercises"] == f"{sum(exercises(name).values())} minutes"


def test_computing_time_of_the_wine_notebook_is_the_sum_of_its_table():
    head = markdown(NAMES[0]).split("\n# ")[0]
    rows = tables(head)[0]
    assert 75 <= sum(int(row["seconds on a CPU"]) for row in rows) <= 105  # a minute and a half


@pytest.mark.parametrize("name", NAMES)
def test_the_introduction_says_how_long_the_exercises_take(name):
    minutes = exercises(name)
    assert len(minutes) == 7
    sentence = f"The seven exercises take another {sum(minutes.values())} minutes"
    assert sentence in " ".join(markdown(name).split())


def test_picture_of_the_readme_is_the_one_in_the_notebook():
    from tools import build_site as website

    assert (ROOT / "docs" / "picture.png").read_bytes() == website.picture(), "Remedy: make site"


def test_self_check_has_five_questions_with_folded_answers():
    page = (ROOT / "docs" / "student.md").read_text(encoding="utf-8")
    part = page.split("### Test yourself")[1].split("\n## ")[0]
    assert re.findall(r"^\*\*(\d)\.\*\*", part, re.MULTILINE) == list("12345")
    assert part.count("<details><summary>Answer</summary>") == part.count("</details>") == 5
    assert f"{0.9 * 0.01 / (0.9 * 0.01 + 0.1 * 0.99):.3f}" in part  # question 2


def test_glossary_names_what_the_code_has():
    page = (ROOT / "docs" / "student.md").read_text(encoding="utf-8")
    rows = tables(page.split("## Glossary")[1].split("\n## ")[0])[0]
    terms = [row["term"].lower() for row in rows]
    assert terms == sorted(terms) and len(set(terms)) == len(terms) > 30
    code = "".join((ROOT / "notebooks" / f"{n}.py").read_text(encoding="utf-8") for n in NAMES)
    for word in ("coverage", "mixture_crps", "log_bernoulli", "Coupling", "log_abs_det_jacobian"):
        assert word in code and word in page


# ------------------------------------------------------------------ language and links


def need_cspell() -> None:
    """Node and the checker."""
    installed = (spelling.DOCS / "node_modules" / "cspell").is_dir()
    need(shutil.which("node") and installed, "cspell is not installed: npm ci in docs/")


def test_spelling_is_british():
    need_cspell()
    prose = spelling.texts()
    assert {"README.md", "docs/student.md", "slides/lecture.md"} <= set(prose)
    assert {"notebooks/START.md", "binder/README.md", "binder/jupyterhub/README.md"} <= set(prose)
    assert {f"notebooks/{name}{end}" for name in NAMES for end in (".md", ".py.md")} <= set(prose)
    assert spelling.unknown(prose) == []


def test_labels_and_messages_are_checked_in_their_lines():
    code = '"""Doc of it."""\n\nax.set(xlabel="rate (nats)")\nsay = f"a color {x:.3f} nats"\n'
    assert spelling.phrases(code).split("\n") == ["", "", " rate (nats)", " a color   nats", ""]
    prose = spelling.texts()
    assert "mind the order" in prose["course_utils/checks.py.md"]
    assert "first coordinate" in prose["notebooks/flows.py.md"]


@pytest.mark.parametrize("word", ["color", "behavior", "center", "normalized", "Jacobain"])
def test_other_spelling_is_found_in_prose_and_only_there(word):
    need_cspell()
    text = f"Good.\nA {word} here.\n\n```sh\n{word}\n```\n`{word}`, $x_{{{word}}}$\n"
    (found,) = spelling.unknown({"page.md": text})
    assert found.startswith("page.md:2:") and word in found


def test_speaker_notes_are_checked_too():
    text = "<!--\nSay: the colour.\n-->\n"
    assert "colour" in spelling.blank(text)


def test_word_list_is_small_sorted_and_used():
    words = (ROOT / "docs" / "words.txt").read_text(encoding="utf-8").splitlines()[1:]
    assert words == sorted(set(words), key=str.lower) and len(words) < 200
    prose = " ".join(map(spelling.blank, spelling.texts().values())).lower()
    assert [word for word in words if word.lower() not in prose] == []


def test_list_of_links_is_complete():
    files = {"CITATION.cff", "LICENSE-CONTENT", "CHANGELOG.md", "CONTRIBUTING.md", "README.md"}
    files |= {f"notebooks/{name}.py" for name in NAMES} | {"data/README.md", "slides/lecture.md"}
    files |= {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
    files |= {f"benchmarks/{path.name}" for path in (ROOT / "benchmarks").glob("*.md")}
    named: dict[str, str] = {}
    for name in files - {"docs/links.md"}:
        text = (ROOT / name).read_text(encoding="utf-8")
        text = re.sub(f"{links.BEGIN}.*?{links.END}", "", text, flags=re.DOTALL)
        text = re.sub(r"git clone --depth 1 \S+", "", text)  # of make links
        for address in ADDRESS.findall(text):
            named.setdefault(address.rstrip(".,:;"), name)
    local = re.compile(
        r"https?://(localhost|127\.0\.0\.1|[\w.-]*example\.(org|com)|github\.com/OWNER)"
    )
    named = {address: name for address, name in named.items() if not local.match(address)}
    listed = re.findall(r"^\| <(.+?)> \|", (ROOT / "docs" / "links.md").read_text(), re.MULTILINE)
    assert len(set(listed)) == len(listed)
    assert {a: n for a, n in named.items() if a not in listed} == {}
    assert set(listed) - set(named) == set()


# ------------------------------------------------------------------ citation, licences, hooks


def test_citation_is_valid_and_of_this_version():
    schema = json.loads((ROOT / "tests" / "citation-file-format-1.2.0.json").read_text())
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    citation = yaml.load(text, Loader=yaml.BaseLoader)  # dates stay strings, as in the format
    validator = jsonschema.Draft7Validator(schema)
    assert [error.message for error in validator.iter_errors(citation)] == []
    assert list(validator.iter_errors(citation | {"type": "course"}))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["version"] == project["version"]
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## \[(\d.+?)\] - (\d{4}-\d\d-\d\d)$", changes, re.MULTILINE)
    assert released[0] == (citation["version"], citation["date-released"])
    assert f"Version {citation['version']}, {citation['date-released'][:4]}" in (
        ROOT / "README.md"
    ).read_text(encoding="utf-8")


def test_changelog_counts_the_exercises():
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"{sum(len(exercises(name)) for name in NAMES)} exercises" in changes


def test_licences_of_code_and_content():
    code = (ROOT / "LICENSE").read_text(encoding="utf-8")
    content = (ROOT / "LICENSE-CONTENT").read_text(encoding="utf-8")
    assert code.startswith("BSD 3-Clause License")
    assert "https://creativecommons.org/licenses/by/4.0/" in content
    for part in range(1, 9):
        assert re.search(rf"^Section {part} – ", content, re.MULTILINE), part
    data = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    assert "CC BY 4.0" in data and "CC BY-SA 3.0" in data


def test_commit_hooks_are_local_and_call_what_there_is():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert {repository["repo"] for repository in config["repos"]} == {"local"}
    for hook in config["repos"][0]["hooks"]:
        program, *words = hook["entry"].split()
        assert hook["language"] == "system" and program in (".venv/bin/ruff", ".venv/bin/python")
        for path in (word for word in words if word.endswith(".py")):
            assert (ROOT / path).is_file(), path
    command = [sys.executable, "-m", "pre_commit", "validate-config", ".pre-commit-config.yaml"]
    subprocess.run(command, cwd=ROOT, check=True)


def test_cleaning_keeps_the_lesson_and_drops_the_rest(tmp_path):
    path = tmp_path / "flows.ipynb"
    built = (ROOT / "notebooks" / "flows.ipynb").read_text(encoding="utf-8")
    path.write_text(built, encoding="utf-8")
    written = path.stat().st_mtime_ns
    clean.clean(path)
    assert path.stat().st_mtime_ns == written
    notebook = nbformat.reads(built, as_version=4)
    notebook.metadata.widgets = {"application/vnd.jupyter.widget-state+json": {}}
    notebook.metadata.language_info.version = "3.12.1"
    cell = next(cell for cell in notebook.cells if cell.cell_type == "code")
    cell.metadata |= {"scrolled": True, "execution": {"iopub.status.busy": "2026-11-24T10:00:00Z"}}
    bar = nbformat.v4.new_output("stream", name="stderr", text=" 50%|#####     | 5/10")
    cell.outputs.append(bar)
    nbformat.write(notebook, path)
    clean.clean(path)
    assert path.read_text(encoding="utf-8") == built


@pytest.fixture
def clone(tmp_path):
    """A repository with what is here now, with this environment, and with the checker."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "docs" / "node_modules").symlink_to(spelling.DOCS / "node_modules")
    for words in (["init", "--quiet"], ["add", "."]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    return tmp_path


@pytest.mark.skipif(sys.platform == "win32", reason="the hooks name the programs as on POSIX")
def test_commit_hooks_pass_here_and_stop_a_commit_with_faults(clone):
    """All but that of the notebooks, which is itself a test."""
    need_cspell()
    env = os.environ | {"SKIP": "notebooks", "PRE_COMMIT_HOME": str(clone / ".git" / "hooks")}

    def run(*files: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "pre_commit", "run", "--color", "never"]
        command += ["--files", *files] if files else ["--all-files"]
        return subprocess.run(command, cwd=clone, env=env, capture_output=True, text=True)

    done = run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("Passed") == 4
    (clone / "README.md").write_text("The color of wine.\n", encoding="utf-8")
    (clone / "tools" / "links.py").write_text("import  os\n", encoding="utf-8")
    path = clone / "notebooks" / "flows.ipynb"
    dirty = nbformat.read(path, as_version=4)
    dirty.metadata.widgets = {}
    nbformat.write(dirty, path)
    done = run("README.md", "tools/links.py", "notebooks/flows.ipynb")
    assert done.stdout.count("Failed") == 4, done.stdout


# What the guide says in numbers, and the assertion of a notebook that holds it.
CLAIMS = {
    "It is about one in five": (0, "0.10 < twins_at_random / len(split_at_random.test) < 0.32"),
    "the weights stay there": (0, 'assert near_prior["forgotten"] > 0.85'),
    "It is too wide": (0, "extremes > 0.95"),
    "worth more than twenty of the other": (1, "assert ratio > 20"),
    "agree to a thousandth of a nat": (1, "assert abs(loss_pyro - loss_plain) < 1e-3"),
    "It is little better than a coin": (1, 'assert 0.35 < works["lower half erased"] < 0.75'),
    "likes ones better": (1, "assert rate_ones < 0.3"),
    "Its ELBO all but reaches the evidence": (2, 'assert abs(elbos["flow"] - log_evidence) < 0.05'),
    "Thinner, never absent": (2, "> 5e-4"),
}


@pytest.mark.parametrize("phrase", CLAIMS)
def test_numbers_of_the_guide_are_asserted_in_a_notebook(phrase):
    number, assertion = CLAIMS[phrase]
    assert phrase in " ".join(GUIDE.split())
    source = (ROOT / "notebooks" / f"{NAMES[number]}.py").read_text(encoding="utf-8")
    assert assertion in source
