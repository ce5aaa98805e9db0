"""The ledger is complete and true: docs/ledger.md against the notebooks, the slides and the tests.

The first table holds known mistakes, the second every number that a text states. What counts as
such a number is said there and decided by ``numbers`` below.
"""

import ast
import functools
import re
from pathlib import Path

import nbformat
import pytest

from tools import notebook_sources

ROOT = Path(__file__).resolve().parents[1]
LEDGER = (ROOT / "docs" / "ledger.md").read_text(encoding="utf-8")
COUNTS = {"D": 6, "B": 13, "V": 11, "F": 9}
IDS = [f"{letter}{i}" for letter, count in COUNTS.items() for i in range(1, count + 1)]
NICKNAMES = {"wine": "bayesian_neural_networks_wine", "vae": "var_mod", "flows": "flows"}
SLIDES = (ROOT / "slides" / "lecture.md").read_text(encoding="utf-8").split("\n---\n", 1)[1]


def squeeze(text: str) -> str:
    """One space wherever there is white space."""
    return " ".join(text.split())


def table(heading: str) -> list[list[str]]:
    """Cells of the rows of the table under a heading of the ledger."""
    _, _, section = LEDGER.partition(f"\n## {heading}\n")
    lines = [line for line in section.split("\n## ")[0].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@functools.cache
def code(name: str) -> str:
    """All code of a notebook, and its stub, check and solution cells."""
    cells = notebook_sources.read(NICKNAMES[name]).cells
    return squeeze(" ".join(cell.source for cell in cells if cell.cell_type == "code"))


@functools.cache
def prose(place: str) -> str:
    """The text that readers see; the slides with their speaker notes."""
    if place in NICKNAMES:
        cells = notebook_sources.read(NICKNAMES[place]).cells
        return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return SLIDES if place == "slides" else (ROOT / place).read_text(encoding="utf-8")


@functools.cache
def outputs(name: str) -> str:
    """What the cells of the executed notebook print and display as text."""
    book = nbformat.read(ROOT / "notebooks" / f"{NICKNAMES[name]}.ipynb", as_version=4)
    found = [output for cell in book.cells for output in cell.get("outputs", [])]
    texts = [o.get("text") or o.get("data", {}).get("text/markdown", "") for o in found]
    return "\n".join(texts)


def headings(place: str) -> list[str]:
    return [squeeze(line.lstrip("#")) for line in prose(place).splitlines() if line[:1] == "#"]


def compare(found: list[str], low: str, high: str) -> str:
    """What is wrong with numbers that should lie in a range; empty if nothing is."""
    values = [float(value.replace(",", "")) for value in found]
    fine = values and all(float(low) <= value <= float(high) for value in values)
    return "" if fine else f"it says {values}"


def missing(place: str, evidence: str) -> str:
    """What is not true of one cited piece of evidence; empty if all is true."""
    if match := re.fullmatch(r"`(tests/\w+\.py)::(\w+)`", evidence):
        path = ROOT / match[1]
        tree = ast.parse(path.read_text(encoding="utf-8")) if path.is_file() else ast.Module([], [])
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        return "" if match[2] in names and match[2].startswith("test_") else "no such test"
    if match := re.fullmatch(r"`([\w/]+\.\w+)`", evidence):
        return "" if (ROOT / match[1]).is_file() else "no such file"
    if match := re.fullmatch(r"(?:(wine|vae|flows) )?`(assert .+)`", evidence):
        return "" if squeeze(match[2]) in code(match[1] or place) else "no such assertion"
    if match := re.fullmatch(r"(?:(wine|vae|flows) )?setting `(.+)`", evidence):
        return "" if squeeze(match[2]) in code(match[1] or place) else "no such code"
    if match := re.fullmatch(r"(?:(wine|vae|flows) )?output `(.+)` in (\S+) … (\S+)", evidence):
        found = re.findall(match[2], outputs(match[1] or place))
        return compare(found, match[3], match[4])
    if match := re.fullmatch(r"stored `(.+?)` `(.+)` in (\S+) … (\S+)", evidence):
        path = ROOT / match[1]
        found = re.findall(match[2], path.read_text(encoding="utf-8") if path.is_file() else "")
        return compare(found, match[3], match[4])
    if match := re.fullmatch(r"published `(.+)`", evidence):
        return "" if match[1] in squeeze(prose(place)) else "no such reference"
    if evidence == "machine":
        said = re.search(r"two (?:CPU )?cores|depends? on the machine", squeeze(prose(place)))
        return "" if said else "the text does not say on which machine"
    return "" if evidence in ("definition", "example") else "unknown kind of evidence"


# -------------------------------------------------------------------------------- known mistakes

MISTAKES = table("Known mistakes")


def test_every_known_mistake_is_there_once():
    assert [row[0] for row in MISTAKES] == IDS
    assert all(len(row) == 4 and all(row) for row in MISTAKES)


@pytest.mark.parametrize("row", MISTAKES, ids=lambda row: row[0])
def test_places_and_guards_exist(row):
    for place in row[2].split("; "):
        name, _, heading = place.partition(" § ")
        assert heading in headings(name), place
    guards = re.split(r"(?<=`); ", row[3])
    for guard in guards:
        assert re.match(r"(wine |vae |flows )?`(tests/|assert )", guard), guard
        assert not missing("", guard), (guard, missing("", guard))


# ------------------------------------------------------------------------------ numbers in prose

GENERATED = r"(?s)<!-- [a-z]+ -->.*?<!-- (?:end|/\w+) -->"  # see REMEASURED
DROPPED = [
    r"(?s)```.*?```",
    r"(?s)<details>.*?</details>",  # hints
    r"(?s)(?:^|\n)#+ (?:Further reading|References)\n.*?(?=\n#|\Z)",
    r"(?s)\*\*Further reading\.\*\*.*",
    GENERATED,
    r"(?m)^#.*$",
    r"(?m)^\|.*$",  # tables have rows of their own in the ledger
    r"(?s)\$\$.*?\$\$",
    r"\$[^$]+\$",
    r"`[^`]*`",
    r"\]\([^)]*\)",
    r"!\[w:\d+",  # the width of a picture on a slide
    r"\[\[[^\]]*\]\]",  # filled from a notebook's output
    r"(?m)^(?:Minutes: |\*\*Time\*\* )\d+.*$",  # summed up in test_slides.py
    r"(?m)^\d+\. ",
    r"(?m)^\d+ minutes(?:, .*)?\.$",  # of a section of the guide, compared in test_docs.py
    r"https?://\S+",
    r"\d+ × \d+(?: points)?",
    r"\b(?:19|20)\d\d\b",
    r"(?:Python|Node|Slide|PyTorch|Version)\s+\d[\d.]*",
    r"(?i)\b(?:sections?|slides?|lectures?|exercises?|folds?|layers?|variance)"
    r"\s+\d+(?:(?:,| to|–| and|/)\s?\d+)*",
    r"\(\d+ minutes\)",
    r"\b(?:arXiv|doi):\S+",
    r"\bSHA-256\b|\bF11\b",
    r"\b32[-\s]bits?\b",
    r"\d+–\d+ March",
    r"CC BY(?:-SA)? \d\.\d",
]
WORDS = "one|two|three|four|five|six|seven|eight|nine|ten|twenty|a hundred|several"
UNITS = r"%|per cent|nats?|quality points?|points|seconds?|minutes?|s|GB|MB|times|standard errors?"
NUMBERS = re.compile(
    rf"\d[\d,.]*\d|\d(?=[- ](?:{UNITS})(?!\w))"
    rf"|\b(?:{WORDS})(?: (?:or|to|and) \w+)?(?: (?:half|\w+dredths?))?[- ](?:{UNITS})(?!\w)"
    r"|\b(?:one|four|nine)(?: \w+){0,2} in (?:four|five|ten|twenty|a hundred)\b"
    r"|\b(?:an?|less than|more than|about|by|last) (?:half|third|quarter|fifth|tenth)\b"
    r"|\b(?:ten|hundred|thousand)fold\b|\b(?:tens|tenths|hundredths?) of\b|\btwice (?:the|as)\b",
    re.IGNORECASE,
)


def bare(text: str) -> str:
    """The text without formulas, code, headings, tables, references and their numbers."""
    for pattern in DROPPED:
        text = re.sub(pattern, " ", text)
    return squeeze(text)


def numbers(place: str, phrases: list[str]) -> list[str]:
    """Numbers of a text, with what surrounds them, that no phrase accounts for."""
    text = bare(prose(place))
    for phrase in sorted(map(bare, phrases), key=len, reverse=True):
        text = text.replace(phrase, " ◦ ")
    found = NUMBERS.finditer(text)
    return [f"… {text[max(0, m.start() - 60) : m.end() + 60]} …" for m in found]


CLAIMS = table("Numbers in prose")
PLACES = [
    *(*NICKNAMES, "slides", "README.md", "CONTRIBUTING.md", "data/README.md", "notebooks/START.md"),
    *("docs/instructor.md", "docs/student.md", "docs/presenting.md", "docs/classes.md"),
    *("binder/README.md", "binder/jupyterhub/README.md"),
]
# What a program has written between two marks, and the test that compares it with what is stored.
REMEASURED = {
    "README.md": "`tests/test_benchmarks.py::test_what_is_published_is_what_was_measured`",
    "docs/classes.md": "`tests/test_university.py::test_the_page_follows_from_the_measurement`",
    "binder/README.md": "`tests/test_binder.py::test_the_page_says_what_the_rehearsal_measured`",
}
HOW = "add the phrase and what covers it to the table 'Numbers in prose' of docs/ledger.md"


@pytest.mark.parametrize("place", PLACES)
def test_every_number_in_prose_is_accounted_for(place):
    loose = numbers(place, [phrase.strip("“”") for where, phrase, _ in CLAIMS if where == place])
    assert not loose, f"{HOW}:\n" + "\n".join(loose)


@pytest.mark.parametrize("place", PLACES)
def test_every_table_with_numbers_is_accounted_for(place):
    """A table goes by the words above its second column."""
    text = re.sub(GENERATED, "", prose(place))
    tables = re.findall(r"(?m)^\|.*\n\|[ :|-]+\n(?:\|.*\n?)*", text)
    known = {phrase for where, phrase, _ in TABLES if where == place}
    heads = set()
    for text in tables:
        head, _, *rows = bare_table(text)
        if re.search(r"\d", " ".join(" ".join(row[1:]) for row in rows)):
            heads.add(head[1])
    assert heads == known


def test_what_a_program_writes_into_a_text_is_compared_by_a_test():
    assert {place for place in PLACES if re.search(GENERATED, prose(place))} == set(REMEASURED)
    assert [test for test in REMEASURED.values() if missing("", test)] == []


def test_a_stored_measurement_is_compared_and_a_time_names_its_machine():
    stored = 'stored `benchmarks/seeds.json` `"flows".*"peak_memory_mb": ([0-9]+)` in'
    assert not missing("README.md", f"{stored} 500 … 900")
    assert missing("README.md", f"{stored} 500 … 600").startswith("it says [")
    assert missing("README.md", stored.replace("seeds", "nothing") + " 500 … 900") == "it says []"
    assert not missing("vae", "machine") and missing("data/README.md", "machine")


def bare_table(text: str) -> list[list[str]]:
    rows = re.sub(r"\$[^$]+\$", "", text).strip().splitlines()
    return [[cell.strip() for cell in row.strip("| ").split("|")] for row in rows]


TABLES = table("Tables in prose")


def test_rows_are_of_one_width_and_there_once():
    """A bar inside a cell would break the table of the web site."""
    rows = CLAIMS + TABLES
    assert all(len(row) == 3 and all(row) for row in rows)
    assert len({tuple(row[:2]) for row in rows}) == len(rows) > 100


@pytest.mark.parametrize("row", CLAIMS + TABLES, ids=lambda row: f"{row[0]}: {row[1][:40]}")
def test_each_phrase_is_there_and_covered(row):
    place, phrase, covered = row
    assert place in PLACES and phrase.strip("“”")
    assert squeeze(phrase.strip("“”")) in squeeze(prose(place)), "the phrase is gone"
    for evidence in re.split(r"; (?=(?:\w+ ){0,2}`)", covered):
        assert not missing(place, evidence), (evidence, missing(place, evidence))


def test_the_rule_finds_what_it_should():
    def count(text):
        return len(NUMBERS.findall(bare(text)))

    assert count("about half of it, one in five, 0.3 nats, 7 %, two to three nats, tenfold") == 6
    assert count("twice the noise, 1,599 wines, a hundred times, 12 s, tenths of a nat") == 5
    assert count("two chains (MacKay 1992), see sections 4 to 12, $x = 3.5$, `0.5`, 28 × 28") == 0
