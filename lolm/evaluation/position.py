"""Held-out loss by position in the window: how much a model gains from context."""

from __future__ import annotations

import math

import numpy as np

from lolm.records.schema import PositionBin, PositionChange, Positions, PositionScore


def bin_edges(length: int) -> list[int]:
    """0, 1, 2, 4, … and ``length``: edges that double, the last bin being what is left."""
    return [0] + [2**k for k in range(length.bit_length()) if 2**k < length] + [length]


def describe_positions(nats_NT: np.ndarray, correct_NT: np.ndarray, bytes_NT: np.ndarray) -> Positions:
    """Scores by position, from the scores of N windows of T targets. Position t has t + 1 tokens to go by.

    ``early`` and ``late`` are the first and the last ⌊T / 4⌋ positions, at least one. The paper's "late-position BPC change" is
    ``change.bits_per_byte``, its "context advantage" ``change.accuracy``, as far as its words tell: the scripts aren't public
    (facts D5).
    """
    length = nats_NT.shape[1]

    def score(start: int, stop: int) -> PositionScore:
        part, n_bytes = nats_NT[:, start:stop], int(bytes_NT[:, start:stop].sum())
        return PositionScore(
            nats=float(part.mean()),
            bits_per_byte=float(part.sum()) / (n_bytes * math.log(2)) if n_bytes else None,
            accuracy=float(correct_NT[:, start:stop].mean()),
        )

    edges, quarter = bin_edges(length), max(1, length // 4)
    early, late = score(0, quarter), score(length - quarter, length)
    change = PositionChange(**{name: _relative(value, getattr(early, name)) for name, value in vars(late).items()})
    bins = tuple(PositionBin(a, b, **vars(score(a, b))) for a, b in zip(edges[:-1], edges[1:], strict=True))
    return Positions(bins, early, late, change)


def _relative(late: float | None, early: float | None) -> float | None:
    return None if late is None or not early else late / early - 1
