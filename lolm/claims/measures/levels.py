"""Levels of single published models at one step: losses, gates, live codes, the contrastive loss."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lolm.analysis.in_curve import constant_until, training_loss, window_mean
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
    "loss": ("nats", "training loss over the published window"),
    "gate": ("gate", "mean over training batches"),
    "codes": ("share", "distinct argmax codes of Gumbel samples in one log window, over all codes"),
    "cpc": ("nats", "contrastive loss over the published window"),
    "cpc_excess": ("nats", "contrastive loss over the published window minus ln n, n the candidates offered"),
}
LOSSES = ("loss", "cpc", "cpc_excess")  # claimed to be at most that; the others equal to it within a margin
METRICS = {"gate": names.GATE_LEVEL, "codes": names.REGIME_ALIVE, "cpc": names.train_term(names.FUTURE)}


@dataclass(frozen=True)
class Level:
    """One printed level, read at the step it was printed for.

    Attributes:
        kind: a key of DEFINITIONS.
        step: it was printed for; on a run of another scale, the same share of the steps before the rate decays.
        of: steps of the published run, of which that share is taken; None: ``step`` itself, which stands for its end.
        baseline: whether it is the baseline's; ``arm``: whose it is, if neither the subject's nor the baseline's.
        threshold: in the printed number's place, where that is no level.
    """

    kind: str
    step: int
    of: int | None = None
    baseline: bool = False
    arm: str | None = None
    threshold: float | None = None

    def arms(self, results: ScaleResults) -> tuple[str, ...]:
        study = results.params.selected
        return (self.arm or (study.baseline if self.baseline else study.subject),)

    def __call__(self, context: Context) -> Reading:
        results, key = context.results, context.entry.published[0]
        runs, window = results.of(self.arms(results)[0]), context.analysis.published_window
        missing = f"the number is {NUMBERS[key].where}; these runs hold no such measurement"
        own = context.entry.scale == results.scale
        ends = [self.step if own else constant_until(run) * self.step / (self.of or self.step) for run in runs]
        at = {run.seed: end for run, end in zip(runs, ends, strict=True)}
        found = t_interval(needed(runs, lambda run: self._read(run, window, at[run.seed]), missing), context.confidence)
        published = NUMBERS[key].value if self.threshold is None else self.threshold
        margin, unit = context.analysis.gate_margin, context.entry.unit
        if self.kind in LOSSES:
            verdict, why = below(found, published), f"At step {ends[0]:,.0f}: {why_of(found, published, 'nats')}."
            rule = f"holds if the whole interval lies below {show(published, 'nats')}, fails if none of it does"
        else:
            if self.kind == "codes":  # by half a code: with 24 or more, gate_margin is wider than one
                margin = min(margin, 0.5 / _codes(runs[0]))
            verdict = within(found, published, margin)
            why = f"Here {show(found.value, unit)}; printed {show(published, unit)}: {verdict} within ±{margin:.2g}."
            rule = f"holds if the whole interval lies within {margin:.2g} of the printed level, fails if none of it does"
        sentence = "Another text, vocabulary, recipe or length of training moves a level; the preset's differ in part."
        text = f"training tokens of each run by its end; published: {NUMBERS[key].where}"
        tokens = Control("tokens trained on", Quantity(float(runs[0].rows[-1]["tokens"]), "tokens", text), sentence)
        values = {"level_rule": rule, "step": ends[0]}
        return Reading(found, runs=runs, verdict=verdict, why=why, values=values, controls=(tokens,))

    def _read(self, run: RunRecord, window: int, until: float) -> float | None:
        if self.kind == "loss":
            return training_loss(run, window, until)
        if self.kind == "codes":
            last = window_mean(run, METRICS["codes"], 1, until)
            return last / _codes(run) if last is not None and run.header.run.size.regime else None
        mean = window_mean(run, METRICS[self.kind.removesuffix("_excess")], window, until)
        if mean is None or self.kind != "cpc_excess":
            return mean
        summary = None if run.evaluation is None else run.evaluation.cpc
        return None if summary is None else mean - math.log(summary.candidates)


def _codes(run: RunRecord) -> int:
    size = run.header.run.size.regime
    if size is None:
        raise NotRun(f"{run.name} has no regime codes")
    return size.codes
