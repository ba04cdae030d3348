"""Cross-entropy on CPUs: Numba kernels that read the logits once in each direction.

The forward pass keeps the logarithm of each row's normaliser, from which the backward pass makes the probabilities again. No sum
crosses a row, so results do not depend on the number of threads.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from lolm.ops.cpu.compiled import Kernel, as_numpy, cells_of, flat
from lolm.ops.cpu.vectors import (
    LANES,
    LOG2_E,
    broadcast,
    copy,
    exp2,
    largest,
    largest_lane,
    load,
    padded,
    prefetch,
    prefetch_for_write,
    store,
    total,
    zeros,
)

ROWS = 32  # rows of a cell of work
AHEAD = 2  # rows that are asked for before they are needed
NEVER = np.float32(-np.inf)
ZERO = np.float32(0.0)


@Kernel
def _forward(part, parts, logits, targets, ignored, nats, normaliser):
    rows = targets.size
    width = logits.size // max(rows, 1)
    for block in cells_of(part, parts, (rows + ROWS - 1) // ROWS):
        line = zeros(padded(width))
        line[width:] = NEVER
        for n in range(block * ROWS, min((block + 1) * ROWS, rows)):
            copy(line, 0, logits, n * width, width)
            top = load(line, 0)
            for v in range(LANES, width, LANES):
                prefetch(logits, (n + AHEAD) * width + v)
                top = largest(top, load(line, v))
            peak = largest_lane(top)
            mass = broadcast(ZERO)
            for v in range(0, width, LANES):
                mass = mass + exp2((load(line, v) - peak) * LOG2_E)
            rest = np.float32(np.log(total(mass)))
            normaliser[n] = peak + rest
            nats[n] = ZERO
            if targets[n] != ignored:
                nats[n] = (peak - line[targets[n]]) + rest


@Kernel
def _backward(part, parts, logits, targets, ignored, normaliser, scale, g):
    rows = targets.size
    width = logits.size // max(rows, 1)
    for block in cells_of(part, parts, (rows + ROWS - 1) // ROWS):
        line = zeros(padded(width))
        for n in range(block * ROWS, min((block + 1) * ROWS, rows)):
            counts = scale[0] if targets[n] != ignored else ZERO
            copy(line, 0, logits, n * width, width)
            for v in range(0, width, LANES):
                prefetch(logits, (n + AHEAD) * width + v)
                prefetch_for_write(g, (n + AHEAD) * width + v)
                store(line, v, exp2((load(line, v) - normaliser[n]) * LOG2_E) * counts)
            if targets[n] != ignored:
                line[targets[n]] -= counts
            copy(g, n * width, line, 0, width)


class CrossEntropyCPU(torch.autograd.Function):
    """:func:`lolm.ops.cross_entropy.cross_entropy` in float32."""

    @staticmethod
    def forward(ctx, logits_NV, targets_N, ignored: int):  # type: ignore[override]
        targets, columns = as_numpy(targets_N), logits_NV.shape[1]
        if ((targets != ignored) & ((targets < 0) | (targets >= columns))).any():
            raise IndexError(f"a target is none of the {columns} columns of the logits, nor {ignored}, which is left out")
        nats, normaliser = torch.empty(len(targets)), torch.empty(len(targets))
        _forward(flat(logits_NV), targets, ignored, nats.numpy(), normaliser.numpy())
        ctx.save_for_backward(logits_NV, targets_N, normaliser)
        ctx.ignored = ignored
        return nats.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx, g):  # type: ignore[override]
        logits, targets, normaliser = ctx.saved_tensors
        g_logits = torch.empty(logits.shape)
        _backward(flat(logits), as_numpy(targets), ctx.ignored, normaliser.numpy(), g.reshape(1).numpy(), flat(g_logits))
        return g_logits, None, None
