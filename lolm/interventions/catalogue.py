"""The lists of interventions that are scored together."""

from __future__ import annotations

from collections.abc import Iterable

from lolm.interventions.branches import BRANCHES, REPLACEMENTS, match_norm, replace_branch, resample_source
from lolm.interventions.core import Context, Intervention
from lolm.interventions.dimensions import dimension_set
from lolm.interventions.gate import GATE_CONTROLS, blend_gate, force_gate
from lolm.interventions.memory_and_regime import permute_stream, remove_stream, skip_last_blocks
from lolm.interventions.random_halves import split_set
from lolm.interventions.statistics import StreamMeans, fusion_of
from lolm.models.language_model import LanguageModel


def standard_set(model: LanguageModel, gate_values: Iterable[float], means: StreamMeans) -> list[Intervention]:
    """The learned model and the published interventions that apply to it, the learned one first."""
    chosen = [Intervention("none")]
    parts = model.components()
    if "gate" in parts:
        chosen += [force_gate(value) for value in gate_values]
        chosen += [blend_gate(alpha, target) for target in (1.0, 0.0) for alpha in (0.25, 0.5, 0.75)]
    for stream, mean in (("memory", means.m), ("regime", means.r)):
        if stream in parts:
            chosen += [remove_stream(stream), *([remove_stream(stream, means)] if mean is not None else [])]
    if {"gate", "memory", "regime"} <= set(parts):  # all at once, as in spec D4
        chosen.append(force_gate(1.0) | remove_stream("memory") | remove_stream("regime"))
    if set(parts) <= {"surface", "projection"}:
        chosen += [skip_last_blocks(count) for count in range(1, len(model.surface.layers) + 1)]
    return chosen


def full_set(
    model: LanguageModel,
    context: Context,
    gate_values: Iterable[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    shares: Iterable[float] = (0.125, 0.5),
    draws: int = 2,
    splits: int = 19,
) -> list[Intervention]:
    """Everything that applies to a model, the learned one first: the standard set, then every control.

    Args:
        context: with statistics, unless the model is a plain stack.
        shares: of the dimensions of a branch that are removed together.
        draws: random groups of dimensions per group.
        splits: draws of two random halves of all dimensions, the null of the inversion.

    Raises:
        InterventionError: statistics are needed and missing.
    """
    fusion = fusion_of(model)
    if fusion is None:
        return standard_set(model, gate_values, StreamMeans(None, None))
    parts, statistics = model.components(), context.measured()
    chosen = standard_set(model, gate_values, statistics.streams)
    if "gate" in parts:
        chosen += [control() for control in GATE_CONTROLS]
        chosen += [i | match_norm() for i in chosen if i.name == "gate" and i.value in (0.0, 1.0)]
    if fusion.latent is not None:
        for branch in BRANCHES:
            for by in REPLACEMENTS:
                chosen += [replace_branch(branch, by), replace_branch(branch, by) | match_norm()]
        chosen.append(resample_source())
        counts = sorted({max(1, round(share * model.d_model)) for share in shares})
        for branch in BRANCHES:
            chosen += dimension_set(statistics, branch, counts, draws, context.seed)
        chosen += split_set(model.d_model, splits, context.seed)
    chosen += [permute_stream(stream) for stream in ("memory", "regime") if stream in parts]
    return chosen
