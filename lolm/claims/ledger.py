"""What an entry of the ledger is once it is decided: the claim, our numbers beside the published ones, and the verdict.

A verdict speaks of one scale, its arms and its seeds alone:

- *holds*, *fails*, *inconclusive*: by the claim's rule, see :mod:`lolm.claims.rules`;
- *not run*: an arm, a seed or a study that it takes was not run; the command that runs it stands beside;
- *not testable at this scale*: what no run of this scale can show, such as a level of a published model of another size, or what
  models show that do not even beat a bigram model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lolm.analysis.statistics import Estimate
from lolm.claims.cost import Measurement, Needs
from lolm.claims.numbers import show, show_interval
from lolm.claims.published import NUMBERS, SOURCES
from lolm.records import RecordError, has, read_json
from lolm.records.results import RunRecord

HOLDS, FAILS, INCONCLUSIVE = "holds", "fails", "inconclusive"
NOT_RUN, UNTESTABLE = "not run", "not testable at this scale"
VERDICTS = (HOLDS, FAILS, INCONCLUSIVE, NOT_RUN, UNTESTABLE)
DECIDED = (HOLDS, FAILS, INCONCLUSIVE)

OURS = "this project"  # source of a claim that the authors did not make

HYBRIDS = "hybrids"  # of models that are no LOLM
GROUPS = {
    "efficiency": "Efficiency and loss at a matched budget",
    "gate": "The gate",
    "inversion": "Dependency inversion",
    "components": "Removing components from a trained model",
    "streams": "Regime codes, CPC, memory",
    "training": "Training without, or with another part",
    "levels": "Levels of the published models",
    "budgets": "Over sizes and budgets",
    "outside": "Against other models, and beyond the published sizes",
    HYBRIDS: "Other hybrids: which type of layer they depend on",
    "sanity": "Have these models learned anything?",
    "arithmetic": "Arithmetic on the published numbers (no run needed)",
}

MEASURED = "measured in these runs"
RECOMPUTED = "recomputed from published numbers"
COUNTED = "exact count"


@dataclass(frozen=True)
class Quantity:
    """One number with its definition. It is ours; a number that the authors printed is a :class:`~lolm.claims.published.Number`.

    Attributes:
        value: None when it could not be measured; ``note`` then says why.
        unit: nats, x (ratio), share (shown in per cent), points (a difference of shares, shown in hundredths), gate, codes,
            perplexity, bits, steps, tokens, r (correlation), logits, length (of a vector).
        origin: measured in runs, counted, or recomputed from what the authors printed.
        covers: what the interval covers, in words: seeds alone, or text as well.
        over: what ``n_seeds`` counts: seeds, or runs that differ in more than the seed.
        confidence: level of the interval, in memory alone; nan without one, and where its record alone knows it.
    """

    value: float | None
    unit: str
    definition: str
    interval: tuple[float, float] | None = None
    n_seeds: int = 0
    per_seed: tuple[float, ...] = ()
    note: str | None = None
    origin: str = MEASURED
    covers: str = ""
    over: str = "seeds"
    confidence: float = math.nan

    @classmethod
    def of(cls, estimate: Estimate, unit: str, definition: str, note: str | None = None) -> Quantity:
        found = (estimate.value, unit, definition, estimate.interval, estimate.n, estimate.per_seed)
        covers, own = estimate.covers, None if estimate.own is None else estimate.own.interval
        if own is not None:
            covers += f"; by its own variance alone {show_interval(*own, unit)}"
        return cls(*found, note, covers=covers, over=estimate.over, confidence=estimate.confidence)

    @classmethod
    def missing(cls, unit: str, definition: str, note: str | None, n_seeds: int = 0) -> Quantity:
        """What these runs do not carry, and why."""
        return cls(None, unit, definition, n_seeds=n_seeds, note=note)

    @classmethod
    def known(
        cls, found: Estimate | None, unit: str, definition: str, missing: str | None, n_seeds: int = 0, note: str | None = None
    ) -> Quantity:
        """An estimate, with ``note``; without one what is ``missing``, of ``n_seeds`` seeds."""
        if found is None:
            return cls.missing(unit, definition, missing, n_seeds)
        return cls.of(found, unit, definition, note)

    @property
    def shown(self) -> str:
        """The number as people read it."""
        return "—" if self.value is None else show(self.value, self.unit)

    @property
    def shown_interval(self) -> str:
        """The interval as people read it; empty without one, and words where no seed differs, so that there is no spread."""
        if self.interval is not None and self.interval[0] == self.interval[1]:
            return "the same in each seed"
        return "" if self.interval is None else show_interval(*self.interval, self.unit)

    @property
    def counted(self) -> str:
        """Over how many seeds, in words; empty for an exact number."""
        return f"{self.n_seeds} {self.over.removesuffix('s') if self.n_seeds == 1 else self.over}" if self.n_seeds else ""

    @property
    def shown_whole(self) -> str:
        """Value and interval."""
        return f"{self.shown} [{self.shown_interval}]" if self.interval else self.shown

    def to_record(self) -> dict[str, Any]:
        return {
            "value": self.value,
            "interval": None if self.interval is None else list(self.interval),
            "n_seeds": self.n_seeds,
            "over": self.over,
            "per_seed": list(self.per_seed),
            "unit": self.unit,
            "definition": self.definition,
            "shown": self.shown_whole,
            "note": self.note,
            "origin": self.origin,
            "covers": self.covers,
        }


@dataclass(frozen=True)
class Control:
    """Something else that could explain a claim's number away, and what it gives.

    ``quantity`` without a value was not measured; its note then says what is missing.
    """

    name: str
    quantity: Quantity
    sentence: str

    def to_record(self) -> dict[str, Any]:
        return {"name": self.name, "sentence": self.sentence} | self.quantity.to_record()


@dataclass(frozen=True)
class Claim:
    """One entry of the ledger.

    Attributes:
        published: keys of :data:`lolm.claims.published.NUMBERS`; empty where no number was printed.
        as_published, sound: our number under the published and under a sound definition.
        why: what decided, in words; ``caveats``: what the verdict leaves open.
        study: whose records decide, or would decide.
        judged, judged_at: the number that decided and the thresholds it was held against, in memory alone; no threshold where
            several numbers decided, or a margin for equality.
        needs: what would test it where these runs do not, or what its controls ask for.
        details, controls: other readings of the same runs, and what could explain the claim away.
        figure: name of the figure that shows it, ``figures/<name>.svg`` of the study's page.
        stated: keys of :data:`lolm.claims.published.SOURCES` that make the claim in words; without both it is ours.
        fact: id of the entry that decides for the published fact this is about, so that a fact counts once; None: itself.
        against: whether the statement, if it holds, speaks against LOLM.
        trained_for: whether a loss asks for it directly, so that its holding is no finding.
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
    study: str = ""
    needs: Needs | Measurement | None = None
    caveats: tuple[str, ...] = ()
    details: dict[str, Quantity] = field(default_factory=dict)
    controls: tuple[Control, ...] = ()
    figure: str | None = None
    stated: tuple[str, ...] = ()
    fact: str | None = None
    against: bool = False
    trained_for: bool = False
    judged: Quantity | None = None
    judged_at: tuple[float, ...] = ()

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
        return "; ".join(SOURCES[key] for key in keys) or OURS

    @property
    def authors(self) -> bool:
        """Whether the authors made this claim, in numbers or in words."""
        return bool(self.published or self.stated)

    @property
    def command(self) -> str | None:
        """The command that runs what tests it, where these runs do not; None where nothing is left to run."""
        return None if self.needs is None else self.needs.command

    def to_record(self) -> dict[str, Any]:
        """The claim as ``claims.json`` holds it. ``published`` is the authors', ``as_published`` and ``sound`` are ours."""
        return {
            "id": self.id,
            "group": self.group,
            "statement": self.statement,
            "source": self.source,
            "published": [NUMBERS[key].to_record() for key in self.published],
            "as_published": None if self.as_published is None else self.as_published.to_record(),
            "sound": None if self.sound is None else self.sound.to_record(),
            "verdict": self.verdict,
            "why": self.why,
            "rule": self.rule,
            "caveats": list(self.caveats),
            "runs": [{"name": name, "fingerprint": fingerprint} for name, fingerprint in self.runs],
            "study": self.study or None,
            "command": self.command,
            "needs": None if self.needs is None else self.needs.to_record(),
            "details": {name: quantity.to_record() for name, quantity in self.details.items()},
            "controls": [control.to_record() for control in self.controls],
            "figure": None if self.figure is None else f"{self.figure}.svg",
            "fact": self.fact or self.id,
            "against": self.against,
            "trained_for": self.trained_for,
        }


def runs_of(runs: Iterable[RunRecord]) -> tuple[tuple[str, str], ...]:
    """(name, fingerprint) of each run, once, in the order given."""
    return tuple(dict.fromkeys((run.name, run.fingerprint) for run in runs))


def decisive(ledger: Sequence[Claim]) -> list[Claim]:
    """LOLM's authors' measured claims with published numbers, one entry a fact: the one that decides for it."""
    measured = [claim for claim in ledger if claim.published and claim.group not in ("arithmetic", "sanity", HYBRIDS)]
    return [claim for claim in measured if claim.fact in (None, claim.id) and not claim.trained_for]


def read_ledger(path: str | Path) -> list[dict[str, Any]]:
    """The claims that ``claims.json`` holds; raises RecordError where it is something else."""
    claims = read_json(path)
    if not isinstance(claims, list):
        raise RecordError(f"{path}: not a list of claims; `make report` makes it again")
    needed = dict.fromkeys(("id", "group", "verdict", "statement", "source"), str) | {"runs": list, "published": list}
    return [has(claim, f"{path}: [{number}]", needed) for number, claim in enumerate(claims)]


def decided_with(run: RunRecord, ledger: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Decided entries of ``claims.json`` that a run took part in: the authors' claims with numbers, or if none those in words."""
    this = {"name": run.name, "fingerprint": run.fingerprint}
    said = [claim for claim in ledger if claim["verdict"] in DECIDED and claim["group"] not in ("arithmetic", "sanity")]
    decided = [claim for claim in said if this in claim["runs"]]
    return [claim for claim in decided if claim["published"]] or [claim for claim in decided if claim["source"] != OURS]
