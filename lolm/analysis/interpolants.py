"""Between measured ends of schedules: where a curve crosses a level, by three interpolants and for many draws of losses at once.

Where measurements lie a factor of two apart, a multiplier depends on the interpolant. The declared one is linear in ln(cost);
beside it stand the monotone cubic of Fritsch and Carlson (PCHIP) through the same points and the power law E + A C^-alpha fitted
to them, to report how much depends on that choice. None of them is read outside the measured range.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

Interpolant = Callable[[Sequence[float], Sequence[float], float], float | None]


def log_crossings(positions: Sequence[float], losses_DE: np.ndarray, levels_D: np.ndarray) -> np.ndarray:
    """(D,) ln of the position at which each draw's running minimum first reaches its level, linear in ln; NaN outside the range.

    Args:
        positions: E of them, above 0.
    """
    logs, best_DE = np.log(positions), np.minimum.accumulate(losses_DE, axis=1)
    reached = best_DE <= levels_D[:, None]
    right = reached.argmax(axis=1)
    rows, left = np.arange(len(best_DE)), np.maximum(right - 1, 0)
    drop = best_DE[rows, left] - best_DE[rows, right]
    share = np.divide(best_DE[rows, left] - levels_D, drop, out=np.ones(len(drop)), where=drop > 0)
    found = logs[left] + share * (logs[right] - logs[left])
    measured = reached.any(axis=1) & ((right > 0) | (best_DE[:, 0] == levels_D))
    return np.where(measured, np.where(right > 0, found, logs[0]), np.nan)


def linear(positions: Sequence[float], losses: Sequence[float], level: float) -> float | None:
    """ln of the position at ``level``, linear in ln(position) between the two points around it."""
    return _known(float(log_crossings(positions, np.array([losses]), np.array([level]))[0]))


def monotone(positions: Sequence[float], losses: Sequence[float], level: float) -> float | None:
    """The same by PCHIP, of ln(position) as a function of the running minimum."""
    from scipy.interpolate import PchipInterpolator

    if linear(positions, losses, level) is None:
        return None
    best, first = np.unique(np.minimum.accumulate(losses), return_index=True)  # ascending, each where it is first reached
    return _known(float(PchipInterpolator(best, np.log(positions)[first])(level))) if len(best) > 1 else math.log(positions[0])


def power_law(positions: Sequence[float], losses: Sequence[float], level: float) -> float | None:
    """The same by the least-squares power law E + A C^-alpha; None with fewer than four points, which leave it nothing to fit."""
    from scipy.optimize import minimize_scalar

    if len(positions) < 4 or linear(positions, losses, level) is None:
        return None
    x, y = np.log(positions), np.array(losses)

    def fit(floor: float) -> tuple[np.ndarray, float]:
        line = np.polyfit(x, np.log(y - floor), 1)
        return line, float(((np.exp(np.polyval(line, x)) + floor - y) ** 2).sum())

    floor = minimize_scalar(lambda e: fit(e)[1], bounds=(0.0, float(y.min()) - 1e-6), method="bounded").x
    (slope, height), _ = fit(floor)
    return None if level <= floor or slope >= 0 else float((math.log(level - floor) - height) / slope)


INTERPOLANTS: dict[str, Interpolant] = {
    "linear in ln(cost)": linear, "monotone cubic (PCHIP)": monotone, "power law fitted to each run": power_law,
}  # fmt: skip


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
