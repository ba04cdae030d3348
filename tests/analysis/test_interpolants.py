"""Where curves cross a level, by three interpolants."""

import math

import numpy as np
import pytest

from lolm.analysis.curves import Curve, crossing
from lolm.analysis.interpolants import INTERPOLANTS, linear, log_crossings, monotone, power_law

COSTS = (250.0, 500.0, 1000.0, 2000.0)


def law(cost):
    return 2 + 4 * np.asarray(cost) ** -0.15


def test_a_power_law_is_found_again_where_the_chord_comes_late():
    level = float(law(700.0))
    at = {name: math.exp(find(COSTS, law(COSTS), level)) for name, find in INTERPOLANTS.items()}
    assert at["power law fitted to each run"] == pytest.approx(700, rel=1e-3)
    assert 700 < at["linear in ln(cost)"] < 700 * 1.018
    assert abs(at["monotone cubic (PCHIP)"] - 700) < at["linear in ln(cost)"] - 700


@pytest.mark.parametrize("find", [linear, monotone, power_law])
def test_nothing_is_extrapolated(find):
    losses = law(COSTS)
    assert find(COSTS, losses, float(losses[0]) + 0.01) is None
    assert find(COSTS, losses, float(losses[-1]) - 0.01) is None


def test_too_few_points_for_a_law():
    assert power_law(COSTS[:3], law(COSTS[:3]), float(law(400.0))) is None


def test_many_draws_at_once_are_the_crossings_one_by_one():
    rng = np.random.default_rng(0)
    losses = law(COSTS) + rng.normal(0, 0.05, (200, 4))
    levels = law(rng.uniform(200, 2500, 200))
    for found, row, level in zip(log_crossings(COSTS, losses, levels), losses, levels, strict=True):
        one = crossing(Curve(COSTS, tuple(row)), level).position
        assert math.isnan(found) if one is None else math.exp(found) == pytest.approx(one)
