"""What was printed, what follows from it, and that neither can be read as ours."""

import json
import math

import pytest

from lolm.claims import to_records
from lolm.claims.ledger import COUNTED, MEASURED, RECOMPUTED, Quantity
from lolm.claims.published import NUMBERS, PRINTED, clipped_perplexity, cpc_candidates
from lolm.claims.registry.arithmetic import arithmetic


def test_published_arithmetic():
    ledger = {claim.id: claim for claim in arithmetic()}
    assert ledger["arithmetic_clip"].as_published.value == pytest.approx(485_165_195.41, abs=0.005)
    assert math.exp(20) == pytest.approx(NUMBERS["gate_one_ppl"].value, abs=0.005)
    assert ledger["arithmetic_14m"].as_published.value == pytest.approx(14_000_000, rel=0.01)
    assert ledger["arithmetic_8645"].as_published.value == pytest.approx(8_643.6, abs=0.1)
    assert ledger["arithmetic_uniform"].as_published.value == pytest.approx(56_130, rel=1e-4)
    assert ledger["arithmetic_uniform"].sound.value == pytest.approx(10.9354 - 10.8249, abs=1e-4)
    assert ledger["arithmetic_25_9"].as_published.value == pytest.approx(0.2587, abs=5e-5)
    assert ledger["arithmetic_25_9"].sound.value == pytest.approx(0.1677, abs=5e-5)
    assert ledger["arithmetic_15"].as_published.value == pytest.approx(0.1509, abs=5e-5)
    assert ledger["arithmetic_2x"].as_published.value == 2
    assert ledger["arithmetic_2x"].sound.value == pytest.approx(1.3125)
    assert ledger["arithmetic_cpc"].sound.value == pytest.approx(5.687 - 5.6768, abs=1e-4)
    assert ledger["arithmetic_share"].sound.value == pytest.approx(0.1478, abs=1e-4)
    assert ledger["arithmetic_744"].sound.value == pytest.approx(8.441, abs=1e-3)
    assert ledger["arithmetic_bpc"].as_published.value == pytest.approx(6.095, abs=1e-3)


def test_candidates_of_the_published_cpc():
    assert cpc_candidates(2048) == 292
    assert cpc_candidates(512) == 504
    assert cpc_candidates(128) == 120
    assert clipped_perplexity(76.8858) == math.exp(20)
    assert clipped_perplexity(1.0) == math.e


def _quantities(record):
    yield from (record[key] for key in ("as_published", "sound") if record[key] is not None)
    yield from record["details"].values()
    yield from record["controls"]


def test_a_published_number_cannot_be_read_as_ours(ledger_of):
    """Every number of the record says where it comes from, and ours of a run name the runs."""
    records = to_records(ledger_of().values())
    for record in records:
        assert all(number["origin"] == PRINTED for number in record["published"])
        origins = {quantity["origin"] for quantity in _quantities(record)}
        assert PRINTED not in origins
        if record["group"] == "arithmetic":
            assert origins == {RECOMPUTED}
            assert not record["runs"]
        else:
            assert origins <= {MEASURED, COUNTED}
            assert record["sound"] is None or record["runs"] or record["id"] == "flops_overhead"
    assert Quantity(1.0, "x", "ours").origin == MEASURED


def test_records_have_what_a_reader_asks(ledger_of):
    records = to_records(ledger_of().values())
    wanted = {
        "id", "group", "statement", "source", "published", "as_published", "sound", "verdict", "why", "rule", "caveats", "runs",
        "study", "command", "needs", "details", "controls", "figure", "fact", "against",
    }  # fmt: skip
    assert len({record["id"] for record in records}) == len(records)
    for record in records:
        assert wanted <= set(record)
        if record["sound"]:
            assert {"value", "interval", "n_seeds", "definition"} <= set(record["sound"])
    json.dumps(records, allow_nan=False)
