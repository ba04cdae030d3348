"""How tensors lie in memory for the kernels."""

import torch
from torch import Tensor


def rows(m: Tensor) -> Tensor:
    """(B, T, ·) or (B, T, ·, ·) with each step's numbers side by side: slices of a projection stay where they are."""
    return m if m.stride(-1) == 1 and (m.dim() < 4 or m.stride(-2) == m.shape[-1]) else m.contiguous()


def stages(m: Tensor, wide: bool = False) -> int:
    """Turns of a loop that are in work together (``num_stages``), operands of the next being loaded: as many as the fast memory
    of an A100's processors (163 KB) has room for at the widest. Products of float32 take longer than loading them."""
    return 1 if m.dtype == torch.float32 else 2 if wide else 3
