"""Readings inside a run, before its learning rate decays: what the authors read off running curves at 98 % of the peak rate.

A point inside the decay of one arm is no point of the other's schedule: an arm that reaches a loss in its decay is half annealed.
So curves end at the last reading at which the rate stood at its peak (constant under WSD; under a cosine, the first tenth).
"""

from __future__ import annotations

import math

from lolm.analysis.curves import Curve
from lolm.records import names
from lolm.records.files import RecordError
from lolm.records.results import RunRecord

PEAK = 0.98  # of the peak rate: what a cosine over 200,000 steps had left at step 20,000, where the authors read (facts D2)


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


def training_loss(run: RunRecord, window: int, until: float = math.inf) -> float:
    """Mean training loss over the last published window that ends by a step (default: the end), else over the first, nats."""
    curve = training_curve(run, window)
    return curve.losses[max([i for i, step in enumerate(curve.positions) if step <= until] or [0])]


def window_mean(run: RunRecord, metric: str, window: int, until: float = math.inf) -> float | None:
    """Mean of a logged metric over the last published window that ends by a step (default: the end), else the first that was
    logged; None where none was."""
    steps, logged = run.points(metric)
    found = [value for step, value in zip(steps, logged, strict=True) if step <= until] or logged[:1]
    last = found[-window_rows(run, window) :]
    return math.fsum(last) / len(last) if last else None


def constant_until(run: RunRecord) -> float:
    """Last step of the log at which the learning rate was at least PEAK of its highest.

    Raises:
        RecordError: the run logged no rate.
    """
    steps, rates = run.points(names.TRAIN_LEARNING_RATE)
    if not rates:
        raise RecordError(f"{run.key}: its series has no {names.TRAIN_LEARNING_RATE}; run `dvc repro`")
    least = PEAK * max(rates)
    return max(step for step, rate in zip(steps, rates, strict=True) if rate >= least)


def heldout_before_decay(run: RunRecord, axis: str = "step") -> Curve:
    """Validation loss at the constant rate; raises as :func:`constant_until`."""
    steps, end = heldout_curve(run, "step").positions, constant_until(run)
    return heldout_curve(run, axis).until(max(1, sum(step <= end for step in steps)))


def training_before_decay(run: RunRecord, window: int, axis: str = "step") -> Curve:
    """Training loss over the published window at the constant rate, as published; raises as :func:`constant_until`."""
    steps, end = training_curve(run, window).positions, constant_until(run)
    return training_curve(run, window, axis).until(max(1, sum(step <= end for step in steps)))
