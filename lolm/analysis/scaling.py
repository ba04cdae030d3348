"""Loss as a function of parameters N and training tokens D, one law for each arm, and what it says of two arms.

    L(N, D) = E + A N^-alpha + B D^-beta                                  (Hoffmann et al., arXiv 2203.15556, approach 3)

is fitted to the test losses at every end of schedule, ln L averaged over seeds and weighted by their number, by the least *sum*
of Huber losses (a mean over points ends the search early and makes intervals too narrow: Besiroglu et al., arXiv 2404.10102;
single seeds would make it a median between them), from a grid of starts. With an arm's training cost
C = kappa N^gamma D the loss along its compute-optimal path is E + K C^-p, p = alpha beta / (alpha + gamma beta), and the compute
multiplier between two arms at a compute C of the first is what the second needs for the same loss, over C.

Intervals are a bootstrap over runs. A run's ends of schedule share its noise, so what is drawn for a run is a whole vector of
residuals: a random combination of those of all runs, each against the mean of its own size, which pools their covariance over
sizes; all arms of one size and seed get the same combination, so that what a data order does to both cancels in a contrast. Few
runs fix that covariance badly, so each draw also has a chi-squared scale of their degrees of freedom: where the law is nearly
linear this is Student's t. The intervals speak of other seeds given this form; ``misfit`` says how badly it fits, and
``form`` whether worse than noise alone would make it: losses are drawn around the law itself and fitted again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lolm import LolmError
from lolm.analysis.least_huber import huber, model, solve, starts
from lolm.analysis.statistics import Estimate
from lolm.records.results import ScaleResults
from lolm.records.schema import BudgetPoint

LEAST = 3  # different sizes, and different numbers of tokens: fewer cannot tell E from A and alpha
COLLINEAR = 0.98  # correlation of ln N with ln D from which on the two exponents cannot be told apart
NEGLIGIBLE = 1e-3  # of the cost of a fit: such differences are the search's
WIDE = 2.0  # an exponent or a floor whose interval spans more than this factor is called loose


class ScalingError(LolmError):
    """Points that carry no fit."""


@dataclass(frozen=True)
class Law:
    """L(N, D) = floor + a N^-alpha + b D^-beta in nats, at a training cost of kappa N^gamma D FLOPs."""

    floor: float
    a: float
    alpha: float
    b: float
    beta: float
    kappa: float = 6.0
    gamma: float = 1.0

    def loss(self, parameters: float, tokens: float) -> float:
        return self._loss(math.log(parameters), math.log(tokens))

    def optimum(self, flops: float) -> tuple[float, float]:
        """(N, D) of least loss at a training cost: alpha A N^-alpha = gamma beta B D^-beta."""
        log_n, log_d = self._optimum(flops)
        return _exp(log_n), _exp(log_d)

    def best(self, flops: float) -> float:
        """Least loss at a training cost, nats."""
        return self._loss(*self._optimum(flops))

    def compute(self, nats: float) -> float:
        """Least training FLOPs that reach a loss; infinite where it is not above the floor."""
        if nats <= self.floor:
            return math.inf
        power = self.alpha * self.beta / (self.alpha + self.gamma * self.beta)
        return _exp(math.log((self.best(1.0) - self.floor) / (nats - self.floor)) / power)

    # In logarithms: draws of a bootstrap have exponents that take N and D beyond all numbers.

    def _loss(self, log_n: float, log_d: float) -> float:
        return self.floor + _exp(math.log(self.a) - self.alpha * log_n) + _exp(math.log(self.b) - self.beta * log_d)

    def _optimum(self, flops: float) -> tuple[float, float]:
        log_c = math.log(flops / self.kappa)
        ratio = math.log(self.alpha * self.a / (self.gamma * self.beta * self.b))
        log_n = (ratio + self.beta * log_c) / (self.alpha + self.gamma * self.beta)
        return log_n, log_c - self.gamma * log_n


def _exp(x: float) -> float:
    return math.exp(x) if x < 700 else math.inf


@dataclass(frozen=True)
class Fit:
    """The law of one arm.

    Attributes:
        replicates: draws of the bootstrap, paired between arms; empty where no size has two seeds.
        freedom: degrees of freedom of the noise: runs less sizes, over sizes with at least two.
        noise, misfit: of ln L, standard deviation over seeds, and root mean square of means over seeds against the law.
        form: p value of the test that noise alone makes such a misfit; None without noise.
        cost: of the fit, the sum of Huber losses over the square of the threshold.
    """

    arm: str
    points: tuple[BudgetPoint, ...]
    law: Law
    replicates: tuple[Law, ...]
    freedom: int
    noise: float | None
    misfit: float
    form: float | None
    cost: float
    confidence: float

    def interval(self, name: str) -> tuple[float, float] | None:
        """Percentile interval of a parameter of the law."""
        return percentiles([getattr(law, name) for law in self.replicates], self.confidence)

    @property
    def loose(self) -> tuple[str, ...]:
        """What these points hardly fix: of floor, alpha and beta, those without an interval or with one wider than WIDE."""
        ends = {name: self.interval(name) for name in ("floor", "alpha", "beta")}
        return tuple(name for name, end in ends.items() if end is None or end[1] > WIDE * end[0])


def collect(results: Iterable[ScaleResults]) -> tuple[BudgetPoint, ...]:
    """Every end of schedule whose test loss was scored, of every run at several scales, on the text of the final loss."""
    return tuple(
        BudgetPoint(
            run.arm,
            r.scale,
            run.seed,
            run.header.parameters.total,
            end.tokens,
            end.flops,
            nats,
            run.header.run.size.learning_rate,
            run.fingerprint,
        )
        for r in results
        for run in r.runs
        if run.evaluation is not None
        for end, nats in zip(run.evaluation.schedule_ends, (run.annealed("test") or ((), ()))[1], strict=True)
    )


def fit_laws(
    points: Sequence[BudgetPoint],
    *,
    confidence: float = 0.95,
    threshold: float = 1e-3,
    replicates: int = 400,
    seed: int = 0,
    shared: bool = False,
) -> tuple[dict[str, Fit], dict[str, str]]:
    """The law of every arm, and why an arm has none.

    Args:
        threshold: residual of ln L from which on the Huber loss is linear.
        shared: one floor E for all arms: they read the same text.

    Raises:
        ScalingError: a loss, or a cost, that is not positive and finite.
    """
    if any(not (math.isfinite(p.nats) and min(p.nats, p.parameters, p.tokens, p.flops) > 0) for p in points):
        raise ScalingError("losses, parameters, tokens and FLOPs must be positive and finite")
    of = {arm: tuple(p for p in points if p.arm == arm) for arm in dict.fromkeys(p.arm for p in points)}
    refused = {arm: why for arm, mine in of.items() if (why := _refused(mine))}
    fitted = {arm: mine for arm, mine in of.items() if arm not in refused}
    groups = [tuple(fitted)] if shared and fitted else [(arm,) for arm in fitted]
    noise = _Noise(fitted, replicates, seed)
    fits: dict[str, Fit] = {}
    for group in groups:
        cells = [cell for arm in group for cell in _cells(fitted[arm])]
        arm, weight = np.array([group.index(c.arm) for c in cells]), np.array([len(c.seeds) for c in cells])
        x_n, x_d = (np.log([getattr(c, name) for c in cells]) for name in ("parameters", "tokens"))
        y, centre = np.array([c.log_nats for c in cells]), np.array([x_n.mean(), x_d.mean()])
        data = (arm, x_n - centre[0], x_d - centre[1])
        grid = starts(y, len(group))
        found, costs = solve(grid, *data, weight, np.tile(y, (len(grid), 1)), threshold)
        best = found[costs.argmin()]
        drawn = noise.around(cells)
        residuals = y - model(best[None], *data)[0][0]
        again = np.empty((0, best.size))
        by_noise = np.empty((0, len(y)))  # residuals of losses that follow the law
        if drawn is not None:
            many = np.tile(best, (len(drawn), 1))
            again, of_law = (solve(many, *data, weight, drawn - shift, threshold)[0] for shift in (0, residuals))
            by_noise = drawn - residuals - model(of_law, *data)[0]
        for k, name in enumerate(group):
            mine, cost_of = arm == k, _cost(fitted[name])
            laws = [_law(theta, k, centre, *cost_of) for theta in (best, *again)]
            misfit = math.sqrt(np.mean(np.square(residuals[mine])))
            cost = float(huber(residuals[mine], threshold) @ weight[mine])
            worse = huber(by_noise[:, mine], threshold) @ weight[mine] >= cost - NEGLIGIBLE
            form = (1 + int(worse.sum())) / (1 + len(worse)) if len(worse) else None
            freedom, spread = noise.freedom[name], noise.spread(name)
            fits[name] = Fit(name, fitted[name], laws[0], tuple(laws[1:]), freedom, spread, misfit, form, cost, confidence)
    return {arm: fits[arm] for arm in fitted}, refused


def _refused(points: Sequence[BudgetPoint]) -> str | None:
    sizes, tokens = {p.scale for p in points}, {p.tokens for p in points}
    if len(sizes) < LEAST or len(tokens) < LEAST:
        found = f"{_count(len(sizes), 'size')} and {_count(len(tokens), 'number')} of tokens"
        return f"{found}; a law of both needs at least {LEAST} of each"
    x, y = np.log([p.parameters for p in points]), np.log([p.tokens for p in points])
    if abs(np.corrcoef(x, y)[0, 1]) > COLLINEAR:
        return "parameters and tokens grow together, so that their exponents cannot be told apart"
    return None if _cost(points)[1] > 0 else "its training FLOPs a token do not grow with its size"


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def multiplier(baseline: Law, subject: Law, flops: float) -> float:
    """What the baseline needs for the subject's least loss at ``flops``, over ``flops``; both on their compute-optimal paths."""
    return baseline.compute(subject.best(flops)) / flops


def contrast(baseline: Fit, subject: Fit, read) -> Estimate:
    """A number of two laws, ``read(baseline, subject)``, with its bootstrap interval; ``n``: number of the subject's runs."""
    draws = [read(b, s) for b, s in zip(baseline.replicates, subject.replicates, strict=False)]
    runs = len({(p.scale, p.seed) for p in subject.points})
    return Estimate(read(baseline.law, subject.law), percentiles(draws, subject.confidence), runs, (), subject.confidence)


def tenfold(low: float, high: float):
    """How the multiplier changes when compute grows tenfold, as a mean from ``low`` to ``high`` FLOPs: 1 if it does not."""

    def read(baseline: Law, subject: Law) -> float:
        first, last = (multiplier(baseline, subject, flops) for flops in (low, high))
        if math.isinf(first):
            return math.nan if math.isinf(last) else 0.0
        return math.inf if math.isinf(last) else 10 ** (math.log(last / first) / math.log(high / low))

    return read


def common_range(fits: Iterable[Fit]) -> tuple[float, float]:
    """The training FLOPs that all of the fits measured."""
    flops = [[p.flops for p in fit.points] for fit in fits]
    return max(map(min, flops)), min(map(max, flops))


def inside(fit: Fit, flops: float) -> bool:
    """Whether the best size and tokens at a compute lie within those that were measured."""
    found = zip(fit.law.optimum(flops), ("parameters", "tokens"), strict=True)
    return all(min(v := [getattr(p, name) for p in fit.points]) <= x <= max(v) for x, name in found)


def percentiles(values: Sequence[float], confidence: float) -> tuple[float, float] | None:
    """Percentile interval of bootstrap draws, whose ends may be infinite; None without draws or with one that is no number."""
    if not values or any(map(math.isnan, values)):
        return None
    low, high = np.quantile(values, (0.5 - confidence / 2, 0.5 + confidence / 2), method="nearest")
    return float(low), float(high)


def _law(theta: np.ndarray, k: int, centre: np.ndarray, kappa: float, gamma: float) -> Law:
    log_a, alpha, log_b, beta = theta[1 + 4 * k : 5 + 4 * k]
    a, b = math.exp(log_a + alpha * centre[0]), math.exp(log_b + beta * centre[1])
    return Law(math.exp(theta[0]), a, float(alpha), b, float(beta), kappa, gamma)


def _cost(points: Sequence[BudgetPoint]) -> tuple[float, float]:
    """kappa and gamma of C = kappa N^gamma D by least squares over sizes; the accounting knows the sizes' own exactly."""
    each = {p.parameters: p.flops / p.tokens for p in points}
    gamma, log_kappa = np.polyfit(np.log(list(each)), np.log(list(each.values())), 1)
    return math.exp(log_kappa), float(gamma)


class _Cell(NamedTuple):
    """One size and end of schedule of an arm; mean of ln L over its seeds."""

    arm: str
    scale: str
    parameters: int
    tokens: int
    seeds: tuple[int, ...]
    log_nats: float


def _cells(points: Sequence[BudgetPoint]) -> list[_Cell]:
    found: dict[tuple[str, int], list[BudgetPoint]] = {}
    for p in points:
        found.setdefault((p.scale, p.tokens), []).append(p)
    return [
        _Cell(of[0].arm, scale, of[0].parameters, tokens, tuple(p.seed for p in of), float(np.mean(np.log([p.nats for p in of]))))
        for (scale, tokens), of in found.items()
    ]


class _Noise:
    """What the bootstrap draws: see the top of this module."""

    def __init__(self, points: Mapping[str, Sequence[BudgetPoint]], replicates: int, seed: int) -> None:
        runs = dict.fromkeys((p.scale, p.seed) for mine in points.values() for p in mine)
        draw = np.random.default_rng(seed)
        self._rows = {run: i for i, run in enumerate(runs)}
        self._weights = draw.standard_normal((replicates, len(runs), len(runs)))
        self._level = draw.uniform(size=replicates)
        self._residuals: dict[str, np.ndarray] = {}  # by arm (runs, ends): zero for runs that it lacks, or that are alone
        self.freedom: dict[str, int] = {}
        for arm, mine in points.items():
            ends = sorted({p.tokens for p in mine})
            log_l = np.full((len(runs), len(ends)), np.nan)
            for p in mine:
                log_l[self._rows[p.scale, p.seed], ends.index(p.tokens)] = math.log(p.nats)
            residuals, freedom = np.zeros_like(log_l), 0
            for scale in {p.scale for p in mine}:
                rows = [i for run, i in self._rows.items() if run[0] == scale and np.isfinite(log_l[i]).all()]
                if len(rows) > 1:
                    residuals[rows] = log_l[rows] - log_l[rows].mean(axis=0)
                    freedom += len(rows) - 1
            self._residuals[arm], self.freedom[arm] = residuals, freedom

    def spread(self, arm: str) -> float | None:
        residuals, freedom = self._residuals[arm], self.freedom[arm]
        return math.sqrt(float(np.square(residuals).sum()) / freedom / residuals.shape[1]) if freedom else None

    def around(self, cells: Sequence[_Cell]) -> np.ndarray | None:
        """(R, P) draws of ln L: the mean of each cell, and the mean noise of its runs; None if an arm has no spread."""
        from scipy.stats import chi2

        arms = dict.fromkeys(cell.arm for cell in cells)
        if any(self.freedom[arm] == 0 for arm in arms):
            return None
        drawn, ends = {}, {arm: sorted({c.tokens for c in cells if c.arm == arm}) for arm in arms}
        for arm in arms:
            level = np.sqrt(chi2.ppf(self._level, self.freedom[arm]))
            drawn[arm] = np.einsum("rij,je->rie", self._weights, self._residuals[arm]) / level[:, None, None]
        columns = []
        for c in cells:
            rows = [self._rows[c.scale, seed] for seed in c.seeds]
            columns.append(c.log_nats + drawn[c.arm][:, rows, ends[c.arm].index(c.tokens)].mean(axis=1))
        return np.stack(columns, axis=1)
