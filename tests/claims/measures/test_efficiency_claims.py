from dataclasses import replace

import pytest
from synthetic import Truth

from lolm.claims import build_ledger


def within(quantity, value):
    low, high = quantity.interval
    return low < value < high


def test_known_multiplier_is_recovered(ledger_of):
    ledger = ledger_of(Truth(speed=1.5, flops_ratio=1.0))
    claim = ledger["efficiency_2x"]
    assert claim.sound.value == pytest.approx(1.5, rel=0.02)
    assert within(claim.sound, 1.5)
    assert within(claim.as_published, 1.5)
    assert claim.verdict == "fails"  # 1.5, with an interval below 2
    assert ledger["efficiency_direction"].verdict == "holds"
    assert ledger["matched_budget"].verdict == "holds"
    assert claim.runs[0][0] == "lolm · smoke · seed 1"


def test_flops_are_charged(ledger_of):
    """1.5 times fewer steps at 1.5 times the FLOPs a step is no gain."""
    ledger = ledger_of(Truth(speed=1.5, flops_ratio=1.5))
    claim = ledger["efficiency_direction"]
    assert claim.as_published.value == pytest.approx(1.5, rel=0.03)
    assert within(claim.sound, 1.0)
    assert claim.verdict == "inconclusive"
    assert claim.details["multiplier in tokens"].value == pytest.approx(1.5, rel=0.03)
    assert claim.details["multiplier in seconds"].value == pytest.approx(0.75, rel=0.03)


def test_the_published_multiplier_ends_before_the_decay(ledger_of):
    """Losses inside the run lie above those of ended schedules until the last fifth: an arm read there is half annealed, and the
    lead shrinks to nothing. Up to step 320 both are as unfinished."""
    claim = ledger_of(Truth(speed=1.5, flops_ratio=1.25, bump=0.3, jitter=0.0))["efficiency_2x"]
    assert claim.sound.value == pytest.approx(1.5 / 1.25, rel=0.02)
    assert claim.as_published.value == pytest.approx(1.5, rel=0.02)
    assert "by step 320, the last of the constant rate" in claim.as_published.definition
    assert claim.details["inside the runs, in FLOPs"].value == pytest.approx(1.5 / 1.25, rel=0.02)
    assert claim.details["inside the runs, validation loss"].value == pytest.approx(1.5, rel=0.02)
    assert "training loss" in claim.as_published.definition
    assert "dropout 0" in claim.as_published.definition


def test_schedules_that_ended_say_the_budget(ledger_of):
    claim = ledger_of(Truth(speed=1.5, flops_ratio=1.0, bump=0.1))["efficiency_2x"]
    assert within(claim.sound, 1.5)
    assert "At 400 of 400 steps." in claim.sound.note
    assert "No change is shown between schedules of 200 and 400 steps" in claim.why
    assert claim.details["in FLOPs at the schedule of 100 steps"].value is None
    assert "already below" in claim.details["in FLOPs at the schedule of 100 steps"].note
    assert claim.details["in FLOPs at the schedule of 280 steps"].value == pytest.approx(1.5, rel=0.02)


def test_without_annealed_copies_no_multiplier_is_made_up(ledger_of):
    ledger = ledger_of(Truth(cooldowns=()))
    assert ledger["efficiency_2x"].verdict == "inconclusive"
    assert ledger["efficiency_2x"].sound.value is None
    assert "No multiplier can be measured" in ledger["efficiency_2x"].why
    assert ledger["matched_budget"].verdict == "holds"  # the runs' own ends are ends of schedules


def test_a_model_that_is_thrice_as_efficient_passes_2x(ledger_of):
    ledger = ledger_of(Truth(speed=3.0, flops_ratio=1.0))
    assert ledger["efficiency_2x"].verdict == "holds"
    assert ledger["efficiency_2x_published"].verdict == "holds"


def test_null_is_not_called_a_gain(ledger_of):
    ledger = ledger_of(Truth(speed=1.0, flops_ratio=1.0, jitter=0.02))
    assert ledger["efficiency_2x"].verdict == "fails"
    assert ledger["efficiency_direction"].verdict == "inconclusive"
    assert ledger["matched_budget"].verdict in ("inconclusive", "fails")
    assert ledger["efficiency_2x_published"].verdict == "fails"


def test_a_model_that_never_gets_there_is_answered_in_reverse(ledger_of):
    ledger = ledger_of(Truth(speed=0.7, flops_ratio=1.0))
    claim = ledger["efficiency_direction"]
    assert claim.verdict == "fails"
    assert within(claim.sound, 0.7)
    assert "never reaches the baseline's final loss in 4 of 4 pairs" in claim.why
    assert "with 0.70 of what LOLM spent" in claim.why
    assert ledger["matched_budget"].verdict == "fails"


def test_interpolation_alone_does_not_make_2x_fail(results_of):
    results = results_of(Truth(speed=1.97, flops_ratio=1.0, jitter=0.0005))
    for margin, verdict in ((0.02, "inconclusive"), (0.005, "fails")):
        params = replace(results.params, analysis=replace(results.analysis, interpolation_margin=margin))
        claim = {claim.id: claim for claim in build_ledger(replace(results, params=params))}["efficiency_2x"]
        assert claim.sound.interval[1] < 2
        assert claim.verdict == verdict
        assert f"{100 * margin:g} % higher" in claim.rule


def test_mismatched_arms_are_not_judged(ledger_of):
    ledger, matched = ledger_of(mismatch=0.05), ledger_of()
    for name in ("efficiency_2x", "matched_budget", "behind_at_end", "early_lead", "pythia_late"):
        assert ledger[name].verdict == "inconclusive", name
        assert "not matched" in ledger[name].why
        assert "not matched" not in matched[name].why
