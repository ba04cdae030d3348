"""Mamba-2 (Dao & Gu 2024, arXiv 2405.21060): one scalar decay per head, so that the scan becomes matrix products."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from lolm.config import ConfigError
from lolm.mixers.base import Resumable, check_counts, fills, keep_init, no_decay
from lolm.mixers.mamba1 import initial_step_bias
from lolm.ops.causal_conv import causal_conv, causal_conv_step, last_inputs
from lolm.ops.rms_norm import rms_norm
from lolm.ops.ssd import last_ssd_state, ssd, ssd_step

EPSILON = 1e-5  # of the gated norm


class Mamba2(Resumable):
    """in_proj → (z, xBC, Δ); xBC: causal conv, SiLU; state space dual scan with skip; RMSNorm(y · SiLU(z)); out_proj.

    Initialisation is upstream's: A uniform in [1, 16], skip 1, step sizes log-uniform in [0.001, 0.1]; the maps keep the
    framework's default. ``out_proj`` is *not* rescaled by depth here: the block is the stock one.

    Args:
        d_model: D.
        n_heads, dropout: not used; every mixer is given them. The scan has I/P heads of its own.
        d_state: N.
        expand: inner width I over D.
        d_inner: I, in place of ``expand``.
        head_width: P.
        groups: G, sets of B and C; each is shared by I/(P·G) heads, and the gated norm is over I/G channels.
        d_conv: K, width of the causal convolution.
        chunk: steps that the scan treats as one matrix where it runs in chunks; speed only.
        dt_min, dt_max: range of the step sizes at the start.
        A_min, A_max: range of the decay rates at the start.

    Raises:
        ConfigError: a width that is not a positive whole number, or widths that do not divide.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int = 1,
        dropout: float = 0.0,
        d_state: int = 64,
        expand: int = 2,
        d_inner: int | None = None,
        head_width: int = 64,
        groups: int = 1,
        d_conv: int = 4,
        chunk: int = 64,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        A_min: float = 1.0,
        A_max: float = 16.0,
    ) -> None:
        super().__init__()
        check_counts(d_state=d_state, expand=expand, d_inner=d_inner, head_width=head_width, groups=groups)
        check_counts(d_conv=d_conv, chunk=chunk)
        self.d_model, self.d_state, self.d_conv, self.groups, self.chunk = d_model, d_state, d_conv, groups, chunk
        self.d_inner = expand * d_model if d_inner is None else d_inner
        self.heads, rest = divmod(self.d_inner, head_width)
        if rest:
            raise ConfigError(f"head_width {head_width} must divide the inner width {self.d_inner}; change it, expand or d_inner")
        if self.heads % groups:
            raise ConfigError(f"groups {groups} must divide the {self.heads} heads (inner width / head_width); change either")
        if not 0 < A_min <= A_max or not 0 < dt_min <= dt_max:
            raise ConfigError(f"A_min {A_min} to A_max {A_max} and dt_min {dt_min} to dt_max {dt_max} must be ranges above 0")
        self.conv_width = self.d_inner + 2 * groups * d_state
        self.in_proj = nn.Linear(d_model, self.d_inner + self.conv_width + self.heads, bias=False)
        self.conv_weight = nn.Parameter(torch.empty(self.conv_width, d_conv))
        self.conv_bias = nn.Parameter(torch.empty(self.conv_width))
        self.A_log = nn.Parameter(torch.empty(self.heads))
        self.skip = nn.Parameter(torch.empty(self.heads))
        self.dt_bias = nn.Parameter(torch.empty(self.heads))
        self.norm_weight = nn.Parameter(torch.empty(self.d_inner))
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=False)
        self.A_range, self.dt_range = (A_min, A_max), (dt_min, dt_max)
        keep_init(self)
        no_decay(self, "A_log", "skip", "dt_bias", "conv_weight", "conv_bias", "norm_weight")
        self.reset_parameters()

    @fills
    def reset_parameters(self) -> None:
        bound = self.d_conv**-0.5  # the framework's default for a depthwise Conv1d
        self.in_proj.reset_parameters()
        self.conv_weight.uniform_(-bound, bound)
        self.conv_bias.uniform_(-bound, bound)
        self.A_log.uniform_(*self.A_range).log_()
        self.skip.fill_(1.0)
        self.dt_bias.copy_(initial_step_bias(self.dt_bias, *self.dt_range))
        self.norm_weight.fill_(1.0)
        self.out_proj.reset_parameters()

    def _project(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Gate z (…, I), convolution's input xBC (…, I + 2GN), Δ (…, H) in float32 or better."""
        z, xBC, delta = self.in_proj(x).split([self.d_inner, self.conv_width, self.heads], dim=-1)
        return z, xBC, F.softplus(delta.to(torch.promote_types(self.dt_bias.dtype, torch.float32)) + self.dt_bias)

    def _rates(self) -> torch.Tensor:
        """A (H,), in float32 or better, since it is in an exponent."""
        return -self.A_log.to(torch.promote_types(self.A_log.dtype, torch.float32)).exp()

    def _scan_inputs(self, xBC: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """x (…, H, P), B (…, G, N), C (…, G, N) of convolved inputs."""
        shared = self.groups * self.d_state
        x, B, C = xBC.split([self.d_inner, shared, shared], dim=-1)
        return x.unflatten(-1, (self.heads, -1)), B.unflatten(-1, (self.groups, -1)), C.unflatten(-1, (self.groups, -1))

    def _gated_output(self, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """out_proj(RMSNorm(y · SiLU(z))), the mean square taken over each group of channels; y (…, H, P), z (…, I)."""
        return self.out_proj(rms_norm(y.flatten(-2), self.norm_weight, EPSILON, z, self.groups, self.kernels))

    def _parallel(self, x_BTD: torch.Tensor, keep: bool):
        z_BTI, xBC, delta_BTH = self._project(x_BTD)
        convolved = causal_conv(xBC, self.conv_weight, self.conv_bias, silu=True, backend=self.kernels)
        x_BTHP, B_BTGN, C_BTGN = self._scan_inputs(convolved.to(xBC.dtype))  # half under autocast, for the kernels
        A_H = self._rates()
        y_BTHP = ssd(x_BTHP, delta_BTH, A_H, B_BTGN, C_BTGN, self.skip, self.chunk, self.kernels)
        state = None
        if keep:
            state = last_ssd_state(x_BTHP, delta_BTH, A_H, B_BTGN), last_inputs(xBC, self.d_conv)
        return self._gated_output(y_BTHP, z_BTI), state

    def initial_state(self, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """State (B, H, N, P) and the last K - 1 inputs of the convolution (B, K - 1, I + 2GN)."""
        new_zeros = self.A_log.new_zeros
        state_BHNP = new_zeros(batch, self.heads, self.d_state, self.d_inner // self.heads)
        return state_BHNP, new_zeros(batch, self.d_conv - 1, self.conv_width)

    def step(self, x_BD: torch.Tensor, state):
        state_BHNP, window = state
        z_BI, xBC, delta_BH = self._project(x_BD)
        xBC, window = causal_conv_step(xBC, window, self.conv_weight, self.conv_bias)
        x_BHP, B_BGN, C_BGN = self._scan_inputs(F.silu(xBC))
        y_BHP = ssd_step(x_BHP, delta_BH, self._rates(), B_BGN, C_BGN, self.skip, state_BHNP)
        return self._gated_output(y_BHP, z_BI), (state_BHNP, window)

    def num_params(self) -> int:
        d, i, c, h, k = self.d_model, self.d_inner, self.conv_width, self.heads, self.d_conv
        return d * (i + c + h) + (k + 1) * c + 3 * h + i + i * d

    def flops_per_token(self, length: int) -> float:
        """Forward FLOPs per token, the scan by its *recurrence* and not by the matrix products of the chunked form.

        The scan is 6·I·N: for each of I·N states decay·S (1), Δ·x·B (2), their sum (1), read by C (2). It does not depend on
        the length of a chunk; the hardware executes about 4·I·N + 2·Q·(I + G·N).
        """
        d, i, c, h, k = self.d_model, self.d_inner, self.conv_width, self.heads, self.d_conv
        products = 2 * (d * (i + c + h) + i * d)
        scan = 6 * i * self.d_state + 2 * i + 2 * i  # recurrence; skip; gate
        return products + 2 * k * c + scan

    def state_size(self, length: int) -> int:
        return self.d_inner * self.d_state + self.conv_width * (self.d_conv - 1)

    def float_state(self, length: int) -> int:
        return self.d_inner * self.d_state
