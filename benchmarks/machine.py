"""What the machine can do: matrix products and copies, which everything else is held against."""

from __future__ import annotations

import platform
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from benchmarks.settings import Settings
from benchmarks.timing import Part, Samples, rates, summary, threads, timed
from pipeline.jobs import available_cores


def matmul_peak(size: int, count: int, repeats: int = 5) -> Callable[[], float]:
    """Measures FLOPs a second of a float32 product of two square matrices with ``count`` threads."""
    a, b, out = torch.randn(size, size), torch.randn(size, size), torch.empty(size, size)

    def measure() -> float:
        with threads(count):
            return 2 * size**3 / timed(lambda: torch.mm(a, b, out=out), repeats)

    return measure


def copy_seconds(size: int, count: int, repeats: int = 3) -> Callable[[], float]:
    """Measures seconds of a copy of ``size`` bytes with ``count`` threads."""
    source, target = torch.zeros(size // 4), torch.zeros(size // 4)

    def measure() -> float:
        with threads(count):
            return timed(lambda: target.copy_(source), repeats)

    return measure


def bandwidth(size: int, seconds: list[float]) -> list[float]:
    """Bytes a second that a copy of ``size`` bytes reads and writes."""
    return rates(2 * size, seconds)


def machine(settings: Settings, stack: ExitStack) -> Part:
    """Peak and bandwidth with one thread and with as many as there are cores."""
    size, copied = settings.matmul, settings.copy_bytes // 4 * 4
    counts = sorted({1, available_cores()})
    measures: dict[str, Callable[[], float]] = {}
    for count in counts:
        measures[f"matmul/{count}"] = matmul_peak(size, count)
        measures[f"copy/{count}"] = copy_seconds(copied, count)

    def result(samples: Samples) -> dict[str, Any]:
        return {
            "matmul_size": size,
            "copy_bytes": copied,
            "matmul_flops_per_second": {str(n): summary(samples[f"matmul/{n}"]) for n in counts},
            "copy_bytes_per_second": {str(n): summary(bandwidth(copied, samples[f"copy/{n}"])) for n in counts},
        }

    return Part(measures, result)


def described() -> dict[str, Any]:
    """Processor, cores and versions."""
    return {
        "processor": processor(),
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
    }


def processor() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
