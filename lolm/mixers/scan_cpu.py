"""Selective scan on CPUs: Numba kernels, fused over discretisation, recurrence and output.

Channels are vectorised in blocks that keep their states in the first-level cache; the backward pass recomputes the
states from one saved state every :data:`CHUNK` steps, so memory grows with T·N and no (B, T, D, N) tensor exists.
Every cell is summed in a fixed order, so results do not depend on the number of threads.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import float32, get_num_threads, int32, njit, prange, set_num_threads
from numba.extending import intrinsic
from torch.autograd.function import once_differentiable

# Numba's OpenMP layer would raise the thread count of torch's OpenMP runtime behind its back; its own work queue does not, but
# takes one caller at a time.
numba.config.THREADING_LAYER = "workqueue"  # type: ignore[attr-defined]
_one_caller = threading.Lock()


@contextmanager
def kernel_threads() -> Iterator[None]:
    """Alone in Numba, with as many threads as torch uses: one process of a pair must not take both cores."""
    with _one_caller:
        wanted = min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
        if get_num_threads() != wanted:
            set_num_threads(wanted)
        yield


CHUNK = 32  # steps between saved states
BLOCK = 32  # channels of a block: N * BLOCK states and CHUNK * N * BLOCK recomputed ones stay in cache


@intrinsic
def _as_float(typingctx, bits):
    """Reinterpret the bits of an int32 as a float32."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.FloatType())

    return float32(int32), codegen


@njit(inline="always")
def _exp(x):
    """exp(x) for x <= 0 in float32, within 2 ulp: powers of two by bits, the rest by a polynomial that vectorises."""
    x = max(x, np.float32(-87.0))
    k = np.floor(x * np.float32(1.4426950408889634) + np.float32(0.5))
    r = x - k * np.float32(0.693359375)
    r = r - k * np.float32(-2.12194440e-4)
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = p * r * r + r + np.float32(1.0)
    return p * _as_float((np.int32(k) + np.int32(127)) << np.int32(23))


@njit(fastmath={"reassoc", "contract", "nsz"}, inline="never")
def _dot(a, b):
    total = np.float32(0.0)
    for i in range(a.shape[0]):
        total += a[i] * b[i]
    return total


@njit(fastmath={"contract", "nsz"}, inline="never")
def _advance(state, decay, previous, delta, du, a_row, b):
    """One step of one state row: decay = exp(delta a), state = decay previous + delta u b."""
    for d in range(state.shape[0]):
        decay[d] = _exp(delta[d] * a_row[d])
        state[d] = decay[d] * previous[d] + du[d] * b


@njit(fastmath={"contract", "nsz"}, inline="never")
def _forward_row(state, y, delta, du, a_row, b, c):
    for d in range(state.shape[0]):
        s = _exp(delta[d] * a_row[d]) * state[d] + du[d] * b
        state[d] = s
        y[d] += s * c


@njit(fastmath={"contract", "nsz"}, inline="never")
def _backward_row(g_state, gy, decay, previous, delta, a_row, b, c, g_row, g_du, g_da, g_a_row):
    for d in range(g_state.shape[0]):
        g = g_state[d] + gy[d] * c
        g_row[d] = g
        g_du[d] += g * b
        through_decay = g * previous[d] * decay[d]
        g_da[d] += through_decay * a_row[d]
        g_a_row[d] += through_decay * delta[d]
        g_state[d] = g * decay[d]


@njit(parallel=True, cache=True, nogil=True)
def _forward(u, delta, a, b, c, skip, y, saved):
    batch, length, channels = u.shape
    states = a.shape[0]
    blocks = (channels + BLOCK - 1) // BLOCK
    for cell in prange(batch * blocks):
        i = cell // blocks
        lo = (cell % blocks) * BLOCK
        hi = min(lo + BLOCK, channels)
        state = np.zeros((states, hi - lo), dtype=np.float32)
        du = np.empty(hi - lo, dtype=np.float32)
        for t in range(length):
            if t % CHUNK == 0:
                saved[i, t // CHUNK, :, lo:hi] = state
            delta_t = delta[i, t, lo:hi]
            y_t = y[i, t, lo:hi]
            for d in range(hi - lo):
                du[d] = delta_t[d] * u[i, t, lo + d]
                y_t[d] = skip[lo + d] * u[i, t, lo + d]
            for n in range(states):
                _forward_row(state[n], y_t, delta_t, du, a[n, lo:hi], b[i, t, n], c[i, t, n])


@njit(parallel=True, cache=True, nogil=True)
def _backward(u, delta, a, b, c, skip, gy, saved, g_u, g_delta, g_a, g_b, g_c, g_skip):
    batch, length, channels = u.shape
    states = a.shape[0]
    blocks = (channels + BLOCK - 1) // BLOCK
    chunks = (length + CHUNK - 1) // CHUNK
    for cell in prange(batch * blocks):
        i = cell // blocks
        block = cell % blocks
        lo = block * BLOCK
        hi = min(lo + BLOCK, channels)
        width = hi - lo
        g_state = np.zeros((states, width), dtype=np.float32)
        history = np.empty((CHUNK + 1, states, width), dtype=np.float32)
        decay = np.empty((CHUNK, states, width), dtype=np.float32)
        du = np.empty((CHUNK, width), dtype=np.float32)
        g_row = np.empty(width, dtype=np.float32)
        g_du = np.empty(width, dtype=np.float32)
        g_da = np.empty(width, dtype=np.float32)
        for chunk in range(chunks - 1, -1, -1):
            start = chunk * CHUNK
            stop = min(start + CHUNK, length)
            history[0] = saved[i, chunk, :, lo:hi]
            for t in range(start, stop):
                s = t - start
                for d in range(width):
                    du[s, d] = delta[i, t, lo + d] * u[i, t, lo + d]
                for n in range(states):
                    _advance(history[s + 1, n], decay[s, n], history[s, n], delta[i, t, lo:hi], du[s], a[n, lo:hi], b[i, t, n])
            for t in range(stop - 1, start - 1, -1):
                s = t - start
                gy_t = gy[i, t, lo:hi]
                delta_t = delta[i, t, lo:hi]
                g_du[:] = 0.0
                g_da[:] = 0.0
                for n in range(states):
                    g_c[i, block, t, n] = _dot(gy_t, history[s + 1, n])
                    _backward_row(
                        g_state[n], gy_t, decay[s, n], history[s, n], delta_t, a[n, lo:hi], b[i, t, n], c[i, t, n],
                        g_row, g_du, g_da, g_a[i, n, lo:hi],
                    )  # fmt: skip
                    g_b[i, block, t, n] = _dot(g_row, du[s])
                for d in range(width):
                    u_t = u[i, t, lo + d]
                    g_u[i, t, lo + d] = delta_t[d] * g_du[d] + skip[lo + d] * gy_t[d]
                    g_delta[i, t, lo + d] = u_t * g_du[d] + g_da[d]
                    g_skip[i, lo + d] += u_t * gy_t[d]


def as_numpy(x: torch.Tensor) -> np.ndarray:
    return x.detach().contiguous().numpy()


class SelectiveScanCPU(torch.autograd.Function):
    """y = scan(u, delta, A, B, C) + skip·u in float32; shapes as in :func:`lolm.mixers.scan.selective_scan`."""

    @staticmethod
    def forward(ctx, u_BTD, delta_BTD, A_DN, B_BTN, C_BTN, skip_D):  # type: ignore[override]
        batch, length, channels = u_BTD.shape
        inputs = [as_numpy(x) for x in (u_BTD, delta_BTD, A_DN.t(), B_BTN, C_BTN, skip_D)]
        y = torch.empty_like(u_BTD, memory_format=torch.contiguous_format)
        saved = torch.empty(batch, -(-length // CHUNK), A_DN.shape[1], channels)
        with kernel_threads():
            _forward(*inputs, y.numpy(), saved.numpy())
        ctx.save_for_backward(u_BTD, delta_BTD, A_DN, B_BTN, C_BTN, skip_D, saved)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, gy_BTD):  # type: ignore[override]
        u, delta, A, B, C, skip, saved = ctx.saved_tensors
        batch, length, channels = u.shape
        states = A.shape[1]
        blocks = -(-channels // BLOCK)
        g_u, g_delta = torch.empty_like(u), torch.empty_like(u)
        g_A = torch.zeros(batch, states, channels)
        g_B, g_C = torch.empty(batch, blocks, length, states), torch.empty(batch, blocks, length, states)
        g_skip = torch.zeros(batch, channels)
        inputs = [as_numpy(x) for x in (u, delta, A.t(), B, C, skip, gy_BTD)]
        outputs = [x.numpy() for x in (g_u, g_delta, g_A, g_B, g_C, g_skip)]
        with kernel_threads():
            _backward(*inputs, as_numpy(saved), *outputs)
        return g_u, g_delta, g_A.sum(0).t(), g_B.sum(1), g_C.sum(1), g_skip.sum(0)
