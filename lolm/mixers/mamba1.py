"""Mamba-1 (Gu & Dao 2023, arXiv 2312.00752): the selective SSM block, SSM-M of facts A3."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from lolm.mixers.base import Resumable, check_counts, fills, keep_init, no_decay
from lolm.ops.causal_conv import causal_conv, causal_conv_step, last_inputs
from lolm.ops.rms_norm import RMSNorm
from lolm.ops.scan import last_state, selective_scan, selective_scan_step


def log_arange(channels: int, states: int) -> torch.Tensor:
    """A_log (I, N) with A_log[c, n] = ln(n + 1): the real S4D initialisation, A = -(1 … N)."""
    return torch.arange(1, states + 1, dtype=torch.float32).log().repeat(channels, 1)


def initial_step_bias(like: torch.Tensor, dt_min: float, dt_max: float) -> torch.Tensor:
    """b of the shape of ``like`` with step sizes softplus(b) log-uniform in [dt_min, dt_max]: 1/Δ is how many tokens a state with
    A = −1 remembers, so short and long memories are equally likely."""
    step = torch.empty_like(like).uniform_(math.log(dt_min), math.log(dt_max)).exp().clamp(min=1e-4)
    return step + torch.log(-torch.expm1(-step))  # inverse of softplus, which is log(expm1(·)) without its overflow


class Mamba1(Resumable):
    """in_proj → (x, gate); x: causal conv, SiLU, selective scan with skip; y · SiLU(gate); out_proj.

    Initialisation is upstream's: A = -(1 … N), skip 1, step sizes log-uniform in [0.001, 0.1]; the other maps keep the
    framework's default, as the stock block does. ``out_proj`` is *not* rescaled by depth here: the block is the stock one.

    Args:
        d_model: D.
        n_heads, dropout: not used; every mixer is given them.
        d_state: N.
        expand: inner width I over D.
        d_conv: K, width of the causal convolution.
        dt_rank: R; default ⌈D/16⌉.
        dt_min, dt_max: range of the step sizes at the start.
        d_inner: I, in place of ``expand``: the dial by which parameter counts are matched.
        inner_norms: RMSNorm (ε = 1e-6) on the low-rank step sizes, B and C, as in Jamba (arXiv 2403.19887, section 6.4).
        output_map: False returns y, (B, T, I), to a mixer that has an output map of its own.

    Raises:
        ConfigError: a width that is not a positive whole number.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int = 1,
        dropout: float = 0.0,
        d_state: int = 16,
        expand: int = 2,
        d_conv: int = 4,
        dt_rank: int | None = None,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        d_inner: int | None = None,
        inner_norms: bool = False,
        output_map: bool = True,
    ) -> None:
        super().__init__()
        check_counts(d_state=d_state, expand=expand, d_conv=d_conv, dt_rank=dt_rank, d_inner=d_inner)
        self.d_model, self.d_state, self.d_conv = d_model, d_state, d_conv
        self.d_inner = expand * d_model if d_inner is None else d_inner
        self.dt_rank = math.ceil(d_model / 16) if dt_rank is None else dt_rank
        self.inner_norms, self.output_map = inner_norms, output_map
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=False)
        self.conv_weight = nn.Parameter(torch.empty(self.d_inner, d_conv))
        self.conv_bias = nn.Parameter(torch.empty(self.d_inner))
        self.x_proj = nn.Linear(self.d_inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_norm, self.B_norm, self.C_norm = (
            RMSNorm(width, eps=1e-6) if inner_norms else nn.Identity() for width in (self.dt_rank, d_state, d_state)
        )
        self.dt_proj = nn.Linear(self.dt_rank, self.d_inner)
        self.A_log = nn.Parameter(torch.empty(self.d_inner, d_state))
        self.skip = nn.Parameter(torch.empty(self.d_inner))
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=False) if output_map else nn.Identity()
        self.dt_range = dt_min, dt_max
        keep_init(self)
        no_decay(self, "A_log", "skip", "conv_weight", "conv_bias")
        no_decay(self.dt_proj, "bias")
        self.reset_parameters()

    @fills
    def reset_parameters(self) -> None:
        bound = self.d_conv**-0.5  # the framework's default for a depthwise Conv1d
        self.in_proj.reset_parameters()
        self.conv_weight.uniform_(-bound, bound)
        self.conv_bias.uniform_(-bound, bound)
        for child in (self.x_proj, self.dt_norm, self.B_norm, self.C_norm, self.dt_proj, self.out_proj):
            if not isinstance(child, nn.Identity):
                child.reset_parameters()
        # States that forget at N different speeds, 1 … N times Δ: the model starts with memories of many lengths.
        self.A_log.copy_(log_arange(self.d_inner, self.d_state))
        self.skip.fill_(1.0)
        self.dt_proj.weight.uniform_(-(self.dt_rank**-0.5), self.dt_rank**-0.5)
        self.dt_proj.bias.copy_(initial_step_bias(self.dt_proj.bias, *self.dt_range))

    def _scan_inputs(self, x: torch.Tensor):
        """Step sizes before their bias and softplus (…, I), B (…, N), C (…, N) of convolved inputs."""
        # What makes the SSM selective: step size, input and output map are read off the token itself.
        low, B, C = self.x_proj(x).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        return F.linear(self.dt_norm(low), self.dt_proj.weight), self.B_norm(B), self.C_norm(C)

    def _parallel(self, x_BTD: torch.Tensor, keep: bool):
        inputs_BTI, gate_BTI = self.in_proj(x_BTD).chunk(2, dim=-1)
        x_BTI = causal_conv(inputs_BTI, self.conv_weight, self.conv_bias, silu=True, backend=self.kernels)
        delta_BTI, B_BTN, C_BTN = self._scan_inputs(x_BTI)
        A_IN = -self.A_log.float().exp()  # negative by construction, so no state can grow; float32, since it is in an exponent
        inputs = (x_BTI, delta_BTI, A_IN, B_BTN, C_BTN, self.skip, gate_BTI, self.dt_proj.bias)
        y_BTD = self.out_proj(selective_scan(*inputs, backend=self.kernels))
        if not keep:
            return y_BTD, None
        state_BIN = last_state(x_BTI, delta_BTI, A_IN, B_BTN, self.dt_proj.bias)
        return y_BTD, (state_BIN, last_inputs(inputs_BTI, self.d_conv))

    def initial_state(self, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        new_zeros = self.A_log.new_zeros
        return new_zeros(batch, self.d_inner, self.d_state), new_zeros(batch, self.d_conv - 1, self.d_inner)

    def step(self, x_BD: torch.Tensor, state):
        state_BIN, window_BKI = state
        x_BI, gate_BI = self.in_proj(x_BD).chunk(2, dim=-1)
        x_BI, window_BKI = causal_conv_step(x_BI, window_BKI, self.conv_weight, self.conv_bias)
        x_BI = F.silu(x_BI)
        delta_BI, B_BN, C_BN = self._scan_inputs(x_BI)
        A_IN = -self.A_log.float().exp()
        y_BI = selective_scan_step(x_BI, delta_BI, A_IN, B_BN, C_BN, self.skip, gate_BI, self.dt_proj.bias, state_BIN)
        return self.out_proj(y_BI), (state_BIN, window_BKI)

    def num_params(self) -> int:
        d, i, n, r, k = self.d_model, self.d_inner, self.d_state, self.dt_rank, self.d_conv
        norms = r + 2 * n if self.inner_norms else 0
        return 2 * d * i + (k + 1) * i + i * (r + 2 * n) + norms + r * i + i + i * n + i + i * d * self.output_map

    def flops_per_token(self, length: int) -> float:
        d, i, n, r, k = self.d_model, self.d_inner, self.d_state, self.dt_rank, self.d_conv
        products = 2 * (2 * d * i + i * (r + 2 * n) + r * i + i * d * self.output_map)
        scan = 9 * i * n + 2 * i + 2 * i  # Gu's 9·I·N for discretise, recur and read; skip; gate
        return products + 2 * k * i + scan

    def state_size(self, length: int) -> int:
        return self.d_inner * (self.d_state + self.d_conv - 1)

    def float_state(self, length: int) -> int:
        return self.d_inner * self.d_state
