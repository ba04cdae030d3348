"""What the Numba kernels share: where they are kept, how many threads they take, and how tensors reach them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import numpy as np
import torch
from numba import njit

copied = False  # whether kernels get copies of weights, see lolm.ops.backends.copy_parameters

# Numba knows a kernel by the file it stands in and would not see a change of what it is made of.
if not numba.config.CACHE_DIR:  # type: ignore[attr-defined]
    _here = Path(__file__).parent
    _made_of = b"".join((_here / name).read_bytes() for name in ("compiled.py", "vectors.py"))
    _version = hashlib.sha256(_made_of).hexdigest()[:16]
    numba.config.CACHE_DIR = str(_here / "__pycache__" / f"kernels-{_version}")  # type: ignore[attr-defined]


def are_compiled() -> bool:
    """Whether some kernel was used here before; the first use of each takes some seconds more."""
    return Path(numba.config.CACHE_DIR).exists()  # type: ignore[attr-defined]


class Kernel:
    """A Numba function that takes part ``part`` of ``parts`` of its cells, see :func:`cells_of`, and its arguments behind these.

    As many parts as torch has threads run side by side, one of them where it is called: one process of a pair must not take both
    cores. Numba's own ``prange`` would be compiled a second time, and its pool takes one caller at a time.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self._compiled = njit(cache=True, nogil=True, error_model="numpy")(function)

    def __call__(self, *arguments) -> None:
        parts = torch.get_num_threads()
        others = [_pool().submit(self._compiled, part, parts, *arguments) for part in range(1, parts)]
        self._compiled(0, parts, *arguments)
        for other in others:
            other.result()


@njit
def cells_of(part, parts, cells):
    """The cells of one part. No sum of a kernel crosses a cell, so the number of parts changes no bit."""
    return range(part * cells // parts, (part + 1) * cells // parts)


_pools: list[ThreadPoolExecutor] = []
os.register_at_fork(after_in_child=_pools.clear)  # no thread of the parent's lives there


def _pool() -> ThreadPoolExecutor:
    if not _pools:
        _pools.append(ThreadPoolExecutor(os.cpu_count(), "kernel"))
    return _pools[0]


def as_numpy(x: torch.Tensor) -> np.ndarray:
    if copied:
        base = x if x._base is None else x._base
        x = x.clone() if base.is_leaf and base.requires_grad else x
    return x.detach().contiguous().numpy()


def flat(x: torch.Tensor) -> np.ndarray:
    """All elements in one row; a view where the tensor is contiguous."""
    return as_numpy(x).reshape(-1)


def rows(x: torch.Tensor) -> tuple[np.ndarray, int]:
    """The floats of (…, C) from the first on, and how far apart its rows begin: a view for a slice of channels too."""
    if x.is_contiguous():
        return flat(x), x.shape[-1]
    hop = x.stride(-2) if x.dim() > 1 else x.shape[-1]
    evenly = x.stride(-1) == 1 and all(x.stride(i) == x.stride(i + 1) * x.shape[i + 1] for i in range(x.dim() - 2))
    if not evenly or hop < x.shape[-1]:
        return flat(x), x.shape[-1]
    count = x.shape[:-1].numel()
    return x.detach().as_strided(((count - 1) * hop + x.shape[-1],), (1,)).numpy(), hop
