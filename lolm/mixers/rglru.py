"""The recurrent block of Griffin and Hawk with its RG-LRU (De et al. 2024, arXiv 2402.19427, sections 2.3 and 2.4)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from lolm.config import ConfigError
from lolm.mixers.base import Resumable, check_counts, fills, keep_init, no_decay
from lolm.ops.causal_conv import causal_conv, causal_conv_step, last_inputs
from lolm.ops.linear_scan import linear_scan

MAX_SQRT_GRADIENT = 1000.0
CONV_VARIANCE = 0.01  # of a convolution's initial weights, times its width


class BoundedSqrt(torch.autograd.Function):
    """√x whose derivative 1 / (2√x) is at most :data:`MAX_SQRT_GRADIENT`: it is infinite at a = 1, where x = 1 − a² is 0."""

    @staticmethod
    def forward(ctx, x):  # type: ignore[override]
        root = x.sqrt()
        ctx.save_for_backward(root)
        return root

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):  # type: ignore[override]
        (root,) = ctx.saved_tensors
        return gradient / (2 * root).clamp(min=1 / MAX_SQRT_GRADIENT)


class RGLRU(Resumable):
    """out = linear_out(h ⊙ GELU(linear_y x)), h the RG-LRU of u = conv(linear_x x) without an activation.

    RG-LRU: gates r, i = σ(block-diagonal map of u), a_t = exp(−c · r_t ⊙ softplus(Λ)),
    h_t = a_t ⊙ h_{t-1} + √(1 − a_t²) ⊙ (i_t ⊙ u_t), and h_0 = i_0 ⊙ u_0: a sequence starts a document, where a is 0.

    Initialisation is that of the released code (google-deepmind/recurrentgemma): a² at c · r = 1 uniform in
    [min_radius², max_radius²], so that the decay at full gate is that to the power of c, whereas the paper's text gives the
    decay at full gate itself this range; maps N(0, 1/fan_in), convolution N(0, 0.01/K), biases 0. The released models also
    divide the variance of ``linear_out`` by half the number of layers, which a mixer does not know.

    Args:
        d_model: D.
        n_heads: number of gate blocks unless ``blocks`` is given.
        dropout: not used; every mixer is given it.
        width: W, channels of the recurrence; default D.
        blocks: diagonal blocks of each gate's map.
        d_conv: K, width of the causal convolution.
        min_radius, max_radius: range of a at the start, as above.
        c: how fast a full gate forgets.

    Raises:
        ConfigError: a width that is not a positive whole number, blocks that do not divide it, or radii outside (0, 1).
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int = 1,
        dropout: float = 0.0,
        width: int | None = None,
        blocks: int | None = None,
        d_conv: int = 4,
        min_radius: float = 0.9,
        max_radius: float = 0.999,
        c: float = 8.0,
    ) -> None:
        super().__init__()
        check_counts(width=width, blocks=blocks, d_conv=d_conv)
        self.d_model, self.d_conv, self.c = d_model, d_conv, c
        self.width = d_model if width is None else width
        self.blocks = n_heads if blocks is None else blocks
        block_width, rest = divmod(self.width, self.blocks)
        if rest:
            raise ConfigError(f"blocks {self.blocks} (n_heads by default) must divide the width {self.width}; change either")
        if not 0 < min_radius <= max_radius < 1 or c <= 0:
            raise ConfigError(f"0 < min_radius {min_radius} <= max_radius {max_radius} < 1 and c {c} > 0 must hold")
        self.linear_y = nn.Linear(d_model, self.width)
        self.linear_x = nn.Linear(d_model, self.width)
        self.conv_weight = nn.Parameter(torch.empty(self.width, d_conv))
        self.conv_bias = nn.Parameter(torch.empty(self.width))
        # Both gates of a block side by side, recurrence gate r first: one batched product.
        self.gate_weight = nn.Parameter(torch.empty(self.blocks, block_width, 2 * block_width))
        self.gate_bias = nn.Parameter(torch.empty(self.blocks, 2 * block_width))
        self.Lambda = nn.Parameter(torch.empty(self.width))
        self.linear_out = nn.Linear(self.width, d_model)
        self.radii = min_radius, max_radius
        keep_init(self)
        no_decay(self, "Lambda", "gate_bias", "conv_weight", "conv_bias")
        self.reset_parameters()

    @fills
    def reset_parameters(self) -> None:
        maps = (self.linear_y, self.linear_x, self.linear_out)
        # The framework's own values of the maps are drawn first and lost: the draws of a seed stay what they have always been.
        self.linear_y.reset_parameters()
        self.linear_x.reset_parameters()
        smallest, largest = self.radii
        a_squared = torch.empty_like(self.Lambda).uniform_(smallest**2, largest**2)
        self.Lambda.copy_(torch.log(torch.expm1(-0.5 * a_squared.log())))  # softplus(Λ) = −log a
        self.linear_out.reset_parameters()
        for linear in maps:
            linear.weight.normal_(0.0, linear.in_features**-0.5)
            linear.bias.zero_()
        self.conv_weight.normal_(0.0, math.sqrt(CONV_VARIANCE / self.d_conv))
        self.conv_bias.zero_()
        self.gate_weight.normal_(0.0, self.gate_weight.shape[1] ** -0.5)
        self.gate_bias.zero_()

    def _gated(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Decay a, input multiplier √(1 − a²) and gated input i ⊙ u, all (…, W) and float32 or better."""
        exact = torch.promote_types(self.Lambda.dtype, torch.float32)
        by_block = torch.einsum("...gi,gij->...gj", u.unflatten(-1, (self.blocks, -1)), self.gate_weight)
        gates = torch.sigmoid(by_block.to(exact) + self.gate_bias)
        r, i = (gate.flatten(-2) for gate in gates.chunk(2, dim=-1))
        # Gated in the exponent: r = 0 keeps the state exactly, r = 1 forgets at the learned rate.
        log_a = -self.c * r * F.softplus(self.Lambda.to(exact))
        # √(1 − a²) keeps the variance of h at that of its input, however long it remembers. expm1: 1 − a² cancels near a = 1.
        multiplier = BoundedSqrt.apply(-torch.expm1(2 * log_a))
        return log_a.exp(), multiplier, i * u

    def _parallel(self, x_BTD: torch.Tensor, keep: bool):
        y_BTW, inputs_BTW = F.gelu(self.linear_y(x_BTD), approximate="tanh"), self.linear_x(x_BTD)
        u_BTW = causal_conv(inputs_BTW, self.conv_weight, self.conv_bias, backend=self.kernels)
        a_BTW, multiplier_BTW, gated_BTW = self._gated(u_BTW)
        multiplier_BTW = F.pad(multiplier_BTW[:, 1:], (0, 0, 1, 0), value=1.0)  # the first token starts a document
        h_BTW = linear_scan(a_BTW, multiplier_BTW * gated_BTW, self.kernels)
        state = (h_BTW[:, -1].clone(), last_inputs(inputs_BTW, self.d_conv)) if keep else None
        return self.linear_out(h_BTW.to(y_BTW.dtype) * y_BTW), state

    def initial_state(self, batch: int) -> tuple[torch.Tensor | None, torch.Tensor]:
        """h (B, W), and the last K - 1 inputs of the convolution (B, K - 1, W).

        h is None before the first token, whose input is not scaled.
        """
        return None, self.conv_weight.new_zeros(batch, self.d_conv - 1, self.width)

    def step(self, x_BD: torch.Tensor, state):
        h_BW, window = state
        y_BW = F.gelu(self.linear_y(x_BD), approximate="tanh")
        u_BW, window = causal_conv_step(self.linear_x(x_BD), window, self.conv_weight, self.conv_bias)
        a_BW, multiplier_BW, gated_BW = self._gated(u_BW)
        h_BW = gated_BW if h_BW is None else a_BW * h_BW + multiplier_BW * gated_BW
        return self.linear_out(h_BW.to(y_BW.dtype) * y_BW), (h_BW, window)

    def num_params(self) -> int:
        d, w, b, k = self.d_model, self.width, self.blocks, self.d_conv
        return 2 * (d * w + w) + (k + 1) * w + 2 * (w * w // b + w) + w + w * d + d

    def flops_per_token(self, length: int) -> float:
        d, w, b, k = self.d_model, self.width, self.blocks, self.d_conv
        products = 2 * (3 * d * w + 2 * w * w // b)
        return products + 2 * k * w + 10 * w  # convolution; recurrence and gating, about ten operations a channel

    def state_size(self, length: int) -> int:
        return self.width * self.d_conv  # h, and K - 1 inputs of the convolution

    def float_state(self, length: int) -> int:
        return self.width
