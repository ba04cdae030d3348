"""The manifestation gate: how much of each dimension comes from the surface (facts A6), and simpler gates in its place.

A gate is called as gate(z, h, m, r) and answers with g of shape (B, T, D), a view where one value serves many places.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from lolm.config import ConfigError, GateConfig
from lolm.mixers.base import fills, keep_init, no_decay
from lolm.models.component import Component


class Gate(Component):
    """g = σ(W₂ GELU(W₁ [z; h; m; r]) + b₂), one value in (0, 1) per position, and per dimension unless ``scalar``."""

    def __init__(self, config: GateConfig, d_model: int, regime_width: int) -> None:
        super().__init__()
        self.d_model, self.regime_width = d_model, regime_width
        self.values = 1 if config.form == "scalar" else d_model
        self.hidden = nn.Linear(3 * d_model + regime_width, 2 * d_model, bias=False)
        self.out = nn.Linear(2 * d_model, self.values)
        self.bias = config.bias
        if self.bias:
            keep_init(self.out, "bias")
        self.reset_parameters()

    @fills
    def reset_parameters(self) -> None:
        super().reset_parameters()
        if self.bias:  # a bias of 0 is the recipe's: as published, that is the framework's random one
            self.out.bias.fill_(self.bias)

    def forward(self, z_BTD: torch.Tensor, h_BTD: torch.Tensor, m_BTD: torch.Tensor, r_BTE: torch.Tensor) -> torch.Tensor:
        # The gate reads streams before the branch norms, so it sees their lengths; what it weighs does not have them.
        g = torch.sigmoid(self.out(F.gelu(self.hidden(torch.cat((z_BTD, h_BTD, m_BTD, r_BTE), dim=-1)))))
        return g.expand_as(h_BTD)

    def num_params(self) -> int:
        d = self.d_model
        return 2 * d * (3 * d + self.regime_width) + 2 * d * self.values + self.values

    def flops_per_token(self, length: int) -> float:
        return 2 * (self.num_params() - self.values)


class StaticGate(Component):
    """g = σ(b), the same at every position: D values, or one. Over separate output maps it is a reparametrisation of them."""

    def __init__(self, config: GateConfig, d_model: int) -> None:
        super().__init__()
        self.values = 1 if config.form == "static_scalar" else d_model
        self.start = config.bias
        self.bias = nn.Parameter(torch.empty(self.values))
        keep_init(self, "bias")
        no_decay(self, "bias")
        self.reset_parameters()

    @fills
    def reset_parameters(self) -> None:
        self.bias.fill_(self.start)

    def forward(self, z_BTD: torch.Tensor, h_BTD: torch.Tensor, m_BTD: torch.Tensor, r_BTE: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.bias).expand_as(h_BTD)

    def num_params(self) -> int:
        return self.values

    def flops_per_token(self, length: int) -> float:
        return 0


class FixedGate(Component):
    """g = a constant; interventions can force it to another."""

    def __init__(self, config: GateConfig) -> None:
        super().__init__()
        if not 0 <= config.value <= 1:
            raise ConfigError(f"gate.value must be in [0, 1], got {config.value}")
        self.value = config.value

    def forward(self, z_BTD: torch.Tensor, h_BTD: torch.Tensor, m_BTD: torch.Tensor, r_BTE: torch.Tensor) -> torch.Tensor:
        return h_BTD.new_full((), self.value).expand_as(h_BTD)  # no copy from the host, which no recording may have

    def num_params(self) -> int:
        return 0

    def flops_per_token(self, length: int) -> float:
        return 0


def build_gate(config: GateConfig, d_model: int, regime_width: int) -> Component | None:
    """The gate of a form; None for the forms without one.

    Raises:
        ConfigError: a fixed value outside [0, 1].
    """
    if config.form in ("none", "concat"):
        return None
    if config.form == "fixed":
        return FixedGate(config)
    return StaticGate(config, d_model) if config.form.startswith("static") else Gate(config, d_model, regime_width)
