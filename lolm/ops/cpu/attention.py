"""Causal attention on CPUs: Numba kernels, fused over rotary positions, scores, softmax and values, with windows and shared keys.

Four queries meet sixteen keys at a time, so no T × T matrix exists; the backward pass makes the probabilities again from the
logarithm of their normaliser, as FlashAttention does (Dao et al. 2022, arXiv 2205.14135). One cell of work is one head of keys
with all its query heads, and sums in a fixed order, so results do not depend on the number of threads.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch.autograd.function import once_differentiable

from lolm.ops.cpu.compiled import Kernel, as_numpy, cells_of, flat
from lolm.ops.cpu.vectors import (
    LANES,
    LOG2_E,
    MANY_REGISTERS,
    broadcast,
    copy,
    copy_rows,
    exp2,
    fma,
    largest,
    largest_lane,
    load,
    padded,
    prefetch_rows,
    repeat,
    store,
    swapped,
    total,
    will_write_rows,
    zeros,
)

ROWS = 4  # queries of a block
LN_2 = np.float32(np.log(2.0))
ZERO, ONE = np.float32(0.0), np.float32(1.0)
NEVER = np.float32(-np.inf)


@njit
def _tables(cos, sin, stride):
    """Factors of a lane and of its neighbour in rope, (T · stride,) each: x cos ∓ x' sin for pairs, x itself for the rest."""
    own, other = np.ones(len(cos) * stride, dtype=np.float32), zeros(len(cos) * stride)
    for t in range(len(cos)):
        for j in range(cos.shape[1]):
            at = t * stride + 2 * j
            own[at] = own[at + 1] = cos[t, j]
            other[at], other[at + 1] = -sin[t, j], sin[t, j]
    return own, other


@njit
def _rotate(rows, count, own, other, scale):
    """x ← scale · rope(x), in place."""
    for at in range(0, count, LANES):
        x = load(rows, at)
        store(rows, at, fma(swapped(x), load(other, at), x * load(own, at)) * scale)


@njit
def _rotated_back(rows, length, stride, own, other, scale, target, first, hop, width):
    """Write scale · rope⁻¹(rows) to rows of P floats, ``hop`` apart; the rows are overwritten."""
    for at in range(0, length * stride, LANES):
        x = load(rows, at)
        store(rows, at, (x * load(own, at) - swapped(x) * load(other, at)) * scale)
    for t in range(length):
        copy(target, first + t * hop, rows, t * stride, width)


@njit
def _columns(rows, keys, stride, width):
    """The same numbers with sixteen keys side by side: element p of key k at (k // 16) · 16 · P + 16 p + k % 16."""
    columns = zeros(keys * width)
    for k in range(0, keys, LANES):
        for p in range(width):
            for lane in range(LANES):
                columns[k * width + p * LANES + lane] = rows[(k + lane) * stride + p]
    return columns


@njit
def _times(left, hop_left, right, at, hop, first, last, out, to, hop_out):
    """Sixteen columns of a product: out[r, to …] = Σ_j left[r, j] right[at + j · hop …] for four rows r, first ≤ j < last."""
    a0 = a1 = a2 = a3 = broadcast(ZERO)
    for j in range(first, last):
        x = load(right, at + j * hop)
        a0 = fma(repeat(left, j), x, a0)
        a1 = fma(repeat(left, hop_left + j), x, a1)
        a2 = fma(repeat(left, 2 * hop_left + j), x, a2)
        a3 = fma(repeat(left, 3 * hop_left + j), x, a3)
    store(out, to, a0)
    store(out, hop_out + to, a1)
    store(out, 2 * hop_out + to, a2)
    store(out, 3 * hop_out + to, a3)


@njit
def _times_two(left, hop_left, right, at, gap, hop, first, last, out, to, hop_out):
    """The same for the columns at ``at`` and ``gap`` further on: eight sums under way keep the multipliers busy."""
    a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = broadcast(ZERO)
    for j in range(first, last):
        x, y = load(right, at + j * hop), load(right, at + gap + j * hop)
        l0, l1 = repeat(left, j), repeat(left, hop_left + j)
        l2, l3 = repeat(left, 2 * hop_left + j), repeat(left, 3 * hop_left + j)
        a0, a1, a2, a3 = fma(l0, x, a0), fma(l1, x, a1), fma(l2, x, a2), fma(l3, x, a3)
        b0, b1, b2, b3 = fma(l0, y, b0), fma(l1, y, b1), fma(l2, y, b2), fma(l3, y, b3)
    store(out, to, a0)
    store(out, hop_out + to, a1)
    store(out, 2 * hop_out + to, a2)
    store(out, 3 * hop_out + to, a3)
    store(out, to + LANES, b0)
    store(out, hop_out + to + LANES, b1)
    store(out, 2 * hop_out + to + LANES, b2)
    store(out, 3 * hop_out + to + LANES, b3)


@njit
def _products(left, stride, columns, keys, width, first, last, tile):
    """tile[r, k] = Σ_p left[r, p] columns[p, k] for a block of rows."""
    k = first
    while MANY_REGISTERS and k + 2 * LANES <= last:
        _times_two(left, stride, columns, k * width, LANES * width, LANES, 0, width, tile, k, keys)
        k += 2 * LANES
    while k < last:
        _times(left, stride, columns, k * width, LANES, 0, width, tile, k, keys)
        k += LANES


@njit
def _gathered(tile, keys, right, stride, first, last, out):
    """out[r] = Σ_k tile[r, k] right[k]."""
    v = 0
    while MANY_REGISTERS and v + 2 * LANES <= stride:
        _times_two(tile, keys, right, v, LANES, stride, first, last, out, v, stride)
        v += 2 * LANES
    while v < stride:
        _times(tile, keys, right, v, stride, first, last, out, v, stride)
        v += LANES


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
    return first, padded(min(start + ROWS, length))


@njit
def _mask(row, query, window, first, last, value):
    """Overwrite the keys that a query doesn't meet."""
    for k in range(first, min(query - window + 1, last)):
        row[k] = value
    for k in range(query + 1, last):
        row[k] = value


@njit
def _places(cell, length, hop, group, query_heads, kv_heads, width):
    """Where the first query head of a cell, its keys and its values begin."""
    text, shared = cell // kv_heads * length * hop, cell % kv_heads
    key = text + (query_heads + shared) * width
    return text + shared * group * width, key, key + kv_heads * width


@Kernel
def _forward(part, parts, heads, batch, kv_heads, width, cos, sin, window, y, normaliser):
    length = len(cos)
    hop = heads.size // (batch * length)  # floats of all heads of a token
    query_heads = hop // width - 2 * kv_heads
    group = query_heads // kv_heads
    keys, stride = padded(length), padded(width)
    own, other = _tables(cos, sin, stride)
    scale = np.float32(width**-0.5) * LOG2_E
    for cell in cells_of(part, parts, batch * kv_heads):
        i, shared = cell // kv_heads, cell % kv_heads
        query_place, key_place, value_place = _places(cell, length, hop, group, query_heads, kv_heads, width)
        next_query, next_key, next_value = _places(cell + 1, length, hop, group, query_heads, kv_heads, width)
        rows = zeros(keys * stride)
        values = zeros(keys * stride)
        copy_rows(rows, 0, stride, heads, key_place, hop, length, width)
        copy_rows(values, 0, stride, heads, value_place, hop, length, width)
        _rotate(rows, length * stride, own, other, ONE)
        columns = _columns(rows, keys, stride, width)
        queries, tile = zeros((keys + ROWS) * stride), zeros(ROWS * keys)
        out = zeros(ROWS * stride)
        for head in range(shared * group, (shared + 1) * group):
            copy_rows(queries, 0, stride, heads, query_place, hop, length, width)
            _rotate(queries, length * stride, own, other, scale)
            query_place += width
            ends = head == (shared + 1) * group - 1
            for start in range(0, length, ROWS):
                first, last = _span(start, length, window)
                met = min(start + ROWS, length)
                will_write_rows(y, (i * length * query_heads + head) * width, query_heads * width, start, met, width)
                prefetch_rows(heads, next_query if ends else query_place, hop, start, met, width)
                if ends:
                    prefetch_rows(heads, next_key, hop, start, met, width)
                    prefetch_rows(heads, next_value, hop, start, met, width)
                _products(queries[start * stride :], stride, columns, keys, width, first, last, tile)
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
                    share = ONE / total(mass)
                    for k in range(first, last, LANES):
                        store(row, k, load(row, k) * share)
                    if start + r < length:
                        normaliser[i, head, start + r] = peak - np.float32(np.log2(share))
                _gathered(tile, keys, values, stride, first, met, out)
                for t in range(start, met):
                    copy(y, ((i * length + t) * query_heads + head) * width, out, (t - start) * stride, width)


@Kernel
def _backward(part, parts, heads, batch, kv_heads, width, cos, sin, window, y, normaliser, g_y, g_heads):
    length = len(cos)
    hop = heads.size // (batch * length)
    query_heads = hop // width - 2 * kv_heads
    group = query_heads // kv_heads
    keys, stride = padded(length), padded(width)
    own, other = _tables(cos, sin, stride)
    scale = np.float32(width**-0.5)
    for cell in cells_of(part, parts, batch * kv_heads):
        i, shared = cell // kv_heads, cell % kv_heads
        query_place, key_place, value_place = _places(cell, length, hop, group, query_heads, kv_heads, width)
        next_query, next_key, next_value = _places(cell + 1, length, hop, group, query_heads, kv_heads, width)
        key_rows = zeros(keys * stride)
        value_rows = zeros(keys * stride)
        g_keys = zeros(keys * stride)
        g_values = zeros(keys * stride)
        copy_rows(key_rows, 0, stride, heads, key_place, hop, length, width)
        copy_rows(value_rows, 0, stride, heads, value_place, hop, length, width)
        _rotate(key_rows, length * stride, own, other, ONE)
        key_columns, value_columns = _columns(key_rows, keys, stride, width), _columns(value_rows, keys, stride, width)
        queries = zeros((keys + ROWS) * stride)
        g_queries = zeros((keys + ROWS) * stride)
        outs = zeros((keys + ROWS) * stride)
        g_outs = zeros((keys + ROWS) * stride)
        tile = zeros(ROWS * keys)
        g_tile = zeros(ROWS * keys)
        for head in range(shared * group, (shared + 1) * group):
            out_place = (i * length * query_heads + head) * width
            ends = head == (shared + 1) * group - 1
            copy_rows(queries, 0, stride, heads, query_place, hop, length, width)
            _rotate(queries, length * stride, own, other, scale * LOG2_E)
            copy_rows(outs, 0, stride, y, out_place, query_heads * width, length, width)
            copy_rows(g_outs, 0, stride, g_y, out_place, query_heads * width, length, width)
            for start in range(0, length, ROWS):
                first, last = _span(start, length, window)
                met = min(start + ROWS, length)
                will_write_rows(g_heads, query_place, hop, start, met, width)
                prefetch_rows(heads, next_query if ends else query_place + width, hop, start, met, width)
                prefetch_rows(y, out_place + width, query_heads * width, start, met, width)
                prefetch_rows(g_y, out_place + width, query_heads * width, start, met, width)
                if ends:
                    will_write_rows(g_heads, key_place, hop, start, met, width)
                    will_write_rows(g_heads, value_place, hop, start, met, width)
                    prefetch_rows(heads, next_key, hop, start, met, width)
                    prefetch_rows(heads, next_value, hop, start, met, width)
                here = start * stride
                _products(queries[here:], stride, key_columns, keys, width, first, last, tile)
                _products(g_outs[here:], stride, value_columns, keys, width, first, last, g_tile)
                for r in range(ROWS):
                    row, g_row = tile[r * keys : (r + 1) * keys], g_tile[r * keys : (r + 1) * keys]
                    level = normaliser[i, head, start + r] if start + r < length else ZERO
                    along = broadcast(ZERO)
                    for p in range(here + r * stride, here + (r + 1) * stride, LANES):
                        along = fma(load(outs, p), load(g_outs, p), along)
                    mean = total(along)  # of the gradient over the probabilities
                    _mask(row, start + r, window, first, last, NEVER)
                    for k in range(first, last, LANES):
                        p_k = exp2(load(row, k) - level)
                        store(row, k, p_k)
                        store(g_row, k, p_k * (load(g_row, k) - mean))
                    _mask(row, start + r, window, first, last, ZERO)
                    _mask(g_row, start + r, window, first, last, ZERO)
                _gathered(g_tile, keys, key_rows, stride, first, met, g_queries[here:])
                _spread(g_tile, keys, queries[here:], stride, first, met, g_keys)
                _spread(tile, keys, g_outs[here:], stride, first, met, g_values)
            _rotated_back(g_queries, length, stride, own, other, scale, g_heads, query_place, hop, width)
            query_place += width
        _rotated_back(g_keys, length, stride, own, other, LN_2, g_heads, key_place, hop, width)
        for t in range(length):
            copy(g_heads, value_place + t * hop, g_values, t * stride, width)


class CausalAttentionCPU(torch.autograd.Function):
    """softmax(rope(q) rope(k)ᵀ/√P) v in float32 from the heads q, k, v side by side, (B, T, H + 2K, P); (B, T, H, P) out.

    ``cos`` and ``sin`` are the tables of :func:`lolm.mixers.attention.rope_tables`, ``window`` as in
    :func:`lolm.ops.attention.causal_attention`.
    """

    @staticmethod
    def forward(ctx, heads_BTHP, kv_heads: int, cos, sin, window: int | None):  # type: ignore[override]
        batch, length, heads, width = heads_BTHP.shape
        ctx.fixed = batch, kv_heads, width, as_numpy(cos), as_numpy(sin), min(window or length, length)
        y = torch.empty(batch, length, heads - 2 * kv_heads, width)
        normaliser = torch.empty(batch, heads - 2 * kv_heads, length)
        _forward(flat(heads_BTHP), *ctx.fixed, flat(y), normaliser.numpy())
        ctx.save_for_backward(heads_BTHP, y, normaliser)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, g_BTHP):  # type: ignore[override]
        heads, y, normaliser = ctx.saved_tensors
        g_heads = torch.empty_like(heads, memory_format=torch.contiguous_format)
        _backward(flat(heads), *ctx.fixed, flat(y), normaliser.numpy(), flat(g_BTHP), flat(g_heads))
        return g_heads, None, None, None, None
