"""Seeds that a measured claim needs: by the number that was judged, against the threshold that judged it."""

import math

import pytest
from synthetic import Truth, write_results

from lolm.analysis.statistics import seeds_needed
from lolm.claims import build_ledger
from lolm.claims.power import power_rows
from lolm.records.results import load_results
from pipeline.power import needed_seeds


def test_the_number_and_the_threshold_are_those_that_decided(results_of):
    results = results_of(Truth(speed=1.3, jitter=0.05))
    ledger = build_ledger(results)
    claims, rows = {c.id: c for c in ledger}, {row.claim: row for row in power_rows(ledger, results.analysis)}
    for name, threshold in (("efficiency_2x", 2.0), ("efficiency_direction", 1.0)):
        row, found = rows[name], claims[name].sound
        assert row.threshold == threshold
        assert row.distance == pytest.approx(abs(math.log(found.value / threshold)))
        assert row.seeds == seeds_needed(row.sd, row.distance, results.analysis.confidence, results.analysis.power)
    assert all(claims[name].judged_at for name in rows)
    assert [row.seeds or math.inf for row in power_rows(ledger, results.analysis)] == sorted(
        row.seeds or math.inf for row in rows.values()
    )


def test_a_contrast_is_tested_at_its_corrected_level(monkeypatch, capsys, tmp_path):
    arms = ("lolm", "transformer", "lolm_sum", "lolm_no_latent")
    truth = Truth(offsets={"lolm_sum": 0.02, "lolm_no_latent": -0.02})
    write_results(tmp_path, arms=arms[:2], seeds=(1, 2, 3, 4), truth=truth, studies={"gates": {"arms": arms}})
    results = load_results(tmp_path, study="gates")
    rows = {row.claim: row for row in power_rows(build_ledger(results), results.analysis)}
    row, power = rows["gate_sum"], results.analysis.power
    assert row.quantity.confidence == 0.975  # of two contrasts
    assert row.seeds == seeds_needed(row.sd, row.distance, 0.975, power) > seeds_needed(row.sd, row.distance, 0.95, power)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["power"])
    needed_seeds()
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert next(line for line in lines if line[0] == "gate_sum")[-5:] == [
        "97.5", f"{row.sd:.3g}", "4", str(row.seeds), row.verdict
    ]  # fmt: skip


def test_what_several_numbers_or_a_margin_decide_is_left_out(results_of):
    results = results_of(Truth())
    ledger = build_ledger(results)
    rows = {row.claim for row in power_rows(ledger, results.analysis)}
    assert not rows & {claim.id for claim in ledger if not claim.judged_at}
    assert {"gate_reversal", "gate_settles"}.isdisjoint(rows)
