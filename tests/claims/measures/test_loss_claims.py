import math
from dataclasses import replace

import pytest
from synthetic import Truth, law

from lolm.claims import build_ledger
from lolm.claims.controls import conditioning
from lolm.claims.entry import Context
from lolm.claims.measures.losses import LATE
from lolm.claims.registry import ENTRIES, by_id


def test_differences_at_matched_cost(ledger_of):
    claim = ledger_of(Truth(speed=1.5, flops_ratio=1.25, jitter=0.0))["matched_budget"]
    same_flops = law(400, 1.5 / 1.25) - law(400)
    same_seconds = law(400 / 2, 1.5) - law(400)  # a step of LOLM takes twice as long
    assert claim.details["difference at equal FLOPs"].value == pytest.approx(same_flops, abs=2e-3)
    assert claim.details["difference at equal seconds"].value == pytest.approx(same_seconds, abs=2e-3)


def test_equivalence_is_a_failure_of_the_claim(ledger_of):
    ledger = ledger_of(Truth(speed=1.001, flops_ratio=1.0, jitter=0.0005))
    assert ledger["matched_budget"].verdict == "fails"
    assert "equivalent" in ledger["matched_budget"].why or "above" in ledger["matched_budget"].why


def window(step, speed=1.0):
    """Mean of the five log windows of 4 steps that end at a step."""
    return math.fsum(law(step - back, speed) for back in range(0, 20, 4)) / 5


def test_gap_follows_each_published_definition(ledger_of):
    """Training losses before the rate decays (step 320 of 400), by hand: the bump of unfinished schedules is in both arms."""
    ledger = ledger_of(Truth(speed=1.5, jitter=0.0, bump=0.3))
    like, late = (1 - math.exp(window(step, 1.5) - window(320)) for step in (320, LATE * 320))
    assert ledger["matched_budget"].sound.value == pytest.approx(law(400, 1.5) - law(400), abs=1e-9)
    assert ledger["matched_budget"].as_published.value == pytest.approx(like, abs=1e-9)
    assert ledger["gap_16_8"].as_published.value == pytest.approx(like, abs=1e-9)
    assert ledger["gap_15"].as_published.value == pytest.approx(late, abs=5e-4)  # between log windows, by interpolation
    # evaluation mode at step 200, the last weights kept before the decay, against training 0.05 above, mean of 5 windows
    theirs = window(200) + 0.05
    assert ledger["gap_25_9"].as_published.value == pytest.approx(1 - math.exp(law(200, 1.5) - theirs), abs=1e-9)
    for id in ("gap_25_9", "gap_16_8", "gap_15", "advantage_2k", "advantage_13k", "faster_43", "component_gate_one", "cpc_early"):
        assert ledger[id].verdict == "not testable at this scale"


READ_IN_TRAINING = {  # as published, and the nats that a training loss lower by 0.2 in LOLM alone adds to its lead
    "matched_budget": -0.2, "gap_16_8": -0.2, "gap_15": -0.2, "gap_25_9": 0.0, "early_lead": -0.2, "behind_at_end": -0.2,
    "advantage_early": 0.2, "advantage_2k": 0.2, "advantage_13k": 0.2, "faster_43": -0.2,
}  # fmt: skip


def test_what_was_printed_of_training_is_read_in_training(results_of):
    """The sources' losses at one step are all of training batches; so as published are ours, whatever validation text says."""
    results = results_of(Truth(speed=1.5, jitter=0.0), seeds=(1, 2))
    lower = []
    for run in results.runs:
        shift = 0.2 if run.arm == "lolm" else 0.0
        rows = [row | ({"train/loss": row["train/loss"] - shift} if "train/loss" in row else {}) for row in run.rows]
        lower.append(replace(run, rows=rows))
    before, after = ({c.id: c for c in build_ledger(r)} for r in (results, replace(results, runs=tuple(lower))))
    for id, nats in READ_IN_TRAINING.items():
        old, new = (ledger[id].as_published for ledger in (before, after))
        read = math.log(new.value / old.value) if old.unit == "x" else math.log((1 - new.value) / (1 - old.value))
        assert read == pytest.approx(nats), id
        assert before[id].sound == after[id].sound
    for id in ("efficiency_2x", "efficiency_direction", "efficiency_2x_published"):
        assert after[id].as_published.value > 1.1 * before[id].as_published.value
        assert before[id].sound == after[id].sound
    assert before["crossover"].verdict == after["crossover"].verdict == "not testable at this scale"


def test_a_gap_without_its_measurement_has_a_reason(results_of):
    results = results_of(seeds=(1, 2))
    runs = tuple(replace(run, evaluation=replace(run.evaluation, training_stream=())) for run in results.runs)
    claim = next(c for c in build_ledger(replace(results, runs=runs)) if c.id == "gap_25_9")
    assert claim.as_published.value is None
    assert claim.verdict == "not testable at this scale"


def test_leads_are_read_where_the_published_run_was(ledger_of):
    ledger = ledger_of(Truth(speed=1.5, jitter=0.0, bump=0.3))
    assert ledger["advantage_early"].sound.value == pytest.approx(math.exp(law(40) - law(40, 1.5)))  # 2,000 / 20,000 of 320
    assert ledger["advantage_early"].as_published.value == pytest.approx(math.exp(window(32) - window(32, 1.5)))
    assert ledger["advantage_13k"].as_published.value == pytest.approx(math.exp(window(208) - window(208, 1.5)))  # of 320 again
    assert ledger["faster_43"].as_published.value == pytest.approx(1 - math.exp(window(24, 1.5) - window(24)))  # 6 % of 400
    shrink = (law(40) - law(40, 1.5)) - (law(320) - law(320, 1.5))
    assert ledger["early_lead"].sound.value == pytest.approx(shrink)
    assert ledger["stepwise_wins"].sound.value == 1.0
    assert ledger["crossover"].verdict == "not testable at this scale"
    assert ledger["behind_at_end"].verdict == "fails"


def test_a_lead_that_is_lost_has_a_place(results_of):
    """LOLM ahead by 0.1 nats up to step 120 of 400, then behind."""
    results = results_of(Truth(speed=1.0, jitter=0.0), seeds=(1, 2))
    runs = []
    for run in results.runs:
        rows = [dict(row) for row in run.rows]
        for row in rows:
            if run.arm == "lolm" and "train/loss" in row:
                row["train/loss"] += -0.1 if row["step"] <= 120 else 0.1
        runs.append(replace(run, rows=rows))
    results = replace(results, runs=tuple(runs))
    entry = by_id(ENTRIES)["crossover"]
    reading = entry.measure(Context(results, entry, {}, None))
    assert reading.sound.value == pytest.approx(0.32)  # of the window that ends at step 128 three fifths lie before


def test_conditioning_says_what_the_recipes_are(results_of):
    results = results_of(seeds=(1,))
    said = conditioning(results)[0].sentence
    assert "Here both arms have a norm before the head and small initial weights." in said
    runs = []
    for run in results.runs:
        if run.arm == "transformer":
            architecture = run.header.run.architecture
            architecture = replace(architecture, recipe=replace(architecture.recipe, head_norm="none"))
            run = replace(run, header=replace(run.header, run=replace(run.header.run, architecture=architecture)))
        runs.append(run)
    changed = replace(results, runs=tuple(runs))
    said = conditioning(changed)[0].sentence
    assert "both arms" not in said
    assert f"Here “{results.label('transformer')}” has no norm before the head" in said
    pair = {"arms": ("lolm", "transformer_modern"), "baseline": "transformer_modern"}
    modern = results_of(seeds=(1,), studies={"pair": pair}, study="pair")
    assert not conditioning(modern), "its baseline has no published form"
