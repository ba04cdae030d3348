"""Ledgers of one study and of a scale: what decides, what was not run, what diverged, what these models cannot show."""

from dataclasses import replace
from functools import cache

import pytest
from builders import ROOT
from synthetic import Truth, write_results

from lolm.claims import build_ledger, merged_ledger
from lolm.claims.ledger import decisive
from lolm.claims.registry import ENTRIES
from lolm.claims.sentences import tally
from lolm.config import load_params
from lolm.records import RecordError
from lolm.records.results import load_results, load_run

SEEDS = (1, 2, 3, 4)
FIELD = {"arms": ("lolm", "transformer", "transformer_modern", "mamba"), "seeds": SEEDS, "baseline": "transformer_modern"}
UNTESTABLE = "not testable at this scale"


@pytest.fixture
def merged(tmp_path):
    """The ledger over the studies that left records."""

    def build(studies, truth=None, run=("main",), **kwargs):
        write_results(tmp_path, seeds=SEEDS, truth=truth, studies=studies, **kwargs)
        params, read_run = load_params(tmp_path / "params.yaml"), cache(load_run)
        results = {name: load_results(tmp_path, "smoke", params, name, read_run=read_run) for name in run}
        return {claim.id: claim for claim in merged_ledger(results, params, "smoke")}, results

    return build


@pytest.mark.parametrize("arms", [("lolm",), ("transformer_modern", "lolm")])
def test_what_an_arm_was_not_run_for(ledger_of, arms):
    ledger = ledger_of(arms=arms)
    claim = ledger["efficiency_2x"]
    assert claim.verdict == "not run"
    assert claim.command == "make repro SCALE=smoke STUDY=main"
    assert claim.sound is None
    assert ledger["inversion"].verdict == "holds"
    assert ledger["inversion_control"].verdict == "not run"
    assert ledger["level_loss_304m"].verdict == ledger["pythia_perplexity"].verdict == UNTESTABLE
    assert ledger["level_loss_304m"].command == "make repro SCALE=304m STUDY=main"


def test_every_command_is_of_a_study_and_a_scale_of_the_project(ledger_of):
    params = load_params("params.yaml")
    for claim in ledger_of().values():
        assert (claim.verdict == "not run") <= (claim.command is not None)
        if claim.command is not None:
            make, repro, scale, study = claim.command.split()
            assert (make, repro) == ("make", "repro")
            assert scale.removeprefix("SCALE=") in params.scales
            assert study.removeprefix("STUDY=") in params.studies


def test_a_seed_that_was_not_run_leaves_the_number_and_no_verdict(ledger_of):
    ledger = ledger_of(not_run=("transformer-3",))
    claim = ledger["efficiency_2x"]
    assert claim.verdict == "not run"
    assert claim.sound.n_seeds == 3
    assert "Not yet run: transformer-3" in claim.why
    assert "The rule alone would say of what is there: fails" in claim.why
    assert ledger["gate_reversal"].verdict == "holds"  # the subject has all its seeds


def test_a_run_that_diverged_shows(ledger_of):
    ledger = ledger_of(diverged=("transformer-2",))
    claim = ledger["efficiency_2x"]
    assert claim.verdict == "fails"
    assert claim.sound.n_seeds == 3
    assert "Transformer, published form, seed 2, diverged at step 133." in claim.why
    assert "diverged" not in ledger["gate_reversal"].why


def test_an_arm_that_always_diverged_was_run(ledger_of):
    claim = ledger_of(diverged=("transformer",))["efficiency_2x"]
    assert claim.verdict == "inconclusive"
    assert "diverged" in claim.why
    assert claim.command is None


def test_a_measurement_that_was_not_made(ledger_of):
    ledger = ledger_of(left_out=("ablate",))
    assert {ledger[id].verdict for id in ("inversion", "inversion_preregistered", "gate_context")} == {"not run"}
    assert ledger["efficiency_2x"].verdict == "fails"


def test_a_broken_record_is_an_error(tmp_path):
    write_results(tmp_path, seeds=(1, 2))
    path = next((tmp_path / "reports/smoke/evaluate").glob("lolm-1.json"))
    path.write_text(path.read_text().replace('"nats"', '"nat"', 1))
    with pytest.raises(RecordError, match="nat"):
        build_ledger(load_results(tmp_path))


def test_one_seed_decides_nothing(ledger_of):
    ledger = ledger_of(seeds=(1,))
    # facts of the code and of the count, the same for every seed
    exact = ("parallel_paths", "memory_persists", "memory_writes", "cpc_head", "flops_overhead")
    measured = [claim for claim in ledger.values() if claim.group != "arithmetic" and claim.id not in exact]
    assert all(claim.sound is None or claim.sound.interval is None for claim in measured)
    assert {claim.verdict for claim in measured} <= {"inconclusive", "not run", UNTESTABLE}
    assert ledger["efficiency_2x"].sound.value == pytest.approx(1.2, rel=0.05)


def test_sanity_names_each_arm(ledger_of):
    ledger = ledger_of(arms=("lolm", "transformer", "transformer_modern"))
    for arm in ("lolm", "transformer", "transformer_modern"):
        assert ledger[f"sanity_{arm}"].verdict == "holds"


def test_the_sanity_of_an_arm_of_several_studies_is_decided_where_its_runs_are_all_there(merged):
    studies = {"field": FIELD | {"seeds": (1, 2)}, "wide": FIELD}
    ledger, results = merged(studies, run=("field", "wide"), not_run=("mamba-3", "mamba-4"))
    assert [len(results["wide"].of(arm)) for arm in ("mamba", "lolm")] == [2, 4]
    assert {arm: (ledger[f"sanity_{arm}"].verdict, len(ledger[f"sanity_{arm}"].runs)) for arm in ("mamba", "lolm")} == {
        "mamba": ("holds", 2),
        "lolm": ("holds", 4),
    }


def test_verdicts_are_withheld_from_models_that_learned_nothing(ledger_of):
    ledger = ledger_of(Truth(bigram=2.5))
    measured = [claim for claim in ledger.values() if claim.group not in ("sanity", "arithmetic")]
    assert {claim.verdict for claim in measured} == {"not run", UNTESTABLE}
    assert ledger["efficiency_2x"].verdict == UNTESTABLE
    assert "The rule alone would say: fails" in ledger["efficiency_2x"].why
    assert ledger["efficiency_2x"].sound.interval[0] < 1.2 < ledger["efficiency_2x"].sound.interval[1]
    assert ledger["sanity_lolm"].verdict == "fails"
    assert ledger["arithmetic_clip"].verdict == "fails"


def test_a_study_without_lolm_has_no_claims_on_lolm(results_of):
    plain = {"arms": ("mamba", "transformer_modern"), "subject": "mamba", "baseline": "transformer_modern", "recall": ("mamba",)}
    ledger = build_ledger(results_of(studies={"plain": plain}, study="plain"))
    assert [claim.id for claim in ledger if claim.group != "hybrids"] == ["sanity_mamba", "sanity_transformer_modern"]
    assert {claim.verdict for claim in ledger if claim.group == "hybrids"} == {"not run"}


def test_a_study_whose_baseline_has_a_latent_stream_says_nothing_of_the_published_comparison(results_of):
    gate = {"arms": ("lolm", "lolm_free_gate"), "baseline": "lolm_free_gate"}
    studies = {"gate": gate}
    hybrid = {claim.id: claim for claim in build_ledger(results_of(studies=studies, study="gate"))}
    for id in ("efficiency_2x", "behind_at_end", "matched_budget"):
        assert hybrid[id].verdict == "not run"
        assert "latent stream of its own" in hybrid[id].why
    assert hybrid["inversion"].verdict == "holds"
    assert hybrid["gate_free"].verdict in ("holds", "inconclusive")
    assert not any("without its last" in control.name for control in hybrid["inversion_preregistered"].controls)


@pytest.mark.parametrize("baseline", ["mamba", "samba"])
def test_a_study_against_no_transformer_says_nothing_of_the_transformer(results_of, baseline):
    study = {"arms": ("lolm", baseline), "baseline": baseline}
    ledger = {claim.id: claim for claim in build_ledger(results_of(studies={"other": study}, study="other"))}
    for id in ("efficiency_2x", "behind_at_end", "matched_budget"):
        assert ledger[id].verdict == "not run"
        assert "is no Transformer" in ledger[id].why
    assert ledger["inversion"].verdict == "holds"
    named = [control.name for control in ledger["inversion_preregistered"].controls if "without its last" in control.name]
    assert named == [f"{baseline.capitalize()} without its last block"]


def test_a_study_without_a_baseline_has_its_ledger(results_of):
    alone = {"arms": ("lolm_published",), "subject": "lolm_published", "baseline": ""}
    ledger = {c.id: c for c in build_ledger(results_of(studies={"alone": alone}, study="alone", arms=("lolm_published",)))}
    assert ledger["efficiency_2x_published"].verdict == "not run"
    assert ledger["flops_overhead"].verdict in ("not run", "inconclusive", "not testable at this scale")


def test_what_is_said_of_a_recipe_is_not_decided_by_arms_of_another(results_of):
    """A study's own page once called LOLM under the sound recipe LOLM as published."""
    pair = {"arms": ("lolm_published", "transformer_published"), "subject": "lolm_published", "baseline": "transformer_published"}
    results = {name: results_of(studies={"published": pair}, study=name) for name in ("main", "published")}
    ledger = {name: {claim.id: claim for claim in build_ledger(found)} for name, found in results.items()}
    said = [entry.id for entry in ENTRIES if entry.recipe]
    assert said == [entry.id for entry in ENTRIES if "as published" in entry.statement.lower() and entry.pair]
    assert {ledger["main"][id].verdict for id in said} == {"not run"}
    assert "another recipe" in ledger["main"]["efficiency_2x_published"].why
    assert {ledger["published"][id].verdict for id in said} <= {"holds", "fails", "inconclusive"}
    assert ledger["main"]["efficiency_2x"].verdict != "not run"


# ---------------------------------------------------------------------------------------------- over all studies


def test_the_two_times_is_asked_against_both_transformers(merged):
    truth = Truth(speed=3.0, flops_ratio=1.0, speeds={"transformer_modern": 2.5})
    ledger, results = merged({"field": FIELD}, truth, ("main", "field"))
    published, modern = ledger["efficiency_2x"], ledger["efficiency_2x_modern"]
    assert published.published
    assert not modern.authors, "they compared it with no other Transformer"
    assert (published.verdict, published.study) == ("holds", "main")
    assert published.sound.value == pytest.approx(3.0, rel=0.03)
    assert (modern.verdict, modern.study) == ("fails", "field")
    assert modern.sound.value == pytest.approx(1.2, rel=0.03)
    assert "modern" in modern.statement
    assert modern.fact == "efficiency_2x"
    assert modern not in decisive(ledger.values())
    alone = {claim.id: claim for claim in build_ledger(results["field"])}
    assert alone["efficiency_2x"].sound == modern.sound


def test_each_claim_stands_once_and_is_decided_by_its_study(merged):
    ledger, results = merged({"field": FIELD}, run=("main", "field"))
    listed = merged_ledger(results, results["main"].params, "smoke")
    assert len(listed) == len({claim.id for claim in listed})
    assert {entry.id for entry in ENTRIES} <= set(ledger)
    assert ledger["hybrid_beats_mamba"].study == "field"
    assert ledger["hybrid_beats_mamba"].verdict == "holds"
    assert ledger["gate_level"].study == "main"
    assert {"sanity_lolm", "sanity_mamba", "sanity_transformer", "sanity_transformer_modern"} <= set(ledger)


def test_a_study_without_records_is_not_run(merged):
    ledger, _ = merged({"field": FIELD})
    claim = ledger["efficiency_2x_modern"]
    assert claim.verdict == "not run"
    assert claim.command == "make repro SCALE=smoke STUDY=field"
    assert "Study field was not run at scale smoke" in claim.why
    assert ledger["latent_needed"].command == "make repro SCALE=smoke STUDY=parts"
    assert ledger["efficiency_2x"].verdict == "fails"


def test_another_study_of_the_same_arms_stands_in(merged):
    """LOLM alone is in every study; a comparison takes the same baseline too."""
    ledger, _ = merged({"field": FIELD}, run=("field",))
    assert (ledger["gate_reversal"].verdict, ledger["gate_reversal"].study) == ("holds", "field")
    assert ledger["efficiency_2x"].verdict == "not run"
    ledger, _ = merged({"again": {}}, run=("again",))
    assert (ledger["efficiency_2x"].verdict, ledger["efficiency_2x"].study) == ("fails", "again")


def test_of_those_that_stand_in_the_one_of_most_seeds_decides(merged):
    """Whatever their order in the file and what they show; of as many seeds, the one of which more was run."""
    arms = ("lolm", "transformer", "mamba")
    studies = {"few": {"seeds": (1, 2)}, "many": {"seeds": (1, 2, 3)}, "whole": {"arms": arms, "seeds": (1, 2, 3)}}
    ledger, _ = merged(studies, run=("few", "many"))
    claim = ledger["efficiency_2x"]
    assert (claim.study, claim.sound.n_seeds) == ("many", 3)
    ledger, _ = merged(studies, run=("few", "many", "whole"))
    assert {ledger[name].study for name in ("efficiency_2x", "gate_reversal")} == {"whole"}


def test_a_study_that_is_made_for_another_scale_stands_in_for_none(merged):
    """Its arms have runs here that another study made."""
    ledger, results = merged({"again": {}}, run=("again",))
    assert ledger["efficiency_2x"].study == "again"
    params = results["again"].params
    params = replace(params, scales=params.scales | {"other": params.scales["smoke"]}, budgets={"other": "again"})
    others = {claim.id: claim for claim in merged_ledger(results, params, "smoke")}
    assert others["efficiency_2x"].verdict == "not run"


def test_a_control_on_an_arm_is_found_in_the_study_that_has_it(merged):
    """And only of a study of the same subject, where it is held against that."""
    deep = {"arms": ("lolm", "transformer", "transformer_deep")}
    other = {"arms": ("mamba", "transformer_deep"), "subject": "mamba", "baseline": "transformer_deep", "recall": ("mamba",)}
    recipes = {"arms": ("transformer", "transformer_published"), "subject": "transformer", "baseline": "transformer_published"}
    recipes |= {"recall": ("transformer",)}

    def controls(*run):
        ledger, _ = merged({"deep": deep, "other": other, "recipes": recipes}, run=("main", *run))
        return {control.name: control.quantity for control in ledger["matched_budget"].controls}

    assert {q.value for name, q in controls("other").items() if name.startswith(("arm", "init"))} == {None}
    found = controls("other", "deep", "recipes")
    assert found["arm transformer_deep"].value is not None
    assert found["arm transformer_deep"].note == "In study deep."
    few = deep | {"seeds": SEEDS[:2]}
    ledger, _ = merged({"deep": few, "more": deep}, run=("main", "deep", "more"))
    (of_most,) = (c.quantity for c in ledger["matched_budget"].controls if c.name == "arm transformer_deep")
    assert (of_most.note, of_most.n_seeds) == ("In study more.", len(SEEDS))
    assert found["initialisation and norm of the baseline"].note == "In study recipes."


def test_nothing_was_run(merged):
    ledger, _ = merged({}, run=())
    measured = {claim.verdict for claim in ledger.values() if claim.group not in ("arithmetic",)}
    assert measured == {"not run", UNTESTABLE}
    assert ledger["level_loss_304m"].verdict == UNTESTABLE
    assert ledger["arithmetic_clip"].verdict == "fails"


# ---------------------------------------------------------------------------------------------- counting


def test_a_fact_counts_once_and_what_speaks_against_apart(results_of):
    """Every entry on the forced gate holds but the declared one: the count has one failure and no support."""
    ledger = build_ledger(results_of(Truth(gate_zero=5.0, latent_mean=0.2, surface_mean=0.9, alive_eval=8)))
    known = {claim.id: claim for claim in ledger}
    same = [claim for claim in ledger if claim.fact == "inversion_preregistered"]
    assert {claim.id for claim in same} == {"inversion", "surface_alone", "gate_one_ratio", "component_gate_one"}
    counted = decisive(ledger)
    assert not {c.id for c in counted} & {*(c.id for c in same), "damage_is_information", "gap_25_9", "advantage_2k"}
    assert known["inversion"].verdict == known["regime_codes"].verdict == "holds"
    assert known["regime_codes"] not in counted  # a loss asks for it
    flipped = [replace(c, verdict="holds") if c.id == "behind_at_end" else c for c in ledger]
    favour, against = tally(flipped).split(" What holds of what speaks against LOLM: ")
    assert known["inversion"].statement not in favour
    assert known["behind_at_end"].statement not in favour
    assert known["behind_at_end"].statement in against
    held = [c for c in counted if c.verdict == "holds" and not c.against]
    assert f"{len(held)} in LOLM's favour" in favour


def test_a_scale_without_a_run_decides_nothing():
    params = load_params(ROOT / "params.yaml").select("mini", "main")
    verdicts = {claim.id: claim.verdict for claim in merged_ledger({}, params, "mini")}
    assert {verdicts[entry.id] for entry in ENTRIES} == {"not run", UNTESTABLE}
