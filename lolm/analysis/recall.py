"""Recall tasks of a run: one on which its training diverged has no accuracy, and was not solved."""

from __future__ import annotations

import math

from lolm.records.results import RunRecord


def attempt(run: RunRecord, task: str) -> float | None:
    """Accuracy as far as solving the task goes: 0 where training on it diverged, None where the arm was not trained on it."""
    return 0.0 if task in run.diverged_tasks else run.accuracy(task)


def mean_accuracy(run: RunRecord) -> float | None:
    """Over the tasks that the arm was trained on; None where there are none, or one diverged: the rest is another mean."""
    found = [] if run.recall is None else [task.accuracy for task in run.recall.tasks.values()]
    return None if not found or None in found else math.fsum(found) / len(found)  # type: ignore[arg-type]
