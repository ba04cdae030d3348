"""What the Numba kernels share: where they are kept, how many threads they take, and how tensors reach them."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from types import FunctionType

import numba
import numpy as np
import torch
from numba import get_num_threads, set_num_threads

# Numba's OpenMP layer would raise the thread count of torch's OpenMP runtime behind its back; its own work queue does not, but
# takes one caller at a time.
numba.config.THREADING_LAYER = "workqueue"  # type: ignore[attr-defined]
_one_caller = threading.Lock()
copied = False  # whether kernels get copies of weights, see lolm.ops.backends.copy_parameters

# Numba knows a kernel by the file it stands in and would not see a change of the vectors it is made of.
if not numba.config.CACHE_DIR:  # type: ignore[attr-defined]
    _here = Path(__file__).parent
    _vectors = hashlib.sha256((_here / "vectors.py").read_bytes()).hexdigest()[:16]
    numba.config.CACHE_DIR = str(_here / "__pycache__" / f"kernels-{_vectors}")  # type: ignore[attr-defined]


class Kernel:
    """A Numba function whose outer loop is a ``prange``: with one thread it runs where it is called, with more in Numba's pool.

    The pool's threads are others than the caller's, so for one thread it would cost a change of core at every call. Both forms
    do the same sums in the same order.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        def build(name: str, parallel: bool) -> Callable[..., None]:
            return numba.njit(parallel=parallel, cache=True, nogil=True, error_model="numpy")(_renamed(function, name))

        self._serial, self._parallel = build("_serial", False), build("_parallel", True)

    def __call__(self, *arguments) -> None:
        # As many threads as torch uses: one process of a pair must not take both cores.
        threads = min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
        if threads == 1:
            self._serial(*arguments)
            return
        with _one_caller:
            if get_num_threads() != threads:
                set_num_threads(threads)
            self._parallel(*arguments)


def _renamed(function: Callable[..., None], suffix: str) -> Callable[..., None]:
    """A copy under another name: Numba's cache tells two forms of one function apart by nothing else."""
    copy = FunctionType(function.__code__, function.__globals__, function.__name__ + suffix)
    copy.__qualname__, copy.__module__ = function.__qualname__ + suffix, function.__module__
    return copy


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
