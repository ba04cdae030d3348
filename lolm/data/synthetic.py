"""Synthetic sequences that ask for recall: what loss on natural text hides.

A task draws sequences and says which positions are asked; targets at all others are ``IGNORED``. A sampler turns a task into
batches, each a pure function of (seed, split, step), with the interface that the trainer needs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np

from lolm.config import ConfigError, RecallConfig
from lolm.data.batches import IGNORED, stream_seed

if TYPE_CHECKING:
    import torch


class SyntheticTask(ABC):
    """A distribution over sequences of ``seq_len`` ids below ``vocab_size``, with targets at the positions that are asked.

    Attributes:
        name: as in ``recall.tasks``.
        chance: accuracy of a uniform guess among all ids that can be an answer.
        order_zero: best accuracy of a model that knows which ids it has seen and how often, but nothing of their order.
    """

    name: str
    chance: float
    order_zero: float

    def __init__(self, vocab_size: int, seq_len: int) -> None:
        self.vocab_size, self.seq_len = vocab_size, seq_len

    @abstractmethod
    def draw(self, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        """``count`` sequences and their targets, each (count, T) int64."""


class MQAR(SyntheticTask):
    """Multi-query associative recall (Arora et al. 2023, arXiv 2312.04927).

    The first 2·P positions hold P key-value pairs, k₁ v₁ k₂ v₂ …: keys are distinct ids of 1 … V/2 − 1, values distinct ids of
    V/2 … V − 1. Each key then stands once more at one of the other T − 2·P places, where the target is its value; the value
    itself isn't shown again. Place g = 1, 2, … after the pairs is drawn without replacement with probability ∝ g^(α − 1),
    α = 0.01, so most queries come early and a few late. All other places hold id 0.

    Unlike the published generator, queries may stand at any place and not at every second one, and fill is one blank id
    instead of random ones. ``chance`` is 2 / V, ``order_zero`` 1 / P.

    Raises:
        ConfigError: no room for the queries, or fewer ids than pairs.
    """

    name = "mqar"
    POWER = 0.01

    def __init__(self, vocab_size: int, seq_len: int, pairs: int) -> None:
        super().__init__(vocab_size, seq_len)
        self.pairs, self.half = pairs, vocab_size // 2
        if pairs < 1 or seq_len < 3 * pairs:
            raise ConfigError(
                f"recall.pairs {pairs} need recall.seq_len of at least {3 * max(1, pairs)} (pairs, then queries), got {seq_len}"
            )
        if pairs > self.half - 1:
            raise ConfigError(f"recall.pairs {pairs} need recall.vocab_size of at least {2 * pairs + 2}, got {vocab_size}")
        self.chance, self.order_zero = 1 / (vocab_size - self.half), 1 / pairs

    def draw(self, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        first = 2 * self.pairs
        keys_BP = 1 + _distinct(rng, count, self.half - 1, self.pairs)
        values_BP = self.half + _distinct(rng, count, self.vocab_size - self.half, self.pairs)
        x_BT = np.zeros((count, self.seq_len), dtype=np.int64)
        x_BT[:, 0:first:2], x_BT[:, 1:first:2] = keys_BP, values_BP
        gaps = np.arange(1, self.seq_len - first + 1)
        places_BP = first + _distinct(rng, count, len(gaps), self.pairs, (self.POWER - 1) * np.log(gaps))
        y_BT = np.full_like(x_BT, IGNORED)
        np.put_along_axis(x_BT, places_BP, keys_BP, axis=1)
        np.put_along_axis(y_BT, places_BP, values_BP, axis=1)
        return x_BT, y_BT


class Induction(SyntheticTask):
    """A random segment that repeats (Olsson et al. 2022, arXiv 2209.11895): x_t = u_(t mod L), u of L distinct random ids.

    The period L is uniform over T / 4 … T / 2, so that the answer has to be found by content: no fixed distance points at it.
    Each token from the second occurrence of u₀ on is asked for its successor; one earlier occurrence determines it.

    The cited test repeats a segment once. Here it goes on to the end of the sequence, for more questions of the same kind in
    each. ``chance`` is 1 / V; ``order_zero`` the mean over L and the asked positions of 1 / n, n being how many of the L ids have
    been seen least often, among which the successor is.

    Raises:
        ConfigError: a sequence too short to repeat anything, or fewer ids than half its length.
    """

    name = "induction"

    def __init__(self, vocab_size: int, seq_len: int) -> None:
        super().__init__(vocab_size, seq_len)
        self.shortest, self.longest = seq_len // 4, seq_len // 2
        if self.shortest < 2:
            raise ConfigError(f"recall.seq_len must be at least 8 for induction, got {seq_len}")
        if vocab_size < self.longest:
            raise ConfigError(
                f"recall.vocab_size must be at least {self.longest} for induction on recall.seq_len {seq_len}, got {vocab_size}"
            )
        rarest = [
            period - (t + 1) % period for period in range(self.shortest, self.longest + 1) for t in range(period, seq_len - 1)
        ]
        self.chance, self.order_zero = 1 / vocab_size, float(np.mean(1 / np.array(rarest)))

    def draw(self, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        ids = _distinct(rng, count, self.vocab_size, self.longest)
        period_B1 = rng.integers(self.shortest, self.longest + 1, size=(count, 1))
        t_T = np.arange(self.seq_len)
        x_BT = np.take_along_axis(ids, t_T % period_B1, axis=1)
        y_BT = np.full_like(x_BT, IGNORED)
        y_BT[:, :-1] = np.where(t_T[:-1] >= period_B1, x_BT[:, 1:], IGNORED)
        return x_BT, y_BT


def _distinct(rng: np.random.Generator, rows: int, choices: int, count: int, log_weights: np.ndarray | None = None) -> np.ndarray:
    """(rows, count) distinct numbers below ``choices``, one after the other without replacement, in proportion to the weights.

    By the Gumbel-top-k trick: sorting log w + Gumbel noise gives the order of such draws.
    """
    noise = rng.gumbel(size=(rows, choices))
    return np.argsort(noise if log_weights is None else noise + log_weights, axis=1)[:, ::-1][:, :count]


def build_task(name: str, config: RecallConfig) -> SyntheticTask:
    """The task of that name at the configured size; raises ConfigError when name or size cannot be."""
    if name == "mqar":
        return MQAR(config.vocab_size, config.seq_len, config.pairs)
    if name == "induction":
        return Induction(config.vocab_size, config.seq_len)
    raise ConfigError(f"recall.tasks: no task {name!r}; there are mqar and induction")


class SyntheticSampler:
    """Batches of a task; those of another split come from another random stream.

    Attributes:
        stream: the task; stands where text has its token stream.
    """

    def __init__(self, task: SyntheticTask, batch_size: int, seed: int, split: str = "train") -> None:
        self.stream, self.batch_size, self.seed, self.split = task, batch_size, seed, split

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets of batch ``step`` (0, 1, ...), each (B, T) int64; ``IGNORED`` where nothing is asked."""
        import torch

        seed = stream_seed(self.seed, f"{self.stream.name}/{self.split}/{step}")
        x_BT, y_BT = self.stream.draw(np.random.Generator(np.random.PCG64(seed)), self.batch_size)
        return torch.from_numpy(x_BT), torch.from_numpy(y_BT)
