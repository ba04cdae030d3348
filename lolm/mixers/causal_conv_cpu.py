"""Causal convolution on CPUs: Numba kernels that take 16 channels through time at once, the activation included.

Nothing but the input is kept for the backward pass. Every sum has a fixed order, so results do not depend on threads.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit, prange
from torch.autograd.function import once_differentiable

from lolm.mixers.compiled import Kernel, as_numpy, flat
from lolm.mixers.vectors import LANES, broadcast, copy, fma, load, sigmoid, store, zeros

ONE = np.float32(1.0)
ZERO = np.float32(0.0)


@njit
def _inputs(x, length, weight, bias, i, lo, count):
    """The inputs of a few channels after K - 1 zeros, (K - 1 + T, LANES), and their K weights and bias; zeros in unused lanes."""
    kernel, channels = weight.shape
    rows = zeros((kernel - 1 + length) * LANES)
    weights = zeros((kernel + 1) * LANES)
    for d in range(count):
        for k in range(kernel):
            weights[k * LANES + d] = weight[k, lo + d]
        weights[kernel * LANES + d] = bias[lo + d]
    for t in range(length):
        copy(rows, (kernel - 1 + t) * LANES, x, (i * length + t) * channels + lo, count)
    return rows, weights


@njit
def _convolved(rows, weights, kernel, t):
    y = load(weights, kernel * LANES)
    for k in range(kernel):
        y = fma(load(rows, (t + k) * LANES), load(weights, k * LANES), y)
    return y


@Kernel
def _forward(x, length, weight, bias, silu, y):
    kernel, channels = weight.shape
    batch = x.size // (length * channels)
    blocks = (channels + LANES - 1) // LANES
    for cell in prange(batch * blocks):
        i, lo = cell // blocks, cell % blocks * LANES
        count = min(LANES, channels - lo)
        rows, weights = _inputs(x, length, weight, bias, i, lo, count)
        line = zeros(LANES)
        for t in range(length):
            y_t = _convolved(rows, weights, kernel, t)
            if silu:
                y_t = y_t * sigmoid(y_t)
            store(line, 0, y_t)
            copy(y, (i * length + t) * channels + lo, line, 0, count)


@Kernel
def _backward(x, length, weight, bias, silu, g, g_x, g_weight, g_bias):
    kernel, channels = weight.shape
    batch = x.size // (length * channels)
    blocks = (channels + LANES - 1) // LANES
    for cell in prange(batch * blocks):
        i, lo = cell // blocks, cell % blocks * LANES
        count = min(LANES, channels - lo)
        rows, weights = _inputs(x, length, weight, bias, i, lo, count)
        g_rows = zeros((length + kernel - 1) * LANES)  # of the convolution, then K - 1 zeros
        sums = zeros((kernel + 1) * LANES)
        line = zeros(LANES)
        for t in range(length):
            copy(line, 0, g, (i * length + t) * channels + lo, count)
            g_t = load(line, 0)
            if silu:
                y_t = _convolved(rows, weights, kernel, t)
                open_t = sigmoid(y_t)
                g_t = g_t * open_t * (ONE + y_t * (ONE - open_t))
            store(g_rows, t * LANES, g_t)
            for k in range(kernel):
                store(sums, k * LANES, fma(g_t, load(rows, (t + k) * LANES), load(sums, k * LANES)))
            store(sums, kernel * LANES, load(sums, kernel * LANES) + g_t)
        for t in range(length):
            g_t = broadcast(ZERO)
            for k in range(kernel):
                g_t = fma(load(g_rows, (t + k) * LANES), load(weights, (kernel - 1 - k) * LANES), g_t)
            store(line, 0, g_t)
            copy(g_x, (i * length + t) * channels + lo, line, 0, count)
        for d in range(count):
            for k in range(kernel):
                g_weight[i, k, lo + d] = sums[k * LANES + d]
            g_bias[i, lo + d] = sums[kernel * LANES + d]


class CausalConvCPU(torch.autograd.Function):
    """:func:`lolm.mixers.causal_conv.causal_conv` in float32."""

    @staticmethod
    def forward(ctx, x_BTI, weight_IK, bias_I, silu: bool):  # type: ignore[override]
        y = torch.empty_like(x_BTI, memory_format=torch.contiguous_format)
        _forward(flat(x_BTI), x_BTI.shape[1], as_numpy(weight_IK.t()), as_numpy(bias_I), silu, flat(y))
        ctx.save_for_backward(x_BTI, weight_IK, bias_I)
        ctx.silu = silu
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, g_BTI):  # type: ignore[override]
        x, weight, bias = ctx.saved_tensors
        batch, length, channels = x.shape
        g_x = torch.empty_like(x, memory_format=torch.contiguous_format)
        g_weight, g_bias = torch.empty(batch, weight.shape[1], channels), torch.empty(batch, channels)
        inputs = [flat(x), length, as_numpy(weight.t()), as_numpy(bias), ctx.silu, flat(g_BTI)]
        _backward(*inputs, flat(g_x), g_weight.numpy(), g_bias.numpy())
        return g_x, g_weight.sum(0).t(), g_bias.sum(0), None
