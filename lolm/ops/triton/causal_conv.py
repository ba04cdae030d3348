"""The short causal convolution in Triton, with bias and SiLU, for :func:`lolm.ops.causal_conv.causal_conv`: one pass each way.

A program takes a stretch of one sequence, tile by tile. The rows that the taps of a tile meet overlap, and are read once from
memory and then from the cache. The backward pass makes the values before SiLU again instead of keeping them.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lolm.ops.triton.layout import rows

CHANNELS, ROWS, STRETCH = 64, 16, 256


@triton.jit
def _forward(
    x, weight, bias, y, T, W, x_b, x_t,
    K: tl.constexpr, SILU: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr, STRETCH: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    batch = tl.program_id(2).to(tl.int64)
    x += batch * x_b + i
    y += batch * T * W + i
    bias_i = tl.load(bias + i, mask=i < W, other=0.0).to(tl.float32)
    start = tl.program_id(1) * STRETCH
    for first in range(start, tl.minimum(start + STRETCH, T), ROWS):
        t = first + tl.arange(0, ROWS)[:, None]
        out = bias_i + tl.zeros([ROWS, CHANNELS], tl.float32)
        for k in tl.static_range(K):
            w = tl.load(weight + i * K + k, mask=i < W, other=0.0).to(tl.float32)
            s = t - (K - 1 - k)
            out += w * tl.load(x + s * x_t, mask=(i < W) & (s >= 0) & (s < T), other=0.0).to(tl.float32)
        if SILU:
            out /= 1 + tl.exp(-out)
        tl.store(y + t * W, out.to(y.dtype.element_ty), mask=(i < W) & (t < T))


@triton.jit
def _backward(
    x, weight, bias, g, dx, dweight, dbias, T, W, x_b, x_t, g_b, g_t,
    K: tl.constexpr, SILU: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr, STRETCH: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    batch = tl.program_id(2).to(tl.int64)
    stretch = batch * tl.num_programs(1) + tl.program_id(1)
    x += batch * x_b + i
    g += batch * g_b + i
    dx += batch * T * W + i
    bias_i = tl.load(bias + i, mask=i < W, other=0.0).to(tl.float32)
    weights, sums = (), ()
    for k in tl.static_range(K):
        weights += (tl.load(weight + i * K + k, mask=i < W, other=0.0).to(tl.float32),)
        sums += (tl.zeros([1, CHANNELS], tl.float32),)
    sum_bias = tl.zeros([1, CHANNELS], tl.float32)
    start = tl.program_id(1) * STRETCH
    for first in range(start, tl.minimum(start + STRETCH, T), ROWS):
        t = first + tl.arange(0, ROWS)[:, None]
        xs = ()
        for k in tl.static_range(2 * K - 1):
            s = t - (K - 1) + k
            xs += (tl.load(x + s * x_t, mask=(i < W) & (s >= 0) & (s < T), other=0.0).to(tl.float32),)
        out = tl.zeros([ROWS, CHANNELS], tl.float32)
        for j in tl.static_range(K):  # x_t is read by the outputs at t … t + K − 1
            g_j = tl.load(g + (t + j) * g_t, mask=(i < W) & (t + j < T), other=0.0).to(tl.float32)
            if SILU:
                before = bias_i + tl.zeros([ROWS, CHANNELS], tl.float32)
                for k in tl.static_range(K):
                    before += weights[k] * xs[j + k]
                share = 1 / (1 + tl.exp(-before))
                g_j *= share * (1 + before * (1 - share))
            out += weights[K - 1 - j] * g_j
            if j == 0:
                sum_bias += tl.sum(g_j, 0, keep_dims=True)
                added = ()
                for k in tl.static_range(K):
                    added += (sums[k] + tl.sum(g_j * xs[k], 0, keep_dims=True),)
                sums = added
        tl.store(dx + t * W, out.to(dx.dtype.element_ty), mask=(i < W) & (t < T))
    for k in tl.static_range(K):
        tl.store(dweight + (stretch * W + i) * K + k, sums[k], mask=i < W)
    tl.store(dbias + stretch * W + i, sum_bias, mask=i < W)


@torch.library.custom_op("lolm::causal_conv", mutates_args=())
def _conv(x: Tensor, weight: Tensor, bias: Tensor, silu: bool) -> Tensor:
    y = _output(x, weight, bias, silu)
    grid, shape = _grid(x)
    _forward[grid](x, weight, bias, y, *x.shape[1:], *x.stride()[:2], weight.shape[1], silu, **shape)
    return y


@_conv.register_fake
def _output(x, weight, bias, silu):
    return x.new_empty(x.shape)


@torch.library.custom_op("lolm::causal_conv_backward", mutates_args=())
def _conv_backward(x: Tensor, weight: Tensor, bias: Tensor, g: Tensor, silu: bool) -> tuple[Tensor, Tensor, Tensor]:
    grid, shape = _grid(x)
    dx, stretches = x.new_empty(x.shape), grid[1] * grid[2]
    dweight, dbias = (torch.empty(stretches, *m.shape, dtype=torch.float32, device=x.device) for m in (weight, bias))
    strides = *x.stride()[:2], *g.stride()[:2]
    _backward[grid](x, weight, bias, g, dx, dweight, dbias, *x.shape[1:], *strides, weight.shape[1], silu, **shape)
    return dx, dweight.sum(0).to(weight.dtype), dbias.sum(0).to(bias.dtype)


@_conv_backward.register_fake
def _gradients(x, weight, bias, g, silu):
    return x.new_empty(x.shape), torch.empty_like(weight), torch.empty_like(bias)


def _keep(ctx, inputs, output):
    *tensors, ctx.silu = inputs
    ctx.save_for_backward(*tensors)


def _pull_back(ctx, g):
    return *_conv_backward(*ctx.saved_tensors, rows(g), ctx.silu), None


_conv.register_autograd(_pull_back, setup_context=_keep)


def _grid(x: Tensor) -> tuple[tuple[int, int, int], dict[str, int]]:
    grid = triton.cdiv(x.shape[2], CHANNELS), triton.cdiv(x.shape[1], STRETCH), x.shape[0]
    return grid, {"CHANNELS": CHANNELS, "ROWS": ROWS, "STRETCH": STRETCH}


def causal_conv(x_BTI: Tensor, weight_IK: Tensor, bias_I: Tensor, silu: bool = False) -> Tensor:
    """:func:`lolm.ops.causal_conv.causal_conv` of a float32 or bfloat16 input, in the dtype of the input, computed in float32."""
    return _conv(rows(x_BTI), weight_IK.contiguous(), bias_I.contiguous(), silu)
