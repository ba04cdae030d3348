"""Small runs, models and token streams for the tests of models, training and evaluation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lolm.accounting.resolve import resolve_run
from lolm.config import ArchitectureConfig, Params, RunConfig, arms_of, load_params
from lolm.models.build import build_model
from lolm.models.language_model import LanguageModel

ROOT = Path(__file__).resolve().parents[1]
PARAMS = load_params(ROOT / "params.yaml")
VOCAB = 61
ARMS = arms_of(PARAMS, "smoke")
SIZES = [scale for scale in PARAMS.scales if not scale.endswith(("_local", "_gpu"))]  # those have the extended scale's


def make_run(
    arm: str = "lolm",
    scale: str = "smoke",
    seed: int = 1,
    vocab_size: int = VOCAB,
    training: dict[str, Any] | None = None,
    size: dict[str, Any] | None = None,
    **architecture: dict[str, Any] | Any,
) -> RunConfig:
    """An arm of ``params.yaml`` with changes; a mapping given for a section of the architecture changes its fields."""
    run = resolve_run(PARAMS, scale, arm, seed)
    return replace(
        run,
        vocab_size=vocab_size,
        architecture=change(run.architecture, **architecture),
        size=change(run.size, **(size or {})),
        training=replace(run.training, **({"eval_every": 4, "checkpoint_every": 4} | (training or {}))),
    )


def three_seeds_of_main() -> Params:
    """The study ``main`` at scale ``smoke``, with six runs."""
    three = {"main": replace(PARAMS.studies["main"], seeds=(1, 2, 3))}
    return replace(PARAMS, studies=PARAMS.studies | three).select("smoke", "main")


def change(config: Any, **changes: Any) -> Any:
    """``dataclasses.replace`` one level deeper: a mapping changes the fields of a nested dataclass."""
    return replace(
        config,
        **{
            name: replace(getattr(config, name), **value) if isinstance(value, dict) else value for name, value in changes.items()
        },
    )


def make_model(arm: str = "lolm", seed: int = 0, **changes: Any) -> LanguageModel:
    """The model of :func:`make_run` in evaluation mode."""
    torch.manual_seed(seed)
    return build_model(make_run(arm, **changes)).eval()


def architecture_of(arm: str, **changes: Any) -> ArchitectureConfig:
    return change(PARAMS.architectures[arm], **changes)


def random_tokens(batch: int, length: int, vocab_size: int = VOCAB, seed: int = 0) -> torch.Tensor:
    return torch.randint(vocab_size, (batch, length), generator=torch.Generator().manual_seed(seed))


class ArrayStream:
    """What batches need of a token stream, in memory: a noisy cycle, so that there is something to learn."""

    split = "train"

    def __init__(self, length: int = 4000, vocab_size: int = VOCAB, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        cycle = np.arange(length) % 17
        self.tokens = np.where(rng.random(length) < 0.2, rng.integers(vocab_size, size=length), cycle).astype(np.int64)
        self.vocab_size = vocab_size
        self.token_bytes = 1 + np.arange(vocab_size) % 4

    def __len__(self) -> int:
        return len(self.tokens)

    def window(self, start: int, length: int) -> np.ndarray:
        return self.tokens[start : start + length]
