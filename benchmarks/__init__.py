"""How fast this code is on this machine, held against what the machine can do and against other packages.

All parts are measured in rounds, each thing once a round, and every ratio is taken within a round. The record holds a median with
quartiles over the rounds (``median``, ``low``, ``high``, ``n``) for each number and for each ratio.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from benchmarks.generation import generation
from benchmarks.kernels import kernels
from benchmarks.machine import described, machine
from benchmarks.peers import peers
from benchmarks.processes import compiling, side, startup
from benchmarks.scan import scan
from benchmarks.settings import ARMS, BASELINE, Settings
from benchmarks.steps import growth, steps
from benchmarks.text import text
from benchmarks.timing import BenchmarkError, Part, Unavailable, interleave
from benchmarks.verification import verification
from lolm.config.strict import nearest

__all__ = ["ARMS", "BASELINE", "PARTS", "BenchmarkError", "Settings", "benchmark"]

PARTS: dict[str, Callable[[Settings, ExitStack], Part]] = {
    "machine": machine,
    "steps": steps,
    "scan": scan,
    "kernels": kernels,
    "peers": peers,
    "generation": generation,
    "text": text,
    "growth": growth,
    "side": side,
    "compile": compiling,
    "startup": startup,
    "verification": verification,
}


def benchmark(settings: Settings, parts: Sequence[str], rounds: int, quiet: bool = True) -> dict[str, Any]:
    """Measure the parts, all in the same rounds.

    Returns:
        ``settings``, ``machine`` (what it is), and an entry for each part; ``{"skipped": reason}`` for one that cannot run here.

    Raises:
        BenchmarkError: an unknown part, or no round.
    """
    for name in parts:
        if name not in PARTS:
            raise BenchmarkError(f"no part {name!r}{nearest(name, PARTS)}; there are {', '.join(PARTS)}")
    start = time.perf_counter()
    record: dict[str, Any] = {
        "settings": {"scale": settings.scale, "arms": list(settings.arms), "parts": list(parts), "rounds": rounds}
        | {"quick": settings.is_quick},
        "machine": described(),
    }
    with ExitStack() as stack:
        made: dict[str, Part] = {}
        for name in parts:
            begun = time.perf_counter()
            try:
                made[name] = PARTS[name](settings, stack)
            except Unavailable as reason:
                record[name] = record.get(name, {}) | {"skipped": str(reason)}
            if not quiet:
                print(f"{name}: prepared in {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
        samples, reasons = interleave(made, rounds, quiet)
        for name, part in made.items():
            entry = {"skipped": reasons[name]} if name in reasons else part.result(samples[name])
            record[name] = record.get(name, {}) | entry
    record["settings"]["seconds"] = round(time.perf_counter() - start, 1)
    return record
