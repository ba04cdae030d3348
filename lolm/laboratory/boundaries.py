"""What a model does after the boundaries of a text: loss, gate, branches by the distance from the last sentence, paragraph or
document that began.

The gate of a position is computed from the tokens up to it and decides how the next one is predicted, so a position is counted by
the token that is predicted there.
"""

from __future__ import annotations

import numpy as np
import torch

from lolm.data.batches import EvaluationSet
from lolm.interventions import EMPTY, Context, Intervention, fusion_of, replace_branch
from lolm.laboratory.cached_activations import CachedActivations, cached_activations
from lolm.laboratory.token_classes import Text, scores_of
from lolm.laboratory.word_classes import words_and_starts
from lolm.models.language_model import LanguageModel
from lolm.records import names
from lolm.records.names import BRANCHES, LATENT, SURFACE
from lolm.records.schema import Boundary

KINDS = ("sentence", "paragraph", "document")  # by size: the largest that begins at a token counts
DISTANCES = ((1, 1), (2, 2), (3, 4), (5, 8), (9, 16), (17, 32), (33, None))
CONTEXT = 64  # tokens of a window that are read before its first counted prediction, or a quarter of a short window


def boundaries_of(ids: np.ndarray, texts: list[bytes], eos_id: int) -> np.ndarray:
    """Which token begins what: (n,) int, an index of KINDS, −1 where nothing begins.

    A sentence begins at the first piece of its first word or number (:func:`lolm.laboratory.word_classes.words_and_starts`), a
    paragraph where a line break lies between that and the word or number before, a document where its end mark does, or at the
    very first.
    """
    words, starts = words_and_starts(ids, texts, eos_id)
    breaks = np.cumsum([b"\n" in texts[i] for i in ids.tolist()])
    ends = np.cumsum(ids == eos_id)
    kind = np.full(len(ids), -1)
    before = -1  # the last token of a word or number
    for i in np.flatnonzero(words).tolist():
        if starts[i]:
            document, paragraph = (counts[i] > counts[before] for counts in (ends, breaks))
            kind[i] = 2 if before < 0 or document else 1 if paragraph else 0
        before = i
    return kind


@torch.no_grad()
def score_boundaries(
    model: LanguageModel, held_out: EvaluationSet, tokenizer: Text, batch_size: int, context: Context = EMPTY
) -> list[Boundary]:
    """Every prediction of a set, but for the first of each window, by kind and distance of the last boundary.

    Args:
        tokenizer: the one that the stream was written with.
        context: with statistics, for the means that a removed branch is replaced by.

    Returns:
        a row for each kind and each range of DISTANCES that has a token. Gate and branches are those of a fusion; a plain stack
        has the loss alone.
    """
    stream, length = held_out.stream, held_out.seq_len
    kind = boundaries_of(stream.window(0, len(stream)), tokenizer.texts, tokenizer.eos_id)
    last = np.maximum.accumulate(np.where(kind >= 0, np.arange(len(kind)), -1))  # where what a token is part of began
    targets = np.concatenate([np.arange(start + 1, start + length + 1) for start in held_out.starts])
    counted = np.tile(np.arange(length) >= min(CONTEXT, length // 4), len(held_out.starts)) & (last[targets] >= 0)
    origin = last[targets]
    kinds, distance = kind[origin], targets - origin + 1
    fusion = fusion_of(model)
    removals = {b: replace_branch(b, names.MEAN) for b in BRANCHES if fusion is not None and getattr(fusion, b) is not None}
    parts = [_scores(model, cached, removals) for cached in cached_activations(model, held_out.batches(batch_size), context)]
    scores = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    rows = []
    for index, name in enumerate(KINDS):
        for first, end in DISTANCES:
            mine = counted & (kinds == index) & (distance >= first) & (distance <= (end or np.inf))
            if not mine.any():
                continue
            mean = {key: float(values[mine].mean()) for key, values in scores.items()}
            rows.append(
                Boundary(
                    kind=name,
                    first=first,
                    last=end,
                    tokens=int(mine.sum()),
                    events=len(np.unique(origin[mine])),
                    nats=mean["nats"],
                    gate=mean.get("gate"),
                    share=mean.get("share"),
                    damage_latent=mean.get(LATENT),
                    damage_surface=mean.get(SURFACE),
                )
            )
    return rows


def _scores(model: LanguageModel, cached: CachedActivations, removals: dict[str, Intervention]) -> dict[str, np.ndarray]:
    """:func:`scores_of` with ``share``, the latent branch's of the power."""
    streams, fusion, found = cached.streams, fusion_of(model), scores_of(model, cached, removals)
    if fusion is not None and streams.g is not None:
        addends = fusion.addends(fusion.terms(streams.h, streams.z, streams.m, streams.r), streams.g)
        surface, latent = (addends[name].double().square().sum(dim=-1) for name in (SURFACE, LATENT))
        found["share"] = (latent / (surface + latent)).flatten().cpu().numpy()
    return found
