"""Intervals, paired comparisons, equivalence, corrections for many tests, seeds needed.

An interval of this module covers seeds alone: how far a mean could move under other seeds of data order and initialisation; what
other text adds, and a variance pooled over arms, come from :mod:`lolm.analysis.uncertainty`. One seed gives a value and no
interval (``None``), never a made-up one. Student's t throughout; ratios are treated on the ln scale, where they are symmetric.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

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
        error, freedom: standard error and its degrees of freedom; None without an interval, or after :meth:`map`.
        arms: whose variance over seeds it rests on together; 1 where it is its own.
        text_error: standard error that the choice of text adds, part of ``error`` (before :meth:`map`); None: seeds alone.
        own: the same by its own variance over seeds, where ``arms`` share theirs; else None.
        narrower: of seeds alone or of seeds and text, the one that was not chosen; at another level it may be the wider one.
        over: what ``n`` counts: seeds, or runs that differ in more than the seed.
    """

    value: float
    interval: tuple[float, float] | None
    n: int
    per_seed: tuple[float, ...]
    confidence: float
    error: float | None = None
    freedom: float | None = None
    arms: int = 1
    text_error: float | None = None
    own: Estimate | None = None
    narrower: Estimate | None = None
    over: str = "seeds"

    @classmethod
    def of_error(
        cls,
        per_seed: Sequence[float],
        variance: float,
        freedom: float,
        confidence: float,
        arms: int = 1,
        text_error: float | None = None,
    ) -> Estimate:
        """Mean of the values, with the t interval of a squared standard error."""
        value, error = math.fsum(per_seed) / len(per_seed), math.sqrt(variance)
        half = _t_quantile(0.5 + confidence / 2, freedom) * error
        ends = (value - half, value + half)
        return cls(value, ends, len(per_seed), tuple(per_seed), confidence, error, freedom, arms, text_error)

    def map(self, function) -> Estimate:
        """The estimate under a monotone function; a decreasing one swaps the ends."""
        ends = None if self.interval is None else tuple(sorted(function(end) for end in self.interval))
        return replace(
            self,
            value=function(self.value),
            interval=ends,
            per_seed=tuple(map(function, self.per_seed)),
            error=None,
            freedom=None,
            own=None if self.own is None else self.own.map(function),
            narrower=None,
        )

    def at(self, confidence: float) -> Estimate:
        """The same at another level.

        Raises:
            StatisticsError: the estimate was mapped, so its standard error is gone.
        """
        if self.interval is None:
            return replace(self, confidence=confidence)
        if self.error is None or self.freedom is None:
            raise StatisticsError("an estimate on another scale has no standard error; change its level before it is mapped")
        found = Estimate.of_error(self.per_seed, self.error**2, self.freedom, confidence, self.arms, self.text_error)
        found = found if self.narrower is None else found.or_wider(self.narrower.at(confidence))
        return replace(found, own=None if self.own is None else self.own.at(confidence))

    def or_wider(self, other: Estimate) -> Estimate:
        """The wider of two estimates of one mean, which keeps the other; this one where they are equal."""
        if self.interval is None or other.interval is None:
            return self
        first, second = (end[1] - end[0] for end in (self.interval, other.interval))
        wide, narrow = (other, self) if second > first else (self, other)
        return replace(wide, narrower=replace(narrow, narrower=None), text_error=wide.text_error or narrow.text_error)

    @property
    def covers(self) -> str:
        """What its interval covers, in words; empty without one."""
        if self.interval is None:
            return ""
        text = f"{self.over} alone" if self.text_error is None else f"{self.over} and text"
        return text + (f", variance over seeds pooled over {self.arms} arms" if self.arms > 1 else "")


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
    return Estimate.of_error(values, _standard_error(values, mean) ** 2, len(values) - 1, confidence)


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


def complete_interval(values: Iterable[float | None], confidence: float = 0.95) -> Estimate | None:
    """:func:`t_interval` of a number of each run; None unless every run has it."""
    known = list(values)
    return None if not known or None in known else t_interval(known, confidence)  # type: ignore[arg-type]


def p_value(found: Estimate, at: float = 0.0) -> float | None:
    """Two-sided p value of Student's t test that the mean is ``at``; None without an interval."""
    if found.interval is None or found.error is None or found.freedom is None:
        return None
    if found.error == 0:
        return 1.0 if found.value == at else 0.0
    return 2 * _t_tail(abs(found.value - at) / found.error, found.freedom)


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


def equivalence(differences: Sequence[float] | Estimate, margin: float, confidence: float = 0.95) -> Equivalence:
    """Whether the mean difference is shown to lie within +-margin (Schuirmann's two one-sided tests).

    Args:
        differences: over seeds, or an estimate of their mean.
    """
    if margin <= 0:
        raise StatisticsError(f"an equivalence margin must be positive, got {margin}")
    found = differences if isinstance(differences, Estimate) else t_interval(differences, confidence)
    if found.error is None or found.freedom is None:
        return Equivalence(None, None, None, margin)
    alpha = 1 - confidence
    room = margin - abs(found.value)
    distance = math.copysign(math.inf, room) if found.error == 0 else room / found.error
    p = _t_tail(distance, found.freedom)
    return Equivalence(p < alpha, p, found.at(1 - 2 * alpha).interval, margin)


def solved(values: Sequence[float], accuracy: float, confidence: float = 0.95) -> Estimate:
    """Share of runs that solve a task, with the exact interval of Clopper and Pearson (1934), for what a run does or does not do.

    Its coverage is at least nominal at every n; between 0 of n and n of n no interval of means would be honest.

    Args:
        values: accuracy of each run.
        accuracy: from which on the task counts as solved.
    """
    from scipy.special import betaincinv

    hits = tuple(float(value >= accuracy) for value in _checked(values))
    n, k, tail = len(hits), int(sum(hits)), (1 - confidence) / 2
    low = 0.0 if k == 0 else float(betaincinv(k, n - k + 1, tail))
    high = 1.0 if k == n else float(betaincinv(k + 1, n - k, 1 - tail))
    return Estimate(k / n, (low, high), n, hits, confidence)


def share_difference(a: Estimate, b: Estimate) -> Estimate:
    """Difference of two shares from the exact interval of each (Newcombe 1998, method 10, with Clopper-Pearson limits).

    The tasks are learned from scratch, so runs of one seed are taken as independent.
    """
    (low_a, high_a), (low_b, high_b) = (one.interval or (0.0, 1.0) for one in (a, b))
    value = a.value - b.value
    ends = value - math.hypot(a.value - low_a, high_b - b.value), value + math.hypot(high_a - a.value, b.value - low_b)
    each = tuple(x - y for x, y in zip(a.per_seed, b.per_seed, strict=False))
    return Estimate(value, ends, min(a.n, b.n), each, a.confidence)


def seeds_needed(sd: float, effect: float, confidence: float = 0.95, power: float = 0.8, most: int = 1000) -> int | None:
    """Seeds for a two-sided t test of a mean over seeds to find ``effect`` with this power, by the noncentral t distribution.

    Args:
        sd: over seeds, of one seed's value (a paired difference where arms are compared).
        most: None is returned where more would be needed.
    """
    from scipy.special import nctdtr

    for n in range(2, most + 1):
        if sd == 0:
            return n if effect else None
        shift, critical = abs(effect) / sd * math.sqrt(n), _t_quantile(0.5 + confidence / 2, n - 1)
        if shift > 30 or 1 - nctdtr(n - 1, shift, critical) >= power:  # beyond 30 the other tail is nothing, and so is the error
            return n
    return None


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


def _t_quantile(probability: float, freedom: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, probability))


def _t_tail(t: float, freedom: float) -> float:
    from scipy.special import stdtr

    return float(stdtr(freedom, -t))
