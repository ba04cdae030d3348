"""Score every intervention on held-out text, computing the streams of a batch once for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from lolm.data.batches import EvaluationSet
from lolm.evaluation.held_out import ScoreSum
from lolm.evaluation.scenes import scenes
from lolm.evaluation.temperature import fit_temperature
from lolm.interventions import EMPTY, Context, Intervention
from lolm.models.language_model import LanguageModel


@torch.no_grad()
def score_interventions(
    model: LanguageModel,
    interventions: Sequence[Intervention],
    held_out: EvaluationSet,
    batch_size: int,
    context: Context = EMPTY,
    calibration: EvaluationSet | None = None,
) -> list[dict[str, Any]]:
    """Measure interventions on one set of weights.

    Args:
        context: statistics and seed, for the interventions that need them; other documents are found in ``held_out``.
        calibration: text on which one temperature per intervention is fitted, another split than ``held_out``'s.

    Returns:
        for each: ``intervention``, ``value``, ``nats``, ``bits_per_byte``, ``accuracy``, ``kl_to_full`` (KL from the learned to
        the changed model, nats per token) and ``top1_agreement`` with the learned model. Nothing is clipped. With a
        calibration also the fitted ``temperature`` and ``nats_fitted``, the loss on ``held_out`` at that temperature.

    Raises:
        InterventionError: one of them does not apply to this model, or lacks what it needs.
    """
    temperatures = None if calibration is None else _temperatures(model, interventions, calibration, batch_size, context)
    sums, fitted = ([ScoreSum() for _ in interventions] for _ in range(2))
    kl = [0.0] * len(interventions)
    agree = [0] * len(interventions)
    for scene in scenes(model, held_out.batches(batch_size), context):
        assert scene.context.full is not None
        full_NV = F.log_softmax(_logits(model, scene.context.full), dim=-1)
        top_N, p_NV = full_NV.argmax(dim=-1), full_NV.exp()
        for i, intervention in enumerate(interventions):
            logits_NV = _logits(model, scene.fused(model, intervention))
            changed_NV = F.log_softmax(logits_NV, dim=-1)
            sums[i].add(changed_NV, scene.targets_N)
            kl[i] += float((p_NV * (full_NV - changed_NV)).sum().double())
            agree[i] += int((changed_NV.argmax(dim=-1) == top_N).sum())
            if temperatures is not None:
                fitted[i].add(F.log_softmax(logits_NV / temperatures[i], dim=-1), scene.targets_N)
    rows = []
    for i, (intervention, total) in enumerate(zip(interventions, sums, strict=True)):
        score = total.score(held_out.n_bytes)
        row = {
            "intervention": intervention.name,
            "value": intervention.value,
            "nats": score.nats,
            "bits_per_byte": score.bits_per_byte,
            "accuracy": score.accuracy,
            "kl_to_full": kl[i] / total.tokens,
            "top1_agreement": agree[i] / total.tokens,
        }
        if temperatures is not None:
            row |= {"temperature": temperatures[i], "nats_fitted": fitted[i].score(held_out.n_bytes).nats}
        rows.append(row)
    return rows


def _logits(model: LanguageModel, o_BTD: torch.Tensor) -> torch.Tensor:
    """(N, V) in float32."""
    return model.logits(o_BTD).float().flatten(0, 1)


def _temperatures(
    model: LanguageModel, interventions: Sequence[Intervention], calibration: EvaluationSet, batch_size: int, context: Context
) -> list[float]:
    """One temperature per intervention. Kept are the streams of the set and, one intervention at a time, o: never all logits."""
    kept = list(scenes(model, calibration.batches(batch_size), context))
    found = []
    for intervention in interventions:
        fused = [(scene.fused(model, intervention), scene.targets_N) for scene in kept]
        found.append(fit_temperature(lambda fused=fused: ((_logits(model, o), y) for o, y in fused)))  # type: ignore[misc]
    return found
