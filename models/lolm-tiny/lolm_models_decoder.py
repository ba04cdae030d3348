# lolm.models.decoder of this project, with its imports made flat.
"""The baselines: one stack and a head."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .lolm_config_architecture import ArchitectureConfig
from .lolm_config_sizes import SizeConfig
from .lolm_config_training import TrainingConfig
from .lolm_models_component import Component
from .lolm_models_language_model import LanguageModel
from .lolm_models_language_model import Streams


class OutputProjection(Component):
    """The D × D map W_h that the published baseline keeps between its final norm and the head (facts A10)."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.map = nn.Linear(d_model, d_model, bias=False)

    def forward(self, h_BTD: torch.Tensor) -> torch.Tensor:
        return self.map(h_BTD)

    def num_params(self) -> int:
        return self.map.in_features**2

    def flops_per_token(self, length: int) -> float:
        return 2 * self.num_params()


class Decoder(LanguageModel):
    """A plain stack of blocks: every baseline is a pattern of these."""

    def __init__(
        self, architecture: ArchitectureConfig, size: SizeConfig, vocab_size: int, training: TrainingConfig | None = None
    ) -> None:
        super().__init__(architecture, size, vocab_size, training)
        self.projection = OutputProjection(size.d_model) if architecture.output_projection else None

    def streams(self, tokens_BT: torch.Tensor, noise_BTR: torch.Tensor | None = None, skip_last: int = 0) -> Streams:
        h, routing = self.stack(self._embed(tokens_BT), skip_last)
        return Streams(h, routing=routing)

    def advance(self, tokens_BT: torch.Tensor, parts: dict[str, Any]) -> Streams:
        h, parts["stack"] = self.stack.advance(self._embed(tokens_BT), parts.get("stack"))
        return Streams(h)

    def fuse(self, streams: Streams) -> torch.Tensor:
        return streams.h if self.projection is None else self.projection(streams.h)

    def components(self) -> dict[str, Component]:
        parts: dict[str, Component] = {"stack": self.stack}
        if self.projection is not None:
            parts["projection"] = self.projection
        return parts
