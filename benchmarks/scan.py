"""The selective scan alone: its time against what the machine must at least need, against a peer, and the memory it keeps.

Shape suffixes: B batch, T time, I channels, N states.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.machine import bandwidth, copy_seconds, matmul_peak
from benchmarks.settings import Settings
from benchmarks.steps import measured
from benchmarks.timing import Part, Samples, ratios, slope, summary
from lolm.ops.scan import selective_scan

# Vector operations for each (token, channel, state) that no way of computing the recurrence token by token can leave out.
EXP2 = 12  # bounds, exponent and a polynomial of degree five, see `lolm.ops.cpu.vectors.exp2`
FORWARD_OPERATIONS = EXP2 + 3  # decay; input (a product), state and output (a fused multiply-add each)
BACKWARD_OPERATIONS = FORWARD_OPERATIONS + 9  # states are made again, then the gradients of state, B, C, input, decay and A
THREADS = 1

Shape = tuple[int, int, int, int]


def scan_inputs(shape: Shape, seed: int = 0) -> list[torch.Tensor]:
    """u, delta (before its softplus), A, B, C, skip and gate as a Mamba layer would give them, all with gradients."""
    batch, length, channels, states = shape
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator)

    A = -torch.arange(1.0, states + 1).repeat(channels, 1)
    series = [normal(batch, length, channels), normal(batch, length, channels) - 3]
    maps = [normal(batch, length, states), normal(batch, length, states)]
    tensors = [*series, A, *maps, torch.ones(channels), normal(batch, length, channels)]
    return [x.requires_grad_() for x in tensors]


def scan_bytes(shape: Shape) -> dict[str, int]:
    """Bytes that must move in float32: ``forward`` reads each input and writes the output; ``both`` also reads the inputs and
    the output's gradient, and writes a gradient for each input."""
    batch, length, channels, states = shape
    inputs = 3 * batch * length * channels + 2 * batch * length * states + channels * states + channels
    output = batch * length * channels
    return {"forward": 4 * (inputs + output), "both": 4 * (inputs + output) + 4 * (2 * inputs + output)}


def scan_operations(shape: Shape) -> dict[str, int]:
    """Operations on single floats that must be done: ``forward`` alone, and ``both`` passes."""
    batch, length, channels, states = shape
    cells = batch * length * channels * states
    return {"forward": FORWARD_OPERATIONS * cells, "both": (FORWARD_OPERATIONS + BACKWARD_OPERATIONS) * cells}


def parallel_scan(u, delta, A, B, C, skip, gate) -> torch.Tensor:
    """The same function as :func:`lolm.ops.scan.selective_scan` by the parallel scan of ``mambapy``."""
    from mambapy.pscan import pscan

    delta = F.softplus(delta)
    decay_BTIN = torch.exp(delta[..., None] * A)
    input_BTIN = (delta * u)[..., None] * B[:, :, None]
    y_BTI = (pscan(decay_BTIN, input_BTIN) @ C[..., None]).squeeze(-1)
    return (y_BTI + skip * u) * F.silu(gate)


def own_scan(u, delta, A, B, C, skip, gate) -> torch.Tensor:
    return selective_scan(u, delta, A, B, C, skip, gate, backend="cpu")


def forward_of(scan: Callable[..., torch.Tensor], inputs: Sequence[torch.Tensor]) -> Callable[[], None]:
    def call() -> None:
        with torch.no_grad():
            scan(*inputs)

    return call


def both_of(scan: Callable[..., torch.Tensor], inputs: Sequence[torch.Tensor]) -> Callable[[], None]:
    """A forward pass, and a backward pass to every input."""
    gradient = torch.randn_like(inputs[0])

    def call() -> None:
        torch.autograd.grad(scan(*inputs), inputs, gradient)

    return call


def scan(settings: Settings, stack: ExitStack) -> Part:
    """Time of the scan on one thread, as a share of the bounds that memory and arithmetic set, and against a peer."""
    copied = settings.copy_bytes // 4 * 4
    measures: dict[str, Callable[[], float]] = {}
    peer = importlib.util.find_spec("mambapy") is not None
    for shape in settings.scan_shapes:
        name = shape_name(shape)
        inputs = scan_inputs(shape)
        measures[f"{name}/peak"] = matmul_peak(settings.matmul, THREADS)
        measures[f"{name}/copy"] = copy_seconds(copied, THREADS)
        for way, make in (("forward", forward_of), ("both", both_of)):
            measures[f"{name}/own/{way}"] = measured(make(own_scan, inputs), THREADS, 3)
            if peer:
                measures[f"{name}/mambapy/{way}"] = measured(make(parallel_scan, inputs), THREADS)

    def result(samples: Samples) -> dict[str, Any]:
        shapes: dict[str, Any] = {}
        for shape in settings.scan_shapes:
            name = shape_name(shape)
            peak, moved = samples[f"{name}/peak"], bandwidth(copied, samples[f"{name}/copy"])
            entry: dict[str, Any] = {}
            for way in ("forward", "both"):
                own = samples[f"{name}/own/{way}"]
                entry[way] = bounds(own, scan_bytes(shape)[way], scan_operations(shape)[way], peak, moved)
                if peer:
                    other = samples[f"{name}/mambapy/{way}"]
                    entry[way]["mambapy"] = {"seconds": summary(other), "over_own": summary(ratios(other, own))}
            shapes[name] = entry
        lengths = settings.memory_lengths
        memory = scan_memory(lengths, channels=settings.scan_shapes[0][2], states=settings.scan_shapes[0][3])
        entry = {"threads": THREADS, "shapes": shapes, "memory": memory}
        return entry if peer else entry | {"mambapy": {"skipped": "the package mambapy is not installed; extra `bench`"}}

    return Part(measures, result)


def shape_name(shape: Shape) -> str:
    return "B{} T{} I{} N{}".format(*shape)


def bounds(
    seconds: Sequence[float], moved: int, operations: int, peak: Sequence[float], copied: Sequence[float]
) -> dict[str, Any]:
    """Shares of the least time that a machine of this peak (FLOPs/s) and bandwidth (bytes/s) needs; one number a round each.

    A peak of P FLOPs a second is P/2 fused multiply-adds of single floats, so P/2 of any other vector operation.
    """
    by_memory = [moved / speed for speed in copied]
    by_arithmetic = [operations / (speed / 2) for speed in peak]
    floor = [max(pair) for pair in zip(by_memory, by_arithmetic, strict=True)]
    arithmetic = summary(by_arithmetic)["median"] >= summary(by_memory)["median"]
    return {
        "seconds": summary(seconds),
        "bytes": moved,
        "operations": operations,
        "memory_bound_seconds": summary(by_memory),
        "arithmetic_bound_seconds": summary(by_arithmetic),
        "share_of_bandwidth": summary(ratios(by_memory, seconds)),
        "share_of_arithmetic": summary(ratios(by_arithmetic, seconds)),
        "floor": "arithmetic" if arithmetic else "memory",
        "share_of_floor": summary(ratios(floor, seconds)),
    }


# ---------------------------------------------------------------------------------------------- memory


def saved_tensors(call: Callable[[], Any]) -> tuple[int, int]:
    """Bytes that a forward pass keeps for its backward pass, each place in memory once, and elements of the largest tensor."""
    kept: dict[tuple[int, int], int] = {}
    largest = 0

    def pack(x: torch.Tensor) -> torch.Tensor:
        nonlocal largest
        kept[x.data_ptr(), x.nbytes] = x.nbytes
        largest = max(largest, x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        held = call()  # alive until counted, so that no address is used twice
    del held
    return sum(kept.values()), largest


def memory_growth(run: Callable[[int], Any], lengths: Sequence[int]) -> dict[str, Any]:
    """Bytes kept by ``run(length)`` at each length, with the power by which they grow and the largest tensors' elements."""
    found = [saved_tensors(lambda length=length: run(length)) for length in lengths]  # type: ignore[misc]
    return {
        "bytes": {str(length): kept for length, (kept, _) in zip(lengths, found, strict=True)},
        "largest_elements": {str(length): largest for length, (_, largest) in zip(lengths, found, strict=True)},
        "slope": slope(lengths, [kept for kept, _ in found]),
    }


def scan_memory(lengths: Sequence[int], channels: int, states: int, batch: int = 2) -> dict[str, Any]:
    """:func:`memory_growth` of the scan, and whether any tensor that it keeps holds every state of every token."""

    def run(length: int) -> torch.Tensor:
        return own_scan(*scan_inputs((batch, length, channels, states)))

    entry = memory_growth(run, lengths)
    whole = {str(length): batch * length * channels * states for length in lengths}
    entry["keeps_all_states"] = any(entry["largest_elements"][name] >= count for name, count in whole.items())
    return {"batch": batch, "channels": channels, "states": states} | entry
