"""Cross-entropy of logits: PyTorch's operation or, on CPUs, kernels that keep one number a row instead of all probabilities."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lolm.ops.backends import choose_backend


def cross_entropy(logits_NV: torch.Tensor, targets_N: torch.Tensor, ignored: int = -100, backend: str = "auto") -> torch.Tensor:
    """Sum over the rows of ln Σ exp(logits) − logits[target] in nats, a scalar; rows with target ``ignored`` add nothing.

    Args:
        backend: as in :func:`lolm.ops.scan.selective_scan`; ``cuda`` runs PyTorch's operation.

    Raises:
        IndexError: a target that is no column.
        ConfigError: the backend asked for cannot run here.
    """
    if choose_backend(logits_NV.device.type, backend) == "cpu" and logits_NV.dtype == torch.float32:
        from lolm.ops.cpu.cross_entropy import CrossEntropyCPU

        return CrossEntropyCPU.apply(logits_NV, targets_N, ignored)
    return F.cross_entropy(logits_NV, targets_N, ignore_index=ignored, reduction="sum")
