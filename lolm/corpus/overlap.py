"""How much of each held-out document also stands in the training split.

Exact duplicates are dropped before the split; this finds what they miss: editions, quotations, boilerplate. The measure is the
share of a document's distinct 8-word sequences (lower case, punctuation ignored) that occur anywhere in the training split.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import repeat
from typing import Any

import numpy as np

NGRAM = 8  # words
LIMIT_BYTES = 25_000_000  # text of a held-out split that is indexed; more adds little to what the figures say
PIECE = 1_000_000  # characters of a document that are compared at a time
_SPACE = re.compile(r"\s")
_WORD = re.compile(r"[^\W_]+")


class OverlapIndex:
    """Index of held-out documents, against which training documents are compared one at a time."""

    def __init__(self) -> None:
        self._ids: list[tuple[str, str, int]] = []  # (id, split, words)
        self._words: dict[str, int] = {}
        self._grams: list[np.ndarray] = []  # distinct sequence hashes of each document, sorted
        self._bytes: Counter[str] = Counter()
        self._skipped = 0
        self._rng = np.random.default_rng(8)
        self._codes = np.zeros(1, dtype=np.uint64)  # code 0: a word no held-out document has
        self._all: np.ndarray | None = None

    def add(self, identity: str, split: str, text: str) -> None:
        """Index a held-out document."""
        if self._bytes[split] + len(text) > LIMIT_BYTES:
            self._skipped += 1
            return
        self._bytes[split] += len(text)
        numbers = np.fromiter((self._words.setdefault(w, len(self._words) + 1) for w in _words(text)), dtype=np.int64)
        grown = len(self._words) + 1 - len(self._codes)
        self._codes = np.concatenate([self._codes, self._rng.integers(1, 2**64, size=grown, dtype=np.uint64)])
        self._ids.append((identity, split, len(numbers)))
        self._grams.append(np.unique(_hashes(self._codes[numbers])))
        self._all = None

    def compare(self, identity: str, text: str) -> None:
        """Note which indexed sequences a training document has."""
        if self._all is None:
            self._prepare()
        assert self._all is not None
        if not len(self._all):
            return
        found, numbers = [], np.zeros(0, dtype=np.int64)
        for piece in _pieces(text):
            more = np.fromiter(map(self._words.get, _words(piece), repeat(0)), dtype=np.int64)
            numbers = np.concatenate([numbers[1 - NGRAM :], more])  # with the sequences that begin in the piece before
            found.append(self._places_of(numbers))
        matched = np.unique(np.concatenate(found))
        self._found[matched] = True
        # A passage that many held-out documents have is counted in each: once for all its sequences, whose owners are the same.
        passages, sizes = np.unique(self._passages[matched], return_counts=True)
        starts, lengths = self._starts[passages], self._starts[passages + 1] - self._starts[passages]
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        owners = self._owners[np.repeat(starts, lengths) + within]
        shares = np.bincount(owners, weights=np.repeat(sizes, lengths), minlength=len(self._lengths)) / self._lengths
        for document in np.flatnonzero(shares > self._share):
            self._share[document], self._nearest[document] = shares[document], identity

    def _places_of(self, numbers: np.ndarray) -> np.ndarray:
        """Distinct places in the index of the sequences in a training document's words, (words,) numbers of them."""
        assert self._all is not None
        grams = _hashes(self._codes[numbers])
        if len(numbers) >= NGRAM:  # a sequence with an unknown word cannot match
            grams = grams[np.lib.stride_tricks.sliding_window_view(numbers, NGRAM).all(axis=1)]
        at = np.searchsorted(self._all, grams).clip(max=len(self._all) - 1)
        return np.unique(at[self._all[at] == grams])

    def _prepare(self) -> None:
        self._all = np.unique(np.concatenate(self._grams)) if self._grams else np.zeros(0, dtype=np.uint64)
        self._places = [np.searchsorted(self._all, grams) for grams in self._grams]
        places = np.concatenate([*self._places, np.zeros(0, dtype=np.int64)]).astype(np.int64)
        owners = np.repeat(np.arange(len(self._places)), [len(p) for p in self._places])
        owners = owners[np.argsort(places, kind="stable")]  # held-out documents, grouped by sequence
        bounds = np.searchsorted(np.sort(places), np.arange(len(self._all) + 1))  # where each sequence's group starts
        marks = self._rng.integers(2**64, size=len(self._places), dtype=np.uint64)  # so that sums of them stand for sets
        sets = np.add.reduceat(marks[owners], bounds[:-1]) if len(self._all) else marks[:0]
        _, first, self._passages = np.unique(sets, return_index=True, return_inverse=True)  # the sequences of one set are one
        lengths = np.diff(bounds)[first]
        self._starts = np.concatenate([[0], np.cumsum(lengths)])
        self._owners = owners[np.repeat(bounds[first] - self._starts[:-1], lengths) + np.arange(lengths.sum())]
        self._found = np.zeros(len(self._all), dtype=bool)
        self._lengths = np.array([max(1, len(places)) for places in self._places])
        self._share = np.zeros(len(self._grams))  # largest that a training document has of each, and which one that is
        self._nearest: list[str | None] = [None] * len(self._grams)

    def rows(self) -> list[dict[str, Any]]:
        """One row a held-out document, the largest overlap first: id, split, words, overlap, and the training document that
        shares most with it."""
        if self._all is None:
            self._prepare()
        rows: list[dict[str, Any]] = [
            {
                "id": identity,
                "split": split,
                "words": words,
                "overlap": round(float(self._found[places].mean()), 6) if len(places) else 0.0,
                "nearest": self._nearest[i],
                "nearest_overlap": round(float(self._share[i]), 6),
            }
            for i, ((identity, split, words), places) in enumerate(zip(self._ids, self._places, strict=True))
        ]
        return sorted(rows, key=lambda row: (-row["overlap"], row["id"]))

    def summary(self) -> dict[str, float | int]:
        """Share of all distinct sequences and largest share per split, and how many documents were left out of the index."""
        result: dict[str, float | int] = {"documents_not_compared": self._skipped}
        rows = self.rows()
        for split in ("validation", "test"):
            picked = [i for i, (_, where, _) in enumerate(self._ids) if where == split]
            places = np.unique(np.concatenate([self._places[i] for i in picked])) if picked else np.zeros(0, dtype=np.int64)
            result[f"{split}_mean"] = round(float(self._found[places].mean()), 6) if len(places) else 0.0
            result[f"{split}_max"] = max((row["overlap"] for row in rows if row["split"] == split), default=0.0)
        return result


def _pieces(text: str) -> Iterator[str]:
    """A text cut where there is space: the words of a long one would take ten times its memory."""
    start = 0
    while start < len(text) or not start:
        space = _SPACE.search(text, start + PIECE)
        end = space.end() if space else len(text)
        yield text[start:end]
        start = end or 1


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _hashes(codes: np.ndarray) -> np.ndarray:
    """(n,) word codes -> (n - 7,) hashes of each run of 8 words, modulo 2^64."""
    if len(codes) < NGRAM:
        return np.zeros(0, dtype=np.uint64)
    result = np.zeros(len(codes) - NGRAM + 1, dtype=np.uint64)
    for i in range(NGRAM):
        result = result * np.uint64(0x9E3779B97F4A7C15) + codes[i : len(codes) - NGRAM + 1 + i]
    return result
