"""Levels of single published models: losses, gates, live codes, at each published size.

A level belongs to one model. At its preset it is tested; elsewhere these runs show their own number beside it, without verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lolm.analysis.efficiency import final_training_loss, window_rows
from lolm.analysis.statistics import Estimate, t_interval
from lolm.claims.ledger import (
    Claim,
    Control,
    Quantity,
    below,
    runs_of,
    show,
    untestable,
    why_of,
    within,
)
from lolm.claims.published import NUMBERS
from lolm.claims.required_runs import needs
from lolm.records.results import RunRecord, ScaleResults

SIZES = {"20m": "20.5M", "149m": "149M", "304m": "304M", "1570m": "1.57B"}


@dataclass(frozen=True)
class Level:
    """One printed level.

    Attributes:
        id, statement: of the claim; key: of the published number.
        scale: the preset it belongs to.
        kind: ``loss`` (training loss at most that), ``gate``, ``codes``: equal to it within a margin.
        baseline: whether it is the baseline's.
    """

    id: str
    statement: str
    key: str
    scale: str
    kind: str
    baseline: bool = False


def _levels() -> tuple[Level, ...]:
    short = {"20m": "20m", "149m": "149m", "304m": "304m", "1570m": "157b"}
    made = []
    for scale, end in short.items():
        size, nats, gate, codes = SIZES[scale], NUMBERS[f"nats_{end}"], NUMBERS[f"gate_{end}"], NUMBERS[f"codes_{end}"]
        made += [
            Level(
                f"level_loss_{end}",
                f"LOLM at {size} reaches a training loss of {nats.value:.2f} nats.",
                f"nats_{end}",
                scale,
                "loss",
            ),
            Level(f"level_gate_{end}", f"The mean gate of LOLM at {size} is {gate.value:g}.", f"gate_{end}", scale, "gate"),
            Level(
                f"level_codes_{end}",
                f"Of the regime codes at {size}, {'all' if codes.value == 1 else 'one'} "
                f"{'are' if codes.value == 1 else 'is'} alive.",
                f"codes_{end}",
                scale,
                "codes",
            ),
        ]
    statement = "The 1.57B baseline reaches a training perplexity of 39.1."
    return (*made, Level("level_baseline_157b", statement, "nats_baseline_157b", "1570m", "loss", True))


LEVELS = _levels()


def claims(results: ScaleResults) -> list[Claim]:
    """One entry a level."""
    return [_claim(results, level) for level in LEVELS]


def _claim(results: ScaleResults, level: Level) -> Claim:
    arm = results.baseline if level.baseline else results.subject
    runs = results.of(arm) if arm else ()
    read, unit, definition = _reading(results, level.kind)
    values = [read(run) for run in runs]
    known = bool(values) and None not in values
    found = t_interval(values, results.analysis.confidence) if known else None  # type: ignore[arg-type]
    size = SIZES[level.scale]
    if results.scale != level.scale or found is None:
        ours = None
        if found is not None:
            ours = Quantity.of(found, unit, f"the same of these runs at scale {results.scale}, another model: {definition}")
        where = f"The number is that of the {size} model, {NUMBERS[level.key].where}; "
        where += (
            f"these runs are of scale {results.scale}."
            if results.scale != level.scale
            else "these runs hold no such measurement."
        )
        return untestable(
            level.id,
            "levels",
            level.statement,
            (level.key,),
            where,
            needs(results.params, level.scale, "main"),
            as_published=ours,
        )
    return _judged(results, level, runs, found, unit, definition)


def _judged(results: ScaleResults, level: Level, runs: Sequence[RunRecord], found: Estimate, unit: str, definition: str) -> Claim:
    published, margin = NUMBERS[level.key].value, results.analysis.gate_margin
    if level.kind == "codes":  # by half a code: with 24 or more, gate_margin is wider than one
        margin = min(margin, 0.5 / runs[0].config["run"]["size"]["regime"]["codes"])
    if level.kind == "loss":
        verdict, rule = below(found, published), "holds if the interval lies below the printed loss, fails if none of it does"
        why = f"Training loss: {why_of(found, published, 'nats')}."
    else:
        rule = f"holds if the whole interval lies within {margin:.2g} of the printed level, fails if none of it does"
        verdict = within(found, published, margin)
        why = f"Here {show(found.value, unit)}; printed {show(published, unit)}: {verdict} within ±{margin:.2g}."
    sentence = "Another text, vocabulary, recipe or length of training moves a level; the preset's differ in part."
    text = Quantity(
        float(runs[0].rows[-1]["tokens"]), "tokens", f"training tokens of each run; published: {NUMBERS[level.key].where}"
    )
    return Claim(
        level.id,
        "levels",
        level.statement,
        (level.key,),
        None,
        Quantity.of(found, unit, definition),
        verdict,
        why,
        rule,
        runs_of(runs),
        controls=(Control("tokens trained on", text, sentence),),
    )


def _reading(results: ScaleResults, kind: str) -> tuple[Callable[[RunRecord], float | None], str, str]:
    window = results.analysis.published_window

    def last(run: RunRecord, metric: str) -> float | None:
        values = run.points(metric)[1][-window_rows(run, window) :]
        return sum(values) / len(values) if values else None

    def codes(run: RunRecord) -> float | None:
        alive, size = run.points("regime/alive")[1], run.config["run"]["size"].get("regime")
        return alive[-1] / size["codes"] if alive and size else None

    if kind == "loss":
        return (
            lambda run: final_training_loss(run, window),
            "nats",
            "training loss over the published window at the end of the run",
        )
    if kind == "gate":
        return lambda run: last(run, "gate/mean"), "gate", "mean over training batches at the end of the run"
    return codes, "share", "distinct argmax codes of Gumbel samples in the last log window, over all codes"
