"""No published number or direction is without an entry: docs/facts.md, section I, against its section D and the registry."""

import re
from pathlib import Path

import pytest

from lolm.claims.build import modern
from lolm.claims.published import NUMBERS, SOURCES
from lolm.claims.registry import ENTRIES
from lolm.claims.registry.arithmetic import arithmetic

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "facts.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in TEXT[TEXT.index('<a id="i"></a>') :].splitlines()
    if re.match(r"\| [A-F]", line)
]
SOURCES_OF_LOLM = {key for key, title in SOURCES.items() if not title.startswith("arXiv")}
INDEXED = {entry for row in ROWS for entry in re.findall(r"`(\w+)`", row[2])}
NUMBER = re.compile(r"(?<![\w.@])\d[\d,]*(?:\.\d+)?(?:e-\d+)?(?![\da-f]*[a-f]\d)")

# Numbers of sections D that say how something was measured, or what follows from a printed one, and claim nothing.
SETTING = {
    1: "1.57 10.2 20.5 50 149 304 1,196",  # sizes; log window and entries; tokens of the 20.5M run
    2: "0.2587 1 3 6 20 98 200 983,040",  # sections cited; rate left; horizon; tokens scored
    3: "9 16 20 30 485.2 2026 2,048 8643.6 56,129.9 983,040 485,165,195",  # text scored, date, quotients
    4: "0 2 14 50 103 2,049",  # text scored
    5: "1 2.1 4.2 50 200 304 410 2,048",  # sizes and text scored
    6: "20.5 149 304 319",  # sizes
    7: "1 5 10 20 30 40 50 101 201 1,000",  # window lengths and ranges of steps
    8: "0.2 0.5 3 200 500",  # number of items, as inferred
    9: "7 13 304",
}


def sources(entry):
    return [*entry.stated, *(key for name in entry.published for key in NUMBERS[name].source)]


def numbers(text):
    return {found.rstrip(",").replace(",", "") for found in NUMBER.findall(text)}


def section(number):
    found = TEXT[TEXT.index(f'<a id="d{number}"></a>') : TEXT.index(f'<a id="d{number + 1}"></a>')]
    return "\n".join(line for line in found.splitlines()[3:] if not line.startswith("Sources"))


def test_every_entry_named_exists_and_every_published_claim_is_named():
    asked = {modern(entry).id for entry in ENTRIES if entry.modern} | {claim.id for claim in arithmetic()}
    theirs = {entry.id for entry in ENTRIES if set(sources(entry)) & SOURCES_OF_LOLM}
    assert asked | {entry.id for entry in ENTRIES} >= INDEXED
    assert asked | theirs <= INDEXED
    assert all(len(row) == 3 and row[1] and re.search(r"`\w+`", row[2]) for row in ROWS)


@pytest.mark.parametrize("number", SETTING)
def test_every_published_number_is_in_a_statement(number):
    said = set().union(*(numbers(row[1]) for row in ROWS if re.search(rf"\bD{number}\b", row[0])))
    assert numbers(section(number)) - said == numbers(SETTING[number])


def said_of(claim):
    """Numbers in the texts of an entry, those that it has as printed, and those of its details, as they are and in per cent."""
    details = getattr(claim, "details", {})
    quantities = [
        *details.values(),
        *(one for kind in ("as_published", "sound") if (one := getattr(claim, kind, None)) is not None),
    ]
    texts = [claim.statement, getattr(claim, "why", ""), *claim.caveats, *(NUMBERS[name].where for name in claim.published)]
    texts += [*details, *(quantity.definition for quantity in quantities)]
    values = [*(NUMBERS[name].value for name in claim.published), *(quantity.value for quantity in details.values())]
    return [float(number) for text in texts for number in numbers(text)] + [abs(n * v) for v in values for n in (1, 100)]


def has(found, number):
    """Whether a number is one of those found, rounded to its own digits."""
    return any(abs(value - float(number)) <= 0.5001 * 10.0 ** -len(number.partition(".")[2]) for value in found)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]} {row[1][:30]}")
def test_the_entries_of_a_statement_have_its_numbers(row):
    ledger = {claim.id: claim for claim in (*ENTRIES, *arithmetic())}
    found = [number for name in re.findall(r"`(\w+)`", row[2]) for number in said_of(ledger[name.removesuffix("_modern")])]
    text = re.sub(r"\bD\d\b", "", row[1])
    text = re.sub(r"([\d.]+)K", lambda n: f"{1000 * float(n[1]):.0f}", text)
    assert [number for number in numbers(text) if not has(found, number)] == []


def test_every_printed_number_is_one_that_an_entry_has():
    assert set(NUMBERS) == {name for claim in (*ENTRIES, *arithmetic()) for name in claim.published}


def test_a_number_that_no_statement_has_would_be_found():
    assert "8645" in numbers(section(3))
    assert "8645" in numbers("8,645×")
    assert "0.706" in numbers(section(1))
    assert has([5.5158], "5.516")
    assert not has([0.706], "0.707")


def test_every_claim_in_words_is_a_statement():
    text = TEXT[TEXT.index('<a id="d10"></a>') : TEXT.index('<a id="e"></a>')]
    words = re.sub(r"\s+|-{3}", " ", text.partition("exists: ")[2]).replace("*", "").strip(" .")
    said = [row[1] for row in ROWS if row[0] == "D10"]
    claims = [re.sub(r" \(.*\)", "", claim) for claim in words.split("; ")]
    assert len(claims) > 8
    assert [claim for claim in claims if not any(claim in row for row in said)] == []
