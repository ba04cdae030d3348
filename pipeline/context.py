"""What the stages that measure a trained run share: the run on its device, its splits, and the batches it was trained on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from lolm.config import RunConfig, ScaleConfig
from lolm.data.batches import BatchSampler, EvaluationSet
from lolm.data.stream import TokenStream
from lolm.evaluation.ngram import Bigram, reference_losses
from lolm.models.language_model import half_precision
from lolm.records import Layout, RunKey
from lolm.records.schema import References
from lolm.training.checkpoint import TrainedRun, load_run
from pipeline.stage import Stage, training_device


@dataclass(frozen=True)
class RunContext:
    """A trained run with its final weights, and where its inputs lie.

    Attributes:
        preset: of its scale as params.yaml has it now; ``run`` is what was trained.
        inputs: hash of what a record is made from, see :mod:`pipeline.identity`.
        streams: the splits that were opened, by name.
    """

    layout: Layout
    preset: ScaleConfig
    trained: TrainedRun
    inputs: str
    streams: dict[str, TokenStream] = field(default_factory=dict, compare=False, repr=False)

    @property
    def run(self) -> RunConfig:
        return self.trained.run

    @property
    def identity(self) -> dict[str, Any]:
        """What every record of a run begins with."""
        header = self.trained.header
        return {
            "arm": self.run.arm,
            "seed": self.run.seed,
            "name": self.run.name,
            "fingerprint": header.fingerprint,
            "inputs": self.inputs,
        }

    @property
    def series(self) -> Path:
        """The metric series of its training."""
        return self.layout.series(self.run.arm, self.run.seed)

    def stream(self, split: str) -> TokenStream:
        """A split, its bytes compared with their checksums when it is first asked for.

        Raises:
            DataError: a file that is missing or changed.
        """
        if split not in self.streams:
            stream = TokenStream.open(self.layout.shards, split)
            stream.verify()
            self.streams[split] = stream
        return self.streams[split]

    def held_out(self, split: str, tokens: int | Literal["all"]) -> EvaluationSet:
        """About ``tokens`` targets of a split, or all, in windows of the training length."""
        return EvaluationSet(self.stream(split), tokens, self.run.training.seq_len)

    def training_batches(self, tokens: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """About ``tokens`` targets of the training split in the run's own batches, those that would have come next."""
        training, sampler = self.run.training, self._sampler()
        first, count = training.steps * training.accumulation, max(1, tokens // (training.batch_size * training.seq_len))
        return [sampler.batch(first + i) for i in range(count)]

    def first_batches(self, count: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The first batches that the run was trained on."""
        return map(self._sampler().batch, range(count))

    def references(self, sets: dict[str, EvaluationSet]) -> dict[str, References]:
        """:func:`reference_losses` of the text the run was trained on."""
        training = self.run.training
        return reference_losses(self._sampler(), training.steps * training.accumulation, sets)

    def bigram(self) -> Bigram:
        """Of the text the run was trained on."""
        training, sampler = self.run.training, self._sampler()
        return Bigram(sampler.stream, sampler.seen_spans(training.steps * training.accumulation))

    def _sampler(self) -> BatchSampler:
        training = self.run.training
        return BatchSampler(self.stream("train"), training.batch_size, training.seq_len, self.run.seed)


def open_run(stage: Stage, key: RunKey, inputs: str) -> RunContext:
    """Open a run with its own number of threads, and for the rest of the process the precision it is measured in.

    Raises:
        RecordError, CheckpointError: the run hasn't been trained, was trained on other data than are there now, or its weights
            are broken.
        DataError: the shards are.
    """
    trained = load_run(stage.layout.train(*key), stage.layout.weights(*key))
    trained.check_data(stage.layout)
    torch.set_num_threads(trained.run.training.threads or torch.get_num_threads())
    device = training_device()
    trained.model.to(device)
    half_precision(device, trained.run.training.precision).__enter__()
    return RunContext(stage.layout, stage.preset, trained, inputs)
