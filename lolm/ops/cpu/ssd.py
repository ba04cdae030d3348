"""State space duality on CPUs: the recurrence itself in Numba kernels, with no matrix of a chunk and no transposed copies.

States lie in the lanes of vectors, and one head of one text, N × P states, stays in the nearest cache as it walks through time.
The backward pass recomputes the states of :data:`CHUNK` steps of one channel from saved ones, so memory grows with T·I·N / CHUNK.
Every sum has a fixed order, so results do not depend on the number of threads.
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
    repeat,
    store,
    store_totals,
    total,
    zeros,
)

CHUNK = 32  # steps between saved states
GROUP = 4  # channels taken together, which read B and C once; where the head's width is no multiple, channels of zeros are added
AHEAD = 8  # steps whose rows are asked for before they are needed
ZERO = np.float32(0.0)


@njit
def _step(state, k, a, dx, b_t, c_t, read):
    """One vector of states a step on; what the output reads of it is added to ``read``."""
    s = fma(a, load(state, k), dx * b_t)
    store(state, k, s)
    return fma(s, c_t, read)


@njit
def _will_keep(kept, count, t):
    """Ask for one step's share of where the next chunk's ``count`` states go, behind those of this one."""
    share = padded((count + CHUNK - 1) // CHUNK)
    for k in range(t * share, (t + 1) * share, LANES):
        prefetch_for_write(kept, count + k)


@Kernel
def _forward(part, parts, x, x_hop, step, decay, b, b_hop, c, c_hop, skip, groups, states, y, saved):
    batch, length, heads = step.shape
    width, stride = y.size // (batch * length * heads), padded(states)
    wide = padded(width, GROUP)
    for cell in cells_of(part, parts, batch * heads):
        i, h = cell // heads, cell % heads
        maps = h // (heads // groups) * states
        state, b_tile, c_tile = zeros(wide * stride), zeros(CHUNK * stride), zeros(CHUNK * stride)
        x_line, y_line = zeros(wide), zeros(wide)
        for start in range(0, length, CHUNK):
            steps, first = min(CHUNK, length - start), i * length + start
            kept = saved[cell, start // CHUNK]
            copy(kept, 0, state, 0, wide * stride)
            copy_rows(b_tile, 0, stride, b, first * b_hop + maps, b_hop, steps, states)
            copy_rows(c_tile, 0, stride, c, first * c_hop + maps, c_hop, steps, states)
            for t in range(steps):
                _will_keep(kept, wide * stride, t)
                prefetch(x, (first + t + AHEAD) * x_hop + h * width)
                prefetch_for_write(y, ((first + t + AHEAD) * heads + h) * width)
                copy(x_line, 0, x, (first + t) * x_hop + h * width, width)
                step_t, a = step[i, start + t, h], broadcast(decay[i, start + t, h])
                for p in range(0, wide, GROUP):
                    dx_0, dx_1 = broadcast(step_t * x_line[p]), broadcast(step_t * x_line[p + 1])
                    dx_2, dx_3 = broadcast(step_t * x_line[p + 2]), broadcast(step_t * x_line[p + 3])
                    read_0 = read_1 = read_2 = read_3 = broadcast(ZERO)
                    for n in range(0, stride, LANES):
                        b_t, c_t, k = load(b_tile, t * stride + n), load(c_tile, t * stride + n), p * stride + n
                        read_0 = _step(state, k, a, dx_0, b_t, c_t, read_0)
                        read_1 = _step(state, k + stride, a, dx_1, b_t, c_t, read_1)
                        read_2 = _step(state, k + 2 * stride, a, dx_2, b_t, c_t, read_2)
                        read_3 = _step(state, k + 3 * stride, a, dx_3, b_t, c_t, read_3)
                    store_totals(y_line, p, read_0, read_1, read_2, read_3)
                for p in range(wide):
                    y_line[p] += skip[h] * x_line[p]
                copy(y, ((first + t) * heads + h) * width, y_line, 0, width)


@njit
def _history(history, first_states, k, n, decay, dx_tile, p, wide, b_tile, stride, steps):
    """The states of one vector of a group of channels before and after each step of a chunk, rows of GROUP · stride."""
    s_0, s_1 = load(first_states, k + n), load(first_states, k + stride + n)
    s_2, s_3 = load(first_states, k + 2 * stride + n), load(first_states, k + 3 * stride + n)
    for t in range(steps + 1):
        at = t * GROUP * stride + n
        store(history, at, s_0)
        store(history, at + stride, s_1)
        store(history, at + 2 * stride, s_2)
        store(history, at + 3 * stride, s_3)
        if t < steps:
            dx, a, b_t = t * wide + p, repeat(decay, t), load(b_tile, t * stride + n)
            s_0 = fma(a, s_0, repeat(dx_tile, dx) * b_t)
            s_1 = fma(a, s_1, repeat(dx_tile, dx + 1) * b_t)
            s_2 = fma(a, s_2, repeat(dx_tile, dx + 2) * b_t)
            s_3 = fma(a, s_3, repeat(dx_tile, dx + 3) * b_t)


@njit
def _back(g_state, k, history, at, after, a, g_y, dx, b_t, c_t, g_b, g_c, for_dx, for_a):
    """One vector of states of one channel a step back in time; the gradients of B, C, Δx and of the decay grow."""
    g = fma(g_y, c_t, load(g_state, k))
    g_c = fma(g_y, load(history, after), g_c)
    g_b = fma(g, dx, g_b)
    for_dx = fma(g, b_t, for_dx)
    for_a = fma(g, load(history, at), for_a)
    store(g_state, k, g * a)
    return g_b, g_c, for_dx, for_a


@Kernel
def _backward(
    part, parts, x, x_hop, step, decay, b, b_hop, c, c_hop, skip, groups, states,
    g_y, saved, g_x, g_step, g_decay, g_b, g_c, g_skip,
):  # fmt: skip
    batch, length, heads = step.shape
    width, stride = g_y.size // (batch * length * heads), padded(states)
    wide = padded(width, GROUP)
    for cell in cells_of(part, parts, batch * heads):
        i, h = cell // heads, cell % heads
        maps = h // (heads // groups) * states
        b_tile, c_tile, g_b_tile, g_c_tile = (
            zeros(CHUNK * stride), zeros(CHUNK * stride), zeros(CHUNK * stride), zeros(CHUNK * stride)
        )  # fmt: skip
        x_tile, dx_tile, g_y_tile, g_x_tile = (
            zeros(CHUNK * wide), zeros(CHUNK * wide), zeros(CHUNK * wide), zeros(CHUNK * wide)
        )  # fmt: skip
        g_state, history, through = zeros(wide * stride), zeros((CHUNK + 1) * GROUP * stride), zeros(CHUNK * LANES)
        step_line, decay_line = zeros(CHUNK), zeros(CHUNK)
        g_direct = ZERO
        for chunk in range((length - 1) // CHUNK, -1, -1):
            start = chunk * CHUNK
            steps, first = min(CHUNK, length - start), i * length + start
            copy_rows(b_tile, 0, stride, b, first * b_hop + maps, b_hop, steps, states)
            copy_rows(c_tile, 0, stride, c, first * c_hop + maps, c_hop, steps, states)
            copy_rows(x_tile, 0, wide, x, first * x_hop + h * width, x_hop, steps, width)
            copy_rows(g_y_tile, 0, wide, g_y, (first * heads + h) * width, heads * width, steps, width)
            g_b_tile[:], g_c_tile[:], through[:] = ZERO, ZERO, ZERO
            step_line[:steps], decay_line[:steps] = step[i, start : start + steps, h], decay[i, start : start + steps, h]
            maps_place = ((i * heads + h) * length + start) * states
            first_states = saved[cell, chunk]
            for t in range(steps):
                for p in range(t * wide, (t + 1) * wide):
                    dx_tile[p] = step_line[t] * x_tile[p]
            for p in range(0, wide, GROUP):
                for n in range(0, stride, LANES):
                    _history(history, first_states, p * stride, n, decay_line, dx_tile, p, wide, b_tile, stride, steps)
                for k in range(p * stride, (p + GROUP) * stride, LANES):
                    prefetch(first_states, k - wide * stride)
                for t in range(steps - 1, -1, -1):
                    at, a = t * wide + p, repeat(decay_line, t)
                    dx_0, dx_1, dx_2, dx_3 = (
                        repeat(dx_tile, at), repeat(dx_tile, at + 1), repeat(dx_tile, at + 2), repeat(dx_tile, at + 3)
                    )  # fmt: skip
                    g_y_0, g_y_1, g_y_2, g_y_3 = (
                        repeat(g_y_tile, at), repeat(g_y_tile, at + 1), repeat(g_y_tile, at + 2), repeat(g_y_tile, at + 3)
                    )  # fmt: skip
                    for_0 = for_1 = for_2 = for_3 = a_0 = a_1 = a_2 = a_3 = broadcast(ZERO)
                    for n in range(0, stride, LANES):
                        if p == 0:
                            prefetch_for_write(g_b, maps_place + t * states + n)
                            prefetch_for_write(g_c, maps_place + t * states + n)
                        row, k, here = t * stride + n, p * stride + n, t * GROUP * stride + n
                        after = here + GROUP * stride
                        b_t, c_t, gb, gc = load(b_tile, row), load(c_tile, row), load(g_b_tile, row), load(g_c_tile, row)
                        gb, gc, for_0, a_0 = _back(g_state, k, history, here, after, a, g_y_0, dx_0, b_t, c_t, gb, gc, for_0, a_0)
                        k, here, after = k + stride, here + stride, after + stride
                        gb, gc, for_1, a_1 = _back(g_state, k, history, here, after, a, g_y_1, dx_1, b_t, c_t, gb, gc, for_1, a_1)
                        k, here, after = k + stride, here + stride, after + stride
                        gb, gc, for_2, a_2 = _back(g_state, k, history, here, after, a, g_y_2, dx_2, b_t, c_t, gb, gc, for_2, a_2)
                        k, here, after = k + stride, here + stride, after + stride
                        gb, gc, for_3, a_3 = _back(g_state, k, history, here, after, a, g_y_3, dx_3, b_t, c_t, gb, gc, for_3, a_3)
                        store(g_b_tile, row, gb)
                        store(g_c_tile, row, gc)
                    store(through, t * LANES, load(through, t * LANES) + ((a_0 + a_1) + (a_2 + a_3)))
                    store_totals(g_x_tile, at, for_0, for_1, for_2, for_3)
            for t in range(steps):
                prefetch(x, (first + t - CHUNK) * x_hop + h * width)
                prefetch(g_y, ((first + t - CHUNK) * heads + h) * width)
                prefetch_for_write(g_x, ((first + t) * heads + h) * width)
                for_step = ZERO
                for p in range(t * wide, t * wide + width):
                    g_direct += x_tile[p] * g_y_tile[p]
                    for_step += x_tile[p] * g_x_tile[p]
                    g_x_tile[p] = step_line[t] * g_x_tile[p] + skip[h] * g_y_tile[p]
                g_step[i, start + t, h], g_decay[i, start + t, h] = for_step, total(load(through, t * LANES))
            copy_rows(g_x, (first * heads + h) * width, heads * width, g_x_tile, 0, wide, steps, width)
            copy_rows(g_b, maps_place, states, g_b_tile, 0, stride, steps, states)
            copy_rows(g_c, maps_place, states, g_c_tile, 0, stride, steps, states)
        g_skip[i, h] = g_direct


class StateSpaceDualityCPU(torch.autograd.Function):
    """:func:`lolm.ops.ssd.ssd` in float32; ``decay_BTH`` is exp(Δ A)."""

    @staticmethod
    def forward(ctx, x_BTHP, delta_BTH, decay_BTH, B_BTGN, C_BTGN, skip_H):  # type: ignore[override]
        batch, length, heads, width = x_BTHP.shape
        y = torch.empty(x_BTHP.shape)
        saved = torch.empty(batch * heads, -(-length // CHUNK), padded(width, GROUP) * padded(B_BTGN.shape[-1]))
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
