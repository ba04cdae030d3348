"""Batches as interventions meet them: streams computed once, and other documents at hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial

import torch

from lolm.interventions import (
    EMPTY,
    Context,
    Intervention,
    KnownTerms,
    intervene,
    observe,
    observe_writes,
    other_documents,
    streams_under,
)
from lolm.models.language_model import LanguageModel, Streams


@dataclass(frozen=True)
class CachedActivations:
    """One batch: tokens (B, T), targets (B·T,), the streams of the unchanged model, and the context, with its o."""

    tokens_BT: torch.Tensor
    targets_N: torch.Tensor
    streams: Streams
    context: Context

    def streams_under(self, model: LanguageModel, intervention: Intervention) -> Streams:
        """The streams that the fusion meets, computed anew only from where the intervention acts."""
        if not (intervention.inside or intervention.follows):
            return self.streams
        return streams_under(model, intervention, self.tokens_BT, self.context, self.streams)

    def known_terms(self, model: LanguageModel) -> KnownTerms | None:
        """What the fusion's maps make of the unchanged streams, for :meth:`fused`: most interventions leave most of them as they
        are. For fixed weights and without gradients; the results are the same to the bit. None for a model that is one stack."""
        return KnownTerms.of(model, self.streams)

    def fused(self, model: LanguageModel, intervention: Intervention, known: KnownTerms | None = None) -> torch.Tensor:
        """o_BTD under an intervention."""
        return intervene(model, intervention, self.streams_under(model, intervention), self.context, known)


@torch.no_grad()
def cached_activations(
    model: LanguageModel, batches: Iterable[tuple[torch.Tensor, torch.Tensor]], context: Context = EMPTY
) -> Iterator[CachedActivations]:
    """Run a model over batches of inputs and targets, each (B, T), in evaluation mode.

    A window's other document is the window half the set away: neighbours may be of one document. One window alone has none,
    unless ``context.other`` is given.
    """
    model.eval()
    pairs = list(batches)
    if not pairs:
        return
    device = model.embedding.weight.device
    partners = other_documents([x_BT for x_BT, _ in pairs])
    for number, ((x_BT, y_BT), partner_BT) in enumerate(zip(pairs, partners, strict=True)):
        x_BT = x_BT.to(device)
        streams = model.streams(x_BT)
        here = replace(context, full=model.fuse(streams), batch=number)
        if partner_BT is not None:  # both are called when first needed, once per batch
            partner_BT = partner_BT.to(device)
            other = here.other or cache(partial(_look_at, model, partner_BT))
            other_writes = here.other_writes or cache(partial(observe_writes, model, partner_BT))
            here = replace(here, other=other, other_writes=other_writes)
        yield CachedActivations(x_BT, y_BT.to(device).flatten(), streams, here)


@torch.no_grad()
def _look_at(model: LanguageModel, tokens_BT: torch.Tensor) -> Mapping[str, torch.Tensor]:
    return observe(model, model.streams(tokens_BT))
