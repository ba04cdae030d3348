"""The one place that chooses what computes the ops of the mixers.

CPUs have kernels in Numba. On a GPU an op has those of :data:`KERNELS`, ours in Triton and a library's. Whether one works is
found out by running it forward and backward on a small input and comparing with the reference, because an import also succeeds
where the kernel cannot run, as that of a mamba-ssm without its extension. Of those that work the fastest is taken.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib import import_module
from statistics import median
from typing import Any

import torch

from lolm.config import ConfigError

BACKENDS = ("auto", "reference", "cpu", "triton", "cuda")

# Op → its module, which has it under its name, and inputs for it as `<op>_example(batch, length, width)`.
OPS = {
    "selective_scan": "lolm.ops.scan",
    "linear_scan": "lolm.ops.linear_scan",
    "causal_conv": "lolm.ops.causal_conv",
    "ssd": "lolm.ops.ssd",
    "window_attention": "lolm.ops.attention",
    "linear_cross_entropy": "lolm.ops.cross_entropy",
}
# Op → what can compute it on a GPU → the module that has it under the op's name, with the op's arguments less ``backend``.
KERNELS: dict[str, dict[str, str]] = {
    "selective_scan": {"triton": "lolm.ops.triton.scan", "mamba-ssm": "lolm.ops.libraries"},
    "linear_scan": {"triton": "lolm.ops.triton.linear_scan"},
    "causal_conv": {"triton": "lolm.ops.triton.causal_conv", "causal-conv1d": "lolm.ops.libraries"},
    "ssd": {"triton": "lolm.ops.triton.ssd", "mamba-ssm": "lolm.ops.libraries"},
    "window_attention": {"triton": "lolm.ops.triton.window_attention"},
    "linear_cross_entropy": {"triton": "lolm.ops.triton.cross_entropy"},
}
# Measured beside them, and never chosen.
COMPARED = {op: {"fla": "lolm.ops.fla"} for op in OPS if op != "selective_scan"}
TOLERANCE = 1e-2  # largest error over the largest value: a kernel that works but multiplies in TF32 passes, a broken one does not
LONGEST_LOOP = 512  # steps from which a loop over time is refused on a GPU
LEAST = 0.1  # what an error is set against where all values are smaller: gradients of a single step are zero, or nearly
PROBED, TIMED = (2, 70, 48), (4, 2048, 1024)  # batch, length, width
# Where an op is timed, the sizes of its example behind those three: width and states of heads, width of heads, vocabulary.
WIDE = {"ssd": (64, 128), "window_attention": (64,), "linear_cross_entropy": (50_257,)}
INSTALL = (
    "install Triton (`pip install triton`; PyTorch's CUDA builds bring it) or, where CUDA's compiler is, the library kernels "
    "(`pip install --no-build-isolation -e '.[cuda]'`)"
)

Kernel = Callable[..., torch.Tensor]
_chosen: dict[tuple[str, str, str], tuple[str, Kernel | None]] = {}


def choose_backend(device_type: str, wanted: str = "auto") -> str:
    """The kind of kernels on a device: ``reference``, ``cpu``, ``triton`` or ``cuda``, which is the fastest of those for CUDA.

    Raises:
        ConfigError: ``wanted`` is unknown or cannot run on this device.
    """
    if wanted not in BACKENDS:
        raise ConfigError(f"training.kernels: {wanted!r} is not one of {', '.join(BACKENDS)}")
    if wanted == "reference":
        return wanted
    if wanted == "triton" and os.environ.get("TRITON_INTERPRET") == "1":  # how tests run them without a GPU
        return wanted
    if device_type == "cuda" and wanted != "cpu":
        return "triton" if wanted == "triton" else "cuda"
    if wanted in ("cuda", "triton"):
        raise ConfigError(f"training.kernels: {wanted!r} is for GPUs, but the model is on the {device_type.upper()}; use 'auto'")
    if device_type == "cpu" and _numba_works():
        return "cpu"
    if wanted == "cpu":
        raise ConfigError("training.kernels: 'cpu' needs a model on the CPU and the numba package; use 'auto'")
    return "reference"


def kernel_of(op: str, device_type: str, wanted: str = "auto") -> tuple[str, Kernel | None]:
    """What computes an op on a device, by name, and the function where it is a kernel for GPUs.

    Returns:
        ``reference``, ``cpu``, a name of :data:`KERNELS`, or ``torch`` where none of them works and nothing else was asked for.

    Raises:
        ConfigError: ``wanted`` is unknown or does not work here, with the reason.
    """
    key = op, device_type, wanted
    if key not in _chosen:  # a plain dict, which torch.compile can read
        _chosen[key] = _choose(*key)
    return _chosen[key]


def chosen_kernels(device_type: str, wanted: str = "auto") -> dict[str, str]:
    """What has computed each op in this process so far, by :func:`kernel_of`."""
    return {op: name for (op, *asked), (name, _) in sorted(_chosen.items(), key=str) if asked == [device_type, wanted]}


def refuse_loop(op: str, device_type: str, length: int) -> None:
    """Refuse to compute an op one step after the other where that takes many seconds.

    Raises:
        ConfigError: at :data:`LONGEST_LOOP` steps or more on CUDA, with what to install.
    """
    if device_type == "cuda" and length >= LONGEST_LOOP:
        reasons = {name: failure(op, name, device_type) for name in KERNELS[op]}
        raise ConfigError(
            f"{op}: the reference is a loop over all {length} steps, thousands of kernel launches; use training.kernels 'auto', "
            f"and {INSTALL}{_tried(reasons)}"
        )


@cache
def keep_from_tracing() -> None:
    """Let ``torch.compile`` call Numba's kernels, and what chooses kernels, as they are: it would trace into them, and fail."""
    global _choose
    _choose = torch.compiler.disable(_choose)
    if _numba_works():
        from lolm.ops.cpu.compiled import Kernel

        Kernel.__call__ = torch.compiler.disable(Kernel.__call__)  # type: ignore[method-assign]


def _choose(op: str, device_type: str, wanted: str) -> tuple[str, Kernel | None]:
    backend = choose_backend(device_type, wanted)
    if backend in ("reference", "cpu"):
        return backend, None
    libraries = [name for name in KERNELS[op] if name != "triton"]
    names = {"triton": ["triton"], "cuda": libraries or ["triton"], "auto": list(KERNELS[op])}[wanted]
    with torch.inference_mode(False):
        reasons = {name: failure(op, name, device_type) for name in names}
        working = [name for name, reason in reasons.items() if reason is None]
        if len(working) > 1:
            working.sort(key=partial(seconds, op, device_type))
    if not working and wanted != "auto":
        raise ConfigError(f"training.kernels: {wanted!r} does not compute {op} here; {INSTALL}{_tried(reasons)}")
    return (working[0], _load(op, working[0])) if working else ("torch", None)


def _load(op: str, name: str) -> Kernel:
    return getattr(import_module((KERNELS[op] | COMPARED.get(op, {}))[name]), op)


@cache
def failure(op: str, name: str, device_type: str) -> str | None:
    """Why a kernel is not used; None where it computes what the reference does, forward and backward."""
    try:
        found = errors(op, name, device_type)
    except Exception as error:  # an extension that was built for something else fails in any way
        return f"{type(error).__name__}: {error}"
    return None if all(error <= TOLERANCE for error in found) else f"it is off by {', '.join(f'{e:.0e}' for e in found)}"


def errors(
    op: str,
    name: str,
    device_type: str,
    sizes: tuple[int, ...] = PROBED,
    dtype: torch.dtype = torch.float32,
    truth: Kernel | None = None,
) -> list[float]:
    """Largest error of a kernel over the largest value, of the output and of every gradient, against the reference in float32 on
    the same values; in a ``dtype`` of the series that is coarser, the norm of the error over the norm. Values below
    :data:`LEAST` count as much as that.

    Args:
        truth: what is right in the reference's place, computed in float64.
    """
    inputs = halved(example(op, sizes, device_type), dtype)
    wide = torch.float32 if truth is None else torch.float64
    exact = _forward_and_gradients(
        truth or partial(getattr(import_module(OPS[op]), op), backend="reference"),
        [x.to(wide) if torch.is_tensor(x) and x.is_floating_point() else x for x in inputs],
        varied=True,
    )
    found = _forward_and_gradients(_load(op, name), inputs, varied=True)
    order = math.inf if dtype == torch.float32 else 2
    pairs = [((a.to(wide) - b).flatten(), b.flatten()) for a, b in zip(found, exact, strict=True)]
    return [float(error.norm(order) / b.norm(order).clamp(min=LEAST)) for error, b in pairs]


def halved(inputs: Sequence[Any], dtype: torch.dtype) -> list[Any]:
    """An op's arguments with its series, which have more than two dimensions, in ``dtype``; of the head all but the targets."""
    series = max(x.dim() for x in inputs if torch.is_tensor(x))
    least = 3 if series > 2 else 2
    return [x.to(dtype) if torch.is_tensor(x) and x.is_floating_point() and x.dim() >= least else x for x in inputs]


def _tried(reasons: dict[str, str | None]) -> str:
    return "".join(f". {name} does not work: {reason}" for name, reason in reasons.items() if reason)


def seconds(op: str, device_type: str, name: str) -> float:
    """Median seconds of a forward and a backward pass of bfloat16 series at a size that fills a GPU."""
    inputs = halved(example(op, (*TIMED, *WIDE.get(op, ())), device_type), torch.bfloat16)
    found, kernel = [], _load(op, name)
    for _ in range(8):
        torch.cuda.synchronize()
        start = time.perf_counter()
        _forward_and_gradients(kernel, inputs)
        torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return median(found[3:])  # the first ones compile


def example(op: str, sizes: tuple[int, ...], device_type: str) -> list[Any]:
    """Arguments of an op of a batch, length, width and what else its example takes, the same at every call."""
    with torch.random.fork_rng(devices=[]):  # what a run draws does not depend on what was probed
        torch.manual_seed(0)
        inputs = getattr(import_module(OPS[op]), f"{op}_example")(*sizes)
    return [x.to(device_type) if torch.is_tensor(x) else x for x in inputs]


def _forward_and_gradients(kernel: Callable[..., Any], inputs: Sequence[Any], varied: bool = False) -> list[torch.Tensor]:
    """The output, and the gradients of its sum or, ``varied``, of a sum whose terms have different weights: among equal ones a
    kernel that reads the gradient of another place is right."""
    with torch.enable_grad(), torch.autocast(inputs[0].device.type, enabled=False):
        leaves = [x.detach().requires_grad_(x.is_floating_point()) if torch.is_tensor(x) else x for x in inputs]
        y = kernel(*leaves)
        floats = [x for x in leaves if torch.is_tensor(x) and x.requires_grad]
        weights = torch.ones_like(y)
        if varied:  # in bfloat16 too the same weights for a kernel and what it is held against
            weights = (1 + torch.arange(y.numel(), device=y.device).cos() / 2).bfloat16().view_as(y).to(y.dtype)
        return [y.detach(), *torch.autograd.grad(y, floats, weights)]


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
