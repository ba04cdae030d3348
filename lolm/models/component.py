"""The contract of a model's parts that are not sequence mixers.

Shape suffixes used in every file of this package: B batch, T time, D model width, F MLP width, R regime codes, E regime
width (in a mixture: experts), K experts of a token, N = B·T tokens, M memory banks, S slots per bank, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import nn

from lolm.mixers.base import reset_children
from lolm.mixers.site import Site


class Component(nn.Module, ABC):
    """A part whose size and cost are known in closed form; conventions as in :class:`lolm.mixers.base.Mixer`."""

    @property
    def sites(self) -> dict[str, Site]:
        """Places inside, by name, where what is written can be changed; none by default."""
        return {}

    def reset_parameters(self) -> None:
        """Initial values of everything below, drawn in the order of construction, before the recipe (:mod:`lolm.models.init`)."""
        reset_children(self)

    @abstractmethod
    def num_params(self) -> int:
        """Parameters by the closed formula."""

    def active_params(self) -> int:
        """Parameters that one token meets; fewer than all only in a mixture of experts."""
        return self.num_params()

    @abstractmethod
    def flops_per_token(self, length: int) -> float:
        """Forward FLOPs per token in a sequence of ``length`` tokens."""

    def state_size(self, length: int) -> int:
        """Elements of state that generation must carry for one sequence; 0 unless overridden."""
        return 0

    def float_state(self, length: int) -> int:
        """Of these the ones that stay float32 in half precision; 0 unless overridden."""
        return 0
