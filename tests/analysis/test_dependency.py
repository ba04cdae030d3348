"""The inversion statistic, its null, and the effects of training arms, against known answers."""

import pytest
from synthetic import Truth

from lolm.analysis import dependency as dep
from lolm.analysis.effects import arm_effect, arm_effects, main_effects
from lolm.analysis.statistics import t_interval
from lolm.records import names


@pytest.mark.parametrize(
    ("latent", "surface", "called"),
    [
        (1.2, 0.6, dep.INVERTED),
        (0.6, 1.2, dep.NOT_INVERTED),
        (0.6, 0.6, dep.NOT_INVERTED),
        (0.65, 0.6, dep.UNDECIDED),  # on the margin itself
    ],
)
def test_the_declared_statistic(results_of, latent, surface, called):
    results = results_of(Truth(latent_mean=latent, surface_mean=surface))
    found = dep.over_seeds(results.of("lolm"), dep.primary(results), 0.95)
    assert found.value == pytest.approx(latent - surface, abs=0.01)
    assert dep.call(found, results.analysis.inversion_margin) == called


def test_every_way_of_removal_by_name(results_of):
    """Forced gates say 4 nats, every replacement of a branch 0.6; with the norm kept the same, as the record was made."""
    run = results_of(Truth(gate_one=9.0, gate_zero=5.0, jitter=0.0)).of("lolm")[0]
    found = dep.statistics(run.ablation)
    assert list(found) == [names.GATE, *names.REPLACEMENTS]
    assert found[names.GATE] == pytest.approx(4.0, abs=0.1)
    assert all(found[by] == pytest.approx(0.6, abs=0.03) for by in names.REPLACEMENTS)
    assert found[names.MEAN] == dep.statistic(run, dep.RemovalMethod(names.MEAN))
    matched = dep.RemovalMethod(names.ZERO, matched=True)
    assert (matched.name, matched.removal(names.LATENT)) == ("zero+match_norm", ("latent_zero+match_norm", None))
    assert dep.statistic(run, matched) == found[names.ZERO]
    assert dep.statistic(run, dep.RemovalMethod(names.ZERO, fitted=True)) is None  # no temperature was fitted
    assert dep.statistics(run.ablation, 123456) == {}


def test_an_arm_without_a_latent_branch_has_no_statistic(results_of):
    results = results_of(left_out=("ablate/lolm-2",))
    transformer = results.of("transformer")[0]
    assert dep.statistics(transformer.ablation) == {}
    assert dep.null(transformer) is None
    without = results.of("lolm")[1]
    assert without.ablation is None
    assert dep.statistic(without, dep.primary(results)) is None
    assert dep.over_seeds(results.of("lolm"), dep.primary(results), 0.95) is None  # not of every seed


def test_one_seed_calls_nothing():
    assert dep.call(t_interval([5.0]), 0.05) == dep.UNDECIDED


def test_null_by_hand():
    n = dep.Null(0.5, (0.1, -0.2, 0.6))
    assert n.signed == (-0.6, -0.2, -0.1, 0.1, 0.2, 0.6)
    assert n.rank == pytest.approx(5 / 6)
    assert n.p_value == pytest.approx(2 / 4)  # one of three draws is as large, and the observed itself counts
    assert not n.beyond
    assert dep.Null(-0.7, n.draws).beyond
    assert dep.Null(-0.7, n.draws).rank == 0


def test_random_halves(results_of):
    found = dep.null(results_of(Truth(split=0.1)).of("lolm")[0])
    assert found.draws == pytest.approx([0.1 * (i + 1) / 8 for i in range(8)])
    assert found.p_value == pytest.approx(1 / 9)


def test_trajectory_and_target(results_of):
    results = results_of(Truth(gate_target_gap=0.1))
    follows = dep.follows(results.of("lolm")[0])
    assert follows.rms_gap == pytest.approx(0.1)
    assert follows.correlation == pytest.approx(1.0)
    path = dep.trajectory(results.of("lolm"), dep.primary(results))
    assert [(point.seed, point.step) for point in path[:4]] == [(1, 40), (1, 200), (1, 400), (2, 40)]
    assert path[2].gate == pytest.approx(0.83)
    assert path[2].share == pytest.approx(0.05)
    assert path[2].target == pytest.approx(0.93, abs=0.02)
    assert path[2].statistic == dep.statistic(results.of("lolm")[0], dep.primary(results))


def test_arms_against_the_subject(results_of):
    """No jitter in speed, so an arm's offset is its difference exactly; Holm multiplies the smallest p by the number of arms."""
    arms = ("lolm", "transformer", "lolm_sum", "lolm_no_latent")
    results = results_of(Truth(jitter=0.001, offsets={"lolm_sum": 0.3, "lolm_no_latent": -0.3}), arms=arms)
    assert arm_effect(results, "lolm_sum", "nats").value == pytest.approx(0.3, abs=0.01)
    effects = {e.name: e for e in arm_effects(results, "nats")}
    smallest = min(effects.values(), key=lambda e: e.p_value)
    assert smallest.adjusted == pytest.approx(min(1, 3 * smallest.p_value))
    assert arm_effect(results, "lolm_sum", "usage").value == pytest.approx(0.0)
    assert arm_effect(results, "transformer", "gate") is None


def test_main_effects_by_hand(results_of):
    """y = 0.2 a − 0.1 b in a full 2 x 2: both main effects come out, whatever the other is."""
    arms = ("lolm", "lolm_sum", "lolm_half", "lolm_concat")
    offsets = {"lolm_sum": 0.2, "lolm_half": -0.1, "lolm_concat": 0.1}
    factors = {"a": ("lolm_sum", "lolm_concat"), "b": ("lolm_half", "lolm_concat")}
    design = {"design": {"arms": arms, "baseline": "lolm_sum", "factors": factors}}
    truth = Truth(jitter=0.0, offsets=offsets)
    results = results_of(truth, arms=arms, studies=design, study="design")
    found = {e.name: e.difference.value for e in main_effects(results, "nats")}
    assert found["a"] == pytest.approx(0.2, abs=1e-9)
    assert found["b"] == pytest.approx(-0.1, abs=1e-9)


def test_main_effects_need_every_run_of_the_design(results_of):
    arms = ("lolm", "lolm_sum", "lolm_half", "lolm_concat")
    factors = {"a": ("lolm_sum", "lolm_concat"), "b": ("lolm_half", "lolm_concat")}
    design = {"design": {"arms": arms, "baseline": "lolm_sum", "factors": factors}}
    assert main_effects(results_of(arms=arms, studies=design, study="design", not_run=("lolm_half",)), "nats") == []
