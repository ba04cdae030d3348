"""RMSNorm on CPUs: Numba kernels that read each row once, the gate included; of the forward pass one number a row is kept.

The gradient of the weight is summed over :data:`ROWS` rows at a time, so results do not depend on the number of threads.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch.autograd.function import once_differentiable

from lolm.ops.cpu.compiled import Kernel, as_numpy, cells_of, flat, rows
from lolm.ops.cpu.vectors import (
    LANES,
    broadcast,
    copy,
    copy_rows,
    fma,
    load,
    padded,
    prefetch,
    prefetch_for_write,
    sigmoid,
    store,
    total,
    zeros,
)

ROWS = 64  # tokens of a cell of work
AHEAD = 8  # rows that are asked for before they are needed
ONE = np.float32(1.0)
ZERO = np.float32(0.0)


@njit
def _lines(source, groups, width, stride):
    """Rows of ``width`` floats in rows of ``stride``, zeros behind them."""
    lines = zeros(groups * stride)
    copy_rows(lines, 0, stride, source, 0, width, groups, width)
    return lines


@Kernel
def _forward(part, parts, x, x_hop, gate, gate_hop, gated, weight, groups, epsilon, y, scales):
    tokens, channels = scales.size // groups, weight.size
    width = channels // groups
    stride = padded(width)
    for block in cells_of(part, parts, (tokens + ROWS - 1) // ROWS):
        weights, line, gate_line = _lines(weight, groups, width, stride), zeros(stride), zeros(stride)
        for row in range(block * ROWS * groups, min((block + 1) * ROWS, tokens) * groups):
            token, group = row // groups, row % groups
            copy(line, 0, x, token * x_hop + group * width, width)
            if gated:
                copy(gate_line, 0, gate, token * gate_hop + group * width, width)
            squares = broadcast(ZERO)
            for d in range(0, stride, LANES):
                prefetch(x, (token + AHEAD) * x_hop + group * width + d)
                prefetch(gate, (token + AHEAD) * gate_hop + group * width + d)
                prefetch_for_write(y, (token + AHEAD) * channels + group * width + d)
                v = load(line, d)
                if gated:
                    z = load(gate_line, d)
                    v = v * (z * sigmoid(z))
                    store(line, d, v)
                squares = fma(v, v, squares)
            scale = ONE / np.sqrt(total(squares) / np.float32(width) + epsilon)
            scales[row] = scale
            for d in range(0, stride, LANES):
                store(line, d, load(line, d) * scale * load(weights, group * stride + d))
            copy(y, token * channels + group * width, line, 0, width)


@Kernel
def _backward(part, parts, x, x_hop, gate, gate_hop, gated, weight, groups, g, scales, g_x, g_gate, g_weight):
    tokens, channels = scales.size // groups, weight.size
    width = channels // groups
    stride = padded(width)
    for block in cells_of(part, parts, (tokens + ROWS - 1) // ROWS):
        weights, sums = _lines(weight, groups, width, stride), zeros(groups * stride)
        line, gate_line, value_line, g_line = zeros(stride), zeros(stride), zeros(stride), zeros(stride)
        for row in range(block * ROWS * groups, min((block + 1) * ROWS, tokens) * groups):
            token, group = row // groups, row % groups
            at, scale = token * channels + group * width, scales[row]
            copy(line, 0, x, token * x_hop + group * width, width)
            copy(g_line, 0, g, at, width)
            if gated:
                copy(gate_line, 0, gate, token * gate_hop + group * width, width)
            along = broadcast(ZERO)
            for d in range(0, stride, LANES):
                prefetch(x, (token + AHEAD) * x_hop + group * width + d)
                prefetch(gate, (token + AHEAD) * gate_hop + group * width + d)
                prefetch(g, at + AHEAD * channels + d)
                prefetch_for_write(g_x, at + AHEAD * channels + d)
                prefetch_for_write(g_gate, at + AHEAD * channels + d)
                v, g_d, k = load(line, d), load(g_line, d), group * stride + d
                if gated:
                    z = load(gate_line, d)
                    v = v * (z * sigmoid(z))
                store(value_line, d, v)
                store(sums, k, fma(g_d, v * scale, load(sums, k)))
                g_d = g_d * load(weights, k)
                store(g_line, d, g_d)
                along = fma(g_d, v, along)
            back = total(along) * scale * scale / np.float32(width)
            for d in range(0, stride, LANES):
                g_v = (load(g_line, d) - load(value_line, d) * back) * scale
                if gated:
                    z = load(gate_line, d)
                    open_z = sigmoid(z)
                    store(gate_line, d, g_v * load(line, d) * (open_z * (ONE + z * (ONE - open_z))))
                    g_v = g_v * (z * open_z)
                store(g_line, d, g_v)
            copy(g_x, at, g_line, 0, width)
            if gated:
                copy(g_gate, at, gate_line, 0, width)
        copy_rows(g_weight, block * channels, width, sums, 0, stride, groups, width)


class RMSNormCPU(torch.autograd.Function):
    """:func:`lolm.ops.rms_norm.rms_norm` in float32; ``gate`` may be None."""

    @staticmethod
    def forward(ctx, x, weight_I, gate, groups: int, epsilon: float):  # type: ignore[override]
        y = torch.empty(x.shape)
        scales = torch.empty(x.shape[:-1].numel() * groups)
        _forward(*_inputs(x, weight_I, gate, groups), np.float32(epsilon), flat(y), scales.numpy())
        ctx.save_for_backward(x, weight_I, gate, scales)
        ctx.groups = groups
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, g):  # type: ignore[override]
        x, weight, gate, scales = ctx.saved_tensors
        g_x = torch.empty(x.shape)
        g_gate = None if gate is None else torch.empty(x.shape)
        g_weight = torch.empty(-(-x.shape[:-1].numel() // ROWS), weight.numel())
        outputs = (flat(g_x), flat(g_x if g_gate is None else g_gate), flat(g_weight))
        _backward(*_inputs(x, weight, gate, ctx.groups), flat(g), scales.numpy(), *outputs)
        return g_x, g_weight.sum(0), g_gate, None, None


def _inputs(x, weight, gate, groups):
    """What both kernels read. Without a gate something takes its place that is never looked at."""
    return [*rows(x), *rows(x if gate is None else gate), gate is not None, as_numpy(weight), groups]
