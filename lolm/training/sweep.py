"""The search for an arm's learning rate: a geometric grid that grows while its best point is at an edge."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Search:
    """What a search saw.

    Attributes:
        chosen: the rate with the lowest loss, see :func:`choose`.
        inside: whether a worse rate was seen on both sides of it.
        losses: loss of each rate, ascending in the rate; infinite where training diverged.
    """

    chosen: float
    inside: bool
    losses: dict[float, float]


def choose(losses: Mapping[float, float], tie: float) -> float:
    """The lowest rate whose loss is within ``tie`` of the best: what lies closer than seeds do is no reason to go faster."""
    best = min(losses.values())
    return min(rate for rate, loss in losses.items() if loss <= best + tie)


def search(rates: list[float], loss_of: Callable[[float], float], extensions: int, tie: float = 0.0) -> Search:
    """Evaluate a grid and its extensions.

    Args:
        rates: at least two, ascending.
        loss_of: held-out loss reached with a rate; infinity for a run that diverged.
        extensions: how many rates may be added at the edges, each by the ratio of the grid's neighbours there.
        tie: nats by which two rates must differ to be told apart.

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
    if math.isinf(min(losses.values())):
        raise ValueError("training diverged at every learning rate")
    chosen = choose(losses, tie)
    worse = [rate for rate in grid if losses[rate] > losses[chosen]]
    inside = any(rate < chosen for rate in worse) and any(rate > chosen for rate in worse)
    return Search(chosen, inside, {rate: losses[rate] for rate in grid})
