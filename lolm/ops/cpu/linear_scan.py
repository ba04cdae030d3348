"""Linear scan on CPUs: Numba kernels, vectorised over channels. No sum crosses a channel, so results do not depend on threads."""

from __future__ import annotations

import torch

from lolm.ops.cpu.compiled import Kernel, as_numpy, cells_of

BLOCK = 64  # channels of a block: a few cache lines of each tensor per step


@Kernel
def _forward(part, parts, a, b, h):
    batch, length, channels = a.shape
    blocks = (channels + BLOCK - 1) // BLOCK
    for cell in cells_of(part, parts, batch * blocks):
        i = cell // blocks
        lo = (cell % blocks) * BLOCK
        hi = min(lo + BLOCK, channels)
        h[i, 0, lo:hi] = b[i, 0, lo:hi]
        for t in range(1, length):
            for c in range(lo, hi):
                h[i, t, c] = a[i, t, c] * h[i, t - 1, c] + b[i, t, c]


@Kernel
def _backward(part, parts, a, h, g, g_a, g_b):
    batch, length, channels = a.shape
    blocks = (channels + BLOCK - 1) // BLOCK
    for cell in cells_of(part, parts, batch * blocks):
        i = cell // blocks
        lo = (cell % blocks) * BLOCK
        hi = min(lo + BLOCK, channels)
        g_b[i, length - 1, lo:hi] = g[i, length - 1, lo:hi]
        for t in range(length - 1, 0, -1):
            for c in range(lo, hi):
                total = g_b[i, t, c]
                g_a[i, t, c] = total * h[i, t - 1, c]
                g_b[i, t - 1, c] = a[i, t, c] * total + g[i, t - 1, c]
        g_a[i, 0, lo:hi] = 0.0


def scan_forward(a_BTC: torch.Tensor, b_BTC: torch.Tensor) -> torch.Tensor:
    """h_BTC of :func:`lolm.ops.linear_scan.linear_scan` in float32."""
    h_BTC = torch.empty_like(b_BTC, memory_format=torch.contiguous_format)
    _forward(as_numpy(a_BTC), as_numpy(b_BTC), h_BTC.numpy())
    return h_BTC


def scan_backward(a_BTC: torch.Tensor, h_BTC: torch.Tensor, g_BTC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of a and b from the gradient of h."""
    g_a, g_b = (torch.empty_like(h_BTC) for _ in range(2))
    _backward(as_numpy(a_BTC), as_numpy(h_BTC), as_numpy(g_BTC), g_a.numpy(), g_b.numpy())
    return g_a, g_b
