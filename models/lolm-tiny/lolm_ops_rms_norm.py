# lolm.ops.rms_norm of this project, with its imports made flat.
"""RMSNorm (Zhang & Sennrich 2019, arXiv 1910.07467), with the gate that Mamba-2 puts before it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .lolm_ops_backends import choose_backend

FEW = 16  # rows


def rms_norm(
    x: torch.Tensor,
    weight_I: torch.Tensor,
    epsilon: float,
    gate: torch.Tensor | None = None,
    groups: int = 1,
    backend: str = "auto",
) -> torch.Tensor:
    """x / √(mean(x²) + ε) ⊙ weight, the mean over the channels of each of ``groups`` equal groups; x · SiLU(gate) in x's place.

    Args:
        x, gate: (…, I); the result too, in the dtype of x, or that of the weight where there is a gate.
        backend: as in :func:`lolm.ops.scan.selective_scan`; ``cuda`` runs PyTorch's operations.

    Raises:
        ConfigError: the backend asked for cannot run here.
    """
    tensors = [x, weight_I] if gate is None else [x, weight_I, gate]
    few = x.numel() <= FEW * len(weight_I) and not torch.is_grad_enabled()  # a step of generation: calling is what takes time
    if not few and choose_backend(x.device.type, backend) == "cpu" and all(m.dtype == torch.float32 for m in tensors):
        raise ImportError("lolm.ops.cpu.rms_norm is not part of an exported model")

        return RMSNormCPU.apply(x, weight_I, gate, groups, epsilon)
    # PyTorch's fused kernel, which sums in float32, is not for two dtypes; the detour has five kernels.
    if gate is None:
        weight_I = weight_I.to(x.dtype)
    else:
        x = (x * F.silu(gate)).to(weight_I.dtype)
    if groups == 1:
        return F.rms_norm(x, weight_I.shape, weight_I, epsilon)
    grouped = x.unflatten(-1, (groups, -1))
    return F.rms_norm(grouped, grouped.shape[-1:], eps=epsilon).flatten(-2) * weight_I


class RMSNorm(nn.RMSNorm):
    """PyTorch's module, run by :func:`rms_norm`.

    Attributes:
        kernels: backend (``training.kernels``).
    """

    kernels: str = "auto"

    def __init__(self, width: int, eps: float) -> None:
        super().__init__(width, eps=eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, self.weight, self.eps, backend=self.kernels)  # type: ignore[arg-type]
