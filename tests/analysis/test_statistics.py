import math
import random
from dataclasses import replace

import pytest

from lolm.analysis.statistics import (
    Estimate,
    StatisticsError,
    correlation,
    equivalence,
    geometric_interval,
    holm,
    p_value,
    paired_difference,
    seeds_needed,
    share_difference,
    solved,
    t_interval,
)


def test_interval_by_hand():
    # mean 2, sd 1, standard error 1/sqrt(3), t(0.975, 2) = 4.302653
    found = t_interval([1.0, 2.0, 3.0])
    assert found.value == 2
    assert found.interval == pytest.approx((2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)), abs=1e-5)
    # t(0.95, 2) = 2.919986
    assert t_interval([1.0, 2.0, 3.0], 0.90).interval == pytest.approx(
        (2 - 2.919986 / math.sqrt(3), 2 + 2.919986 / math.sqrt(3)), abs=1e-5
    )


def test_one_seed_gives_a_value_and_no_interval():
    found = t_interval([1.25])
    assert (found.value, found.interval, found.n) == (1.25, None, 1)
    assert equivalence([0.0], 0.01).equivalent is None
    assert geometric_interval([2.0]).map(lambda r: 1 - r).interval is None


def test_pairing_removes_what_seeds_share():
    a, b = [1.0, 5.0, 9.0], [0.9, 4.8, 8.9]
    paired = paired_difference(a, b)
    assert paired.value == pytest.approx(0.4 / 3)
    assert paired.per_seed == pytest.approx((0.1, 0.2, 0.1))
    assert paired.interval[0] == pytest.approx(0.4 / 3 - 4.302653 * math.sqrt(1 / 300 / 3), abs=1e-5)


def test_ratio_lives_on_the_log_scale():
    found = geometric_interval([2.0, 4.0])
    assert found.value == pytest.approx(math.sqrt(8))
    low, high = found.interval
    assert low * high == pytest.approx(8)  # symmetric about the mean in ln
    swapped = geometric_interval([1 / 2, 1 / 4])
    assert swapped.interval == pytest.approx((1 / high, 1 / low))


def test_a_decreasing_map_swaps_the_ends():
    low, high = t_interval([1.0, 2.0, 3.0]).map(lambda x: -x).interval
    assert low < -2 < high


def test_equivalence_needs_the_interval_inside_the_margin():
    # sd 0.001 over 4 seeds: standard error 0.0005, t(0.95, 3) = 2.353363
    values = [-0.001, 0.001, -0.001, 0.001]
    error = math.sqrt(4e-6 / 3 / 4)
    assert equivalence(values, 2.36 * error).equivalent
    assert not equivalence(values, 2.35 * error).equivalent
    assert equivalence(values, 2.353363 * error).p_value == pytest.approx(0.05, abs=1e-4)
    assert not equivalence([v + 1 for v in values], 0.01).equivalent
    assert equivalence([0.0, 0.0], 0.01).p_value == 0
    assert equivalence([0.5, 0.5], 0.01).p_value == 1


@pytest.mark.parametrize("n", [2, 3, 5])
def test_coverage(n):
    """95 % intervals hold the truth in 95 % of experiments; a normal quantile would fail this at n = 2 and 3."""
    draw = random.Random(n)
    trials = 4000
    inside = 0
    for _ in range(trials):
        low, high = t_interval([draw.gauss(1.0, 0.3) for _ in range(n)]).interval
        inside += low <= 1.0 <= high
    assert inside / trials == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / trials))


def test_tost_errs_at_most_at_its_level():
    """With the truth on the margin, equivalence is declared in at most 5 % of experiments."""
    draw = random.Random(0)
    wrong = sum(equivalence([draw.gauss(0.01, 0.003) for _ in range(4)], 0.01).equivalent for _ in range(4000))
    assert wrong / 4000 == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / 4000))


def test_p_value_by_hand_and_by_its_interval():
    # mean 2, standard error 1/sqrt(3): t = 3.4641 at two degrees of freedom, p = 1 - t / sqrt(2 + t^2)
    t = 2 * math.sqrt(3)
    assert p_value(t_interval([1.0, 2.0, 3.0])) == pytest.approx(1 - t / math.sqrt(2 + t * t))
    assert p_value(t_interval([-1.0, -2.0, -3.0])) == p_value(t_interval([1.0, 2.0, 3.0]))
    for values in ([1.0, 2.0, 3.0], [0.1, -0.2, 0.05, 0.3], [5.0, 5.1]):
        level = 1 - p_value(t_interval(values))
        assert pytest.approx(min(t_interval(values, level).interval, key=abs), abs=1e-9) == 0  # the interval just touches 0
    assert p_value(t_interval([1.0])) is None
    assert (p_value(t_interval([0.0, 0.0])), p_value(t_interval([1.0, 1.0]))) == (1.0, 0.0)


def test_holm_by_hand():
    # sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1; the last, 0.04, is raised to its predecessor's 0.06
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([0.2]) == (0.2,)
    assert holm([]) == ()
    assert holm([0.5, 0.9]) == (1.0, 1.0)


def test_holm_is_monotone_never_below_the_raw_value_and_never_above_bonferroni():
    draw = random.Random(3)
    for _ in range(200):
        raw = [draw.random() ** 3 for _ in range(draw.randint(1, 20))]
        adjusted = holm(raw)
        by_raw = [a for _, a in sorted(zip(raw, adjusted, strict=True))]
        assert by_raw == sorted(by_raw)
        assert all(p <= a <= min(1.0, len(raw) * p) + 1e-12 for p, a in zip(raw, adjusted, strict=True))


def test_holm_bounds_any_false_rejection():
    """Ten true null hypotheses, sharing one arm: some adjusted p falls below 5 % in at most 5 % of experiments."""
    draw = random.Random(1)
    wrong = 0
    for _ in range(1000):
        shared = [draw.gauss(0, 1) for _ in range(3)]
        raw = [p_value(t_interval([draw.gauss(0, 1) - s for s in shared])) for _ in range(10)]
        wrong += min(holm(raw)) < 0.05
    assert wrong / 1000 < 0.05 + 4 * math.sqrt(0.05 * 0.95 / 1000)


def test_correlation():
    assert correlation([1, 2, 3], [2, 4, 6]) == pytest.approx(1)
    assert correlation([1, 2, 3], [1, 1, 1]) is None
    assert correlation([1, 2, 4], [1, 3, 2]) == pytest.approx(0.3273268)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_values_that_are_none(values):
    with pytest.raises(StatisticsError):
        t_interval(values)


def test_unequal_pairs_and_bad_ratios():
    with pytest.raises(StatisticsError, match="differ in number"):
        paired_difference([1.0], [1.0, 2.0])
    with pytest.raises(StatisticsError, match="positive"):
        geometric_interval([1.0, 0.0])
    with pytest.raises(StatisticsError, match=r"\[0, 1\]"):
        holm([0.5, 1.5])
    with pytest.raises(StatisticsError, match="margin"):
        equivalence([1.0, 2.0], 0.0)


def test_an_estimate_at_another_level_and_its_p_value():
    values = [1.0, 2.0, 3.5]
    assert t_interval(values).at(0.8).interval == pytest.approx(t_interval(values, 0.8).interval)
    assert equivalence(t_interval(values), 9.0) == equivalence(values, 9.0)
    with pytest.raises(StatisticsError, match="before it is mapped"):
        t_interval(values).map(math.exp).at(0.9)


def test_an_estimate_keeps_what_its_own_variance_gives():
    own = t_interval([1.0, 2.0, 3.5])
    pooled = replace(Estimate.of_error(own.per_seed, 0.01, 10, 0.95, arms=5), own=own)
    assert pooled.at(0.8).own.interval == own.at(0.8).interval
    assert pooled.map(math.exp).own.interval == own.map(math.exp).interval
    assert own.at(0.8).own is None


@pytest.mark.parametrize(("k", "n", "low", "high"), [(0, 3, 0.0, 0.7076), (3, 3, 0.2924, 1.0), (2, 5, 0.0527, 0.8534)])
def test_solved_is_clopper_and_pearson(k, n, low, high):
    found = solved([0.95] * k + [0.4] * (n - k), 0.9)
    assert found.interval == pytest.approx((low, high), abs=1e-4)
    assert (found.value, sum(found.per_seed)) == (k / n, k)


@pytest.mark.parametrize("n", [3, 5])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.9])
def test_coverage_of_counts_is_at_least_nominal(n, share):
    """Exact, by summing over all outcomes; of the difference of two such shares as well."""
    weight = [math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(n + 1)]
    found = [solved([1.0] * k + [0.0] * (n - k), 0.9) for k in range(n + 1)]
    assert sum(w for w, f in zip(weight, found, strict=True) if f.interval[0] <= share <= f.interval[1]) >= 0.95
    pairs = [
        (share_difference(a, b), v * w) for a, v in zip(found, weight, strict=True) for b, w in zip(found, weight, strict=True)
    ]
    assert sum(w for d, w in pairs if d.interval[0] <= 0 <= d.interval[1]) >= 0.95 - 0.02


def test_seeds_needed():
    """Against the tables of Cohen: one-sample t test, two-sided, 5 %, 80 % power; and by simulation."""
    assert [seeds_needed(1.0, d) for d in (0.5, 1.0)] == [34, 10]
    assert seeds_needed(1.0, 0.0) is None
    n, rng = seeds_needed(1.0, 1.5), random.Random(0)
    found = sum(p_value(t_interval([rng.gauss(1.5, 1) for _ in range(n)])) < 0.05 for _ in range(2000)) / 2000
    assert found >= 0.78
