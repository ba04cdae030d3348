"""Changes of the gate: its level, its pattern over dimensions, its dependence on context, one at a time (facts F5)."""

from __future__ import annotations

import torch

from lolm.interventions.context import Context
from lolm.interventions.core import Change, Intervention, change_site
from lolm.interventions.errors import InterventionError
from lolm.records import names


def change_gate(name: str, change: Change, value: float | None = None) -> Intervention:
    """g := change(g, context), everything else as it was; g and what it becomes are (B, T, D)."""
    return change_site("g", name, change, value)


def force_gate(value: float) -> Intervention:
    """g := value at every position and dimension; 1 keeps the surface branch only, 0 the latent one."""
    return change_gate(names.GATE, lambda g, _: torch.full_like(g, value), value)


def blend_gate(alpha: float, target: float) -> Intervention:
    """g := α · target + (1 − α) · g, a path from the learned gate to one of its ends.

    Raises:
        InterventionError: a target other than 0 and 1, for which records have no name.
    """
    ends = {1.0: names.BLEND_TO_ONE, 0.0: names.BLEND_TO_ZERO}
    if target not in ends:
        raise InterventionError(f"no blend of the gate to {target}, only to 0 or 1; to another constant `change_gate` leads")
    return change_gate(ends[target], lambda g, _: alpha * target + (1 - alpha) * g, alpha)


def freeze_gate_per_dimension() -> Intervention:
    """g := its mean over tokens, one value per dimension: takes the context away and keeps the pattern."""
    return change_gate(names.GATE_MEAN_DIMENSION, lambda g, context: context.mean("g", g))


def freeze_gate_globally() -> Intervention:
    """g := its mean over tokens and dimensions: keeps the level alone."""
    return change_gate(names.GATE_MEAN_GLOBAL, lambda g, context: context.mean("g", g[0, 0]).mean().expand_as(g))


def shuffle_gate_positions() -> Intervention:
    """Whole gate vectors change places within a sequence: the values stay, their match with the context goes.

    A vector that comes from further on has seen later tokens, so a gain is possible and would mean that.
    """
    name = names.GATE_SHUFFLED_POSITIONS
    return change_gate(name, lambda g, context: permute_positions(g, context.generator(name)))


def permute_gate_dimensions() -> Intervention:
    """The dimensions of g change places, alike at every position: keeps level and spread, not which dimension has which."""
    name = names.GATE_PERMUTED_DIMENSIONS

    def change(g: torch.Tensor, context: Context) -> torch.Tensor:
        order = torch.randperm(g.shape[-1], generator=context.generator(name, every_batch=False))
        return g[..., order.to(g.device)]

    return change_gate(name, change)


def binarise_gate() -> Intervention:
    """g := 1 where it is at least 0.5, else 0."""
    return change_gate(names.GATE_BINARISED, lambda g, _: (g >= 0.5).to(g))


def swap_gate() -> Intervention:
    """g := 1 − g: the surface gets the latent branch's share, and the reverse."""
    return change_gate(names.GATE_SWAPPED, lambda g, _: 1 - g)


def permute_positions(x_BTD: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each sequence's vectors in a random order of its own."""
    order_BT = torch.rand(x_BTD.shape[:2], generator=generator).argsort(dim=1).to(x_BTD.device)
    return x_BTD.gather(1, order_BT[..., None].expand_as(x_BTD))
