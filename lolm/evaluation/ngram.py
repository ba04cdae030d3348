"""What counting can do: uniform, unigram and interpolated bigram losses, the yardsticks beside every neural loss.

Absolute discounting (Ney, Essen and Kneser 1994), interpolated with the lower order::

    p(w | v) = max(c(v, w) - d, 0) / c(v) + d N1+(v, .) / c(v) * p(w)        d = n1 / (n1 + 2 n2)
    p(w)     = max(c(w) - d', 0) / c     + d' N1+(.) / c     * 1 / V

n1 and n2 are how many distinct events were seen once and twice, N1+ how many distinct ones follow. So every token has a
probability, and a model that was estimated on the tokens a run trained on is a floor which that run must beat.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from lolm.data.batches import BatchSampler, EvaluationSet
from lolm.data.errors import DataError
from lolm.data.stream import TokenStream
from lolm.records.schema import References

CHUNK = 8_388_608  # tokens counted at a time


class Bigram:
    """Interpolated bigram over ``vocab_size`` ids with its unigram, estimated on ranges of a token stream.

    Args:
        stream: tokens to count.
        spans: (n, 2) disjoint [start, stop) ranges of target positions; each target is counted with the token before it, so
            a range starts at 1 or later.

    Raises:
        DataError: the ranges hold no token.
    """

    def __init__(self, stream: TokenStream, spans: np.ndarray) -> None:
        self.vocab_size = v = stream.vocab_size
        counts = np.zeros(v, dtype=np.int64)
        keys = np.zeros(0, dtype=np.int64)  # prev * V + next, sorted
        values = np.zeros(0, dtype=np.int64)
        for previous, following in _pairs(stream, spans):
            counts += np.bincount(following, minlength=v)
            new_keys, new_values = np.unique(previous * v + following, return_counts=True)
            keys, values = _add_counts(keys, values, new_keys, new_values)
        self.n_tokens = int(counts.sum())
        if not self.n_tokens:
            raise DataError("no training tokens to estimate the n-gram references on")
        self._keys, self._values = keys, values

        d = discount(counts[counts > 0])
        self.unigram = np.maximum(counts - d, 0) / self.n_tokens + d * np.count_nonzero(counts) / self.n_tokens / v  # (V,)
        self._discount = discount(values)
        contexts = keys // v
        self._context = np.bincount(contexts, weights=values, minlength=v)  # (V,) c(v)
        self._types = np.bincount(contexts, minlength=v)  # (V,) N1+(v, .)

    def probability(self, previous: np.ndarray, following: np.ndarray) -> np.ndarray:
        """p(following | previous), elementwise over two arrays of ids of one shape."""
        keys = previous * self.vocab_size + following
        at = np.searchsorted(self._keys, keys).clip(max=len(self._keys) - 1)
        count = np.where(self._keys[at] == keys, self._values[at], 0)
        context = self._context[previous]
        seen = context > 0
        context = np.where(seen, context, 1)
        weight = np.where(seen, self._discount * self._types[previous] / context, 1.0)
        return np.maximum(count - self._discount, 0) / context + weight * self.unigram[following]

    def losses(self, evaluation: EvaluationSet) -> dict[str, float]:
        """Mean nats per scored token of an evaluation set: ``unigram`` and ``bigram``."""
        unigram = bigram = 0.0
        for window in evaluation.windows():
            unigram -= float(np.log(self.unigram[window[1:]]).sum())
            bigram -= float(np.log(self.probability(window[:-1], window[1:])).sum())
        return {"unigram": unigram / evaluation.n_tokens, "bigram": bigram / evaluation.n_tokens}


def discount(counts: np.ndarray) -> float:
    """Absolute discount n1 / (n1 + 2 n2) of the counts of distinct events, kept within [0.1, 0.95].

    Small vocabularies on much text have no event seen once; the lower bound then still leaves mass for what was never seen.
    """
    n1, n2 = int(np.count_nonzero(counts == 1)), int(np.count_nonzero(counts == 2))
    return min(max(n1 / (n1 + 2 * n2), 0.1), 0.95) if n1 else 0.1


def reference_losses(sampler: BatchSampler, batches: int, evaluations: dict[str, EvaluationSet]) -> dict[str, References]:
    """References of a run that trained on the sampler's first ``batches`` batches, on each named evaluation set.

    Unigram and bigram are estimated on the tokens that the run trained on, ``bigram_all_text`` on the whole training split.
    """
    stream = sampler.stream
    trained = Bigram(stream, sampler.seen_spans(batches))
    whole = Bigram(stream, np.array([[1, len(stream)]]))
    return {
        name: References(
            uniform=math.log(stream.vocab_size),
            **trained.losses(evaluation),
            bigram_all_text=whole.losses(evaluation)["bigram"],
        )
        for name, evaluation in evaluations.items()
    }


def _pairs(stream: TokenStream, spans: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The targets of the ranges and the token before each, about CHUNK at a time: two (n,) int64 arrays."""
    previous: list[np.ndarray] = []
    following: list[np.ndarray] = []
    size = 0
    for start, stop in np.asarray(spans).tolist():
        for first in range(start, stop, CHUNK):
            tokens = stream.window(first - 1, min(CHUNK, stop - first) + 1)
            previous.append(tokens[:-1])
            following.append(tokens[1:])
            size += len(tokens) - 1
            if size >= CHUNK:
                yield np.concatenate(previous), np.concatenate(following)
                previous, following, size = [], [], 0
    if size:
        yield np.concatenate(previous), np.concatenate(following)


def _add_counts(
    keys: np.ndarray, values: np.ndarray, new_keys: np.ndarray, new_values: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sum of two sparse tables of counts, each with sorted distinct keys."""
    merged = np.union1d(keys, new_keys)
    total = np.zeros(len(merged), dtype=np.int64)
    total[np.searchsorted(merged, keys)] += values
    total[np.searchsorted(merged, new_keys)] += new_values
    return merged, total
