"""The one temperature that suits given logits best: tells lost information from misplaced confidence (facts F1, F4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch

LIMIT = math.log(1e6)  # of |ln T|: beyond it logits say nothing, or everything
TOLERANCE = 1e-6  # of ln T, for a step that halves the bracket
NEWTON = 1e-3  # the same for Newton's step, whose error after it is about the square of the step
PASSES = 60


@torch.no_grad()
def fit_temperature(batches: Callable[[], Iterable[tuple[torch.Tensor, torch.Tensor]]]) -> float:
    """The T that minimises the mean cross-entropy of logits / T.

    Convex in β = 1/T, so Newton's method in β finds it, held inside a bracket of ln β that every pass narrows. Tokens are
    computed in float32 and summed in float64.

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
            first, second = _derivatives(logits_NV, targets_N, beta)
            slope, curvature = slope + first, curvature + second
        if slope == 0:
            break
        low, high = (low, log_beta) if slope > 0 else (log_beta, high)
        newton = beta - slope / curvature if curvature > 0 else -1.0
        wanted = math.log(newton) if newton > 0 else math.inf
        trusted = low < wanted < high
        before, log_beta = log_beta, wanted if trusted else (low + high) / 2
        if abs(log_beta - before) < (NEWTON if trusted else TOLERANCE):
            break
    return math.exp(-log_beta)


def _derivatives(logits_NV: torch.Tensor, targets_N: torch.Tensor, beta: float) -> tuple[float, float]:
    """First and second derivative in β of the summed cross-entropy of β · logits: mean and variance under its softmax."""
    over_NV = logits_NV - logits_NV.gather(1, targets_N[:, None])
    p_NV = (over_NV * beta).softmax(dim=-1)
    mean_N1 = (p_NV * over_NV).sum(dim=-1, keepdim=True)
    variance_N = over_NV.sub_(mean_N1).square_().mul_(p_NV).sum(dim=-1)
    return float(mean_N1.double().sum()), float(variance_N.double().sum())
