"""What the stages that measure a trained run open: the run on its device, its splits, and the batches it was trained on."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import torch

from lolm.config import RunConfig, ScaleConfig, load_params, scale_of
from lolm.data.batches import BatchSampler, EvaluationSet
from lolm.data.stream import TokenStream
from lolm.evaluation.ngram import reference_losses
from lolm.training.checkpoint import TrainedRun, load_run
from pipeline.stage import Paths, training_device


@dataclass(frozen=True)
class Opened:
    """A trained run with its final weights, and where its inputs lie.

    Attributes:
        config: the preset of its scale as params.yaml has it now; ``run`` is what was trained.
    """

    paths: Paths
    config: ScaleConfig
    trained: TrainedRun

    @property
    def run(self) -> RunConfig:
        return self.trained.run

    @property
    def header(self) -> dict[str, object]:
        """What every record of a run begins with."""
        return {
            "arm": self.run.arm,
            "seed": self.run.seed,
            "name": self.run.name,
            "fingerprint": self.trained.header["fingerprint"],
        }

    def stream(self, split: str) -> TokenStream:
        """A split, its bytes compared with their checksums.

        Raises:
            DataError: a file that is missing or changed.
        """
        stream = TokenStream.open(self.paths.shards, split)
        stream.verify()
        return stream

    def held_out(self, split: str, tokens: int) -> EvaluationSet:
        """About ``tokens`` targets of a split, in windows of the training length."""
        return EvaluationSet(self.stream(split), tokens, self.run.training.seq_len)

    def training_batches(self, tokens: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """About ``tokens`` targets of the training split in the run's own batches, those that would have come next."""
        training = self.run.training
        train = self.stream("train")
        sampler = BatchSampler(train, training.batch_size, training.seq_len, self.run.seed)
        first, count = training.steps * training.accumulation, max(1, tokens // (training.batch_size * training.seq_len))
        return [sampler.batch(first + i) for i in range(count)]

    def references(self, sets: dict[str, EvaluationSet]) -> dict[str, dict[str, float]]:
        """:func:`reference_losses` of the text the run was trained on."""
        training = self.run.training
        train = TokenStream.open(self.paths.shards, "train")
        sampler = BatchSampler(train, training.batch_size, training.seq_len, self.run.seed)
        return reference_losses(sampler, training.steps * training.accumulation, sets)


def open_run(args: argparse.Namespace) -> Opened:
    """Open the run that ``--scale``, ``--arm`` and ``--seed`` name, with its own number of threads.

    Raises:
        ConfigError: no such scale.
        RecordError, CheckpointError: the run hasn't been trained, or its weights are broken.
    """
    paths = Paths(args.scale)
    config = scale_of(load_params(), args.scale)
    trained = load_run(paths.run(args.arm, args.seed))
    torch.set_num_threads(trained.run.training.threads or torch.get_num_threads())
    trained.model.to(training_device())
    return Opened(paths, config, trained)
