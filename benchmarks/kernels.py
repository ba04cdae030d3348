"""The kernels of GPUs, ours and those of libraries: their errors, and their speed forward and backward as a share of the memory's
bandwidth and, of those that multiply matrices, of the GPU's peak."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.machine import bandwidth
from benchmarks.settings import Settings
from benchmarks.timing import Part, Samples, Unavailable, ratios, scaled, summary
from lolm.accounting.gpus import peak_flops
from lolm.ops.backends import (
    COMPARED,
    KERNELS,
    PROBED,
    TIMED,
    TOLERANCE,
    WIDE,
    Kernel,
    errors,
    example,
    failure,
    halved,
    seconds,
)
from lolm.ops.causal_conv import causal_conv_reference
from lolm.ops.linear_scan import linear_scan_reference
from lolm.ops.scan import selective_scan_reference
from lolm.ops.ssd import ssd_reference

COPIED = 1_000_000_000  # bytes
CHUNK = 64  # steps of SSD's
EXACT = 1e-5  # of our kernels in float32, as in the tests
HALF = 1e-2  # in bfloat16
# Sizes, as an op's example takes them, at which our kernels are held against the truth beside PROBED with WIDE: one step, ends of
# blocks and the step behind them, wide heads, many states, and one long sequence.
CASES: dict[str, tuple[tuple[int, ...], ...]] = {
    "selective_scan": ((2, 1, 48), (2, 64, 48), (2, 65, 48), (1, 4096, 48)),
    "linear_scan": ((2, 1, 48), (2, 8, 48), (2, 9, 48), (1, 4096, 48)),
    "causal_conv": ((2, 1, 48), (2, 3, 48), (2, 256, 48), (2, 257, 48), (1, 4096, 48)),
    "ssd": ((2, 1, 48), (2, 64, 48), (2, 65, 48), (2, 130, 256, 64, 64), (1, 4096, 256, 64, 128)),
    "window_attention": (
        (2, 1, 48, 16, 1), (2, 40, 48, 16, 40), (2, 41, 48, 16, 40), (2, 65, 48, 16, 64), (1, 200, 256, 128, 70),
        (1, 4096, 128, 64, 1024),
    ),
    "linear_cross_entropy": ((1, 1, 48), (1, 4097, 48)),
}  # fmt: skip


def every_kernel(op: str) -> list[str]:
    """Names of what can compute an op on a GPU: ours, what training may take, and what is measured alone."""
    return [*KERNELS[op], *COMPARED.get(op, ())]


# ---------------------------------------------------------------------------------------------- errors


def _attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int) -> torch.Tensor:
    """With the T × T matrix of scores."""
    k, v = (m.repeat_interleave(q.shape[2] // m.shape[2], dim=2) for m in (k, v))
    steps = torch.arange(q.shape[1], device=q.device)
    distance = steps[:, None] - steps
    scores = torch.einsum("bthp,bshp->bhts", q, k) / q.shape[-1] ** 0.5
    scores = scores.masked_fill((distance < 0) | (distance >= window), float("-inf"))
    return torch.einsum("bhts,bshp->bthp", scores.softmax(dim=-1), v)


def _head(x: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(x @ weight.T, targets, reduction="sum")


TRUTH: dict[str, Kernel] = {  # the ops as they are written, which `errors` computes in float64
    "selective_scan": lambda *m: selective_scan_reference(*m)[0],
    "linear_scan": linear_scan_reference,
    "causal_conv": causal_conv_reference,
    "ssd": lambda *m: ssd_reference(*m)[0],
    "window_attention": _attention,
    "linear_cross_entropy": _head,
}


def cases(op: str, name: str, device: str) -> list[tuple[int, ...]]:
    """Sizes at which a kernel is held against the truth. Libraries' are at one, since some are tuned for minutes at each; where
    the interpreter runs ours, at those that are short and narrow."""
    timed = (*PROBED, *WIDE.get(op, ()))  # the widths of what is timed
    if name != "triton":
        return [timed]
    every = list(dict.fromkeys([PROBED, timed, *CASES[op]]))
    if device == "cuda":
        return every
    short = [sizes for sizes in every if sizes[1] <= 70 and all(size <= 64 for size in sizes[3:4])]
    return list(dict.fromkeys((1, sizes[1], 8, *(sizes[3:] if op == "window_attention" else ())) for sizes in short))


def compared(op: str, name: str, device: str) -> dict[str, Any]:
    """A kernel's errors in each precision at each of its sizes, and whether all are within their bound."""
    if device != "cuda" and name != "triton":
        return {"skipped": "no CUDA device"}
    entry: dict[str, Any] = {"exact": True}
    bounds = {torch.float32: EXACT if name == "triton" else TOLERANCE}
    if device == "cuda":  # the interpreter works on NumPy's arrays, which have no bfloat16
        bounds[torch.bfloat16] = HALF
    for dtype, bound in bounds.items():
        of_dtype: dict[str, Any] = {"bound": bound, "errors": {}}
        for sizes in cases(op, name, device):
            try:
                found = errors(op, name, device, sizes, dtype, TRUTH[op])
            except Exception as error:  # a library that was built for something else fails in any way
                return {"skipped": f"{' x '.join(map(str, sizes))}: {type(error).__name__}: {error}"}
            shown = [value if math.isfinite(value) else None for value in found]  # JSON has no NaN
            of_dtype["errors"][" x ".join(map(str, sizes))] = shown
            entry["exact"] &= all(value <= bound for value in found)  # a NaN is not
        entry[str(dtype).removeprefix("torch.")] = of_dtype
    return entry


# ---------------------------------------------------------------------------------------------- speed


def kernels(settings: Settings, stack: ExitStack) -> Part:
    """Every kernel that works: its speed, and the reason of every one that does not."""
    if not torch.cuda.is_available():
        raise Unavailable("no CUDA device")
    measures: dict[str, Callable[[], float]] = {"copy": copy_seconds}
    reasons = {f"{op}/{name}": failure(op, name, "cuda") for op in KERNELS for name in every_kernel(op)}
    for key, reason in reasons.items():
        if reason is None:
            op, name = key.split("/")
            measures[key] = partial(seconds, op, "cuda", name)

    def result(samples: Samples) -> dict[str, Any]:
        entry: dict[str, Any] = {"device": torch.cuda.get_device_name()}
        for key, reason in reasons.items():
            entry[key] = {"skipped": reason} if reason else speed(key.split("/")[0], samples[key], samples["copy"])
        return entry

    return Part(measures, result)


def speed(op: str, taken: Sequence[float], copied: Sequence[float]) -> dict[str, Any]:
    """What a forward and a backward pass took, launches included, and its share of the bandwidth of a copy if each tensor moves
    once; of ops that multiply matrices also the share of the dense bfloat16 peak, None of a GPU that is not in the table."""
    moved, flops = moved_bytes(op), product_flops(op)
    least = [moved / rate for rate in bandwidth(COPIED, list(copied))]
    entry: dict[str, Any] = {
        "sizes": timed_sizes(op),
        "seconds": summary(taken),
        "bytes": moved,
        "share_of_bandwidth": summary(ratios(least, taken)),
    }
    if flops:
        peak = peak_flops(torch.cuda.get_device_name(), "bf16")
        share = summary(scaled([1 / value for value in taken], flops / peak)) if peak else None
        entry |= {"flops": flops, "share_of_peak": share}
    return entry


def timed_sizes(op: str) -> tuple[int, ...]:
    return (*TIMED, *WIDE.get(op, ()))


def timed_inputs(op: str) -> list[Any]:
    """What is timed, without its numbers."""
    with torch.device("meta"):
        return halved(example(op, timed_sizes(op), "meta"), torch.bfloat16)


def product_flops(op: str) -> float:
    """FLOPs of the matrix products of a forward and a backward pass, which is taken for twice the forward one: what is computed
    again counts once. SSD's are those of its chunks, the attention's those of keys that a query meets. 0 of the other ops."""
    inputs = timed_inputs(op)
    if op == "ssd":
        (batch, length, heads, head), (groups, states) = inputs[0].shape, inputs[3].shape[2:]
        return 3.0 * batch * length * (4 * heads * head * states + 2 * CHUNK * (heads * head + groups * states))
    if op == "window_attention":
        (batch, length, heads, head), window = inputs[0].shape, min(inputs[3], inputs[0].shape[1])
        return 3.0 * batch * heads * 4 * head * (window * length - window * (window - 1) // 2)
    if op == "linear_cross_entropy":
        return 3.0 * 2 * inputs[0].numel() * len(inputs[1])
    return 0.0


def moved_bytes(op: str) -> int:
    """Bytes of a forward and a backward pass that reads every input twice and the output's gradient once, and writes the output
    and every gradient once; series in bfloat16. The output is as large as the first input, but that of the head one number."""
    sizes = [x.numel() * x.element_size() for x in timed_inputs(op) if torch.is_tensor(x)]
    return 3 * sum(sizes) + (0 if op == "linear_cross_entropy" else 2 * sizes[0])


def copy_seconds() -> float:
    source = torch.empty(COPIED // 4, device="cuda")
    target = torch.empty_like(source)
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    target.copy_(source)
    start.record()
    target.copy_(source)
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000
