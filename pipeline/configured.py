"""The configurations that a stage trains, resolved from the parameters."""

from __future__ import annotations

from lolm.accounting.resolve import resolve_run
from lolm.config import RunConfig, tuned_arm
from lolm.records import RunKey, read
from lolm.records.schema import Sweep
from pipeline.stage import Stage


def run_of(stage: Stage, key: RunKey) -> RunConfig:
    """The configuration of a run with the learning rate that its arm's sweep chose, or that of the arm whose rate it takes.

    Raises:
        RecordError: the sweep has not been made.
    """
    tuned = tuned_arm(stage.params, stage.scale, key.arm)
    return resolve_run(stage.params, stage.scale, *key, read(stage.layout.sweep(tuned), Sweep).chosen)


def untuned(stage: Stage, arm: str) -> RunConfig:
    """The configuration of an arm with the learning rate that its size names; its seed stands for none."""
    return resolve_run(stage.params, stage.scale, arm, 0)
