"""Intervals over seeds, paired comparisons, equivalence.

Seeds are the only source of replication: an interval says how far a mean over seeds could move under other seeds of
data order and initialisation. One seed gives a value and no interval (``None``), never a made-up one.
Student's t throughout; ratios are treated on the ln scale, where they are symmetric.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lolm import LolmError


class StatisticsError(LolmError):
    """Values no statistic can be made of: none at all, not finite, or pairs of unequal length."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its interval.

    Attributes:
        value: mean (geometric mean for ratios).
        interval: (low, high), or None with fewer than two seeds.
        n: number of seeds.
        per_seed: the values themselves, in seed order.
        confidence: two-sided coverage of the interval.
    """

    value: float
    interval: tuple[float, float] | None
    n: int
    per_seed: tuple[float, ...]
    confidence: float

    def map(self, function) -> Estimate:
        """The estimate under a monotone function; a decreasing one swaps the ends."""
        ends = None if self.interval is None else tuple(sorted(function(end) for end in self.interval))
        return Estimate(function(self.value), ends, self.n, tuple(map(function, self.per_seed)), self.confidence)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided t tests (TOST) of |mean| < margin at level 1 - confidence.

    ``equivalent`` is None with fewer than two seeds; ``interval`` is the 1 - 2 alpha interval, which lies inside
    +-margin exactly when both tests reject.
    """

    equivalent: bool | None
    p_value: float | None
    interval: tuple[float, float] | None
    margin: float


def t_interval(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Mean and Student's t interval of independent values.

    Raises:
        StatisticsError: no values, or one that is not finite.
    """
    values = _checked(values)
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return Estimate(mean, None, len(values), values, confidence)
    half = _t_quantile(0.5 + confidence / 2, len(values) - 1) * _standard_error(values, mean)
    return Estimate(mean, (mean - half, mean + half), len(values), values, confidence)


def paired_difference(a: Sequence[float], b: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Mean of a - b over seeds that both arms ran, with the paired t interval."""
    return t_interval([x - y for x, y in _pairs(a, b)], confidence)


def geometric_interval(ratios: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Geometric mean of positive ratios with the t interval of their logarithms, carried back.

    Raises:
        StatisticsError: also for a ratio that is not positive.
    """
    ratios = _checked(ratios)
    if min(ratios) <= 0:
        raise StatisticsError(f"ratios must be positive, got {min(ratios)}")
    return t_interval([math.log(r) for r in ratios], confidence).map(math.exp)


def paired_p_value(differences: Sequence[float]) -> float | None:
    """Two-sided p value of Student's t test that the mean of paired differences is zero; None with fewer than two seeds."""
    differences = _checked(differences)
    if len(differences) < 2:
        return None
    mean = math.fsum(differences) / len(differences)
    error = _standard_error(differences, mean)
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return 2 * _t_tail(abs(mean) / error, len(differences) - 1)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Holm's step-down adjustment (1979): the chance of any false rejection among all m tests stays below the level.

    The k-th smallest p value is multiplied by m - k + 1, and none may be smaller than the one before it. Order is kept.

    Raises:
        StatisticsError: a value outside [0, 1].
    """
    if any(not 0 <= p <= 1 for p in p_values):
        raise StatisticsError(f"p values lie in [0, 1], got {list(p_values)}")
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return tuple(adjusted)


def equivalence(differences: Sequence[float], margin: float, confidence: float = 0.95) -> Equivalence:
    """Whether the mean difference is shown to lie within +-margin (Schuirmann's two one-sided tests)."""
    if margin <= 0:
        raise StatisticsError(f"an equivalence margin must be positive, got {margin}")
    differences = _checked(differences)
    if len(differences) < 2:
        return Equivalence(None, None, None, margin)
    alpha = 1 - confidence
    mean = math.fsum(differences) / len(differences)
    error = _standard_error(differences, mean)
    interval = t_interval(differences, 1 - 2 * alpha).interval
    distance = math.copysign(math.inf, margin - abs(mean)) if error == 0 else (margin - abs(mean)) / error
    p_value = _t_tail(distance, len(differences) - 1)
    return Equivalence(p_value < alpha, p_value, interval, margin)


def correlation(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Pearson's correlation; None when either side does not vary or there are fewer than three points."""
    pairs = _pairs(x, y)
    if len(pairs) < 3:
        return None
    mean_x, mean_y = (math.fsum(p[i] for p in pairs) / len(pairs) for i in (0, 1))
    var_x = math.fsum((p[0] - mean_x) ** 2 for p in pairs)
    var_y = math.fsum((p[1] - mean_y) ** 2 for p in pairs)
    if var_x <= 1e-24 or var_y <= 1e-24:
        return None
    return math.fsum((p[0] - mean_x) * (p[1] - mean_y) for p in pairs) / math.sqrt(var_x * var_y)


def _checked(values: Sequence[float]) -> tuple[float, ...]:
    values = tuple(float(v) for v in values)
    if not values:
        raise StatisticsError("no values: no run carries this measurement")
    if not all(map(math.isfinite, values)):
        raise StatisticsError(f"values must be finite, got {values}")
    return values


def _pairs(a: Sequence[float], b: Sequence[float]) -> list[tuple[float, float]]:
    if len(a) != len(b):
        raise StatisticsError(f"paired values differ in number: {len(a)} and {len(b)}")
    return list(zip(a, b, strict=True))


def _standard_error(values: tuple[float, ...], mean: float) -> float:
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))


def _t_quantile(probability: float, freedom: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, probability))


def _t_tail(t: float, freedom: int) -> float:
    from scipy.special import stdtr

    return float(stdtr(freedom, -t))
