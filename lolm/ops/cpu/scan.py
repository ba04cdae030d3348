"""Selective scan on CPUs: Numba kernels, fused over step sizes, discretisation, recurrence, output and gate.

Channels lie in the lanes of vectors, a few vectors make a block, and a block walks through time in chunks of steps: two states
at a time go through a chunk, in registers on the way there and in the nearest cache on the way back. The backward pass recomputes
the states of :data:`CHUNK` steps from one saved state, so memory grows with T·I·N / CHUNK and no (B, T, I, N) tensor exists.
Every cell is summed in a fixed order, so results do not depend on the number of threads.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit
from torch.autograd.function import once_differentiable

from lolm.ops.cpu.compiled import Kernel, as_numpy, cells_of, flat, rows
from lolm.ops.cpu.vectors import (
    LANES,
    LOG2_E,
    broadcast,
    copy,
    copy_rows,
    exp2,
    fma,
    load,
    padded,
    prefetch,
    prefetch_for_write,
    repeat,
    sigmoid,
    softplus,
    softplus_and_slope,
    store,
    store_totals,
    zeros,
)

CHUNK = 16  # steps between saved states
BLOCK = 6 * LANES  # channels of a block: the way back keeps 2 · CHUNK · GROUP · BLOCK floats of states and decays
LN_2 = np.float32(np.log(2.0))
ONE = np.float32(1.0)
ZERO = np.float32(0.0)
GROUP = 2  # states taken together; an odd one gets a companion that B and C keep at zero


@njit(inline="always")
def _rates(a, lo, count):
    """A log2(e) of a block, (N · BLOCK,): exp(Δ A) = 2^(Δ A log2 e)."""
    states = a.shape[1]
    rates = zeros(states * BLOCK)
    for d in range(count):
        for n in range(states):
            rates[n * BLOCK + d] = a[lo + d, n] * LOG2_E
    return rates


@Kernel
def _forward(part, parts, u, u_hop, raw, a, b, b_hop, c, c_hop, skip, bias, gate, gate_hop, gated, batch, y, out, saved):
    channels, states = a.shape
    length = raw.size // (batch * channels)
    blocks = (channels + BLOCK - 1) // BLOCK
    for cell in cells_of(part, parts, batch * blocks):
        i = cell // blocks
        lo = (cell % blocks) * BLOCK
        count = min(BLOCK, channels - lo)
        width = padded(count)
        rates = _rates(a, lo, count)
        state = zeros(states * BLOCK)
        direct, shift = zeros(BLOCK), zeros(BLOCK)
        copy(direct, 0, skip, lo, count)
        copy(shift, 0, bias, lo, count)
        u_tile = zeros(CHUNK * BLOCK)
        raw_tile = zeros(CHUNK * BLOCK)
        gate_tile = zeros(CHUNK * BLOCK)
        y_tile = zeros(CHUNK * BLOCK)
        delta = zeros(CHUNK * BLOCK)
        du = zeros(CHUNK * BLOCK)
        for start in range(0, length, CHUNK):
            steps = min(CHUNK, length - start)
            first = i * length + start
            kept = saved[cell, start // CHUNK]
            copy(kept, 0, state, 0, states * BLOCK)
            copy_rows(u_tile, 0, BLOCK, u, first * u_hop + lo, u_hop, steps, count)
            copy_rows(raw_tile, 0, BLOCK, raw, first * channels + lo, channels, steps, count)
            if gated:
                copy_rows(gate_tile, 0, BLOCK, gate, first * gate_hop + lo, gate_hop, steps, count)
            for t in range(steps):
                row, token = t * BLOCK, first + t
                for d in range(0, width, LANES):
                    prefetch_for_write(y, token * channels + lo + d)
                    prefetch_for_write(out, token * channels + lo + d)
                    prefetch(u, (token + CHUNK) * u_hop + lo + d)
                    prefetch(raw, (token + CHUNK) * channels + lo + d)
                    prefetch(gate, (token + CHUNK) * gate_hop + lo + d)
                    u_t, step = load(u_tile, row + d), softplus(load(raw_tile, row + d) + load(shift, d))
                    store(y_tile, row + d, load(direct, d) * u_t)
                    store(delta, row + d, step)
                    store(du, row + d, step * u_t)
            for n in range(0, states, GROUP):
                for d in range(0, width, LANES):
                    k = n * BLOCK + d
                    prefetch_for_write(kept, (states + n) * BLOCK + d)  # behind these: where the next chunk keeps its own
                    prefetch_for_write(kept, (states + n + 1) * BLOCK + d)
                    rate_0, rate_1 = load(rates, k), load(rates, k + BLOCK)
                    s_0, s_1 = load(state, k), load(state, k + BLOCK)
                    for t in range(steps):
                        at, b_at, c_at = t * BLOCK + d, (first + t) * b_hop + n, (first + t) * c_hop + n
                        step, du_t = load(delta, at), load(du, at)
                        s_0 = fma(exp2(step * rate_0), s_0, du_t * repeat(b, b_at))
                        s_1 = fma(exp2(step * rate_1), s_1, du_t * repeat(b, b_at + 1))
                        y_t = fma(s_0, repeat(c, c_at), load(y_tile, at))
                        store(y_tile, at, fma(s_1, repeat(c, c_at + 1), y_t))
                    store(state, k, s_0)
                    store(state, k + BLOCK, s_1)
            copy_rows(y, first * channels + lo, channels, y_tile, 0, BLOCK, steps, count)
            if gated:
                for row in range(0, steps * BLOCK, BLOCK):
                    for d in range(row, row + width, LANES):
                        gate_t = load(gate_tile, d)
                        store(y_tile, d, load(y_tile, d) * gate_t * sigmoid(gate_t))
                copy_rows(out, first * channels + lo, channels, y_tile, 0, BLOCK, steps, count)


@njit
def _back(k, at, now, b_t, c_t, sums, for_b, for_c, history, decays, rates, g_state, g_rates):
    """One state of one vector of channels a step back in time; the gradients of Δu, of the exponent, of B and of C grow."""
    g_y, du_t, step = now
    g_du, g_exponent = sums
    g = fma(g_y, c_t, load(g_state, k))
    for_c = fma(g_y, load(history, at + GROUP * BLOCK), for_c)
    for_b = fma(g, du_t, for_b)
    g_du = fma(g, b_t, g_du)
    g = g * load(decays, at)
    store(g_state, k, g)
    through = g * load(history, at)
    store(g_rates, k, fma(through, step, load(g_rates, k)))
    return (g_du, fma(through, load(rates, k), g_exponent)), for_b, for_c


@Kernel
def _backward(
    part, parts, u, u_hop, raw, a, b, b_hop, c, c_hop, skip, bias, gate, gate_hop, gated, batch,
    y, g_out, saved, g_u, g_raw, g_a, g_maps, g_vectors, g_gate,
):  # fmt: skip
    channels, states = a.shape
    length = raw.size // (batch * channels)
    blocks = (channels + BLOCK - 1) // BLOCK
    chunks = (length + CHUNK - 1) // CHUNK
    for cell in cells_of(part, parts, batch * blocks):
        i = cell // blocks
        block = cell % blocks
        lo = block * BLOCK
        count = min(BLOCK, channels - lo)
        width = padded(count)
        rates = _rates(a, lo, count)
        direct, shift, g_direct, g_shift = zeros(BLOCK), zeros(BLOCK), zeros(BLOCK), zeros(BLOCK)
        copy(direct, 0, skip, lo, count)
        copy(shift, 0, bias, lo, count)
        g_state = zeros(states * BLOCK)
        g_rates = zeros(states * BLOCK)
        history = zeros((CHUNK + 1) * GROUP * BLOCK)
        decays = zeros(CHUNK * GROUP * BLOCK)
        g_du = zeros(CHUNK * BLOCK)
        g_exponent = zeros(CHUNK * BLOCK)
        u_tile = zeros(CHUNK * BLOCK)
        raw_tile = zeros(CHUNK * BLOCK)
        gate_tile = zeros(CHUNK * BLOCK)
        y_tile = zeros(CHUNK * BLOCK)
        g_tile = zeros(CHUNK * BLOCK)
        delta = zeros(CHUNK * BLOCK)
        du = zeros(CHUNK * BLOCK)
        for chunk in range(chunks - 1, -1, -1):
            start = chunk * CHUNK
            steps = min(CHUNK, length - start)
            first = i * length + start
            copy_rows(u_tile, 0, BLOCK, u, first * u_hop + lo, u_hop, steps, count)
            copy_rows(raw_tile, 0, BLOCK, raw, first * channels + lo, channels, steps, count)
            copy_rows(g_tile, 0, BLOCK, g_out, first * channels + lo, channels, steps, count)
            if gated:  # out = y SiLU(gate)
                copy_rows(gate_tile, 0, BLOCK, gate, first * gate_hop + lo, gate_hop, steps, count)
                copy_rows(y_tile, 0, BLOCK, y, first * channels + lo, channels, steps, count)
                for t in range(steps):
                    row, token = t * BLOCK, first + t - CHUNK
                    for d in range(0, width, LANES):
                        prefetch(g_out, token * channels + lo + d)
                        prefetch(gate, token * gate_hop + lo + d)
                        prefetch(y, token * channels + lo + d)
                        prefetch_for_write(g_gate, (first + t) * channels + lo + d)
                        gate_t, g_t = load(gate_tile, row + d), load(g_tile, row + d)
                        open_t = sigmoid(gate_t)
                        store(g_tile, row + d, g_t * gate_t * open_t)
                        slope = open_t * (ONE + gate_t * (ONE - open_t))
                        store(gate_tile, row + d, g_t * load(y_tile, row + d) * slope)
                copy_rows(g_gate, first * channels + lo, channels, gate_tile, 0, BLOCK, steps, count)
            for t in range(steps):
                row, token = t * BLOCK, first + t
                for d in range(0, width, LANES):
                    prefetch(u, (token - CHUNK) * u_hop + lo + d)
                    prefetch(raw, (token - CHUNK) * channels + lo + d)
                    prefetch_for_write(g_u, token * channels + lo + d)
                    prefetch_for_write(g_raw, token * channels + lo + d)
                    step, slope = softplus_and_slope(load(raw_tile, row + d) + load(shift, d))
                    store(raw_tile, row + d, slope)
                    store(delta, row + d, step)
                    store(du, row + d, step * load(u_tile, row + d))
                    store(g_du, row + d, broadcast(ZERO))
                    store(g_exponent, row + d, broadcast(ZERO))
            first_states = saved[cell, chunk]
            for n in range(0, states, GROUP):
                for d in range(0, width, LANES):
                    k = n * BLOCK + d
                    prefetch(first_states, (n - states) * BLOCK + d)  # before these: what the next chunk back begins from
                    prefetch(first_states, (n + 1 - states) * BLOCK + d)
                    rate_0, rate_1 = load(rates, k), load(rates, k + BLOCK)
                    s_0, s_1 = load(first_states, k), load(first_states, k + BLOCK)
                    store(history, d, s_0)
                    store(history, d + BLOCK, s_1)
                    for t in range(steps):
                        at, b_at = t * GROUP * BLOCK + d, (first + t) * b_hop + n
                        step, du_t = load(delta, t * BLOCK + d), load(du, t * BLOCK + d)
                        decay_0, decay_1 = exp2(step * rate_0), exp2(step * rate_1)
                        s_0 = fma(decay_0, s_0, du_t * repeat(b, b_at))
                        s_1 = fma(decay_1, s_1, du_t * repeat(b, b_at + 1))
                        store(decays, at, decay_0)
                        store(decays, at + BLOCK, decay_1)
                        store(history, at + GROUP * BLOCK, s_0)
                        store(history, at + (GROUP + 1) * BLOCK, s_1)
                for t in range(steps - 1, -1, -1):
                    row, b_at, c_at = t * BLOCK, (first + t) * b_hop + n, (first + t) * c_hop + n
                    b_0, c_0 = repeat(b, b_at), repeat(c, c_at)
                    b_1, c_1 = repeat(b, b_at + 1), repeat(c, c_at + 1)
                    for_b0 = for_c0 = for_b1 = for_c1 = broadcast(ZERO)
                    for d in range(0, width, LANES):
                        k, at = n * BLOCK + d, GROUP * row + d
                        now = load(g_tile, row + d), load(du, row + d), load(delta, row + d)
                        sums = load(g_du, row + d), load(g_exponent, row + d)
                        sums, for_b0, for_c0 = _back(
                            k, at, now, b_0, c_0, sums, for_b0, for_c0, history, decays, rates, g_state, g_rates
                        )
                        k, at = k + BLOCK, at + BLOCK
                        sums, for_b1, for_c1 = _back(
                            k, at, now, b_1, c_1, sums, for_b1, for_c1, history, decays, rates, g_state, g_rates
                        )
                        store(g_du, row + d, sums[0])
                        store(g_exponent, row + d, sums[1])
                    store_totals(g_maps[i, block, start + t], 2 * n, for_b0, for_c0, for_b1, for_c1)
            for row in range((steps - 1) * BLOCK, -1, -BLOCK):
                for d in range(0, width, LANES):
                    u_t, g_y, step_g = load(u_tile, row + d), load(g_tile, row + d), load(g_du, row + d)
                    g_step = fma(u_t, step_g, load(g_exponent, row + d) * LN_2)
                    store(g_direct, d, fma(u_t, g_y, load(g_direct, d)))
                    store(u_tile, row + d, fma(load(delta, row + d), step_g, load(direct, d) * g_y))
                    g_step = g_step * load(raw_tile, row + d)
                    store(raw_tile, row + d, g_step)
                    store(g_shift, d, load(g_shift, d) + g_step)
            copy_rows(g_u, first * channels + lo, channels, u_tile, 0, BLOCK, steps, count)
            copy_rows(g_raw, first * channels + lo, channels, raw_tile, 0, BLOCK, steps, count)
        for d in range(count):
            for n in range(states):
                g_a[i, lo + d, n] = g_rates[n * BLOCK + d]
            g_vectors[i, 0, lo + d], g_vectors[i, 1, lo + d] = g_direct[d], g_shift[d]


class SelectiveScanCPU(torch.autograd.Function):
    """:func:`lolm.ops.scan.selective_scan` in float32; ``gate_BTI`` may be None."""

    @staticmethod
    def forward(ctx, u_BTI, delta_BTI, A_IN, B_BTN, C_BTN, skip_I, bias_I, gate_BTI):  # type: ignore[override]
        batch, length, channels = u_BTI.shape
        blocks = -(-channels // BLOCK)
        y = torch.empty_like(u_BTI, memory_format=torch.contiguous_format)
        out = y if gate_BTI is None else torch.empty_like(y)
        saved = torch.empty(batch * blocks, -(-length // CHUNK), padded(A_IN.shape[1], GROUP) * BLOCK)
        inputs = (u_BTI, delta_BTI, A_IN, B_BTN, C_BTN, skip_I, bias_I, gate_BTI)
        _forward(*_inputs(*inputs), flat(y), flat(out), saved.numpy())
        kept = None if gate_BTI is None else y
        ctx.save_for_backward(*inputs, kept, saved)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, g_BTI):  # type: ignore[override]
        *inputs, y, saved = ctx.saved_tensors
        u, A, gate = inputs[0], inputs[2], inputs[-1]
        batch, length, channels = u.shape
        states = padded(A.shape[1], GROUP)
        blocks = -(-channels // BLOCK)
        g_u, g_delta = (torch.empty_like(u, memory_format=torch.contiguous_format) for _ in range(2))
        g_gate = None if gate is None else torch.empty_like(g_u)
        g_A, g_vectors = torch.empty(batch, channels, states), torch.empty(batch, 2, channels)  # of skip and bias
        g_maps = torch.empty(batch, blocks, length, 2 * states)  # of B and C in turn
        outputs = (g_A.numpy(), g_maps.numpy(), g_vectors.numpy(), flat(g_u if g_gate is None else g_gate))
        _backward(
            *_inputs(*inputs), flat(g_u if y is None else y), flat(g_BTI), saved.numpy(), flat(g_u), flat(g_delta), *outputs
        )
        g_B, g_C = g_maps.sum(1)[..., : 2 * A.shape[1]].unflatten(-1, (-1, 2)).unbind(-1)
        return g_u, g_delta, g_A.sum(0)[:, : A.shape[1]], g_B, g_C, *g_vectors.sum(0), g_gate


def _inputs(u, delta, A, B, C, skip, bias, gate):
    """What both kernels read. Without a gate something takes its place that is never looked at."""
    extra = padded(A.shape[1], GROUP) - A.shape[1]
    A, B, C = (F.pad(x, (0, extra)) if extra else x for x in (A, B, C))
    maps = [as_numpy(A), *rows(B), *rows(C), as_numpy(skip), as_numpy(bias)]
    return [*rows(u), flat(delta), *maps, *rows(u if gate is None else gate), gate is not None, len(u)]
