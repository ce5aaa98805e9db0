"""The version without solutions: nothing of them is left, and it works with its own files alone."""

import re
import subprocess
import sys
import zipfile

import nbformat
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, autoguide
from pyro.optim import Adam

from course_utils import checks, copies
from tools import catalogue, notebook_sources
from tools import student_version as student
from tools.notebook_definitions import definitions


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Folder of the student's version, with the copies that a student gets."""
    target = tmp_path_factory.mktemp("handed-out") / "student"
    student.write(target)
    assert len(copies.make(target)) == len(catalogue.files())
    return target


@pytest.mark.parametrize("name", catalogue.files())
def test_nothing_of_a_solution_is_left_and_nothing_else_is_gone(written, name):
    whole = notebook_sources.read(name).cells
    bare = nbformat.read(written / "notebooks" / f"{name}.ipynb", as_version=4)
    solutions = [cell for cell in whole if "solution" in notebook_sources.tags(cell)]
    lesson = [cell.source for cell in whole if cell not in solutions]
    assert [cell.source for cell in bare.cells] == lesson
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in bare.cells)
    assert set(bare.metadata) == {"kernelspec"}
    names = {n for cell in solutions for n in re.findall(r"def (solution_\w+)", cell.source)}
    assert bool(names) == bool(solutions)
    for path in written.rglob("*"):  # in no other file, either
        if path.suffix in {".py", ".md", ".ipynb", ".toml"}:
            assert not names & set(re.findall(r"\w+", path.read_text(encoding="utf-8"))), path


def test_no_name_is_undefined_and_the_course_is_ready(written):
    ruff, check = (
        subprocess.run([sys.executable, "-m", *words], cwd=written, capture_output=True, text=True)
        for words in (["ruff", "check", "--isolated", "--select", "F821"], ["course_utils"])
    )
    assert ruff.returncode == 0, ruff.stdout
    faults = [line for line in check.stdout.splitlines() if line.startswith("failure")]
    assert faults == [f"failure course_utils comes from {student.ROOT}, not from {written}"]


@pytest.mark.parametrize("page", ["README.md", "work/START.md", "docs/student.md"])
def test_what_a_page_links_to_or_names_is_there(written, page):
    text = (written / page).read_text(encoding="utf-8")
    links = re.findall(r"""(?:\]\(|src=")(?!https?:|#)([^)#"]+)""", text)
    named = re.findall(r"(?<![\w/.])(?:docs|notebooks|tools|slides)[/\\][\w.]+", text)
    paths = [(written / page).parent / link for link in links]
    paths += [written / name.replace("\\", "/") for name in named]
    assert [path for path in paths if not path.exists()] == []


@pytest.mark.parametrize("check", ["check_score_probabilities"])
def test_without_an_answer_a_result_that_needs_it_is_announced(written, check, capsys):
    """What a cell below an exercise shows once the answer is right, it says until then."""
    paths = (written / "notebooks").glob("*.ipynb")
    cells = [c for path in paths for c in notebook_sources.code_cells(nbformat.read(path, 4))]
    stub, result = [cell.source for cell in cells if check in cell.source]
    names = {"Tensor": object, "checks": checks}
    exec(stub, names)
    exec(result, names)
    assert re.fullmatch(r"Once exercise \d+ is right, .*\n", capsys.readouterr().out)


def test_what_the_students_page_proposes_works():
    bnn, x, y = definitions("wine"), torch.randn(40, 4), torch.randn(40)
    for fit in (bnn.fit_constant, bnn.fit_linear, bnn.fit_mean_field_bnn, bnn.fit_laplace):
        mean, scale = fit(x, y, seed=0)(x[:5], 3)
        assert mean.shape == scale.shape == (3, 5)
    guide = autoguide.AutoLowRankMultivariateNormal(bnn.course_network, init_scale=0.05)
    svi = SVI(bnn.course_network, guide, Adam({"lr": 0.01}), Trace_ELBO())
    losses = [svi.step(x, y) for _ in range(100)]
    assert sum(losses[-20:]) < sum(losses[:20])


def test_what_is_written_is_packed_unless_it_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(student, "TARGET", tmp_path / "student")
    monkeypatch.setattr(student, "run", lambda path: 1 / 0)
    monkeypatch.setattr(sys, "argv", ["student_version.py"])
    with pytest.raises(ZeroDivisionError):
        student.main()
    assert not (tmp_path / "student.zip").exists()
    sys.argv.append("--no-run")
    student.main()
    with zipfile.ZipFile(tmp_path / "student.zip") as packed:
        names = {path.relative_to(tmp_path).as_posix() for path in student.TARGET.rglob("*")}
        assert {name.rstrip("/") for name in packed.namelist()} - {"student"} == names


LESSON = """import pathlib
from course_utils import data
data.load_wine_quality("red")
assert data.DATA_DIR == pathlib.Path.cwd().parent / 'data'"""


@pytest.mark.kernel
def test_a_notebook_runs_with_the_files_beside_it_alone_and_leaves_no_others(tmp_path):
    """tests/test_browser.py runs those of the course."""
    student.write(tmp_path)
    lesson = tmp_path / "notebooks" / "lesson.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(LESSON)]), lesson)
    before = sorted(tmp_path.rglob("*"))
    student.run(lesson)
    assert sorted(tmp_path.rglob("*")) == before
