"""The few rules that turn an estimate into a verdict.

A claim is that a mean lies on one side of a threshold. The whole interval on the claimed side: *holds*; none of it: *fails*;
otherwise, and with one seed, which gives no interval: *inconclusive*. A claim of *equality* asks for the whole interval within a
margin instead, since not to reject it shows nothing.

A threshold is a number, or the name of a field of ``analysis`` in ``params.yaml``, with ``-`` before it for its negative.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

from lolm.analysis.statistics import Estimate
from lolm.claims.ledger import FAILS, HOLDS, INCONCLUSIVE
from lolm.claims.numbers import show, show_estimate, show_interval
from lolm.config import AnalysisConfig

Threshold = float | str


def above(estimate: Estimate, threshold: float) -> str:
    """The claim is that the mean lies above the threshold."""
    if estimate.interval is None:
        return INCONCLUSIVE
    low, high = estimate.interval
    return HOLDS if low > threshold else FAILS if high <= threshold else INCONCLUSIVE


def below(estimate: Estimate, threshold: float) -> str:
    """The claim is that the mean lies below the threshold."""
    if estimate.interval is None:
        return INCONCLUSIVE
    low, high = estimate.interval
    return HOLDS if high < threshold else FAILS if low >= threshold else INCONCLUSIVE


def within(estimate: Estimate, target: float, margin: float) -> str:
    """The claim is that the mean lies within a margin of a target."""
    if estimate.interval is None:
        return INCONCLUSIVE
    low, high = (end - target for end in estimate.interval)
    return HOLDS if -margin < low and high < margin else FAILS if low >= margin or high <= -margin else INCONCLUSIVE


def every(verdicts: Iterable[str]) -> str:
    """The claim has several parts: it fails with any of them, and holds with all."""
    found = set(verdicts)
    return FAILS if FAILS in found else HOLDS if found == {HOLDS} else INCONCLUSIVE


def why_of(estimate: Estimate, threshold: float, unit: str) -> str:
    """Where the interval lies, in words."""
    at = show(threshold, unit)
    if estimate.interval is None:
        return f"one seed gives {show(estimate.value, unit)} and no interval, so nothing is decided against {at}"
    low, high = estimate.interval
    shown = show_interval(low, high, unit)
    if low > threshold:
        return f"the interval over {estimate.n} {estimate.over}, {shown}, lies above {at}"
    if high < threshold:
        return f"the interval over {estimate.n} {estimate.over}, {shown}, lies below {at}"
    if low == high:
        return f"each of {estimate.n} {estimate.over} gives {at} exactly"
    if threshold in (low, high):
        return f"the interval over {estimate.n} {estimate.over}, {shown}, ends at {at}"
    return f"the interval over {estimate.n} {estimate.over}, {shown}, covers {at}"


def resolve(threshold: Threshold, analysis: AnalysisConfig) -> float:
    """The number that a threshold stands for."""
    if not isinstance(threshold, str):
        return float(threshold)
    value = float(getattr(analysis, threshold.removeprefix("-")))
    return -value if threshold.startswith("-") else value


@dataclass(frozen=True)
class Rule:
    """What decides; every field of a rule is a threshold."""

    def verdict(self, estimate: Estimate, analysis: AnalysisConfig) -> str:
        raise NotImplementedError

    def text(self, unit: str, analysis: AnalysisConfig) -> str:
        """The rule in words, with its thresholds."""
        raise NotImplementedError

    def why(self, estimate: Estimate, unit: str, analysis: AnalysisConfig) -> str:
        """What the estimate is under this rule, in words."""
        raise NotImplementedError

    def thresholds(self, analysis: AnalysisConfig) -> tuple[float, ...]:
        """What an estimate is held against; none where a margin decides."""
        return tuple(resolve(getattr(self, field.name), analysis) for field in fields(self))

    @property
    def names(self) -> tuple[str, ...]:
        """Fields of ``analysis`` that it reads."""
        values = (getattr(self, field.name) for field in fields(self))
        return tuple(value.removeprefix("-") for value in values if isinstance(value, str))


@dataclass(frozen=True)
class Above(Rule):
    at: Threshold = 0.0

    def verdict(self, estimate: Estimate, analysis: AnalysisConfig) -> str:
        return above(estimate, resolve(self.at, analysis))

    def text(self, unit: str, analysis: AnalysisConfig) -> str:
        return f"holds if the whole interval lies above {show(resolve(self.at, analysis), unit)}, fails if none of it does"

    def why(self, estimate: Estimate, unit: str, analysis: AnalysisConfig) -> str:
        return why_of(estimate, resolve(self.at, analysis), unit)


@dataclass(frozen=True)
class Below(Rule):
    at: Threshold = 0.0

    def verdict(self, estimate: Estimate, analysis: AnalysisConfig) -> str:
        return below(estimate, resolve(self.at, analysis))

    def text(self, unit: str, analysis: AnalysisConfig) -> str:
        return f"holds if the whole interval lies below {show(resolve(self.at, analysis), unit)}, fails if none of it does"

    def why(self, estimate: Estimate, unit: str, analysis: AnalysisConfig) -> str:
        return why_of(estimate, resolve(self.at, analysis), unit)


@dataclass(frozen=True)
class Within(Rule):
    """Equal to ``target`` within ``margin``."""

    margin: Threshold
    target: Threshold = 0.0

    def thresholds(self, analysis: AnalysisConfig) -> tuple[float, ...]:
        return ()

    def verdict(self, estimate: Estimate, analysis: AnalysisConfig) -> str:
        return within(estimate, resolve(self.target, analysis), resolve(self.margin, analysis))

    def text(self, unit: str, analysis: AnalysisConfig) -> str:
        return f"holds if the whole interval lies within {self._range(unit, analysis)}, fails if none of it does"

    def why(self, estimate: Estimate, unit: str, analysis: AnalysisConfig) -> str:
        return f"{show_estimate(estimate, unit)}, against {self._range(unit, analysis)}"

    def _range(self, unit: str, analysis: AnalysisConfig) -> str:
        target, margin = resolve(self.target, analysis), f"±{show(resolve(self.margin, analysis), unit)}"
        return f"{show(target, unit)} {margin}" if target else margin


@dataclass(frozen=True)
class Between(Rule):
    low: Threshold
    high: Threshold

    def verdict(self, estimate: Estimate, analysis: AnalysisConfig) -> str:
        return every((above(estimate, resolve(self.low, analysis)), below(estimate, resolve(self.high, analysis))))

    def text(self, unit: str, analysis: AnalysisConfig) -> str:
        low, high = (show(resolve(end, analysis), unit) for end in (self.low, self.high))
        return f"holds if the whole interval lies between {low} and {high}, fails if none of it lies above {low}, or below {high}"

    def why(self, estimate: Estimate, unit: str, analysis: AnalysisConfig) -> str:
        return "; ".join(why_of(estimate, resolve(end, analysis), unit) for end in (self.low, self.high))
