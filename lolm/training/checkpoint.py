"""Checkpoints of unfinished runs, and weights as safetensors."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from lolm import LolmError
from lolm.config import RunConfig
from lolm.models.build import build_model
from lolm.models.language_model import LanguageModel
from lolm.objectives import FutureHeads, build_heads
from lolm.records import read
from lolm.records.schema import RunHeader
from lolm.training.scratch import BRANCHES

HEADS = "objective_heads."


class CheckpointError(LolmError):
    """A checkpoint or weight file that cannot be used."""


def snapshot_path(folder: Path, step: int) -> Path:
    """Weights inside a run."""
    return folder / "snapshots" / f"step-{step:06d}.safetensors"


def cooldown_path(folder: Path, step: int) -> Path:
    """Weights of a copy of the run that was annealed to a shorter end."""
    return folder / "cooldowns" / f"step-{step:06d}.safetensors"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint whole or not at all; the previous one stays until the rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with open(temporary, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, of a run or of where a cooldown leaves it; raises CheckpointError naming a missing or broken file."""
    folder = path.parent.parent if path.parent.name == BRANCHES else path.parent
    if not path.exists():
        raise CheckpointError(f"{path}: no such file; delete the folder {folder} to start the run again")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{path}: cannot be read as a whole checkpoint ({type(error).__name__}); delete the folder {folder} to start "
            "the run again"
        ) from None


def save_weights(path: Path, model: nn.Module, heads: FutureHeads | None) -> None:
    """Write a model, and its objective heads under their own prefix, as safetensors, whole or not at all."""
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    if heads is not None:
        tensors |= {HEADS + name: tensor.contiguous() for name, tensor in heads.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary)
    os.replace(temporary, path)


def load_weights(path: Path, model: nn.Module, heads: FutureHeads | None) -> None:
    """Fill a model, and heads when given, from a file of :func:`save_weights`.

    Raises:
        CheckpointError: the file is missing, broken, or does not fit the model.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: no such file; run `dvc repro` to train this run")
    try:
        tensors = load_file(path)
        model.load_state_dict({name: t for name, t in tensors.items() if not name.startswith(HEADS)})
        if heads is not None:
            heads.load_state_dict({name[len(HEADS) :]: t for name, t in tensors.items() if name.startswith(HEADS)})
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: does not fit the model of this run ({error}); run `dvc repro` to train it again"
        ) from None


@dataclass(frozen=True)
class TrainedRun:
    """A finished run as read back from its records and weights; ``at`` fills model and heads with the weights of a step.

    Attributes:
        weights: folder of its weights.
    """

    header: RunHeader
    weights: Path
    model: LanguageModel
    heads: FutureHeads | None

    @property
    def run(self) -> RunConfig:
        return self.header.run

    @property
    def steps(self) -> list[int]:
        """Steps whose weights were kept, the final one last."""
        return [*self.run.training.snapshot_steps, self.run.training.steps]

    @property
    def schedule_ends(self) -> list[int]:
        """Steps at which a schedule ended, ascending, the run's own end last."""
        return [*self.run.training.cooldown_steps, self.run.training.steps]

    def at(self, step: int) -> LanguageModel:
        """The model in evaluation mode with the weights of a kept step."""
        return self._filled(snapshot_path(self.weights, step), step)

    def at_end(self, step: int) -> LanguageModel:
        """The model in evaluation mode with the weights at the end of a schedule."""
        return self._filled(cooldown_path(self.weights, step), step)

    def _filled(self, path: Path, step: int) -> LanguageModel:
        final = step == self.run.training.steps
        load_weights(self.weights / "model.safetensors" if final else path, self.model, self.heads)
        return self.model.eval()


def load_run(records: str | Path, weights: str | Path) -> TrainedRun:
    """Open a run by the folders of its records and of its weights, and load its final weights.

    Raises:
        RecordError: ``config.json`` is missing or broken.
        CheckpointError: the weights are missing or do not fit.
    """
    header = read(Path(records) / "config.json", RunHeader)
    run = header.run
    heads = build_heads(run.architecture, run.size, run.training.kernels)
    trained = TrainedRun(header, Path(weights), build_model(run), heads)
    trained.at(run.training.steps)
    return trained
