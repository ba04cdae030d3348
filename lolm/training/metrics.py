"""What a run writes about its streams and its process while it trains."""

from __future__ import annotations

import resource
import sys
import time

import torch

from lolm.models.language_model import LanguageModel, Streams
from lolm.objectives import COMPETITIVE_HORIZON, competitive_target, entropy
from lolm.records import names


@torch.no_grad()
def stream_metrics(streams: Streams, model: LanguageModel) -> dict[str, float]:
    """Gate, regime and experts' load of one micro-batch, as the published logs define them.

    ``regime/alive`` counts distinct argmax codes of the Gumbel samples, and the usage entropy is that of their shares;
    ``gate/mean`` is over all positions and dimensions.
    """
    row: dict[str, float] = {}
    if streams.g is not None and streams.z is not None:
        row[names.GATE_LEVEL] = float(streams.g.float().mean())
        if streams.h.shape[1] > COMPETITIVE_HORIZON:
            row[names.GATE_TARGET] = float(competitive_target(streams.h, streams.z).mean())
    if streams.p is not None:
        counts = torch.bincount(streams.p.argmax(dim=-1).flatten(), minlength=streams.p.shape[-1]).double()
        row[names.REGIME_ALIVE] = float((counts > 0).sum())
        row[names.REGIME_USAGE_ENTROPY] = float(entropy(counts / counts.sum()))
        row[names.REGIME_TAU] = float(model.get_buffer("regime.tau"))
    if streams.load is not None:
        row |= load_metrics(streams.load)
    return row


@torch.no_grad()
def load_metrics(load_LE: torch.Tensor) -> dict[str, float]:
    """``moe/load_max``, the largest share that an expert of any mixture has (1/E at best), and ``moe/load_entropy`` in nats,
    averaged over mixtures (ln E at best)."""
    load = load_LE.double()
    entropy = float(torch.special.entr(load).sum(dim=-1).mean())
    return {names.EXPERT_LOAD_MAX: float(load.max()), names.EXPERT_LOAD_ENTROPY: entropy}


class Usage:
    """What this process uses, itself and its threads; two system calls a line of the series."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._clock, self._busy = time.perf_counter(), time.process_time()

    def since_last(self) -> dict[str, float]:
        """``system/cpu_percent`` (100: one processor) since the last call, and the peaks of memory so far, in MiB."""
        clock, busy = time.perf_counter(), time.process_time()
        percent = 100 * (busy - self._busy) / max(clock - self._clock, 1e-9)
        self._clock, self._busy = clock, busy
        unit = 1 if sys.platform == "darwin" else 1024  # bytes of what the system counts in
        peak = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        row = {names.CPU_PERCENT: round(percent, 1), names.PEAK_MEMORY: peak // 2**20}
        if self.device.type == "cuda":
            row[names.PEAK_GPU_MEMORY] = torch.cuda.max_memory_allocated(self.device) // 2**20
        return row
