"""Laws L(N, D) on losses whose law is known: point fits, intervals, multipliers by hand, refusals."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize
from synthetic import write_scales

from lolm.analysis.scaling import (
    Law,
    ScalingError,
    collect,
    common_range,
    contrast,
    fit_laws,
    inside,
    multiplier,
    tenfold,
)
from lolm.analysis.trends import Observation, over_parameters, over_tokens
from lolm.records.results import load_results
from lolm.records.schema import BudgetPoint

SIZES = {"a": 3e5, "b": 6e5, "c": 1.2e6, "d": 2.4e6}
TOKENS = [512_000 * 2**i for i in range(5)]
SLOW = Law(floor=1.6, a=60, alpha=0.32, b=60, beta=0.30, kappa=6.0, gamma=1.0)
FAST = replace(SLOW, a=57, b=56)


def points(laws, seeds=(3, 3, 2, 1), noise=0.0, draw=None, sizes=SIZES, tokens=TOKENS):
    """Runs whose seeds share noise between arms (data order), have some of their own, and some at each end."""
    draw = draw or np.random.default_rng(7)
    found = []
    for (scale, n), count in zip(sizes.items(), seeds, strict=False):
        for seed in range(count):
            common = draw.normal(0, noise, len(tokens))
            for arm, law in laws.items():
                own = draw.normal(0, 0.75 * noise)
                for i, d in enumerate(tokens):
                    factor = math.exp(common[i] + own + draw.normal(0, noise / 2))
                    cost = law.kappa * n**law.gamma * d
                    found.append(BudgetPoint(arm, scale, seed, int(n), d, cost, law.loss(n, d) * factor))
    return found


def test_exact_points_give_back_the_law_and_its_cost():
    law = replace(SLOW, kappa=3.0, gamma=1.05)
    fits, refused = fit_laws(points({"a": law}), replicates=5)
    assert not refused
    for name in ("floor", "a", "alpha", "b", "beta", "kappa", "gamma"):
        assert getattr(fits["a"].law, name) == pytest.approx(getattr(law, name), rel=1e-3), name
    assert fits["a"].misfit < 1e-6
    assert fits["a"].freedom == 5


def test_the_fit_is_the_least_huber_loss_that_l_bfgs_finds():
    """The objective of Hoffmann et al., its sum, from their kind of grid by their optimiser: the same minimum."""
    found = points({"a": SLOW}, seeds=(1, 1, 1, 1), noise=0.004)
    n, d, y = (np.log([getattr(p, name) for p in found]) for name in ("parameters", "tokens", "nats"))

    def objective(theta):
        e, a, alpha, b, beta = theta
        size = np.abs(np.logaddexp.reduce([np.full_like(n, e), a - alpha * (n - n.mean()), b - beta * (d - d.mean())]) - y) / 1e-3
        return np.where(size < 1, size**2 / 2, size - 0.5).sum()

    starts = [(e, a, alpha, a, alpha) for e in (-0.5, 0.5) for a in (-1, 0) for alpha in (0.2, 0.5)]
    options = {"maxiter": 3000, "maxfun": 50_000, "ftol": 1e-12}
    best = min((minimize(objective, start, method="L-BFGS-B", options=options) for start in starts), key=lambda r: r.fun)
    fit = fit_laws(found, replicates=5)[0]["a"]
    assert fit.cost <= best.fun + 1e-3
    assert fit.cost == pytest.approx(best.fun, rel=0.01)


def test_planted_parameters_lie_in_their_intervals():
    fits, _ = fit_laws(points({"slow": SLOW, "fast": FAST}, noise=0.002), replicates=200)
    for arm, law in (("slow", SLOW), ("fast", FAST)):
        for name in ("floor", "alpha", "beta"):
            low, high = fits[arm].interval(name)
            assert low < getattr(law, name) < high, (arm, name)
    found = contrast(fits["slow"], fits["fast"], lambda b, s: multiplier(b, s, 2e13))
    assert found.interval[0] < multiplier(SLOW, FAST, 2e13) < found.interval[1]
    assert found.interval[1] / found.interval[0] < 1.2


def test_the_multiplier_by_hand():
    """alpha = beta = 1/2, C = 6 N D: the optimum has A N^-1/2 = B D^-1/2, so L* = E + 2 sqrt(A B) (6 / C)^1/4."""
    base, subject = Law(1.0, 30.0, 0.5, 40.0, 0.5), Law(1.0, 15.0, 0.5, 40.0, 0.5)
    n, d = base.optimum(6e12)
    assert n * d == pytest.approx(1e12)
    assert 30 * n**-0.5 == pytest.approx(40 * d**-0.5)
    assert base.best(6e12) == pytest.approx(1 + 2 * math.sqrt(30 * 40) / 1000)
    assert base.compute(base.best(6e12)) == pytest.approx(6e12)
    assert multiplier(base, subject, 6e12) == pytest.approx(2.0**2)  # sqrt(A) halves to 1/sqrt 2; to the fourth power
    assert tenfold(1e12, 1e14)(base, subject) == pytest.approx(1.0)
    assert multiplier(replace(base, floor=2.0), subject, 1e16) == math.inf  # its floor is above the subject's loss


def test_a_lead_that_grows_changes_by_its_factor():
    """Exponents 0.5 against 0.48: ln M is a line in ln C, so that the mean slope is the slope."""
    base, subject = Law(1.0, 30.0, 0.48, 30.0, 0.48), Law(1.0, 30.0, 0.5, 30.0, 0.5)
    first, last = (multiplier(base, subject, flops) for flops in (1e13, 1e14))
    assert tenfold(1e13, 1e14)(base, subject) == pytest.approx(last / first)
    assert last > first


def test_what_seeds_share_cancels_between_arms():
    """Noise of the data order alone moves both arms alike: the laws' own intervals are wide, that of the multiplier is narrow."""
    draw, shared = np.random.default_rng(3), []
    for scale, n in SIZES.items():
        for seed in range(3):
            common = draw.normal(0, 0.01)
            for arm, law in (("slow", SLOW), ("fast", FAST)):
                losses = [law.loss(n, d) * math.exp(common) for d in TOKENS]
                shared += [BudgetPoint(arm, scale, seed, int(n), d, 6 * n * d, y) for d, y in zip(TOKENS, losses, strict=True)]
    fits, _ = fit_laws(shared, replicates=200)
    alone = contrast(fits["slow"], fits["slow"], lambda law, _: law.compute(2.6))
    pair = contrast(fits["slow"], fits["fast"], lambda b, s: multiplier(b, s, 2e13))
    assert math.log(pair.interval[1] / pair.interval[0]) < 0.2 * math.log(alone.interval[1] / alone.interval[0])


def test_one_floor_for_all_arms():
    found = points({"slow": SLOW, "fast": FAST}, noise=0.002)
    shared, own = (fit_laws(found, replicates=100, shared=shared)[0] for shared in (True, False))
    assert shared["slow"].law.floor == shared["fast"].law.floor
    assert own["slow"].law.floor != own["fast"].law.floor
    assert sum(f.cost for f in shared.values()) >= sum(f.cost for f in own.values()) - 1e-6
    low, high = shared["slow"].interval("floor")
    assert low < 1.6 < high


def test_too_few_points_carry_no_law():
    for sizes, tokens in ((1, 5), (2, 5), (4, 2), (4, 1)):
        found = points({"a": SLOW}, sizes=dict(list(SIZES.items())[:sizes]), tokens=TOKENS[:tokens])
        fits, refused = fit_laws(found, replicates=5)
        assert not fits
        counted = f"{sizes} size{'s' * (sizes > 1)} and {tokens} number{'s' * (tokens > 1)} of tokens"
        assert refused["a"].startswith(counted)


def test_tokens_that_follow_the_size_carry_no_law():
    found = [BudgetPoint("a", s, 1, int(n), int(20 * n), 120 * n * n, SLOW.loss(n, 20 * n)) for s, n in SIZES.items()]
    assert "grow together" in fit_laws(found, replicates=5)[1]["a"]


def test_one_seed_gives_a_law_and_no_interval():
    fit = fit_laws(points({"a": SLOW}, seeds=(1, 1, 1, 1)), replicates=20)[0]["a"]
    assert fit.interval("alpha") is None
    assert fit.noise is None
    assert fit.loose == ("floor", "alpha", "beta")


def test_what_the_points_hardly_fix_is_said():
    narrow = {"a": 9e5, "b": 1e6, "c": 1.1e6}
    found = points({"a": SLOW}, seeds=(3, 3, 3), sizes=narrow, noise=0.005)
    assert "alpha" in fit_laws(found, replicates=200)[0]["a"].loose
    assert fit_laws(points({"a": SLOW}, noise=1e-4), replicates=200)[0]["a"].loose == ()


def bent(points_, factor):
    """The same with losses that bend over tokens as no such law does."""
    middle = math.log(TOKENS[2])
    return [replace(p, nats=p.nats * math.exp(factor * math.cos(2 * (math.log(p.tokens) - middle)))) for p in points_]


def test_a_law_that_does_not_fit_is_shown_wrong():
    """Beyond what the noise makes; of laws that hold one in twenty is called wrong."""
    draw = np.random.default_rng(5)
    found = [fit_laws(points({"a": SLOW}, noise=0.002, draw=draw), replicates=60, seed=i)[0]["a"].form for i in range(30)]
    assert np.sum(np.array(found) < 0.05) <= 4  # P = 0.016 of more by chance
    assert np.median(found) > 0.2
    for shared in (False, True):
        fits = fit_laws(bent(points({"slow": SLOW, "fast": FAST}, noise=0.002), 0.03), replicates=100, shared=shared)[0]
        assert max(fit.form for fit in fits.values()) < 0.05
    assert fit_laws(points({"a": SLOW}, seeds=(1, 1, 1, 1)), replicates=5)[0]["a"].form is None
    assert fit_laws(points({"a": SLOW}), replicates=5)[0]["a"].form == 1.0  # exact, not 1 / 6 by the search's rounding


def test_losses_that_are_no_numbers_are_refused():
    found = points({"a": SLOW})
    with pytest.raises(ScalingError, match="positive and finite"):
        fit_laws([replace(found[0], nats=math.nan), *found[1:]])


def test_inside_is_where_size_and_tokens_were_measured():
    fits, _ = fit_laws(points({"a": SLOW}), replicates=5)
    low, high = common_range(fits.values())
    assert (low, high) == pytest.approx((6 * 3e5 * 512_000, 6 * 2.4e6 * 512_000 * 16))
    verdicts = [inside(fits["a"], flops) for flops in np.geomspace(low, high, 40)]
    for flops, verdict in zip(np.geomspace(low, high, 40), verdicts, strict=True):
        n, d = fits["a"].law.optimum(flops)
        assert verdict == (3e5 <= n <= 2.4e6 and TOKENS[0] <= d <= TOKENS[-1])


def test_fits_are_the_same_twice():
    found = points({"a": SLOW}, noise=0.002)
    assert fit_laws(found, replicates=20) == fit_laws(found, replicates=20)


@pytest.mark.slow
def test_intervals_cover_the_truth():
    """Of 100 simulated studies, half of three seeds and half of five, at most 9 may miss, where 5 are expected: P = 0.03 by
    chance. The protocol has a longer one."""
    hits, sets = {"multiplier": 0, "tenfold": 0, "alpha": 0}, 100
    ends = (6 * 3e5 * 512_000, 6 * 2.4e6 * 512_000 * 16)
    draws = {count: np.random.default_rng(count) for count in (3, 5)}
    for number, (count, draw) in enumerate(sets // 2 * [*draws.items()]):
        found = points({"slow": SLOW, "fast": FAST}, (count,) * 4, 0.002, draw)
        fits, _ = fit_laws(found, replicates=100, seed=number)
        reads = {"multiplier": lambda b, s: multiplier(b, s, 2e13), "tenfold": tenfold(*ends), "alpha": lambda _, s: s.alpha}
        for name, read in reads.items():
            low, high = contrast(fits["slow"], fits["fast"], read).interval
            hits[name] += low <= read(SLOW, FAST) <= high
    assert min(hits.values()) >= sets - 9, hits


def test_trends_per_tenfold():
    """y = 2 log10 D − 3 log10 N exactly; with noise of a run its interval covers in 95 of 100, tested at 5 sigma."""
    rows = [
        Observation((s, seed), n, d, 2 * math.log10(d) - 3 * math.log10(n))
        for s, n in SIZES.items()
        for seed in (1, 2)
        for d in TOKENS
    ]
    (tokens, by_scale), parameters = over_tokens(rows, 0.95, 0.1), over_parameters(rows, 0.95)
    assert (tokens.value, parameters.value) == pytest.approx((2, -3))
    assert parameters.n == 8
    assert {scale: (found.value, found.n) for scale, found in by_scale.items()} == {s: (pytest.approx(2), 2) for s in SIZES}
    draw, hits = np.random.default_rng(1), np.zeros(2)
    for _ in range(400):
        runs = {row.run: draw.normal(0, 0.1, 2) for row in rows}
        noisy = [r._replace(value=r.value + runs[r.run][0] + runs[r.run][1] * math.log10(r.tokens)) for r in rows]
        both = (over_tokens(noisy, 0.95, 1e-9)[0], over_parameters(noisy, 0.95))
        for i, (found, truth) in enumerate(zip(both, (2, -3), strict=True)):
            hits[i] += found.interval[0] <= truth <= found.interval[1]
    assert (np.abs(hits / 400 - 0.95) < 5 * math.sqrt(0.95 * 0.05 / 400)).all()


@pytest.mark.parametrize("noise", [(0.1, 0.1, 0.1, 0.1), (0.2, 0.12, 0.07, 0.04), (0.025, 0.05, 0.1, 0.2)])
@pytest.mark.parametrize("seeds", [(3, 3, 2, 1), (3, 3, 3, 3), (5, 5, 5, 5)])
def test_a_trend_over_sizes_covers_where_noise_changes_with_size(seeds, noise):
    """The usual error of a slope covers 79 % in the worst of these; this one 93 to 98, so that it is wider where it misses."""
    draw, hits, trials = np.random.default_rng(3), 0, 1000
    sizes = [(s, n, sd) for (s, n), count, sd in zip(SIZES.items(), seeds, noise, strict=True) for _ in range(count)]
    for _ in range(trials):
        rows = [Observation((s, k), n, 1e6, draw.normal(0, sd)) for k, (s, n, sd) in enumerate(sizes)]
        found = over_parameters(rows, 0.95)
        hits += found.interval[0] <= 0 <= found.interval[1]
    assert 0.92 < hits / trials < 0.995


def test_a_size_of_one_run_beside_one_other_size_has_a_trend():
    rows = [Observation(run, n, 1e6, y) for run, n, y in ((("a", 1), 1e6, 1.0), (("a", 2), 1e6, 1.2), (("b", 1), 1e7, 2.0))]
    found = over_parameters(rows, 0.95)
    assert found.value == pytest.approx(0.9)
    assert found.interval[0] < 0.9 < found.interval[1]


def test_one_size_or_one_budget_has_no_trend():
    rows = [Observation(("a", seed), 1e6, d, 1.0) for seed in (1, 2) for d in TOKENS]
    assert over_parameters(rows, 0.95) is None
    assert over_tokens([r for r in rows if r.tokens == TOKENS[0]], 0.95, 0.1) == (None, {})
    assert over_tokens([], 0.95, 0.1) == (None, {})
    assert over_parameters([], 0.95) is None


def test_sizes_that_are_shown_to_differ_have_no_common_trend_over_tokens():
    """Slopes of 1 and 2 with noise of 0.01; where sizes are alike, the test at 0.1 withholds a tenth of the means."""

    def rows(slopes, draw, sd=0.01):
        runs = [(scale, seed, slope + draw.normal(0, sd)) for scale, slope in slopes.items() for seed in (1, 2, 3)]
        return [Observation((scale, seed), 1e6, d, slope * math.log10(d)) for scale, seed, slope in runs for d in TOKENS]

    draw = np.random.default_rng(5)
    whole, by_scale = over_tokens(rows({"a": 1.0, "b": 2.0}, draw), 0.95, 0.1)
    assert whole is None
    assert [by_scale[scale].value for scale in ("a", "b")] == pytest.approx([1, 2], abs=0.03)
    withheld = sum(over_tokens(rows({"a": 1.0, "b": 1.0, "c": 1.0}, draw), 0.95, 0.1)[0] is None for _ in range(400))
    assert abs(withheld / 400 - 0.1) < 5 * math.sqrt(0.1 * 0.9 / 400)


def test_points_are_collected_over_scales(tmp_path):
    root = write_scales(tmp_path, count=2)
    results = [load_results(root, scale) for scale in ("s0", "s1")]
    found = collect(results)
    run = results[0].of("transformer")[0]
    mine = [p for p in found if (p.arm, p.scale, p.seed) == ("transformer", "s0", 1)]
    assert [p.tokens for p in mine] == [end.tokens for end in run.evaluation.schedule_ends]
    assert mine[-1].nats == run.test_nats
    assert mine[0].parameters == run.header.parameters.total
    whole = replace(run.evaluation, test=replace(run.evaluation.test, nats=run.test_nats + 0.25))  # ends are scored on a part
    moved = replace(results[0], runs=tuple(replace(r, evaluation=whole) if r is run else r for r in results[0].runs))
    ours = [p for p in collect([moved]) if (p.arm, p.seed) == ("transformer", 1)]
    assert [p.nats for p in ours] == pytest.approx([p.nats + 0.25 for p in mine])
