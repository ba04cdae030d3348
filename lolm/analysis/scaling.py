"""Loss as a function of parameters N and training tokens D, one law for each arm, and what it says of two arms.

    L(N, D) = E + A N^-alpha + B D^-beta                                  (Hoffmann et al., arXiv 2203.15556, approach 3)

is fitted to the test losses at every end of schedule by the least *sum* of Huber losses of ln L (a mean ends the search early and
makes intervals too narrow: Besiroglu et al., arXiv 2404.10102), from a grid of starts. With an arm's training cost
C = kappa N^gamma D the loss along its compute-optimal path is E + K C^-p, p = alpha beta / (alpha + gamma beta), and the compute
multiplier between two arms at a compute C of the first is what the second needs for the same loss, over C.

Intervals are a bootstrap over runs. A run's ends of schedule share its noise, so what is drawn for a run is a whole vector of
residuals: a random combination of those of all runs, each against the mean of its own size, which pools their covariance over
sizes; all arms of one size and seed get the same combination, so that what a data order does to both cancels in a contrast. Few
runs fix that covariance badly, so each draw also has a chi-squared scale of their degrees of freedom: where the law is nearly
linear this is Student's t. The intervals speak of other seeds given this form; ``misfit`` says how badly the form fits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lolm import LolmError
from lolm.analysis.statistics import Estimate
from lolm.records.results import ScaleResults

LEAST = 3  # different sizes, and different numbers of tokens: fewer cannot tell E from A and alpha
COLLINEAR = 0.98  # correlation of ln N with ln D from which on the two exponents cannot be told apart
EXPONENTS, FLOORS = (0.01, 3.0), (0.02, 1.0)  # ranges of the search; that of E as a share of the lowest loss
WIDE = 2.0  # an exponent or a floor whose interval spans more than this factor is called loose
ITERATIONS = 100


class ScalingError(LolmError):
    """Points that carry no fit, or results that cannot be compared."""


@dataclass(frozen=True)
class Point:
    """Test loss (nats a token) where a schedule of one run ended; parameters, training tokens and training FLOPs by then."""

    arm: str
    scale: str
    seed: int
    parameters: int
    tokens: int
    flops: float
    nats: float


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
        return self.floor + self.a * parameters**-self.alpha + self.b * tokens**-self.beta

    def optimum(self, flops: float) -> tuple[float, float]:
        """(N, D) of least loss at a training cost: alpha A N^-alpha = gamma beta B D^-beta."""
        ratio = self.alpha * self.a / (self.gamma * self.beta * self.b) * (flops / self.kappa) ** self.beta
        parameters = ratio ** (1 / (self.alpha + self.gamma * self.beta))
        return parameters, flops / (self.kappa * parameters**self.gamma)

    def best(self, flops: float) -> float:
        """Least loss at a training cost, nats."""
        return self.loss(*self.optimum(flops))

    def compute(self, nats: float) -> float:
        """Least training FLOPs that reach a loss; infinite where it is not above the floor."""
        if nats <= self.floor:
            return math.inf
        power = self.alpha * self.beta / (self.alpha + self.gamma * self.beta)
        return ((self.best(1.0) - self.floor) / (nats - self.floor)) ** (1 / power)


@dataclass(frozen=True)
class Fit:
    """The law of one arm.

    Attributes:
        replicates: of the bootstrap; draws of one seed are paired between arms. Empty where no size has two seeds.
        freedom: degrees of freedom of the noise: runs less sizes, over sizes with at least two.
        noise: standard deviation over seeds of ln L of one run, pooled.
        misfit: root mean square of ln L averaged over seeds against the law, over sizes and ends of schedule.
        cost: of the fit, the sum of Huber losses over the square of the threshold.
    """

    arm: str
    points: tuple[Point, ...]
    law: Law
    replicates: tuple[Law, ...]
    freedom: int
    noise: float | None
    misfit: float
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


def collect(results: Iterable[ScaleResults]) -> tuple[Point, ...]:
    """Every end of schedule whose test loss was scored, of every run at several scales.

    Raises:
        ScalingError: scales differ in corpus, tokenizer or window, so that their losses do not compare.
    """
    results = list(results)
    texts = [_text(r) for r in results]
    for found, other in zip(results[1:], texts[1:], strict=True):
        if other != texts[0]:
            raise ScalingError(
                f"scales {results[0].scale!r} and {found.scale!r} differ in corpus, tokenizer or seq_len: their losses do not compare"
            )
    return tuple(
        Point(run.arm, r.scale, run.seed, run.header.parameters.total, end.tokens, end.flops, end.test.nats)
        for r in results
        for run in r.runs
        if run.evaluation is not None
        for end in run.evaluation.schedule_ends
    )


def _text(results: ScaleResults):
    preset = results.params.scales[results.scale]
    return preset.corpus, preset.tokenizer, preset.training.seq_len


def fit_laws(
    points: Sequence[Point],
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
        own = [p for arm in group for p in fitted[arm]]
        arm = np.array([group.index(p.arm) for p in own])
        x_n, x_d, y = (np.log([getattr(p, name) for p in own]) for name in ("parameters", "tokens", "nats"))
        centre = np.array([x_n.mean(), x_d.mean()])
        data = (arm, x_n - centre[0], x_d - centre[1])
        starts = _starts(y, len(group))
        found, costs = _solve(starts, *data, np.tile(y, (len(starts), 1)), threshold)
        best = found[costs.argmin()]
        drawn = noise.around_means(own)
        again = np.empty((0, len(best))) if drawn is None else _solve(np.tile(best, (len(drawn), 1)), *data, drawn, threshold)[0]
        fitted_y = _model(best[None], *data)[0][0]
        for k, name in enumerate(group):
            mine = arm == k
            kappa, gamma = _cost(fitted[name])
            laws = [_law(theta, k, centre, kappa, gamma) for theta in (best, *again)]
            misfit = math.sqrt(np.mean(np.square(_cells(own, y - fitted_y, mine))))
            cost = float(_huber(y[mine] - fitted_y[mine], threshold).sum())
            freedom, spread = noise.freedom[name], noise.spread(name)
            fits[name] = Fit(name, fitted[name], laws[0], tuple(laws[1:]), freedom, spread, misfit, cost, confidence)
    return {arm: fits[arm] for arm in fitted}, refused


def _refused(points: Sequence[Point]) -> str | None:
    sizes, tokens = {p.scale for p in points}, {p.tokens for p in points}
    if len(sizes) < LEAST or len(tokens) < LEAST:
        return f"{len(sizes)} sizes and {len(tokens)} numbers of tokens; a law of both needs at least {LEAST} of each"
    x, y = np.log([p.parameters for p in points]), np.log([p.tokens for p in points])
    if abs(np.corrcoef(x, y)[0, 1]) > COLLINEAR:
        return "parameters and tokens grow together, so that their exponents cannot be told apart"
    return None


def multiplier(baseline: Law, subject: Law, flops: float) -> float:
    """Compute of the baseline to the subject's least loss at ``flops``, over ``flops``; both on their compute-optimal paths."""
    return baseline.compute(subject.best(flops)) / flops


def contrast(baseline: Fit, subject: Fit, read) -> Estimate:
    """A number of two laws, ``read(baseline, subject)``, with its bootstrap interval; ``n`` is the number of the subject's runs."""
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
    """Percentile interval of bootstrap draws, of which an end may be infinite; None without draws or with one that is no number."""
    if not values or any(map(math.isnan, values)):
        return None
    low, high = np.quantile(values, (0.5 - confidence / 2, 0.5 + confidence / 2), method="nearest")
    return float(low), float(high)


# ------------------------------------------------------------------------------------------------ the least Huber loss


def _model(theta_RM: np.ndarray, arm_P: np.ndarray, n_P: np.ndarray, d_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ln L and its Jacobian, (R, P) and (R, P, M); theta is ln E, then ln A, alpha, ln B, beta of each arm, M = 1 + 4 arms."""
    k = 1 + 4 * arm_P
    terms = np.stack(
        np.broadcast_arrays(
            theta_RM[:, :1], theta_RM[:, k] - theta_RM[:, k + 1] * n_P, theta_RM[:, k + 2] - theta_RM[:, k + 3] * d_P
        )
    )
    y_RP = np.logaddexp.reduce(terms)
    e, a, b = np.exp(terms - y_RP)
    jacobian, rows = np.zeros((*y_RP.shape, theta_RM.shape[1])), np.arange(len(k))
    jacobian[:, :, 0] = e
    for column, value in enumerate((a, -a * n_P, b, -b * d_P)):
        jacobian[:, rows, k + column] = value
    return y_RP, jacobian


def _huber(residuals: np.ndarray, threshold: float) -> np.ndarray:
    """In units of the threshold, so that a sum of it is of order one."""
    size = np.abs(residuals) / threshold
    return np.where(size < 1, size**2 / 2, size - 0.5)


def _solve(
    theta: np.ndarray, arm: np.ndarray, n: np.ndarray, d: np.ndarray, y: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Levenberg and Marquardt's steps on reweighted squares, for R problems at once: (R, M) parameters, (R,) costs."""
    lowest = y.min(axis=1)
    exponents = np.arange(2, theta.shape[1], 2)

    def within(theta: np.ndarray) -> np.ndarray:
        theta = theta.copy()
        theta[:, 0] = np.clip(theta[:, 0], lowest + math.log(FLOORS[0]), lowest + math.log(FLOORS[1]))
        theta[:, exponents] = np.clip(theta[:, exponents], *EXPONENTS)
        return theta

    theta = within(theta)
    damping, diagonal = np.full(len(theta), 1e-2), np.arange(theta.shape[1])
    fitted, jacobian = _model(theta, arm, n, d)
    cost = _huber(y - fitted, threshold).sum(axis=1)
    for _ in range(ITERATIONS):
        residuals = y - fitted
        weighted = jacobian * np.minimum(1, threshold / np.maximum(np.abs(residuals), 1e-300))[..., None]
        normal, gradient = weighted.transpose(0, 2, 1) @ jacobian, weighted.transpose(0, 2, 1) @ residuals[..., None]
        normal[:, diagonal, diagonal] += damping[:, None] * normal[:, diagonal, diagonal] + 1e-12
        tried = within(theta + np.linalg.solve(normal, gradient)[..., 0])
        found, slopes = _model(tried, arm, n, d)
        costs = _huber(y - found, threshold).sum(axis=1)
        better = costs < cost
        theta = np.where(better[:, None], tried, theta)
        fitted, jacobian = np.where(better[:, None], found, fitted), np.where(better[:, None, None], slopes, jacobian)
        gained = (cost - costs)[better].max(initial=0.0)
        cost, damping = np.where(better, costs, cost), np.clip(damping * np.where(better, 0.3, 4.0), 1e-9, 1e9)
        if gained < 1e-9 and (damping[~better] > 1e3).all():
            break
    return theta, cost


def _starts(y: np.ndarray, arms: int) -> np.ndarray:
    """A grid over E and both exponents; A and B share what is left of the mean loss at the middle of N and D."""
    lowest, mean = math.exp(y.min()), math.exp(y.mean())
    rows = []
    for share in (0.1, 0.4, 0.7, 0.9):
        left = math.log((mean - share * lowest) / 2)
        for alpha in (0.1, 0.3, 0.8):
            rows += [[math.log(share * lowest), *((left, alpha, left, beta) * arms)] for beta in (0.1, 0.3, 0.8)]
    return np.array(rows)


def _law(theta: np.ndarray, k: int, centre: np.ndarray, kappa: float, gamma: float) -> Law:
    log_a, alpha, log_b, beta = theta[1 + 4 * k : 5 + 4 * k]
    a, b = math.exp(log_a + alpha * centre[0]), math.exp(log_b + beta * centre[1])
    return Law(math.exp(theta[0]), a, float(alpha), b, float(beta), kappa, gamma)


def _cost(points: Sequence[Point]) -> tuple[float, float]:
    """kappa and gamma of C = kappa N^gamma D by least squares over sizes; the accounting knows the sizes' own exactly."""
    each = {p.parameters: p.flops / p.tokens for p in points}
    gamma, log_kappa = np.polyfit(np.log(list(each)), np.log(list(each.values())), 1)
    return math.exp(log_kappa), float(gamma)


def _cells(points: Sequence[Point], values: np.ndarray, mine: np.ndarray) -> list[float]:
    """Means over seeds, a size and an end of schedule each."""
    cells: dict[tuple[str, int], list[float]] = {}
    for point, value, own in zip(points, values, mine, strict=True):
        if own:
            cells.setdefault((point.scale, point.tokens), []).append(float(value))
    return [math.fsum(cell) / len(cell) for cell in cells.values()]


class _Noise:
    """What the bootstrap draws: see the top of this module."""

    def __init__(self, points: Mapping[str, Sequence[Point]], replicates: int, seed: int) -> None:
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

    def around_means(self, points: Sequence[Point]) -> np.ndarray | None:
        """(R, P) draws of ln L: the mean over seeds of each size and end, and a run's noise; None if an arm has no spread."""
        from scipy.stats import chi2

        if any(self.freedom[arm] == 0 for arm in {p.arm for p in points}):
            return None
        columns, means = [], {}
        for p in points:
            means.setdefault((p.arm, p.scale, p.tokens), []).append(math.log(p.nats))
        ends = {arm: sorted({p.tokens for p in points if p.arm == arm}) for arm in {p.arm for p in points}}
        scale = {arm: 1 / np.sqrt(chi2.ppf(self._level, self.freedom[arm])) for arm in ends}
        drawn = {arm: np.einsum("rij,je->rie", self._weights, self._residuals[arm]) * scale[arm][:, None, None] for arm in ends}
        for p in points:
            mean = means[p.arm, p.scale, p.tokens]
            noise = drawn[p.arm][:, self._rows[p.scale, p.seed], ends[p.arm].index(p.tokens)]
            columns.append(math.fsum(mean) / len(mean) + noise)
        return np.stack(columns, axis=1)
