"""The vector type's functions against NumPy in float64."""

import numpy as np
import pytest
from numba import njit

from lolm.ops.cpu.vectors import (
    LANES,
    broadcast,
    copy,
    exp2,
    fma,
    largest,
    largest_lane,
    load,
    prefetch,
    prefetch_for_write,
    repeat,
    sigmoid,
    softplus,
    softplus_and_slope,
    store,
    store_totals,
    total,
)


@njit
def _apply(which, x, y):
    for i in range(0, len(x), LANES):
        v = load(x, i)
        if which == 0:
            store(y, i, exp2(v))
        elif which == 1:
            store(y, i, sigmoid(v))
        else:
            store(y, i, softplus(v))


def apply(which: int, x: np.ndarray) -> np.ndarray:
    y = np.empty_like(x)
    _apply(which, x, y)
    return y


@pytest.mark.parametrize(
    ("which", "exact", "low", "high", "bound"),
    [
        (0, np.exp2, -125.9, 0.0, 4),
        (1, lambda x: 1 / (1 + np.exp(-x)), -10.0, 30.0, 16),
        (2, lambda x: np.logaddexp(0, x), -10.0, 50.0, 16),
    ],
)
def test_functions_are_exact_to_a_few_units_in_the_last_place(which, exact, low, high, bound):
    x = np.linspace(low, high, 4096, dtype=np.float32)
    wanted = exact(x.astype(np.float64))
    assert (np.abs(apply(which, x) - wanted) / np.abs(wanted)).max() < bound * 2**-24


@pytest.mark.parametrize(("which", "low", "high"), [(0, -1e30, 0.0), (1, -1e30, 1e30), (2, -1e30, 1e30)])
def test_functions_saturate_and_do_not_overflow(which, low, high):
    x = np.array([low, high] * (LANES // 2), dtype=np.float32)
    wanted = {0: (0.0, 1.0), 1: (0.0, 1.0), 2: (0.0, high)}[which]
    np.testing.assert_allclose(apply(which, x)[:2], wanted, rtol=1e-6, atol=1e-37)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_what_is_not_a_number_stays_so(which):
    assert np.isnan(apply(which, np.full(LANES, np.nan, dtype=np.float32))).all()


@njit
def _lanes(x, y):
    a, b = load(x, 0), load(x, LANES)
    y[0], y[1] = total(a), largest_lane(a)
    store(y, LANES, fma(a, b, repeat(x, 3)))
    store(y, 2 * LANES, largest(a, b))
    store(y, 3 * LANES, (a + b) / (a - np.float32(100.0)) * broadcast(np.float32(2.0)))


def test_lanes_and_arithmetic():
    x = np.random.default_rng(0).normal(size=2 * LANES).astype(np.float32)
    y = np.zeros(4 * LANES, dtype=np.float32)
    _lanes(x, y)
    a, b = x[:LANES].astype(np.float64), x[LANES:].astype(np.float64)
    np.testing.assert_allclose(y[:2], [a.sum(), a.max()], rtol=1e-5)
    np.testing.assert_allclose(y[LANES : 2 * LANES], a * b + x[3], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(y[2 * LANES : 3 * LANES], np.maximum(x[:LANES], x[LANES:]))
    np.testing.assert_allclose(y[3 * LANES :], 2 * (a + b) / (a - 100), rtol=1e-5, atol=1e-7)


@njit
def _moved(x, y, start, to, count):
    prefetch(x, -(10**9))  # no place of any array: asking is free
    prefetch_for_write(y, 10**9)
    copy(y, to, x, start, count)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 40])
def test_a_copy_takes_what_it_should_and_touches_nothing_else(count):
    x, y = np.arange(1, 61, dtype=np.float32), np.zeros(60, dtype=np.float32)
    _moved(x, y, 3, 7, count)
    wanted = np.zeros(60, dtype=np.float32)
    wanted[7 : 7 + count] = x[3 : 3 + count]
    np.testing.assert_array_equal(y, wanted)


def test_the_end_of_an_array_is_not_passed():
    room = np.full(2 * LANES, 7.0, dtype=np.float32)
    _moved(np.arange(5, dtype=np.float32), room[:5], 0, 0, 5)
    np.testing.assert_array_equal(room, [0, 1, 2, 3, 4] + [7] * (2 * LANES - 5))


@njit
def _totals(x, y):
    store_totals(y, 1, load(x, 0), load(x, LANES), load(x, 2 * LANES), load(x, 3 * LANES))


def test_four_sums_over_lanes_at_once():
    x, y = np.random.default_rng(1).normal(size=4 * LANES).astype(np.float32), np.zeros(6, dtype=np.float32)
    _totals(x, y)
    np.testing.assert_allclose(y, [0, *x.reshape(4, LANES).astype(np.float64).sum(1), 0], rtol=1e-5, atol=1e-6)


@njit
def _both(x, y):
    for i in range(0, len(x), LANES):
        value, slope = softplus_and_slope(load(x, i))
        store(y, i, value)
        store(y, len(x) + i, slope)


def test_softplus_with_its_slope_is_softplus_and_sigmoid_to_the_bit():
    x = np.linspace(-40, 40, 20 * LANES, dtype=np.float32)
    y = np.empty(2 * len(x), dtype=np.float32)
    _both(x, y)
    np.testing.assert_array_equal(y, np.concatenate([apply(2, x), apply(1, x)]))
