"""A run of a few steps on a stream in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from builders import ArrayStream, make_run

from lolm.config import RunConfig
from lolm.data.batches import BatchSampler, EvaluationSet
from lolm.evaluation.held_out import validation_metrics
from lolm.records import read_series
from lolm.records.schema import DataChecksums, Flops, Parameters, RunHeader, Summary
from lolm.training.loop import Trainer

STEPS = 12


class Killed(Exception):
    """Stands for a kill: nothing in the loop catches it."""


def short_run(arm: str = "lolm", **changes: Any) -> RunConfig:
    training = {
        "steps": STEPS, "seq_len": 24, "batch_size": 2, "warmup_steps": 2, "log_every": 3, "eval_every": 5, "checkpoint_every": 4,
        "snapshots": (0.5,), "schedule": "cosine", "cooldowns": (),
    } | changes.pop("training", {})  # fmt: skip
    size = {"n_layers": 1, "dropout": 0.1} | changes.pop("size", {})
    return make_run(arm, training=training, size=size, **changes)


def make_trainer(run: RunConfig, folder: Path, on_checkpoint: Callable[[Path], None] = lambda folder: None) -> Trainer:
    stream = ArrayStream()
    held_out = EvaluationSet(stream, 96, run.training.seq_len)
    sampler = BatchSampler(stream, run.training.batch_size, run.training.seq_len, run.seed)

    def evaluate(model) -> dict[str, float]:
        return validation_metrics(model, held_out, 4)

    return Trainer(run, sampler, evaluate, on_checkpoint)


def header_of(trainer: Trainer, flops_per_token: float = 1000.0) -> RunHeader:
    """A run's header with made-up costs and no data."""
    run, total = trainer.run, sum(p.numel() for p in trainer.model.parameters())
    return RunHeader(
        name=run.name, label=run.architecture.label, fingerprint="f" * 16, run=run, parameters=Parameters(total, total, {}),
        flops_per_token=Flops(flops_per_token / 3, flops_per_token, flops_per_token, {}), state_elements=0, state_bytes=0,
        device="cpu", kernels="cpu", data=DataChecksums("", ""), code="",
    )  # fmt: skip


def fit(trainer: Trainer, folder: Path) -> Summary:
    return trainer.fit(header_of(trainer), folder / "scratch", folder / "run", folder / "weights")


def train(run: RunConfig, folder: Path, stop_before: int | None = None) -> Summary:
    """Train to the end, or raise :class:`Killed` when the batch of step ``stop_before`` is asked for."""
    trainer = make_trainer(run, folder)
    if stop_before is not None:
        original = trainer.sampler.batch

        def batch(index: int):
            if index >= stop_before * run.training.accumulation:
                raise Killed
            return original(index)

        trainer.sampler.batch = batch
    return fit(trainer, folder)


def records(folder: Path) -> list[dict[str, float]]:
    """Rows of the finished run without what depends on the clock."""
    rows = read_series(folder / "run" / "metrics.jsonl.xz")
    return [{k: v for k, v in row.items() if k != "seconds" and not k.startswith(("speed/", "system/"))} for row in rows]


def files(folder: Path) -> dict[str, bytes]:
    """Weights of a finished run, byte for byte."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.glob("weights/**/*.safetensors"))}
