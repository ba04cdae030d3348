"""Score every intervention on held-out text, computing the streams of a batch once for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from lolm.data.batches import EvaluationSet
from lolm.evaluation.held_out import ScoreSum
from lolm.interventions import Intervention
from lolm.models.language_model import LanguageModel


@torch.no_grad()
def score_interventions(
    model: LanguageModel, interventions: Sequence[Intervention], held_out: EvaluationSet, batch_size: int
) -> list[dict[str, Any]]:
    """Measure interventions on one set of weights.

    Returns:
        for each: ``intervention``, ``value``, ``nats``, ``bits_per_byte``, ``accuracy``, ``kl_to_full`` (KL from the learned to
        the changed model, nats per token) and ``top1_agreement`` with the learned model. Nothing is clipped.
    """
    model.eval()
    device = model.embedding.weight.device
    sums = [ScoreSum() for _ in interventions]
    kl = [0.0] * len(interventions)
    agree = [0] * len(interventions)
    for x_BT, y_BT in held_out.batches(batch_size):
        x_BT, targets_N = x_BT.to(device), y_BT.to(device).flatten()
        streams = model.streams(x_BT)

        def log_probs(changed) -> torch.Tensor:
            return F.log_softmax(model.logits(model.fuse(changed)).float().flatten(0, 1), dim=-1)

        full_NV = log_probs(streams)
        top_N, p_NV = full_NV.argmax(dim=-1), full_NV.exp()
        for i, intervention in enumerate(interventions):
            base = model.streams(x_BT, skip_last=intervention.skip_last) if intervention.skip_last else streams
            changed_NV = log_probs(intervention.apply(base))
            sums[i].add(changed_NV, targets_N)
            kl[i] += float((p_NV * (full_NV - changed_NV)).sum().double())
            agree[i] += int((changed_NV.argmax(dim=-1) == top_N).sum())
    rows = []
    for intervention, total, divergence, same in zip(interventions, sums, kl, agree, strict=True):
        score = total.score(held_out.n_bytes)
        rows.append(
            {
                "intervention": intervention.name,
                "value": intervention.value,
                "nats": score.nats,
                "bits_per_byte": score.bits_per_byte,
                "accuracy": score.accuracy,
                "kl_to_full": divergence / total.tokens,
                "top1_agreement": same / total.tokens,
            }
        )
    return rows
