"""One text, token by token: the loss of each and the gate at each, in the learned model and under an intervention."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F

from lolm.data.batches import IGNORED
from lolm.data.errors import DataError
from lolm.data.stream import TokenStream
from lolm.interventions import Context, Intervention, Statistics, observe, observe_writes
from lolm.laboratory.cached_activations import CachedActivations, cached_activations
from lolm.models.language_model import LanguageModel
from lolm.records import names


@dataclass(frozen=True)
class TokenLosses:
    """n tokens of a text as a model predicts and reads them.

    Attributes:
        ids: (n,) the text.
        nats: (n,) float64, loss of each token given those before it, the first one given the end of another document.
        gate: (n,) float64, mean over dimensions of the gate at the position that *reads* the token, which decides how the next
            one is predicted; None without a gate.
    """

    ids: np.ndarray
    nats: np.ndarray
    gate: np.ndarray | None


@torch.no_grad()
def losses_by_token(
    model: LanguageModel,
    ids: np.ndarray,
    eos_id: int,
    intervention: Intervention,
    statistics: Statistics | None = None,
    elsewhere: TokenStream | None = None,
    seed: int = 0,
) -> tuple[TokenLosses, TokenLosses]:
    """Read a text as if it began a document, in the learned model and under an intervention.

    Losses are those of n inputs, as in an evaluation. A memory with a fixed number of chunks would cut n + 1, with the last token
    among them, elsewhere: there the gates, which are asked for at that token too, are those of a second pass.

    Args:
        ids: (n,) the text, n ≥ 1.
        eos_id: the id between documents, put before the text.
        statistics: for the interventions that need them, see :func:`lolm.interventions.measure`.
        elsewhere: another text, at least n + 1 tokens, for those that need other documents: its middle is taken.

    Raises:
        DataError: the text is empty, has an id that the model doesn't know, or ``elsewhere`` is needed and too short.
        InterventionError: the model has no place for the intervention, or it lacks what it needs.
        ConfigError: the text is too short for a memory with a fixed number of chunks.
    """
    ids = np.asarray(ids, dtype=np.int64)
    if not len(ids):
        raise DataError("this text has no token; give at least one character")
    if ids.min() < 0 or ids.max() >= model.vocab_size:
        raise DataError(f"the text has the id {ids.max()}, but the model knows {model.vocab_size} ids: another tokenizer's?")
    x_BT = torch.from_numpy(np.concatenate([[eos_id], ids]))[None]
    y_BT = torch.from_numpy(np.concatenate([ids, [IGNORED]]))[None]

    def read(length: int) -> CachedActivations:
        other = other_writes = None
        if elsewhere is not None:
            other = cache(lambda: observe(model, model.streams(_middle_of(elsewhere, len(ids), length, model))))
            other_writes = cache(lambda: observe_writes(model, _middle_of(elsewhere, len(ids), length, model)))
        context = Context(statistics, other, other_writes=other_writes, seed=seed)
        (cached,) = cached_activations(model, [(x_BT[:, :length], y_BT[:, :length])], context)
        return cached

    counted = model.shortest > 1  # a prefix gives other outputs than the whole
    scored = read(len(ids) if counted else len(ids) + 1)
    gated = read(len(ids) + 1) if counted and scored.streams.g is not None else scored

    def losses(change: Intervention) -> TokenLosses:
        logits_TV = model.logits(scored.fused(model, change)).float()[0]
        nats = F.cross_entropy(logits_TV, scored.targets_N, ignore_index=IGNORED, reduction="none").double().cpu().numpy()
        g = change.apply(gated.streams_under(model, change), gated.context).g
        return TokenLosses(ids, nats[: len(ids)], None if g is None else g[0, 1:].double().mean(dim=-1).cpu().numpy())

    return losses(Intervention(names.NONE)), losses(intervention)


def _middle_of(text: TokenStream, tokens: int, length: int, model: LanguageModel) -> torch.Tensor:
    """(1, length) of another text, from where ``tokens`` + 1 of them are its middle."""
    if len(text) < tokens + 1:
        raise DataError(
            f"this intervention reads another text, which has {len(text)} tokens, fewer than the {tokens + 1} of this text and "
            "its beginning; give a shorter text, or a narrower window"
        )
    place = min(len(text) // 2, len(text) - tokens - 1)
    return torch.from_numpy(text.window(place, length))[None].to(model.embedding.weight.device)
