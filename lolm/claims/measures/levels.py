"""Levels of single published models: losses, gates, live codes."""

from __future__ import annotations

from dataclasses import dataclass

from lolm.analysis.efficiency import final_training_loss, window_rows
from lolm.analysis.statistics import t_interval
from lolm.claims.entry import Context, NotRun, Reading
from lolm.claims.ledger import Control, Quantity
from lolm.claims.measures.common import needed
from lolm.claims.numbers import show
from lolm.claims.published import NUMBERS
from lolm.claims.rules import below, why_of, within
from lolm.records import names
from lolm.records.results import RunRecord, ScaleResults

DEFINITIONS = {
    "loss": ("nats", "training loss over the published window at the end of the run"),
    "gate": ("gate", "mean over training batches at the end of the run"),
    "codes": ("share", "distinct argmax codes of Gumbel samples in the last log window, over all codes"),
}


@dataclass(frozen=True)
class Level:
    """One printed level.

    Attributes:
        kind: ``loss`` (training loss at most that), ``gate``, ``codes``: equal to it within a margin.
        baseline: whether it is the baseline's.
    """

    kind: str
    baseline: bool = False

    def arms(self, results: ScaleResults) -> tuple[str, ...]:
        study = results.params.selected
        return (study.baseline if self.baseline else study.subject,)

    def __call__(self, context: Context) -> Reading:
        results, key = context.results, context.entry.published[0]
        arm, window = (results.baseline if self.baseline else results.subject), context.analysis.published_window
        runs = results.of(arm) if arm else ()
        missing = f"the number is {NUMBERS[key].where}; these runs hold no such measurement"
        found = t_interval(needed(runs, lambda run: self._read(run, window), missing), context.confidence)
        published, margin, unit = NUMBERS[key].value, context.analysis.gate_margin, context.entry.unit
        if self.kind == "loss":
            verdict, why = below(found, published), f"Training loss: {why_of(found, published, 'nats')}."
            rule = "holds if the whole interval lies below the printed loss, fails if none of it does"
        else:
            if self.kind == "codes":  # by half a code: with 24 or more, gate_margin is wider than one
                margin = min(margin, 0.5 / _codes(runs[0]))
            verdict = within(found, published, margin)
            why = f"Here {show(found.value, unit)}; printed {show(published, unit)}: {verdict} within ±{margin:.2g}."
            rule = f"holds if the whole interval lies within {margin:.2g} of the printed level, fails if none of it does"
        sentence = "Another text, vocabulary, recipe or length of training moves a level; the preset's differ in part."
        text = f"training tokens of each run; published: {NUMBERS[key].where}"
        tokens = Control("tokens trained on", Quantity(float(runs[0].rows[-1]["tokens"]), "tokens", text), sentence)
        return Reading(found, runs=runs, verdict=verdict, why=why, values={"level_rule": rule}, controls=(tokens,))

    def _read(self, run: RunRecord, window: int) -> float | None:
        if self.kind == "loss":
            return final_training_loss(run, window)
        if self.kind == "gate":
            values = run.points(names.GATE_LEVEL)[1][-window_rows(run, window) :]
            return sum(values) / len(values) if values else None
        alive = run.points(names.REGIME_ALIVE)[1]
        return alive[-1] / _codes(run) if alive and run.header.run.size.regime else None


def _codes(run: RunRecord) -> int:
    size = run.header.run.size.regime
    if size is None:
        raise NotRun(f"{run.name} has no regime codes")
    return size.codes
