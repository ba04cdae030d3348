"""How much one arm needs to reach the loss of another: multipliers at matched loss, and gaps at matched cost.

A multiplier on an axis (steps, tokens, FLOPs, seconds) is *baseline's position / subject's position* where each first
reaches the same loss: 2 means that the subject needs half. The sound one is read from *end-of-schedule points*: losses where a
learning-rate schedule ended, at the run's own end and at those of its annealed copies (Hägele et al., arXiv 2405.18392). For
each of these budgets the level is the lowest loss that both arms of a pair reached by then, so the arm that is behind stands
on a measured point, and the other's cost is interpolated between two of its own (:func:`at_budgets`).

- A curve is replaced by its running minimum (the best loss so far), so that "first reaches" is defined on a noisy curve.
- Between two measurements the loss is taken as linear in ln(position); linear in position where the segment starts at 0.
  A power law is convex there, so a crossing comes out late, by at most a factor exp(alpha h^2 / 8) for points h apart in
  ln(cost) and an exponent alpha. The lead of whichever arm is ahead is understated: by 1.8 % at most for h = ln 2 and
  alpha = 0.3, less for flatter curves, and by nothing at a measured point.
- Nothing is extrapolated. A level outside the measured range gives a reason in place of a number.

The same from the learning curves inside a run (:func:`efficiency`) is kept as a second view and as published. There both
arms still anneal, so an arm that reaches the level inside its run does so at a higher rate than the other one at its end: such
multipliers understate the lead of whichever arm is ahead by much more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lolm import LolmError
from lolm.analysis.statistics import Estimate, geometric_interval, t_interval
from lolm.records import names
from lolm.records.results import RunRecord
from lolm.records.series import AXES as AXES

INTERPOLATION = 0.02  # multipliers that differ by less may differ by the interpolation alone


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
        to_subject: per seed, at the subject's best loss: what the baseline needs to get there. No value where it never does.
        common: geometric mean over seeds at the lowest loss that *both* arms of a pair reached. Always inside the measured
            range: above 1 when the subject is ahead, below 1 when it is behind. None if even that cannot be measured.
        reached: number of pairs in which the subject reaches the baseline's best loss.
    """

    axis: str
    to_subject: tuple[Multiplier, ...]
    common: Estimate | None
    reached: int
    reason: str | None


def efficiency(pairs: Iterable[tuple[Curve, Curve]], axis: str, confidence: float = 0.95) -> Efficiency:
    """Multipliers over seeds from (baseline, subject) curves of paired runs."""
    pairs = list(pairs)
    backward = tuple(multiplier(base, subject, subject.best, axis) for base, subject in pairs)
    common = [multiplier(base, subject, max(base.best, subject.best), axis) for base, subject in pairs]
    reached = sum(subject.best <= base.best for base, subject in pairs)
    failed = [m.reason for m in common if m.value is None]
    if failed or not common:
        return Efficiency(axis, backward, None, reached, failed[0] if failed else "no paired runs")
    values = [m.value for m in common if m.value is not None]
    return Efficiency(axis, backward, geometric_interval(values, confidence), reached, None)


@dataclass(frozen=True)
class Budget:
    """The multiplier of paired runs by one common end of schedule.

    Attributes:
        steps: optimiser steps of that schedule, the same in both arms.
        baseline: the baseline's mean position there on the multiplier's axis.
        estimate: geometric mean over seeds with its interval; None with a ``reason`` if a single pair cannot be measured, since
            leaving out the pairs with the largest lead would bias the mean.
    """

    steps: int
    baseline: float
    estimate: Estimate | None
    reason: str | None


@dataclass(frozen=True)
class Budgets:
    """Multipliers of paired runs at every end of schedule, by ascending budget.

    Attributes:
        split: where the losses were measured: test, or validation where no evaluation scored the ends of schedules.
        reached: number of pairs in which the subject reaches the baseline's loss at the largest budget.
        needed: geometric mean of the baseline's cost to the subject's final loss over what the subject spent, over the pairs in
            which the subject stays behind and that can be measured.
        change: multiplier at the largest budget over that at the smallest, of those measured; None with fewer than two.
    """

    axis: str
    split: str
    points: tuple[Budget, ...]
    reached: int
    needed: float | None
    change: Estimate | None

    @property
    def measured(self) -> tuple[Budget, ...]:
        return tuple(point for point in self.points if point.estimate is not None)

    @property
    def largest(self) -> Budget | None:
        """The largest budget with a multiplier."""
        return self.measured[-1] if self.measured else None

    @property
    def estimate(self) -> Estimate | None:
        """The multiplier at the largest measurable budget."""
        return None if self.largest is None else self.largest.estimate

    @property
    def reason(self) -> str | None:
        """Why there is no multiplier at any budget, or why not at the full one."""
        return self.points[-1].reason if self.points else "there are no common ends of schedule"

    @property
    def differ(self) -> bool | None:
        """Whether the multipliers at the largest and smallest budget differ by more than interpolation can; None if unknown."""
        if self.change is None or self.change.interval is None:
            return None
        low, high = self.change.interval
        return low > 1 + INTERPOLATION or high < 1 / (1 + INTERPOLATION)


Pairs = Sequence[tuple[RunRecord, RunRecord]]  # (subject, baseline) of one seed


def annealed_split(runs: Iterable[RunRecord]) -> str:
    """Split whose end-of-schedule losses all of the runs have: test where possible, else validation."""
    return "test" if all(run.annealed("test") for run in runs) else "validation"


def annealed_curves(pairs: Pairs, axis: str) -> tuple[list[int], list[tuple[Curve, Curve]], str]:
    """Ends of schedule that all runs have in common: (steps, (baseline, subject) curves per pair, split)."""
    runs = [run for pair in pairs for run in pair]
    split = annealed_split(runs)
    found = [run.annealed(split) for run in runs]
    if not runs or None in found:
        return [], [], split
    steps = sorted(set.intersection(*(set(points[0]) for points in found if points)))

    def curve(run: RunRecord) -> Curve:
        (own, losses), positions = run.annealed(split), run.annealed(split, axis)[0]  # type: ignore[misc,index]
        kept = [own.index(step) for step in steps]
        return Curve(tuple(positions[i] for i in kept), tuple(losses[i] for i in kept))

    return [int(s) for s in steps], [(curve(base), curve(subject)) for subject, base in pairs] if steps else [], split


def at_budgets(pairs: Pairs, axis: str, confidence: float = 0.95) -> Budgets:
    """The sound multiplier at every end of schedule that paired runs share; the top of this module defines it."""
    steps, curves, split = annealed_curves(pairs, axis)
    points = tuple(_budget(curves, axis, i + 1, step, confidence) for i, step in enumerate(steps))
    reached = sum(subject.best <= base.best for base, subject in curves)
    behind = [multiplier(base, subject, subject.best, axis).value for base, subject in curves if subject.best > base.best]
    shares = [value for value in behind if value is not None]  # below 1: the baseline's cost over the subject's
    needed = geometric_interval(shares).value if shares else None
    measured = [point.estimate for point in points if point.estimate is not None]
    change = None
    if len(measured) > 1:
        ratios = zip(measured[-1].per_seed, measured[0].per_seed, strict=True)
        change = geometric_interval([last / first for last, first in ratios], confidence)
    return Budgets(axis, split, points, reached, needed, change)


def _budget(curves: Sequence[tuple[Curve, Curve]], axis: str, count: int, steps: int, confidence: float) -> Budget:
    cut = [(base.until(count), subject.until(count)) for base, subject in curves]
    position = math.fsum(base.positions[-1] for base, _ in cut) / len(cut)
    found = [multiplier(base, subject, max(base.best, subject.best), axis) for base, subject in cut]
    failed = [m.reason for m in found if m.value is None]
    if failed:
        return Budget(steps, position, None, f"in {len(failed)} of {len(found)} pairs {failed[0]}")
    return Budget(steps, position, geometric_interval([m.value for m in found if m.value is not None], confidence), None)


@dataclass(frozen=True)
class Gap:
    """Loss of the subject minus the baseline's (nats) where both have spent the same; None with a ``reason``."""

    axis: str
    split: str
    difference: Estimate | None
    reason: str | None


def gap_at(pairs: Pairs, axis: str, confidence: float = 0.95) -> Gap:
    """Paired difference at the largest cost on an axis that both arms of a pair spent.

    The arm that spent more is interpolated between its end-of-schedule points, and refused outside them.
    """
    _, curves, split = annealed_curves(pairs, axis)
    if not curves:
        return Gap(axis, split, None, "there are no common ends of schedule")
    differences = []
    for base, subject in curves:
        budget = min(base.positions[-1], subject.positions[-1])
        theirs, ours = base.at(budget), subject.at(budget)
        if theirs is None or ours is None:
            who = "baseline" if theirs is None else "subject"
            return Gap(
                axis, split, None, f"at its first end of schedule the {who} had spent more than the other in its whole run"
            )
        differences.append(ours - theirs)
    return Gap(axis, split, t_interval(differences, confidence), None)


def heldout_curve(run: RunRecord, axis: str) -> Curve:
    """Held-out loss (``val/nats``) of a run on an axis."""
    positions, losses = run.points(names.VAL_NATS, axis)
    return Curve(tuple(positions), tuple(losses))


def training_curve(run: RunRecord, window: int, axis: str = "step") -> Curve:
    """Training loss as published: trailing mean over ``window`` steps, made of whole log windows (:func:`window_rows`)."""
    positions, losses = run.points(names.TRAIN_LOSS, axis)
    rows = window_rows(run, window)
    means = [math.fsum(losses[i - rows + 1 : i + 1]) / rows for i in range(rows - 1, len(losses))]
    return Curve(tuple(positions[rows - 1 :]), tuple(means))


def window_rows(run: RunRecord, window: int) -> int:
    """Log windows that make up the published window: at least one, at most a tenth of the run."""
    steps, _ = run.points(names.TRAIN_LOSS, "step")
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
