"""The inversion statistic of measured interventions: loss without the latent branch minus loss without the surface branch."""

from __future__ import annotations

from collections.abc import Iterable

from lolm.records.names import REMOVALS
from lolm.records.schema import Condition


def inversion(conditions: Iterable[Condition], step: int) -> dict[str, float]:
    """Δ(latent removed) − Δ(surface removed) at one checkpoint, nats a token, by removal method, where both were removed.

    Above 0 the latent branch is missed more. The learned model's own loss is in both and cancels.
    """
    nats = {(row.intervention, row.value): row.nats for row in conditions if row.step == step}
    return {
        method: nats[latent] - nats[surface]
        for method, (latent, surface) in REMOVALS.items()
        if latent in nats and surface in nats
    }
