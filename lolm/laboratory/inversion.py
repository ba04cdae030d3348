"""The inversion statistic of measured interventions: loss without the latent branch minus loss without the surface branch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

# way of removing a branch: (intervention, value) that removes the latent branch, and the one that removes the surface branch
REMOVALS: dict[str, tuple[tuple[str, float | None], tuple[str, float | None]]] = {
    "gate": (("gate", 1.0), ("gate", 0.0)),
    **{by: ((f"latent_{by}", None), (f"surface_{by}", None)) for by in ("zero", "mean", "resample", "gaussian")},
}


def inversion(conditions: Iterable[Mapping[str, Any]], step: int) -> dict[str, float]:
    """Δ(latent removed) − Δ(surface removed) at one checkpoint, nats a token, for each way in which both were removed.

    Above 0 the latent branch is missed more. The learned model's own loss is in both and cancels.

    Args:
        conditions: rows of :func:`lolm.laboratory.scoring.score_interventions`, each with its ``step``.
    """
    nats = {(row["intervention"], row["value"]): row["nats"] for row in conditions if row["step"] == step}
    return {
        way: nats[latent] - nats[surface] for way, (latent, surface) in REMOVALS.items() if latent in nats and surface in nats
    }
