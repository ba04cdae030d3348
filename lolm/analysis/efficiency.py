"""How much one arm needs to reach the loss of another: multipliers at matched loss.

A multiplier on an axis (steps, tokens, FLOPs, seconds) is *baseline's position / subject's position* where each first
reaches the same loss: 2 means that the subject needs half. Positions come from measured learning curves:

- a curve is replaced by its running minimum (the best loss so far), so that "first reaches" is defined on a noisy curve;
- between two measurements the loss is taken as linear in ln(position), the shape of learning curves; linear in position
  where the segment starts at 0;
- nothing is extrapolated. A level outside the measured range gives a reason in place of a number.

Both arms anneal their learning rate, so an arm that reaches the level inside its run does so at a higher rate than the
other one at its end. In-curve multipliers therefore understate the lead of whichever arm is ahead.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lolm import LolmError
from lolm.analysis.results import RunRecord
from lolm.analysis.statistics import Estimate, geometric_interval

AXES = ("step", "tokens", "flops", "seconds")


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

    @property
    def best(self) -> float:
        """Lowest loss reached by the end of the curve."""
        return min(self.losses)

    def at(self, position: float) -> float | None:
        """Loss at a position, interpolated; None outside the measured range."""
        if not self.positions[0] <= position <= self.positions[-1]:
            return None
        for i, right in enumerate(self.positions):
            if right == position:
                return self.losses[i]
            if right > position:
                left = self.positions[i - 1]
                share = _share(left, right, position)
                return self.losses[i - 1] + share * (self.losses[i] - self.losses[i - 1])
        return None


@dataclass(frozen=True)
class Crossing:
    """Where a curve first reaches a level, or why that cannot be said."""

    position: float | None
    reason: str | None = None


@dataclass(frozen=True)
class Multiplier:
    """Baseline's position / subject's position at one loss; ``value`` is None with a ``reason``."""

    axis: str
    level: float
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


def multiplier(baseline: Curve, subject: Curve, level: float, axis: str = "step") -> Multiplier:
    """The multiplier at one loss level; refuses when either curve does not measure it."""
    a, b = crossing(baseline, level), crossing(subject, level)
    reasons = [f"{who} {c.reason}" for who, c in (("the baseline", a), ("the subject", b)) if c.position is None]
    if reasons:
        return Multiplier(axis, level, a.position, b.position, None, "; ".join(reasons))
    return Multiplier(axis, level, a.position, b.position, a.position / b.position, None)  # type: ignore[operator]


@dataclass(frozen=True)
class Efficiency:
    """Multipliers of paired runs on one axis.

    Attributes:
        to_baseline: per seed, at the baseline's best loss: the claim as worded. No value where the subject never gets there.
        to_subject: per seed, at the subject's best loss: the reciprocal question.
        common: geometric mean over seeds at the lowest loss that *both* arms of a pair reached. Always inside the measured
            range: above 1 when the subject is ahead, below 1 when it is behind. None if even that cannot be measured.
        reached: number of pairs in which the subject reaches the baseline's best loss.
    """

    axis: str
    to_baseline: tuple[Multiplier, ...]
    to_subject: tuple[Multiplier, ...]
    common: Estimate | None
    reached: int
    reason: str | None


def efficiency(pairs: Iterable[tuple[Curve, Curve]], axis: str, confidence: float = 0.95) -> Efficiency:
    """Multipliers over seeds from (baseline, subject) curves of paired runs."""
    pairs = list(pairs)
    forward = tuple(multiplier(base, subject, base.best, axis) for base, subject in pairs)
    backward = tuple(multiplier(base, subject, subject.best, axis) for base, subject in pairs)
    common = [multiplier(base, subject, max(base.best, subject.best), axis) for base, subject in pairs]
    reached = sum(subject.best <= base.best for base, subject in pairs)
    failed = [m.reason for m in common if m.value is None]
    if failed or not common:
        return Efficiency(axis, forward, backward, None, reached, failed[0] if failed else "no paired runs")
    values = [m.value for m in common if m.value is not None]
    return Efficiency(axis, forward, backward, geometric_interval(values, confidence), reached, None)


def heldout_curve(run: RunRecord, axis: str) -> Curve:
    """Held-out loss (``val/nats``) of a run on an axis."""
    return Curve(*map(tuple, run.points("val/nats", axis)))  # type: ignore[arg-type]


def training_curve(run: RunRecord, window: int, axis: str = "step") -> Curve:
    """Training loss as published: trailing mean over ``window`` steps, made of whole log windows (:func:`window_rows`)."""
    positions, losses = run.points("train/loss", axis)
    rows = window_rows(run, window)
    means = [math.fsum(losses[i - rows + 1 : i + 1]) / rows for i in range(rows - 1, len(losses))]
    return Curve(tuple(positions[rows - 1 :]), tuple(means))


def window_rows(run: RunRecord, window: int) -> int:
    """Log windows that make up the published window: at least one, at most a tenth of the run."""
    steps, _ = run.points("train/loss", "step")
    if len(steps) < 2:
        return 1
    return max(1, min(round(window / (steps[1] - steps[0])), len(steps) // 10))


def final_training_loss(run: RunRecord, window: int, share: float = 1.0) -> float:
    """Mean training loss over the published window that ends at a share of the run (1: its end), nats."""
    curve = training_curve(run, window)
    last = curve.positions[-1] * share
    return curve.losses[max([i for i, p in enumerate(curve.positions) if p <= last] or [0])]


def along(baseline: Sequence[Curve], subject: Sequence[Curve], axis: str) -> list[dict[str, Any]]:
    """Multiplier of each pair at each loss that the baseline measures: how the lead changes during training.

    Returns rows of ``position`` (the baseline's), ``pair``, ``level`` and ``multiplier`` (or None).
    """
    rows: list[dict[str, Any]] = []
    for pair, (base, other) in enumerate(zip(baseline, subject, strict=True)):
        envelope = base.envelope()
        for i, (position, level) in enumerate(zip(envelope.positions, envelope.losses, strict=True)):
            if position <= 0 or (i and level == envelope.losses[i - 1]):
                continue
            found = multiplier(base, other, level, axis)
            rows.append({"pair": pair, "position": position, "level": level, "multiplier": found.value})
    return rows


def _share(left: float, right: float, position: float) -> float:
    if left <= 0:
        return (position - left) / (right - left)
    return (math.log(position) - math.log(left)) / (math.log(right) - math.log(left))
