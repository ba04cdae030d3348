"""Kernels of flash-linear-attention (Triton) that compute ops of ours, forward and backward: `make gpu` measures them beside our
own, and no training takes them. Mamba-1's scan is not among them. With fla-core 0.6.0 in Triton's interpreter each is within 6e-6
of the reference; on a GPU its products of float32 matrices are TF32.
"""

from __future__ import annotations

from torch import Tensor


def linear_scan(a_BTC: Tensor, b_BTC: Tensor) -> Tensor:
    """:func:`lolm.ops.linear_scan.linear_scan` by HGRN's recurrence, which takes ln a: factors have to be positive."""
    from fla.ops.hgrn import chunk_hgrn

    return chunk_hgrn(b_BTC, a_BTC.float().log())[0]


def causal_conv(x_BTI: Tensor, weight_IK: Tensor, bias_I: Tensor, silu: bool = False) -> Tensor:
    """:func:`lolm.ops.causal_conv.causal_conv`."""
    from fla.modules.convolution import causal_conv1d

    return causal_conv1d(x_BTI, weight_IK, bias_I, activation="silu" if silu else None)[0]


def ssd(
    x_BTHP: Tensor, delta_BTH: Tensor, A_H: Tensor, B_BTGN: Tensor, C_BTGN: Tensor, skip_H: Tensor, chunk: int = 64
) -> Tensor:
    """:func:`lolm.ops.ssd.ssd` as linear attention with one decay a head: queries C, keys B, values Δ x."""
    from fla.ops.simple_gla import chunk_simple_gla

    shared, delta = x_BTHP.shape[2] // B_BTGN.shape[2], delta_BTH.float()
    k, q = (m.to(x_BTHP.dtype).repeat_interleave(shared, dim=2) for m in (B_BTGN, C_BTGN))
    v = (delta[..., None] * x_BTHP).to(x_BTHP.dtype)
    y = chunk_simple_gla(q, k, v, delta * A_H, scale=1.0)[0]
    return y + (skip_H[:, None] * x_BTHP).to(y.dtype)


def window_attention(q_BTHP: Tensor, k_BTKP: Tensor, v_BTKP: Tensor, window: int) -> Tensor:
    """:func:`lolm.ops.attention.window_attention`."""
    from fla.ops.attn import parallel_attn

    return parallel_attn(q_BTHP, k_BTKP, v_BTKP, window_size=window)


def linear_cross_entropy(x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, ignored: int = -100, block: int = 4096) -> Tensor:
    """:func:`lolm.ops.cross_entropy.linear_cross_entropy`, in parts whose size the library chooses."""
    from fla.modules.fused_linear_cross_entropy import fused_linear_cross_entropy_loss

    return fused_linear_cross_entropy_loss(x_ND, targets_N, weight_VD.to(x_ND.dtype), ignore_index=ignored, reduction="sum")
