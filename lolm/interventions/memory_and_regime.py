"""Removing memory, regime, or the last blocks of the surface."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from lolm.interventions.core import Change, Context, Intervention, InterventionError
from lolm.interventions.gate import permute_positions
from lolm.interventions.statistics import StreamMeans
from lolm.models.language_model import Streams

FIELDS = {"memory": "m", "regime": "r"}


def change_stream(stream: str, name: str, change: Change) -> Intervention:
    """What ``memory`` (m) or ``regime`` (r) adds at the fusion := change(it, context)."""
    field = FIELDS[stream]

    def apply(s: Streams, context: Context) -> Streams:
        kept = getattr(s, field)
        if kept is None:
            raise InterventionError(f"this model has no {stream} to change; leave its interventions out")
        changed: dict[str, Any] = {field: change(kept, context)}
        return replace(s, **changed)

    return Intervention(name, None, apply)


def remove_stream(stream: str, means: StreamMeans | None = None) -> Intervention:
    """Replace what ``memory`` or ``regime`` adds at the fusion by zeros, or by its mean over all tokens."""
    if means is None:
        return change_stream(stream, f"{stream}_zero", lambda kept, _: torch.zeros_like(kept))
    mean = getattr(means, FIELDS[stream])
    return change_stream(stream, f"{stream}_mean", lambda kept, _: mean.to(kept.dtype).expand_as(kept))


def permute_stream(stream: str) -> Intervention:
    """What ``memory`` or ``regime`` adds changes places within each sequence: costs nothing if it is the same everywhere.

    A vector that comes from further on has seen later tokens, so a gain is possible and would mean that.
    """
    name = f"{stream}_permuted"
    return change_stream(stream, name, lambda kept, context: permute_positions(kept, context.generator(name)))


def skip_last_blocks(count: int) -> Intervention:
    """Run the surface without its last ``count`` blocks: what removing the end of any serial stack costs (spec F3)."""
    return Intervention("skip_last_blocks", float(count), skip_last=count)
