# lolm.ops.linear_scan of this project, with its imports made flat.
"""The diagonal linear scan h_t = a_t ⊙ h_{t-1} + b_t, h_{-1} = 0, and its gradient.

The gradient is the same scan run backwards: with g_t the gradient of h_t from outside,
r_t = g_t + a_{t+1} ⊙ r_{t+1} is the gradient of b_t, and r_t ⊙ h_{t-1} that of a_t.

Shape suffixes: B batch, T time, C channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from .lolm_ops_backends import kernel_of
from .lolm_ops_backends import refuse_loop


def linear_scan(a_BTC: torch.Tensor, b_BTC: torch.Tensor, backend: str = "auto") -> torch.Tensor:
    """Run the scan from a zero state.

    Args:
        a_BTC: factors; the first one acts on the zero state and so has no effect.
        b_BTC: inputs.
        backend: as in :func:`lolm.ops.scan.selective_scan`; no library has this scan, and where no kernel runs it is by doubling.

    Returns:
        h_BTC, float64 if an input is, float32 otherwise.

    Raises:
        ConfigError: the backend asked for cannot run here, or the reference would run over a long sequence on CUDA.
    """
    chosen, kernel = kernel_of("linear_scan", a_BTC.device.type, backend)
    dtype = torch.promote_types(torch.promote_types(a_BTC.dtype, b_BTC.dtype), torch.float32)
    if kernel is not None and dtype == torch.float32:
        return kernel(a_BTC, b_BTC)
    a_BTC, b_BTC = a_BTC.to(dtype), b_BTC.to(dtype)
    if backend == "reference":
        refuse_loop("linear_scan", a_BTC.device.type, a_BTC.shape[1])
        return linear_scan_reference(a_BTC, b_BTC)
    return _LinearScan.apply(a_BTC, b_BTC, chosen == "cpu" and dtype == torch.float32)


def linear_scan_example(batch: int, length: int, width: int) -> list[torch.Tensor]:
    return [torch.rand(batch, length, width), torch.randn(batch, length, width)]


def linear_scan_reference(a_BTC: torch.Tensor, b_BTC: torch.Tensor) -> torch.Tensor:
    """The recurrence as it is written, one step after the other: what every other form is tested against."""
    h_BC = torch.zeros_like(b_BTC[:, 0])
    hs = []
    for t in range(b_BTC.shape[1]):
        h_BC = a_BTC[:, t] * h_BC + b_BTC[:, t]
        hs.append(h_BC)
    return torch.stack(hs, dim=1)


def scan_by_doubling(a_BTC: torch.Tensor, b_BTC: torch.Tensor) -> torch.Tensor:
    """The scan in ⌈log₂ T⌉ rounds of whole-tensor operations (Hillis & Steele 1986).

    After the round of shift s, (a_t, b_t) stands for the last 2s steps up to t composed into one.
    """
    shift, length = 1, a_BTC.shape[1]
    while shift < length:
        b_BTC = torch.cat((b_BTC[:, :shift], torch.addcmul(b_BTC[:, shift:], a_BTC[:, shift:], b_BTC[:, :-shift])), dim=1)
        a_BTC = torch.cat((a_BTC[:, :shift], a_BTC[:, shift:] * a_BTC[:, :-shift]), dim=1)
        shift *= 2
    return b_BTC


class _LinearScan(torch.autograd.Function):
    """Keeps a and h alone, so memory is linear in T whatever runs the scan."""

    @staticmethod
    def forward(ctx, a_BTC, b_BTC, compiled: bool):  # type: ignore[override]
        ctx.compiled = compiled
        if compiled:
            raise ImportError("lolm.ops.cpu.linear_scan is not part of an exported model")

            h_BTC = scan_forward(a_BTC, b_BTC)
        else:
            h_BTC = scan_by_doubling(a_BTC, b_BTC)
        ctx.save_for_backward(a_BTC, h_BTC)
        return h_BTC

    @staticmethod
    @once_differentiable
    def backward(ctx, g_BTC):  # type: ignore[override]
        a_BTC, h_BTC = ctx.saved_tensors
        if ctx.compiled:
            raise ImportError("lolm.ops.cpu.linear_scan is not part of an exported model")

            return *scan_backward(a_BTC, h_BTC, g_BTC), None
        a_next = F.pad(a_BTC[:, 1:], (0, 0, 0, 1))  # h_t reaches the future through a_{t+1}; behind the end is nothing
        g_b = scan_by_doubling(a_next.flip(1), g_BTC.flip(1)).flip(1)
        return g_b * F.pad(h_BTC[:, :-1], (0, 0, 1, 0)), g_b, None
