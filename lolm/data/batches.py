"""Training batches and fixed evaluation sets, cut from a token stream.

A batch is a pure function of (seed, step): nothing is remembered between calls, so a resumed run needs no data state and every
arm of one seed sees the same batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from lolm.data.errors import DataError
from lolm.data.stream import TokenStream

if TYPE_CHECKING:
    import torch


IGNORED = -100  # target of a position that is not scored; torch's own convention


class Vocabulary(Protocol):
    """What a sampler draws from."""

    @property
    def vocab_size(self) -> int: ...


class Sampler(Protocol):
    """What the training loop asks of its data."""

    @property
    def stream(self) -> Vocabulary: ...

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets of a micro-batch, each (B, T) int64, a pure function of ``step``; IGNORED targets do not count."""
        ...


def stream_seed(seed: int, name: str) -> int:
    """64-bit seed of the random stream ``name`` (data, init, dropout, ...); streams of one seed are independent."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big")


class BatchSampler:
    """Random batches of windows that visit each token once per epoch.

    An epoch is a random permutation of non-overlapping windows of ``seq_len`` tokens, laid from a random first position
    (the phase) so that window borders differ between epochs. Less than two windows' worth at the ends of the stream is left
    out of an epoch.

    Args:
        stream: training tokens.
        batch_size: sequences per batch, B.
        seq_len: tokens per sequence, T.
        seed: the run's seed.

    Raises:
        DataError: the stream has no room for a window.
    """

    def __init__(self, stream: TokenStream, batch_size: int, seq_len: int, seed: int) -> None:
        self.windows_per_epoch = (len(stream) - seq_len) // seq_len  # what fits whatever the phase
        if self.windows_per_epoch < 1:
            raise DataError(
                f"the {stream.split} split has {len(stream)} tokens, too few for one window of training.seq_len {seq_len} "
                f"(needs {2 * seq_len}); shorten seq_len or add text"
            )
        self.stream, self.batch_size, self.seq_len, self.seed = stream, batch_size, seq_len, seed
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)

    def _make_epoch(self, epoch: int) -> np.ndarray:
        """(windows_per_epoch,) int64: first input position of each window of an epoch, in the order of use."""
        rng = np.random.Generator(np.random.PCG64(stream_seed(self.seed, f"data/{epoch}")))
        phase = int(rng.integers(self.seq_len))
        return phase + self.seq_len * rng.permutation(self.windows_per_epoch)

    def starts(self, step: int) -> np.ndarray:
        """(B,) int64: first input position of each sequence of batch ``step``; a batch may span two epochs."""
        number = step * self.batch_size + np.arange(self.batch_size)
        return np.array([self._epoch(int(n) // self.windows_per_epoch)[int(n) % self.windows_per_epoch] for n in number])

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and next-token targets of batch ``step`` (0, 1, ...), each (B, T) int64."""
        import torch

        windows = np.stack([self.stream.window(int(s), self.seq_len + 1) for s in self.starts(step)])
        return _split_windows(torch.from_numpy(windows))

    def seen_spans(self, steps: int) -> np.ndarray:
        """(n, 2) int64: the [start, stop) ranges of target positions in the first ``steps`` batches, sorted and merged.

        A token that several epochs repeat counts once, so this is the text that a run of ``steps`` batches has learned from.
        """
        count = steps * self.batch_size
        epochs, rest = divmod(count, self.windows_per_epoch)
        starts = [self._make_epoch(e) for e in range(epochs)] + [self._make_epoch(epochs)[:rest]]
        return _merge(np.sort(np.concatenate(starts)) + 1, self.seq_len)


class EvaluationSet:
    """A fixed set of windows, spread evenly over a split and independent of any batch size or seed.

    Args:
        stream: held-out tokens.
        n_tokens: how many tokens to score; rounded down to whole windows, at least one, at most what the split has; ``all``:
            every window that the split has room for, so that less than one window's worth of it is left out.
        seq_len: tokens per window, T.
        token_bytes: (V,) UTF-8 bytes of each id; by default those that lie with the shards.

    Attributes:
        n_tokens: scored tokens; each window scores T targets.
        n_bytes: UTF-8 bytes of the scored targets. Bits per byte = nats per token * n_tokens / (ln 2 * n_bytes).

    Raises:
        DataError: the split is shorter than one window, or ``token_bytes`` belongs to another tokenizer.
    """

    def __init__(
        self, stream: TokenStream, n_tokens: int | Literal["all"], seq_len: int, token_bytes: np.ndarray | None = None
    ) -> None:
        room = (len(stream) - 1) // seq_len
        if room < 1:
            raise DataError(
                f"the {stream.split} split has {len(stream)} tokens, too few for one window of {seq_len} + 1; "
                f"hold out more text (corpus.{stream.split}, corpus.{stream.split}_fraction) or shorten seq_len"
            )
        token_bytes = stream.token_bytes if token_bytes is None else token_bytes
        if len(token_bytes) != stream.vocab_size:
            raise DataError(f"token_bytes has {len(token_bytes)} ids, the shards {stream.vocab_size}: of another tokenizer")
        windows = room if n_tokens == "all" else min(room, max(1, n_tokens // seq_len))
        self.stream, self.seq_len = stream, seq_len
        self.starts = np.arange(windows) * (len(stream) - 1) // windows  # at least seq_len apart
        self.n_tokens = windows * seq_len
        self.n_bytes = int(sum(token_bytes[self._window(i)[1:]].sum() for i in range(windows)))

    def _window(self, i: int) -> np.ndarray:
        return self.stream.window(int(self.starts[i]), self.seq_len + 1)

    def __len__(self) -> int:
        return len(self.starts)

    def windows(self) -> Iterator[np.ndarray]:
        """Each window in order, (T + 1,) int64: inputs are all but the last id, targets all but the first."""
        return (self._window(i) for i in range(len(self)))

    def target_bytes(self) -> np.ndarray:
        """(N, T) UTF-8 bytes of each target."""
        return self.stream.token_bytes[np.stack([window[1:] for window in self.windows()])]

    def batches(self, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Inputs and targets, each (B, T) int64, in order; the last batch may be smaller."""
        import torch

        for first in range(0, len(self), batch_size):
            windows = np.stack([self._window(i) for i in range(first, min(first + batch_size, len(self)))])
            yield _split_windows(torch.from_numpy(windows))


def _split_windows(windows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return windows[:, :-1].contiguous(), windows[:, 1:].contiguous()


def _merge(starts: np.ndarray, length: int) -> np.ndarray:
    """Sorted starts of ranges of one length -> (n, 2) disjoint [start, stop) ranges that cover the same positions."""
    if not len(starts):
        return np.zeros((0, 2), dtype=np.int64)
    first = np.concatenate([[True], starts[1:] > starts[:-1] + length])
    last = np.concatenate([first[1:], [True]])
    return np.stack([starts[first], starts[last] + length], axis=1).astype(np.int64)
