"""Score every intervention on held-out text, computing the streams of a batch once for all of them."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from lolm.data.batches import EvaluationSet
from lolm.evaluation.held_out import ranked_first
from lolm.interventions import EMPTY, Context, Intervention
from lolm.laboratory.cached_activations import cached_activations
from lolm.laboratory.temperature import fit_temperature
from lolm.models.language_model import LanguageModel
from lolm.records import names
from lolm.records.schema import Condition


@torch.no_grad()
def score_interventions(
    model: LanguageModel,
    interventions: Sequence[Intervention],
    held_out: EvaluationSet,
    batch_size: int,
    context: Context = EMPTY,
    calibration: EvaluationSet | None = None,
    *,
    step: int = 0,
    by_window: Collection[names.Removal] = (),
) -> list[Condition]:
    """Measure interventions on one set of weights; a row for each, in their order. Nothing is clipped.

    Args:
        context: statistics and seed, for the interventions that need them; other documents are found in ``held_out``.
        calibration: text on which one temperature per intervention is fitted, another split than ``held_out``'s.
        step: of the weights, for the rows.
        by_window: names and values of those whose loss is kept for each window as well.

    Raises:
        InterventionError: one of them does not apply to this model, or lacks what it needs.
    """
    temperatures = None if calibration is None else _temperatures(model, interventions, calibration, batch_size, context)
    sums = [_Sums() for _ in interventions]
    for cached in cached_activations(model, held_out.batches(batch_size), context):
        assert cached.context.full is not None
        full_NV = F.log_softmax(_logits(model, cached.context.full), dim=-1)
        top_N, p_NV = ranked_first(full_NV), full_NV.exp()
        known = cached.known_terms(model)
        for i, (intervention, total) in enumerate(zip(interventions, sums, strict=True)):
            logits_NV = _logits(model, cached.fused(model, intervention, known))
            changed_NV = F.log_softmax(logits_NV, dim=-1)
            first_N = ranked_first(changed_NV)
            nats_N = _nats(changed_NV, cached.targets_N)
            total.nats += float(nats_N.sum())
            if (intervention.name, intervention.value) in by_window:
                total.windows += nats_N.view(-1, held_out.seq_len).mean(dim=1).tolist()
            total.correct += int((first_N == cached.targets_N).sum())
            total.agree += int((first_N == top_N).sum())
            # The log-probabilities are overwritten with their distance: (N, V) is the largest thing here.
            total.kl += float(torch.sub(full_NV, changed_NV, out=changed_NV).mul_(p_NV).sum().double())
            if temperatures is not None:
                total.fitted += float(_nats(F.log_softmax(logits_NV.div_(temperatures[i]), dim=-1), cached.targets_N).sum())
    tokens = held_out.n_tokens
    return [
        Condition(
            step=step,
            intervention=intervention.name,
            value=intervention.value,
            nats=total.nats / tokens,
            bits_per_byte=total.nats / (held_out.n_bytes * math.log(2)),
            accuracy=total.correct / tokens,
            kl_to_full=total.kl / tokens,
            top1_agreement=total.agree / tokens,
            temperature=None if temperatures is None else temperatures[i],
            nats_fitted=None if temperatures is None else total.fitted / tokens,
            window_nats=tuple(round(nats, 6) for nats in total.windows),
        )
        for i, (intervention, total) in enumerate(zip(interventions, sums, strict=True))
    ]


@dataclass
class _Sums:
    """What adds up over batches for one intervention, losses in float64."""

    nats: float = 0.0
    fitted: float = 0.0
    kl: float = 0.0
    correct: int = 0
    agree: int = 0
    windows: list[float] = field(default_factory=list)


def _nats(log_probs_NV: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
    """(N,) in float64."""
    return -log_probs_NV.gather(1, targets_N[:, None]).double().flatten()


def _logits(model: LanguageModel, o_BTD: torch.Tensor) -> torch.Tensor:
    """(N, V) in float32."""
    return model.logits(o_BTD).float().flatten(0, 1)


def _temperatures(
    model: LanguageModel, interventions: Sequence[Intervention], calibration: EvaluationSet, batch_size: int, context: Context
) -> list[float]:
    """One temperature per intervention. Kept are o under each and the logits under one, so ``calibration`` is small."""
    fused: list[list[torch.Tensor]] = [[] for _ in interventions]
    targets = []
    for cached in cached_activations(model, calibration.batches(batch_size), context):
        targets.append(cached.targets_N)
        known = cached.known_terms(model)
        for batches, intervention in zip(fused, interventions, strict=True):
            batches.append(cached.fused(model, intervention, known))
    temperatures = []
    for batches in fused:
        logits = [_logits(model, o_BTD) for o_BTD in batches]
        temperatures.append(fit_temperature(lambda logits=logits: zip(logits, targets, strict=True)))  # type: ignore[misc]
    return temperatures
