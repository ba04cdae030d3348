import math
from dataclasses import replace

import pytest
from synthetic import Truth

from lolm.claims import build_ledger
from lolm.claims.measures.streams import isolated


def test_streams(ledger_of):
    ledger = ledger_of(Truth(alive_eval=3, cpc=math.log(56), memory_mean=0.0, regime_mean=0.05))
    assert ledger["regime_codes"].verdict == "fails"
    assert "no evidence of use" in ledger["regime_codes"].why
    assert ledger["cpc_chance"].verdict == "fails"
    assert ledger["memory_contribution"].verdict == "fails"
    assert ledger["regime_contribution"].verdict == "holds"
    ledger = ledger_of(Truth(alive_eval=8, cpc=2.0, memory_mean=0.2))
    assert [ledger[id].verdict for id in ("regime_codes", "cpc_chance", "memory_contribution")] == ["holds"] * 3


def test_the_controls_of_chance_and_of_the_dip_are_of_the_same_quantity(results_of):
    truth = Truth(cpc=2.0, gate_path=(0.36, 0.17, 0.83))
    for arm, claim, value in (
        ("lolm_cpc_positions", "cpc_chance", 2.0 - math.log(56)),
        ("lolm_free_gate", "gate_reversal", 0.36 - 0.17),
    ):
        found = build_ledger(results_of(truth, arms=("lolm", "transformer", arm)))
        (control,) = (c for one in found if one.id == claim for c in one.controls if c.name == f"arm {arm}")
        assert control.quantity.value == pytest.approx(value, abs=0.03)
        assert control.quantity.n_seeds == 4


def test_a_control_whose_arm_lacks_its_measurement_is_missing_and_no_error(results_of):
    results = results_of(arms=("lolm", "transformer", "lolm_cpc_positions", "lolm_free_gate"))
    runs = [
        replace(run, evaluation=replace(run.evaluation, cpc=None)) if run.arm == "lolm_cpc_positions" else
        replace(run, rows=run.rows[:1]) if run.arm == "lolm_free_gate" else run
        for run in results.runs
    ]  # fmt: skip
    ledger = {claim.id: claim for claim in build_ledger(replace(results, runs=tuple(runs)))}
    for claim in ("cpc_chance", "gate_reversal"):
        assert [c.quantity.value for c in ledger[claim].controls if c.name.startswith("arm")] == [None]


def test_arms_with_other_edges_cut_are_no_test_of_isolation(results_of):
    results = results_of(seeds=(1,))

    def changed(**changes):
        runs = []
        for run in results.runs:
            if run.arm == "lolm":
                architecture = replace(run.header.run.architecture, **changes)
                run = replace(run, header=replace(run.header, run=replace(run.header.run, architecture=architecture)))
            runs.append(run)
        return replace(results, runs=tuple(runs))

    open_codes = replace(results.of("lolm")[0].header.run.architecture.regime, isolate=False)
    assert isolated(results, "lolm") is True
    assert isolated(changed(regime=open_codes), "lolm") is False
    assert isolated(changed(regime=open_codes, detach=("latent_fusion",)), "lolm") is None
    assert isolated(results, "transformer") is None


def test_the_collapse_is_judged_where_the_layer_is_that_of_v0(results_of):
    """One of eight codes is alive, in the other arms without isolation all of them."""
    arms = ("lolm", "lolm_reg_ie", "lolm_reg_iecb")
    study = {"regime": {"arms": arms, "baseline": "lolm_reg_iecb"}}
    results = results_of(Truth(alive_eval=8, alive={"lolm_reg_iecb": 1}), arms=arms, studies=study, study="regime")
    claim = {one.id: one for one in build_ledger(results)}["regime_collapse"]
    assert claim.verdict == "holds"
    assert {name.split()[0] for name, _ in claim.runs} == {"lolm_reg_iecb"}
    assert [c.quantity.value for c in claim.controls if c.name.endswith("regime ie")] == [1.0]
