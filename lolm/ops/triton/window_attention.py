"""Causal attention over a sliding window on GPUs: Triton kernels with an online softmax, forward and backward.

As in FlashAttention-2 (Dao 2023, arXiv 2307.08691), but only the blocks of keys that a window reaches are visited, so time is
T · W and memory is T. Heads of keys are shared without copies, and the gradients of keys and values sum over their query heads
inside one program: no atomic additions, so results repeat bit by bit. Scores and sums are float32; the operands of matrix
products have the dtype of the inputs.

PyTorch's FlexAttention covers the same ground, but is a kernel only under ``torch.compile`` (else it makes the T × T scores) and
on CPUs has no compiled backward pass, so that no test here could reach it.

Shape suffixes: B batch, T time, H query heads, K heads of keys and values, P head width.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lolm.ops.triton.layout import rows, stages

BLOCK = 64  # queries, and keys, that meet at a time
LOG2_E = 1.4426950408889634


@triton.jit
def _tile(base, stride, start, length, P: tl.constexpr, BP: tl.constexpr, BLOCK: tl.constexpr):
    """Rows ``start`` … of one head as (BLOCK, BP), zero behind the end and beyond the head's width."""
    rows, p = start + tl.arange(0, BLOCK), tl.arange(0, BP)
    return tl.load(base + rows[:, None].to(tl.int64) * stride + p[None, :], (rows[:, None] < length) & (p[None, :] < P), 0.0)


@triton.jit
def _store(base, stride, start, length, block, P: tl.constexpr, BP: tl.constexpr, BLOCK: tl.constexpr):
    rows, p = start + tl.arange(0, BLOCK), tl.arange(0, BP)
    place = base + rows[:, None].to(tl.int64) * stride + p[None, :]
    tl.store(place, block.to(base.dtype.element_ty), (rows[:, None] < length) & (p[None, :] < P))


@triton.jit
def _scores(q_tile, k_tile, scale, query, key, window, BLOCK: tl.constexpr):
    """Base-2 logarithms of what the softmax normalises, −∞ for keys that a query does not meet."""
    i, j = (query + tl.arange(0, BLOCK))[:, None], (key + tl.arange(0, BLOCK))[None, :]
    scores = tl.dot(q_tile, tl.trans(k_tile), input_precision="ieee") * scale
    return tl.where((j <= i) & (i - j < window), scores, float("-inf"))


@triton.jit
def _forward(
    q, k, v, y, level, scale, length, window, heads, group, q_b, q_t, k_b, k_t, v_b, v_t,
    P: tl.constexpr, BP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    b, h, query = tl.program_id(1).to(tl.int64) // heads, tl.program_id(1) % heads, tl.program_id(0) * BLOCK
    k, v = k + b * k_b + h // group * P, v + b * v_b + h // group * P
    q_tile = _tile(q + b * q_b + h * P, q_t, query, length, P, BP, BLOCK)
    peak, mass = tl.full((BLOCK,), float("-inf"), tl.float32), tl.zeros((BLOCK,), tl.float32)
    total = tl.zeros((BLOCK, BP), tl.float32)
    for key in range(tl.maximum(query - window + 1, 0) // BLOCK * BLOCK, tl.minimum(query + BLOCK, length), BLOCK):
        scores = _scores(q_tile, _tile(k, k_t, key, length, P, BP, BLOCK), scale, query, key, window, BLOCK)
        higher = tl.maximum(peak, tl.max(scores, 1))
        base = tl.where(higher == float("-inf"), 0.0, higher)  # a query may meet none of the first block
        weights, shrink = tl.exp2(scores - base[:, None]), tl.exp2(peak - base)
        v_tile = _tile(v, v_t, key, length, P, BP, BLOCK)
        total = total * shrink[:, None] + tl.dot(weights.to(v_tile.dtype), v_tile, input_precision="ieee")
        mass, peak = mass * shrink + tl.sum(weights, 1), higher
    _store(y + (b * length * heads + h) * P, heads * P, query, length, total / mass[:, None], P, BP, BLOCK)
    i = query + tl.arange(0, BLOCK)
    tl.store(level + tl.program_id(1).to(tl.int64) * length + i, peak + tl.log2(mass), i < length)


@triton.jit
def _queries(
    q, k, v, y, g, level, mean, g_q, scale, length, window, heads, group, q_b, q_t, k_b, k_t, v_b, v_t, g_b, g_t,
    P: tl.constexpr, BP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """g_q, and for the other kernel the mean of the gradient over each query's probabilities."""
    b, h, query = tl.program_id(1).to(tl.int64) // heads, tl.program_id(1) % heads, tl.program_id(0) * BLOCK
    k, v = k + b * k_b + h // group * P, v + b * v_b + h // group * P
    own, i = (b * length * heads + h) * P, query + tl.arange(0, BLOCK)
    q_tile = _tile(q + b * q_b + h * P, q_t, query, length, P, BP, BLOCK)
    g_tile = _tile(g + b * g_b + h * P, g_t, query, length, P, BP, BLOCK)
    along = tl.sum(_tile(y + own, heads * P, query, length, P, BP, BLOCK).to(tl.float32) * g_tile, 1)
    row = tl.program_id(1).to(tl.int64) * length + i
    tl.store(mean + row, along, i < length)
    normaliser = tl.load(level + row, i < length, 0.0)
    total = tl.zeros((BLOCK, BP), tl.float32)
    for key in range(tl.maximum(query - window + 1, 0) // BLOCK * BLOCK, tl.minimum(query + BLOCK, length), BLOCK):
        k_tile, v_tile = _tile(k, k_t, key, length, P, BP, BLOCK), _tile(v, v_t, key, length, P, BP, BLOCK)
        weights = tl.exp2(_scores(q_tile, k_tile, scale, query, key, window, BLOCK) - normaliser[:, None])
        g_scores = weights * (tl.dot(g_tile, tl.trans(v_tile), input_precision="ieee") - along[:, None])
        total += tl.dot(g_scores.to(k_tile.dtype), k_tile, input_precision="ieee")
    _store(g_q + own, heads * P, query, length, total * (scale * 0.6931471805599453), P, BP, BLOCK)


@triton.jit
def _keys(
    q, k, v, g, level, mean, g_k, g_v, scale, length, window, heads, group, q_b, q_t, k_b, k_t, v_b, v_t, g_b, g_t,
    P: tl.constexpr, BP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    kv_heads = heads // group
    b, shared, key = tl.program_id(1).to(tl.int64) // kv_heads, tl.program_id(1) % kv_heads, tl.program_id(0) * BLOCK
    k_tile = _tile(k + b * k_b + shared * P, k_t, key, length, P, BP, BLOCK)
    v_tile = _tile(v + b * v_b + shared * P, v_t, key, length, P, BP, BLOCK)
    total_k, total_v = tl.zeros((BLOCK, BP), tl.float32), tl.zeros((BLOCK, BP), tl.float32)
    for h in range(shared * group, (shared + 1) * group):
        for query in range(key, tl.minimum(key + BLOCK - 1 + window, length), BLOCK):
            q_tile = _tile(q + b * q_b + h * P, q_t, query, length, P, BP, BLOCK)
            g_tile = _tile(g + b * g_b + h * P, g_t, query, length, P, BP, BLOCK)
            i = query + tl.arange(0, BLOCK)
            row = (b * heads + h) * length + i
            scores = _scores(q_tile, k_tile, scale, query, key, window, BLOCK)
            weights = tl.exp2(scores - tl.load(level + row, i < length, 0.0)[:, None])
            total_v += tl.dot(tl.trans(weights.to(g_tile.dtype)), g_tile, input_precision="ieee")
            g_scores = tl.dot(g_tile, tl.trans(v_tile), input_precision="ieee")
            g_scores = weights * (g_scores - tl.load(mean + row, i < length, 0.0)[:, None])
            total_k += tl.dot(tl.trans(g_scores.to(q_tile.dtype)), q_tile, input_precision="ieee")
    own = (b * length * kv_heads + shared) * P
    _store(g_k + own, kv_heads * P, key, length, total_k * (scale * 0.6931471805599453), P, BP, BLOCK)
    _store(g_v + own, kv_heads * P, key, length, total_v, P, BP, BLOCK)


def _launch(kernel, tensors, strided, window: int, programs: int) -> None:
    (batch, length, heads, width), kv_heads = tensors[0].shape, tensors[1].shape[2]
    counts = (width**-0.5 * LOG2_E, length, min(window, length), heads, heads // kv_heads)
    strides = [size for m in strided for size in m.stride()[:2]]
    columns = max(16, triton.next_power_of_2(width))
    wide = columns > 64
    constants = {"P": width, "BP": columns, "BLOCK": BLOCK, "num_warps": 8 if wide else 4, "num_stages": stages(tensors[0], wide)}
    kernel[triton.cdiv(length, BLOCK), batch * programs](*tensors, *counts, *strides, **constants)


@torch.library.custom_op("lolm::window_attention", mutates_args=())
def _attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> tuple[Tensor, Tensor]:
    y, level = _outputs(q, k, v, window)
    _launch(_forward, (q, k, v, y, level), (q, k, v), window, q.shape[2])
    return y, level


@_attention.register_fake
def _outputs(q, k, v, window):
    return q.new_empty(q.shape), q.new_empty(q.shape[0], q.shape[2], q.shape[1], dtype=torch.float32)


@torch.library.custom_op("lolm::window_attention_backward", mutates_args=())
def _attention_backward(
    g: Tensor, q: Tensor, k: Tensor, v: Tensor, y: Tensor, level: Tensor, window: int
) -> tuple[Tensor, Tensor, Tensor]:
    mean, (g_q, g_k, g_v) = torch.empty_like(level), _gradients(g, q, k, v, y, level, window)
    _launch(_queries, (q, k, v, y, g, level, mean, g_q), (q, k, v, g), window, q.shape[2])
    _launch(_keys, (q, k, v, g, level, mean, g_k, g_v), (q, k, v, g), window, k.shape[2])
    return g_q, g_k, g_v


@_attention_backward.register_fake
def _gradients(g, q, k, v, y, level, window):
    return tuple(m.new_empty(m.shape) for m in (q, k, v))


def _keep(ctx, inputs, output):
    *tensors, ctx.window = inputs
    ctx.save_for_backward(*tensors, *output)


def _pull_back(ctx, g, _):
    return *_attention_backward(rows(g), *ctx.saved_tensors, ctx.window), None


_attention.register_autograd(_pull_back, setup_context=_keep)


def window_attention(q_BTHP: Tensor, k_BTKP: Tensor, v_BTKP: Tensor, window: int) -> Tensor:
    """softmax(qkᵀ/√P) v over the last W positions, the query's own included; all in one dtype, float32 or lower; (B, T, H, P)."""
    return _attention(*(rows(m) for m in (q_BTHP, k_BTKP, v_BTKP)), window)[0]
