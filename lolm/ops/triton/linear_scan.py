"""The diagonal linear scan in Triton, for :func:`lolm.ops.linear_scan.linear_scan`: one pass over time in either direction.

A program (one warp) carries 32 channels of one sequence; what several steps read is loaded before the first of them.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lolm.ops.triton.layout import rows

CHANNELS = 32
STEPS = 8  # loaded together


@triton.jit
def _forward(a, b, h, T, C, a_b, a_t, b_b, b_t, CHANNELS: tl.constexpr, STEPS: tl.constexpr):
    c = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    batch = tl.program_id(1).to(tl.int64)
    a += batch * a_b + c
    b += batch * b_b + c
    h += batch * T * C + c
    state = tl.zeros([CHANNELS], tl.float32)
    for first in range(0, T, STEPS):
        factors, inputs = (), ()
        for j in tl.static_range(STEPS):
            here = (c < C) & (first + j < T)
            factors += (tl.load(a + (first + j) * a_t, mask=here, other=0.0).to(tl.float32),)
            inputs += (tl.load(b + (first + j) * b_t, mask=here, other=0.0).to(tl.float32),)
        for j in tl.static_range(STEPS):
            state = factors[j] * state + inputs[j]
            tl.store(h + (first + j) * C, state, mask=(c < C) & (first + j < T))


@triton.jit
def _backward(a, h, g, da, db, T, C, a_b, a_t, g_b, g_t, CHANNELS: tl.constexpr, STEPS: tl.constexpr):
    c = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    batch = tl.program_id(1).to(tl.int64)
    a += batch * a_b + c
    g += batch * g_b + c
    h += batch * T * C + c
    da += batch * T * C + c
    db += batch * T * C + c
    q = tl.zeros([CHANNELS], tl.float32)  # gradient of the state that the step before leaves
    for back in range(0, T, STEPS):
        last = T - 1 - back
        factors, befores, gradients = (), (), ()
        for j in tl.static_range(STEPS):
            t = last - j
            factors += (tl.load(a + t * a_t, mask=(c < C) & (t >= 0), other=0.0).to(tl.float32),)
            befores += (tl.load(h + (t - 1) * C, mask=(c < C) & (t >= 1), other=0.0),)
            gradients += (tl.load(g + t * g_t, mask=(c < C) & (t >= 0), other=0.0).to(tl.float32),)
        for j in tl.static_range(STEPS):
            t = last - j
            r = gradients[j] + q
            q = factors[j] * r
            tl.store(da + t * C, (r * befores[j]).to(da.dtype.element_ty), mask=(c < C) & (t >= 0))
            tl.store(db + t * C, r.to(db.dtype.element_ty), mask=(c < C) & (t >= 0))


@torch.library.custom_op("lolm::linear_scan", mutates_args=())
def _scan(a: Tensor, b: Tensor) -> Tensor:
    h = _states(a, b)
    _forward[_grid(a)](a, b, h, *a.shape[1:], *a.stride()[:2], *b.stride()[:2], CHANNELS, STEPS, num_warps=1)
    return h


@_scan.register_fake
def _states(a, b):
    return a.new_empty(a.shape, dtype=torch.float32)


@torch.library.custom_op("lolm::linear_scan_backward", mutates_args=())
def _scan_backward(a: Tensor, h: Tensor, g: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    da, db = _gradients(a, h, g, like)
    _backward[_grid(a)](a, h, g, da, db, *a.shape[1:], *a.stride()[:2], *g.stride()[:2], CHANNELS, STEPS, num_warps=1)
    return da, db


@_scan_backward.register_fake
def _gradients(a, h, g, like):
    return a.new_empty(a.shape), like.new_empty(a.shape)


def _keep(ctx, inputs, output):
    ctx.like = inputs[1].new_empty(0)
    ctx.save_for_backward(inputs[0], output)


def _pull_back(ctx, g):
    return _scan_backward(*ctx.saved_tensors, rows(g), ctx.like)


_scan.register_autograd(_pull_back, setup_context=_keep)


def _grid(a: Tensor) -> tuple[int, int]:
    return triton.cdiv(a.shape[2], CHANNELS), a.shape[0]


def linear_scan(a_BTC: Tensor, b_BTC: Tensor) -> Tensor:
    """:func:`lolm.ops.linear_scan.linear_scan` of float32 or bfloat16 factors and inputs; h_BTC in float32."""
    return _scan(*(rows(x) for x in (a_BTC, b_BTC)))
