"""What the gate does, and what a branch is worth, by class of token: function words, content words, punctuation, and so on.

The published picture of "surface words" and "latent words" was drawn by hand; these are measurements. The gate of a position is
computed from the tokens up to it and decides how the *next* one is predicted. So each class is counted twice: by the token that
is read at the position, and as ``target_<class>`` by the token that is predicted there.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F

from lolm.data.batches import EvaluationSet
from lolm.interventions import EMPTY, Context, Intervention, InterventionError, fusion_of, replace_branch
from lolm.laboratory.cached_activations import CachedActivations, cached_activations
from lolm.laboratory.word_classes import classify
from lolm.models.language_model import LanguageModel
from lolm.records import names
from lolm.records.names import BRANCHES, LATENT, SURFACE, TOKEN_CLASSES
from lolm.records.schema import TokenClass

MARGIN = 64  # tokens read on either side of a window, so that words and sentences aren't cut at its ends


class Text(Protocol):
    """What is asked of a :class:`lolm.corpus.tokenizer.Tokenizer`."""

    @property
    def texts(self) -> list[bytes]: ...

    @property
    def eos_id(self) -> int: ...


def class_names() -> list[str]:
    """All classes in the order of the rows: by input token, by target, by position in the document and in the window."""
    places = [f"{where}_{name}" for where in ("document", "window") for name in names.POSITION_RANGES]
    return [*TOKEN_CLASSES, *(names.target(name) for name in TOKEN_CLASSES[1:]), *places]


def window_classes(held_out: EvaluationSet, window: int, tokenizer: Text) -> dict[str, np.ndarray]:
    """For each of :func:`class_names`, (T,) bool: which positions of a window are of it."""
    stream, length = held_out.stream, held_out.seq_len
    start = int(held_out.starts[window])
    low, high = max(0, start - MARGIN), min(len(stream), start + length + 1 + MARGIN)
    around = classify(stream.window(low, high - low), tokenizer.texts, tokenizer.eos_id, opens=low == 0)
    inputs = {name: of[start - low : start - low + length] for name, of in around.items()}
    targets = {names.target(name): around[name][start - low + 1 : start - low + length + 1] for name in TOKEN_CLASSES[1:]}
    in_window = np.arange(length)
    places = start + in_window
    document = np.searchsorted(stream.document_starts, places, side="right") - 1
    positions = {"document": places - stream.document_starts[document], "window": in_window}
    ranges = {
        f"{where}_{name}": (of >= first) & (of < (np.inf if last is None else last))
        for where, of in positions.items()
        for name, (first, last) in names.POSITION_RANGES.items()
    }
    return inputs | targets | ranges


@torch.no_grad()
def gate_by_class(
    model: LanguageModel,
    held_out: EvaluationSet,
    tokenizer: Text,
    batch_size: int,
    context: Context = EMPTY,
    *,
    step: int = 0,
) -> list[TokenClass]:
    """Gate and branch removals by class of token on held-out text.

    Classes overlap (see :func:`lolm.laboratory.word_classes.classify`), so rows are no parts of a whole. ``document_33_128`` are
    the 33rd to 128th token of their document; ``window_…`` the same counted from where the model began to read, which is all that
    it knows of the document.

    Args:
        held_out: windows of a stream with ``document_starts``.
        tokenizer: the one that the stream was written with.
        context: with statistics, for the means that a removed branch is replaced by.
        step: of the weights, for the rows.

    Returns:
        a row for each class that has a token, in the order of :func:`class_names`. Its ``nats`` is the mean loss of the
        predictions made at its positions; ``gate_std`` is over positions, of the gate's mean over dimensions.

    Raises:
        InterventionError: the model is a plain stack, or statistics are missing.
    """
    fusion = fusion_of(model)
    if fusion is None:
        raise InterventionError("gate and branches by token class are those of a fusion; this model is one stack")
    removals = {b: replace_branch(b, names.MEAN) for b in BRANCHES if getattr(fusion, b) is not None}
    parts = [scores_of(model, cached, removals) for cached in cached_activations(model, held_out.batches(batch_size), context)]
    scores = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    members = [window_classes(held_out, i, tokenizer) for i in range(len(held_out))]
    rows = []
    for name in class_names():
        member = np.concatenate([of[name] for of in members])
        if not member.any():
            continue
        mean = {key: float(values[member].mean()) for key, values in scores.items()}
        rows.append(
            TokenClass(
                step=step,
                token_class=name,
                tokens=int(member.sum()),
                nats=mean["nats"],
                gate_mean=mean.get("gate"),
                gate_std=float(scores["gate"][member].std()) if "gate" in scores else None,
                damage_latent_mean=mean.get(LATENT),
                damage_surface_mean=mean.get(SURFACE),
            )
        )
    return rows


def scores_of(model: LanguageModel, cached: CachedActivations, removals: dict[str, Intervention]) -> dict[str, np.ndarray]:
    """Of each position of a batch, (N,) float64: ``nats``; ``gate``, its mean over dimensions, where there is one; and by branch
    the loss that its removal adds."""

    def nats(intervention: Intervention) -> np.ndarray:
        logits_NV = model.logits(cached.fused(model, intervention)).float().flatten(0, 1)
        return F.cross_entropy(logits_NV, cached.targets_N, reduction="none").double().cpu().numpy()

    found, g = {"nats": nats(Intervention(names.NONE))}, cached.streams.g
    found |= {branch: nats(removal) - found["nats"] for branch, removal in removals.items()}
    return found if g is None else found | {"gate": g.double().mean(dim=-1).flatten().cpu().numpy()}
