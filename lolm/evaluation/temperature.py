"""The one temperature that suits given logits best: tells lost information from misplaced confidence (spec F1, F4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch

LIMIT = math.log(1e6)  # of |ln T|: beyond it logits say nothing, or everything
TOLERANCE = 1e-6
PASSES = 60


@torch.no_grad()
def fit_temperature(batches: Callable[[], Iterable[tuple[torch.Tensor, torch.Tensor]]]) -> float:
    """The T that minimises the mean cross-entropy of logits / T.

    Convex in β = 1/T, so Newton's method in β finds it, held inside a bracket of ln β that every pass narrows.

    Args:
        batches: called once per pass; logits (N, V) and targets (N,).

    Returns:
        T in [1e-6, 1e6]; an end where the logits are worse than none, or never wrong.
    """
    low, high, log_beta = -LIMIT, LIMIT, 0.0
    for _ in range(PASSES):
        beta = math.exp(log_beta)
        slope = curvature = 0.0
        for logits_NV, targets_N in batches():
            logits_NV = logits_NV.double() - logits_NV.gather(1, targets_N[:, None]).double()  # over that of the target
            p_NV = (beta * logits_NV).softmax(dim=-1)
            mean_N = (p_NV * logits_NV).sum(dim=-1)
            slope += float(mean_N.sum())
            curvature += float((p_NV * (logits_NV - mean_N[:, None]).square()).sum())
        if slope == 0:
            break
        low, high = (low, log_beta) if slope > 0 else (log_beta, high)
        newton = beta - slope / curvature if curvature > 0 else -1.0
        middle = (low + high) / 2
        wanted = math.log(newton) if newton > 0 else middle
        before, log_beta = log_beta, wanted if low < wanted < high else middle
        if abs(log_beta - before) < TOLERANCE:
            break
    return math.exp(-log_beta)
