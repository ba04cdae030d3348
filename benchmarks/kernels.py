"""The kernels of GPUs, ours and those of libraries: forward and backward, as a share of the memory's bandwidth."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch

from benchmarks.machine import bandwidth
from benchmarks.settings import Settings
from benchmarks.timing import Part, Samples, Unavailable, ratios, summary
from lolm.ops.backends import KERNELS, TIMED, example, failure, halved, seconds

COPIED = 1_000_000_000  # bytes


def kernels(settings: Settings, stack: ExitStack) -> Part:
    """Every kernel that works: its time against that of moving its tensors once, and the reason of every one that does not."""
    if not torch.cuda.is_available():
        raise Unavailable("no CUDA device")
    measures: dict[str, Callable[[], float]] = {"copy": copy_seconds}
    reasons = {f"{op}/{name}": failure(op, name, "cuda") for op, names in KERNELS.items() for name in names}
    for key, reason in reasons.items():
        if reason is None:
            op, name = key.split("/")
            measures[key] = partial(seconds, op, "cuda", name)

    def result(samples: Samples) -> dict[str, Any]:
        entry: dict[str, Any] = {"device": torch.cuda.get_device_name(), "batch_length_width": list(TIMED)}
        speed = bandwidth(COPIED, samples["copy"])
        for key, reason in reasons.items():
            if reason is not None:
                entry[key] = {"skipped": reason}
                continue
            moved = moved_bytes(key.split("/")[0])
            least = [moved / rate for rate in speed]
            entry[key] = {
                "seconds": summary(samples[key]),
                "bytes": moved,
                "share_of_bandwidth": summary(ratios(least, samples[key])),
            }
        return entry

    return Part(measures, result)


def moved_bytes(op: str) -> int:
    """Bytes of a forward and a backward pass that reads every input twice and the output's gradient once, and writes the output
    and every gradient once; series in bfloat16. The output is as large as the first input."""
    sizes = [x.numel() * x.element_size() for x in halved(example(op, TIMED, "cpu"), torch.bfloat16) if torch.is_tensor(x)]
    return 3 * sum(sizes) + 2 * sizes[0]


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
