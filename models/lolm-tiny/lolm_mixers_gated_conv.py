# lolm.mixers.gated_conv of this project, with its imports made flat.
"""A Mamba block without its recurrence: what remains is the gated short convolution, the control for what the SSM adds to it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .lolm_mixers_base import Resumable
from .lolm_mixers_base import check_counts
from .lolm_mixers_base import fills
from .lolm_mixers_base import keep_init
from .lolm_mixers_base import no_decay
from .lolm_ops_causal_conv import causal_conv
from .lolm_ops_causal_conv import causal_conv_step
from .lolm_ops_causal_conv import last_inputs


class GatedConv(Resumable):
    """in_proj → (x, gate); y = SiLU(conv(x)) · SiLU(gate); out_proj.

    :class:`lolm.mixers.mamba1.Mamba1` with the identity in the place of the selective scan, initialised as that one: K tokens are
    all it sees.

    Args:
        d_model: D.
        n_heads, dropout: not used; every mixer is given them.
        expand: inner width I over D.
        d_conv: K, width of the causal convolution.
        d_inner: I, in place of ``expand``: the dial by which parameter counts are matched.

    Raises:
        ConfigError: a width that is not a positive whole number.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int = 1,
        dropout: float = 0.0,
        expand: int = 2,
        d_conv: int = 4,
        d_inner: int | None = None,
    ) -> None:
        super().__init__()
        check_counts(expand=expand, d_conv=d_conv, d_inner=d_inner)
        self.d_model, self.d_conv = d_model, d_conv
        self.d_inner = expand * d_model if d_inner is None else d_inner
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=False)
        self.conv_weight = nn.Parameter(torch.empty(self.d_inner, d_conv))
        self.conv_bias = nn.Parameter(torch.empty(self.d_inner))
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=False)
        keep_init(self)
        no_decay(self, "conv_weight", "conv_bias")
        self.reset_parameters()

    @fills
    def reset_parameters(self) -> None:
        bound = self.d_conv**-0.5  # the framework's default for a depthwise Conv1d
        self.in_proj.reset_parameters()
        self.conv_weight.uniform_(-bound, bound)
        self.conv_bias.uniform_(-bound, bound)
        self.out_proj.reset_parameters()

    def _parallel(self, x_BTD: torch.Tensor, keep: bool):
        x_BTI, gate_BTI = self.in_proj(x_BTD).chunk(2, dim=-1)
        y_BTI = causal_conv(x_BTI, self.conv_weight, self.conv_bias, silu=True, backend=self.kernels)
        return self.out_proj(y_BTI * F.silu(gate_BTI)), last_inputs(x_BTI, self.d_conv) if keep else None

    def initial_state(self, batch: int) -> torch.Tensor:
        """The last K − 1 inputs of the convolution, (B, K − 1, I)."""
        return self.conv_weight.new_zeros(batch, self.d_conv - 1, self.d_inner)

    def step(self, x_BD: torch.Tensor, state: torch.Tensor):
        x_BI, gate_BI = self.in_proj(x_BD).chunk(2, dim=-1)
        y_BI, state = causal_conv_step(x_BI, state, self.conv_weight, self.conv_bias)
        return self.out_proj(F.silu(y_BI) * F.silu(gate_BI)), state

    def num_params(self) -> int:
        return 3 * self.d_model * self.d_inner + (self.d_conv + 1) * self.d_inner

    def flops_per_token(self, length: int) -> float:
        return 2 * 3 * self.d_model * self.d_inner + 2 * self.d_conv * self.d_inner + 2 * self.d_inner  # maps, convolution, gate

    def state_size(self, length: int) -> int:
        return self.d_inner * (self.d_conv - 1)
