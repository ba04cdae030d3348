"""How a quantity of runs of several sizes changes with tokens and with parameters, without a law."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lolm.analysis.statistics import Estimate, t_interval


class Observation(NamedTuple):
    """A quantity at one end of a schedule of one run."""

    run: tuple[str, int]
    parameters: float
    tokens: float
    value: float


def over_tokens(
    observations: Sequence[Observation], confidence: float, level: float
) -> tuple[Estimate | None, dict[str, Estimate]]:
    """Change of a quantity per tenfold of tokens, the mean of the runs' own slopes by least squares on log10, with Student's t
    interval over runs: over all sizes, and at each. Over all there is none where a one-way F test at ``level`` shows that sizes
    differ: a mean over these sizes would be that of no size; and none at all where a run has fewer than two budgets."""
    slopes: dict[str, list[float]] = {}
    for (scale, _), rows in _by_run(observations).items():
        slope = _slope([math.log10(r.tokens) for r in rows], [r.value for r in rows])
        if slope is None:
            return None, {}
        slopes.setdefault(scale, []).append(slope)
    every = [slope for found in slopes.values() for slope in found]
    by_scale = {scale: t_interval(found, confidence) for scale, found in slopes.items()}
    return (t_interval(every, confidence) if every and not _differ([*slopes.values()], level) else None), by_scale


def _differ(groups: Sequence[Sequence[float]], level: float) -> bool:
    """Whether a one-way analysis of variance shows that the groups' means differ."""
    from scipy.special import fdtrc

    means = [math.fsum(group) / len(group) for group in groups]
    inside = math.fsum((x - mean) ** 2 for group, mean in zip(groups, means, strict=True) for x in group)
    n, k = sum(map(len, groups)), len(groups)
    whole = math.fsum(map(math.fsum, groups)) / n if n else 0.0
    between = math.fsum(len(group) * (mean - whole) ** 2 for group, mean in zip(groups, means, strict=True))
    if k < 2 or n == k or between <= 1e-18 * max(1.0, whole**2):  # no noise to hold them against, or the same to rounding
        return False
    return inside == 0 or float(fdtrc(k - 1, n - k, (between / (k - 1)) / (inside / (n - k)))) < level


def _by_run(observations: Sequence[Observation]) -> dict[tuple[str, int], list[Observation]]:
    runs: dict[tuple[str, int], list[Observation]] = {}
    for row in observations:
        runs.setdefault(row.run, []).append(row)
    return runs


def over_parameters(observations: Sequence[Observation], confidence: float) -> Estimate | None:
    """Change of a quantity per tenfold of parameters, the slope of the runs' means by least squares on log10, with Student's t
    interval over runs, which are the units of replication. Its squared standard error is the larger of the usual one and HC3
    (MacKinnon and White 1985), since noise may change with size, of which the largest has the fewest runs: the usual one alone
    then covers 79 to 85 where it says 95. None where the runs are of fewer than two sizes."""
    runs = _by_run(observations)
    x = [math.log10(rows[0].parameters) for rows in runs.values()]
    y = [math.fsum(r.value for r in rows) / len(rows) for rows in runs.values()]
    slope = _slope(x, y)
    if slope is None:
        return None
    interval, mean_x, mean_y = None, math.fsum(x) / len(x), math.fsum(y) / len(y)
    if len(x) > 2:
        from scipy.special import stdtrit

        away, left = np.array(x) - mean_x, np.array(y) - mean_y - slope * (np.array(x) - mean_x)
        width = float((away**2).sum())
        free = np.maximum(1 - 1 / len(x) - away**2 / width, 1e-9)  # of its own run; where it is the only one, left is 0
        wide = max(width * float((left**2).sum()) / (len(x) - 2), float(((away * left / free) ** 2).sum()))
        half = float(stdtrit(len(x) - 2, 0.5 + confidence / 2)) * math.sqrt(wide) / width
        interval = (slope - half, slope + half)
    return Estimate(slope, interval, len(x), (), confidence)


def _slope(x: Sequence[float], y: Sequence[float]) -> float | None:
    mean = math.fsum(x) / max(1, len(x))
    width = math.fsum((a - mean) ** 2 for a in x)
    return math.fsum((a - mean) * b for a, b in zip(x, y, strict=True)) / width if width > 1e-12 else None
