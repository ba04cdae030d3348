"""What goes with the inversion statistic over the arms of a study, of which there are few."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from lolm.analysis.dependency import primary, statistic
from lolm.analysis.statistics import Estimate, t_interval
from lolm.records.results import RunRecord, ScaleResults

SAMPLED_ORDERS = 19_999  # of more arms than have few enough orders


@dataclass(frozen=True)
class OverArms:
    """How a number goes with S over arms.

    Attributes:
        found: Pearson's correlation in each seed, on Fisher's scale over seeds.
        p_value: two-sided, of the permutations of the number among the arms, the same in all seeds; exact up to eight arms. The
            interval says how far other seeds move a correlation, this whether so few arms could have it by chance.
        arms: that have both numbers, in the order of the study.
    """

    found: Estimate
    p_value: float
    arms: tuple[str, ...]


def over_arms(results: ScaleResults, read: Callable[[RunRecord], float | None]) -> OverArms | None:
    """The correlation of a number of a run and S over the arms of a study.

    None where fewer than four arms have both, or one of them does not vary; seeds are those that these arms share.
    """
    method = primary(results)
    found = {arm: {run.seed: (read(run), statistic(run, method)) for run in results.of(arm)} for arm in results.arms}
    found = {arm: pairs for arm, pairs in found.items() if pairs and not any(None in pair for pair in pairs.values())}
    seeds = sorted(set.intersection(*map(set, found.values()))) if len(found) > 3 else []
    if not seeds:
        return None
    pairs_2SA = np.array([[[found[arm][seed][i] for arm in found] for seed in seeds] for i in (0, 1)], dtype=float)
    centred_2SA = pairs_2SA - pairs_2SA.mean(axis=-1, keepdims=True)
    length_2S = np.sqrt((centred_2SA**2).sum(axis=-1, keepdims=True))
    if length_2S.min() < 1e-12:
        return None
    number_SA, s_SA = centred_2SA / length_2S
    orders = _orders(len(found))
    fisher_OS = np.arctanh(np.einsum("soa,sa->os", number_SA[:, orders], s_SA).clip(-1 + 1e-9, 1 - 1e-9))
    extreme = np.abs(fisher_OS.mean(axis=1)) >= abs(fisher_OS[0].mean()) - 1e-9
    correlation = t_interval(fisher_OS[0], results.analysis.confidence).map(math.tanh)
    return OverArms(correlation, float(extreme.mean()), tuple(found))


def _orders(arms: int) -> np.ndarray:
    """(orders, arms), the first as they are: all orders of up to eight arms, else a fixed sample of them."""
    if arms <= 8:
        return np.array(list(permutations(range(arms))))
    rng = np.random.default_rng(0)
    return np.stack([np.arange(arms), *(rng.permutation(arms) for _ in range(SAMPLED_ORDERS))])
