"""How tensors lie in memory for the kernels."""

from torch import Tensor


def rows(m: Tensor) -> Tensor:
    """(B, T, ·) or (B, T, ·, ·) with each step's numbers side by side: slices of a projection stay where they are."""
    return m if m.stride(-1) == 1 and (m.dim() < 4 or m.stride(-2) == m.shape[-1]) else m.contiguous()
