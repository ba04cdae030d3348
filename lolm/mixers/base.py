"""The contract of a sequence mixer; :mod:`lolm.mixers.registry` lists them by name.

Shape suffixes used in every file of this package: B batch, T time, D model width, H heads, P head width, I inner width,
N states, K convolution kernel, R rank of the step-size projection, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import nn

from lolm.config import ConfigError
from lolm.mixers.site import Site

M = TypeVar("M", bound=nn.Module)


class Mixer(nn.Module, ABC):
    """Maps a sequence to a sequence of equal shape, causally; without its output map, to the inner width (option ``output_map``).

    Attributes:
        kernels: backend of the scan, the convolution and the attention (``training.kernels``).
    """

    kernels: str = "auto"

    @property
    def sites(self) -> dict[str, Site]:
        """Places inside the mixer, by name, where a branch's part of what it writes can be changed; none by default."""
        return {}

    def reset_parameters(self) -> None:
        """Initial values of everything below, drawn in the order of construction; the device's random state decides them."""
        reset_children(self)

    @abstractmethod
    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        """All positions at once."""

    @abstractmethod
    def initial_state(self, batch: int) -> Any:
        """State before the first token, for :meth:`step`."""

    def prefill(self, x_BTD: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """:meth:`forward`, and the state behind the last position: in one pass where a mixer knows how, else step by step."""
        state, ys = self.initial_state(len(x_BTD)), []
        for x_BD in x_BTD.unbind(1):
            y, state = self.step(x_BD, state)
            ys.append(y)
        return torch.stack(ys, dim=1), state

    @abstractmethod
    def step(self, x_BD: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        """One more token; feeding a sequence step by step equals :meth:`forward`. May write into ``state``."""

    def advance(self, x_BTD: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        """:meth:`prefill` where there is no state yet, None; else :meth:`step` of one more token, T = 1."""
        if state is None:
            return self.prefill(x_BTD)
        y_BD, state = self.step(x_BTD[:, 0], state)
        return y_BD[:, None], state

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

    def float_state(self, length: int) -> int:
        """Of these the ones that stay float32 in half precision, as a recurrence's do; 0 unless overridden."""
        return 0


class Resumable(Mixer):
    """A mixer that finds the state behind a sequence in the one pass over it."""

    @abstractmethod
    def _parallel(self, x_BTD: torch.Tensor, keep: bool) -> tuple[torch.Tensor, Any]:
        """All positions at once, and with ``keep`` the state behind the last one."""

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        return self._parallel(x_BTD, False)[0]

    def prefill(self, x_BTD: torch.Tensor) -> tuple[torch.Tensor, Any]:
        return self._parallel(x_BTD, True)


def check_counts(**options: int | None) -> None:
    """Refuse options that are given and are not whole numbers of at least 1.

    Raises:
        ConfigError: naming the option.
    """
    for name, value in options.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ConfigError(f"{name} must be a whole number of at least 1, got {value!r}")


def fills(reset: Callable[[M], None]) -> Callable[[M], None]:
    """A module's ``reset_parameters``: without gradients, and not where there is nowhere to put values, on the meta device.

    Arithmetic there loads ``torch._dynamo``, which takes seconds in every process that builds a model.
    """

    @wraps(reset)
    @torch.no_grad()
    def filled(module: M) -> None:
        if not any(parameter.is_meta for parameter in module.parameters()):
            reset(module)

    return filled


def reset_children(module: nn.Module) -> None:
    """``reset_parameters()`` of every module below, in the order of construction."""
    for child in module.children():
        reset = getattr(child, "reset_parameters", None)
        if callable(reset):
            reset()
        else:
            reset_children(child)


def keep_init(module: nn.Module, *names: str) -> None:
    """Mark parameters whose ``reset_parameters`` says their values for every recipe, so that the recipe leaves them alone.

    Marks are names kept by the module and not attributes of tensors: sharding, and filling a model that was built on the meta
    device, put other tensors in their place.

    Args:
        names: of the module's own parameters; by default all, and all of the modules below.
    """
    for part in [module] if names else module.modules():
        own = names or tuple(name for name, _ in part.named_parameters(recurse=False))
        part.kept_init = getattr(part, "kept_init", frozenset()) | frozenset(own)  # type: ignore[assignment]


def keeps_init(module: nn.Module, name: str) -> bool:
    """Whether :func:`keep_init` has marked a parameter of the module itself."""
    return name in getattr(module, "kept_init", ())


def no_decay(module: nn.Module, *names: str) -> None:
    """Mark parameters of the module itself that weight decay must not touch although they are matrices."""
    module.undecayed = getattr(module, "undecayed", frozenset()) | frozenset(names)  # type: ignore[assignment]


def decays(module: nn.Module, name: str) -> bool:
    """Whether weight decay is meant for a parameter of the module itself: matrices and embeddings that are not marked."""
    return module.get_parameter(name).ndim >= 2 and name not in getattr(module, "undecayed", ())
