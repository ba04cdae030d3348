"""Learning curves, where they cross a level, and the ratio of two crossings, as :mod:`lolm.analysis.efficiency` defines them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lolm import LolmError


class CurveError(LolmError):
    """Points that make no learning curve."""


@dataclass(frozen=True)
class Curve:
    """Losses in nats at strictly increasing positions on one axis."""

    positions: tuple[float, ...]
    losses: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.positions or len(self.positions) != len(self.losses):
            raise CurveError(
                f"a curve needs as many losses as positions, at least one; got {len(self.losses)}, {len(self.positions)}"
            )
        if any(b <= a for a, b in zip(self.positions, self.positions[1:], strict=False)):
            raise CurveError("positions of a curve must increase strictly")
        if not all(map(math.isfinite, (*self.positions, *self.losses))):
            raise CurveError("a curve has a value that is not finite")

    def envelope(self) -> Curve:
        """The running minimum."""
        best, losses = math.inf, []
        for loss in self.losses:
            best = min(best, loss)
            losses.append(best)
        return Curve(self.positions, tuple(losses))

    def until(self, count: int) -> Curve:
        """Its first ``count`` points."""
        return Curve(self.positions[:count], self.losses[:count])

    @property
    def best(self) -> float:
        """Lowest loss reached by the end of the curve."""
        return min(self.losses)

    def at(self, position: float) -> float | None:
        """Loss at a position, interpolated; None outside the measured range."""
        place = self.place(position)
        return None if place is None else float(between(np.array(self.losses), *place))

    def place(self, position: float) -> tuple[int, float] | None:
        """(i, share) of a position between the points i − 1 and i; share 1 at a point. None outside the measured range."""
        if not self.positions[0] <= position <= self.positions[-1]:
            return None
        i = next(i for i, right in enumerate(self.positions) if right >= position)
        return i, 1.0 if self.positions[i] == position else _share(self.positions[i - 1], self.positions[i], position)


@dataclass(frozen=True)
class Crossing:
    """Where a curve first reaches a level, or why that cannot be said."""

    position: float | None
    reason: str | None = None


@dataclass(frozen=True)
class Multiplier:
    """Baseline's position / subject's position at one loss; ``value`` is None with a ``reason``."""

    baseline: float | None
    subject: float | None
    value: float | None
    reason: str | None


def crossing(curve: Curve, level: float) -> Crossing:
    """First position at which the running minimum of a curve is at or below ``level`` (nats)."""
    steps = curve.envelope()
    for i, loss in enumerate(steps.losses):
        if loss > level:
            continue
        if i == 0:
            if loss == level and steps.positions[0] > 0:
                return Crossing(steps.positions[0])
            return Crossing(None, f"is at {loss:.4f} nats at its first measurement, already below {level:.4f}")
        left, right = steps.positions[i - 1], steps.positions[i]
        share = (steps.losses[i - 1] - level) / (steps.losses[i - 1] - loss)
        if left <= 0:
            return Crossing(left + share * (right - left))
        return Crossing(math.exp(math.log(left) + share * (math.log(right) - math.log(left))))
    return Crossing(None, f"never reaches {level:.4f} nats; its best is {curve.best:.4f}")


def multiplier(baseline: Curve, subject: Curve, level: float) -> Multiplier:
    """The multiplier at one loss level; refuses when either curve does not measure it."""
    a, b = crossing(baseline, level), crossing(subject, level)
    reasons = [f"{who} {c.reason}" for who, c in (("the baseline", a), ("the subject", b)) if c.position is None]
    if reasons:
        return Multiplier(a.position, b.position, None, "; ".join(reasons))
    return Multiplier(a.position, b.position, a.position / b.position, None)  # type: ignore[operator]


def between(losses: np.ndarray, i: int, share: float) -> np.ndarray:
    """Losses at a place of a curve, points along the first axis."""
    return losses[i] if share == 1 else losses[i - 1] + share * (losses[i] - losses[i - 1])


def _share(left: float, right: float, position: float) -> float:
    if left <= 0:
        return (position - left) / (right - left)
    return (math.log(position) - math.log(left)) / (math.log(right) - math.log(left))
