"""Verdicts on the inversion, on what makes it and on training arms, from records with known answers."""

import json
import math
from dataclasses import replace

import pytest
import yaml
from synthetic import Truth, law, write_results

from lolm.accounting.count import account_run
from lolm.accounting.counting import Counting
from lolm.accounting.gpus import UTILISATION
from lolm.analysis.effects import arm_effect
from lolm.claims import build_ledger, to_records
from lolm.claims.cost import PEAK_FLOPS, needs
from lolm.claims.measures.losses import tpu_pair
from lolm.claims.measures.readouts import READOUT_NAMES
from lolm.claims.measures.training import Contrast
from lolm.claims.registry import ENTRIES
from lolm.config import ConfigError, load_params
from lolm.records import names
from lolm.report.ablations import REMOVED, readout_recovery

SEEDS = (1, 2, 3, 4)
FULL = law(400, 1.5)  # loss of the synthetic LOLM at its end


def ledger_of(results):
    return {claim.id: claim for claim in build_ledger(results)}


@pytest.mark.parametrize(
    ("latent", "surface", "share", "verdict", "said"),
    [
        (1.2, 0.6, 0.95, "holds", "rule: inverted."),
        (1.2, 0.6, 0.3, "fails", "rule: latent majority."),
        (1.2, 0.6, 0.5, "inconclusive", "rule: inconclusive."),
        (0.6, 1.2, 0.95, "fails", "rule: not inverted."),
        (0.6, 0.6, 0.95, "fails", "rule: no inversion."),
        (0.65, 0.6, 0.95, "fails", "rule: no inversion. The band counts an S of up to 0.1 nats as none; one above 0.05 is not"),
    ],
)
def test_the_declared_statistic_decides_beside_the_share(results_of, latent, surface, share, verdict, said):
    ledger = ledger_of(results_of(Truth(latent_mean=latent, surface_mean=surface, share=share)))
    claim = ledger["inversion_preregistered"]
    assert claim.verdict == verdict
    assert said in claim.why
    assert ("ruled out" in claim.why) == (latent == 0.65)  # the interval reaches above the margin of an inversion
    assert claim.details["share of the latent branch"].value == pytest.approx(1 - share, abs=0.002)
    assert ledger["latent_minority"].verdict == {0.95: "holds", 0.3: "fails", 0.5: "inconclusive"}[share]
    assert not any("norm kept" in control.name for control in claim.controls)


def test_effects_computed_through(results_of):
    """h: 0.6 at the fusion and 2 elsewhere; z: 1.2 and 0.1; h in the SSM's input 1.2."""
    ledger = ledger_of(results_of(Truth()))
    total = ledger["inversion_total"]
    assert total.sound.value == pytest.approx(1.3 - 2.6, abs=0.01)
    assert total.verdict == "fails"
    assert total.details["damage, z at the fusion alone"].value == pytest.approx(4.2 - FULL, abs=0.05)
    assert len(total.controls) == 2  # zero and resample
    assert ledger["surface_direct"].verdict == "fails"
    assert ledger["latent_direct"].verdict == "holds"
    assert ledger["latent_is_serial"].sound.value == pytest.approx(-0.1)
    assert ledger["latent_is_serial"].verdict == "fails"
    assert ledger["latent_branch_alone"].verdict == "holds"  # 4 nats; a bigram model has 4.4
    assert ledger["surface_branch_alone"].verdict == "fails"
    assert "bigram" in ledger["surface_branch_alone"].why
    other = ledger_of(results_of(Truth(indirect={"latent": 1.0, "surface": 0.0})))
    assert other["inversion_total"].verdict == "holds"


def test_effects_are_not_read_with_a_way_that_has_none(results_of):
    results = results_of()
    analysis = replace(results.analysis, inversion_statistic="gate")
    claim = ledger_of(replace(results, params=replace(results.params, analysis=analysis)))["inversion_total"]
    assert claim.verdict == "not run"
    assert "inversion_statistic: gate" in claim.why


def test_what_s_follows_over_arms(results_of):
    latents = {"lolm": 0.6, "lolm_sum": 0.8, "lolm_half": 1.0, "lolm_concat": 1.2, "lolm_parallel": 1.4}
    truth = Truth(latents=latents, shares={arm: 1 - 0.5 * s for arm, s in latents.items()})
    ledger = ledger_of(results_of(truth, arms=("transformer", *latents)))
    assert ledger["dependency_follows_share"].verdict == "holds"
    assert ledger["dependency_follows_gate"].verdict == "not run"  # all gates are alike
    results = results_of(truth, arms=("transformer", *latents))
    lacking = [_without_share(run) if run.arm == "lolm_half" else run for run in results.runs]  # which has S all the same
    claim = ledger_of(replace(results, runs=tuple(lacking)))["dependency_follows_share"]
    assert "by permutation of 4 arms" in claim.why
    assert {run.split(" · ")[0] for run, _ in claim.runs} == set(latents) - {"lolm_half"}
    assert {name.split(":")[0] for name in claim.details} == {results.label(arm) for arm in latents if arm != "lolm_half"}
    close = Truth(latents=latents, shares={arm: 0.6 - 0.03 * s for arm, s in latents.items()})
    alike = ledger_of(results_of(close, arms=("transformer", *latents)))["dependency_follows_share"]
    assert alike.verdict == "inconclusive"
    assert "the arms' means of latent share lie within 2.4 points, called equal" in alike.why
    by_chance = ledger_of(results_of(truth, arms=("transformer", *list(latents)[:4])))["dependency_follows_share"]
    assert by_chance.verdict == "inconclusive"
    assert "p 0.083 by permutation of 4 arms" in by_chance.why
    few = ledger_of(results_of(truth, arms=("transformer", "lolm", "lolm_sum")))
    assert few["dependency_follows_share"].verdict == "not run"
    assert "four arms" in few["dependency_follows_share"].why


def test_ways_that_agree_and_one_that_does_not(results_of):
    results = results_of(Truth(gate_one=9.0, gate_zero=5.0))
    claim = ledger_of(results)["inversion_ways"]
    assert claim.verdict == "fails"  # forced gates say 4 nats, the others 0.6
    assert "gate − zero" in claim.why
    assert claim.sound.value == pytest.approx(3.4, abs=0.1)
    assert "gate minus" in claim.sound.definition
    alike = [replace(run, ablation=_without(run.ablation, "gate")) for run in results.runs]
    assert ledger_of(replace(results, runs=tuple(alike)))["inversion_ways"].verdict == "holds"


def _without_share(run):
    evaluation = replace(run.evaluation, gate=None)
    return replace(run, evaluation=evaluation, ablation=replace(run.ablation, contributions=()))


def _without(ablation, intervention):
    return replace(ablation, conditions=tuple(row for row in ablation.conditions if row.intervention != intervention))


def test_the_published_pair_does_not_decide(results_of):
    """Forced gates say inverted, mean ablation says not: the declared statistic is mean ablation."""
    ledger = ledger_of(results_of(Truth(gate_one=9.0, gate_zero=5.0, latent_mean=0.2, surface_mean=0.9)))
    assert ledger["inversion"].verdict == "holds"
    assert ledger["inversion_preregistered"].verdict == "fails"
    gate = next(c for c in ledger["inversion_preregistered"].controls if c.name == "S, gate forced to 1 or 0")
    assert gate.quantity.value == pytest.approx(4.0, abs=0.1)


def test_another_declared_statistic_is_read_and_a_wrong_one_refused(tmp_path, results_of):
    results = results_of(Truth(gate_one=9.0, gate_zero=5.0, latent_mean=0.2, surface_mean=0.9))
    analysis = replace(results.analysis, inversion_statistic="gate")
    changed = replace(results, params=replace(results.params, analysis=analysis))
    assert ledger_of(changed)["inversion_preregistered"].verdict == "holds"
    write_results(tmp_path, seeds=(1,), not_run=("lolm", "transformer"))
    raw = yaml.safe_load((tmp_path / "params.yaml").read_text())
    raw["analysis"]["inversion_statistic"] = "meen"
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(ConfigError, match="inversion_statistic"):
        load_params(tmp_path / "params.yaml")


def test_random_halves(results_of):
    assert ledger_of(results_of(Truth(split=0.1)))["inversion_null"].verdict == "holds"


def test_random_halves_as_large_as_the_inversion(results_of):
    assert ledger_of(results_of(Truth(split=3.0)))["inversion_null"].verdict == "fails"


def test_random_halves_need_every_seed_and_more_than_one(results_of):
    """S is 0.6 nats: one draw above it in one seed of four settles nothing, nor does one seed that exceeds all of its own."""
    results = results_of()
    runs = [_with_large_half(run) if run.seed == 2 and run.arm == "lolm" else run for run in results.runs]
    claim = ledger_of(replace(results, runs=tuple(runs)))["inversion_null"]
    assert claim.verdict == "inconclusive"
    assert "no seed's p is below 0.11" in claim.why
    one = replace(results, runs=tuple(run for run in results.runs if run.seed == 1))
    assert ledger_of(one)["inversion_null"].verdict == "inconclusive"


def _with_large_half(run):
    return _with_losses(run, "split_3_second", 0.8)


def _with_losses(run, intervention, nats):
    """The run with a number of nats more under one intervention."""
    rows = [replace(row, nats=row.nats + nats * (row.intervention == intervention)) for row in run.ablation.conditions]
    return replace(run, ablation=replace(run.ablation, conditions=tuple(rows)))


@pytest.mark.parametrize(("recovered", "verdict"), [(0.8, "fails"), (0.1, "holds")])
def test_readout(results_of, recovered, verdict):
    results = results_of(Truth(recovered=recovered))
    claim = ledger_of(results)["damage_is_information"]
    assert not claim.authors  # the question is ours
    assert claim.details["damage at g = 1"].value == pytest.approx(2.0)
    assert claim.sound.value == pytest.approx(2.0 * (1 - recovered), abs=0.01)
    assert claim.verdict == verdict


@pytest.mark.parametrize(("recovered", "verdict"), [(0.8, "fails"), (0.1, "inconclusive")])
def test_a_refit_that_was_still_getting_better_can_only_refute(results_of, recovered, verdict):
    results = results_of(Truth(recovered=recovered))
    steps = results.params.scales[results.scale].ablation.refit_steps
    short = _with_readouts(results, lambda row: replace(row, kept=steps if row.readout == "head" else row.kept))
    claim = ledger_of(short)["damage_is_information"]
    assert claim.verdict == verdict
    assert f"the last of {steps} steps was the best" in claim.why


def _with_readouts(results, change):
    runs = [
        replace(run, ablation=replace(run.ablation, readouts=tuple(map(change, run.ablation.readouts))))
        if run.arm == "lolm"
        else run
        for run in results.runs
    ]
    return replace(results, runs=tuple(runs))


def test_what_a_refit_brings_anyway_is_no_recovery(results_of):
    """Every refit lowers every loss by 1.5 nats, the intact model's too: all of the 2 nats of damage is left."""
    results = _with_readouts(
        results_of(Truth(recovered=0.0)), lambda row: replace(row, refitted=row.refitted - 1.5, intact=row.intact - 1.5)
    )
    claim = ledger_of(results)["damage_is_information"]
    assert claim.sound.value == pytest.approx(2.0, abs=0.01)
    assert claim.verdict == "holds"
    assert claim.details["change of the intact model"].value == pytest.approx(-1.5)
    table = readout_recovery(results)
    removals = (("gate", 1.0), ("gate", 0.0), ("latent_mean", None), ("surface_mean", None))
    assert set(table["intervention"]) == {REMOVED[removal] for removal in removals}
    head = table[table["refitted"] == READOUT_NAMES[names.HEAD]]
    assert list(head[head["intervention"] == REMOVED["gate", 1.0]]["left_nats"]) == pytest.approx([2.0] * len(SEEDS), abs=0.02)
    assert all(head["recovered"].abs() < 0.02)


def test_no_damage_or_no_intact_refit_leaves_nothing_to_judge(results_of):
    results = results_of()
    healed = _with_readouts(results, lambda row: replace(row, damaged=row.full - 0.1))
    claim = ledger_of(healed)["damage_is_information"]
    assert claim.verdict == "inconclusive"
    assert "no damage" in claim.why
    unreferenced = _with_readouts(results, lambda row: replace(row, intact=None, kept=None))  # as records once were
    assert ledger_of(unreferenced)["damage_is_information"].verdict == "not run"
    assert readout_recovery(unreferenced).empty


def test_the_dependency_grows_with_training(results_of):
    results = results_of(Truth(gate_target_gap=0.1))
    ledger = ledger_of(results)
    assert ledger["dependency_grows"].verdict == "holds"
    assert ledger["dependency_grows"].sound.value == pytest.approx(1.2 * 0.9 - (results_loss(results, -1)), abs=0.05)


def results_loss(results, last):
    """How much more the full model's loss fell than the removed one's, which the synthetic record keeps fixed."""
    run = results.of("lolm")[0]
    steps = run.ablation_steps
    return run.condition("none", None, steps[last]).nats - run.condition("none", None, steps[0]).nats


@pytest.mark.parametrize(("shift", "verdict"), [(0.1, "holds"), (-0.1, "fails"), (0.0, "fails")])
def test_function_words(results_of, shift, verdict):
    assert ledger_of(results_of(Truth(function_gate=shift)))["function_words"].verdict == verdict


def test_records_without_the_laboratory_say_what_makes_it(results_of):
    ledger = ledger_of(results_of(Truth(laboratory=False)))
    for id in ("inversion_preregistered", "inversion_null", "damage_is_information", "function_words"):
        assert ledger[id].verdict == "not run"
        assert "make repro SCALE=smoke STUDY=main" in ledger[id].why
    assert ledger["inversion"].verdict == "holds"


def test_arms_against_the_subject(results_of):
    """No jitter in speed, so an arm's offset is its difference exactly; Holm multiplies the smallest p by the number of arms."""
    arms = ("lolm", "transformer", "lolm_sum", "lolm_no_latent")
    results = results_of(Truth(jitter=0.001, offsets={"lolm_sum": 0.3, "lolm_no_latent": -0.3}), arms=arms)
    ledger = ledger_of(results)
    assert ledger["gate_sum"].verdict == "holds"
    assert ledger["scratch_no_ssm"].verdict == "holds"
    assert ledger["latent_needed"].verdict == "fails"
    assert "for 2 contrasts asked of these runs in test loss" in ledger["gate_sum"].rule  # two questions on one arm are one
    assert "97.5 % interval" in ledger["gate_sum"].sound.definition
    wider = arm_effect(results, "lolm_sum", "nats").at(1 - 0.05 / 2)
    assert ledger["gate_sum"].sound.interval == pytest.approx(wider.interval)
    assert ledger["gate_scalar"].verdict == "not run"
    assert ledger["gate_scalar"].needs.command == "make repro SCALE=smoke STUDY=gates"


def test_the_declared_pair_is_not_corrected_and_leaves_the_family(results_of):
    arms = ("lolm", "transformer", "lolm_sum", "lolm_half")
    results = results_of(Truth(jitter=0.001), arms=arms)
    study = replace(results.params.selected, baseline="lolm_sum")
    ledger = ledger_of(replace(results, params=replace(results.params, studies=results.params.studies | {study.name: study})))
    assert "declared comparison, not corrected" in ledger["gate_sum"].rule
    assert ledger["gate_sum"].sound.interval == pytest.approx(arm_effect(results, "lolm_sum", "nats").interval)
    assert "for 1 contrast asked" in ledger["gate_half"].rule


def test_what_is_declared_is_a_difference_of_losses(results_of):
    """In the gate, S and usage the same pair is one contrast of several."""
    arms = ("lolm", "lolm_free_gate", "lolm_bias_plus")
    study = {"gate": {"arms": arms, "baseline": "lolm_free_gate"}}
    ledger = ledger_of(results_of(studies=study, study="gate", arms=arms))
    for name in ("gate_free", "gate_bias"):
        assert "for 2 contrasts asked of these runs in mean gate" in ledger[name].rule
        assert "97.5 % interval" in ledger[name].sound.definition


def test_factors_of_a_design_are_corrected_together_and_show_their_arms(results_of):
    """Two of three factors are claimed; the page shows all."""
    factors = {"isolation": ("lolm", "lolm_half"), "balance": ("lolm", "lolm_sum"), "clamp": ("lolm", "lolm_concat")}
    arms = ("lolm", "lolm_sum", "lolm_half", "lolm_concat")
    design = {"regime": {"arms": arms, "baseline": "lolm_sum", "factors": factors}}
    results = results_of(arms=arms, studies=design, study="regime")
    claim = ledger_of(results)["isolation_usage"]
    assert "(Bonferroni), for the 3 factors of the design asked of these runs" in claim.rule
    assert "98.33 % interval" in claim.sound.definition
    assert set(claim.details) == {results.label(arm) for arm in arms}
    assert claim.details[results.label("lolm_sum")].definition.endswith("high: balance")
    assert claim.details[results.label("lolm")].definition.endswith("high: isolation, balance, clamp")


def test_a_verdict_that_rests_on_pooling_says_so(results_of):
    """Five arms share their variance; LOLM's gain of 0.2 is certain by it, and not by the spread of three seeds of its own."""
    arms = ("lolm", "transformer", "lolm_sum", "lolm_half", "lolm_concat")
    results = results_of(Truth(jitter=0.0), arms=arms, seeds=(1, 2, 3))
    spread = {
        "transformer": (0.03, -0.02, 0.01), "lolm_sum": (0.03, 0.1, 0.17), "lolm_half": (0.02, -0.05, 0.03),
        "lolm_concat": (-0.04, 0.05, 0.0),
    }  # fmt: skip
    runs = [_shifted(run, 0.1 * (run.arm == "lolm_sum") + spread.get(run.arm, (0.0,) * 3)[run.seed - 1]) for run in results.runs]
    claim = ledger_of(replace(results, runs=tuple(runs)))["gate_sum"]
    assert "pooled over 5 arms; by its own variance alone" in claim.sound.covers
    assert "by its own alone, over 3 seeds, the interval is" in claim.why


def test_a_difference_that_only_the_uncorrected_interval_shows_is_not_settled(results_of):
    """Two seeds-worth of spread around 0.1 nats: the 95 % interval lies above the margin, that of one of three does not."""
    arms = ("lolm", "transformer", "lolm_sum", "lolm_half", "lolm_concat", "lolm_scalar_gate")
    results = results_of(Truth(jitter=0.0), arms=arms)
    shifts = {1: 0.05, 2: 0.08, 3: 0.12, 4: 0.15}
    runs = [_shifted(run, shifts[run.seed]) if run.arm == "lolm_sum" else run for run in results.runs]
    results = replace(results, runs=tuple(runs))
    assert arm_effect(results, "lolm_sum", "nats").interval[0] > results.analysis.equivalence_margin
    assert ledger_of(results)["gate_sum"].verdict == "inconclusive"


def _shifted(run, nats):
    test = run.evaluation.test
    return replace(run, evaluation=replace(run.evaluation, test=replace(test, nats=test.nats + nats)))


def test_every_contrast_names_a_study_that_can_answer_it():
    studies = load_params().studies
    asked = [entry for entry in ENTRIES if isinstance(entry.measure, Contrast)]
    assert asked
    for entry in asked:
        contrast, study = entry.measure, studies[entry.study]
        assert contrast.arm is None or contrast.arm in study.arms, entry.id
        assert contrast.factor is None or contrast.factor in study.factors, entry.id


def test_no_cause_is_found_for_an_inversion_that_is_not_there(results_of):
    """Transformer blocks in the SSM's place lower S by 1 nat: an answer only where LOLM itself is inverted."""
    arms = ("lolm", "transformer", "lolm_transformer_latent")
    for latent, verdict in ((1.2, "holds"), (0.2, "inconclusive")):
        results = results_of(Truth(latent_mean=latent, surface_mean=0.6, jitter=0.0), arms=arms)
        lower = [_with_lower_latent(run) if run.arm == "lolm_transformer_latent" else run for run in results.runs]
        assert ledger_of(replace(results, runs=tuple(lower)))["inversion_ssm"].verdict == verdict


def _with_lower_latent(run):
    return _with_losses(run, "latent_mean", -1.0)


def test_the_published_pair_is_counted_to_the_parameter():
    totals = [account_run(run).parameters.total for run in tpu_pair(Counting(load_params()))]
    assert totals == [319_319_841, 316_840_960]


def test_cost_is_computed():
    params = load_params()
    found = needs(params, "20m", "main", Counting(params))
    training = params.scales["20m"].training
    assert found.seeds == len(params.studies["main"].seeds)
    per_token = found.training_flops / (found.seeds * training.steps * training.tokens_per_step)
    assert 2 * 5 * 20e6 < per_token < 2 * 8 * 20e6  # two arms of 20 M parameters, about 6 FLOPs a parameter
    assert found.hours == pytest.approx(found.training_flops / (UTILISATION * PEAK_FLOPS) / 3600)
    assert found.command == "make repro SCALE=20m STUDY=main"
    assert needs(params, "20m", "no_such", Counting(params)).training_flops is None
    assert needs(params, "20m", "main").shown == found.command  # nobody counted


def test_the_cost_of_the_published_pair_is_that_of_the_count(results_of):
    """4.3 % more as printed; by this project's count 0.5 % less. The authors' count is not published."""
    results = replace(results_of(), params=load_params().select("smoke", "main"))
    claim = next(claim for claim in build_ledger(results, counting=Counting(results.params)) if claim.id == "flops_overhead")
    assert claim.sound.value == pytest.approx(-0.0046, abs=1e-4)
    assert claim.as_published.value == pytest.approx(0.25)
    assert claim.verdict == "inconclusive"
    assert ledger_of(results)["flops_overhead"].verdict == "not run"


def test_the_ledger_is_complete(results_of):
    ledger = build_ledger(results_of())
    ours = [c for c in ledger if c.authors and c.group not in ("arithmetic", "sanity")]
    assert len(ours) >= 30
    assert all(c.source != "this project" for c in ours)
    levels = [c for c in ledger if c.group == "levels"]
    assert all(c.needs is not None and c.verdict == "not testable at this scale" for c in levels)
    measured = [c for c in ledger if c.group in ("inversion", "components") and c.sound is not None]
    assert all(c.controls or c.details or c.figure for c in measured)
    records = to_records(ledger)
    json.dumps(records, allow_nan=False)
    assert not any(isinstance(q, float) and math.isnan(q) for r in records for q in [r["sound"] and r["sound"]["value"]])
