"""What is said of the boundaries of a text, on records whose numbers are set by hand."""

from dataclasses import replace

import pytest
from synthetic import Truth

from lolm.claims import build_ledger
from lolm.claims.measures.boundaries import TRANSITIONS, mean_far, mean_near
from lolm.records.schema import Boundary
from lolm.report.figures.boundaries import boundaries, boundaries_table


def rows(near: float, far: float, gate: float | None):
    """Losses ``near`` and ``far`` from a boundary; the gate is lower by 0.2 near a paragraph."""
    found = []
    for kind in ("sentence", "paragraph", "document"):
        for first, last, nats in ((1, 8, near), (9, 16, far), (17, None, far)):
            dip = 0.2 if kind == "paragraph" and first == 1 else 0.0
            level = None if gate is None else gate - dip
            found.append(
                Boundary(kind, first, last, 100 * first, 10, nats, level, None if level is None else 1 - level, None, None)
            )
    return tuple(found)


def planted(results, near=0.3):
    """LOLM leads by 0.1 far from boundaries and by ``near`` just after them."""

    def changed(run):
        lolm = run.arm == "lolm"
        own = rows(4.0 + 0.001 * run.seed, 3.0, 0.6) if lolm else rows(4.0 + near, 3.1, None)
        return replace(run, ablation=replace(run.ablation, boundaries=own))

    return replace(results, runs=tuple(map(changed, results.runs)))


def claim(results, name):
    return next(c for c in build_ledger(results) if c.id == name)


def test_means_near_and_far(results_of):
    run = planted(results_of()).of("lolm")[0]
    assert mean_far(run, lambda row: row.nats, 8) == pytest.approx(3.0)
    assert mean_near(run, lambda row: row.nats, TRANSITIONS, 8) == pytest.approx(4.001)
    assert mean_near(run, lambda row: row.gate, ("paragraph",), 8) == pytest.approx(0.4)
    assert mean_near(run, lambda row: row.gate, TRANSITIONS, 8) == pytest.approx(0.5)
    assert mean_near(run, lambda row: row.gate, TRANSITIONS, 4) is None  # no row ends within four tokens


def test_a_gate_that_turns_and_a_lead_that_grows(results_of):
    results = planted(results_of())
    turn, lead = claim(results, "gate_at_transitions"), claim(results, "lead_at_boundaries")
    assert turn.as_published.value == pytest.approx(0.1)  # 0.2 at a paragraph, nothing at a document
    assert turn.sound.value == pytest.approx(0.1)
    assert turn.details["latent share, paragraph"].value == pytest.approx(0.2)
    assert turn.details["latent share, sentence"].value == pytest.approx(0.0)
    assert lead.verdict == "holds"
    assert lead.sound.value == pytest.approx(0.2, abs=0.01)
    assert claim(planted(results_of(), near=0.05), "lead_at_boundaries").verdict == "fails"


def test_unmeasured_boundaries_are_not_run(results_of):
    for name in ("gate_at_transitions", "lead_at_boundaries"):
        found = claim(results_of(Truth(laboratory=False)), name)
        assert found.verdict == "not run"
        assert "Study context tests it" in found.why


def test_the_figure_has_gaps_against_the_subject(results_of):
    results = planted(results_of())
    table = boundaries_table(results)
    near = table[(table["arm"] == "transformer") & (table["first"] == 1)]
    assert near["gap_nats"].mean() == pytest.approx(0.3, abs=0.01)
    assert boundaries(table, results) is not None
    assert boundaries_table(results_of(Truth(laboratory=False))).empty
