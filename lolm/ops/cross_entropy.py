"""Cross-entropy of logits: PyTorch's operation or, on CPUs, kernels that keep one number a row instead of all probabilities. And
cross-entropy of a linear head, for which the logits of all rows never exist."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from lolm.ops.backends import choose_backend, kernel_of


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


def linear_cross_entropy(
    x_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    targets_N: torch.Tensor,
    ignored: int = -100,
    block: int = 4096,
    backend: str = "auto",
) -> torch.Tensor:
    """:func:`cross_entropy` of the logits x Wᵀ, of which those of ``block`` rows exist at once.

    The gradients are made with the value, a block at a time, so that no logits are computed twice; they cost two tensors of the
    size of x and W until the backward pass. Under autocast the products run in its dtype; logits, probabilities, nats and the
    gradient of W are float32.

    Args:
        backend: ``training.kernels``; ours in Triton reads a block's logits twice, where PyTorch's operations read or write them
            some ten times.

    Raises:
        ConfigError: the backend asked for cannot run here.
    """
    kernel = kernel_of("linear_cross_entropy", x_ND.device.type, backend)[1] or block_by_block
    return kernel(x_ND, weight_VD, targets_N, ignored, block)


def linear_cross_entropy_example(batch: int, length: int, width: int, vocabulary: int = 300) -> list[torch.Tensor]:
    """Inputs of a vocabulary, every fifth target left out."""
    targets_N = torch.arange(batch * length) % vocabulary
    targets_N[4::5] = -100
    return [torch.randn(batch * length, width), torch.randn(vocabulary, width) / width**0.5, targets_N]


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a b in float32, whatever the dtype of the two."""
    if a.is_cuda and a.dtype != torch.float32:
        return torch.mm(a, b, out_dtype=torch.float32)  # type: ignore[call-overload]
    return a.float() @ b.float()


Logits = Callable[[torch.Tensor, torch.Tensor, int, torch.dtype | None], tuple[torch.Tensor, torch.Tensor | None]]


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_ND, weight_VD, targets_N, ignored: int, block: int, of_logits: Logits):  # type: ignore[override]
        device = x_ND.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x_ND.dtype
        of_x, of_weight = ctx.needs_input_grad[:2]
        with torch.autocast(device, enabled=False):
            x, weight = x_ND.to(dtype), weight_VD.to(dtype)
            total = x.new_zeros((), dtype=torch.float32)
            g_x, g_weight = torch.empty_like(x) if of_x else None, None
            for start in range(0, len(x), block):
                part = slice(start, start + block)
                wanted = dtype if of_x or of_weight else None
                nats, g = of_logits(_product(x[part], weight.T), targets_N[part], ignored, wanted)
                total += nats.sum()
                if g_x is not None and g is not None:
                    g_x[part] = g @ weight
                if of_weight and g is not None:
                    g_part = _product(g.T, x[part])
                    g_weight = g_part if g_weight is None else g_weight.add_(g_part)
        ctx.save_for_backward(g_x, g_weight)
        ctx.dtypes = x_ND.dtype, weight_VD.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, g):  # type: ignore[override]
        gradients = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        return *(m if m is None else (m * g).to(dtype) for m, dtype in gradients), None, None, None, None


def nats_and_gradient(
    logits_NV: torch.Tensor, targets_N: torch.Tensor, ignored: int, dtype: torch.dtype | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Nats of each row, 0 for rows that are ``ignored``, and their derivative by the logits in ``dtype``, None for none; the
    logits are overwritten."""
    asked_N1 = (targets_N != ignored)[:, None]
    column_N1 = targets_N[:, None].where(asked_N1, 0)
    normaliser_N1 = logits_NV.logsumexp(dim=1, keepdim=True)
    nats_N1 = (normaliser_N1 - logits_NV.gather(1, column_N1)) * asked_N1
    if dtype is None:
        return nats_N1[:, 0], None
    p_NV = logits_NV.sub_(normaliser_N1).exp_()
    gradient = p_NV.scatter_add_(1, column_N1, -torch.ones_like(normaliser_N1)).mul_(asked_N1)
    return nats_N1[:, 0], gradient.to(dtype)


def block_by_block(
    x_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    targets_N: torch.Tensor,
    ignored: int = -100,
    block: int = 4096,
    of_logits: Logits = nats_and_gradient,
) -> torch.Tensor:
    """:func:`linear_cross_entropy` by a function of the logits of one block."""
    return _LinearCrossEntropy.apply(x_ND, weight_VD, targets_N, ignored, block, of_logits)
