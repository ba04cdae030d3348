"""Claims that the sources make in words or as numbers of one model: neither part alone, what is emergent, levels at a step."""

import math
import random
from dataclasses import replace

import pytest
from synthetic import Truth, recall_diverged

from lolm.claims import build_ledger
from lolm.claims.entry import Context
from lolm.claims.registry import ENTRIES, by_id
from lolm.claims.registry.cross_checks import NOISE_REGIME_LOSS, cross_checks

FIELD = {"arms": ("lolm", "transformer_modern", "mamba"), "baseline": "transformer_modern"}


def field(results_of, **truth):
    ledger = build_ledger(results_of(Truth(jitter=0.0, **truth), studies={"field": FIELD}, study="field"))
    return {claim.id: claim for claim in ledger}


def test_neither_alone_takes_both(results_of):
    assert field(results_of, speed=1.5)["neither_alone"].verdict == "holds"


def test_one_part_that_is_no_worse_is_enough_to_refute(results_of):
    claim = field(results_of, speed=1.5, speeds={"mamba": 2.0})["neither_alone"]
    assert claim.verdict == "fails"
    assert claim.sound.value < 0  # of the part that is better


def test_emergent_is_better_than_both_in_one_thing(results_of):
    better = field(results_of, speed=1.5)["emergent_properties"]
    assert (better.verdict, better.sound.value) == ("holds", 2.0)  # test loss and late loss, not the two recall tasks
    assert len(better.details) == 8
    alike = field(results_of, speed=1.5, speeds={"mamba": 2.0})["emergent_properties"]
    assert alike.verdict != "holds"
    assert alike.sound.value == 0.0


@pytest.mark.parametrize(("ours", "theirs", "verdict"), [(0.999, 0.995, "inconclusive"), (1.0, 0.4, "holds")])
def test_recall_that_all_have_learned_is_no_property_of_one(results_of, ours, theirs, verdict):
    """A few thousandths of the accuracy in a task that every run solves, the same in all five seeds, make no new ability."""
    truth = Truth(jitter=0.0, speed=1.0, speeds={"mamba": 2.0})  # so that Mamba is ahead in loss
    results = results_of(truth, seeds=(1, 2, 3, 4, 5), studies={"field": FIELD}, study="field")

    def learned(run):
        accuracy = (ours if run.arm == "lolm" else theirs) + 1e-5 * run.seed
        tasks = run.recall.tasks | {"induction": replace(run.recall.tasks["induction"], accuracy=accuracy)}
        return replace(run, recall=replace(run.recall, tasks=tasks))

    results = replace(results, runs=tuple(map(learned, results.runs)))
    claim = next(claim for claim in build_ledger(results) if claim.id == "emergent_properties")
    assert claim.verdict == verdict
    shown = claim.details["induction, against Mamba"]
    assert (shown.value, shown.n_seeds) == (float(verdict == "holds"), 5)


def test_what_is_said_of_retrieval_is_of_its_two_arms(results_of):
    ledger = field(results_of)
    assert {name.split(" · ")[0] for name, _ in ledger["retrieval_pure"].runs} == {"transformer_modern", "mamba"}
    assert {name.split(" · ")[0] for name, _ in ledger["retrieval_mamba"].runs} == {"lolm", "mamba"}


def test_a_run_whose_recall_diverged_is_one_that_did_not_solve_it(results_of):
    results = results_of(Truth(jitter=0.0, solved=0.95), studies={"field": FIELD}, study="field")
    ledger = {claim.id: claim for claim in build_ledger(recall_diverged(results, "mamba-2"))}
    claim = ledger["retrieval_mamba"]
    assert (claim.verdict, claim.sound.value) == ("inconclusive", 0.25)
    assert "LOLM v3, sound 4 of 4, Mamba 3 of 4." in claim.why
    for id in ("retrieval_mamba", "emergent_properties"):
        assert ledger[id].why.endswith(" Training on mqar diverged, so it was not solved: Mamba, seed 2.")
    mean = claim.details["difference of mean accuracies"]
    assert (mean.value, mean.note) == (None, "a run that diverged has no accuracy")
    assert ledger["emergent_properties"].details["mqar, against Mamba"].value == 0.25


def test_sentences_begin_where_words_begin(ledger_of):
    turned = ledger_of(Truth(discourse_gate=0.2))["gate_discourse"]
    assert turned.verdict == "holds"
    assert turned.sound.value == pytest.approx(-0.2, abs=0.02)
    assert ledger_of(Truth(discourse_gate=0.0))["gate_discourse"].verdict == "fails"


def test_a_gate_that_stays(ledger_of):
    """It climbs until 0.4 of the run; the published share of the constant rate, 5/33 of 320, is step 48."""
    claim = ledger_of(Truth(gate_path=(0.36, 0.17, 0.83)))["gate_settles"]
    assert claim.verdict == "fails"
    assert claim.sound.value == pytest.approx(0.83 - (0.17 + 0.66 * (44 / 400 - 0.1) / 0.3), abs=0.05)
    assert ledger_of(Truth(gate_path=(0.5, 0.5, 0.5)))["gate_settles"].verdict == "holds"


def test_a_transformer_that_is_left_with_less_than_a_bigram_is_not_graceful(ledger_of):
    assert ledger_of(Truth(skip_damage=5.5))["transformer_graceful"].verdict == "fails"
    assert ledger_of(Truth(skip_damage=0.2))["transformer_graceful"].verdict == "holds"


def test_what_the_code_says_needs_no_number(ledger_of):
    ledger = ledger_of()
    assert [ledger[id].verdict for id in ("memory_persists", "memory_writes", "cpc_head")] == ["fails", "holds", "fails"]
    assert all(ledger[id].why.startswith("By construction: ") for id in ("memory_persists", "memory_writes", "cpc_head"))
    assert ledger["memory_writes"].trained_for  # no finding


def test_announced_tasks_are_not_run(ledger_of):
    claim = ledger_of()["downstream_announced"]
    assert claim.verdict == "not run"
    assert claim.command is not None


# ---------------------------------------------------------------------------------------------- levels


def level(results, id, scale="smoke"):
    return by_id(ENTRIES)[id].measure(Context(replace(results, scale=scale), by_id(ENTRIES)[id], {}, None))


def test_a_level_is_read_at_its_step(results_of):
    """At its own preset at the printed step, elsewhere at that share of the steps before the rate decays (320 of 400)."""
    results = results_of(Truth(jitter=0.0), seeds=(1, 2))
    runs = []
    for run in results.runs:
        rows = [{k: v for k, v in row.items() if k != "gate/mean"} | {"gate/mean": row["step"] / 1000} for row in run.rows]
        rows = [row if "train/loss" in row else {k: v for k, v in row.items() if k != "gate/mean"} for row in rows]
        runs.append(replace(run, rows=rows))
    results = replace(results, runs=tuple(runs))
    # published_window is 20 of log windows of 4 steps: the mean of five that end at the step
    assert level(results, "level_gate_157b").sound.value == pytest.approx((320 - 8) / 1000)
    assert level(results, "gate_dip_304m").sound.value == pytest.approx((4 + 8 + 12 + 16) / 4000)  # by step 17
    past_the_end = level(results, "level_gate_157b", "1570m").sound.value
    assert past_the_end == pytest.approx((400 - 8) / 1000)


# ---------------------------------------------------------------------------------------------- published numbers alone


def test_published_numbers_against_one_another():
    ledger = {claim.id.removeprefix("arithmetic_"): claim for claim in cross_checks()}
    value = {id: claim.as_published.value for id, claim in ledger.items()}
    sound = {id: claim.sound.value for id, claim in ledger.items() if claim.sound}
    assert value["tpu_table"] == pytest.approx(0.435, abs=5e-4)
    assert sound["tpu_table"] == pytest.approx(-0.044, abs=5e-4)
    assert value["wins"] == pytest.approx(0.392, abs=5e-4)  # 0.02 (0.73 5 + 0.99 5 + 0.59 10 + 0.19 10 + 0.15 10 + 0.17 10)
    assert value["withdrawn"] == pytest.approx(31 / 411)
    assert value["four_orders"] == pytest.approx(76.62, abs=5e-3)
    assert sound["four_orders"] == pytest.approx(1.884, abs=5e-4)
    assert value["pythia_gap"] == pytest.approx(0.522, abs=5e-4)
    assert value["pythia_4b"] == pytest.approx(1 - 54.32 / 68.37)
    assert value["late_17"] == pytest.approx(0.1707, abs=5e-5)
    assert sound["step_20k"] == 38.7
    assert sound["regime_noise"] == pytest.approx((5.88 - 3.65 - 2.8435 - 0.00745 - 0.00706) / 0.3, abs=1e-4)
    assert value["projected_inversion"] == pytest.approx(math.exp(20))
    assert {claim.verdict for claim in ledger.values()} == {"holds", "fails"}


def test_noise_of_the_regime_loss_is_simulated():
    """0.5 L_bal − H + 0.2 L_sticky of Gumbel samples with uniform logits: 64 codes, temperature 0.95."""
    draw, codes, tau, samples = random.Random(0), 64, 0.95, []
    for _ in range(600):
        weights = [math.exp(-math.log(-math.log(draw.random())) / tau) for _ in range(codes)]
        samples.append([weight / sum(weights) for weight in weights])
    entropy = -sum(p * math.log(p) for sample in samples for p in sample) / len(samples)

    def cosine(a, b):
        return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))

    sticky = -sum(cosine(a, b) for a, b in zip(samples, samples[1:], strict=False)) / (len(samples) - 1)
    assert 0.5 - entropy + 0.2 * sticky == pytest.approx(NOISE_REGIME_LOSS, abs=0.05)
