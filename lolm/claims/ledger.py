"""What an entry of the ledger is, and the rules that turn an estimate into a verdict.

A verdict speaks of this scale, these arms and these seeds alone. A claim is that a mean lies on one side of a threshold, and the
rules are few; a claim of *equality* asks for the whole interval within a margin instead, since not to reject it shows nothing:

- the whole interval on the claimed side of the threshold: *holds*;
- the whole interval on the other side: *fails*;
- the interval covers the threshold, or there is none (one seed): *inconclusive*;
- an absolute level of a published model, a measurement these runs do not carry, or models that do not even beat a bigram
  model: *not testable at this scale*.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lolm.analysis.statistics import Estimate
from lolm.claims.published import NUMBERS, SOURCES
from lolm.claims.required_runs import Needs
from lolm.records.results import RunRecord

HOLDS, FAILS, INCONCLUSIVE, UNTESTABLE = "holds", "fails", "inconclusive", "not testable at this scale"
VERDICTS = (HOLDS, FAILS, INCONCLUSIVE, UNTESTABLE)

GROUPS = {
    "efficiency": "Efficiency and loss at a matched budget",
    "gate": "The gate",
    "inversion": "Dependency inversion",
    "components": "Removing components from a trained model",
    "streams": "Regime codes, CPC, memory",
    "training": "Training without, or with another part",
    "levels": "Levels of the published models",
    "outside": "Against other models, and beyond the published sizes",
    "sanity": "Have these models learned anything?",
    "arithmetic": "Arithmetic on the published numbers (no run needed)",
}


@dataclass(frozen=True)
class Quantity:
    """One measured or recomputed number with its definition.

    ``value`` is None when it could not be measured; ``note`` then says why.
    Units: nats, x (ratio), share (shown in per cent), gate, codes, perplexity, bits, steps, tokens,
    r (correlation), logits, length (of a vector).
    """

    value: float | None
    unit: str
    definition: str
    interval: tuple[float, float] | None = None
    n_seeds: int = 0
    per_seed: tuple[float, ...] = ()
    note: str | None = None

    @classmethod
    def of(cls, estimate: Estimate, unit: str, definition: str, note: str | None = None) -> Quantity:
        return cls(estimate.value, unit, definition, estimate.interval, estimate.n, estimate.per_seed, note)

    @property
    def shown(self) -> str:
        """The number as people read it."""
        if self.value is None:
            return "—"
        return show(self.value, self.unit)

    @property
    def shown_interval(self) -> str:
        """The interval as people read it; empty without one."""
        return "" if self.interval is None else show_interval(*self.interval, self.unit)

    def as_record(self) -> dict[str, Any]:
        return {
            "value": self.value,
            "interval": None if self.interval is None else list(self.interval),
            "n_seeds": self.n_seeds,
            "per_seed": list(self.per_seed),
            "unit": self.unit,
            "definition": self.definition,
            "shown": f"{self.shown} [{self.shown_interval}]" if self.interval else self.shown,
            "note": self.note,
        }


@dataclass(frozen=True)
class Control:
    """Something else that could explain a claim's number away, and what it gives.

    ``quantity`` without a value was not measured; its note then says what is missing.
    """

    name: str
    quantity: Quantity
    sentence: str

    def as_record(self) -> dict[str, Any]:
        return {"name": self.name, "sentence": self.sentence} | self.quantity.as_record()


@dataclass(frozen=True)
class Claim:
    """One entry of the ledger.

    Attributes:
        published: keys of :data:`lolm.claims.published.NUMBERS`; empty where no number was printed.
        stated: keys of :data:`lolm.claims.published.SOURCES` that make the claim in words; without both it is ours.
        controls: what could explain it away.
        figure: name of the picture that shows it, ``figures/<name>.svg`` of the report.
        needs: what would test it where these runs do not.
        fact: id of the entry that decides for the published fact this is about, so that a fact counts once; None: itself.
        against: whether the statement, if it holds, speaks against LOLM.
    """

    id: str
    group: str
    statement: str
    published: tuple[str, ...]
    as_published: Quantity | None
    sound: Quantity | None
    verdict: str
    why: str
    rule: str = ""
    runs: tuple[tuple[str, str], ...] = ()
    details: dict[str, Quantity] = field(default_factory=dict)
    controls: tuple[Control, ...] = ()
    figure: str | None = None
    needs: Needs | None = None
    stated: tuple[str, ...] = ()
    fact: str | None = None
    against: bool = False

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS or self.group not in GROUPS:
            raise ValueError(f"claim {self.id}: unknown verdict {self.verdict!r} or group {self.group!r}")

    @property
    def published_shown(self) -> str:
        """The published numbers; of an arithmetic entry the first, the others being its inputs."""
        keys = self.published[:1] if self.group == "arithmetic" else self.published
        shown = (f"{NUMBERS[k].value:g}" if NUMBERS[k].unit == "gate" else show(NUMBERS[k].value, NUMBERS[k].unit) for k in keys)
        return " · ".join(dict.fromkeys(shown)) or "—"

    @property
    def source(self) -> str:
        keys = dict.fromkeys([*(key for name in self.published for key in NUMBERS[name].source), *self.stated])
        return "; ".join(SOURCES[key] for key in keys) or "this project"

    def as_record(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "group": self.group,
            "statement": self.statement,
            "source": self.source,
            "published": [NUMBERS[key].as_record() for key in self.published],
            "as_published": None if self.as_published is None else self.as_published.as_record(),
            "sound": None if self.sound is None else self.sound.as_record(),
            "verdict": self.verdict,
            "why": self.why,
            "rule": self.rule,
            "runs": [{"name": name, "fingerprint": fingerprint} for name, fingerprint in self.runs],
            "details": {name: quantity.as_record() for name, quantity in self.details.items()},
            "controls": [control.as_record() for control in self.controls],
            "figure": None if self.figure is None else f"{self.figure}.svg",
            "needs": None if self.needs is None else self.needs.as_record(),
            "fact": self.fact or self.id,
            "against": self.against,
        }

    @property
    def authors(self) -> bool:
        """Whether the authors made this claim, in numbers or in words."""
        return bool(self.published or self.stated)


def runs_of(runs: Iterable[RunRecord]) -> tuple[tuple[str, str], ...]:
    """(name, fingerprint) of each run, once, in the order given."""
    return tuple(dict.fromkeys((run.name, run.fingerprint) for run in runs))


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


def why_of(estimate: Estimate, threshold: float, unit: str) -> str:
    """The rule's outcome in words, for :func:`above` and :func:`below`."""
    at = show(threshold, unit)
    if estimate.interval is None:
        return f"one seed gives {show(estimate.value, unit)} and no interval, so nothing is decided against {at}"
    low, high = estimate.interval
    shown = show_interval(low, high, unit)
    if low > threshold:
        return f"the interval over {estimate.n} seeds, {shown}, lies above {at}"
    if high < threshold:
        return f"the interval over {estimate.n} seeds, {shown}, lies below {at}"
    if low == high:
        return f"each of {estimate.n} seeds gives {at} exactly"
    if threshold in (low, high):
        return f"the interval over {estimate.n} seeds, {shown}, ends at {at}"
    return f"the interval over {estimate.n} seeds, {shown}, covers {at}"


def untestable(
    id: str,
    group: str,
    statement: str,
    published: Sequence[str],
    why: str,
    needs: Needs | None = None,
    stated: Sequence[str] = (),
    as_published: Quantity | None = None,
) -> Claim:
    """An entry for a claim these runs cannot speak to."""
    return Claim(id, group, statement, tuple(published), as_published, None, UNTESTABLE, why, needs=needs, stated=tuple(stated))


def unmeasured(unit: str, definition: str, note: str) -> Quantity:
    """A quantity that these runs do not carry."""
    return Quantity(None, unit, definition, note=note)


def show(value: float, unit: str) -> str:
    """A number as people read it, with its unit."""
    number, suffix = _parts(value, unit)
    return f"PPL {number}" if unit == "perplexity" else number + suffix


def show_estimate(estimate: Estimate, unit: str) -> str:
    """The value, and its interval where it has one: ``1.20× [1.17 to 1.23×]``."""
    text = show(estimate.value, unit)
    return text if estimate.interval is None else f"{text} [{show_interval(*estimate.interval, unit)}]"


def show_interval(low: float, high: float, unit: str) -> str:
    """The two ends, the unit once: ``1.17 to 1.23×``."""
    (left, _), (right, suffix) = _parts(low, unit), _parts(high, unit)
    return f"{left} to {right}{suffix}"


def _parts(value: float, unit: str) -> tuple[str, str]:
    if unit == "share":
        return _signed(f"{100 * value:.1f}"), " %"
    if unit == "x":
        return f"{value:.2f}" if abs(value) < 1000 else f"{value:,.0f}", "×"
    if unit in ("nats", "bits"):
        return _signed(f"{value:.3f}"), f" {unit}"
    if unit == "perplexity":
        return f"{value:,.1f}" if value < 1000 else f"{value:,.0f}", ""
    if unit in ("steps", "tokens"):
        return f"{value:,.0f}", "" if unit == "steps" else " tokens"
    return _signed(f"{value:.3f}"), ""


def _signed(text: str) -> str:
    """A true minus sign, and no negative zero."""
    if text.startswith("-"):
        text = text[1:] if not text.strip("-0.") else "\u2212" + text[1:]
    return text
