"""Causal attention on CPUs: Numba kernels, fused over rotary positions, scores, softmax and values, with windows and shared keys.

Four queries meet sixteen keys at a time, so no T × T matrix exists; the backward pass makes the probabilities again from the
logarithm of their normaliser, as FlashAttention does (Dao et al. 2022, arXiv 2205.14135). One cell of work is one head of keys
with all its query heads, and sums in a fixed order, so results do not depend on the number of threads.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit, prange
from torch.autograd.function import once_differentiable

from lolm.mixers.compiled import as_numpy, kernel_threads
from lolm.mixers.vectors import LANES, LOG2_E, broadcast, exp2, fma, largest, largest_lane, load, repeat, store, total

ROWS = 4  # queries of a block
LN_2 = np.float32(np.log(2.0))
ZERO = np.float32(0.0)
NEVER = np.float32(-np.inf)


@njit
def _rotated(heads, i, head, cos, sin, scale, rows, stride):
    """Write scale · rope(x) of one head to rows of ``stride`` floats."""
    length, width = heads.shape[1], heads.shape[3]
    pairs = cos.shape[1]
    for t in range(length):
        at = t * stride
        for j in range(pairs):
            even, odd = heads[i, t, head, 2 * j] * scale, heads[i, t, head, 2 * j + 1] * scale
            rows[at + 2 * j] = even * cos[t, j] - odd * sin[t, j]
            rows[at + 2 * j + 1] = even * sin[t, j] + odd * cos[t, j]
        for p in range(2 * pairs, width):
            rows[at + p] = heads[i, t, head, p] * scale


@njit
def _columns(rows, keys, stride, width):
    """The same numbers with sixteen keys side by side: element p of key k at (k // 16) · 16 · P + 16 p + k % 16."""
    columns = np.empty(keys * width, dtype=np.float32)
    for k in range(0, keys, LANES):
        for p in range(width):
            for lane in range(LANES):
                columns[k * width + p * LANES + lane] = rows[(k + lane) * stride + p]
    return columns


@njit
def _rotated_back(rows, stride, cos, sin, scale, g_heads, i, head):
    """Write scale · rope⁻¹(rows) to one head."""
    length, width = g_heads.shape[1], g_heads.shape[3]
    pairs = cos.shape[1]
    for t in range(length):
        at = t * stride
        for j in range(pairs):
            even, odd = rows[at + 2 * j] * scale, rows[at + 2 * j + 1] * scale
            g_heads[i, t, head, 2 * j] = even * cos[t, j] + odd * sin[t, j]
            g_heads[i, t, head, 2 * j + 1] = odd * cos[t, j] - even * sin[t, j]
        for p in range(2 * pairs, width):
            g_heads[i, t, head, p] = rows[at + p] * scale


@njit
def _products(left, stride, columns, keys, width, first, last, tile):
    """tile[r, k] = Σ_p left[r, p] columns[p, k] for a block of rows."""
    for k in range(first, last, LANES):
        a0 = a1 = a2 = a3 = broadcast(ZERO)
        for p in range(width):
            x = load(columns, k * width + p * LANES)
            a0 = fma(repeat(left, p), x, a0)
            a1 = fma(repeat(left, stride + p), x, a1)
            a2 = fma(repeat(left, 2 * stride + p), x, a2)
            a3 = fma(repeat(left, 3 * stride + p), x, a3)
        store(tile, k, a0)
        store(tile, keys + k, a1)
        store(tile, 2 * keys + k, a2)
        store(tile, 3 * keys + k, a3)


@njit
def _gathered(tile, stride_tile, right, stride, first, last, out):
    """out[r] = Σ_k tile[r, k] right[k]."""
    for v in range(0, stride, LANES):
        a0 = a1 = a2 = a3 = broadcast(ZERO)
        for k in range(first, last):
            x = load(right, k * stride + v)
            a0 = fma(repeat(tile, k), x, a0)
            a1 = fma(repeat(tile, stride_tile + k), x, a1)
            a2 = fma(repeat(tile, 2 * stride_tile + k), x, a2)
            a3 = fma(repeat(tile, 3 * stride_tile + k), x, a3)
        store(out, v, a0)
        store(out, stride + v, a1)
        store(out, 2 * stride + v, a2)
        store(out, 3 * stride + v, a3)


@njit
def _spread(tile, stride_tile, left, stride, first, last, sums):
    """sums[k] += Σ_r tile[r, k] left[r]."""
    for v in range(0, stride, LANES):
        x0, x1, x2, x3 = load(left, v), load(left, stride + v), load(left, 2 * stride + v), load(left, 3 * stride + v)
        for k in range(first, last):
            a = fma(repeat(tile, k), x0, load(sums, k * stride + v))
            a = fma(repeat(tile, stride_tile + k), x1, a)
            a = fma(repeat(tile, 2 * stride_tile + k), x2, a)
            store(sums, k * stride + v, fma(repeat(tile, 3 * stride_tile + k), x3, a))


@njit
def _span(start, length, window):
    """First and last key, in whole vectors, that a block of queries meets."""
    first = max(0, start - window + 1) // LANES * LANES
    return first, (min(start + ROWS, length) + LANES - 1) // LANES * LANES


@njit
def _mask(row, query, window, first, last, value):
    """Overwrite the keys that a query doesn't meet."""
    for k in range(first, min(query - window + 1, last)):
        row[k] = value
    for k in range(query + 1, last):
        row[k] = value


@njit
def _sizes(heads, kv_heads):
    length, width = heads.shape[1], heads.shape[3]
    keys = (length + LANES - 1) // LANES * LANES
    stride = (width + LANES - 1) // LANES * LANES
    return length, width, keys, stride, (heads.shape[2] - 2 * kv_heads) // kv_heads


@njit(parallel=True, cache=True, nogil=True, error_model="numpy")
def _forward(heads, kv_heads, cos, sin, none, window, y, normaliser):
    length, width, keys, stride, group = _sizes(heads, kv_heads)
    scale = np.float32(width**-0.5) * LOG2_E
    for cell in prange(heads.shape[0] * kv_heads):
        i, shared = cell // kv_heads, cell % kv_heads
        rows, values = np.zeros((2, keys * stride), dtype=np.float32)
        _rotated(heads, i, group * kv_heads + shared, cos, sin, np.float32(1.0), rows, stride)
        _rotated(heads, i, (group + 1) * kv_heads + shared, none, none, np.float32(1.0), values, stride)
        key_columns = _columns(rows, keys, stride, width)
        queries, tile = np.zeros((keys + ROWS) * stride, dtype=np.float32), np.zeros(ROWS * keys, dtype=np.float32)
        out, shares = np.zeros(ROWS * stride, dtype=np.float32), np.zeros(ROWS, dtype=np.float32)
        for head in range(shared * group, (shared + 1) * group):
            _rotated(heads, i, head, cos, sin, scale, queries, stride)
            for start in range(0, length, ROWS):
                first, last = _span(start, length, window)
                _products(queries[start * stride :], stride, key_columns, keys, width, first, last, tile)
                for r in range(ROWS):
                    row = tile[r * keys : (r + 1) * keys]
                    _mask(row, start + r, window, first, last, NEVER)
                    top = load(row, first)
                    for k in range(first + LANES, last, LANES):
                        top = largest(top, load(row, k))
                    peak = largest_lane(top)
                    mass = broadcast(ZERO)
                    for k in range(first, last, LANES):
                        p = exp2(load(row, k) - peak)
                        store(row, k, p)
                        mass = mass + p
                    _mask(row, start + r, window, first, last, ZERO)
                    shares[r] = np.float32(1.0) / total(mass)
                    if start + r < length:
                        normaliser[i, head, start + r] = peak - np.float32(np.log2(shares[r]))
                _gathered(tile, keys, values, stride, first, min(start + ROWS, length), out)
                for r in range(min(ROWS, length - start)):
                    for p in range(width):
                        y[i, start + r, head, p] = out[r * stride + p] * shares[r]


@njit(parallel=True, cache=True, nogil=True, error_model="numpy")
def _backward(heads, kv_heads, cos, sin, none, window, y, normaliser, g_y, g_heads):
    length, width, keys, stride, group = _sizes(heads, kv_heads)
    scale = np.float32(width**-0.5)
    one = np.float32(1.0)
    for cell in prange(heads.shape[0] * kv_heads):
        i, shared = cell // kv_heads, cell % kv_heads
        key_head, value_head = group * kv_heads + shared, (group + 1) * kv_heads + shared
        key_rows, value_rows, g_keys, g_values = np.zeros((4, keys * stride), dtype=np.float32)
        _rotated(heads, i, key_head, cos, sin, one, key_rows, stride)
        _rotated(heads, i, value_head, none, none, one, value_rows, stride)
        key_columns, value_columns = _columns(key_rows, keys, stride, width), _columns(value_rows, keys, stride, width)
        queries, g_queries, g_out = np.zeros((3, (keys + ROWS) * stride), dtype=np.float32)
        tile, g_tile = np.zeros((2, ROWS * keys), dtype=np.float32)
        for head in range(shared * group, (shared + 1) * group):
            _rotated(heads, i, head, cos, sin, scale * LOG2_E, queries, stride)
            _rotated(g_y, i, head, none, none, one, g_out, stride)
            for start in range(0, length, ROWS):
                first, last = _span(start, length, window)
                here = start * stride
                _products(queries[here:], stride, key_columns, keys, width, first, last, tile)
                _products(g_out[here:], stride, value_columns, keys, width, first, last, g_tile)
                for r in range(ROWS):
                    row, g_row = tile[r * keys : (r + 1) * keys], g_tile[r * keys : (r + 1) * keys]
                    level, mean = ZERO, ZERO
                    if start + r < length:
                        level = normaliser[i, head, start + r]
                        for p in range(width):
                            mean += g_y[i, start + r, head, p] * y[i, start + r, head, p]
                    _mask(row, start + r, window, first, last, NEVER)
                    for k in range(first, last, LANES):
                        p_k = exp2(load(row, k) - level)
                        store(row, k, p_k)
                        store(g_row, k, p_k * (load(g_row, k) - mean))
                    _mask(row, start + r, window, first, last, ZERO)
                    _mask(g_row, start + r, window, first, last, ZERO)
                met = min(start + ROWS, length)
                _gathered(g_tile, keys, key_rows, stride, first, met, g_queries[here:])
                _spread(g_tile, keys, queries[here:], stride, first, met, g_keys)
                _spread(tile, keys, g_out[here:], stride, first, met, g_values)
            _rotated_back(g_queries, stride, cos, sin, scale, g_heads, i, head)
        _rotated_back(g_keys, stride, cos, sin, LN_2, g_heads, i, key_head)
        _rotated_back(g_values, stride, none, none, one, g_heads, i, value_head)


class CausalAttentionCPU(torch.autograd.Function):
    """softmax(rope(q) rope(k)ᵀ/√P) v in float32 from the heads q, k, v side by side, (B, T, H + 2K, P); (B, T, H, P) out.

    ``cos`` and ``sin`` are the tables of :func:`lolm.mixers.attention.rope_tables`, ``window`` as in
    :func:`lolm.mixers.attention.causal_attention`.
    """

    @staticmethod
    def forward(ctx, heads_BTHP, kv_heads: int, cos, sin, window: int | None):  # type: ignore[override]
        batch, length, heads, width = heads_BTHP.shape
        ctx.fixed = kv_heads, as_numpy(cos), as_numpy(sin), as_numpy(cos[:, :0]), min(window or length, length)
        y = torch.empty(batch, length, heads - 2 * kv_heads, width)
        normaliser = torch.empty(batch, heads - 2 * kv_heads, length)
        with kernel_threads():
            _forward(as_numpy(heads_BTHP), *ctx.fixed, y.numpy(), normaliser.numpy())
        ctx.save_for_backward(heads_BTHP, y, normaliser)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, g_BTHP):  # type: ignore[override]
        heads, y, normaliser = ctx.saved_tensors
        g_heads = torch.empty_like(heads, memory_format=torch.contiguous_format)
        with kernel_threads():
            _backward(as_numpy(heads), *ctx.fixed, y.numpy(), normaliser.numpy(), as_numpy(g_BTHP), g_heads.numpy())
        return g_heads, None, None, None, None
