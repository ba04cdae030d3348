"""Removing memory, regime, or the last blocks of the surface."""

from __future__ import annotations

import torch

from lolm.interventions.core import Change, Intervention, change_site
from lolm.interventions.errors import InterventionError
from lolm.interventions.gate import permute_positions
from lolm.interventions.statistics import StreamMeans
from lolm.records import names

STREAMS = {names.MEMORY: "m", names.REGIME: "r"}  # their sites


def change_stream(stream: str, name: str, change: Change) -> Intervention:
    """m (``memory``), (B, T, D), or r (``regime``), (B, T, E), := change(it, context) at the fusion; the gate saw the other.

    Raises:
        InterventionError: another stream.
    """
    return change_site(_site_of(stream), name, change)


def remove_stream(stream: str, means: StreamMeans | None = None) -> Intervention:
    """Replace what ``memory`` or ``regime`` adds at the fusion by zeros, or by its mean over all tokens.

    Raises:
        InterventionError: another stream.
    """
    if means is None:
        return change_stream(stream, names.replaced(stream, names.ZERO), lambda x, _: torch.zeros_like(x))
    mean = getattr(means, _site_of(stream))
    return change_stream(stream, names.replaced(stream, names.MEAN), lambda x, _: mean.to(x.dtype).expand_as(x))


def permute_stream(stream: str) -> Intervention:
    """What ``memory`` or ``regime`` adds changes places within each sequence: costs nothing if it is the same everywhere.

    A vector that comes from further on has seen later tokens, so a gain is possible and would mean that.

    Raises:
        InterventionError: another stream.
    """
    name = names.permuted(stream)
    return change_stream(stream, name, lambda x, context: permute_positions(x, context.generator(name)))


def skip_last_blocks(count: int) -> Intervention:
    """Run the surface without its last ``count`` blocks: what removing the end of any serial stack costs (facts F3).

    A model that has not so many raises InterventionError where the intervention is carried out.
    """
    return Intervention(names.SKIP_LAST_BLOCKS, float(count), skip_last=count)


def _site_of(stream: str) -> str:
    if stream not in STREAMS:
        raise InterventionError(f"no stream {stream!r} to change here; it is one of {', '.join(STREAMS)}")
    return STREAMS[stream]
