"""An entry of the registry: one claim as data, and what its measure hands to the rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lolm import LolmError
from lolm.analysis.statistics import Estimate
from lolm.claims.cost import Counting
from lolm.claims.ledger import NOT_RUN, UNTESTABLE, Claim, Control, Quantity
from lolm.claims.rules import Rule
from lolm.config import AnalysisConfig
from lolm.records.results import RunRecord, ScaleResults

ALONE = "these runs hold no LOLM"
NO_PAIR = "these runs hold no pair of a LOLM and a baseline with a common seed"


class Undecided(LolmError):
    """A measure has nothing to measure; the message says what is missing."""

    verdict = NOT_RUN


class NotRun(Undecided):
    """A run or a measurement that the claim takes was not made."""


class NotTestable(Undecided):
    """No run of this scale can show it."""

    verdict = UNTESTABLE


@dataclass(frozen=True)
class Reading:
    """What a measure found.

    Attributes:
        sound: our number under the sound definition: over seeds, exact, or None without one.
        published: the same under the published definition.
        judged: what the rule looks at, where that is not ``sound`` itself.
        verdict, why: decided by the measure itself, where no rule fits.
        rule: of such a verdict, where it is that of one number against a threshold: what the entry's rule is elsewhere.
        values: fill the braces of the entry's texts.
        more: what ``why`` goes on with.
        note, published_note: of the two numbers.
        rule_note: what the rule's text goes on with.
    """

    sound: Estimate | float | None = None
    published: Estimate | float | None = None
    runs: Sequence[RunRecord] = ()
    judged: Estimate | None = None
    verdict: str | None = None
    why: str | None = None
    rule: Rule | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    more: str = ""
    note: str | None = None
    published_note: str | None = None
    rule_note: str = ""
    details: Mapping[str, Quantity] = field(default_factory=dict)
    controls: tuple[Control, ...] = ()


@dataclass(frozen=True)
class Context:
    """What a measure may look at: the results of a study, its own entry, the registry for what is asked beside it, and
    what counts FLOPs of runs that were not made, if there is one."""

    results: ScaleResults
    entry: Entry
    entries: Mapping[str, Entry]
    decide: Callable[[Entry], Claim]
    counting: Counting | None = None

    @property
    def analysis(self) -> AnalysisConfig:
        return self.results.analysis

    @property
    def confidence(self) -> float:
        return self.results.analysis.confidence

    def subject(self) -> tuple[RunRecord, ...]:
        """Runs of the study's subject.

        Raises:
            NotRun: there are none.
        """
        runs = self.results.of(self.results.subject) if self.results.subject else ()
        if not runs:
            raise NotRun(ALONE)
        return runs

    def pairs(self) -> tuple[tuple[RunRecord, RunRecord], ...]:
        """(subject, baseline) by seed.

        Raises:
            NotRun: there are none.
        """
        pairs = self.results.pairs(self.results.subject, self.results.baseline)
        if not pairs:
            raise NotRun(NO_PAIR)
        return pairs


Measure = Callable[[Context], Reading]


@dataclass(frozen=True)
class Entry:
    """One claim.

    Attributes:
        measure: reads our numbers from the results of a study; a :class:`~lolm.claims.measures.training.Contrast` names arm or
            factor, which is all that most claims on training take.
        study: that tests it, a key of ``studies`` in ``params.yaml``.
        rule: decides; None where the measure does, then ``rule_text`` says how.
        unit, definition: of our number under a sound definition; ``published_*`` under the published one. Braces are filled with
            the reading's values.
        lead: what is judged, in words: ``why`` is "<lead>: <where the interval lies>."
        published, stated: keys of ``NUMBERS`` and of ``SOURCES`` in :mod:`lolm.claims.published`.
        caveats: what the verdict leaves open.
        controls: keys of :data:`lolm.claims.controls.CONTROLS`.
        further_study, further_scale: where more is to be had: what the controls take, or the next size.
        scale: of a level of one published model, its preset; elsewhere no run can show it.
        pair: whether it is held against the study's baseline, which has to be a model without a latent stream.
        recipe: whether it speaks of the recipe of its study's arms, so that arms of another recipe say nothing of it.
        modern: the same statement against the modern Transformer, where that is asked too.
        fact, against, trained_for: as of :class:`~lolm.claims.ledger.Claim`.
    """

    id: str
    group: str
    statement: str
    measure: Measure
    study: str = "main"
    rule: Rule | None = None
    rule_text: str = ""
    unit: str = "nats"
    definition: str = ""
    lead: str = ""
    published: tuple[str, ...] = ()
    published_unit: str = ""
    published_definition: str = ""
    stated: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()
    further_study: str | None = None
    further_scale: str | None = None
    figure: str | None = None
    scale: str | None = None
    pair: bool = False
    recipe: bool = False
    modern: str = ""
    fact: str | None = None
    against: bool = False
    trained_for: bool = False

    def arms(self, results: ScaleResults) -> tuple[str, ...]:
        """Arms whose runs it takes in a study."""
        study = results.params.selected
        asked = getattr(self.measure, "arms", None)
        if asked is not None:
            return asked(results)
        return (study.subject, study.baseline) if self.pair else (study.subject,)
