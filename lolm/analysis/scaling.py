"""Scaling fits: how an arm's held-out loss falls with training compute over several scales, and the multiplier between two fits.

The form is L(C) = E + A C^-alpha (Hestness et al., arXiv 1712.00409; Hoffmann et al., arXiv 2203.15556) where an arm has at least
five different budgets, a straight line in ln L against ln C (E = 0) where it has four, and no fit with fewer. Fitted as by
Hoffmann et al.: Huber loss of ln L residuals, several starting points. Exponents of so few points are loose and E hardly
separates from alpha; the interval says how loose. No fit is read outside the compute it was made from.

Intervals resample seeds and budgets with replacement; one seed gives none. A bootstrap over fewer than five seeds comes out too
narrow: a multiplier then gets the hull of it and of the paired t interval over seeds of the ln of that between a seed's own fits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lolm import LolmError
from lolm.analysis.statistics import geometric_interval
from lolm.records.results import ScaleResults

FEW = 5  # seeds below which a bootstrap comes out too narrow
MINIMUM, WITH_FLOOR = 4, 5  # budgets for a fit at all, and for one with an irreducible loss E
HUBER = 1e-3  # residual of ln L from which on the loss is linear, as by Hoffmann et al.
REPLICATES = 200


class ScalingError(LolmError):
    """Points that carry no scaling fit, or results that cannot be compared."""


@dataclass(frozen=True)
class ScalingPoint:
    """Test loss of one run (nats a token) at the end of its schedule, and the training FLOPs it took."""

    scale: str
    seed: int
    flops: float
    nats: float


@dataclass(frozen=True)
class ScalingLaw:
    """L(C) = E + A (C / unit)^-alpha, valid for C in [low, high]; ``unit`` keeps A in the order of a loss."""

    floor: float
    height: float
    exponent: float
    unit: float
    low: float
    high: float

    def loss(self, flops: float) -> float | None:
        """Loss in nats; None outside the measured range."""
        if not self.low <= flops <= self.high:
            return None
        return self.floor + self.height * (flops / self.unit) ** -self.exponent

    def flops(self, nats: float) -> float | None:
        """Compute that reaches a loss; None where that lies outside the measured range."""
        if nats <= self.floor or self.exponent <= 0:
            return None
        found = self.unit * (self.height / (nats - self.floor)) ** (1 / self.exponent)
        tolerance = 1e-9 * found  # a loss read at the very end of the range may come back a rounding error beside it
        return min(max(found, self.low), self.high) if self.low - tolerance <= found <= self.high + tolerance else None


@dataclass(frozen=True)
class ScalingFit:
    """The fit of one arm.

    Attributes:
        replicates: laws fitted to bootstrap draws, the same for all arms whose points are of the same scales and seeds; empty
            with one seed.
        by_seed: laws fitted to the points of single seeds; empty where a seed lacks a scale or there is only one.
    """

    arm: str
    points: tuple[ScalingPoint, ...]
    law: ScalingLaw
    replicates: tuple[ScalingLaw, ...]
    by_seed: tuple[ScalingLaw, ...]
    confidence: float

    @property
    def runs(self) -> set[tuple[str, int]]:
        """(scale, seed) of every point."""
        return {(p.scale, p.seed) for p in self.points}

    @property
    def form(self) -> str:
        return "E + A C^-alpha" if len({p.flops for p in _means(self.points)}) >= WITH_FLOOR else "A C^-alpha"

    def interval(self, name: str) -> tuple[float, float] | None:
        """Percentile interval of ``floor``, ``height`` or ``exponent``; None with one seed."""
        return _percentiles([getattr(law, name) for law in self.replicates], self.confidence)

    def band(self, flops: float) -> tuple[float, float] | None:
        """Percentile interval of the loss at a compute inside the range; None with one seed."""
        return _percentiles([_at(law, flops) for law in self.replicates], self.confidence)


def collect(results: Iterable[ScaleResults], arm: str) -> tuple[ScalingPoint, ...]:
    """(FLOPs, test loss) of every run of an arm at several scales, by scale and seed; runs without a test loss are left out.

    Raises:
        ScalingError: the scales differ in corpus or tokenizer, so that their losses do not compare.
    """
    results = list(results)
    texts = [(r.params.scales[r.scale].corpus, r.params.scales[r.scale].tokenizer) for r in results]
    for found, other in zip(results[1:], texts[1:], strict=True):
        if other != texts[0]:
            raise ScalingError(
                f"scales {results[0].scale!r} and {found.scale!r} differ in corpus or tokenizer: their losses do not compare"
            )
    return tuple(
        ScalingPoint(r.scale, run.seed, run.summary.flops, run.test_nats)
        for r in results
        if arm in r.arms
        for run in r.of(arm)
        if run.test_nats is not None
    )


def fit_scaling(
    arm: str, points: Sequence[ScalingPoint], confidence: float = 0.95, replicates: int = REPLICATES, seed: int = 0
) -> ScalingFit:
    """Fit an arm's points, one mean over seeds per budget, and its bootstrap replicates.

    Raises:
        ScalingError: fewer than four scales, two of them at the same compute, or a loss that is not positive and finite.
    """
    means = _means(points)
    if len(means) < MINIMUM:
        names = ", ".join(p.scale for p in means) or "none"
        raise ScalingError(f"arm {arm!r} has results at {len(means)} scales ({names}); a scaling fit needs at least {MINIMUM}")
    if len({p.flops for p in means}) < len(means):
        raise ScalingError(f"arm {arm!r}: two scales have the same training FLOPs, so their losses say nothing of scaling")
    if any(not (math.isfinite(p.nats) and p.nats > 0 and p.flops > 0) for p in means):
        raise ScalingError(f"arm {arm!r}: losses and FLOPs must be positive and finite")
    with_floor = len(means) >= WITH_FLOOR
    law = _fit(means, with_floor)
    seeds = sorted({p.seed for p in points})
    if len(seeds) < 2:
        return ScalingFit(arm, tuple(points), law, (), (), confidence)
    alone = [_means([p for p in points if p.seed == own]) for own in seeds]
    by_seed = tuple(_fit(own, with_floor, law) for own in alone) if all(len(own) == len(means) for own in alone) else ()
    return ScalingFit(arm, tuple(points), law, tuple(_bootstrap(points, law, replicates, seed)), by_seed, confidence)


def multiplier(baseline: ScalingLaw, subject: ScalingLaw, flops: float) -> float | None:
    """Compute of the baseline to the subject's loss at ``flops``, over ``flops``; None outside either measured range."""
    nats = subject.loss(flops)
    needed = None if nats is None else baseline.flops(nats)
    return None if needed is None else needed / flops


def multipliers(baseline: ScalingFit, subject: ScalingFit, count: int = 25) -> list[dict[str, Any]]:
    """The compute multiplier as a function of C between two fits.

    Returns:
        rows of ``flops``, ``multiplier``, ``low``, ``high`` on a logarithmic grid over the subject's range; ``multiplier`` is
        None where the baseline's fit does not measure the loss. The interval is None with one seed, where the two arms were not
        run at the same scales and seeds (nothing pairs their draws), and where more than a twentieth of the replicates, or one
        seed's own fits, leave the baseline's range by a factor two.
    """
    grid = np.geomspace(subject.law.low, subject.law.high, count)
    rows = []
    for flops in map(float, grid):
        value = multiplier(baseline.law, subject.law, min(max(flops, subject.law.low), subject.law.high))
        low, high = (None, None) if value is None else _interval(baseline, subject, flops) or (None, None)
        rows.append({"flops": flops, "multiplier": value, "low": low, "high": high})
    return rows


def _interval(baseline: ScalingFit, subject: ScalingFit, flops: float) -> tuple[float, float] | None:
    if baseline.runs != subject.runs:
        return None
    drawn = [_ratio(b, s, flops) for b, s in zip(baseline.replicates, subject.replicates, strict=True)]
    inside = [ratio for ratio in drawn if ratio is not None]
    ends = _percentiles(inside, subject.confidence) if len(inside) >= 0.95 * len(drawn) else None
    if ends is None or len({p.seed for p in subject.points}) >= FEW:
        return ends
    own = [_ratio(b, s, flops) for b, s in zip(baseline.by_seed, subject.by_seed, strict=True)]
    if not own or None in own:
        return None
    low, high = geometric_interval(own, subject.confidence).interval  # type: ignore[arg-type,misc]
    return min(low, ends[0]), max(high, ends[1])


def _means(points: Sequence[ScalingPoint]) -> list[ScalingPoint]:
    """One point per scale: the mean over its seeds."""
    scales = dict.fromkeys(p.scale for p in points)
    found = []
    for scale in scales:
        flops, nats = zip(*((p.flops, p.nats) for p in points if p.scale == scale), strict=True)
        found.append(ScalingPoint(scale, -1, math.fsum(flops) / len(flops), math.fsum(nats) / len(nats)))
    return found


def _fit(means: Sequence[ScalingPoint], with_floor: bool, start: ScalingLaw | None = None) -> ScalingLaw:
    """Least Huber loss of ln L residuals over several starts, or from the one given."""
    from scipy.optimize import least_squares

    flops, nats = np.array([p.flops for p in means]), np.array([p.nats for p in means])
    unit = start.unit if start else float(np.exp(np.log(flops).mean()))
    x, y = np.log(flops / unit), np.log(nats)
    if not with_floor:
        found = least_squares(lambda p: p[0] - p[1] * x - y, (y.mean(), 0.1), loss="huber", f_scale=HUBER)
        return ScalingLaw(0.0, math.exp(found.x[0]), float(found.x[1]), unit, flops.min(), flops.max())
    lowest = math.log(nats.min())

    def residuals(p: np.ndarray) -> np.ndarray:
        log_floor, log_height, exponent = p
        return np.logaddexp(log_floor, log_height - exponent * x) - y

    if start is None:
        starts = [(lowest + math.log(share), exponent) for share in (0.05, 0.4, 0.7, 0.95) for exponent in (0.05, 0.2, 0.6)]
    else:
        starts = [(min(math.log(max(start.floor, 1e-6)), lowest - 1e-3), start.exponent)]
    best = None
    for log_floor, exponent in starts:
        height = math.log(max(float(np.mean(nats - math.exp(log_floor))), 1e-3))
        first = (log_floor, height, min(max(exponent, 1e-3), 4.9))
        found = least_squares(residuals, first, loss="huber", f_scale=HUBER, bounds=([-30, -30, 0], [lowest, 30, 5]))
        if best is None or found.cost < best.cost:
            best = found
    log_floor, log_height, exponent = map(float, best.x)  # type: ignore[union-attr]
    return ScalingLaw(math.exp(log_floor), math.exp(log_height), exponent, unit, float(flops.min()), float(flops.max()))


def _bootstrap(points: Sequence[ScalingPoint], law: ScalingLaw, replicates: int, seed: int) -> Iterable[ScalingLaw]:
    """Refit to resampled seeds and scales; a draw with too few different scales to fit is drawn again."""
    draw = np.random.default_rng(seed)
    seeds, scales = sorted({p.seed for p in points}), list(dict.fromkeys(p.scale for p in points))
    with_floor = len(scales) >= WITH_FLOOR
    table = {(p.scale, p.seed): p for p in points}
    for _ in range(replicates):
        while True:
            drawn_seeds = [seeds[i] for i in draw.integers(len(seeds), size=len(seeds))]
            drawn_scales = [scales[i] for i in draw.integers(len(scales), size=len(scales))]
            if len(set(drawn_scales)) >= (4 if with_floor else 2):
                break
        means = []
        for scale in drawn_scales:
            found = [table[scale, s] for s in drawn_seeds if (scale, s) in table] or [p for p in points if p.scale == scale]
            means.append(_means(found)[0])
        again = _fit(means, with_floor, law)
        yield ScalingLaw(again.floor, again.height, again.exponent, again.unit, law.low, law.high)


def _at(law: ScalingLaw, flops: float) -> float:
    return law.floor + law.height * (flops / law.unit) ** -law.exponent


def _ratio(baseline: ScalingLaw, subject: ScalingLaw, flops: float) -> float | None:
    """The multiplier of one replicate, which may leave the measured range by its own noise but not by more than a factor two."""
    nats = _at(subject, flops)
    if nats <= baseline.floor or baseline.exponent <= 0:
        return None
    found = baseline.unit * (baseline.height / (nats - baseline.floor)) ** (1 / baseline.exponent)
    return found / flops if baseline.low / 2 <= found <= 2 * baseline.high else None


def _percentiles(values: Sequence[float], confidence: float) -> tuple[float, float] | None:
    if not values:
        return None
    low, high = np.quantile(values, (0.5 - confidence / 2, 0.5 + confidence / 2))
    return float(low), float(high)
