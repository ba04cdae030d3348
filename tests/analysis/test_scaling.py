"""Scaling fits: recovery of a known law, refusals, and the multiplier between two fits."""

import json
import math
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic import write_scales

from lolm.analysis.scaling import ScalingError, ScalingPoint, collect, fit_scaling, multiplier, multipliers
from lolm.records.results import load_results

ROOT = Path(__file__).resolve().parents[2]


def points(budgets, law, noise=0.0, seeds=(1, 2, 3), shift=None):
    """Losses with noise that an arm's seeds share over scales (``shift``) and noise of their own."""
    draw = random.Random(7)
    return [
        ScalingPoint(f"s{i}", seed, flops, law(flops) * (1 + draw.gauss(0, noise)) + (shift or {}).get(seed, 0.0))
        for i, flops in enumerate(budgets)
        for seed in seeds
    ]


def with_floor(floor=1.8, height=20.0, exponent=0.2, speed=1.0):
    return lambda flops: floor + height * (speed * flops / 1e12) ** -exponent


SIX = [1e13 * 4**i for i in range(6)]


def test_exact_points_give_back_the_law():
    fit = fit_scaling("a", points(SIX, with_floor()), replicates=20)
    assert fit.form == "E + A C^-alpha"
    assert fit.law.floor == pytest.approx(1.8, rel=0.02)
    assert fit.law.exponent == pytest.approx(0.2, rel=0.02)
    for flops in (*SIX, 3e14):
        assert fit.law.loss(flops) == pytest.approx(with_floor()(flops), rel=1e-5)


def test_noisy_points_are_recovered_within_the_interval():
    fit = fit_scaling("a", points([1e13 * 2**i for i in range(11)], with_floor(), noise=0.002), replicates=100)
    low, high = fit.interval("exponent")
    assert low < 0.2 < high
    assert high - low < 0.2
    low, high = fit.interval("floor")
    assert low < 1.8 < high


def test_four_budgets_give_a_line_and_three_nothing():
    def line(flops):
        return 40 * flops**-0.08

    fit = fit_scaling("a", points(SIX[:4], line), replicates=20)
    assert (fit.form, fit.law.floor) == ("A C^-alpha", 0.0)
    assert fit.law.exponent == pytest.approx(0.08, rel=1e-6)
    with pytest.raises(ScalingError, match=r"results at 3 scales \(s0, s1, s2\); a scaling fit needs at least 4"):
        fit_scaling("a", points(SIX[:3], line))
    with pytest.raises(ScalingError, match="same training FLOPs"):
        fit_scaling("a", points([*SIX[:4], SIX[0]], line))


def test_one_outlier_does_not_carry_the_fit():
    found = points([1e13 * 2**i for i in range(9)], with_floor(), seeds=(1,))
    found[4] = ScalingPoint("s4", 1, found[4].flops, found[4].nats * 1.1)
    law = fit_scaling("a", found, replicates=1).law
    assert law.loss(SIX[0]) == pytest.approx(with_floor()(SIX[0]), rel=2e-3)  # least squares would be 1 % off in the middle
    assert law.loss(found[3].flops) == pytest.approx(found[3].nats, rel=2e-3)


def test_multiplier_between_two_fits_is_a_function_of_compute():
    """The same law at 1.5 times the speed: 1.5 at every compute whose loss the baseline measured, refused beyond."""
    base, other = (fit_scaling(name, points(SIX, with_floor(speed=s)), replicates=20) for name, s in (("b", 1.0), ("a", 1.5)))
    assert multiplier(base.law, other.law, 3e14) == pytest.approx(1.5, rel=1e-3)
    assert multiplier(base.law, other.law, SIX[-1]) is None  # the baseline never got there
    assert multiplier(base.law, other.law, SIX[0] / 2) is None
    rows = multipliers(base, other, 10)
    assert [row["multiplier"] is None for row in rows] == [False] * 9 + [True]
    assert all(row["low"] is None for row in rows if row["multiplier"] is None)


def test_different_exponents_give_a_changing_multiplier():
    base = fit_scaling("b", points(SIX, with_floor(exponent=0.2)), replicates=10)
    other = fit_scaling("a", points(SIX, with_floor(exponent=0.21)), replicates=10)
    found = [multiplier(base.law, other.law, flops) for flops in (2e13, 2e14, 2e15)]
    assert found[0] < found[1] < found[2]
    truth = [((20 / (20 * (c / 1e12) ** -0.21)) ** (1 / 0.2)) * 1e12 / c for c in (2e13, 2e14, 2e15)]
    assert found == pytest.approx(truth, rel=0.02)


def test_what_seeds_share_cancels_in_the_multiplier():
    shift = {1: -0.02, 2: 0.0, 3: 0.02}  # data order moves both arms by the same
    base = fit_scaling("b", points(SIX, with_floor(), shift=shift), replicates=60)
    other = fit_scaling("a", points(SIX, with_floor(speed=1.3), shift=shift), replicates=60)
    row = multipliers(base, other, 7)[3]
    assert row["low"] == pytest.approx(1.3, rel=0.05)
    assert row["high"] == pytest.approx(1.3, rel=0.05)


def test_one_seed_gives_no_interval():
    base, other = (fit_scaling(name, points(SIX, with_floor(speed=s), seeds=(1,))) for name, s in (("b", 1.0), ("a", 1.5)))
    assert base.interval("exponent") is None
    assert base.band(SIX[1]) is None
    row = multipliers(base, other, 7)[3]
    assert row["multiplier"] == pytest.approx(1.5, rel=1e-3)
    assert (row["low"], row["high"]) == (None, None)


def test_arms_run_at_other_scales_or_seeds_have_no_paired_interval():
    base = fit_scaling("b", points(SIX, with_floor()), replicates=10)
    for other in (points(SIX, with_floor(), seeds=(1, 2)), points(SIX[1:], with_floor())):
        row = multipliers(base, fit_scaling("a", other, replicates=10), 7)[3]
        assert row["multiplier"] is not None
        assert row["low"] is None


def test_few_seeds_get_at_least_the_t_interval_of_their_own_fits():
    """Two seeds at 1.2 and 1.4 times the speed: a bootstrap stays between them, t(0.975, 1) = 12.7 does not."""
    budgets = SIX[:4]

    def line(speed):
        return lambda flops: 40 * (speed * flops) ** -0.08

    base = fit_scaling("b", points(budgets, line(1.0), seeds=(1, 2)), replicates=40)
    mine = points(budgets, line(1.2), seeds=(1,)) + points(budgets, line(1.4), seeds=(2,))
    row = multipliers(base, fit_scaling("a", mine, replicates=40), 7)[2]
    half = 12.7062 * math.log(1.4 / 1.2) / 2  # the standard error of two values is half their distance
    assert row["low"] == pytest.approx(math.sqrt(1.2 * 1.4) * math.exp(-half), rel=1e-3)
    assert row["high"] == pytest.approx(math.sqrt(1.2 * 1.4) * math.exp(half), rel=1e-3)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return write_scales(tmp_path_factory.mktemp("scales"), count=4)


def stage(folder, *arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pipeline.scaling", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_points_are_collected_over_scales(project):
    results = [load_results(project, scale) for scale in ("s0", "s1", "s2", "s3")]
    found = collect(results, "transformer")
    assert [(p.scale, p.seed) for p in found[:3]] == [("s0", 1), ("s0", 2), ("s1", 1)]
    run = results[0].of("transformer")[0]
    assert (found[0].flops, found[0].nats) == (run.summary.flops, run.test_nats)
    assert collect(results, "no such arm") == ()


def test_scales_on_other_text_do_not_mix(project):
    results = [load_results(project, "s0"), load_results(project, "s1")]
    other = results[1].params.scales["s1"]
    results[1].params.scales["s1"] = replace(other, tokenizer=replace(other.tokenizer, vocab_size=999))
    with pytest.raises(ScalingError, match="'s0' and 's1' differ in corpus or tokenizer"):
        collect(results, "transformer")


def test_fits_are_the_same_twice():
    first, second = (fit_scaling("a", points(SIX[:4], with_floor(), noise=0.01), replicates=20) for _ in range(2))
    assert first == second


def test_stage_writes_fits_and_multipliers(project):
    done = stage(project, "--scales", "s0", "s1", "s2", "s3", "--study", "main")
    assert done.returncode == 0, done.stderr
    folder = project / "reports/scaling/main"
    assert {path.name for path in folder.iterdir()} == {"scaling.json", "scaling.svg", "scaling.csv"}
    record = json.loads((folder / "scaling.json").read_text())
    assert set(record["arms"]) == {"lolm", "transformer"}
    assert record["arms"]["lolm"]["form"] == "A C^-alpha"
    assert record["multipliers"]["lolm"]["at"]


def test_stage_says_what_is_missing(project):
    done = stage(project, "--scales", "s0", "s1", "smoke", "--study", "main")
    assert done.returncode == 2
    assert "a scaling fit needs results at 4 scales or more" in done.stderr
    assert "make repro SCALE=smoke STUDY=main" in done.stderr
    assert "Traceback" not in done.stderr
