"""The search for an arm's learning rate: a geometric grid that grows while its best point is at an edge."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Search:
    """What a search saw.

    Attributes:
        chosen: the rate with the lowest loss.
        inside: whether a worse rate was seen on both sides of it.
        losses: loss of each rate, ascending in the rate; infinite where training diverged.
    """

    chosen: float
    inside: bool
    losses: dict[float, float]


def search(rates: list[float], loss_of: Callable[[float], float], extensions: int) -> Search:
    """Evaluate a grid and its extensions.

    Args:
        rates: at least two, ascending.
        loss_of: held-out loss reached with a rate; infinity for a run that diverged.
        extensions: how many rates may be added at the edges, each by the ratio of the grid's neighbours there.

    Raises:
        ValueError: training diverged at every rate.
    """
    losses = {rate: loss_of(rate) for rate in rates}
    for _ in range(extensions):
        grid = sorted(losses)
        best = min(grid, key=losses.__getitem__)
        if best == grid[0]:
            new = grid[0] ** 2 / grid[1]
        elif best == grid[-1]:
            new = grid[-1] ** 2 / grid[-2]
        else:
            break
        losses[new] = loss_of(new)
    grid = sorted(losses)
    best = min(grid, key=losses.__getitem__)
    if math.isinf(losses[best]):
        raise ValueError("training diverged at every learning rate")
    return Search(best, best not in (grid[0], grid[-1]), {rate: losses[rate] for rate in grid})
