"""Losses on text that a run was trained on, in evaluation mode: what the published forced gate was scored on (facts D3)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
import torch.nn.functional as F

from lolm.models.language_model import LanguageModel
from lolm.records.schema import TrainingStream

BATCHES = 30  # from the start of the stream, as the authors took


@torch.no_grad()
def score_training_stream(
    model: LanguageModel, batches: Iterable[tuple[torch.Tensor, torch.Tensor]], step: int
) -> TrainingStream:
    """Score a model on training batches of inputs and targets, each (B, T), as it is and with its gate forced to 1 and to 0.

    As published, streams are computed before the gate is forced: memory, regime and the gate's inputs stay. Nothing is clipped.
    """
    model.eval()
    device = model.embedding.weight.device
    sums: dict[str, float] = {}
    tokens = 0
    for x_BT, y_BT in batches:
        streams, targets_N = model.streams(x_BT.to(device)), y_BT.to(device).flatten()
        tokens += len(targets_N)
        found = {"nats": streams}
        if streams.g is not None:
            sums["gate"] = sums.get("gate", 0.0) + float(streams.g.double().mean()) * len(targets_N)
            found["gate_one"] = replace(streams, g=torch.ones_like(streams.g))
            found["gate_zero"] = replace(streams, g=torch.zeros_like(streams.g))
        for name, changed in found.items():
            logits_NV = model.logits(model.fuse(changed)).float().flatten(0, 1)
            sums[name] = sums.get(name, 0.0) + float(F.cross_entropy(logits_NV, targets_N, reduction="none").double().sum())
    return TrainingStream(step=step, tokens=tokens, **{name: total / tokens for name, total in sums.items()})
