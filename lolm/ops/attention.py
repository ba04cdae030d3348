"""Causal attention of heads that are given, with sliding windows and shared keys.

Sliding window: Beltagy et al. 2020, arXiv 2004.05150. Keys and values shared by groups of query heads: Ainslie et al. 2023,
arXiv 2305.13245.

Shape suffixes: B batch, T time, H query heads, K heads of keys and values, each for H/K consecutive query heads, P head width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lolm.ops.backends import kernel_of

WIDEST_HEAD = 128  # of the kernels for GPUs: what fits beside its partners in the fast memory of a processor


def causal_attention(
    q_BTHP: torch.Tensor,
    k_BTKP: torch.Tensor,
    v_BTKP: torch.Tensor,
    window: int | None = None,
    dropout: float = 0.0,
    backend: str = "auto",
) -> torch.Tensor:
    """softmax(qkᵀ/√P) v over the last W positions including the query's own, all earlier ones without a window; (B, T, H, P).

    Without a window, or one that reaches every key, this is PyTorch's operation; else see :func:`window_attention`.

    Args:
        dropout: share of the probabilities that is dropped.
        backend: ``training.kernels``.

    Raises:
        ConfigError: the backend asked for cannot run here.
    """
    if window is not None and q_BTHP.shape[1] > window:
        return window_attention(q_BTHP, k_BTKP, v_BTKP, window, dropout, backend)
    grouped = q_BTHP.is_cuda  # elsewhere the fused kernels want equal heads
    k, v = (k_BTKP, v_BTKP) if grouped else (share(m, q_BTHP.shape[2], dim=2) for m in (k_BTKP, v_BTKP))
    q, k, v = (x.transpose(1, 2) for x in (q_BTHP, k, v))
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, enable_gqa=grouped).transpose(1, 2)


def window_attention(
    q_BTHP: torch.Tensor,
    k_BTKP: torch.Tensor,
    v_BTKP: torch.Tensor,
    window: int,
    dropout: float = 0.0,
    backend: str = "auto",
) -> torch.Tensor:
    """:func:`causal_attention` for T > W, by a kernel in Triton on GPUs where nothing is dropped.

    Elsewhere the queries are cut into blocks of W, each of which meets the keys of its own and of the previous block: time and
    memory grow with T·W and no T × T matrix exists.
    """
    length, heads, width = q_BTHP.shape[1:]
    kernel = kernel_of("window_attention", q_BTHP.device.type, backend)[1]
    if kernel is not None and not dropout and q_BTHP.dtype != torch.float64 and width <= WIDEST_HEAD:
        return kernel(q_BTHP, k_BTKP, v_BTKP, window)
    k_BTHP, v_BTHP = (share(m, heads, dim=2) for m in (k_BTKP, v_BTKP))
    # The first block has no predecessor, so it is plain causal attention. Padding lies behind every real query.
    first = causal_attention(q_BTHP[:, :window], k_BTHP[:, :window], v_BTHP[:, :window], dropout=dropout)
    q, k, v = (F.pad(x, (0, 0, 0, 0, 0, -length % window)).unflatten(1, (-1, window)) for x in (q_BTHP, k_BTHP, v_BTHP))
    k, v = (torch.cat((x[:, :-1], x[:, 1:]), dim=2) for x in (k, v))  # (B, blocks - 1, 2W, H, P)
    band = (
        torch.ones(window, 2 * window, dtype=torch.bool, device=q.device).triu(1).tril(window)
    )  # key j for query i: i < j <= i + W
    q, k, v = (x.flatten(0, 1).transpose(1, 2) for x in (q[:, 1:], k, v))  # (B · (blocks - 1), H, W or 2W, P)
    rest = F.scaled_dot_product_attention(q, k, v, attn_mask=band, dropout_p=dropout)
    rest = rest.transpose(1, 2).unflatten(0, (q_BTHP.shape[0], -1)).flatten(1, 2)
    return torch.cat((first, rest[:, : length - window]), dim=1)


def window_attention_example(
    batch: int, length: int, width: int, head: int = 16, window: int | None = None
) -> list[torch.Tensor | int]:
    """Inputs of heads ``head`` wide, two for each head of keys, with a window of a third of the length unless one is given."""
    heads = max(1, width // (2 * head))
    q, k, v = (torch.randn(batch, length, size, head) for size in (2 * heads, heads, heads))
    return [q, k, v, window or length // 3]


def share(x: torch.Tensor, heads: int, dim: int) -> torch.Tensor:
    """Repeat each head of keys or values for its group of query heads: copies, as fused kernels with a mask want equal heads."""
    group = heads // x.shape[dim]
    return x if group == 1 else x.repeat_interleave(group, dim=dim)
