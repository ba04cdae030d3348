"""Measuring in rounds: each thing once a round, so that what slows the machine for a while slows all that a ratio is made of."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lolm import LolmError

Samples = Mapping[str, list[float]]  # by measure, one number a round


class BenchmarkError(LolmError):
    """A part or arm that does not exist, or numbers that cannot be compared."""


class Unavailable(LolmError):
    """Something that cannot be measured here; the message is the reason, and stands in the record."""


@dataclass(frozen=True)
class Part:
    """What one part of the benchmark measures.

    Attributes:
        measures: by name, a function that measures once and returns a number (seconds unless the part says otherwise); they run
            in this order in every round.
        result: the part's entry of the record, from the numbers of all rounds.
        most: measured in at most that many rounds; None for all.
    """

    measures: Mapping[str, Callable[[], float]]
    result: Callable[[Samples], dict[str, Any]]
    most: int | None = None


class Timer:
    """Seconds that calls take.

    Args:
        clock: gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock

    def __call__(self, call: Callable[[], Any], repeats: int = 1) -> float:
        """Median seconds of ``repeats`` calls."""
        seconds = []
        for _ in range(repeats):
            start = self.clock()
            call()
            seconds.append(self.clock() - start)
        return float(np.median(seconds))


timed = Timer()


def interleave(
    parts: Mapping[str, Part], rounds: int, quiet: bool = True
) -> tuple[dict[str, dict[str, list[float]]], dict[str, str]]:
    """Measure everything once a round.

    Returns:
        The numbers by part and measure, and the reasons of the parts that turned out to be unavailable, which have no numbers.

    Raises:
        BenchmarkError: fewer than one round.
    """
    if rounds < 1:
        raise BenchmarkError(f"rounds is {rounds}; a benchmark needs at least 1")
    samples: dict[str, dict[str, list[float]]] = {name: {m: [] for m in part.measures} for name, part in parts.items()}
    reasons: dict[str, str] = {}
    for index in range(rounds):
        start = time.perf_counter()
        for name, part in parts.items():
            if name in reasons or part.most is not None and index >= part.most:
                continue
            try:
                for measure, call in part.measures.items():
                    samples[name][measure].append(call())
            except Unavailable as reason:
                reasons[name] = str(reason)
                del samples[name]
        if not quiet:
            print(f"round {index + 1} of {rounds}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    return samples, reasons


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median, quartiles (``low``, ``high``; linear between values) and how many.

    Raises:
        BenchmarkError: no value.
    """
    if not len(values):
        raise BenchmarkError("nothing was measured; raise the number of rounds")
    low, median, high = np.quantile(np.asarray(values, dtype=np.float64), (0.25, 0.5, 0.75)).tolist()
    return {"median": median, "low": low, "high": high, "n": len(values)}


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Ratio of two numbers of each round; raises ValueError where one has more rounds."""
    return [a / b for a, b in zip(above, below, strict=True)]


def scaled(values: Sequence[float], factor: float) -> list[float]:
    return [factor * value for value in values]


def rates(amount: float, seconds: Sequence[float]) -> list[float]:
    """``amount`` a second, of each round."""
    return [amount / value for value in seconds]


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Least-squares slope of ln y over ln x: the power with which y grows with x.

    Raises:
        BenchmarkError: fewer than two points, or a number that is not positive.
    """
    if len(x) != len(y) or len(set(x)) < 2 or min(*x, *y) <= 0:
        raise BenchmarkError(f"a slope needs positive numbers at two places or more; got {list(x)} and {list(y)}")
    return float(np.polyfit([math.log(v) for v in x], [math.log(v) for v in y], 1)[0])


def slopes(x: Sequence[float], series: Sequence[Sequence[float]]) -> list[float]:
    """Slope of each round; ``series`` holds the numbers of all rounds at each place of ``x``."""
    return [slope(x, row) for row in zip(*series, strict=True)]


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Torch's threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
