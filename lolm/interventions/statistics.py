"""What the streams and branches of a model look like on average: the material of mean ablations and of their controls."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from lolm.models.fusion import Fusion
from lolm.models.language_model import LanguageModel, Streams


@dataclass(frozen=True)
class StreamMeans:
    """Means over all tokens of a data set: m_D and r_E."""

    m: torch.Tensor | None
    r: torch.Tensor | None


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation over all tokens of a data set, per dimension, each (D,) or (E,).

    Keys, each only where the model has it: the streams ``h z m r``, the gate ``g``, the branches ``u`` (surface) and ``v``
    (latent), and what the gate lets through of them, ``gu`` = g ⊙ u and ``gv`` = (1 − g) ⊙ v (u and v without a gate).
    """

    mean: dict[str, torch.Tensor]
    std: dict[str, torch.Tensor]

    @property
    def streams(self) -> StreamMeans:
        """The means that :func:`lolm.interventions.remove_stream` takes."""
        return StreamMeans(self.mean.get("m"), self.mean.get("r"))


def fusion_of(model: LanguageModel) -> Fusion | None:
    """Where the branches meet; None for a model that has one stack."""
    fusion = model.components().get("fusion")
    return fusion if isinstance(fusion, Fusion) else None


def observe(model: LanguageModel, streams: Streams) -> dict[str, torch.Tensor]:
    """Everything an intervention may replace, under the keys of :class:`Statistics`, each (B, T, ·)."""
    seen = {name: stream for name in ("h", "z", "m", "r", "g") if (stream := getattr(streams, name)) is not None}
    fusion = fusion_of(model)
    if fusion is not None:
        u, v = fusion.branches(streams.h, streams.z)
        seen |= {"u": u, "gu": u if streams.g is None else streams.g * u}
        if v is not None:
            seen |= {"v": v, "gv": v if streams.g is None else (1 - streams.g) * v}
    return seen


@torch.no_grad()
def measure(model: LanguageModel, batches: Iterable[torch.Tensor]) -> Statistics:
    """Statistics over token batches (B, T), in evaluation mode; sums are kept in float64."""
    model.eval()
    sums: dict[str, torch.Tensor] = {}
    squares: dict[str, torch.Tensor] = {}
    tokens = 0
    for x_BT in batches:
        tokens += x_BT.numel()
        for name, stream in observe(model, model.streams(x_BT.to(model.embedding.weight.device))).items():
            wide = stream.double().flatten(0, 1)
            sums[name] = sums.get(name, 0.0) + wide.sum(dim=0)
            squares[name] = squares.get(name, 0.0) + wide.square().sum(dim=0)
    mean = {name: total / tokens for name, total in sums.items()}
    std = {name: (squares[name] / tokens - mean[name].square()).clamp(min=0).sqrt().float() for name in mean}
    return Statistics({name: value.float() for name, value in mean.items()}, std)
