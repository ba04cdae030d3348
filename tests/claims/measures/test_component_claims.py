from dataclasses import replace

import pytest

from lolm.claims import build_ledger
from lolm.claims.measures.components import ALL_REMOVED

LEVELS_OF = {"gate_one_ratio": "1570m", "component_gate_one": "304m", "component_gate_half": "304m", "component_all": "304m"}


@pytest.mark.parametrize("scale", ["smoke", "304m", "1570m"])
def test_damages_of_one_published_model_are_judged_at_its_preset_only(results_of, scale):
    results = results_of()
    runs = []
    for run in results.runs:
        rows = [row for row in run.ablation.conditions if row.intervention != ALL_REMOVED]
        last = next(row for row in reversed(rows) if row.intervention in ("gate", "none"))
        rows.append(replace(last, intervention=ALL_REMOVED, value=1.0, nats=last.nats + 5))
        runs.append(replace(run, ablation=replace(run.ablation, conditions=tuple(rows))))
    ledger = {c.id: c for c in build_ledger(replace(results, scale=scale, runs=tuple(runs)))}
    for id, preset in LEVELS_OF.items():
        claim = ledger[id]
        assert claim.as_published.value is not None
        assert (claim.verdict == "not testable at this scale") == (scale != preset), id
        assert (claim.sound is None) == (scale != preset), id
        if scale != preset:
            assert claim.needs.scale == preset
            assert "another model" in claim.as_published.note


def test_the_change_of_perplexity_is_that_of_the_damage(ledger_of):
    claim = ledger_of()["half_worse_than_one"]
    assert claim.sound.value < 0  # at g = 0.5 only its constant 0.1 nats are lost
    assert 0 < claim.as_published.value < 1
