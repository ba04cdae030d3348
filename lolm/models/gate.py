"""The manifestation gate: how much of each dimension comes from the surface (spec A6)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from lolm.config import GateConfig
from lolm.mixers.base import keep_init
from lolm.models.component import Component


class Gate(Component):
    """g = σ(W₂ GELU(W₁ [z; h; m; r]) + b₂), one value in (0, 1) per position and dimension."""

    def __init__(self, config: GateConfig, d_model: int, regime_width: int) -> None:
        super().__init__()
        self.d_model, self.regime_width = d_model, regime_width
        self.hidden = nn.Linear(3 * d_model + regime_width, 2 * d_model, bias=False)
        self.out = nn.Linear(2 * d_model, d_model)
        if config.bias:
            nn.init.constant_(self.out.bias, config.bias)
            keep_init(self.out.bias)

    def forward(self, z_BTD: torch.Tensor, h_BTD: torch.Tensor, m_BTD: torch.Tensor, r_BTE: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.out(F.gelu(self.hidden(torch.cat((z_BTD, h_BTD, m_BTD, r_BTE), dim=-1)))))

    def num_params(self) -> int:
        d = self.d_model
        return 2 * d * (3 * d + self.regime_width) + 2 * d * d + d

    def flops_per_token(self, length: int) -> float:
        return 2 * (self.num_params() - self.d_model)
