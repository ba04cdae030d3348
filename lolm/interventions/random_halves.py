"""A null of equal size for the inversion: halves of (u, v) that have nothing to do with which branch is which (spec F4).

Removing the latent branch is removing D of the 2·D dimensions that the fusion joins. How far apart two removals of that size lie
when the halves are drawn at random is what the inversion statistic has to exceed.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from lolm.interventions.context import seeded
from lolm.interventions.core import Intervention
from lolm.interventions.dimensions import remove_dimensions
from lolm.records import names


def random_halves(d_model: int, draw: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The 2·D dimensions of (u, v), numbered 0 … 2·D − 1, in two random halves, each (D,) int64 and ascending."""
    order = torch.randperm(2 * d_model, generator=seeded(seed, f"split/{draw}"))
    return order[:d_model].sort().values, order[d_model:].sort().values


def split_set(d_model: int, draws: int, seed: int) -> list[Intervention]:
    """``split_<draw>_first`` and ``split_<draw>_second``: each half of each draw at its mean over tokens.

    The null of the inversion statistic is Δ(second) − Δ(first).
    """
    halves = []
    for draw in range(draws):
        for end, half in zip((names.FIRST, names.SECOND), random_halves(d_model, draw, seed), strict=True):
            both = remove_dimensions(names.SURFACE, half[half < d_model], "") | remove_dimensions(
                names.LATENT, half[half >= d_model] - d_model, ""
            )
            halves.append(replace(both, name=names.random_half(draw, end), value=None))
    return halves
