"""Causal convolution on CPUs: Numba kernels that take a few vectors of channels through time, the activation included.

Nothing but the input is kept for the backward pass. Every sum has a fixed order, so results do not depend on threads.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch.autograd.function import once_differentiable

from lolm.ops.cpu.compiled import Kernel, as_numpy, cells_of, flat, rows
from lolm.ops.cpu.vectors import LANES, broadcast, copy, fma, load, prefetch, prefetch_for_write, sigmoid, store, zeros

CHUNK = 32  # steps at a time
AHEAD = 8  # rows that are asked for before they are written
BLOCK = 6 * LANES  # channels at a time
ONE = np.float32(1.0)
ZERO = np.float32(0.0)


@njit
def _weights(weight, bias, lo, count):
    """The K weights and the bias of a block, (K + 1, BLOCK); zeros in unused lanes."""
    kernel = weight.shape[1]
    weights = zeros((kernel + 1) * BLOCK)
    for d in range(count):
        for k in range(kernel):
            weights[k * BLOCK + d] = weight[lo + d, k]
        weights[kernel * BLOCK + d] = bias[lo + d]
    return weights


@njit
def _read(tile, source, base, hop, first, last, length, count):
    """Copy the rows of steps first … last - 1 into a tile; a step outside the text leaves its row as it is."""
    for t in range(max(first, 0), min(last, length)):
        copy(tile, (t - first) * BLOCK, source, base + t * hop, count)


@njit
def _convolved(near, weights, kernel, row, d):
    y = load(weights, kernel * BLOCK + d)
    for k in range(kernel):
        y = fma(load(near, (row + k) * BLOCK + d), load(weights, k * BLOCK + d), y)
    return y


@Kernel
def _forward(part, parts, x, hop, batch, length, weight, bias, silu, y):
    channels, kernel = weight.shape
    blocks = (channels + BLOCK - 1) // BLOCK
    for cell in cells_of(part, parts, batch * blocks):
        i, lo = cell // blocks, cell % blocks * BLOCK
        base, count = i * length * channels + lo, min(BLOCK, channels - lo)
        weights = _weights(weight, bias, lo, count)
        near, line = zeros((kernel - 1 + CHUNK) * BLOCK), zeros(BLOCK)
        for start in range(0, length, CHUNK):
            _read(near, x, i * length * hop + lo, hop, start - kernel + 1, start + CHUNK, length, count)
            for t in range(start, min(start + CHUNK, length)):
                for d in range(0, count, LANES):
                    prefetch(x, (i * length + t + CHUNK) * hop + lo + d)
                    prefetch_for_write(y, base + (t + AHEAD) * channels + d)
                    y_t = _convolved(near, weights, kernel, t - start, d)
                    if silu:
                        y_t = y_t * sigmoid(y_t)
                    store(line, d, y_t)
                copy(y, base + t * channels, line, 0, count)


@Kernel
def _backward(part, parts, x, hop, batch, length, weight, bias, silu, g, g_x, g_weight, g_bias):
    channels, kernel = weight.shape
    blocks = (channels + BLOCK - 1) // BLOCK
    reach = kernel - 1  # steps after its own that an input acts on
    for cell in cells_of(part, parts, batch * blocks):
        i, lo = cell // blocks, cell % blocks * BLOCK
        base, count = i * length * channels + lo, min(BLOCK, channels - lo)
        weights = _weights(weight, bias, lo, count)
        near, g_rows = zeros((reach + CHUNK + reach) * BLOCK), zeros((CHUNK + reach) * BLOCK)
        sums, line = zeros((kernel + 1) * BLOCK), zeros(BLOCK)
        for start in range(0, length, CHUNK):
            stop = min(start + CHUNK, length)
            _read(near, x, i * length * hop + lo, hop, start - reach, start + CHUNK + reach, length, count)
            g_rows[:] = ZERO  # also behind the end of the text
            _read(g_rows, g, base, channels, start, start + CHUNK + reach, length, count)
            for row in range(min(stop + reach, length) - start):
                for d in range(0, count, LANES):
                    prefetch(x, (i * length + start + row + CHUNK) * hop + lo + d)
                    prefetch(g, base + (start + row + CHUNK) * channels + d)
                    prefetch_for_write(g_x, base + (start + row) * channels + d)
                    g_t = load(g_rows, row * BLOCK + d)
                    if silu:
                        y_t = _convolved(near, weights, kernel, row, d)
                        open_t = sigmoid(y_t)
                        g_t = g_t * open_t * (ONE + y_t * (ONE - open_t))
                        store(g_rows, row * BLOCK + d, g_t)
                    if row < stop - start:
                        for k in range(kernel):
                            at = k * BLOCK + d
                            store(sums, at, fma(g_t, load(near, (row + k) * BLOCK + d), load(sums, at)))
                        store(sums, kernel * BLOCK + d, load(sums, kernel * BLOCK + d) + g_t)
            for t in range(start, stop):
                for d in range(0, count, LANES):
                    g_t = broadcast(ZERO)
                    for k in range(kernel):
                        g_t = fma(load(g_rows, (t - start + k) * BLOCK + d), load(weights, (reach - k) * BLOCK + d), g_t)
                    store(line, d, g_t)
                copy(g_x, base + t * channels, line, 0, count)
        for d in range(count):
            for k in range(kernel):
                g_weight[i, lo + d, k] = sums[k * BLOCK + d]
            g_bias[i, lo + d] = sums[kernel * BLOCK + d]


class CausalConvCPU(torch.autograd.Function):
    """:func:`lolm.ops.causal_conv.causal_conv` in float32."""

    @staticmethod
    def forward(ctx, x_BTI, weight_IK, bias_I, silu: bool):  # type: ignore[override]
        y = torch.empty_like(x_BTI, memory_format=torch.contiguous_format)
        _forward(*rows(x_BTI), *x_BTI.shape[:2], as_numpy(weight_IK), as_numpy(bias_I), silu, flat(y))
        ctx.save_for_backward(x_BTI, weight_IK, bias_I)
        ctx.silu = silu
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, g_BTI):  # type: ignore[override]
        x, weight, bias = ctx.saved_tensors
        batch, length, channels = x.shape
        g_x = torch.empty_like(x, memory_format=torch.contiguous_format)
        g_weight, g_bias = torch.empty(batch, *weight.shape), torch.empty(batch, channels)
        inputs = [*rows(x), batch, length, as_numpy(weight), as_numpy(bias), ctx.silu, flat(g_BTI)]
        _backward(*inputs, flat(g_x), g_weight.numpy(), g_bias.numpy())
        return g_x, g_weight.sum(0), g_bias.sum(0), None
