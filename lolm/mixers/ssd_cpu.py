"""State space duality on CPUs: the recurrence itself in Numba kernels, with no matrix of a chunk and no transposed copies.

States lie in the lanes of vectors, and one head of one text, N × P states, stays in the nearest cache while it walks through time.
The backward pass recomputes the states of :data:`CHUNK` steps of one channel from saved ones, so memory grows with T·I·N / CHUNK.
Every sum has a fixed order, so results do not depend on the number of threads.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit, prange
from torch.autograd.function import once_differentiable

from lolm.mixers.compiled import Kernel, as_numpy, flat, rows
from lolm.mixers.vectors import LANES, broadcast, copy, fma, load, store, total, zeros

CHUNK = 32  # steps between saved states
ZERO = np.float32(0.0)


@njit
def _read(tile, stride, source, first, hop, steps, count):
    """Copy rows of ``count`` floats, ``hop`` apart, into rows of ``stride``; the lanes behind them stay zero."""
    for t in range(steps):
        copy(tile, t * stride, source, first + t * hop, count)


@Kernel
def _forward(x, x_hop, step, decay, b, b_hop, c, c_hop, skip, groups, states, y, saved):
    batch, length, heads = step.shape
    stride = (states + LANES - 1) // LANES * LANES
    width = saved.shape[2] // stride
    for cell in prange(batch * heads):
        i, h = cell // heads, cell % heads
        maps = h // (heads // groups) * states
        state, b_tile, c_tile = zeros(width * stride), zeros(CHUNK * stride), zeros(CHUNK * stride)
        for start in range(0, length, CHUNK):
            steps, first = min(CHUNK, length - start), i * length + start
            saved[cell, start // CHUNK] = state
            _read(b_tile, stride, b, first * b_hop + maps, b_hop, steps, states)
            _read(c_tile, stride, c, first * c_hop + maps, c_hop, steps, states)
            for t in range(steps):
                at, row = (first + t) * x_hop + h * width, t * stride
                to = ((first + t) * heads + h) * width
                step_t, a = step[i, start + t, h], broadcast(decay[i, start + t, h])
                for p in range(width):
                    dx, read = broadcast(step_t * x[at + p]), broadcast(ZERO)
                    for n in range(0, stride, LANES):
                        s = fma(a, load(state, p * stride + n), dx * load(b_tile, row + n))
                        store(state, p * stride + n, s)
                        read = fma(s, load(c_tile, row + n), read)
                    y[to + p] = total(read) + skip[h] * x[at + p]


@Kernel
def _backward(x, x_hop, step, decay, b, b_hop, c, c_hop, skip, groups, states, g_y, saved, g_x, g_step, g_decay, g_b, g_c, g_skip):
    batch, length, heads = step.shape
    stride = (states + LANES - 1) // LANES * LANES
    width = saved.shape[2] // stride
    for cell in prange(batch * heads):
        i, h = cell // heads, cell % heads
        maps = h // (heads // groups) * states
        b_tile, c_tile, g_b_tile, g_c_tile = (
            zeros(CHUNK * stride), zeros(CHUNK * stride), zeros(CHUNK * stride), zeros(CHUNK * stride)
        )  # fmt: skip
        g_state, history, through = zeros(width * stride), zeros((CHUNK + 1) * stride), zeros(CHUNK * LANES)
        g_direct = ZERO
        for chunk in range((length - 1) // CHUNK, -1, -1):
            start = chunk * CHUNK
            steps, first = min(CHUNK, length - start), i * length + start
            _read(b_tile, stride, b, first * b_hop + maps, b_hop, steps, states)
            _read(c_tile, stride, c, first * c_hop + maps, c_hop, steps, states)
            g_b_tile[:], g_c_tile[:], through[:] = ZERO, ZERO, ZERO
            first_states = saved[cell, chunk]
            for t in range(steps):
                g_step[i, start + t, h] = ZERO
            for p in range(width):
                for n in range(0, stride, LANES):
                    s = load(first_states, p * stride + n)
                    store(history, n, s)
                    for t in range(steps):
                        dx = step[i, start + t, h] * x[(first + t) * x_hop + h * width + p]
                        s = fma(broadcast(decay[i, start + t, h]), s, broadcast(dx) * load(b_tile, t * stride + n))
                        store(history, (t + 1) * stride + n, s)
                for t in range(steps - 1, -1, -1):
                    x_t, at = x[(first + t) * x_hop + h * width + p], ((first + t) * heads + h) * width + p
                    g_y_t, dx = broadcast(g_y[at]), broadcast(step[i, start + t, h] * x_t)
                    a, for_dx, for_a = broadcast(decay[i, start + t, h]), broadcast(ZERO), load(through, t * LANES)
                    for n in range(0, stride, LANES):
                        row, k = t * stride + n, p * stride + n
                        g = fma(g_y_t, load(c_tile, row), load(g_state, k))
                        store(g_c_tile, row, fma(g_y_t, load(history, row + stride), load(g_c_tile, row)))
                        store(g_b_tile, row, fma(g, dx, load(g_b_tile, row)))
                        for_dx = fma(g, load(b_tile, row), for_dx)
                        for_a = fma(g, load(history, row), for_a)
                        store(g_state, k, g * a)
                    store(through, t * LANES, for_a)
                    g_dx = total(for_dx)
                    g_x[at] = step[i, start + t, h] * g_dx + skip[h] * g_y[at]
                    g_step[i, start + t, h] += x_t * g_dx
                    g_direct += x_t * g_y[at]
            for t in range(steps):
                g_decay[i, start + t, h] = total(load(through, t * LANES))
                copy(g_b, ((i * heads + h) * length + start + t) * states, g_b_tile, t * stride, states)
                copy(g_c, ((i * heads + h) * length + start + t) * states, g_c_tile, t * stride, states)
        g_skip[i, h] = g_direct


class StateSpaceDualityCPU(torch.autograd.Function):
    """:func:`lolm.mixers.ssd.ssd` in float32; ``decay_BTH`` is exp(Δ A)."""

    @staticmethod
    def forward(ctx, x_BTHP, delta_BTH, decay_BTH, B_BTGN, C_BTGN, skip_H):  # type: ignore[override]
        batch, length, heads, width = x_BTHP.shape
        y = torch.empty(x_BTHP.shape)
        stride = -(-B_BTGN.shape[-1] // LANES) * LANES
        saved = torch.empty(batch * heads, -(-length // CHUNK), width * stride)
        _forward(*_inputs(x_BTHP, delta_BTH, decay_BTH, B_BTGN, C_BTGN, skip_H), flat(y), saved.numpy())
        ctx.save_for_backward(x_BTHP, delta_BTH, decay_BTH, B_BTGN, C_BTGN, skip_H, saved)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, g_BTHP):  # type: ignore[override]
        *inputs, saved = ctx.saved_tensors
        (batch, length, heads, _), (groups, states) = g_BTHP.shape, inputs[3].shape[2:]
        g_x, g_delta, g_decay = torch.empty(g_BTHP.shape), torch.empty(batch, length, heads), torch.empty(batch, length, heads)
        g_B, g_C = (torch.empty(batch, heads, length, states) for _ in range(2))
        g_skip = torch.empty(batch, heads)
        outputs = (flat(g_x), g_delta.numpy(), g_decay.numpy(), flat(g_B), flat(g_C), g_skip.numpy())
        _backward(*_inputs(*inputs), flat(g_BTHP), saved.numpy(), *outputs)
        g_B, g_C = (g.unflatten(1, (groups, -1)).sum(2).transpose(1, 2) for g in (g_B, g_C))  # over the heads of a group
        return g_x, g_delta, g_decay, g_B, g_C, g_skip.sum(0)


def _inputs(x, delta, decay, B, C, skip):
    groups, states = B.shape[2:]
    maps = (*rows(B.flatten(2)), *rows(C.flatten(2)))
    return [*rows(x.flatten(2)), as_numpy(delta), as_numpy(decay), *maps, as_numpy(skip), groups, states]
