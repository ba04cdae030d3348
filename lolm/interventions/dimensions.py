"""Removing single dimensions of a branch, and random groups of them to say what any removal of that size costs (facts F4)."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from lolm.interventions.branches import BRANCHES, change_branch
from lolm.interventions.context import Context, seeded
from lolm.interventions.core import Intervention
from lolm.interventions.errors import InterventionError
from lolm.interventions.statistics import Statistics
from lolm.records import names


def remove_dimensions(branch: str, dimensions: torch.Tensor, name: str, value: float | None = None) -> Intervention:
    """u_d (``surface``) or v_d (``latent``) := its mean over tokens, in the given dimensions.

    Args:
        dimensions: (k,) int64.
        value: what the row says; default is k.
    """

    def change(x: torch.Tensor, context: Context) -> torch.Tensor:
        removed_D = torch.zeros(x.shape[-1], dtype=torch.bool)
        removed_D[dimensions] = True
        return torch.where(removed_D.to(x.device), context.mean(BRANCHES[branch], x), x)

    return change_branch(branch, name, change, float(len(dimensions)) if value is None else value)


def contribution(statistics: Statistics, branch: str) -> torch.Tensor:
    """(D,) variance over tokens of g ⊙ u or (1 − g) ⊙ v. The mean squared norm that a mean ablation takes from o is near it, but
    another number, E[g² (u − ū)²]: the gate goes on varying; and a fusion by concatenation has a map behind."""
    return statistics.std[f"g{BRANCHES[branch]}"].double().square().cpu()


def ranked(statistics: Statistics, branch: str, by: str) -> torch.Tensor:
    """(D,) dimensions in ascending order of their mean ``gate``, or of their ``contribution``.

    Raises:
        InterventionError: another order, or no gate.
    """
    if by == names.BY_CONTRIBUTION:
        return contribution(statistics, branch).argsort(stable=True)
    if by != names.BY_GATE or "g" not in statistics.mean:
        raise InterventionError(f"cannot order dimensions by {by!r}; by contribution, or by gate where the model has one")
    return statistics.mean["g"].cpu().argsort(stable=True)


def random_group(statistics: Statistics, branch: str, like: torch.Tensor, match: str, seed: int, draw: int) -> torch.Tensor:
    """Random dimensions of a branch, matched to the group ``like``.

    Args:
        match: ``size``, as many; ``norm``, together of the same contribution at most: in random order, each is taken that
            still fits, so what is missing is less than any dimension left out.
        draw: 0, 1, …: which of the random groups.

    Raises:
        InterventionError: another match.
    """
    weight_D = contribution(statistics, branch)
    order = torch.randperm(len(weight_D), generator=seeded(seed, f"dimensions/{branch}/{match}/{len(like)}/{draw}"))
    if match == "size":
        return order[: len(like)]
    if match != "norm":
        raise InterventionError(f"cannot match random dimensions by {match!r}; by size or by norm")
    room, group = float(weight_D[like].sum()) * (1 + 1e-9), []
    for d in order.tolist():
        if float(weight_D[d]) <= room:
            room -= float(weight_D[d])
            group.append(d)
    return torch.tensor(group, dtype=torch.int64)


def dimension_set(statistics: Statistics, branch: str, counts: Iterable[int], draws: int, seed: int) -> list[Intervention]:
    """The ``k`` lowest and highest dimensions by gate and by contribution, each beside random groups.

    Random groups of size k are called ``<branch>_dimensions_random_<draw>``, those matched in norm after the group that they
    are matched to, ``…_norm_<draw>``; the value is k everywhere, though a group matched in norm has a size of its own.
    """
    orders = (names.BY_GATE, names.BY_CONTRIBUTION) if "g" in statistics.mean else (names.BY_CONTRIBUTION,)
    removals = []
    for k in counts:
        for by in orders:
            order = ranked(statistics, branch, by)
            for end, group in ((names.LOWEST, order[:k]), (names.HIGHEST, order[len(order) - k :])):
                removals.append(remove_dimensions(branch, group, names.dimensions(branch, end, by)))
                for draw in range(draws):
                    matched = random_group(statistics, branch, group, "norm", seed, draw)
                    name = names.dimensions_matched(branch, end, by, draw)
                    removals.append(remove_dimensions(branch, matched, name, float(k)))
        for draw in range(draws):
            group = random_group(statistics, branch, torch.arange(k), "size", seed, draw)
            removals.append(remove_dimensions(branch, group, names.dimensions_random(branch, draw)))
    return removals
