"""The registry is consistent with ``params.yaml``, with the figures and with itself; one entry is all that a claim takes."""

import string
from dataclasses import fields, replace
from pathlib import Path

import pytest

from lolm.analysis.effects import OUTCOMES
from lolm.claims import build_ledger
from lolm.claims.controls import CONTROLS
from lolm.claims.entry import Entry, Reading
from lolm.claims.ledger import GROUPS
from lolm.claims.measures.training import Contrast, Ladder, RecallContrast
from lolm.claims.published import NUMBERS, SOURCES
from lolm.claims.registry import ENTRIES, by_id
from lolm.claims.registry.training import contrast
from lolm.claims.rules import Above
from lolm.config import AnalysisConfig, load_params
from lolm.records import names
from lolm.report.figures import FIGURES

ROOT = Path(__file__).resolve().parents[2]
PARAMS = load_params(ROOT / "params.yaml")
OURS = {  # claims that no source makes: controls of the authors' ones, and what the laboratory asks beside them
    "inversion_null",
    "lead_over_published",
    "sound_recipe_helps",
    "inversion_ways",
    "inversion_total",
    "inversion_recurrence",
    "inversion_convolution",
    "surface_direct",
    "latent_direct",
    "latent_is_serial",
    "latent_branch_alone",
    "surface_branch_alone",
    "dependency_follows_share",
    "damage_is_information",
    "dependency_grows",
    "dependency_follows_gate",
    "inversion_over_training",
    "inversion_control",
    "cpc_position",
    "types_labellings",
    "types_per_parameter",
    "types_over_training",
    "removal_overstates",
    "lead_with_budget",
    "lead_with_budget_modern",
    "lag_with_budget",
    "lead_at_largest_budget",
    "lead_at_largest_budget_modern",
    "downstream_own",
    "lead_at_boundaries",
}


def test_ids_are_unique():
    assert len(by_id(ENTRIES)) == len(ENTRIES)
    with pytest.raises(ValueError, match="gate_level"):
        by_id([*ENTRIES, next(e for e in ENTRIES if e.id == "gate_level")])


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.id)
def test_what_an_entry_names_exists(entry):
    assert entry.group in GROUPS
    assert entry.study in PARAMS.studies
    assert entry.further_study is None or entry.further_study in PARAMS.studies
    assert entry.further_scale is None or entry.further_scale in PARAMS.scales
    assert entry.scale is None or entry.scale in PARAMS.scales
    assert set(entry.published) <= set(NUMBERS)
    assert set(entry.stated) <= set(SOURCES)
    assert set(entry.controls) <= set(CONTROLS)
    assert entry.figure is None or entry.figure in {figure.name for figure in FIGURES}
    assert entry.fact is None or by_id(ENTRIES)[entry.fact].published
    thresholds = {field.name for field in fields(AnalysisConfig)}
    assert entry.rule is None or set(entry.rule.names) <= thresholds
    assert entry.statement.endswith(".")
    assert bool(entry.published or entry.stated) != (entry.id in OURS)
    braces = {name for _, name, _, _ in string.Formatter().parse(entry.rule_text) if name}
    assert not any(name.endswith("_margin") and name not in thresholds for name in braces)


@pytest.mark.parametrize(
    "entry", [e for e in ENTRIES if isinstance(e.measure, Contrast | Ladder | RecallContrast)], ids=lambda entry: entry.id
)
def test_the_study_of_a_contrast_has_its_arm_or_factor(entry):
    study, measure = PARAMS.studies[entry.study], entry.measure
    if isinstance(measure, Contrast):
        assert measure.outcome in OUTCOMES
        assert (measure.arm is None) != (measure.factor is None)
        assert measure.name in (study.factors if measure.factor else study.arms)
    elif isinstance(measure, RecallContrast):
        assert measure.task in names.TASKS
        assert {measure.arm, study.subject} <= set(study.recall or study.arms)
    else:
        assert set(entry.arms(_Results(study))) <= set(study.arms)


class _Results:
    def __init__(self, study):
        self.params = replace(PARAMS, study=study.name)


def test_published_numbers_are_named_once_and_have_a_source():
    for key, number in NUMBERS.items():
        assert set() < set(number.source) <= set(SOURCES), key
        assert number.where
        assert number.scale is None or number.scale in PARAMS.scales


def test_a_claim_on_an_arm_is_one_entry(results_of):
    results = results_of(arms=("lolm", "transformer", "mamba"))
    added = contrast("mamba_is_worse", "Mamba is worse.", "main", Above("equivalence_margin"), "mamba", stated="seed")
    claim = next(c for c in build_ledger(results, [*ENTRIES, added]) if c.id == "mamba_is_worse")
    assert claim.verdict == "holds"  # the synthetic LOLM is 1.5 times faster
    assert claim.sound.value > 0.01
    assert claim.sound.n_seeds == 4
    assert claim.source == SOURCES["seed"]
    assert {name for name, _ in claim.runs} == {f"{arm} · smoke · seed {s}" for arm in ("lolm", "mamba") for s in (1, 2, 3, 4)}


def test_a_claim_with_a_new_measure_is_one_entry_and_one_function(results_of):
    def parameters(context):
        return Reading(float(context.subject()[0].header.parameters.total), verdict="holds", why="Counted.")

    added = Entry("many", "efficiency", "LOLM has parameters.", parameters, unit="tokens", definition="exact")
    claim = build_ledger(results_of(), [added])[0]
    assert (claim.verdict, claim.sound.value, claim.sound.interval) == ("holds", 100_000, None)
