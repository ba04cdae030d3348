"""Kernels of mamba-ssm and causal-conv1d (CUDA), which want (B, I, T): a module that is imported on a GPU alone.

Where they work they are an alternative to ours in Triton; :mod:`lolm.ops.backends` times both. Mamba-1's backward pass adds up by
atomics, so two runs differ in the last bits.
"""

from __future__ import annotations

from torch import Tensor


def selective_scan(
    u_BTI: Tensor,
    delta_BTI: Tensor,
    A_IN: Tensor,
    B_BTN: Tensor,
    C_BTN: Tensor,
    skip_I: Tensor | None = None,
    gate_BTI: Tensor | None = None,
    delta_bias_I: Tensor | None = None,
) -> Tensor:
    """:func:`lolm.ops.scan.selective_scan` by mamba-ssm."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    series = (None if x is None else x.transpose(1, 2).to(u_BTI.dtype) for x in (u_BTI, delta_BTI, B_BTN, C_BTN, gate_BTI))
    u_BIT, delta_BIT, B_BNT, C_BNT, gate_BIT = series
    A, skip, bias = (None if x is None else x.float() for x in (A_IN, skip_I, delta_bias_I))
    y_BIT = selective_scan_fn(u_BIT, delta_BIT, A, B_BNT, C_BNT, skip, gate_BIT, delta_bias=bias, delta_softplus=True)
    return y_BIT.transpose(1, 2)


def causal_conv(x_BTI: Tensor, weight_IK: Tensor, bias_I: Tensor, silu: bool = False) -> Tensor:
    """:func:`lolm.ops.causal_conv.causal_conv` by causal-conv1d."""
    from causal_conv1d import causal_conv1d_fn

    weight, bias, x_BIT = weight_IK.to(x_BTI.dtype), bias_I.to(x_BTI.dtype), x_BTI.transpose(1, 2)
    if any(stride % 8 for stride in (x_BTI.stride(0), x_BTI.stride(1))):  # a layout of channels last that it refuses
        x_BIT = x_BIT.contiguous()
    return causal_conv1d_fn(x_BIT, weight, bias, activation="silu" if silu else None).transpose(1, 2)


def ssd(
    x_BTHP: Tensor, delta_BTH: Tensor, A_H: Tensor, B_BTGN: Tensor, C_BTGN: Tensor, skip_H: Tensor, chunk: int = 64
) -> Tensor:
    """:func:`lolm.ops.ssd.ssd` by mamba-ssm, whose kernels are in Triton and tuned at their first call, for minutes."""
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    B, C = (m.to(x_BTHP.dtype) for m in (B_BTGN, C_BTGN))
    return mamba_chunk_scan_combined(x_BTHP, delta_BTH.float(), A_H.float(), B, C, chunk_size=chunk, D=skip_H.float())
