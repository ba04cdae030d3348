"""What a model does at the boundaries of a text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Boundary:
    """Predictions of the ``first`` to ``last`` token (None: and all later ones) since a boundary, the most recent one.

    Attributes:
        kind: ``sentence``, ``paragraph`` or ``document``: what began there, the largest of them.
        events: boundaries of the kind that have a token here.
        nats: mean loss of the predictions.
        gate: mean gate where they are made; share: the latent branch's share of the power of the gated signal there,
            position by position as in the evaluation.
        damage_latent, damage_surface: loss added when a branch is replaced by its mean. None where a model lacks it.
    """

    kind: str
    first: int
    last: int | None
    tokens: int
    events: int
    nats: float
    gate: float | None = None
    share: float | None = None
    damage_latent: float | None = None
    damage_surface: float | None = None
