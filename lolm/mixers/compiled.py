"""What the Numba kernels share: where they are kept, how many threads they take, and how tensors reach them."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numba
import numpy as np
import torch
from numba import get_num_threads, set_num_threads

# Numba's OpenMP layer would raise the thread count of torch's OpenMP runtime behind its back; its own work queue does not, but
# takes one caller at a time.
numba.config.THREADING_LAYER = "workqueue"  # type: ignore[attr-defined]
_one_caller = threading.Lock()

# Numba knows a kernel by the file it stands in and would not see a change of the vectors it is made of.
if not numba.config.CACHE_DIR:  # type: ignore[attr-defined]
    _here = Path(__file__).parent
    _vectors = hashlib.sha256((_here / "vectors.py").read_bytes()).hexdigest()[:16]
    numba.config.CACHE_DIR = str(_here / "__pycache__" / f"kernels-{_vectors}")  # type: ignore[attr-defined]


@contextmanager
def kernel_threads() -> Iterator[None]:
    """Alone in Numba, with as many threads as torch uses: one process of a pair must not take both cores."""
    with _one_caller:
        wanted = min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
        if get_num_threads() != wanted:
            set_num_threads(wanted)
        yield


def as_numpy(x: torch.Tensor) -> np.ndarray:
    return x.detach().contiguous().numpy()


def flat(x: torch.Tensor) -> np.ndarray:
    """All elements in one row; a view where the tensor is contiguous."""
    return as_numpy(x).reshape(-1)
