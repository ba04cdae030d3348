"""The contract of a sequence mixer; :mod:`lolm.mixers.registry` lists them by name.

Shape suffixes used in every file of this package: B batch, T time, D model width, H heads, P head width, I inner width,
N states, K convolution kernel, R rank of the step-size projection, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import nn

from lolm.config import ConfigError


class Mixer(nn.Module, ABC):
    """Maps a sequence to a sequence of equal shape, causally; without its output map, to the inner width (option ``output_map``).

    Attributes:
        kernels: backend of the scan, the convolution and the attention (``training.kernels``).
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


def check_counts(**options: int | None) -> None:
    """Refuse options that are given and are not whole numbers of at least 1.

    Raises:
        ConfigError: naming the option.
    """
    for name, value in options.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ConfigError(f"{name} must be a whole number of at least 1, got {value!r}")


def keep_init(*parameters: torch.Tensor | None) -> None:
    """Mark parameters that were given their values on purpose, so that the model's initialiser leaves them alone."""
    for parameter in parameters:
        if parameter is not None:
            parameter.keep_init = True  # type: ignore[attr-defined]


def no_decay(*parameters: torch.Tensor) -> None:
    """Mark parameters that weight decay must not touch although they are matrices."""
    for parameter in parameters:
        parameter.no_decay = True  # type: ignore[attr-defined]
