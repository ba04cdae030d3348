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
  alpha = 0.3, less for flatter curves, and by nothing at a measured point. :func:`by_interpolant` says what others would give.
- Nothing is extrapolated. A level outside the measured range gives a reason in place of a number.

The same from the learning curves inside a run (:func:`efficiency`) is kept as a second view and as published. There both
arms still anneal, so an arm that reaches the level inside its run does so at a higher rate than the other one at its end: such
multipliers understate the lead of whichever arm is ahead by much more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise

import numpy as np

from lolm.analysis.curves import Curve, Multiplier, between, multiplier
from lolm.analysis.interpolants import INTERPOLANTS, log_crossings
from lolm.analysis.statistics import Estimate, geometric_interval, t_interval
from lolm.analysis.uncertainty import TextSample, estimate
from lolm.records.results import RunRecord, ScaleResults


@dataclass(frozen=True)
class Efficiency:
    """Multipliers of paired runs on one axis.

    Attributes:
        to_subject: per seed, at the subject's best loss: what the baseline needs to get there. No value where it never does.
        common: geometric mean over seeds at the lowest loss that *both* arms of a pair reached. Always inside the measured
            range: above 1 when the subject is ahead, below 1 when it is behind. None if even that cannot be measured.
        reached: number of pairs in which the subject reaches the baseline's best loss.
    """

    to_subject: tuple[Multiplier, ...]
    common: Estimate | None
    reached: int
    reason: str | None


def efficiency(pairs: Iterable[tuple[Curve, Curve]], confidence: float = 0.95) -> Efficiency:
    """Multipliers over seeds from (baseline, subject) curves of paired runs."""
    pairs = list(pairs)
    backward = tuple(multiplier(base, subject, subject.best) for base, subject in pairs)
    common = [multiplier(base, subject, max(base.best, subject.best)) for base, subject in pairs]
    reached = sum(subject.best <= base.best for base, subject in pairs)
    failed = [m.reason for m in common if m.value is None]
    if failed or not common:
        return Efficiency(backward, None, reached, failed[0] if failed else "no paired runs")
    values = [m.value for m in common if m.value is not None]
    return Efficiency(backward, geometric_interval(values, confidence), reached, None)


@dataclass(frozen=True)
class Budget:
    """The multiplier of paired runs by one common end of schedule.

    Attributes:
        steps: optimiser steps of that schedule, the same in both arms.
        baseline: the baseline's mean position there on the multiplier's axis; None of seconds that do not compare.
        estimate: geometric mean over seeds with its interval; None with a ``reason`` if a single pair cannot be measured, since
            leaving out the pairs with the largest lead would bias the mean.
    """

    steps: int
    baseline: float | None
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

    def differ(self, margin: float) -> bool | None:
        """Whether the multipliers at the largest and smallest budget differ by more than a share ``margin``, as interpolation
        alone can make them (``analysis.interpolation_margin``); None if unknown."""
        if self.change is None or self.change.interval is None:
            return None
        low, high = self.change.interval
        return low > 1 + margin or high < 1 / (1 + margin)


Pairs = Sequence[tuple[RunRecord, RunRecord]]  # (subject, baseline) of one seed


def annealed_split(runs: Iterable[RunRecord]) -> str:
    """Split whose end-of-schedule losses all of the runs have: test where possible, else validation."""
    return "test" if all(run.annealed("test") for run in runs) else "validation"


def annealed_curves(pairs: Pairs, axis: str) -> tuple[list[int], list[tuple[Curve, Curve]], str]:
    """Ends of schedule that all runs have in common: (steps, (baseline, subject) curves per pair, split).

    There is none in seconds where those of a run do not increase.
    """
    runs = [run for pair in pairs for run in pair]
    split = annealed_split(runs)
    found = [run.annealed(split) for run in runs]
    if not runs or None in found or (axis == "seconds" and not ordered(runs)):
        return [], [], split
    steps = sorted(set.intersection(*(set(points[0]) for points in found if points)))

    def curve(run: RunRecord) -> Curve:
        (own, losses), positions = run.annealed(split), run.annealed(split, axis)[0]  # type: ignore[misc,index]
        kept = [own.index(step) for step in steps]
        return Curve(tuple(positions[i] for i in kept), tuple(losses[i] for i in kept))

    return [int(s) for s in steps], [(curve(base), curve(subject)) for subject, base in pairs] if steps else [], split


@dataclass(frozen=True)
class _Values:
    """Some number of pairs of runs, by seed; of other arms against the same baseline; and in draws of text, (D, seeds)."""

    own: list[float]
    pool: dict[str, list[float]]
    draws: np.ndarray | None
    units: float

    def minus(self, other: _Values) -> _Values:
        draws = None if self.draws is None or other.draws is None else self.draws - other.draws
        pool = {arm: _minus(row, other.pool[arm]) for arm, row in self.pool.items() if arm in other.pool}
        return _Values(_minus(self.own, other.own), pool, draws, self.units)

    def estimate(self, confidence: float, among: ScaleResults | None) -> Estimate:
        if among is None:
            return t_interval(self.own, confidence)
        pool = list(self.pool.values())
        return estimate(self.own, pool, among.analysis, paired=True, draws_DS=self.draws, units=self.units)


def _minus(a: Sequence[float], b: Sequence[float]) -> list[float]:
    return [x - y for x, y in zip(a, b, strict=True)]


UNTIMED = "runs were made side by side, so their seconds do not compare"
UNORDERED = "a run took longer to an earlier end of schedule than to a later one, so its seconds are those of other work"


def timed(runs: Iterable[RunRecord]) -> bool:
    """Whether seconds of these runs compare: each was made alone. Whether on one machine, the records do not say."""
    return all(run.summary.alone for run in runs)


def ordered(runs: Sequence[RunRecord]) -> bool:
    """Whether later ends of schedule took more seconds: on a busy machine the copy that was annealed first may take longer."""
    seconds = (run.annealed(annealed_split(runs), "seconds") for run in runs)
    return all(a < b for ends in seconds if ends for a, b in pairwise(ends[0]))


def _untimed(pairs: Pairs) -> str | None:
    """Why seconds of these runs compare nothing, if they do not."""
    runs = [run for pair in pairs for run in pair]
    return UNTIMED if not timed(runs) else None if ordered(runs) else UNORDERED


def at_budgets(pairs: Pairs, axis: str, confidence: float = 0.95, among: ScaleResults | None = None) -> Budgets:
    """The sound multiplier at every end of schedule that paired runs share; the top of this module defines it.

    Args:
        among: the study they are of, whose settings hold for the interval (:mod:`lolm.analysis.uncertainty`) and whose other arms
            may lend it their variance. None: an interval over these seeds alone.
    """
    untimed = _untimed(pairs) if axis == "seconds" else None
    steps, curves, split = annealed_curves(pairs, "step" if untimed else axis)
    sample = None if among is None or split != "test" else TextSample.of([run for pair in pairs for run in pair], among.analysis)
    # (baseline, subject) of each pair in draws of text, (D, ends) each
    drawn = [] if sample is None else [(sample.ends(base, steps), sample.ends(subject, steps)) for subject, base in pairs]
    others = {} if untimed else {arm: _logs_at_ends(Paired.of(rivals), axis) for arm, rivals in _rivals(pairs, among).items()}
    points, logs = [], []
    for count, step in enumerate(steps, 1):
        if untimed:
            points.append(Budget(step, None, None, untimed))
            continue
        cut = [(base.until(count), subject.until(count)) for base, subject in curves]
        position = math.fsum(base.positions[-1] for base, _ in cut) / len(cut)
        own, failed = _logs(cut)
        if failed:
            points.append(Budget(step, position, None, f"in {len(failed)} of {len(cut)} pairs {failed[0]}"))
            continue
        pool = {arm: theirs[step] for arm, (theirs, its_split) in others.items() if step in theirs and its_split == split}
        draws = None
        if sample is not None:
            draws = np.stack([_drawn_log(*pair, *both) for pair, both in zip(cut, drawn, strict=True)], axis=1)
        logs.append(_Values(own, pool, draws, sample.units if sample else 0))
        points.append(Budget(step, position, logs[-1].estimate(confidence, among).map(math.exp), None))
    reached = sum(subject.best <= base.best for base, subject in curves)
    after = () if untimed else [pair for pair in curves if pair[1].best > pair[0].best]
    behind = [multiplier(base, subject, subject.best).value for base, subject in after]
    shares = [value for value in behind if value is not None]  # below 1: the baseline's cost over the subject's
    needed = geometric_interval(shares).value if shares else None
    change = logs[-1].minus(logs[0]).estimate(confidence, among).map(math.exp) if len(logs) > 1 else None
    return Budgets(split, tuple(points), reached, needed, change)


def _rivals(pairs: Pairs, among: ScaleResults | None) -> dict[str, Pairs]:
    """Pairs of the study's other arms with the same runs of the baseline, by arm."""
    if among is None or not pairs:
        return {}
    seeds, taken = {base.seed: base for _, base in pairs}, {pairs[0][0].arm, pairs[0][1].arm}
    others = [arm for arm in among.arms if arm not in taken]
    found = {arm: [(run, seeds[run.seed]) for run in among.of(arm) if run.seed in seeds] for arm in others}
    return {arm: rivals for arm, rivals in found.items() if len(rivals) == len(pairs)}


@dataclass(frozen=True)
class Paired:
    """Pairs of runs, known by which objects they are, so that what is asked again is kept: each arm's are asked for in the
    interval of every other arm, and the readings of a study by each of its claims.

    Attributes:
        pairs, results: held, so that no other object can have their ids.
    """

    ids: tuple[int, ...]
    pairs: Pairs = field(compare=False)
    results: ScaleResults | None = field(compare=False)

    @classmethod
    def of(cls, pairs: Pairs, results: ScaleResults | None = None) -> Paired:
        return cls((id(results), *(id(run) for pair in pairs for run in pair)), pairs, results)


@lru_cache(maxsize=4096)
def _logs_at_ends(paired: Paired, axis: str) -> tuple[dict[int, list[float]], str]:
    """ln of the multiplier of each pair by end of schedule, without ends at which one is missing; and the split."""
    steps, curves, split = annealed_curves(paired.pairs, axis)
    found = {}
    for count, step in enumerate(steps, 1):
        values, lacking = _logs([(base.until(count), subject.until(count)) for base, subject in curves])
        if not lacking:
            found[step] = values
    return found, split


def _logs(curves: Sequence[tuple[Curve, Curve]]) -> tuple[list[float], list[str]]:
    """ln of the multiplier of each pair of (baseline, subject) at the lowest loss that both reached; why it is missing."""
    found = [multiplier(base, subject, max(base.best, subject.best)) for base, subject in curves]
    return [math.log(m.value) for m in found if m.value is not None], [m.reason or "" for m in found if m.value is None]


def _drawn_log(base: Curve, subject: Curve, base_DE: np.ndarray, subject_DE: np.ndarray) -> np.ndarray:
    """The same of one pair in draws of text: (D,)."""
    count = len(base.positions)
    theirs, ours = base_DE[:, :count], subject_DE[:, :count]
    level = np.maximum(theirs.min(axis=1), ours.min(axis=1))
    return log_crossings(base.positions, theirs, level) - log_crossings(subject.positions, ours, level)


def by_interpolant(pairs: Pairs, axis: str, step: int, confidence: float = 0.95) -> dict[str, Estimate | None]:
    """The multiplier by the end of schedule ``step`` under each interpolant, over seeds alone; None where it gives none."""
    steps, curves, _ = annealed_curves(pairs, axis)
    count, made = steps.index(step) + 1, {}
    for name, crosses in INTERPOLANTS.items():
        values = []
        for base, subject in ((base.until(count), subject.until(count)) for base, subject in curves):
            level = max(base.best, subject.best)
            at = [crosses(one.positions, one.losses, level) for one in (base, subject)]
            values += [at[0] - at[1]] if None not in at else []  # type: ignore[operator]
        made[name] = t_interval(values, confidence).map(math.exp) if len(values) == len(curves) else None
    return made


@dataclass(frozen=True)
class Gap:
    """Loss of the subject minus the baseline's (nats) where both have spent the same; None with a ``reason``."""

    split: str
    difference: Estimate | None
    reason: str | None


def gap_at(pairs: Pairs, axis: str, confidence: float = 0.95, among: ScaleResults | None = None) -> Gap:
    """Paired difference at the largest cost on an axis that both arms of a pair spent; ``among`` as in :func:`at_budgets`.

    The arm that spent more is interpolated between its end-of-schedule points, and refused outside them.
    """
    steps, curves, split = annealed_curves(pairs, axis)
    if axis == "seconds" and (untimed := _untimed(pairs)):
        return Gap(split, None, untimed)
    if not curves:
        return Gap(split, None, "there are no common ends of schedule")
    own, missing = _gaps(curves)
    if missing:
        why = f"at its first end of schedule the {missing[0]} had spent more than the other in its whole run"
        return Gap(split, None, why)
    pool: dict[str, list[float]] = {}
    draws = None
    for arm, rivals in _rivals(pairs, among).items():
        _, theirs, its_split = annealed_curves(rivals, axis)
        values, lacking = _gaps(theirs)
        pool |= {arm: values} if theirs and not lacking and its_split == split else {}
    sample = None if among is None or split != "test" else TextSample.of([run for pair in pairs for run in pair], among.analysis)
    if sample is not None:
        drawn = []
        for (subject, base), (base_curve, curve) in zip(pairs, curves, strict=True):
            budget = min(base_curve.positions[-1], curve.positions[-1])
            ours, theirs_D = (
                between(sample.ends(run, steps).T, *place)
                for run, one in ((subject, curve), (base, base_curve))
                if (place := one.place(budget)) is not None
            )
            drawn.append(ours - theirs_D)
        draws = np.stack(drawn, axis=1)
    found = _Values(own, pool, draws, sample.units if sample else 0)
    return Gap(split, found.estimate(confidence, among), None)


def _gaps(curves: Sequence[tuple[Curve, Curve]]) -> tuple[list[float], list[str]]:
    """Subject minus baseline of each pair of (baseline, subject), nats; which of the two is not measured there."""
    found, missing = [], []
    for base, subject in curves:
        budget = min(base.positions[-1], subject.positions[-1])
        theirs, ours = base.at(budget), subject.at(budget)
        if theirs is None or ours is None:
            missing.append("baseline" if theirs is None else "subject")
        else:
            found.append(ours - theirs)
    return found, missing


def along(baseline: Curve, subject: Curve) -> list[tuple[float, float | None]]:
    """How the lead changes during training: (the baseline's position, multiplier) at each loss that the baseline measures."""
    envelope, found = baseline.envelope(), []
    for i, (position, level) in enumerate(zip(envelope.positions, envelope.losses, strict=True)):
        if position > 0 and not (i and level == envelope.losses[i - 1]):
            found.append((position, multiplier(baseline, subject, level).value))
    return found
