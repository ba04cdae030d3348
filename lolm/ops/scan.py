"""The selective scan of Mamba-1 (Gu & Dao 2023, arXiv 2312.00752, eq. 2 and 4).

Δ_t = softplus(delta_t + delta_bias), state S_t = exp(Δ_t A) ⊙ S_{t-1} + (Δ_t u_t) ⊗ B_t, S_0 = 0,
output y_t = (S_t C_t + skip ⊙ u_t) ⊙ SiLU(gate_t). Step sizes and gate belong to the scan so that a kernel can fuse them.

Shape suffixes: B batch, T time, I channels (a block's inner width), N states.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lolm.ops.backends import kernel_of, refuse_loop

STATE_BLOCK = 64  # steps


def selective_scan(
    u_BTI: torch.Tensor,
    delta_BTI: torch.Tensor,
    A_IN: torch.Tensor,
    B_BTN: torch.Tensor,
    C_BTN: torch.Tensor,
    skip_I: torch.Tensor | None = None,
    gate_BTI: torch.Tensor | None = None,
    delta_bias_I: torch.Tensor | None = None,
    backend: str = "auto",
) -> torch.Tensor:
    """Run the scan from a zero state.

    Args:
        u_BTI: input.
        delta_BTI: step sizes before their bias and softplus.
        A_IN: negative decay rates.
        B_BTN: input map, one per token.
        C_BTN: output map, one per token.
        skip_I: weight of the direct path; None for none.
        gate_BTI: the output is multiplied by SiLU of it; None for no gate.
        delta_bias_I: is added to the step sizes before their softplus; None for nothing.
        backend: ``training.kernels``: ``reference`` (sequential, any dtype), ``cpu`` (Numba), ``triton`` (ours), ``cuda``
            (mamba-ssm) or ``auto``, the fastest that works.

    Returns:
        y_BTI in the dtype of ``u_BTI``; the recurrence runs in float32 unless the input is float64.

    Raises:
        ConfigError: the backend asked for cannot run here, or the reference would run over a long sequence on CUDA.
    """
    chosen, kernel = kernel_of("selective_scan", u_BTI.device.type, backend)
    dtype = u_BTI.dtype
    if kernel is not None and dtype != torch.float64:
        with torch.autocast(u_BTI.device.type, enabled=False):
            return kernel(u_BTI, delta_BTI, A_IN, B_BTN, C_BTN, skip_I, gate_BTI, delta_bias_I)
    if chosen != "cpu" or dtype == torch.float64:
        refuse_loop("selective_scan", u_BTI.device.type, u_BTI.shape[1])
        return selective_scan_reference(u_BTI, delta_BTI, A_IN, B_BTN, C_BTN, skip_I, gate_BTI, delta_bias_I)[0]
    from lolm.ops.cpu.scan import SelectiveScanCPU

    skip, bias = (torch.zeros(u_BTI.shape[-1]) if x is None else x.float() for x in (skip_I, delta_bias_I))
    arguments = (x.float() for x in (u_BTI, delta_BTI, A_IN, B_BTN, C_BTN))
    return SelectiveScanCPU.apply(*arguments, skip, bias, None if gate_BTI is None else gate_BTI.float()).to(dtype)


def selective_scan_example(batch: int, length: int, width: int) -> list[torch.Tensor]:
    """Inputs as a Mamba block gives them, N = 16: of positive scale where a decay or a step size is."""
    series, maps = (batch, length, width), (batch, length, 16)
    A_IN = -torch.arange(1.0, 17).repeat(width, 1)
    vectors = torch.ones(width), torch.randn(series), torch.full((width,), -2.0)
    return [torch.randn(series), torch.randn(series), A_IN, torch.randn(maps), torch.randn(maps), *vectors]


@torch.no_grad()
def last_state(
    u_BTI: torch.Tensor, delta_BTI: torch.Tensor, A_IN: torch.Tensor, B_BTN: torch.Tensor, delta_bias_I: torch.Tensor
) -> torch.Tensor:
    """The state behind the last step, S_T = Σ_t exp(A Σ_{r>t} Δ_r) ⊙ (Δ_t u_t) ⊗ B_t, (B, I, N), for generation to go on from.

    In blocks of :data:`STATE_BLOCK` steps, so that memory does not grow with T; no exponent is positive. Arguments and dtype as
    in :func:`selective_scan_reference`.
    """
    dtype = torch.promote_types(u_BTI.dtype, torch.float32)
    A_IN, state = A_IN.to(dtype), u_BTI.new_zeros(len(u_BTI), *A_IN.shape, dtype=dtype)
    with torch.autocast(u_BTI.device.type, enabled=False):
        for u, delta, B in zip(*(x.to(dtype).split(STATE_BLOCK, dim=1) for x in (u_BTI, delta_BTI, B_BTN)), strict=True):
            delta = F.softplus(delta + delta_bias_I.to(dtype))
            behind = F.pad(delta[:, 1:], (0, 0, 0, 1)).flip(1).cumsum(1).flip(1)  # no difference of sums: one Δ may be large
            decay = torch.exp(behind[..., None] * A_IN)
            written = ((delta * u)[..., None] * B[:, :, None]).mul_(decay).sum(dim=1)
            state = torch.exp((behind + delta)[:, 0, :, None] * A_IN) * state + written
    return state


def selective_scan_step(
    u_BI: torch.Tensor,
    delta_BI: torch.Tensor,
    A_IN: torch.Tensor,
    B_BN: torch.Tensor,
    C_BN: torch.Tensor,
    skip_I: torch.Tensor | None,
    gate_BI: torch.Tensor,
    delta_bias_I: torch.Tensor,
    state_BIN: torch.Tensor,
) -> torch.Tensor:
    """One more step, y_BI in the dtype of ``u_BI``; the state is changed in place. Arguments as in :func:`selective_scan`."""
    dtype = state_BIN.dtype
    u, delta, C, gate = (x.to(dtype) for x in (u_BI, delta_BI, C_BN, gate_BI))
    delta = F.softplus(delta + delta_bias_I)
    decay = torch.exp(delta[..., None] * A_IN)
    state_BIN.mul_(decay).addcmul_((delta * u)[..., None], B_BN.to(dtype)[:, None])
    y = (state_BIN * C[:, None]).sum(dim=-1)  # no product of matrices, which autocast would round
    y = y if skip_I is None else torch.addcmul(y, skip_I.to(dtype), u)
    return (y * F.silu(gate)).to(u_BI.dtype)


def selective_scan_reference(
    u_BTI: torch.Tensor,
    delta_BTI: torch.Tensor,
    A_IN: torch.Tensor,
    B_BTN: torch.Tensor,
    C_BTN: torch.Tensor,
    skip_I: torch.Tensor | None = None,
    gate_BTI: torch.Tensor | None = None,
    delta_bias_I: torch.Tensor | None = None,
    state_BIN: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The recurrence as it is written, one step after the other: what every other backend is tested against.

    Returns:
        (y_BTI, last state_BIN); the state is float32, or float64 for float64 input.
    """
    dtype = torch.promote_types(u_BTI.dtype, torch.float32)
    u, A, B, C = (x.to(dtype) for x in (u_BTI, A_IN, B_BTN, C_BTN))
    delta = delta_BTI.to(dtype)
    delta = F.softplus(delta if delta_bias_I is None else delta + delta_bias_I.to(dtype))
    batch, length, channels = u.shape
    state = u.new_zeros(batch, channels, A.shape[1]) if state_BIN is None else state_BIN.to(dtype)
    ys = []
    with torch.autocast(u.device.type, enabled=False):  # which would read the states out in half precision
        for t in range(length):
            # A < 0, so a large Δ both forgets the state and writes the token: Δ is the choice between the two. The input takes
            # the simple Euler step Δ B, as in the released code, and not the exact (exp(Δ A) − 1) / A B of the paper's eq. 4.
            decay_BIN = torch.exp(delta[:, t, :, None] * A)
            state = decay_BIN * state + (delta[:, t] * u[:, t])[:, :, None] * B[:, t, None, :]
            ys.append(torch.einsum("bin,bn->bi", state, C[:, t]))
    y = torch.stack(ys, dim=1)
    if skip_I is not None:  # before the gate, as in Mamba; SSM-P (facts A3) adds its own behind it
        y = y + skip_I.to(dtype) * u
    if gate_BTI is not None:
        y = y * F.silu(gate_BTI.to(dtype))
    return y.to(u_BTI.dtype), state
