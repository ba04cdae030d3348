"""Held-out loss by document and by piece of text: what a bootstrap over text needs, without weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lolm.data.batches import EvaluationSet

PIECE = 1024  # tokens; a block of the analysis is made of whole pieces


def pieces_of(held_out: EvaluationSet) -> tuple[np.ndarray, np.ndarray]:
    """Where each target of a set stands in its split: document and piece of it, two (N, T) arrays of whole numbers.

    A document begins with its first token and ends with the end-of-document id after it; pieces count from its beginning. So no
    piece is of two documents, wherever windows begin.
    """
    targets_NT = held_out.starts[:, None] + 1 + np.arange(held_out.seq_len)
    starts = held_out.stream.document_starts
    document_NT = np.searchsorted(starts, targets_NT, side="right") - 1
    return document_NT, (targets_NT - starts[document_NT]) // PIECE


def sums_by_piece(
    whole: EvaluationSet, nats_NT: np.ndarray, subset: EvaluationSet, ends: Mapping[int, np.ndarray]
) -> dict[str, Any]:
    """Sums over pieces, as the fields of :class:`lolm.records.schema.TextLosses`.

    Args:
        nats_NT: loss of every target of ``whole`` under the final weights.
        ends: by step, loss of every target of ``subset`` under the weights at that end of a schedule.
    """
    places = [np.stack(pieces_of(one)).reshape(2, -1) for one in (whole, subset)]
    pieces, found = np.unique(np.concatenate(places, axis=1), axis=1, return_inverse=True)
    count = pieces.shape[1]
    in_whole, in_subset = np.split(found.ravel(), [places[0].shape[1]])

    def counted(index: np.ndarray, weights: np.ndarray | None = None) -> tuple[int, ...]:
        return tuple(np.bincount(index, weights, count).astype(int).tolist())

    def summed(index: np.ndarray, nats: np.ndarray) -> tuple[float, ...]:
        return tuple(np.bincount(index, nats.ravel(), count).round(3).tolist())  # 1e-6 nats a token

    return {
        "documents": tuple(whole.stream.document_ids()),
        "piece_tokens": PIECE,
        "document": tuple(pieces[0].tolist()),
        "piece": tuple(pieces[1].tolist()),
        "tokens": counted(in_whole),
        "bytes": counted(in_whole, whole.target_bytes().ravel()),
        "nats": summed(in_whole, nats_NT),
        "subset_tokens": counted(in_subset),
        "ends": {str(step): summed(in_subset, nats) for step, nats in ends.items()},
    }
