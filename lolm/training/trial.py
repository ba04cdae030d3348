"""Short runs of which only the last measurement is wanted: trials of a sweep, synthetic tasks."""

from __future__ import annotations

from pathlib import Path

from lolm.config import RunConfig
from lolm.data.batches import Sampler
from lolm.records import read_series
from lolm.training.loop import Evaluate, Trainer
from lolm.training.scratch import remove


def run_trial(run: RunConfig, sampler: Sampler, evaluate: Evaluate, scratch: Path, device: str = "cpu") -> dict[str, float]:
    """Train a run with the one training loop, from its last checkpoint if it was killed, and leave nothing behind.

    Args:
        scratch: folder named by a fingerprint of everything the trial rests on.

    Returns:
        the last row of the records: what ``evaluate`` gave at the end, and ``seconds`` of training among the rest.

    Raises:
        TrainingError: loss or gradient is not finite, or another process trains this run.
    """
    Trainer(run, sampler, evaluate, device=device).train(scratch)
    last: dict[str, float] = {}
    for row in read_series(scratch / "metrics.jsonl"):
        if row["step"] == run.training.steps:
            last |= row
    remove(scratch)
    return last
