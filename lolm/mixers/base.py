"""The contract of a sequence mixer, and the registry by name.

Shape suffixes used in every file of this package: B batch, T time, D model width, H heads, P head width, I inner width,
N states, K convolution kernel, R rank of the step-size projection, V vocabulary.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import nn

from lolm.config import ConfigError, MixerConfig


class Mixer(nn.Module, ABC):
    """Maps a sequence to a sequence of equal shape, causally.

    Attributes:
        kernels: backend of the scan, for mixers that have one (``training.kernels``).
    """

    kernels: str = "auto"

    @abstractmethod
    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        """All positions at once."""

    @abstractmethod
    def initial_state(self, batch: int) -> Any:
        """State before the first token, for :meth:`step`."""

    @abstractmethod
    def step(self, x_BD: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        """One more token; feeding a sequence step by step equals :meth:`forward`."""

    @abstractmethod
    def num_params(self) -> int:
        """Parameters by the closed formula, not by counting tensors."""

    @abstractmethod
    def flops_per_token(self, length: int) -> float:
        """Forward FLOPs per token, averaged over a sequence of ``length`` tokens (a multiply-add is 2).

        Counted: matrix products, attention scores and values over the causal triangle, convolutions, scans.
        Not counted: norms, activations, softmax, embedding look-ups.
        """

    @abstractmethod
    def state_size(self, length: int) -> int:
        """Elements of the state of one sequence after ``length`` tokens."""


MIXERS: dict[str, type[Mixer]] = {}


def register(name: str):
    """Class decorator: make a mixer available to ``params.yaml`` under a name."""

    def add(cls: type[Mixer]) -> type[Mixer]:
        MIXERS[name] = cls
        return cls

    return add


def build_mixer(config: MixerConfig, d_model: int, n_heads: int, dropout: float) -> Mixer:
    """Construct a registered mixer.

    Raises:
        ConfigError: unknown name (names the nearest) or an option the mixer does not take.
    """
    from lolm.mixers import attention, mamba1, plain_ssm  # noqa: F401 - importing registers them

    if config.name not in MIXERS:
        near = difflib.get_close_matches(config.name, MIXERS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(MIXERS))}"
        raise ConfigError(f"no mixer {config.name!r}; {hint}")
    try:
        return MIXERS[config.name](d_model=d_model, n_heads=n_heads, dropout=dropout, **config.options)
    except TypeError as error:
        raise ConfigError(f"mixer {config.name!r}: {error}") from None


def keep_init(*parameters: torch.Tensor | None) -> None:
    """Mark parameters that were given their values on purpose, so that the model's initialiser leaves them alone."""
    for parameter in parameters:
        if parameter is not None:
            parameter.keep_init = True  # type: ignore[attr-defined]


def no_decay(*parameters: torch.Tensor) -> None:
    """Mark parameters that weight decay must not touch although they are matrices."""
    for parameter in parameters:
        parameter.no_decay = True  # type: ignore[attr-defined]
