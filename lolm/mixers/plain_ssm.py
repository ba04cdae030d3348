"""SSM-P of facts A3: the authors' plain selective SSM, without convolution and with a full step-size map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from lolm.mixers.base import Resumable, fills, keep_init, no_decay
from lolm.mixers.mamba1 import log_arange
from lolm.ops.scan import last_state, selective_scan, selective_scan_step


class PlainSSM(Resumable):
    """[u; s] = W_in x; Δ = softplus(W_Δ u + b_Δ); y = scan(u) · SiLU(s) + D ⊙ u; out = W_out y.

    The skip comes after the gate, so it is not gated (Mamba adds it before). b_Δ and W_Δ keep the framework's default, so Δ
    starts near softplus(0) = 0.69, far above Mamba's range.
    """

    def __init__(self, d_model: int, n_heads: int = 1, dropout: float = 0.0, d_state: int = 16, expand: int = 2) -> None:
        super().__init__()
        self.d_model, self.d_state, self.d_inner = d_model, d_state, expand * d_model
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=False)
        self.dt_proj = nn.Linear(self.d_inner, self.d_inner)
        self.B_proj = nn.Linear(self.d_inner, d_state, bias=False)
        self.C_proj = nn.Linear(self.d_inner, d_state, bias=False)
        self.A_log = nn.Parameter(torch.empty(self.d_inner, d_state))
        self.skip = nn.Parameter(torch.empty(self.d_inner))
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=False)
        keep_init(self)
        no_decay(self, "A_log", "skip")
        no_decay(self.dt_proj, "bias")
        self.reset_parameters()

    @fills
    def reset_parameters(self) -> None:
        super().reset_parameters()
        self.A_log.copy_(log_arange(self.d_inner, self.d_state))
        self.skip.fill_(1.0)

    def _parallel(self, x_BTD: torch.Tensor, keep: bool):
        u_BTI, gate_BTI = self.in_proj(x_BTD).chunk(2, dim=-1)
        A_IN = -self.A_log.float().exp()
        inputs = (u_BTI, F.linear(u_BTI, self.dt_proj.weight), A_IN, self.B_proj(u_BTI), self.C_proj(u_BTI))
        y_BTI = selective_scan(*inputs, gate_BTI=gate_BTI, delta_bias_I=self.dt_proj.bias, backend=self.kernels)
        state = last_state(*inputs[:4], self.dt_proj.bias) if keep else None
        return self.out_proj(y_BTI + self.skip * u_BTI), state

    def initial_state(self, batch: int) -> torch.Tensor:
        return self.A_log.new_zeros(batch, self.d_inner, self.d_state)

    def step(self, x_BD: torch.Tensor, state):
        u_BI, gate_BI = self.in_proj(x_BD).chunk(2, dim=-1)
        A_IN = -self.A_log.float().exp()
        inputs = (u_BI, F.linear(u_BI, self.dt_proj.weight), A_IN, self.B_proj(u_BI), self.C_proj(u_BI))
        y_BI = selective_scan_step(*inputs, None, gate_BI, self.dt_proj.bias, state)
        return self.out_proj(y_BI + self.skip * u_BI), state

    def num_params(self) -> int:
        d, i, n = self.d_model, self.d_inner, self.d_state
        return 2 * d * i + i * i + i + 3 * i * n + i + i * d

    def flops_per_token(self, length: int) -> float:
        d, i, n = self.d_model, self.d_inner, self.d_state
        products = 2 * (2 * d * i + i * i + 2 * i * n + i * d)
        return products + 9 * i * n + 2 * i + 2 * i  # scan as in Mamba-1; skip; gate

    def state_size(self, length: int) -> int:
        return self.d_inner * self.d_state

    def float_state(self, length: int) -> int:
        return self.d_inner * self.d_state
