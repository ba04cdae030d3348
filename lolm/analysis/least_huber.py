"""The least Huber loss of ln L for laws L(N, D) = E + A N^-alpha + B D^-beta of one arm, or of several that share E.

Many problems of one design are solved at once: starts of a grid, or draws of a bootstrap.
"""

from __future__ import annotations

import math

import numpy as np

EXPONENTS, FLOORS, SMALLEST = (0.01, 3.0), (0.02, 1.0), 1e-4  # of the search: E, and A and B in the middle, over the lowest loss
ITERATIONS = 100


def model(theta_RM: np.ndarray, arm_P: np.ndarray, n_P: np.ndarray, d_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ln L and its Jacobian, (R, P) and (R, P, M); theta is ln E, then ln A, alpha, ln B, beta of each arm, M = 1 + 4 arms."""
    k = 1 + 4 * arm_P
    terms = np.empty((3, len(theta_RM), len(k)))
    terms[0] = theta_RM[:, :1]
    np.subtract(theta_RM[:, k], theta_RM[:, k + 1] * n_P, out=terms[1])
    np.subtract(theta_RM[:, k + 2], theta_RM[:, k + 3] * d_P, out=terms[2])
    y_RP = np.logaddexp(np.logaddexp(terms[0], terms[1]), terms[2])
    e, a, b = np.exp(terms - y_RP)
    jacobian, rows = np.zeros((*y_RP.shape, theta_RM.shape[1])), np.arange(len(k))
    jacobian[:, :, 0] = e
    for column, value in enumerate((a, -a * n_P, b, -b * d_P)):
        jacobian[:, rows, k + column] = value
    return y_RP, jacobian


def huber(residuals: np.ndarray, threshold: float) -> np.ndarray:
    """In units of the threshold, so that a sum of it is of order one."""
    size = np.abs(residuals) / threshold
    return np.where(size < 1, size**2 / 2, size - 0.5)


def solve(
    theta: np.ndarray, arm: np.ndarray, n: np.ndarray, d: np.ndarray, w: np.ndarray, y: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Levenberg and Marquardt's steps on reweighted squares, for R problems at once.

    Args:
        theta: (R, M) starts, see :func:`model`.
        arm, n, d, w: (P,) index of the arm, ln N, ln D, weight of each point.
        y: (R, P) ln L.

    Returns:
        (R, M) parameters, (R,) costs.
    """
    exponents, diagonal = np.arange(2, theta.shape[1], 2), np.arange(theta.shape[1])

    def within(theta: np.ndarray, lowest: np.ndarray) -> np.ndarray:
        theta = theta.copy()
        theta[:, 0] = np.clip(theta[:, 0], lowest + math.log(FLOORS[0]), lowest + math.log(FLOORS[1]))
        theta[:, exponents] = np.clip(theta[:, exponents], *EXPONENTS)
        theta[:, exponents - 1] = np.maximum(theta[:, exponents - 1], lowest[:, None] + math.log(SMALLEST))
        return theta

    lowest = y.min(axis=1)
    theta = within(theta, lowest)
    fitted, jacobian = model(theta, arm, n, d)
    cost = huber(y - fitted, threshold) @ w
    found_theta, found_cost = theta.copy(), cost.copy()
    left, damping = np.arange(len(theta)), np.full(len(theta), 1e-2)  # problems that still move, and their damping
    for _ in range(ITERATIONS):
        residuals = y - fitted
        weighted = jacobian * (w * np.minimum(1, threshold / np.maximum(np.abs(residuals), 1e-300)))[..., None]
        normal, gradient = weighted.transpose(0, 2, 1) @ jacobian, weighted.transpose(0, 2, 1) @ residuals[..., None]
        normal[:, diagonal, diagonal] += damping[:, None] * normal[:, diagonal, diagonal] + 1e-12
        tried = within(theta + np.linalg.solve(normal, gradient)[..., 0], lowest)
        found, slopes = model(tried, arm, n, d)
        costs = huber(y - found, threshold) @ w
        better = costs < cost
        gained = (cost - costs)[better].max(initial=0.0)
        at_rest = ~better & (tried == theta).all(axis=1)  # its step rounds to nothing, and more damping makes it shorter still
        theta = np.where(better[:, None], tried, theta)
        fitted, jacobian = np.where(better[:, None], found, fitted), np.where(better[:, None, None], slopes, jacobian)
        cost, damping = np.where(better, costs, cost), np.clip(damping * np.where(better, 0.3, 4.0), 1e-9, 1e9)
        done = at_rest.all() or (gained < 1e-9 and (damping[~better] > 1e3).all())
        if done or 4 * at_rest.sum() > len(left):
            found_theta[left], found_cost[left] = theta, cost
            if done:
                return found_theta, found_cost
            moving = ~at_rest
            left, theta, lowest, y = (x[moving] for x in (left, theta, lowest, y))
            fitted, jacobian, cost, damping = (x[moving] for x in (fitted, jacobian, cost, damping))
    found_theta[left], found_cost[left] = theta, cost
    return found_theta, found_cost


def starts(y: np.ndarray, arms: int) -> np.ndarray:
    """A grid over E and both exponents; A and B share what is left of the mean loss at the middle of N and D."""
    lowest, mean = math.exp(y.min()), math.exp(y.mean())
    rows = []
    for share in (0.1, 0.4, 0.7, 0.9):
        left = math.log((mean - share * lowest) / 2)
        for alpha in (0.1, 0.3, 0.8):
            rows += [[math.log(share * lowest), *((left, alpha, left, beta) * arms)] for beta in (0.1, 0.3, 0.8)]
    return np.array(rows)
