"""What an interval covers: seeds, whose variance few of them share over arms, and the text that was scored.

A number of a study has two crossed sources of chance: seeds (data order, initialisation), of which there are three or five, and
text, of which there is much but of few documents. The squared standard error of a mean over n seeds is

    V = V_seeds + max(V_text − V_both, 0)

- V_seeds: variance of the seeds' values over n. What seeds and text do together, V_both, is in it.
- V_text: variance of the mean under a bootstrap over units of text, the same draws for all runs, so that what a text does to all
  arms cancels in a difference. V_both is what the seeds' values then vary about their mean, over n (n − 1).

The interval is Student's. Its degrees of freedom f come from those of the parts, 1 / f = Σ (V_i / V) / f_i. That lies between
Satterthwaite's (V_i / V squared), which covers up to three points too little where two degrees of freedom meet many, and the rule
of Cochran and Cox, which covers two too much; no interval is narrower than that of the seeds alone. Seeds are not resampled: a
bootstrap of three values is too narrow.

**Units of text** are documents where there are enough, else blocks of a fixed length of one document. Blocks speak of other
passages of these documents; other documents differ by more in a loss, by little more in a difference of two arms.

**Pooling.** Two or three seeds tell little of a variance. With fewer than ``analysis.pool_below`` it is estimated from all arms
of the study that have the same seeds, in the two-way layout of arms and seeds: for differences the residual mean square, with
(k − 1) (n − 1) degrees of freedom, for levels the mean variance of an arm. That is right where the arms have one variance. A test
says whether these are shown to differ; then each arm keeps its own. Its statistic is Bartlett's form, arithmetic over geometric
mean, of the variances of the differences between each two arms, and its distribution under normal errors of one variance is
simulated. Differences, since a wild arm's error stands in the residuals of all arms: of three arms it leaves squares of 4 : 1 : 1
however wild it is, which Bartlett's own statistic calls more even than chance, while the difference of the two others shows it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from lolm.analysis.statistics import Estimate, t_interval
from lolm.config import AnalysisConfig
from lolm.records.results import RunRecord, ScaleResults

Read = Callable[[RunRecord], float | None]
NULL_DRAWS = 4000  # of the test of equal variances
AT_ONCE = 1_000_000  # differences of two arms that it holds


def estimate(
    own: Sequence[float],
    others: Sequence[Sequence[float]],
    analysis: AnalysisConfig,
    *,
    paired: bool,
    draws_DS: np.ndarray | None = None,
    units: float = 0,
) -> Estimate:
    """Mean over seeds with its interval.

    Args:
        own: by seed.
        others: of the other arms of the study, by the same seeds.
        paired: values are differences to one common arm, which is itself not among them.
        draws_DS: values in D draws of text, of the seeds or of two of them at least; NaN where one does not exist.
        units: effective number of units of text.
    """
    n, confidence = len(own), analysis.confidence
    if n < 2:
        return t_interval(own, confidence)
    found = _of_text(draws_DS, units, analysis.drawn_share) if draws_DS is not None and units > 1 else None

    def whole(variance: float, freedom: float, arms: int) -> Estimate:
        alone = Estimate.of_error(own, variance, freedom, confidence, arms)
        if found is None:
            return alone
        text, both = found
        with_text = Estimate.of_error(own, *_sum((variance, freedom), (max(text - both, 0.0), units - 1)), confidence, arms)
        return replace(alone.or_wider(with_text), text_error=math.sqrt(text))

    unpooled = (float(np.var(own, ddof=1)) / n, n - 1)
    pooled = _pooled(np.array(own), np.array([*others]).reshape(-1, n), analysis, paired)
    return whole(*unpooled, 1) if pooled is None else replace(whole(*pooled), own=whole(*unpooled, 1))


def _sum(*parts: tuple[float, float]) -> tuple[float, float]:
    """Sum of variances, each with its degrees of freedom."""
    total = math.fsum(variance for variance, _ in parts)
    return total, total / math.fsum(variance / freedom for variance, freedom in parts) if total else parts[0][1]


def _pooled(own: np.ndarray, others: np.ndarray, analysis: AnalysisConfig, paired: bool) -> tuple[float, float, int] | None:
    """Squared standard error of the mean over seeds, its degrees of freedom, and the number of arms it rests on; None where each
    arm keeps its own variance."""
    n = len(own)
    rows = np.vstack([own, others, np.zeros((int(paired), n))])
    k = len(rows)
    if n >= analysis.pool_below or k < 3 or equal_variances(rows) < analysis.pooling_level:
        return None
    within = float((_residuals(rows) ** 2).sum()) / ((k - 1) * (n - 1))
    if paired:
        return 2 * within / n, (k - 1) * (n - 1), k
    between = k * float(rows.mean(axis=0).var(ddof=1))
    return *_sum((between / (k * n), n - 1), ((k - 1) * within / (k * n), (k - 1) * (n - 1))), k


def equal_variances(rows_AS: np.ndarray) -> float:
    """p value of the test that A arms' values have one variance about the means of arms and seeds, in whatever order."""
    rows = rows_AS[np.lexsort(rows_AS.T)]
    return _p_of_equal_variances(rows.tobytes(), rows.shape)


@lru_cache(maxsize=1024)  # every arm of a study asks for the same ones
def _p_of_equal_variances(rows: bytes, shape: tuple[int, ...]) -> float:
    statistic = float(_unevenness(np.frombuffer(rows).reshape(1, *shape))[0])
    return float(np.mean(_null(*shape) >= statistic))


def _residuals(rows: np.ndarray) -> np.ndarray:
    centred = rows - rows.mean(axis=-1, keepdims=True)
    return centred - centred.mean(axis=-2, keepdims=True)


def _unevenness(rows_DAS: np.ndarray) -> np.ndarray:
    """Arithmetic over geometric mean of the variances of the differences between each two arms, as a logarithm: (D,)."""
    centred_DAS = rows_DAS - rows_DAS.mean(axis=-1, keepdims=True)
    first, second = np.triu_indices(rows_DAS.shape[-2], 1)
    squares_DP = ((centred_DAS[:, first] - centred_DAS[:, second]) ** 2).sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):  # where two arms do not differ, their variance is not that of the others
        return np.log(squares_DP.mean(axis=-1)) - np.log(squares_DP).mean(axis=-1)


@lru_cache(maxsize=64)
def _null(arms: int, seeds: int) -> np.ndarray:
    draws_DAS = np.random.default_rng(0).standard_normal((NULL_DRAWS, arms, seeds))
    pieces = math.ceil(draws_DAS.size * (arms - 1) / 2 / AT_ONCE)  # of many arms there are very many pairs
    return np.concatenate([_unevenness(piece) for piece in np.array_split(draws_DAS, min(pieces, NULL_DRAWS))])


def _of_text(draws_DS: np.ndarray, units: float, least: float) -> tuple[float, float] | None:
    """V_text and V_both; None where less than a share ``least`` of the draws has a value."""
    exist = np.isfinite(draws_DS).all(axis=1)
    if exist.mean() < least:
        return None
    draws_DS = draws_DS[exist]
    n, correction = draws_DS.shape[1], units / (units - 1)  # a bootstrap's variance is that of the sample, not of the source
    mean_D1 = draws_DS.mean(axis=1, keepdims=True)
    both = (draws_DS - mean_D1).var(axis=0, ddof=1).sum() / (n * (n - 1))
    return float(mean_D1.var(ddof=1)) * correction, float(both) * correction


class TextSample:
    """Draws of the text that some runs were scored on, the same for all of them.

    Attributes:
        unit: ``documents`` or ``blocks``.
        units: effective number, (Σ t)² / Σ t² of their tokens.
    """

    def __init__(self, runs: Sequence[RunRecord], analysis: AnalysisConfig) -> None:
        first = runs[0].text
        assert first is not None
        document, piece = np.array(first.document), np.array(first.piece)
        tokens = np.array(first.tokens, dtype=float)
        self.unit, index = "documents", np.unique(document, return_inverse=True)[1].ravel()
        if effective(np.bincount(index, tokens)) < analysis.least_documents:
            block = piece * first.piece_tokens // analysis.block_tokens
            self.unit, index = "blocks", np.unique(np.stack([document, block]), axis=1, return_inverse=True)[1].ravel()
        self._index, self._tokens = index, np.bincount(index, tokens)
        self._bytes, self._subset = np.bincount(index, first.bytes), np.bincount(index, first.subset_tokens)
        self.units = effective(self._tokens)
        self._weights_DU = text_weights(len(self._tokens), analysis.bootstrap_draws, analysis.bootstrap_seed)

    @classmethod
    def of(cls, runs: Sequence[RunRecord], analysis: AnalysisConfig) -> TextSample | None:
        """None where a run has no losses by piece, or not of the same text as the others."""
        texts = [run.text for run in runs]
        if None in texts or not texts:
            return None
        same = len({(t.documents, t.piece_tokens, t.document, t.piece, t.tokens, t.subset_tokens) for t in texts if t}) == 1
        return cls(runs, analysis) if same else None

    def _mean(self, nats: Sequence[float], over: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return (self._weights_DU @ np.bincount(self._index, nats)) / (self._weights_DU @ over)

    def final(self, run: RunRecord, per: str = "tokens") -> np.ndarray:
        """(D,) test loss of the final weights: nats a token, or bits a byte."""
        assert run.text is not None
        return self._mean(run.text.nats, self._tokens if per == "tokens" else self._bytes * math.log(2))

    def ends(self, run: RunRecord, steps: Sequence[int]) -> np.ndarray:
        """(D, E) nats a token at ends of schedules, as :meth:`RunRecord.annealed` has them."""
        assert run.text is not None
        means = {int(step): self._mean(nats, self._subset) for step, nats in run.text.ends.items()}
        rest = self.final(run) - means[max(means)]
        return np.stack([means[step] + rest for step in steps], axis=1)


def effective(tokens: np.ndarray) -> float:
    """How many units of equal length are worth these."""
    return float(tokens.sum() ** 2 / (tokens**2).sum())


@lru_cache(maxsize=8)
def text_weights(units: int, draws: int, seed: int) -> np.ndarray:
    """(D, U) how often each unit of text is drawn, the same for all that asks with these numbers."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(units, np.full(units, 1 / units), size=draws).astype(float)


# ---------------------------------------------------------------------------------------------- numbers of a study

Draws = Callable[[TextSample, RunRecord], np.ndarray]  # a run's (D,) values in draws of text


def level(results: ScaleResults, arm: str, read: Read, draws: Draws | None = None) -> Estimate | None:
    """Mean of an arm over seeds, and text with ``draws``; None where a run lacks it."""
    runs = results.of(arm)
    values = [value for run in runs if (value := read(run)) is not None]
    if not values or len(values) < len(runs):
        return None
    pool = _others(results, (arm,), [run.seed for run in runs], read)
    sample = None if draws is None else TextSample.of(runs, results.analysis)
    if sample is None or draws is None:
        return estimate(values, pool, results.analysis, paired=False)
    drawn = np.stack([draws(sample, run) for run in runs], axis=1)
    return estimate(values, pool, results.analysis, paired=False, draws_DS=drawn, units=sample.units)


def difference(results: ScaleResults, arm: str, other: str, read: Read, draws: Draws | None = None) -> Estimate | None:
    """Mean of an arm minus another's, paired by seed, over seeds, and text with ``draws``; None where a run lacks it."""
    pairs = results.pairs(arm, other)
    values = [(a, b) for first, second in pairs if (a := read(first)) is not None and (b := read(second)) is not None]
    if not values or len(values) < len(pairs):
        return None
    own, reference = [a - b for a, b in values], [b for _, b in values]
    found = _others(results, (arm, other), [run.seed for run, _ in pairs], read)
    pool = [[a - b for a, b in zip(row, reference, strict=True)] for row in found]
    sample = None if draws is None else TextSample.of([run for pair in pairs for run in pair], results.analysis)
    if sample is None or draws is None:
        return estimate(own, pool, results.analysis, paired=True)
    drawn = np.stack([draws(sample, a) - draws(sample, b) for a, b in pairs], axis=1)
    return estimate(own, pool, results.analysis, paired=True, draws_DS=drawn, units=sample.units)


def _others(results: ScaleResults, leave_out: Sequence[str], seeds: Sequence[int], read: Read) -> list[list[float]]:
    """Values of each of the study's other arms that has all of these seeds."""
    found = []
    for arm in results.arms:
        by_seed = {run.seed: value for run in results.of(arm) if (value := read(run)) is not None}
        if arm not in leave_out and set(seeds) <= set(by_seed):
            found.append([by_seed[seed] for seed in seeds])
    return found


def final_loss(results: ScaleResults, arm: str) -> Estimate | None:
    """Test loss, nats a token."""
    return level(results, arm, lambda run: run.test_nats, TextSample.final)


def final_bits(results: ScaleResults, arm: str) -> Estimate | None:
    """Test loss, bits a byte."""
    return level(
        results,
        arm,
        lambda run: None if run.evaluation is None else run.evaluation.test.bits_per_byte,
        lambda sample, run: sample.final(run, "bytes"),
    )


def loss_difference(results: ScaleResults, arm: str, other: str) -> Estimate | None:
    """Test loss of an arm minus another's, nats a token, paired by seed."""
    return difference(results, arm, other, lambda run: run.test_nats, TextSample.final)
