"""The one place that chooses how the compiled parts of the mixers run."""

from __future__ import annotations

from functools import cache

import torch

from lolm.config import ConfigError

BACKENDS = ("auto", "reference", "cpu", "cuda")


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
def keep_from_tracing() -> None:
    """Let ``torch.compile`` call the Numba kernels as they are; it would trace into Numba, and fail there."""
    if _numba_works():
        from lolm.ops.cpu.compiled import Kernel

        Kernel.__call__ = torch.compiler.disable(Kernel.__call__)  # type: ignore[method-assign]


def copy_parameters() -> None:
    """Let the Numba kernels read copies of weights: what NumPy has seen cannot be freed and gathered again, as sharding does."""
    if _numba_works():
        from lolm.ops.cpu import compiled

        compiled.copied = True


@cache
def _numba_works() -> bool:
    try:
        import lolm.ops.cpu.vectors  # noqa: F401
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
