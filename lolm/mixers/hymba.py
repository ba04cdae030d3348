"""Attention heads and an SSM side by side in one layer, as in Hymba (Dong et al. 2024, arXiv 2411.13676)."""

from __future__ import annotations

import torch
from torch import nn

from lolm.config import ConfigError
from lolm.mixers.attention import Attention
from lolm.mixers.base import Mixer, check_counts
from lolm.mixers.mamba1 import Mamba1
from lolm.mixers.site import Site
from lolm.ops.rms_norm import RMSNorm

EPSILON = 1e-6


class Hymba(Mixer):
    """y = W_out ½ (RMSNorm_a(attention(x)) + RMSNorm_m(ssm(x))), both branches of the same inner width I.

    The weights of the two norms are the paper's learned β. The SSM is Mamba-1 with inner norms and a convolution of width 3;
    attention rotates whole heads. Left out of the published model: its meta tokens and the keys and values that neighbouring
    layers share, which are not parts of a mixer.

    Args:
        d_model: D.
        n_heads: H, attention heads of width I/H.
        dropout: acts on the attention probabilities only.
        kv_heads, window: as in :class:`lolm.mixers.attention.Attention`.
        d_state, expand, d_conv, dt_rank, d_inner: as in :class:`lolm.mixers.mamba1.Mamba1`; I is the width of both branches.

    Raises:
        ConfigError: I is not a multiple of H with an even quotient, or an option of a branch is refused.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        dropout: float = 0.0,
        kv_heads: int | None = None,
        window: int | None = None,
        d_state: int = 16,
        expand: int = 2,
        d_conv: int = 3,
        dt_rank: int | None = None,
        d_inner: int | None = None,
    ) -> None:
        super().__init__()
        check_counts(expand=expand, d_inner=d_inner)
        self.d_model = d_model
        self.d_inner = expand * d_model if d_inner is None else d_inner
        if self.d_inner % n_heads:
            raise ConfigError(f"the inner width {self.d_inner} must be a multiple of n_heads {n_heads}; change expand or d_inner")
        head_width = self.d_inner // n_heads
        self.attention = Attention(d_model, n_heads, dropout, kv_heads, head_width, window, output_map=False)
        self.ssm = Mamba1(
            d_model,
            d_state=d_state,
            d_conv=d_conv,
            dt_rank=dt_rank,
            d_inner=self.d_inner,
            inner_norms=True,
            output_map=False,
        )
        self.attention_norm = RMSNorm(self.d_inner, eps=EPSILON)
        self.ssm_norm = RMSNorm(self.d_inner, eps=EPSILON)
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=False)
        self.attention_site, self.ssm_site = Site("attention"), Site("mamba1")

    @property
    def sites(self) -> dict[str, Site]:
        """The normalised branches: the output map is linear, so each is a share of what the mixer writes."""
        return {"attention": self.attention_site, "ssm": self.ssm_site}

    def _fuse(self, attended: torch.Tensor, scanned: torch.Tensor) -> torch.Tensor:
        attended, scanned = self.attention_site(self.attention_norm(attended)), self.ssm_site(self.ssm_norm(scanned))
        return self.out_proj((attended + scanned) / 2)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        return self._fuse(self.attention(x_BTD), self.ssm(x_BTD))

    def prefill(self, x_BTD: torch.Tensor):
        attended, attention_state = self.attention.prefill(x_BTD)
        scanned, ssm_state = self.ssm.prefill(x_BTD)
        return self._fuse(attended, scanned), (attention_state, ssm_state)

    def initial_state(self, batch: int):
        """The states of the two branches."""
        return self.attention.initial_state(batch), self.ssm.initial_state(batch)

    def step(self, x_BD: torch.Tensor, state):
        attended, attention_state = self.attention.step(x_BD, state[0])
        scanned, ssm_state = self.ssm.step(x_BD, state[1])
        return self._fuse(attended[:, None], scanned[:, None])[:, 0], (attention_state, ssm_state)

    def num_params(self) -> int:
        branches = self.attention.num_params() + self.ssm.num_params()
        return branches + 2 * self.d_inner + self.d_inner * self.d_model

    def flops_per_token(self, length: int) -> float:
        branches = self.attention.flops_per_token(length) + self.ssm.flops_per_token(length)
        return branches + 2 * self.d_inner * self.d_model

    def state_size(self, length: int) -> int:
        return self.attention.state_size(length) + self.ssm.state_size(length)

    def float_state(self, length: int) -> int:
        return self.ssm.float_state(length)
