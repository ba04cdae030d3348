"""How the runs of a study are sent to a cluster."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Any

from lolm.config.ranges import Name, Positive, Size, SizeOrZero, WorkersOrZero
from lolm.config.strict import Pattern, Range, Scalar, refuse

ONE_LINE = r"[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]*"
Line = Annotated[str, Pattern(ONE_LINE, "one line of text")]
OURS = {  # options of sbatch that have a field of their own
    "partition": "partition",
    "account": "account",
    "time": "minutes",
    "cpus-per-task": "cpus",
    "gpus-per-node": "gpus",
    "mem": "memory_gb",
    "signal": "warning_seconds",
}
THE_LAUNCHERS = ("array", "chdir", "error", "job-name", "nodes", "ntasks", "ntasks-per-node", "open-mode", "output", "requeue")


@dataclass(frozen=True)
class ClusterConfig:
    """What one task of a job array gets under `make repro LAUNCHER=slurm`: one run, or one arm's sweep. No result rests on it.

    Attributes:
        minutes: after which a task is requeued, to go on from its last checkpoint.
        cpus: of each device that a run trains on; 0 = ``training.threads``, one where that is 0.
        gpus: of each device that a run trains on; 0 = none.
        memory_gb: of a task; None: the cluster's default.
        warning_seconds: before the end of the time at which the task is told to make room.
        requeues: at the end of the time, after which a task counts as failed; pre-emptions are not counted.
        poll_seconds: between two looks at the queue.
        setup: lines of shell on the node before the task, such as ``module load cuda``.
        options: of sbatch, without the dashes; ``true`` for one that takes no value.
    """

    partition: Line | None = None
    account: Line | None = None
    minutes: Size = 1440
    cpus: WorkersOrZero = 0
    gpus: WorkersOrZero = 0
    memory_gb: Positive | None = None
    warning_seconds: Annotated[int, Range(least=1, most=65_535)] = 90  # Slurm's own bound
    requeues: SizeOrZero = 100
    poll_seconds: Size = 10
    setup: tuple[Line, ...] = ()
    options: dict[Name, Annotated[Any, Scalar()]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        early = self.warning_seconds >= 60 * self.minutes
        rows = [(early, "warning_seconds", f"{self.warning_seconds} leave nothing of the task's {self.minutes} minutes")]
        for key, value in self.options.items():
            broken = isinstance(value, str) and not re.fullmatch(ONE_LINE, value)
            rows += [
                (key in OURS, f"options.{key}", f"is set by cluster.{OURS.get(key)}"),
                (key in THE_LAUNCHERS, f"options.{key}", "is the launcher's own"),
                (broken, f"options.{key}", f"{value!r} is not one line of text"),
            ]
        refuse(rows)
