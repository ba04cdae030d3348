"""State space duality: the scan of Mamba-2 (Dao & Gu 2024, arXiv 2405.21060, sections 6 and 7).

State S_t = exp(Δ_t A) S_{t-1} + B_t ⊗ (Δ_t x_t), output y_t = C_t S_t + skip · x_t, S_0 = 0, with one scalar Δ_t A per head.

Shape suffixes: B batch, T time, H heads, P head width, G groups of heads that share B and C, R heads of a group, N states;
C chunks, Q steps of a chunk.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from lolm.ops.backends import kernel_of, refuse_loop
from lolm.ops.linear_scan import linear_scan

WIDEST = 128  # P and N of the kernels for GPUs: what fits beside its partners in the fast memory of a processor


def ssd(
    x_BTHP: torch.Tensor,
    delta_BTH: torch.Tensor,
    A_H: torch.Tensor,
    B_BTGN: torch.Tensor,
    C_BTGN: torch.Tensor,
    skip_H: torch.Tensor,
    chunk: int = 64,
    backend: str = "auto",
) -> torch.Tensor:
    """Run the scan from a zero state.

    Args:
        x_BTHP: input.
        delta_BTH: positive step sizes (softplus already applied).
        A_H: negative decay rates.
        B_BTGN: input map, one per token and group.
        C_BTGN: output map, one per token and group.
        skip_H: weight of the direct path.
        chunk: steps that kernels for GPUs and :func:`ssd_chunked` treat as one matrix; changes rounding and speed, not the
            function.
        backend: ``training.kernels``: ``reference`` (sequential), ``cpu`` (the recurrence in Numba; float32), ``triton`` (ours),
            ``cuda`` (mamba-ssm) or ``auto``, the fastest that works. Where none does it is :func:`ssd_chunked`, on CUDA with
            products in the dtype of ``x_BTHP`` and made again in the backward pass.

    Returns:
        y_BTHP in the dtype of ``x_BTHP``; decays and states are float32 unless the input is float64.

    Raises:
        ConfigError: the backend asked for cannot run here, or the reference would run over a long sequence on CUDA.
    """
    device = x_BTHP.device.type
    chosen, kernel = kernel_of("ssd", device, backend)
    inputs = (x_BTHP, delta_BTH, A_H, B_BTGN, C_BTGN, skip_H)
    if backend == "reference":
        refuse_loop("ssd", device, x_BTHP.shape[1])
        return ssd_reference(*inputs)[0]
    if chosen == "cpu" and all(m.dtype == torch.float32 for m in inputs):
        from lolm.ops.cpu.ssd import StateSpaceDualityCPU

        return StateSpaceDualityCPU.apply(x_BTHP, delta_BTH, (delta_BTH * A_H).exp(), B_BTGN, C_BTGN, skip_H)
    with torch.autocast(device, enabled=False):  # which would run the products of decays and states in half precision
        if kernel is not None and x_BTHP.dtype != torch.float64 and max(x_BTHP.shape[-1], B_BTGN.shape[-1]) <= WIDEST:
            return kernel(*inputs, chunk)
        if device == "cuda":
            return checkpoint(ssd_chunked, *inputs, chunk, x_BTHP.dtype, use_reentrant=False)
        return ssd_chunked(*inputs, chunk)


def ssd_example(batch: int, length: int, width: int, head: int = 16, states: int = 16) -> list[torch.Tensor]:
    """Inputs as a Mamba-2 block gives them, for heads ``head`` wide in two groups."""
    heads, maps = 2 * max(1, width // (2 * head)), (batch, length, 2, states)
    series = torch.randn(batch, length, heads, head), torch.rand(batch, length, heads) + 0.01
    return [*series, -torch.linspace(0.1, 16, heads), torch.randn(maps), torch.randn(maps), torch.ones(heads)]


def ssd_reference(
    x_BTHP: torch.Tensor,
    delta_BTH: torch.Tensor,
    A_H: torch.Tensor,
    B_BTGN: torch.Tensor,
    C_BTGN: torch.Tensor,
    skip_H: torch.Tensor,
    state_BHNP: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The recurrence as it is written, one step after the other: what the other forms are tested against.

    Returns:
        (y_BTHP, last state_BHNP); the state is float32, or float64 for float64 input.
    """
    dtype = torch.promote_types(x_BTHP.dtype, torch.float32)
    x, delta, A, B, C, skip = (m.to(dtype) for m in (x_BTHP, delta_BTH, A_H, B_BTGN, C_BTGN, skip_H))
    batch, length, heads, width = x.shape
    B, C = (m.repeat_interleave(heads // m.shape[2], dim=2) for m in (B, C))  # (B, T, H, N)
    state = x.new_zeros(batch, heads, B.shape[-1], width) if state_BHNP is None else state_BHNP.to(dtype)
    ys = []
    for t in range(length):
        # One decay for all N × P entries of a head's state: this is what lets a chunk become a product of matrices.
        decay_BH = (delta[:, t] * A).exp()
        state = decay_BH[..., None, None] * state + B[:, t, :, :, None] * (delta[:, t, :, None] * x[:, t])[:, :, None]
        ys.append((C[:, t, :, :, None] * state).sum(dim=2))
    y = torch.stack(ys, dim=1) + skip[:, None] * x
    return y.to(x_BTHP.dtype), state


@torch.no_grad()
def last_ssd_state(x_BTHP: torch.Tensor, delta_BTH: torch.Tensor, A_H: torch.Tensor, B_BTGN: torch.Tensor) -> torch.Tensor:
    """The state behind the last step, S_T = Σ_t exp(A Σ_{r>t} Δ_r) B_t ⊗ (Δ_t x_t), (B, H, N, P)."""
    dtype = torch.promote_types(x_BTHP.dtype, torch.float32)
    x, delta, A, B = (m.to(dtype) for m in (x_BTHP, delta_BTH, A_H, B_BTGN))
    with torch.autocast(x.device.type, enabled=False):
        behind = F.pad(delta[:, 1:], (0, 0, 0, 1)).flip(1).cumsum(1).flip(1)  # no difference of sums: one Δ may be large
        written = (x * ((behind * A).exp() * delta)[..., None]).unflatten(2, (B.shape[2], -1))  # heads by group
        return torch.einsum("btgn,btgrp->bgrnp", B, written).flatten(1, 2)


def ssd_step(
    x_BHP: torch.Tensor,
    delta_BH: torch.Tensor,
    A_H: torch.Tensor,
    B_BGN: torch.Tensor,
    C_BGN: torch.Tensor,
    skip_H: torch.Tensor,
    state_BHNP: torch.Tensor,
) -> torch.Tensor:
    """One more step, y_BHP in the dtype of ``x_BHP``; the state is changed in place. Arguments as in :func:`ssd`."""
    dtype, groups = state_BHNP.dtype, B_BGN.shape[1]
    x, delta, B, C = (m.to(dtype) for m in (x_BHP, delta_BH, B_BGN, C_BGN))
    state = state_BHNP.unflatten(1, (groups, -1))  # heads by group, each with its group's maps
    written = (delta[..., None] * x).unflatten(1, (groups, -1))
    state.mul_((delta * A_H).exp().unflatten(1, (groups, -1))[..., None, None])
    state.addcmul_(B[:, :, None, :, None], written[..., None, :])
    y = (C[:, :, None, :, None] * state).sum(dim=-2).flatten(1, 2)
    return torch.addcmul(y, skip_H.to(dtype)[:, None], x).to(x_BHP.dtype)


def ssd_chunked(
    x_BTHP: torch.Tensor,
    delta_BTH: torch.Tensor,
    A_H: torch.Tensor,
    B_BTGN: torch.Tensor,
    C_BTGN: torch.Tensor,
    skip_H: torch.Tensor,
    chunk: int,
    operands: torch.dtype | None = None,
) -> torch.Tensor:
    """The scan in chunks of Q steps: a masked Q × Q matrix inside each, states of size N × P handed from one to the next.

    With s_t = Σ_{r ≤ t} Δ_r A summed from the start of a chunk whose first state is S,
    y_t = Σ_{r ≤ t} exp(s_t − s_r) (C_t·B_r) Δ_r x_r + exp(s_t) C_t S. Memory grows with T·(Q·H + H·P) + (T/Q)·H·N·P.

    Args:
        operands: dtype of what is multiplied by a matrix; by default that of decays and states.
    """
    dtype = torch.promote_types(x_BTHP.dtype, torch.float32)
    operands = operands or dtype
    batch, length, heads, width = x_BTHP.shape
    groups = B_BTGN.shape[2]
    steps = min(chunk, length)
    x, delta = x_BTHP.to(dtype), delta_BTH.to(dtype)
    dx = x * delta[..., None]
    # A short last chunk is padded with Δ = 0, B = C = 0: steps that neither decay nor write nor read.
    # Logarithms of decays are summed in float64: behind a few large steps float32 has no digits left for small ones.
    inputs = (dx.flatten(2), delta.double() * A_H.double(), B_BTGN.to(operands).flatten(2), C_BTGN.to(operands).flatten(2))
    padded = (F.pad(m, (0, 0, 0, -length % steps)).unflatten(1, (-1, steps)) for m in inputs)
    dx_BCQI, log_decay_BCQH, B, C = padded
    B_BCGQN, C_BCGQN = (m.unflatten(-1, (groups, -1)).transpose(2, 3) for m in (B, C))
    total_BCHQ = log_decay_BCQH.transpose(2, 3).cumsum(dim=-1)
    s_BCHQ = total_BCHQ.to(dtype)
    rest_BCHQ = (total_BCHQ - s_BCHQ).detach().to(dtype)  # what rounding left

    # Inside the chunks. Masked before exp, which would overflow above the diagonal; on it no gradient, of which s would get a sum
    # of large numbers that cancel.
    future_QQ = torch.ones(steps, steps, dtype=torch.bool, device=x.device).triu(1)
    decay_BCHQQ = (s_BCHQ[..., :, None] - s_BCHQ[..., None, :]).add_(rest_BCHQ[..., :, None]).sub_(rest_BCHQ[..., None, :])
    decay_BCHQQ.masked_fill_(future_QQ, float("-inf")).diagonal(dim1=-2, dim2=-1).zero_()
    decay_BCHQQ = decay_BCHQQ.exp()
    scores_BCGQQ = C_BCGQN @ B_BCGQN.transpose(-1, -2)
    weights_BCHQQ = (decay_BCHQQ.unflatten(2, (groups, -1)) * scores_BCGQQ[:, :, :, None]).flatten(2, 3)
    inside = weights_BCHQQ.to(operands) @ dx_BCQI.unflatten(-1, (heads, width)).transpose(2, 3).to(operands)
    y_BCQHP = inside.transpose(2, 3).to(dtype)

    if steps < length:  # From chunk to chunk.
        to_end_BCQH = (total_BCHQ[..., -1:] - total_BCHQ).to(dtype).exp().transpose(2, 3)
        written = (dx_BCQI.unflatten(-1, (heads, width)) * to_end_BCQH[..., None]).flatten(3)
        written = written.unflatten(-1, (groups, -1)).transpose(2, 3).to(operands)
        added_BCHNP = (B_BCGQN.transpose(-1, -2) @ written).unflatten(-1, (-1, width)).transpose(3, 4).flatten(2, 3)
        decay_BCI = s_BCHQ[:, :-1, :, -1].exp().repeat_interleave(added_BCHNP[0, 0, 0].numel(), dim=-1)
        behind = linear_scan(decay_BCI, added_BCHNP[:, :-1].flatten(2).to(dtype)).unflatten(-1, added_BCHNP.shape[2:])
        states = F.pad(behind, (0, 0, 0, 0, 0, 0, 1, 0)).unflatten(2, (groups, -1))  # of each chunk the one before it
        states = states.transpose(3, 4).flatten(4).to(operands)  # (B, C, G, N, R · P)
        read = (C_BCGQN @ states).transpose(2, 3).flatten(3).unflatten(-1, (heads, width)).to(dtype)
        y_BCQHP = torch.addcmul(y_BCQHP, read, s_BCHQ.transpose(2, 3).exp()[..., None])

    y_BTHP = y_BCQHP.flatten(1, 2)[:, :length]
    return torch.addcmul(y_BTHP, skip_H.to(dtype)[:, None], x).to(x_BTHP.dtype)
