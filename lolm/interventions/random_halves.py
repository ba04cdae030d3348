"""A null of equal size for the inversion: halves of (u, v) that have nothing to do with which branch is which (spec F4).

Removing the latent branch is removing D of the 2·D dimensions that the fusion joins. How far apart two removals of that size lie
when the halves are drawn at random is what the inversion statistic has to exceed.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from lolm.interventions.core import Intervention, seeded
from lolm.interventions.dimensions import remove_dimensions


def random_halves(d_model: int, draw: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The 2·D dimensions of (u, v), numbered 0 … 2·D − 1, in two random halves, each (D,) int64 and ascending."""
    order = torch.randperm(2 * d_model, generator=seeded(seed, f"split/{draw}"))
    return order[:d_model].sort().values, order[d_model:].sort().values


def split_set(d_model: int, draws: int, seed: int) -> list[Intervention]:
    """``split_<draw>_first`` and ``split_<draw>_second``: each half of each draw at its mean over tokens.

    The null of the inversion statistic is Δ(second) − Δ(first).
    """
    chosen = []
    for draw in range(draws):
        for end, half in zip(("first", "second"), random_halves(d_model, draw, seed), strict=True):
            both = remove_dimensions("surface", half[half < d_model], "") | remove_dimensions(
                "latent", half[half >= d_model] - d_model, ""
            )
            chosen.append(replace(both, name=f"split_{draw}_{end}", value=None))
    return chosen
