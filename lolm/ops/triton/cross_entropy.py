"""Cross-entropy of a linear head in Triton: what is needed of a block of logits, in two readings of them."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lolm.ops.cross_entropy import block_by_block

BLOCK = 4096  # columns at a time


@triton.jit
def _kernel(logits, targets, nats, gradient, columns, ignored, BLOCK: tl.constexpr):
    row, lane = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    logits += row * columns
    target = tl.load(targets + row)
    asked = target != ignored
    peak, mass = tl.full((BLOCK,), float("-inf"), tl.float32), tl.zeros((BLOCK,), tl.float32)  # of each lane
    for start in range(0, columns, BLOCK):
        x = tl.load(logits + start + lane, start + lane < columns, float("-inf"))
        higher = tl.maximum(peak, x, propagate_nan=tl.PropagateNan.ALL)
        base = tl.where(higher == float("-inf"), 0.0, higher)
        mass, peak = mass * tl.exp(peak - base) + tl.exp(x - base), higher
    top = tl.max(peak, 0)
    normaliser = top + tl.log(tl.sum(mass * tl.exp(peak - top), 0))
    # A target that is no column is not hidden: the sum becomes NaN.
    known = (target >= 0) & (target < columns)
    at_target = tl.load(logits + target, known, float("nan"))
    tl.store(nats + row, tl.where(asked, normaliser - at_target, 0.0))
    if gradient is not None:
        gradient += row * columns
        for start in range(0, columns, BLOCK):
            there = start + lane < columns
            p = tl.exp(tl.load(logits + start + lane, there, float("-inf")) - normaliser)
            g = tl.where(asked, tl.where(start + lane == target, p - 1, p), 0.0)
            tl.store(gradient + start + lane, g.to(gradient.dtype.element_ty), there)


def nats_and_gradient(
    logits_NV: Tensor, targets_N: Tensor, ignored: int, dtype: torch.dtype | None
) -> tuple[Tensor, Tensor | None]:
    """:func:`lolm.ops.cross_entropy.nats_and_gradient`."""
    nats = logits_NV.new_empty(len(logits_NV))
    gradient = None if dtype is None else torch.empty_like(logits_NV, dtype=dtype)
    columns = logits_NV.shape[1]
    block = min(BLOCK, triton.next_power_of_2(columns))
    _kernel[(len(logits_NV),)](logits_NV, targets_N, nats, gradient, columns, ignored, BLOCK=block, num_warps=8)
    return nats, gradient


def linear_cross_entropy(x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, ignored: int = -100, block: int = 4096) -> Tensor:
    """:func:`lolm.ops.cross_entropy.linear_cross_entropy`; a target that is no column makes it NaN."""
    return block_by_block(x_ND, weight_VD, targets_N, ignored, block, nats_and_gradient)
