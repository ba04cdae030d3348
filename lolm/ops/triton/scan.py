"""The selective scan in Triton, for :func:`lolm.ops.scan.selective_scan`.

A program (one warp) keeps the states of a block of channels of one sequence in registers and steps through time; what several
steps read is loaded before the first of them, so that the memory's latency is paid once. For the gradient the states at the start
of every :data:`CHUNK` steps are kept, and those between are made again, so memory is that of the inputs and N/CHUNK of it.
Gradients of B and C are summed over blocks of channels in a fixed order, not by atomics: two runs give the same bits.

A block of states is (CR, NR, CL, NL), channel CL·cr + cl and state NR·nl + nr: Triton lays the last two over the 32 lanes of the
warp and the first two over each lane's registers, so that sums over channels and over states need few shuffles between lanes.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lolm.ops.triton.layout import rows

CHUNK = 64  # steps from one state that is kept to the next
STEPS = 4  # unrolled: loaded together, and their states held in registers by the backward pass
LOG2_E, LN_2 = tl.constexpr(1.4426950408889634), tl.constexpr(0.6931471805599453)


@triton.jit
def _log1p(e):
    """log(1 + e) for e in [0, 1], 2 artanh(e / (2 + e)) by its series: log(1 + e) as written loses small step sizes."""
    z = e / (2 + e)
    s = z * z
    return 2 * z * (1 + s * (1 / 3 + s * (0.2 + s * (1 / 7 + s * (1 / 9 + s * (1 / 11 + s * (1 / 13 + s / 15)))))))


@triton.jit
def _forward(
    u, delta, A, B, C, skip, gate, bias, y, starts, T, W, N,
    u_b, u_t, delta_b, delta_t, B_b, B_t, C_b, C_t, gate_b, gate_t,
    CR: tl.constexpr, NR: tl.constexpr, CL: tl.constexpr, NL: tl.constexpr, STEPS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * CR * CL + tl.arange(0, CR)[:, None] * CL + tl.arange(0, CL)[None, :]
    n = tl.arange(0, NR)[:, None] + tl.arange(0, NL)[None, :] * NR
    b = tl.program_id(1).to(tl.int64)
    cell = i[:, None, :, None] * N + n[None, :, None, :]
    in_i, in_n = i < W, n < N
    in_cell = in_i[:, None, :, None] & in_n[None, :, None, :]
    A2 = tl.load(A + cell, mask=in_cell, other=0.0) * LOG2_E
    bias_i = tl.load(bias + i, mask=in_i, other=0.0) if bias is not None else tl.zeros([CR, CL], tl.float32)
    skip_i = tl.load(skip + i, mask=in_i, other=0.0) if skip is not None else tl.zeros([CR, CL], tl.float32)
    h = tl.zeros([CR, NR, CL, NL], tl.float32)
    u += b * u_b + i
    delta += b * delta_b + i
    B += b * B_b + n
    C += b * C_b + n
    y += b * T * W + i
    if gate is not None:
        gate += b * gate_b + i
    for first in range(0, T, STEPS):
        if starts is not None:  # noqa: SIM102  (decided when it is compiled, the other when it runs)
            if first % CHUNK == 0:
                tl.store(starts + (b * tl.cdiv(T, CHUNK) + first // CHUNK) * W * N + cell, h, mask=in_cell)
        us, deltas, Bs, Cs, gates = (), (), (), (), ()
        for j in tl.static_range(STEPS):
            t = first + j
            us += (tl.load(u + t * u_t, mask=in_i & (t < T), other=0.0).to(tl.float32),)
            deltas += (tl.load(delta + t * delta_t, mask=in_i & (t < T), other=0.0).to(tl.float32),)
            Bs += (tl.load(B + t * B_t, mask=in_n & (t < T), other=0.0).to(tl.float32),)
            Cs += (tl.load(C + t * C_t, mask=in_n & (t < T), other=0.0).to(tl.float32),)
            if gate is not None:
                gates += (tl.load(gate + t * gate_t, mask=in_i & (t < T), other=0.0).to(tl.float32),)
        for j in tl.static_range(STEPS):
            x = deltas[j] + bias_i
            step = tl.maximum(x, 0.0) + _log1p(tl.exp(-tl.abs(x)))
            h = tl.exp2(step[:, None, :, None] * A2) * h + (step * us[j])[:, None, :, None] * Bs[j][None, :, None, :]
            out = tl.sum(tl.sum(h * Cs[j][None, :, None, :], 1), 2) + skip_i * us[j]
            if gate is not None:
                out *= gates[j] / (1 + tl.exp(-gates[j]))
            tl.store(y + (first + j) * W, out.to(y.dtype.element_ty), mask=in_i & (first + j < T))


@triton.jit
def _backward(
    u, delta, A, B, C, skip, gate, bias, starts, scratch, g, du, ddelta, dA, dB, dC, dskip, dgate, dbias, T, W, N,
    u_b, u_t, delta_b, delta_t, B_b, B_t, C_b, C_t, gate_b, gate_t, g_b, g_t,
    CR: tl.constexpr, NR: tl.constexpr, CL: tl.constexpr, NL: tl.constexpr, STEPS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * CR * CL + tl.arange(0, CR)[:, None] * CL + tl.arange(0, CL)[None, :]
    n = tl.arange(0, NR)[:, None] + tl.arange(0, NL)[None, :] * NR
    b = tl.program_id(1).to(tl.int64)
    cell = i[:, None, :, None] * N + n[None, :, None, :]
    in_i, in_n = i < W, n < N
    in_cell = in_i[:, None, :, None] & in_n[None, :, None, :]
    A2 = tl.load(A + cell, mask=in_cell, other=0.0) * LOG2_E
    bias_i = tl.load(bias + i, mask=in_i, other=0.0) if bias is not None else tl.zeros([CR, CL], tl.float32)
    skip_i = tl.load(skip + i, mask=in_i, other=0.0) if skip is not None else tl.zeros([CR, CL], tl.float32)
    block = tl.program_id(0) * tl.num_programs(1) + b  # of channels, of one sequence
    scratch += block * (CHUNK // STEPS) * CR * NR * CL * NL
    scratch += (i - tl.program_id(0) * CR * CL)[:, None, :, None] * NR * NL + n[None, :, None, :]
    u += b * u_b + i
    delta += b * delta_b + i
    B += b * B_b + n
    C += b * C_b + n
    g += b * g_b + i
    du += b * T * W + i
    ddelta += b * T * W + i
    dB += block * T * N + n
    dC += block * T * N + n
    if gate is not None:
        gate += b * gate_b + i
        dgate += b * T * W + i
    q = tl.zeros([CR, NR, CL, NL], tl.float32)  # gradient of the state that the step before leaves
    sum_A = tl.zeros([CR, NR, CL, NL], tl.float32)
    sum_skip, sum_bias = tl.zeros([CR, CL], tl.float32), tl.zeros([CR, CL], tl.float32)
    chunks = tl.cdiv(T, CHUNK)
    for back in range(0, chunks):
        chunk = chunks - 1 - back
        h = tl.load(starts + (b * chunks + chunk) * W * N + cell, mask=in_cell, other=0.0)
        tiles = tl.cdiv(tl.minimum(CHUNK, T - chunk * CHUNK), STEPS)
        for m in range(0, tiles):
            tl.store(scratch + m * CR * NR * CL * NL, h)
            for j in tl.static_range(STEPS):
                t = chunk * CHUNK + m * STEPS + j
                u_i = tl.load(u + t * u_t, mask=in_i & (t < T), other=0.0).to(tl.float32)
                x = tl.load(delta + t * delta_t, mask=in_i & (t < T), other=0.0).to(tl.float32) + bias_i
                B_n = tl.load(B + t * B_t, mask=in_n & (t < T), other=0.0).to(tl.float32)
                step = tl.maximum(x, 0.0) + _log1p(tl.exp(-tl.abs(x)))
                h = tl.exp2(step[:, None, :, None] * A2) * h + (step * u_i)[:, None, :, None] * B_n[None, :, None, :]
        tl.debug_barrier()  # what one lane has stored another may load
        for m in range(0, tiles):
            first = chunk * CHUNK + (tiles - 1 - m) * STEPS
            h = tl.load(scratch + (tiles - 1 - m) * CR * NR * CL * NL)
            us, xs, steps, Bs, decays, hs = (), (), (), (), (), (h,)
            for j in tl.static_range(STEPS):
                t = first + j
                us += (tl.load(u + t * u_t, mask=in_i & (t < T), other=0.0).to(tl.float32),)
                xs += (tl.load(delta + t * delta_t, mask=in_i & (t < T), other=0.0).to(tl.float32) + bias_i,)
                Bs += (tl.load(B + t * B_t, mask=in_n & (t < T), other=0.0).to(tl.float32),)
            for j in tl.static_range(STEPS):
                steps += (tl.maximum(xs[j], 0.0) + _log1p(tl.exp(-tl.abs(xs[j]))),)
                decays += (tl.exp2(steps[j][:, None, :, None] * A2),)
                hs += (decays[j] * hs[j] + (steps[j] * us[j])[:, None, :, None] * Bs[j][None, :, None, :],)
            for j in tl.static_range(STEPS - 1, -1, -1):
                t = first + j
                now = in_i & (t < T)
                C_n = tl.load(C + t * C_t, mask=in_n & (t < T), other=0.0).to(tl.float32)
                g_i = tl.load(g + t * g_t, mask=now, other=0.0).to(tl.float32)
                if gate is not None:
                    z = tl.load(gate + t * gate_t, mask=now, other=0.0).to(tl.float32)
                    out = tl.sum(tl.sum(hs[j + 1] * C_n[None, :, None, :], 1), 2) + skip_i * us[j]
                    open_i = 1 / (1 + tl.exp(-z))
                    dz = g_i * out * open_i * (1 + z * (1 - open_i))
                    tl.store(dgate + t * W, dz.to(dgate.dtype.element_ty), mask=now)
                    g_i *= z * open_i
                g_wide = g_i[:, None, :, None]
                tl.store(dC + t * N, tl.sum(tl.sum(g_wide * hs[j + 1], 0), 1), mask=in_n & (t < T))
                r = g_wide * C_n[None, :, None, :] + q  # gradient of the state after this step
                tl.store(dB + t * N, tl.sum(tl.sum(r * (steps[j] * us[j])[:, None, :, None], 0), 1), mask=in_n & (t < T))
                q = r * decays[j]
                decayed = q * hs[j]
                sum_A += decayed * steps[j][:, None, :, None]
                written = tl.sum(tl.sum(r * Bs[j][None, :, None, :], 1), 2)
                dx = us[j] * written + tl.sum(tl.sum(decayed * A2, 1), 2) * LN_2
                dx /= 1 + tl.exp(-xs[j])  # through the softplus
                sum_bias += dx
                sum_skip += g_i * us[j]
                tl.store(du + t * W, (steps[j] * written + skip_i * g_i).to(du.dtype.element_ty), mask=now)
                tl.store(ddelta + t * W, dx.to(ddelta.dtype.element_ty), mask=now)
        tl.debug_barrier()
    tl.store(dA + b * W * N + cell, sum_A, mask=in_cell)
    if skip is not None:
        tl.store(dskip + b * W + i, sum_skip, mask=in_i)
    if bias is not None:
        tl.store(dbias + b * W + i, sum_bias, mask=in_i)


@torch.library.custom_op("lolm::selective_scan", mutates_args=())
def _scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, skip: Tensor | None, gate: Tensor | None, bias: Tensor | None,
    keep: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    y, starts = _outputs(u, delta, A, B, C, skip, gate, bias, keep)
    grid, shape = _grid(u, A)
    strides = _strides(u, delta, B, C, gate)
    _forward[grid](u, delta, A, B, C, skip, gate, bias, y, starts if keep else None, *u.shape[1:], A.shape[1], *strides, **shape)
    return y, starts


@_scan.register_fake
def _outputs(u, delta, A, B, C, skip, gate, bias, keep):
    """y, and the states before every chunk if they are to be kept."""
    chunks = -(-u.shape[1] // CHUNK) if keep else 0
    return u.new_empty(u.shape), A.new_empty(u.shape[0], chunks, *A.shape)


@torch.library.custom_op("lolm::selective_scan_backward", mutates_args=())
def _scan_backward(
    g: Tensor, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, skip: Tensor | None, gate: Tensor | None,
    bias: Tensor | None, starts: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    (batch, length, channels), states = u.shape, A.shape[1]
    grid, shape = _grid(u, A)
    du, ddelta, dgate = u.new_empty(u.shape), delta.new_empty(u.shape), g.new_empty(() if gate is None else u.shape)
    dA, dskip, dbias = (A.new_empty(batch, channels, *n) for n in ((states,), (), ()))
    dB, dC = (A.new_empty(grid[0], batch, length, states) for _ in range(2))
    scratch = A.new_empty(*grid, CHUNK // STEPS, shape["CR"] * shape["CL"] * shape["NR"] * shape["NL"])
    _backward[grid](
        u, delta, A, B, C, skip, gate, bias, starts, scratch, g, du, ddelta, dA, dB, dC, dskip, dgate, dbias,
        length, channels, states, *_strides(u, delta, B, C, gate, g), **shape,
    )  # fmt: skip
    return du, ddelta, dA.sum(0), dB.sum(0).to(B.dtype), dC.sum(0).to(C.dtype), dskip.sum(0), dgate, dbias.sum(0)


@_scan_backward.register_fake
def _gradients(g, u, delta, A, B, C, skip, gate, bias, starts):
    like = (u, delta, A, B, C, A[:, 0], g[0, 0, 0] if gate is None else g, A[:, 0])
    return tuple(x.new_empty(x.shape) for x in like)


def _keep(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:8], output[1])


def _pull_back(ctx, g, _):
    g = rows(g)
    gradients = _scan_backward(g, *ctx.saved_tensors)
    return *(d if x is not None else None for d, x in zip(gradients, ctx.saved_tensors, strict=False)), None


_scan.register_autograd(_pull_back, setup_context=_keep)


def _grid(u: Tensor, A: Tensor) -> tuple[tuple[int, int], dict[str, int]]:
    """Programs, and the shape of each one's block: 16 states a lane, or as many as N ≥ 128 asks for."""
    padded = triton.next_power_of_2(A.shape[1])
    lanes = min(padded, 4)
    block = {"CR": max(1, min(4, 16 * lanes // padded)), "NR": padded // lanes, "CL": 32 // lanes, "NL": lanes}
    grid = triton.cdiv(u.shape[2], block["CR"] * block["CL"]), u.shape[0]
    return grid, block | {"STEPS": STEPS, "CHUNK": CHUNK, "num_warps": 1}


def _strides(*series: Tensor | None) -> list[int]:
    """From one sequence and from one step to the next, of each."""
    return [0 if x is None else x.stride(axis) for x in series for axis in (0, 1)]


def selective_scan(
    u_BTI: Tensor,
    delta_BTI: Tensor,
    A_IN: Tensor,
    B_BTN: Tensor,
    C_BTN: Tensor,
    skip_I: Tensor | None = None,
    gate_BTI: Tensor | None = None,
    delta_bias_I: Tensor | None = None,
) -> Tensor:
    """:func:`lolm.ops.scan.selective_scan` of float32 or bfloat16 series in any mixture, computed in float32."""
    inputs = (u_BTI, delta_BTI, A_IN.float().contiguous(), B_BTN, C_BTN, skip_I, gate_BTI, delta_bias_I)
    floats = (x.float() if x is not None and x.dim() == 1 else x for x in inputs)
    dense = [x if x is None else rows(x) for x in floats]
    return _scan(*dense, torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in dense))[0]
