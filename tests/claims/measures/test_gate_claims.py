from dataclasses import replace

import pytest
from synthetic import Truth

from lolm.claims import build_ledger


def test_gate_reversal(ledger_of):
    assert ledger_of(Truth(gate_path=(0.36, 0.17, 0.83)))["gate_reversal"].verdict == "holds"
    assert ledger_of(Truth(gate_path=(0.36, 0.17, 0.27)))["gate_reversal"].verdict == "fails"  # never above its start


@pytest.mark.parametrize(("begin", "verdict", "dip"), [(0.36, "fails", 0.0), (0.899, "holds", 0.73)])
def test_what_happened_before_the_first_log_window_is_part_of_the_path(results_of, begin, verdict, dip):
    """From 0.36 to 0.9 within the first window, then down and up to 0.95: the start is that of step 0, and 0.45 is no dip."""
    results = results_of(Truth(gate_path=(0.9, 0.45 if verdict == "fails" else 0.17, 0.95)))
    first = {run.key: run.rows[0] | ({"val/gate_mean": begin} if run.arm == "lolm" else {}) for run in results.runs}
    runs = tuple(replace(run, rows=(first[run.key], *run.rows[1:])) for run in results.runs)
    claim = next(c for c in build_ledger(replace(results, runs=runs)) if c.id == "gate_reversal")
    assert claim.verdict == verdict
    assert claim.sound.value == pytest.approx(dip, abs=0.02)
    assert claim.details["end minus start"].value == pytest.approx(0.95 - begin, abs=0.02)


def test_noise_makes_no_dip(ledger_of):
    claim = ledger_of(Truth(gate_path=(0.36, 0.36, 0.36)), seeds=(1, 2, 3, 4, 5, 6))["gate_reversal"]
    assert claim.verdict != "holds"
    assert claim.as_published.value < 0.352  # the lowest of 100 noisy windows, by selection
    assert abs(claim.sound.value) < 0.01


def test_gate_level_is_judged_at_published_scales_only(ledger_of):
    assert ledger_of()["gate_level"].verdict == "not testable at this scale"


@pytest.mark.parametrize(
    ("level", "spread", "verdict"),
    [
        (0.83, 0.001, "holds"),
        (0.83, 0.2, "inconclusive"),  # an interval that covers the level because it covers everything shows nothing
        (0.60, 0.001, "fails"),
        (0.85, 0.02, "inconclusive"),
    ],
)
def test_gate_level_at_a_published_scale(results_of, level, spread, verdict):
    results = results_of(seeds=(1, 2, 3))
    runs = []
    for run in results.runs:
        gate = run.evaluation.gate
        if gate is not None:
            gate = replace(gate, mean=level + spread * (run.seed - 2))
        runs.append(replace(run, evaluation=replace(run.evaluation, gate=gate)))
    ledger = {c.id: c for c in build_ledger(replace(results, scale="304m", runs=tuple(runs)))}
    assert ledger["gate_level"].verdict == verdict
    assert "0.83" in ledger["gate_level"].why


def test_as_published_the_gate_is_read_before_the_rate_decays(results_of):
    """Up to step 320 of 400, as every level that the authors read at their peak rate."""
    results = results_of(seeds=(1, 2))
    runs = []
    for run in results.runs:
        logged = [row | ({"gate/mean": 0.4 if row["step"] <= 320 else 0.9} if "gate/mean" in row else {}) for row in run.rows]
        runs.append(replace(run, rows=logged))
    ledger = {c.id: c for c in build_ledger(replace(results, runs=tuple(runs)))}
    for id in ("gate_level", "gate_surface"):
        assert ledger[id].as_published.value == pytest.approx(0.4)


def test_gate_target_and_share(ledger_of):
    ledger = ledger_of(Truth(gate_target_gap=0.0, share=0.95))
    assert ledger["gate_target"].verdict == "fails"
    assert ledger["gate_target"].details["correlation over training"].value == pytest.approx(1)
    assert ledger["gate_share"].verdict == "fails"
    ledger = ledger_of(Truth(gate_target_gap=0.3, share=0.83))
    assert ledger["gate_target"].verdict == "inconclusive"
    assert ledger["gate_share"].verdict == "holds"


def test_agreement_at_a_gate_of_one_half_says_nothing(results_of):
    """There one minus the gate is the share of two branches of equal power, whatever the gate does."""
    results, runs = results_of(Truth(share=0.5)), []
    for run in results.runs:
        gate = run.evaluation.gate
        gate = None if gate is None else replace(gate, mean=0.51 + 0.001 * run.seed)
        runs.append(replace(run, evaluation=replace(run.evaluation, gate=gate)))
    claim = {c.id: c for c in build_ledger(replace(results, runs=tuple(runs)))}["gate_share"]
    assert claim.verdict == "inconclusive"
    assert "as at a gate of one half they do" in claim.why
