"""The scan of Mamba-2 on GPUs: Triton kernels over chunks of Q steps, forward and backward.

``_states`` carries the state from chunk to chunk, ``_output`` and the kernels of the backward pass then run for all chunks at
once. The backward pass keeps the inputs alone and makes the states between chunks again. Sums have a fixed order and there are no
atomic additions, so results repeat bit by bit.

Steps, decays, states on their way and sums are float32, but logarithms of decays are summed in float64; states between chunks and
the operands of matrix products have the dtype of ``x``, as in the paper's kernels.

Shape suffixes as in :mod:`lolm.ops.ssd`. In a chunk that begins with state S, with s_t = Σ_{r ≤ t} Δ_r A over the chunk, g the
gradient of y and G that of the state behind the chunk:

    y_t  = Σ_r M_tr Δ_r x_r + exp(s_t) C_t S + skip x_t,      M_tr = exp(s_t − s_r) (C_t·B_r) for r ≤ t, else 0
    S'   = exp(s_Q) S + Σ_r exp(s_Q − s_r) Δ_r B_r ⊗ x_r,     W_tr = exp(s_t − s_r) Δ_r (g_t·x_r) for r ≤ t, else 0
    g_C  = Σ_r W_tr B_r + exp(s_t) g_t Sᵀ,                    g_B = Σ_t W_tr C_t + exp(s_Q − s_r) Δ_r x_r Gᵀ
    g_u  = Σ_t M_tr g_t + exp(s_Q − s_r) B_r G,               g_x = Δ g_u + skip g
    g_S  = exp(s_Q) G + Σ_t exp(s_t) C_t ⊗ g_t,               g_Δ = x·g_u + A g_a

where g_a, of the logarithm of the decay at step q, sums what passes through it: W_tr (C_t·B_r) for r < q ≤ t, what is read from S
at t ≥ q, what is written to S' at r < q, and exp(s_Q) S·G.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lolm.ops.triton.layout import rows, stages


@triton.jit
def _tile(base, stride, rows, columns, there, width):
    """A block of memory whose rows are ``stride`` apart, zero outside of rows that are ``there`` and of ``width`` columns."""
    return tl.load(base + rows[:, None] * stride + columns[None, :], there[:, None] & (columns[None, :] < width), 0.0)


@triton.jit
def _store(base, stride, rows, columns, there, width, block):
    place = base + rows[:, None] * stride + columns[None, :]
    tl.store(place, block.to(base.dtype.element_ty), there[:, None] & (columns[None, :] < width))


@triton.jit
def _decays(delta, delta_t, rate, q, there):
    """Step sizes of a chunk, s with what its rounding left, s_Q − s and s_Q; steps behind the end neither decay nor write.

    Summed in float64: behind a few large steps s is in the thousands, where float32 has no digits left for small ones."""
    step = tl.load(delta + q * delta_t, there, 0.0)
    log_decay = step.to(tl.float64) * rate.to(tl.float64)
    total, whole = tl.cumsum(log_decay, 0), tl.sum(log_decay, 0)
    s = total.to(tl.float32)
    return step, s, (total - s.to(tl.float64)).to(tl.float32), (whole - total).to(tl.float32), whole.to(tl.float32)


@triton.jit
def _between(s, rest, q):
    """exp(s_t − s_r) for r ≤ t, else 0: masked before exp, which would overflow above the diagonal."""
    differences = (s[:, None] - s[None, :]) + (rest[:, None] - rest[None, :])
    return tl.exp(tl.where(q[:, None] >= q[None, :], differences, float("-inf")))


@triton.jit
def _states(
    delta, A, left, right, states, length, heads, shared, chunks,
    delta_b, delta_t, left_b, left_t, right_b, right_t,
    P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, BP: tl.constexpr, BN: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """S before each chunk of ``left`` B and ``right`` x or, in reverse, G behind each chunk of ``left`` C and ``right`` g."""
    b, h = tl.program_id(0).to(tl.int64) // heads, tl.program_id(0) % heads
    q, p, n = tl.arange(0, Q), tl.arange(0, BP), tl.arange(0, BN)
    delta, left, right = delta + b * delta_b + h, left + b * left_b + h // shared * N, right + b * right_b + h * P
    states += tl.program_id(0).to(tl.int64) * chunks * N * P
    rate = tl.load(A + h)
    state = tl.zeros((BN, BP), tl.float32)
    for i in range(0, chunks):
        c = chunks - 1 - i if REVERSE else i
        _store(states + c * N * P, P, n, p, n < N, P, state)
        there = c * Q + q < length
        step, s, rest, to_end, whole = _decays(delta + c * Q * delta_t, delta_t, rate, q, there)
        weight = tl.exp(s) if REVERSE else tl.exp(to_end) * step
        left_QN = _tile(left + c * Q * left_t, left_t, q, n, there, N)
        right_QP = _tile(right + c * Q * right_t, right_t, q, p, there, P)
        weighted = (left_QN * weight[:, None]).to(right_QP.dtype)
        state = tl.exp(whole) * state + tl.dot(tl.trans(weighted), right_QP, input_precision="ieee")


@triton.jit
def _output(
    x, delta, A, B, C, skip, states, y, length, heads, shared, chunks,
    x_b, x_t, delta_b, delta_t, B_b, B_t, C_b, C_t,
    P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, BP: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    b, h, c = tl.program_id(0).to(tl.int64) // heads, tl.program_id(0) % heads, tl.program_id(1)
    q, p, n, start = tl.arange(0, Q), tl.arange(0, BP), tl.arange(0, BN), c.to(tl.int64) * Q
    there = start + q < length
    step, s, rest, to_end, whole = _decays(delta + b * delta_b + start * delta_t + h, delta_t, tl.load(A + h), q, there)
    C_QN = _tile(C + b * C_b + start * C_t + h // shared * N, C_t, q, n, there, N)
    state = _tile(states + (tl.program_id(0).to(tl.int64) * chunks + c) * N * P, P, n, p, n < N, P)
    out = tl.dot(C_QN, state, input_precision="ieee") * tl.exp(s)[:, None]
    B_QN = _tile(B + b * B_b + start * B_t + h // shared * N, B_t, q, n, there, N)
    M = _between(s, rest, q) * step[None, :] * tl.dot(C_QN, tl.trans(B_QN), input_precision="ieee")
    x_QP = _tile(x + b * x_b + start * x_t + h * P, x_t, q, p, there, P)
    out += tl.dot(M.to(x_QP.dtype), x_QP, input_precision="ieee") + tl.load(skip + h) * x_QP
    _store(y + ((b * length + start) * heads + h) * P, heads * P, q, p, there, P, out)


@triton.jit
def _maps(
    x, delta, A, B, C, g, states, g_map, g_a, length, heads, shared, chunks,
    x_b, x_t, delta_b, delta_t, B_b, B_t, C_b, C_t, g_b, g_t,
    P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, BP: tl.constexpr, BN: tl.constexpr,
    SUMMED: tl.constexpr, OF_C: tl.constexpr,
):  # fmt: skip
    """g_C from S or else g_B from G, summed over heads that share the map, and their part of g_a, which is added to g_a for B."""
    parts = heads // SUMMED
    b, part, c = tl.program_id(0).to(tl.int64) // parts, tl.program_id(0) % parts, tl.program_id(1)
    q, p, n, start = tl.arange(0, Q), tl.arange(0, BP), tl.arange(0, BN), c.to(tl.int64) * Q
    there = start + q < length
    group = part * SUMMED // shared * N
    B_QN = _tile(B + b * B_b + start * B_t + group, B_t, q, n, there, N)
    C_QN = _tile(C + b * C_b + start * C_t + group, C_t, q, n, there, N)
    if OF_C:
        scores = tl.dot(C_QN, tl.trans(B_QN), input_precision="ieee")
    total = tl.zeros((Q, BN), tl.float32)
    for j in range(0, SUMMED):
        h = part * SUMMED + j
        step, s, rest, to_end, whole = _decays(delta + b * delta_b + start * delta_t + h, delta_t, tl.load(A + h), q, there)
        x_QP = _tile(x + b * x_b + start * x_t + h * P, x_t, q, p, there, P)
        g_QP = _tile(g + b * g_b + start * g_t + h * P, g_t, q, p, there, P)
        W = _between(s, rest, q) * step[None, :] * tl.dot(g_QP, tl.trans(x_QP), input_precision="ieee")
        state = _tile(states + ((b * heads + h) * chunks + c) * N * P, P, n, p, n < N, P)
        row = g_a + (b * length + start) * heads + h + q * heads
        if OF_C:
            total += tl.dot(W.to(x_QP.dtype), B_QN, input_precision="ieee")
            outside = tl.dot(g_QP, tl.trans(state), input_precision="ieee") * tl.exp(s)[:, None]
            # Σ (g·y − u·g_u) over t ≥ q would be shorter, and a difference of large numbers.
            passing = tl.where(q[:, None] > q[None, :], W * scores, 0.0)
            passing = tl.where(q[:, None] >= q[None, :], tl.cumsum(passing, 1) - passing, 0.0)
            read = tl.cumsum(tl.sum(outside * C_QN, 1), 0, reverse=True)
            tl.store(row, tl.sum(passing, 0) + read, there)
        else:
            total += tl.dot(tl.trans(W.to(x_QP.dtype)), C_QN, input_precision="ieee")
            outside = tl.dot(x_QP, tl.trans(state), input_precision="ieee") * (tl.exp(to_end) * step)[:, None]
            written = tl.sum(outside * B_QN, 1)
            tl.store(row, tl.load(row, there, 0.0) + tl.cumsum(written, 0) - written, there)
        total += outside
    _store(g_map + ((b * length + start) * parts + part) * N, parts * N, q, n, there, N, total)


@triton.jit
def _inputs(
    x, delta, A, B, C, skip, g, states, g_states, g_a, g_x, g_delta, g_A, g_skip, length, heads, shared, chunks,
    x_b, x_t, delta_b, delta_t, B_b, B_t, C_b, C_t, g_b, g_t,
    P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, BP: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """g_x, g_Δ, and each chunk's part of the gradients of A and skip."""
    b, h, c = tl.program_id(0).to(tl.int64) // heads, tl.program_id(0) % heads, tl.program_id(1)
    q, p, n, start = tl.arange(0, Q), tl.arange(0, BP), tl.arange(0, BN), c.to(tl.int64) * Q
    there = start + q < length
    rate = tl.load(A + h)
    step, s, rest, to_end, whole = _decays(delta + b * delta_b + start * delta_t + h, delta_t, rate, q, there)
    chunk = tl.program_id(0).to(tl.int64) * chunks + c
    g_state = _tile(g_states + chunk * N * P, P, n, p, n < N, P)
    state = _tile(states + chunk * N * P, P, n, p, n < N, P)
    carried = tl.exp(whole) * tl.sum(tl.sum(state.to(tl.float32) * g_state, 1), 0)
    B_QN = _tile(B + b * B_b + start * B_t + h // shared * N, B_t, q, n, there, N)
    g_u = tl.dot(B_QN, g_state, input_precision="ieee") * tl.exp(to_end)[:, None]
    C_QN = _tile(C + b * C_b + start * C_t + h // shared * N, C_t, q, n, there, N)
    M = _between(s, rest, q) * tl.dot(C_QN, tl.trans(B_QN), input_precision="ieee")
    g_QP = _tile(g + b * g_b + start * g_t + h * P, g_t, q, p, there, P)
    g_u += tl.dot(tl.trans(M.to(g_QP.dtype)), g_QP, input_precision="ieee")
    row = (b * length + start) * heads + h
    _store(g_x + row * P, heads * P, q, p, there, P, step[:, None] * g_u + tl.load(skip + h) * g_QP)
    x_QP = _tile(x + b * x_b + start * x_t + h * P, x_t, q, p, there, P).to(tl.float32)
    decay = tl.load(g_a + row + q * heads, there, 0.0) + carried
    tl.store(g_delta + row + q * heads, tl.sum(x_QP * g_u, 1) + rate * decay, there)
    tl.store(g_A + chunk, tl.sum(step * decay, 0))
    tl.store(g_skip + chunk, tl.sum(tl.sum(x_QP * g_QP, 1), 0))


class _Sizes:
    """Counts, and constants of the kernels: blocks that a product of matrices on tensor cores accepts."""

    def __init__(self, x: Tensor, B: Tensor, chunk: int) -> None:
        self.batch, self.length, self.heads, self.P = x.shape
        groups, self.N = B.shape[2:]
        self.shared = self.heads // groups
        # Heads whose part of g_B and g_C one program sums: few numbers in memory, yet enough programs.
        self.summed = next(size for size in (8, 7, 6, 5, 4, 3, 2, 1) if self.shared % size == 0)
        self.Q, self.BP, self.BN = (max(16, triton.next_power_of_2(m)) for m in (min(chunk, self.length, 64), self.P, self.N))
        self.chunks, self.stages = triton.cdiv(self.length, self.Q), stages(x)

    def launch(self, kernel, tensors, strided, programs: int | None = None, **flags) -> None:
        """Run for every chunk and every head, or so many ``programs`` a sequence."""
        grid = (self.batch * (programs or self.heads), 1 if kernel is _states else self.chunks)
        strides = [size for m in strided for size in m.stride()[:2]]
        constants = {"P": self.P, "N": self.N, "Q": self.Q, "BP": self.BP, "BN": self.BN}
        warps = 4 if self.BP * self.BN <= 64 * 64 else 8  # by registers on sm_90: in bfloat16 56 bytes spill at most
        counts = (self.length, self.heads, self.shared, self.chunks)
        kernel[grid](*tensors, *counts, *strides, **constants, **flags, num_warps=warps, num_stages=self.stages)

    def states(self, delta: Tensor, A: Tensor, left: Tensor, right: Tensor, reverse: bool) -> Tensor:
        """(B, H, chunks, N, P) in the dtype of ``right``."""
        states = right.new_empty(self.batch, self.heads, self.chunks, self.N, self.P)
        self.launch(_states, (delta, A, left, right, states), (delta, left, right), REVERSE=reverse)
        return states


@torch.library.custom_op("lolm::ssd", mutates_args=())
def _scan(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, skip: Tensor, chunk: int) -> Tensor:
    sizes, y = _Sizes(x, B, chunk), _outputs(x, delta, A, B, C, skip, chunk)
    states = sizes.states(delta, A, B, x, reverse=False)
    sizes.launch(_output, (x, delta, A, B, C, skip, states, y), (x, delta, B, C))
    return y


@_scan.register_fake
def _outputs(x, delta, A, B, C, skip, chunk):
    return x.new_empty(x.shape)


@torch.library.custom_op("lolm::ssd_backward", mutates_args=())
def _scan_backward(
    g: Tensor, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, skip: Tensor, chunk: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    sizes, strided = _Sizes(x, B, chunk), (x, delta, B, C, g)
    states = sizes.states(delta, A, B, x, reverse=False)
    g_states = sizes.states(delta, A, C, g, reverse=True)
    parts = sizes.heads // sizes.summed
    g_a = torch.empty_like(delta, memory_format=torch.contiguous_format)
    g_C, g_B = (delta.new_empty(sizes.batch, sizes.length, parts, sizes.N) for _ in range(2))
    for g_map, source, of_C in ((g_C, states, True), (g_B, g_states, False)):
        sizes.launch(_maps, (x, delta, A, B, C, g, source, g_map, g_a), strided, parts, SUMMED=sizes.summed, OF_C=of_C)
    g_x, g_delta = x.new_empty(x.shape), torch.empty_like(g_a)
    g_A, g_skip = (delta.new_empty(sizes.batch, sizes.heads, sizes.chunks) for _ in range(2))
    tensors = (x, delta, A, B, C, skip, g, states, g_states, g_a, g_x, g_delta, g_A, g_skip)
    sizes.launch(_inputs, tensors, strided)
    g_B, g_C = (m.unflatten(2, (B.shape[2], -1)).sum(dim=3).to(x.dtype) for m in (g_B, g_C))
    return g_x, g_delta, g_A.sum(dim=(0, 2)), g_B, g_C, g_skip.sum(dim=(0, 2))


@_scan_backward.register_fake
def _gradients(g, x, delta, A, B, C, skip, chunk):
    return tuple(m.new_empty(m.shape) for m in (x, delta, A, B, C, skip))


def _keep(ctx, inputs, output):
    *tensors, ctx.chunk = inputs
    ctx.save_for_backward(*tensors)


def _pull_back(ctx, g):
    return *_scan_backward(rows(g), *ctx.saved_tensors, ctx.chunk), None


_scan.register_autograd(_pull_back, setup_context=_keep)


def ssd(
    x_BTHP: Tensor, delta_BTH: Tensor, A_H: Tensor, B_BTGN: Tensor, C_BTGN: Tensor, skip_H: Tensor, chunk: int = 64
) -> Tensor:
    """:func:`lolm.ops.ssd.ssd` of float32 or bfloat16 inputs; products run in the dtype of ``x_BTHP``, the rest in float32."""
    delta = delta_BTH.float()
    B, C = (rows(m.to(x_BTHP.dtype)) for m in (B_BTGN, C_BTGN))
    return _scan(rows(x_BTHP), rows(delta), A_H.float(), B, C, skip_H.float(), chunk)
