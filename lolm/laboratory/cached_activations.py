"""Batches as interventions meet them: streams computed once, and other documents at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial

import torch
from torch import nn

from lolm.interventions import EMPTY, Context, Intervention, fusion_of, intervene, observe
from lolm.models.language_model import LanguageModel, Streams


@dataclass(frozen=True)
class CachedActivations:
    """One batch: tokens (B, T), targets (B·T,), the streams of the unchanged model, and the context, with its o."""

    tokens_BT: torch.Tensor
    targets_N: torch.Tensor
    streams: Streams
    context: Context

    def fused(self, model: LanguageModel, intervention: Intervention) -> torch.Tensor:
        """o_BTD under an intervention; the streams are computed anew only where blocks are left out."""
        streams = self.streams
        if intervention.skip_last:
            streams = model.streams(self.tokens_BT, skip_last=intervention.skip_last)
        return intervene(model, intervention, streams, self.context)

    @contextmanager
    @torch.no_grad()
    def fused_often(self, model: LanguageModel) -> Iterator[None]:
        """While open, the fusion's maps of this cached's own streams are not computed again: most interventions leave most of
        them as they are. The results are the same to the bit. Without gradients, and for fixed weights."""
        fusion = fusion_of(model)
        with ExitStack() as undo:
            if fusion is not None:
                for layer in (fusion.surface, fusion.surface_norm, fusion.latent, fusion.latent_norm, fusion.memory):
                    if layer is not None:
                        undo.callback(_remember_first(layer))
                model.fuse(self.streams)  # the answers to remember
            yield


def _remember_first(layer: nn.Module) -> Callable[[], object]:
    """Let a layer answer the very tensor it meets first from memory; returns what undoes it."""
    forward = layer.forward
    kept: list[torch.Tensor] = []  # what came in first, and the answer

    def answer(x: torch.Tensor) -> torch.Tensor:
        if not kept:
            kept.extend((x, forward(x)))
        return kept[1] if x is kept[0] else forward(x)

    layer.forward = answer  # type: ignore[method-assign]
    return lambda: layer.__dict__.pop("forward")


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
    windows = torch.cat([x_BT for x_BT, _ in pairs])
    partners = windows.roll(-(len(windows) // 2), 0).split([len(x_BT) for x_BT, _ in pairs])
    for number, ((x_BT, y_BT), partner_BT) in enumerate(zip(pairs, partners, strict=True)):
        x_BT = x_BT.to(device)
        streams = model.streams(x_BT)
        other = context.other
        if other is None and len(windows) > 1:
            other = cache(partial(_look_at, model, partner_BT.to(device)))
        here = replace(context, other=other, full=model.fuse(streams), batch=number)
        yield CachedActivations(x_BT, y_BT.to(device).flatten(), streams, here)


@torch.no_grad()
def _look_at(model: LanguageModel, tokens_BT: torch.Tensor) -> Mapping[str, torch.Tensor]:
    return observe(model, model.streams(tokens_BT))
