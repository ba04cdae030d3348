"""Intervals over arms, seeds and text, against a truth that is simulated; `-m slow` for more of it."""

import math
import tracemalloc
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from synthetic import write_results

from lolm.analysis.efficiency import at_budgets, gap_at
from lolm.analysis.statistics import paired_difference, t_interval
from lolm.analysis.uncertainty import (
    TextSample,
    effective,
    equal_variances,
    estimate,
    final_bits,
    final_loss,
    loss_difference,
    text_weights,
)
from lolm.config import AnalysisConfig
from lolm.records.results import load_results

ANALYSIS = AnalysisConfig(bootstrap_draws=200)
POINTS = 0.02  # that coverage may lie below or above nominal


def coverage(trials, one):
    """Share of the experiments whose interval holds the truth, which is 0."""
    found = [one(np.random.default_rng([trials, i])).interval for i in range(trials)]
    return sum(low <= 0 <= high for low, high in found) / trials


def text_draws(cells_SU):
    """Means over units of text in bootstrap draws, as in a study the same ones each time: (D, S)."""
    units = cells_SU.shape[1]
    return text_weights(units, 100, 0) @ cells_SU.T / units


def test_text_counts_where_enough_of_its_draws_have_a_value():
    draws_DS = np.random.default_rng(0).normal(0, 1, (200, 3))
    draws_DS[:30, 0] = np.nan
    for share, counts in ((0.9, False), (0.8, True)):
        found = estimate([0.1, 0.2, 0.3], [], replace(ANALYSIS, drawn_share=share), paired=True, draws_DS=draws_DS, units=65)
        assert (found.text_error is not None) == counts


@pytest.mark.parametrize("n", [3, 5])
@pytest.mark.parametrize(
    ("seed_sd", "text_sd", "both_sd"), [(0.01, 0.0, 0.0), (0.01, 0.1, 0.02), (0.002, 0.2, 0.05), (0.02, 0.05, 0.2)]
)
def test_coverage_over_seeds_and_text(n, seed_sd, text_sd, both_sd):
    """Crossed: what a seed adds to all text, a unit of text to all seeds, and the two together, 65 units as at `tiny`."""
    units = 65

    def one(rng):
        cells = rng.normal(0, seed_sd, (n, 1)) + rng.normal(0, text_sd, (1, units)) + rng.normal(0, both_sd, (n, units))
        drawn = text_draws(cells)
        return estimate(cells.mean(axis=1), [], ANALYSIS, paired=True, draws_DS=drawn, units=units)

    assert coverage(1200, one) == pytest.approx(0.95, abs=POINTS)


@pytest.mark.parametrize("n", [3, 5])
def test_coverage_where_two_seeds_alone_tell_of_the_text(n):
    """As S has it: 64 windows, whose losses two runs have kept, and a text that counts for as much as seeds do."""

    def one(rng):
        cells = rng.normal(0, 0.05, (n, 1)) + rng.normal(0, 0.18, (1, 64)) + rng.normal(0, 0.1, (n, 64))
        drawn = text_draws(cells[-2:])
        return estimate(cells.mean(axis=1), [], ANALYSIS, paired=False, draws_DS=drawn, units=64)

    assert coverage(1200, one) == pytest.approx(0.95, abs=POINTS)


def test_at_another_level_no_interval_is_narrower_than_that_of_the_seeds_alone():
    """With two degrees of freedom more confidence costs seeds alone more than it costs seeds and text."""
    rng = np.random.default_rng(0)
    changed = 0
    for _ in range(200):
        cells = rng.normal(0, 0.01, (3, 1)) + rng.normal(0, 0.05, (1, 60))
        own = cells.mean(axis=1)
        found = estimate(own, [], ANALYSIS, paired=True, draws_DS=text_draws(cells), units=60)
        for level in (0.9, 0.99, 0.999):
            (low, high), (least, most) = found.at(level).interval, t_interval(own, level).interval
            assert high - low >= (most - least) * (1 - 1e-12)
            assert found.at(level).at(0.95).interval == pytest.approx(found.interval)
        changed += found.interval != t_interval(own).interval and found.at(0.99).interval == pytest.approx(
            t_interval(own, 0.99).interval
        )
    assert changed


def test_seeds_alone_would_not_cover_other_text():
    def one(rng):
        cells = rng.normal(0, 0.01, (5, 1)) + rng.normal(0, 0.2, (1, 65))
        return t_interval(cells.mean(axis=1))

    assert coverage(400, one) < 0.5


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("paired", [True, False])
def test_coverage_of_pooled_variances(n, paired):
    """Five arms of one variance whose seeds share their data order; the test of homogeneity decides each time."""
    pooled = []

    def one(rng):
        rows = rng.normal(0, 1, (5, n)) + rng.normal(0, 1.5, (1, n))
        found = (
            estimate(rows[1] - rows[0], rows[2:] - rows[0], ANALYSIS, paired=True)
            if paired
            else estimate(rows[0], rows[1:], ANALYSIS, paired=False)
        )
        pooled.append(found.arms > 1)
        return found

    assert coverage(2000, one) == pytest.approx(0.95, abs=POINTS)
    assert np.mean(pooled) == pytest.approx(1 - ANALYSIS.pooling_level, abs=POINTS)


def test_variances_that_differ_are_not_pooled():
    rng = np.random.default_rng(0)
    sds = np.array([1.0, 1.0, 1.0, 50.0])[:, None]
    own = [estimate(*_split(rng.normal(0, sds, (4, 4))), ANALYSIS, paired=False).arms for _ in range(200)]
    assert np.mean(np.array(own) == 1) > 0.9
    assert equal_variances(np.zeros((3, 3))) == 0  # of nothing there is no common variance


@pytest.mark.parametrize(("arms", "n"), [(3, 2), (3, 3), (4, 3), (8, 2), (8, 3)])
def test_equal_variances_are_called_different_at_the_level_of_the_test(arms, n):
    rng = np.random.default_rng([arms, n])
    p_values = [equal_variances(rng.normal(0, 1, (arms, n)) + rng.normal(0, 2, (1, n))) for _ in range(1000)]
    assert np.mean(np.array(p_values) < 0.1) == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize(("arms", "wild", "power"), [(3, [50], 0.9), (4, [10], 0.75), (5, [50, 50], 0.9), (8, [10], 0.85)])
def test_a_wild_arm_is_seen_among_few(arms, wild, power):
    """Among three arms its error is in the residuals of all, 4 : 1 : 1 in squares; the two others' difference is free of it."""
    rng, sds = np.random.default_rng(arms), np.array([*wild, *[1] * (arms - len(wild))])[:, None]
    assert np.mean([equal_variances(rng.normal(0, sds, (arms, 3))) < 0.1 for _ in range(300)]) > power


@pytest.mark.parametrize("arms", [3, 4, 6])
def test_a_wild_arm_leaves_the_intervals_of_the_others_alone(arms):
    widths = []

    def one(rng):
        rows = rng.normal(0, 1, (arms, 3)) * np.array([1, 1, 50] + [1] * (arms - 3))[:, None]
        found = estimate(rows[0] - rows[1], rows[2:] - rows[1], ANALYSIS, paired=True)
        widths.append(found.interval[1] - found.interval[0])
        return found

    assert coverage(1000, one) == pytest.approx(0.95, abs=POINTS)
    assert np.median(widths) < 2 * 4.303 * math.sqrt(2 / 3)  # of their own seeds; with the wild arm's in it about 110


def test_many_arms_take_little_memory():
    """Of 60 arms there are 1,770 pairs, in each of thousands of draws: 170 MB, all at once."""
    tracemalloc.start()
    p_value = equal_variances(np.random.default_rng(0).normal(0, 1, (60, 3)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0.01 < p_value <= 1
    assert peak < 100e6


def _split(rows):
    return rows[0], rows[1:]


def test_pooled_by_hand():
    """Two-way layout of three arms (one of them the reference, all 0) and two seeds."""
    own, other = [1.0, 3.0], [2.0, 2.4]
    rows = np.array([own, other, [0.0, 0.0]])
    left = rows - rows.mean(axis=1, keepdims=True) - rows.mean(axis=0) + rows.mean()
    found = estimate(own, [other], replace(ANALYSIS, pooling_level=1e-6), paired=True)
    assert (found.arms, found.freedom) == (3, 2)
    assert found.error == pytest.approx(math.sqrt(2 * (left**2).sum() / 2 / 2))
    assert found.own.interval == t_interval(own).interval
    five = estimate([1.0, 2.0, 3.0, 4.0, 5.0], [[1.0, 2.0, 3.0, 4.0, 5.5]] * 2, ANALYSIS, paired=True)
    assert (five.arms, five.own) == (1, None)  # enough seeds of its own
    assert five.interval == t_interval([1.0, 2.0, 3.0, 4.0, 5.0]).interval
    alone = estimate(own, [], ANALYSIS, paired=True)
    assert alone.interval == t_interval(own).interval  # a study of two arms is the paired t test


# ---------------------------------------------------------------------------------------------- from records


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return load_results(write_results(tmp_path_factory.mktemp("text"), arms=("lolm", "transformer", "mamba")))


def test_a_unit_is_a_block_of_one_document_where_documents_are_few(results):
    sample = TextSample.of(results.runs, results.analysis)
    assert sample is not None
    text = results.runs[0].text
    assert sample.unit == "blocks"
    assert sample.units <= len(set(zip(text.document, text.piece, strict=True)))
    by_document = TextSample.of(results.runs, replace(results.analysis, least_documents=2))
    assert by_document.unit == "documents"
    assert by_document.units == pytest.approx(effective(np.bincount(text.document, text.tokens)))


def test_draws_are_about_the_recorded_loss(results):
    sample, run = TextSample.of(results.runs, results.analysis), results.runs[0]
    assert sample.final(run).mean() == pytest.approx(run.test_nats, abs=0.02)
    steps, losses = run.annealed("test")
    drawn = sample.ends(run, [int(step) for step in steps])
    assert drawn[:, -1] == pytest.approx(sample.final(run))
    assert drawn.mean(axis=0) == pytest.approx(losses, abs=0.02)


def test_text_widens_a_loss_and_hardly_a_difference(results):
    level, away = final_loss(results, "lolm"), loss_difference(results, "lolm", "transformer")
    seeds = t_interval([run.test_nats for run in results.of("lolm")])
    assert level.covers.startswith("seeds and text")
    assert level.text_error > 3 * away.text_error
    assert level.value == seeds.value
    assert final_bits(results, "lolm").text_error > 0
    pairs = results.pairs("lolm", "transformer")
    flops = at_budgets(pairs, "flops", among=results)
    assert flops.estimate.text_error is not None
    assert flops.estimate.value == pytest.approx(at_budgets(pairs, "flops").estimate.value)
    assert gap_at(pairs, "step", among=results).difference.interval == pytest.approx(away.interval, rel=1e-6)
    assert gap_at(pairs, "flops", among=results).difference.text_error is not None


def test_older_evaluations_fall_back_to_seeds_and_say_so(results):
    old = replace(results, runs=tuple(replace(run, text=None) if run.arm == "lolm" else run for run in results.runs))
    assert final_loss(old, "lolm").covers.startswith("seeds alone")
    assert loss_difference(old, "lolm", "transformer").text_error is None
    assert at_budgets(old.pairs("lolm", "transformer"), "flops", among=old).estimate.text_error is None
    main = replace(old, runs=tuple(run for run in old.runs if run.arm != "mamba"))
    losses = [[run.test_nats for run in main.of(arm)] for arm in ("lolm", "transformer")]
    assert loss_difference(main, "lolm", "transformer").interval == pytest.approx(paired_difference(*losses).interval)


def test_other_text_is_not_resampled_together(results):
    first = results.runs[0]
    other = replace(first, text=replace(first.text, tokens=tuple(n + 1 for n in first.text.tokens)))
    assert TextSample.of([first, other], results.analysis) is None


@pytest.mark.slow
@pytest.mark.parametrize(("n", "speed"), [(3, 1.3), (5, 1.0)])
def test_coverage_of_multipliers(n, speed):
    """Whole multipliers from runs with losses by piece: four arms, four ends, noise of seeds, text and both."""
    rng, steps = np.random.default_rng(n), (250, 500, 1000, 2000)
    documents, pieces = np.repeat(np.arange(6), 8), np.tile(np.arange(8), 6)
    tokens = np.full(48, 1024)
    tokens[7::8] = rng.integers(200, 1024, 6)
    analysis = replace(ANALYSIS, block_tokens=1024)
    arms = {"lolm": speed, "base": 1.0, "a": 1.1, "b": 0.9}
    true = {arm: 2 + 4 * (s * np.array(steps)) ** -0.15 for arm, s in arms.items()}
    inside = []
    for _ in range(300):
        shared_text, shared_seed = rng.normal(0, 0.15, 48), rng.normal(0, 0.02, n)
        runs = []
        for arm, losses in true.items():
            of_text = rng.normal(0, 0.03, 48)
            for seed in range(n):
                noise = shared_seed[seed] + rng.normal(0, 0.006)
                cells = (
                    losses[:, None] + noise + shared_text + of_text + rng.normal(0, 0.002, (4, 1)) + rng.normal(0, 0.01, (4, 48))
                )
                runs.append(_run(arm, seed, steps, cells, tokens, documents, pieces))
        among = SimpleNamespace(analysis=analysis, arms=tuple(arms), of=lambda arm, runs=runs: [r for r in runs if r.arm == arm])
        pairs = [(among.of("lolm")[seed], among.of("base")[seed]) for seed in range(n)]
        found = at_budgets(pairs, "flops", among=among).estimate
        inside += [] if found is None else [found.interval[0] <= speed <= found.interval[1]]
    assert len(inside) > 290
    assert np.mean(inside) == pytest.approx(0.95, abs=POINTS + 2 * math.sqrt(0.05 * 0.95 / len(inside)))


def _run(arm, seed, steps, cells, tokens, documents, pieces):
    """What is read of a run: its ends of schedule, and their losses by piece."""
    mean = (cells * tokens).sum(axis=1) / tokens.sum()
    text = SimpleNamespace(
        documents=("d",), piece_tokens=1024, document=tuple(documents), piece=tuple(pieces), tokens=tuple(tokens),
        bytes=tuple(2 * tokens), subset_tokens=tuple(tokens), nats=tuple(cells[-1] * tokens),
        ends={str(step): tuple(row * tokens) for step, row in zip(steps, cells, strict=True)},
    )  # fmt: skip
    return SimpleNamespace(
        arm=arm, seed=seed, text=text, annealed=lambda split, axis="step": (list(map(float, steps)), mean.tolist())
    )
