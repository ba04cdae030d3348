"""The selective scan of Mamba-1 (Gu & Dao 2023, arXiv 2312.00752, eq. 2 and 4), and the one place that chooses how to run it.

State S_t = exp(Δ_t A) ⊙ S_{t-1} + (Δ_t u_t) ⊗ B_t, output y_t = S_t C_t + skip ⊙ u_t, S_0 = 0.

Shape suffixes: B batch, T time, D channels, N states.
"""

from __future__ import annotations

from functools import cache

import torch

from lolm.config import ConfigError

BACKENDS = ("auto", "reference", "cpu", "cuda")


def selective_scan(
    u_BTD: torch.Tensor,
    delta_BTD: torch.Tensor,
    A_DN: torch.Tensor,
    B_BTN: torch.Tensor,
    C_BTN: torch.Tensor,
    skip_D: torch.Tensor | None = None,
    backend: str = "auto",
) -> torch.Tensor:
    """Run the scan from a zero state.

    Args:
        u_BTD: input.
        delta_BTD: positive step sizes (softplus already applied).
        A_DN: negative decay rates.
        B_BTN: input map, one per token.
        C_BTN: output map, one per token.
        skip_D: weight of the direct path; None for none.
        backend: ``reference`` (sequential, any dtype), ``cpu`` (Numba), ``cuda`` (mamba-ssm) or ``auto``.

    Returns:
        y_BTD in the dtype of ``u_BTD``; the recurrence runs in float32 unless the input is float64.

    Raises:
        ConfigError: the backend asked for cannot run here.
    """
    chosen = choose_backend(u_BTD.device.type, backend)
    if chosen == "reference" or u_BTD.dtype == torch.float64:
        return selective_scan_reference(u_BTD, delta_BTD, A_DN, B_BTN, C_BTN, skip_D)[0]
    dtype = u_BTD.dtype
    if chosen == "cuda":
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

        y_BDT = selective_scan_fn(
            u_BTD.transpose(1, 2),
            delta_BTD.transpose(1, 2).to(dtype),
            A_DN.float(),
            B_BTN.transpose(1, 2).to(dtype),
            C_BTN.transpose(1, 2).to(dtype),
            None if skip_D is None else skip_D.float(),
        )
        return y_BDT.transpose(1, 2)
    from lolm.mixers.scan_cpu import SelectiveScanCPU

    skip = torch.zeros(u_BTD.shape[-1]) if skip_D is None else skip_D.float()
    arguments = (x.float() for x in (u_BTD, delta_BTD, A_DN, B_BTN, C_BTN))
    return SelectiveScanCPU.apply(*arguments, skip).to(dtype)


def selective_scan_reference(
    u_BTD: torch.Tensor,
    delta_BTD: torch.Tensor,
    A_DN: torch.Tensor,
    B_BTN: torch.Tensor,
    C_BTN: torch.Tensor,
    skip_D: torch.Tensor | None = None,
    state_BDN: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The recurrence as it is written, one step after the other: what every other backend is tested against.

    Returns:
        (y_BTD, last state_BDN); the state is float32, or float64 for float64 input.
    """
    dtype = torch.promote_types(u_BTD.dtype, torch.float32)
    u, delta, A, B, C = (x.to(dtype) for x in (u_BTD, delta_BTD, A_DN, B_BTN, C_BTN))
    batch, length, channels = u.shape
    state = u.new_zeros(batch, channels, A.shape[1]) if state_BDN is None else state_BDN.to(dtype)
    ys = []
    for t in range(length):
        decay_BDN = torch.exp(delta[:, t, :, None] * A)
        state = decay_BDN * state + (delta[:, t] * u[:, t])[:, :, None] * B[:, t, None, :]
        ys.append(torch.einsum("bdn,bn->bd", state, C[:, t]))
    y = torch.stack(ys, dim=1)
    if skip_D is not None:
        y = y + skip_D.to(dtype) * u
    return y.to(u_BTD.dtype), state


def choose_backend(device_type: str, wanted: str = "auto") -> str:
    """The backend that will run on a device: ``reference``, ``cpu`` or ``cuda``.

    Raises:
        ConfigError: ``wanted`` is unknown or cannot run on this device.
    """
    if wanted not in BACKENDS:
        raise ConfigError(f"training.kernels: {wanted!r} is not one of {', '.join(BACKENDS)}")
    if wanted == "reference":
        return wanted
    if wanted in ("auto", "cuda") and device_type == "cuda":
        if _mamba_ssm_works():
            return "cuda"
        if wanted == "cuda":
            raise ConfigError(
                "training.kernels: 'cuda' needs the mamba-ssm package; pip install --no-build-isolation -e '.[cuda]'"
            )
    if device_type == "cpu":
        if wanted == "cuda":
            raise ConfigError("training.kernels: 'cuda' was asked for, but the model is on the CPU; use 'auto'")
        if _numba_works():
            return "cpu"
    if wanted == "cpu":
        raise ConfigError("training.kernels: 'cpu' needs a model on the CPU and the numba package; use 'auto'")
    return "reference"


@cache
def _numba_works() -> bool:
    try:
        import lolm.mixers.scan_cpu  # noqa: F401
    except ImportError:
        return False
    return True


@cache
def _mamba_ssm_works() -> bool:
    try:
        import mamba_ssm.ops.selective_scan_interface  # noqa: F401
    except Exception:
        return False
    return True
