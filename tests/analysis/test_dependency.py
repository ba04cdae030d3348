"""The inversion statistic, its calls, its null, and the effects of training arms, against known answers."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from synthetic import Truth

from lolm.analysis import dependency as dep
from lolm.analysis.effects import arm_effect, arm_effects, main_effects
from lolm.analysis.over_arms import over_arms
from lolm.analysis.statistics import correlation, p_value, t_interval
from lolm.records import names

MARGIN, BAND = 0.05, 0.1


@pytest.mark.parametrize(
    ("latent", "surface", "share", "called"),
    [
        (1.2, 0.6, 0.95, dep.INVERTED),
        (1.2, 0.6, 0.4, dep.MAJORITY),  # the latent branch carries three fifths
        (1.2, 0.6, 0.5, dep.UNDECIDED),  # its share is one half
        (0.6, 1.2, 0.95, dep.NOT_INVERTED),
        (0.6, 0.6, 0.4, dep.NO_INVERSION),
        (0.65, 0.6, 0.95, dep.NO_INVERSION),  # on the margin itself, within the band
    ],
)
def test_the_declared_statistic(results_of, latent, surface, share, called):
    results = results_of(Truth(latent_mean=latent, surface_mean=surface, share=share))
    runs = results.of("lolm")
    found, shares = dep.over_seeds(runs, dep.primary(results), results.analysis), dep.share_over_seeds(runs, 0.95)
    assert found.value == pytest.approx(latent - surface, abs=0.01)
    assert shares.value == pytest.approx(1 - share, abs=0.002)
    assert (results.analysis.inversion_margin, results.analysis.inversion_band) == (MARGIN, BAND)
    assert dep.call(found, shares, MARGIN, BAND) == called
    assert [(one.arm, one.called, one.corrected) for one in dep.calls(results)] == [("lolm", called, called)]  # one arm alone


def estimate(value, half):
    return replace(t_interval([value]), interval=(value - half, value + half))


@pytest.mark.parametrize(
    ("s", "share", "called"),
    [
        ((0.3, 0.2), (0.3, 0.1), dep.INVERTED),
        ((0.3, 0.2), (0.45, 0.05), dep.UNDECIDED),  # the share's interval ends at one half
        ((0.3, 0.2), (0.45, 0.04), dep.INVERTED),
        ((0.3, 0.2), (0.6, 0.1), dep.MAJORITY),
        ((0.3, 0.3), (0.3, 0.1), dep.UNDECIDED),
        ((0.08, 0.01), (0.3, 0.1), dep.INVERTED),  # above the margin is asked before the band
        ((0.08, 0.01), (0.45, 0.1), dep.UNDECIDED),  # and stays open while the share is, inside the band or not
        ((0.02, 0.07), (0.3, 0.1), dep.NO_INVERSION),
        ((-0.05, 0.04), (0.6, 0.1), dep.NO_INVERSION),
        ((-0.05, 0.06), (0.6, 0.1), dep.NOT_INVERTED),
        ((0.02, 0.15), (0.6, 0.1), dep.UNDECIDED),
        ((-0.5, 0.2), None, dep.NOT_INVERTED),
        ((0.5, 0.2), None, dep.UNDECIDED),  # a minority that nobody measured
    ],
)
def test_calls_by_hand(s, share, called):
    assert dep.call(estimate(*s), None if share is None else estimate(*share), MARGIN, BAND) == called


@pytest.mark.parametrize("n", [3, 5])
@pytest.mark.parametrize(
    ("s", "share", "wrong"),
    [
        (MARGIN, 0.3, dep.INVERTED),  # on the edge of what it would be wrong to call so
        (0.5, 0.5, dep.INVERTED),
        (0.5, 0.5, dep.MAJORITY),
        (BAND, 0.3, dep.NO_INVERSION),
        (-BAND, 0.3, dep.NO_INVERSION),
        (MARGIN + 1e-9, 0.3, dep.NOT_INVERTED),
    ],
)
def test_wrong_calls_are_as_rare_as_the_level_says(n, s, share, wrong):
    """At a true value on an edge a 95 % interval lies wholly beyond it in 2.5 % of samples; 4,000 are drawn."""
    noise, calls = random.Random(f"{n}-{s}-{share}-{wrong}"), 4000
    spread = 0.2 if wrong == dep.NOT_INVERTED else 0.02  # a narrow interval around the margin lies within the band
    made = 0
    for _ in range(calls):
        values = t_interval([noise.gauss(s, spread) for _ in range(n)])
        shares = t_interval([noise.gauss(share, 0.02) for _ in range(n)])
        made += dep.call(values, shares, MARGIN, BAND) == wrong
    assert made / calls < 0.025 + 0.0075
    if wrong in (dep.INVERTED, dep.NOT_INVERTED):
        assert made / calls > 0.025 - 0.0075


def test_calls_of_a_study_are_corrected_together(results_of):
    """One arm is inverted by far; of six that are barely so by themselves, Holm's correction leaves none."""
    arms = ("lolm", "lolm_sum", "lolm_half", "lolm_concat", "lolm_scalar_gate", "lolm_parallel", "lolm_static_gate")
    results = results_of(Truth(), arms=arms)
    runs = [run if run.arm == "lolm" else barely(run) for run in results.runs]
    results = replace(results, runs=tuple(runs))
    found = {one.arm: one for one in dep.calls(results)}
    assert {one.called for one in found.values()} == {dep.INVERTED}
    assert found["lolm"].corrected == dep.INVERTED
    assert {found[arm].corrected for arm in arms[1:]} == {dep.UNDECIDED}
    single = t_interval([value - MARGIN for value in found["lolm_sum"].found.per_seed])
    assert 0.01 < p_value(single) < 0.05 < found["lolm_sum"].p_value


def barely(run):
    """S of 0.05 + 0.1, with a spread over the four seeds whose interval just misses the margin."""
    shift = 0.05 + 0.1 * (1 + 0.42 * (run.seed - 2.5)) - 0.6
    return _with_losses(run, "latent_mean", shift)


def _with_losses(run, intervention, nats):
    rows = [replace(row, nats=row.nats + nats * (row.intervention == intervention)) for row in run.ablation.conditions]
    return replace(run, ablation=replace(run.ablation, conditions=tuple(rows)))


def test_ways_of_removal_are_compared_in_pairs(results_of):
    """Zeroing makes S 0.2 larger in every seed; the seeds differ by far more."""
    results = results_of(Truth())
    runs = [_with_losses(_with_losses(r, "latent_zero", 0.2 + r.seed), "latent_mean", r.seed) for r in results.of("lolm")]
    found = {(c.first.way, c.second.way): c for c in dep.way_contrasts(runs, 0.95)}
    assert len(found) == 10
    one = found["zero", "mean"]
    assert one.difference.value == pytest.approx(0.2)
    assert one.adjusted < 0.05 < found["zero", "resample"].adjusted
    assert one.beyond == one.adjusted  # of no margin
    beyond = {(c.first.way, c.second.way): c for c in dep.way_contrasts(runs, 0.95, margin=0.1)}["zero", "mean"]
    p_values = [p_value(c.difference, 0.1) for c in found.values() if c.difference.value > 0.1]
    assert one.adjusted < beyond.beyond < 0.05
    assert beyond.beyond == pytest.approx(10 * min(p_values))
    assert dep.way_contrasts(runs, 0.95, margin=0.5)[0].beyond == 1  # within it
    assert dep.way_contrasts(runs[:1], 0.95)[0].adjusted is None


def test_keeping_the_norm_is_no_way_of_its_own_where_the_head_is_scale_free(results_of):
    run = results_of().of("lolm")[0]
    assert not any(method.matched for method in dep.ways(run))
    architecture = replace(run.header.run.architecture, recipe=replace(run.header.run.architecture.recipe, head_norm="none"))
    plain = replace(run, header=replace(run.header, run=replace(run.header.run, architecture=architecture)))
    assert dep.ways(plain) == dep.REMOVAL_METHODS


def test_the_share_is_that_of_the_signal_or_of_its_variance(results_of):
    run = results_of(Truth(share=0.7)).of("lolm")[1]
    assert dep.latent_share(run) == pytest.approx(0.3)
    assert dep.latent_share(run, 40) == dep.latent_share(run, spread=True) == pytest.approx(0.3)
    gateless = replace(run, evaluation=replace(run.evaluation, gate=None))
    assert dep.latent_share(gateless) == pytest.approx(0.3)  # of the laboratory's text
    assert dep.latent_share(replace(gateless, ablation=None)) is None


def test_s_over_arms_goes_with_what_it_was_made_from(results_of):
    """S = 2 · share + noise of 0.005 over four arms; three are too few."""
    latents = {"lolm": 0.6, "lolm_sum": 0.8, "lolm_half": 1.0, "lolm_concat": 1.2}
    shares = {arm: 1 - 0.5 * s for arm, s in latents.items()}
    results = results_of(Truth(latents=latents, shares=shares), arms=tuple(latents))
    over = over_arms(results, dep.latent_share)
    found = over.found
    assert (found.n, over.arms) == (4, tuple(latents))
    assert 0.99 < found.interval[0] < found.value < found.interval[1] <= 1
    assert over.p_value == pytest.approx(2 / 24)  # of 24 orders this one and its reverse
    assert over_arms(results, lambda run: 1.0) is None  # it does not vary
    three = replace(results, runs=tuple(run for run in results.runs if run.arm != "lolm_sum"))
    assert over_arms(three, dep.latent_share) is None
    lacking = replace(results, runs=tuple(run for run in results.runs if (run.arm, run.seed) != ("lolm_sum", 2)))
    assert over_arms(lacking, dep.latent_share).found.n == 3  # the seeds that all arms have


@pytest.mark.parametrize("n", [3, 5])
def test_the_interval_of_a_correlation_over_arms_covers_its_mean(results_of, n):
    """Six arms whose S follows their share but for noise of its size, by the thousand: on Fisher's scale, as it is made."""
    noise = random.Random(n)
    x = [0.1 * i for i in range(6)]

    def one_seed():
        return math.atanh(correlation(x, [v + noise.gauss(0, 0.2) for v in x]))

    truth = sum(one_seed() for _ in range(20_000)) / 20_000
    inside = 0
    for _ in range(3000):
        low, high = t_interval([one_seed() for _ in range(n)]).interval
        inside += low < truth < high
    assert inside / 3000 == pytest.approx(0.95, abs=0.02)


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
    assert dep.over_seeds(results.of("lolm"), dep.primary(results), results.analysis) is None  # not of every seed


def with_windows(runs, windows):
    """The runs with these losses by window of what was put in place of z and of h, and those by hand."""
    found = []
    for run, by_branch in zip(runs, windows, strict=True):
        kept = {names.replaced(branch, names.MEAN): tuple(by_branch[branch]) for branch in by_branch}
        last = run.ablation.steps[-1]
        rows = [
            replace(row, window_nats=kept.get(row.intervention, ()) if row.step == last else ())
            for row in run.ablation.conditions
        ]
        found.append(replace(run, ablation=replace(run.ablation, conditions=tuple(rows))))
    return found


def test_text_is_in_the_interval_of_s_where_two_runs_have_its_windows(results_of):
    results = results_of(Truth(latent_mean=1.2, surface_mean=0.6))
    runs, method = results.of("lolm"), dep.primary(results)
    alone, rng = dep.over_seeds(runs, method, results.analysis), np.random.default_rng(0)
    assert alone.covers == "seeds alone"
    common = rng.normal(0, 0.4, 64)  # what a window adds to S of every run
    windows = [
        {names.LATENT: 3 + common + rng.normal(0, 0.1, 64), names.SURFACE: rng.normal(2.4, 0.0001, 64)} if i > 1 else {}
        for i in range(len(runs))
    ]
    found = dep.over_seeds(with_windows(runs, windows), method, results.analysis)
    assert (found.value, found.per_seed, found.covers) == (alone.value, alone.per_seed, "seeds and text")
    assert found.error**2 - alone.error**2 == pytest.approx(common.var(ddof=1) / 64, rel=0.2)  # by 64 windows and 1,000 draws
    assert dep.over_seeds(with_windows(runs, windows), method, results.analysis, step=runs[0].ablation.steps[-1]) == alone
    assert dep.over_seeds(with_windows(runs, windows), replace(method, fitted=True), results.analysis) is None
    windows[2] = {}
    assert dep.over_seeds(with_windows(runs, windows), method, results.analysis) == alone  # one run cannot tell text from noise
    windows[2] = {branch: values[:32] for branch, values in windows[3].items()}
    assert dep.over_seeds(with_windows(runs, windows), method, results.analysis) == alone  # of another text


def test_one_seed_calls_nothing():
    assert dep.call(t_interval([5.0]), t_interval([0.1]), MARGIN, BAND) == dep.UNDECIDED


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
    assert dep.follows(results.of("lolm")[0]) == pytest.approx(1.0)
    path = dep.trajectory(results.of("lolm"), dep.primary(results))
    assert [(point.seed, point.step) for point in path[:4]] == [(1, 40), (1, 200), (1, 400), (2, 40)]
    assert path[2].gate == pytest.approx(0.83)
    assert path[2].share == pytest.approx(0.05, abs=0.002)
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
    assert main_effects(results_of(arms=arms, studies=design, study="design", not_run=arms), "nats") == []
