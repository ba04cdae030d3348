"""An optimiser step as one launch: a CUDA graph, for models so small that launching kernels takes longer than running them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch

from lolm.config import ConfigError, RunConfig
from lolm.models.experts import Experts
from lolm.models.language_model import LanguageModel

T = TypeVar("T")
WARM_UP = 3  # steps before one is recorded: kernels are compiled, moments allocated


class Recorded(Generic[T]):
    """What ``step`` launches, recorded now and run at every call; its outputs keep their place in memory.

    Args:
        step: reads and writes tensors in place, and nothing of the host. It is recorded and not run.
        generators: what it draws from besides the default one; each draws from the seed that it has at a call.
    """

    def __init__(self, step: Callable[[], T], generators: Sequence[torch.Generator]) -> None:
        self.graph = torch.cuda.CUDAGraph()
        for generator in generators:
            self.graph.register_generator_state(generator)
        with torch.cuda.graph(self.graph):
            self.outputs = step()

    def __call__(self) -> T:
        self.graph.replay()
        return self.outputs


def refuse_recording(run: RunConfig, model: LanguageModel) -> None:
    """Refuse to record the steps of a run that a recording would not repeat.

    Raises:
        ConfigError: with what to change.
    """
    training, where = run.training, f"scales.{run.scale}.training"
    for wrong, text in (
        (training.accumulation > 1, f"{where}.accumulation is {training.accumulation}, and a recorded step has one micro-batch"),
        (training.processes > 1, f"{where}.devices is {training.devices}, and a recorded step is of one device"),
        (
            training.activation_checkpointing,
            f"{where}.activation_checkpointing sets the state of random numbers while it computes",
        ),
        (any(isinstance(m, Experts) for m in model.modules()), f"{run.arm} has mixtures of experts, whose shares differ by step"),
    ):
        if wrong:
            raise ConfigError(f"{where}.cuda_graph: {text}; change that, or leave cuda_graph at false")
