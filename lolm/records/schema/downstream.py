"""What a run scores on downstream tasks."""

from __future__ import annotations

from dataclasses import dataclass, field

from lolm.records.schema.training import Identity


@dataclass(frozen=True)
class TaskMetric:
    """A score by one of a task's metrics, named as in the harness: ``acc``, ``acc_norm`` (log-probability a character), …; where
    answers are filtered, with the filter's name, ``exact_match,strict-match``.

    Attributes:
        error: standard error over items, by the harness; None where it has none for the metric.
        chance: what guessing among the choices scores, the mean over items; None where the answer is free text.
        bigram: what a bigram of the text the run trained on scores; None where that was not asked.
    """

    value: float
    error: float | None
    chance: float | None
    bigram: float | None


@dataclass(frozen=True)
class TaskScores:
    """Scores on one task, or on a group of tasks as the harness sums it up, or else their mean; ``parts`` has the accuracy of
    each of a group where all have one."""

    items: int
    version: str
    metrics: dict[str, TaskMetric]
    parts: dict[str, float] = field(default_factory=dict)

    @property
    def main(self) -> str:
        """The metric that is usually quoted: accuracy normalised by length where the task has it, accuracy, else the first."""
        return next((name for name in ("acc_norm", "acc") if name in self.metrics), next(iter(self.metrics)))


@dataclass(frozen=True)
class Downstream(Identity):
    """``downstream/<arm>-<seed>.json``: scores by task; ``limit`` is the most items that were asked of each, None: all.

    ``max_length``: the most tokens the model was given to read. ``harness``: version of lm-evaluation-harness.
    """

    harness: str
    max_length: int
    limit: int | None
    tasks: dict[str, TaskScores]
