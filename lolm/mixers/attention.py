"""Causal multi-head attention with grouped keys, sliding windows and rotary position embedding.

RoPE: Su et al. 2021, arXiv 2104.09864. Keys shared by groups of query heads (GQA, with one group MQA) and sliding windows:
:mod:`lolm.ops.attention`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from lolm.config import ConfigError
from lolm.mixers.base import Resumable, check_counts, fills, keep_init, no_decay
from lolm.mixers.cache import Cache
from lolm.ops.attention import causal_attention
from lolm.ops.backends import choose_backend
from lolm.ops.causal_conv import causal_conv, causal_conv_step, last_inputs


def rope_tables(length: int, width: int, base: float, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin of the rotation angles, each (T, R/2): angle = t · base^(-2i/R) for the pair i of R rotated dimensions."""
    frequency = base ** (-torch.arange(0, width, 2, device=device, dtype=torch.float32) / width)
    angle = torch.arange(length, device=device, dtype=torch.float32)[:, None] * frequency
    return angle.cos(), angle.sin()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate adjacent pairs (x_2i, x_2i+1) of the first R dimensions of (…, P); cos and sin broadcast over (…, R/2)."""
    width = 2 * cos.shape[-1]
    if width == 0:
        return x
    if width < x.shape[-1]:
        return torch.cat((rotate(x[..., :width], cos, sin), x[..., width:]), dim=-1)
    even, odd = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).to(x.dtype)


class ShortConv(nn.Module):
    """A causal depthwise convolution over time with a bias, initialised as the framework does: the one of Mamba's block."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.width, self.kernel = width, kernel
        self.weight = nn.Parameter(torch.empty(width, kernel))
        self.bias = nn.Parameter(torch.empty(width))
        keep_init(self)
        no_decay(self, "weight")
        self.reset_parameters()

    @fills
    def reset_parameters(self) -> None:
        bound = self.kernel**-0.5
        self.weight.uniform_(-bound, bound)
        self.bias.uniform_(-bound, bound)

    def forward(self, x_BTI: torch.Tensor, kernels: str) -> torch.Tensor:
        return causal_conv(x_BTI, self.weight, self.bias, backend=kernels)

    def initial_state(self, batch: int) -> torch.Tensor:
        return self.weight.new_zeros(batch, self.kernel - 1, self.width)

    def step(self, x_BI: torch.Tensor, state_BKI: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return causal_conv_step(x_BI, state_BKI, self.weight, self.bias)

    def num_params(self) -> int:
        return self.width * (self.kernel + 1)


class Attention(Resumable):
    """Bias-free projections, RoPE with adjacent dimensions paired, softmax(qkᵀ/√P) v (facts A2 with the defaults).

    Args:
        d_model: D.
        n_heads: H, query heads.
        dropout: acts on the attention probabilities only.
        kv_heads: K, heads of keys and values, each shared by H/K consecutive query heads; default H.
        head_width: P; default D/H.
        window: W, how many keys a query meets, itself included; default all.
        rope: share of each head's dimensions, the first ones, that is rotated; 0 for no positions.
        rope_base: longest wavelength over 2π.
        out_bias: whether the output map has a bias.
        output_map: False returns the heads side by side, (B, T, H·P), to a mixer that has an output map of its own.
        conv: K, width of a causal depthwise convolution of queries, keys and values before positions are given to them, the one
            that Mamba's block has (So et al. 2021, arXiv 2109.08668, with width 3); 0 for none.

    Raises:
        ConfigError: options that are not positive, do not divide, or rotate an odd number of dimensions.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        dropout: float = 0.0,
        kv_heads: int | None = None,
        head_width: int | None = None,
        window: int | None = None,
        rope: float = 1.0,
        rope_base: float = 10_000.0,
        out_bias: bool = False,
        output_map: bool = True,
        conv: int = 0,
    ) -> None:
        super().__init__()
        check_counts(n_heads=n_heads, kv_heads=kv_heads, head_width=head_width, window=window, conv=conv or None)
        if head_width is None and d_model % n_heads:
            raise ConfigError(f"d_model {d_model} is not a multiple of n_heads {n_heads}; change one, or set head_width")
        self.d_model, self.n_heads, self.dropout = d_model, n_heads, dropout
        self.kv_heads = n_heads if kv_heads is None else kv_heads
        self.head_width = d_model // n_heads if head_width is None else head_width
        self.window, self.rope_base = window, rope_base
        if n_heads % self.kv_heads:
            raise ConfigError(f"kv_heads {kv_heads} must divide n_heads {n_heads}")
        self.rotated = round(rope * self.head_width)
        if not 0 <= rope <= 1 or abs(self.rotated - rope * self.head_width) > 1e-6 or self.rotated % 2:
            raise ConfigError(
                f"rope {rope} of head width {self.head_width} must be an even number of dimensions (pairs are rotated)"
            )
        self.inner = n_heads * self.head_width
        self.output_map, self.out_bias = output_map, output_map and out_bias
        # One product instead of three: queries, keys, values in this order.
        self.qkv = nn.Linear(d_model, (n_heads + 2 * self.kv_heads) * self.head_width, bias=False)
        self.conv = ShortConv(self.qkv.out_features, conv) if conv else None
        self.out = nn.Linear(self.inner, d_model, bias=out_bias) if output_map else nn.Identity()
        self._tables: tuple[torch.Tensor, torch.Tensor] | None = None

    def _rope(self, length: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        if self._tables is None or self._tables[0].shape[0] < length or self._tables[0].device != device:
            with torch.inference_mode(False):  # a later backward pass may keep them
                self._tables = rope_tables(length, self.rotated, self.rope_base, device)
        return self._tables

    def _split(self, heads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """q (…, H, P), k and v (…, K, P) of (…, H + 2K, P)."""
        return heads.split([self.n_heads, self.kv_heads, self.kv_heads], dim=-2)  # type: ignore[return-value]

    def _parallel(self, x_BTD: torch.Tensor, keep: bool):
        length, dropout = x_BTD.shape[1], self.dropout if self.training else 0.0
        cos, sin = (table[:length] for table in self._rope(length, x_BTD.device))
        qkv = self.qkv(x_BTD)
        heads = (qkv if self.conv is None else self.conv(qkv, self.kernels)).unflatten(-1, (-1, self.head_width))
        state = None
        if keep:
            _, k, v = self._split(heads)
            past = torch.cat((rotate(k, cos[:, None], sin[:, None]), v), dim=2)
            state = Cache(past, self.window), None if self.conv is None else last_inputs(qkv, self.conv.kernel)
        if not dropout and heads.dtype == torch.float32 and choose_backend(heads.device.type, self.kernels) == "cpu":
            from lolm.ops.cpu.attention import CausalAttentionCPU

            y_BTHP = CausalAttentionCPU.apply(heads, self.kv_heads, cos, sin, self.window)
        else:
            q, k, v = self._split(heads)
            q, k = rotate(q, cos[:, None], sin[:, None]), rotate(k, cos[:, None], sin[:, None])
            # Positions enter by rotation of q and k alone, so a score knows only how far apart two tokens are.
            y_BTHP = causal_attention(q, k, v, self.window, dropout, self.kernels)
        return self.out(y_BTHP.flatten(2)), state

    def initial_state(self, batch: int):
        """Rotated keys, and values, of the last W tokens, (B, ≤ W, 2K, P), and the last inputs of the convolution,
        (B, its width − 1, (H + 2K)·P), None without one."""
        empty = self.qkv.weight.new_zeros(batch, 0, 2 * self.kv_heads, self.head_width)
        return Cache(empty, self.window), None if self.conv is None else self.conv.initial_state(batch)

    def step(self, x_BD: torch.Tensor, state):
        cache, window = state
        position, rotated = cache.length, self.n_heads + self.kv_heads
        cos, sin = (table[position] for table in self._rope(1 << (position + 1).bit_length(), x_BD.device))  # seldom made again
        qkv = self.qkv(x_BD)
        if self.conv is not None:
            qkv, window = self.conv.step(qkv, window)
        heads = qkv.unflatten(-1, (-1, self.head_width))  # (B, H + 2K, P)
        qk = rotate(heads[:, :rotated], cos, sin)
        cache.append(torch.cat((qk[:, self.n_heads :], heads[:, rotated:]), dim=1))
        k, v = cache.entries.transpose(1, 2).chunk(2, dim=1)  # (B, K, ≤ W, P)
        # The queries that share a key stand where others have time: no copy of the keys, and no order that a mask would need.
        y = F.scaled_dot_product_attention(qk[:, : self.n_heads].unflatten(1, (self.kv_heads, -1)), k, v)
        return self.out(y.flatten(1)), (cache, window)

    def num_params(self) -> int:
        d, h, k, p = self.d_model, self.n_heads, self.kv_heads, self.head_width
        conv = 0 if self.conv is None else self.conv.num_params()
        return d * (h + 2 * k) * p + conv + (h * p + self.out_bias) * d * self.output_map

    def flops_per_token(self, length: int) -> float:
        products = self.num_params() - self.d_model * self.out_bias - (0 if self.conv is None else self.conv.width)
        if self.window is None or length <= self.window:
            keys = (length + 1) / 2
        else:
            keys = self.window - self.window * (self.window - 1) / (2 * length)  # the first W - 1 queries meet fewer
        return 2 * products + 4 * self.inner * keys

    def state_size(self, length: int) -> int:
        kept = length if self.window is None else min(length, self.window)
        conv = 0 if self.conv is None else self.conv.width * (self.conv.kernel - 1)
        return 2 * self.kv_heads * self.head_width * kept + conv
