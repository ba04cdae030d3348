"""The configurations that a stage trains, resolved from the parameters."""

from __future__ import annotations

from lolm.accounting.resolve import resolve_run
from lolm.config import RunConfig
from lolm.records import RunKey, read
from lolm.records.schema import Sweep
from pipeline.stage import Stage


def run_of(stage: Stage, key: RunKey) -> RunConfig:
    """The configuration of a run with the learning rate that its arm's sweep chose.

    Raises:
        RecordError: the sweep has not been made.
    """
    return resolve_run(stage.params, stage.scale, *key, read(stage.layout.sweep(key.arm), Sweep).chosen)


def untuned(stage: Stage, arm: str) -> RunConfig:
    """The configuration of an arm with the learning rate that its size names; its seed stands for none."""
    return resolve_run(stage.params, stage.scale, arm, 0)
