"""Selective scan on CPUs: Numba kernels, fused over step sizes, discretisation, recurrence, output and gate.

Channels lie in the lanes of vectors, a few vectors make a block, and a block walks through time with its states in the nearest
cache. The backward pass recomputes the states of :data:`CHUNK` steps from one saved state, so memory grows with T·I·N / CHUNK
and no (B, T, I, N) tensor exists. Every cell is summed in a fixed order, so results do not depend on the number of threads.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit, prange
from torch.autograd.function import once_differentiable

from lolm.mixers.compiled import Kernel, as_numpy, flat
from lolm.mixers.vectors import LANES, LOG2_E, broadcast, copy, exp2, fma, load, repeat, sigmoid, softplus, store, total, zeros

CHUNK = 16  # steps between saved states
BLOCK = 6 * LANES  # channels of a block: a chunk keeps 2 · CHUNK · N · BLOCK floats of states and decays
LN_2 = np.float32(np.log(2.0))
ONE = np.float32(1.0)


@njit
def _read(tile, source, first, channels, steps, count):
    """Copy ``count`` channels of some steps, whose first float lies at ``first``, into a tile of rows of BLOCK."""
    for t in range(steps):
        copy(tile, t * BLOCK, source, first + t * channels, count)


@njit
def _write(tile, target, first, channels, steps, count):
    for t in range(steps):
        copy(target, first + t * channels, tile, t * BLOCK, count)


@njit(inline="always")
def _rates(a, lo, count):
    """A log2(e) of a block, (N · BLOCK,): exp(Δ A) = 2^(Δ A log2 e)."""
    states = a.shape[0]
    rates = zeros(states * BLOCK)
    for n in range(states):
        for d in range(count):
            rates[n * BLOCK + d] = a[n, lo + d] * LOG2_E
    return rates


@Kernel
def _forward(u, raw, a, b, c, skip, gate, gated, y, out, saved):
    batch, length = b.shape[:2]
    channels = skip.size
    states = a.shape[0]
    blocks = (channels + BLOCK - 1) // BLOCK
    for cell in prange(batch * blocks):
        i = cell // blocks
        lo = (cell % blocks) * BLOCK
        count = min(BLOCK, channels - lo)
        width = (count + LANES - 1) // LANES * LANES
        rates = _rates(a, lo, count)
        state = zeros(states * BLOCK)
        direct = zeros(BLOCK)
        direct[:count] = skip[lo : lo + count]
        u_tile = zeros(CHUNK * BLOCK)
        raw_tile = zeros(CHUNK * BLOCK)
        gate_tile = zeros(CHUNK * BLOCK)
        y_tile = zeros(CHUNK * BLOCK)
        for start in range(0, length, CHUNK):
            steps = min(CHUNK, length - start)
            first = (i * length + start) * channels + lo
            saved[cell, start // CHUNK] = state
            _read(u_tile, u, first, channels, steps, count)
            _read(raw_tile, raw, first, channels, steps, count)
            if gated:
                _read(gate_tile, gate, first, channels, steps, count)
            for t in range(start, start + steps):
                row = (t - start) * BLOCK
                maps = (i * length + t) * states
                for d in range(0, width, LANES):
                    u_t = load(u_tile, row + d)
                    step = softplus(load(raw_tile, row + d))
                    step_u = step * u_t
                    y_t = load(direct, d) * u_t
                    for n in range(states):
                        k = n * BLOCK + d
                        decay = exp2(step * load(rates, k))
                        s = fma(decay, load(state, k), step_u * repeat(b, maps + n))
                        store(state, k, s)
                        y_t = fma(s, repeat(c, maps + n), y_t)
                    store(y_tile, row + d, y_t)
            _write(y_tile, y, first, channels, steps, count)
            if gated:
                for row in range(0, steps * BLOCK, BLOCK):
                    for d in range(row, row + width, LANES):
                        gate_t = load(gate_tile, d)
                        store(y_tile, d, load(y_tile, d) * gate_t * sigmoid(gate_t))
                _write(y_tile, out, first, channels, steps, count)


@Kernel
def _backward(u, raw, a, b, c, skip, gate, gated, y, g_out, saved, g_u, g_raw, g_a, g_b, g_c, g_skip, g_gate):
    batch, length = b.shape[:2]
    channels = skip.size
    states = a.shape[0]
    blocks = (channels + BLOCK - 1) // BLOCK
    chunks = (length + CHUNK - 1) // CHUNK
    for cell in prange(batch * blocks):
        i = cell // blocks
        block = cell % blocks
        lo = block * BLOCK
        count = min(BLOCK, channels - lo)
        width = (count + LANES - 1) // LANES * LANES
        rates = _rates(a, lo, count)
        direct = zeros(BLOCK)
        g_direct = zeros(BLOCK)
        g_du = zeros(BLOCK)
        g_exponent = zeros(BLOCK)
        direct[:count] = skip[lo : lo + count]
        g_state = zeros(states * BLOCK)
        g_rates = zeros(states * BLOCK)
        history = zeros((CHUNK + 1) * states * BLOCK)
        decays = zeros(CHUNK * states * BLOCK)
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
            first = (i * length + start) * channels + lo
            _read(u_tile, u, first, channels, steps, count)
            _read(raw_tile, raw, first, channels, steps, count)
            _read(g_tile, g_out, first, channels, steps, count)
            if gated:  # out = y SiLU(gate)
                _read(gate_tile, gate, first, channels, steps, count)
                _read(y_tile, y, first, channels, steps, count)
                for row in range(0, steps * BLOCK, BLOCK):
                    for d in range(row, row + width, LANES):
                        gate_t, g_t = load(gate_tile, d), load(g_tile, d)
                        open_t = sigmoid(gate_t)
                        store(g_tile, d, g_t * gate_t * open_t)
                        slope = open_t * (ONE + gate_t * (ONE - open_t))
                        store(gate_tile, d, g_t * load(y_tile, d) * slope)
                _write(gate_tile, g_gate, first, channels, steps, count)
            history[: states * BLOCK] = saved[cell, chunk]
            for t in range(start, start + steps):
                row = (t - start) * BLOCK
                here = (t - start) * states * BLOCK
                maps = (i * length + t) * states
                for d in range(0, width, LANES):
                    step = softplus(load(raw_tile, row + d))
                    step_u = step * load(u_tile, row + d)
                    store(delta, row + d, step)
                    store(du, row + d, step_u)
                    for n in range(states):
                        k = here + n * BLOCK + d
                        decay = exp2(step * load(rates, n * BLOCK + d))
                        store(decays, k, decay)
                        store(history, k + states * BLOCK, fma(decay, load(history, k), step_u * repeat(b, maps + n)))
            for t in range(start + steps - 1, start - 1, -1):
                row = (t - start) * BLOCK
                here = (t - start) * states * BLOCK
                maps = (i * length + t) * states
                for d in range(0, width, LANES):
                    store(g_du, d, broadcast(np.float32(0.0)))
                    store(g_exponent, d, broadcast(np.float32(0.0)))
                for n in range(states):
                    b_t, c_t = repeat(b, maps + n), repeat(c, maps + n)
                    for_b, for_c = broadcast(np.float32(0.0)), broadcast(np.float32(0.0))
                    for d in range(0, width, LANES):
                        k = n * BLOCK + d
                        g_y = load(g_tile, row + d)
                        g = fma(g_y, c_t, load(g_state, k))
                        for_c = fma(g_y, load(history, here + states * BLOCK + k), for_c)
                        for_b = fma(g, load(du, row + d), for_b)
                        store(g_du, d, fma(g, b_t, load(g_du, d)))
                        g = g * load(decays, here + k)
                        store(g_state, k, g)
                        through = g * load(history, here + k)
                        store(g_exponent, d, fma(through, load(rates, k), load(g_exponent, d)))
                        store(g_rates, k, fma(through, load(delta, row + d), load(g_rates, k)))
                    g_b[i, block, t, n] = total(for_b)
                    g_c[i, block, t, n] = total(for_c)
                for d in range(0, width, LANES):
                    u_t, g_y, step_g = load(u_tile, row + d), load(g_tile, row + d), load(g_du, d)
                    g_step = fma(u_t, step_g, load(g_exponent, d) * LN_2)
                    store(g_direct, d, fma(u_t, g_y, load(g_direct, d)))
                    store(u_tile, row + d, fma(load(delta, row + d), step_g, load(direct, d) * g_y))
                    store(raw_tile, row + d, g_step * sigmoid(load(raw_tile, row + d)))
            _write(u_tile, g_u, first, channels, steps, count)
            _write(raw_tile, g_raw, first, channels, steps, count)
        for n in range(states):
            for d in range(count):
                g_a[i, n, lo + d] = g_rates[n * BLOCK + d]
        for d in range(count):
            g_skip[i, lo + d] = g_direct[d]


class SelectiveScanCPU(torch.autograd.Function):
    """:func:`lolm.mixers.scan.selective_scan` in float32; ``gate_BTI`` may be None."""

    @staticmethod
    def forward(ctx, u_BTI, delta_BTI, A_IN, B_BTN, C_BTN, skip_I, gate_BTI):  # type: ignore[override]
        batch, length, channels = u_BTI.shape
        blocks = -(-channels // BLOCK)
        y = torch.empty_like(u_BTI, memory_format=torch.contiguous_format)
        out = y if gate_BTI is None else torch.empty_like(y)
        saved = torch.empty(batch * blocks, -(-length // CHUNK), A_IN.shape[1] * BLOCK)
        _forward(*_inputs(u_BTI, delta_BTI, A_IN, B_BTN, C_BTN, skip_I, gate_BTI), flat(y), flat(out), saved.numpy())
        kept = None if gate_BTI is None else y
        ctx.save_for_backward(u_BTI, delta_BTI, A_IN, B_BTN, C_BTN, skip_I, gate_BTI, kept, saved)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, g_BTI):  # type: ignore[override]
        *inputs, y, saved = ctx.saved_tensors
        u, A, gate = inputs[0], inputs[2], inputs[-1]
        batch, length, channels = u.shape
        states = A.shape[1]
        blocks = -(-channels // BLOCK)
        g_u, g_delta = (torch.empty_like(u, memory_format=torch.contiguous_format) for _ in range(2))
        g_gate = None if gate is None else torch.empty_like(g_u)
        g_A, g_skip = torch.empty(batch, states, channels), torch.empty(batch, channels)
        g_B, g_C = torch.empty(batch, blocks, length, states), torch.empty(batch, blocks, length, states)
        outputs = (g_A.numpy(), g_B.numpy(), g_C.numpy(), g_skip.numpy(), flat(g_u if g_gate is None else g_gate))
        _backward(
            *_inputs(*inputs), flat(g_u if y is None else y), flat(g_BTI), saved.numpy(), flat(g_u), flat(g_delta), *outputs
        )
        return g_u, g_delta, g_A.sum(0).t(), g_B.sum(1), g_C.sum(1), g_skip.sum(0), g_gate


def _inputs(u, delta, A, B, C, skip, gate):
    """What both kernels read. Without a gate something takes its place that is never looked at."""
    maps = [as_numpy(x) for x in (A.t(), B, C, skip)]
    return [flat(u), flat(delta), *maps, flat(u if gate is None else gate), gate is not None]
