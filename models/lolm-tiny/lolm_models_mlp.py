# lolm.models.mlp of this project, with its imports made flat.
"""The position-wise part of a block."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .lolm_models_component import Component


class MLP(Component):
    """D → F → D with exact GELU, or gated: SwiGLU / GeGLU (Shazeer 2020, arXiv 2002.05202); bias-free unless ``bias``."""

    def __init__(self, kind: str, d_model: int, d_ff: int, dropout: float, bias: bool = False) -> None:
        super().__init__()
        self.kind, self.d_model, self.d_ff, self.dropout, self.bias = kind, d_model, d_ff, dropout, bias
        self.gated = kind in ("swiglu", "geglu")
        self.up = nn.Linear(d_model, (2 if self.gated else 1) * d_ff, bias=bias)
        self.down = nn.Linear(d_ff, d_model, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, D) in and out."""
        return F.dropout(self.down(self.act(self.up(x))), self.dropout, self.training)

    def act(self, x: torch.Tensor) -> torch.Tensor:
        """What stands between the two maps: (…, F) of (…, F), or of (…, 2F) where it is gated."""
        if not self.gated:
            return F.gelu(x)
        gate, x = x.chunk(2, dim=-1)
        return x * (F.silu(gate) if self.kind == "swiglu" else F.gelu(gate))

    @property
    def _matrices(self) -> int:
        return (3 if self.gated else 2) * self.d_model * self.d_ff

    def num_params(self) -> int:
        biases = (2 if self.gated else 1) * self.d_ff + self.d_model if self.bias else 0
        return self._matrices + biases

    def flops_per_token(self, length: int) -> float:
        return 2 * self._matrices
