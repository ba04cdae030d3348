"""Claims about other hybrids on records with known answers."""

import pytest
from synthetic import Truth, recall_diverged

from lolm.claims import build_ledger
from lolm.claims.sentences import summary

ARMS = ("samba", "griffin", "jamba", "hymba", "hawk", "mamba", "transformer_modern")
STUDY = {"arms": ARMS, "subject": "samba", "baseline": "transformer_modern", "seeds": (1, 2, 3)}


@pytest.fixture
def hybrids_of(ledger_of):
    """The ledger of the study of hybrids."""

    def _hybrids(truth=None, **kwargs):
        return ledger_of(truth or Truth(solved=0.95), studies={"hybrids": STUDY}, study="hybrids", **kwargs)

    return _hybrids


def test_a_study_of_hybrids_has_its_claims_and_none_on_lolm(hybrids_of):
    ledger = hybrids_of()
    assert {claim.group for claim in ledger.values()} == {"hybrids", "sanity"}
    verdicts = {id: claim.verdict for id, claim in ledger.items() if claim.group == "hybrids"}
    assert {id: verdict for id, verdict in verdicts.items() if verdict != "holds"} == {
        "composition_decides": "fails",  # the same in every arm
        "attention_recall": "fails",  # something is lost without recurrence too
        "branch_bypassed": "fails",
        "hybrid_resilience": "fails",  # a Transformer of fewer layers, and less to lose
    }
    assert ledger["recurrent_missed_samba"].sound.value == pytest.approx(0.8, abs=0.02)
    assert ledger["recurrent_missed_samba"].details["recurrent share"].value == pytest.approx(0.4)
    assert ledger["recurrent_missed_samba"].as_published.value == pytest.approx(2.718, rel=0.02)
    assert ledger["attention_recall"].sound.value == pytest.approx(0.45, abs=0.03)
    assert ledger["attention_recall"].as_published.value == pytest.approx(0.45, abs=0.03)
    assert ledger["types_over_training"].sound.value == pytest.approx(0.08, abs=0.01)
    assert "Jamba, dense: p = 0.250 of 8 labellings" in ledger["types_labellings"].why
    for kind in ("recurrent", "attention"):  # a control of "equal" norm says how equal it is
        claim = ledger[f"{kind}_beyond_random"]
        equal = claim.details["Samba: how equal the sets are"]
        assert f"The sets have {equal.shown} of the type's on average, single sets from " in claim.why
        assert "Griffin: how equal the sets are" in claim.details


def test_a_majority_that_is_missed_more_is_no_inversion(hybrids_of):
    ledger = hybrids_of(Truth(recurrent_share=0.7))
    assert ledger["recurrent_missed_griffin"].verdict == "holds"
    assert ledger["type_inversion_griffin"].verdict == "fails"
    said = summary(list(ledger.values()))["Generality"]  # the part that fails is there to be read
    assert said.startswith("Removing all recurrent mixers costs more than removing all attention: Samba 0.8")
    assert "; there is no inversion (" in said
    assert said.count(" 70.0 % [") == 4
    assert said.count("over 3 seeds") == 2


def test_a_bypassed_branch_and_unlike_compositions_are_told(hybrids_of):
    bypass = {"recurrent": 0.0, "attention": 0.7, "mlp": 0.8}
    ledger = hybrids_of(Truth(types_of={"hymba": bypass}))
    assert ledger["branch_bypassed"].verdict == "holds"
    assert ledger["recurrent_missed_hymba"].verdict == ledger["type_inversion_hymba"].verdict == "fails"
    assert ledger["recurrent_missed_hymba"].details["damage without recurrent"].note.startswith("bypassed")
    assert ledger["composition_decides"].verdict == "holds"


def test_equal_types_say_nothing(hybrids_of):
    ledger = hybrids_of(Truth(types={"recurrent": 0.5, "attention": 0.5, "mlp": 0.5}, late=1.0))
    assert ledger["recurrent_missed_samba"].verdict == "fails"
    assert "neither type is missed more" in ledger["recurrent_missed_samba"].why
    assert ledger["early_layers"].verdict != "holds"
    assert ledger["types_over_training"].verdict == "fails"


def test_recall_that_is_lost_without_recurrence_too_does_not_depend_on_attention_alone(hybrids_of):
    ledger = hybrids_of(Truth(solved=0.95, recall_lost=(0.0, 0.5)))
    assert ledger["attention_recall"].verdict == "holds"
    both = hybrids_of(Truth(solved=0.95, recall_lost=(0.3, 0.9)))
    assert (both["attention_recall"].verdict, both["recall_dissociation"].verdict) == ("fails", "holds")
    assert "Lost without recurrence: " in both["attention_recall"].why


def test_what_was_not_learned_cannot_be_lost(hybrids_of):
    ledger = hybrids_of(Truth(solved=0.4))
    assert ledger["attention_recall"].verdict == ledger["recall_dissociation"].verdict == "inconclusive"
    assert "Solved (accuracy of 0.9 or more): 0 of 3 seeds" in ledger["attention_recall"].why


def test_recall_is_asked_of_the_runs_whose_training_on_it_did_not_diverge(results_of):
    results = results_of(Truth(solved=0.95, recall_lost=(0.0, 0.5)), studies={"hybrids": STUDY}, study="hybrids")
    claim = next(claim for claim in build_ledger(recall_diverged(results, "samba-2")) if claim.id == "attention_recall")
    assert (claim.verdict, claim.sound.n_seeds) == ("holds", 2)
    assert "2 of 3 seeds. Training on mqar diverged, so it was not solved: Samba, seed 2. Accuracy" in claim.why


def test_one_seed_says_nothing_of_labellings(ledger_of):
    study = STUDY | {"seeds": (1,)}
    claim = ledger_of(Truth(solved=0.95), studies={"hybrids": study}, study="hybrids")["types_labellings"]
    assert claim.sound.value < 0.05
    assert claim.verdict == "inconclusive"
    assert claim.why.endswith(" One seed decides nothing.")


def test_what_was_not_measured_is_not_run(hybrids_of):
    ledger = hybrids_of(left_out=("layers",))
    of_layers = [claim for claim in ledger.values() if claim.group == "hybrids" and claim.id != "attention_recall"]
    assert {claim.verdict for claim in of_layers} == {"not run"}
    assert all(claim.command == "make repro SCALE=smoke STUDY=hybrids" for claim in of_layers)
    assert hybrids_of(not_run=("griffin",))["recurrent_missed_griffin"].verdict == "not run"
