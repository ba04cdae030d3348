"""What can be done to a trained model, at the seam between its streams and their fusion.

An intervention maps the streams of a batch to other streams; :meth:`LanguageModel.fuse` and the head then run as always. The
gate, memory and regime were computed before, so forcing one changes nothing else, as in the published protocol (spec D3, D4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch

from lolm.models.language_model import LanguageModel, Streams


@dataclass(frozen=True)
class Intervention:
    """A named change.

    Attributes:
        name: what is done, e.g. ``gate``.
        value: its parameter, e.g. the constant the gate is forced to; None for none.
        apply: streams → streams.
        skip_last: blocks left out at the end of the surface, which needs the streams computed anew.
    """

    name: str
    value: float | None = None
    apply: Callable[[Streams], Streams] = lambda streams: streams
    skip_last: int = 0


@dataclass(frozen=True)
class StreamMeans:
    """Means over all tokens of a data set: m_D and r_E."""

    m: torch.Tensor | None
    r: torch.Tensor | None


@torch.no_grad()
def stream_means(model: LanguageModel, batches: Iterable[torch.Tensor]) -> StreamMeans:
    """Average memory reads and regime embeddings over token batches (B, T)."""
    sums: dict[str, torch.Tensor] = {}
    tokens = 0
    for x_BT in batches:
        streams = model.streams(x_BT.to(model.embedding.weight.device))
        tokens += x_BT.numel()
        for name in ("m", "r"):
            stream = getattr(streams, name)
            if stream is not None:
                sums[name] = sums.get(name, 0.0) + stream.double().sum(dim=(0, 1))
    return StreamMeans(*(sums[name].float() / tokens if name in sums else None for name in ("m", "r")))


def force_gate(value: float) -> Intervention:
    """g := value at every position and dimension; 1 keeps the surface branch only, 0 the latent one."""
    return Intervention("gate", value, lambda s: replace(s, g=torch.full_like(_gate(s), value)))


def _gate(streams: Streams) -> torch.Tensor:
    if streams.g is None:
        raise ValueError("this model has no gate to force")
    return streams.g


def blend_gate(alpha: float, target: float) -> Intervention:
    """g := α · target + (1 − α) · g, a path from the learned gate to a constant."""
    name = {1.0: "gate_blend_one", 0.0: "gate_blend_zero"}[target]
    return Intervention(name, alpha, lambda s: replace(s, g=alpha * target + (1 - alpha) * _gate(s)))


def remove_stream(stream: str, means: StreamMeans | None = None) -> Intervention:
    """Replace what ``memory`` or ``regime`` adds at the fusion by zeros, or by its mean over all tokens."""
    field = {"memory": "m", "regime": "r"}[stream]

    def apply(s: Streams) -> Streams:
        kept = getattr(s, field)
        new = torch.zeros_like(kept) if means is None else getattr(means, field).to(kept.dtype).expand_as(kept)
        changed: dict[str, Any] = {field: new}
        return replace(s, **changed)

    return Intervention(f"{stream}_{'zero' if means is None else 'mean'}", None, apply)


def skip_last_blocks(count: int) -> Intervention:
    """Run the surface without its last ``count`` blocks: what removing the end of any serial stack costs (spec F3)."""
    return Intervention("skip_last_blocks", float(count), skip_last=count)


def standard_set(model: LanguageModel, gate_values: Iterable[float], means: StreamMeans) -> list[Intervention]:
    """The learned model and every intervention that applies to it, the learned one first."""
    chosen = [Intervention("none")]
    parts = model.components()
    if "gate" in parts:
        chosen += [force_gate(value) for value in gate_values]
        chosen += [blend_gate(alpha, target) for target in (1.0, 0.0) for alpha in (0.25, 0.5, 0.75)]
    for stream, mean in (("memory", means.m), ("regime", means.r)):
        if stream in parts:
            chosen += [remove_stream(stream), *([remove_stream(stream, means)] if mean is not None else [])]
    if set(parts) <= {"surface", "projection"}:
        chosen += [skip_last_blocks(count) for count in range(1, len(model.surface.layers) + 1)]
    return chosen
