"""The short depthwise causal convolution that SSM and recurrent blocks put before their scan."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lolm.ops.backends import kernel_of

LIBRARY_TAPS = (2, 3, 4)  # widths that causal-conv1d has


def causal_conv(
    x_BTI: torch.Tensor, weight_IK: torch.Tensor, bias_I: torch.Tensor, silu: bool = False, backend: str = "auto"
) -> torch.Tensor:
    """y_t = bias + Σ_k weight_k ⊙ x_{t-K+1+k}, x zero before the start; SiLU(y_t) with ``silu``. (B, T, I) and
    in the dtype of x, in and out.

    Args:
        backend: as in :func:`lolm.ops.scan.selective_scan`; ``cuda`` is causal-conv1d.

    Raises:
        ConfigError: the backend asked for cannot run here.
    """
    chosen, kernel = kernel_of("causal_conv", x_BTI.device.type, backend)
    taken = chosen != "causal-conv1d" or weight_IK.shape[1] in LIBRARY_TAPS
    if kernel is not None and taken and x_BTI.dtype != torch.float64:
        return kernel(x_BTI, weight_IK, bias_I, silu)
    if chosen == "cpu" and x_BTI.dtype == weight_IK.dtype == torch.float32:
        from lolm.ops.cpu.causal_conv import CausalConvCPU

        return CausalConvCPU.apply(x_BTI, weight_IK, bias_I, silu)
    y_BTI = causal_conv_reference(x_BTI, weight_IK, bias_I)
    return (F.silu(y_BTI) if silu else y_BTI).to(x_BTI.dtype)  # half under autocast, for what comes next


def causal_conv_example(batch: int, length: int, width: int) -> list[torch.Tensor]:
    return [torch.randn(batch, length, width), torch.randn(width, 4), torch.randn(width)]


def causal_conv_reference(x_BTI: torch.Tensor, weight_IK: torch.Tensor, bias_I: torch.Tensor) -> torch.Tensor:
    """The convolution as shifted multiply-adds: for a handful of taps faster than a grouped convolution."""
    kernel, length = weight_IK.shape[1], x_BTI.shape[1]
    padded = F.pad(x_BTI, (0, 0, kernel - 1, 0))
    y = bias_I + weight_IK[:, 0] * padded[:, :length]
    for k in range(1, kernel):
        y = torch.addcmul(y, padded[:, k : k + length], weight_IK[:, k])
    return y


def last_inputs(x_BTI: torch.Tensor, kernel: int) -> torch.Tensor:
    """The last K − 1 inputs of a series, (B, K − 1, I), zeros where there were none: for :func:`causal_conv_step`."""
    kept = x_BTI[:, max(0, x_BTI.shape[1] - kernel + 1) :]
    return F.pad(kept, (0, 0, kernel - 1 - kept.shape[1], 0))


def causal_conv_step(
    x_BI: torch.Tensor, window_BKI: torch.Tensor, weight_IK: torch.Tensor, bias_I: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """One more token: y_t (B, I) before any activation, and the last K − 1 inputs (B, K − 1, I), of which ``window_BKI`` holds
    those before it."""
    window_BKI = torch.cat((window_BKI, x_BI[:, None]), dim=1)
    return bias_I + (window_BKI * weight_IK.t()).sum(dim=1), window_BKI[:, 1:]
