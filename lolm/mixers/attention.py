"""Causal multi-head attention with rotary position embedding (RoPE, Su et al. 2021, arXiv 2104.09864)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from lolm.mixers.base import Mixer


def rope_tables(length: int, head_width: int, base: float, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin of the rotation angles, each (T, P/2): angle = t · base^(-2i/P) for the pair i."""
    frequency = base ** (-torch.arange(0, head_width, 2, device=device, dtype=torch.float32) / head_width)
    angle = torch.arange(length, device=device, dtype=torch.float32)[:, None] * frequency
    return angle.cos(), angle.sin()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate adjacent pairs (x_2i, x_2i+1) of the last dimension; cos and sin broadcast over (…, P/2)."""
    pairs = x.float().unflatten(-1, (-1, 2))
    even, odd = pairs.unbind(-1)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).to(x.dtype)


class Attention(Mixer):
    """Bias-free projections, RoPE on queries and keys with adjacent dimensions paired, softmax(qkᵀ/√P) v (spec A2).

    Dropout acts on the attention probabilities only.
    """

    def __init__(self, d_model: int, n_heads: int, dropout: float = 0.0, rope_base: float = 10_000.0) -> None:
        super().__init__()
        self.d_model, self.n_heads, self.dropout, self.rope_base = d_model, n_heads, dropout, rope_base
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)  # one product instead of three; same default init
        self.out = nn.Linear(d_model, d_model, bias=False)
        self._tables: tuple[torch.Tensor, torch.Tensor] | None = None

    def _rope(self, length: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        if self._tables is None or self._tables[0].shape[0] < length or self._tables[0].device != device:
            self._tables = rope_tables(length, self.d_model // self.n_heads, self.rope_base, device)
        return self._tables

    def _heads(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.qkv(x).unflatten(-1, (3, self.n_heads, -1)).unbind(-3)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        length = x_BTD.shape[1]
        cos, sin = (table[:length, None] for table in self._rope(length, x_BTD.device))  # (T, 1, P/2)
        q, k, v = self._heads(x_BTD)  # (B, T, H, P)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, H, T, P)
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0, is_causal=True)
        return self.out(y.transpose(1, 2).flatten(2))

    def initial_state(self, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        empty = self.out.weight.new_zeros(batch, self.n_heads, 0, self.d_model // self.n_heads)
        return empty, empty

    def step(self, x_BD: torch.Tensor, state):
        keys, values = state  # (B, H, t, P)
        position = keys.shape[2]
        cos, sin = (table[position] for table in self._rope(position + 1, x_BD.device))
        q, k, v = self._heads(x_BD)  # (B, H, P)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        keys, values = torch.cat((keys, k[:, :, None]), dim=2), torch.cat((values, v[:, :, None]), dim=2)
        y = F.scaled_dot_product_attention(q[:, :, None], keys, values)[:, :, 0]
        return self.out(y.flatten(1)), (keys, values)

    def num_params(self) -> int:
        return 4 * self.d_model**2

    def flops_per_token(self, length: int) -> float:
        scores_and_values = 4 * self.d_model * (length + 1) / 2  # causal: (T + 1) / 2 keys on average
        return 2 * self.num_params() + scores_and_values

    def state_size(self, length: int) -> int:
        return 2 * self.d_model * length
