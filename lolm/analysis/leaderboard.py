"""Every arm in one table, best test loss first: loss, corrected comparisons, multipliers; then size and cost, context, recall.

One comparison is declared before the runs (the study's subject against its baseline) and stands uncorrected. All others of an arm
against the subject explore, and their p values are adjusted together by Holm's procedure.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from lolm.analysis.efficiency import at_budgets, timed
from lolm.analysis.recall import attempt
from lolm.analysis.statistics import Estimate, complete_interval, holm, p_value, solved
from lolm.analysis.uncertainty import final_bits, final_loss, loss_difference
from lolm.records.escape import csv_cell
from lolm.records.names import TASKS
from lolm.records.results import RunRecord, ScaleResults
from lolm.records.schema import Evaluation

LENGTHS = (2, 4)  # windows of the length extrapolation that get a column, in training windows


@dataclass(frozen=True)
class Comparison:
    """Test loss of an arm minus the subject's, paired by seed.

    ``p_value`` is Holm-adjusted over all exploratory comparisons; of the declared one it is as it is. None with one seed.
    """

    difference: Estimate
    p_value: float | None
    declared: bool


@dataclass(frozen=True)
class Entry:
    """One arm. Losses in nats a token unless their name says bits a byte; None where it was not measured in every run.

    Attributes:
        runs: that were made; ``diverged``, those whose loss was not finite.
        rate_inside: whether the sweep's best rate lies inside its grid; None where no sweep was made.
        multiplier: baseline's FLOPs over the arm's at the largest budget that can be measured, that of ``multiplier_steps``; None
            for the baseline itself, and where it would have to be extrapolated; ``multiplier_seconds`` the same in seconds.
        seconds: of training a run, and ``tokens_per_second`` of it, on whatever machine ran, with ``kernels``; None where runs
            were made side by side.
        context: bits a byte in the last quarter of the window minus those in the first; below 0, context helps.
        lengths: by multiple of the training window, loss of the targets beyond the training length in windows that long, minus
            the loss of the same targets in windows of the training length; above 0, the model does not carry over.
        accuracy: by recall task, share of the asked positions; ``solved``, share of the runs that solve it, with the exact
            interval; ``diverged_tasks``, in how many runs training on it diverged.
        distinct_2: distinct bigrams of words over all, within a generated text; ``distinct_2_real`` that of the text's own words.
    """

    arm: str
    label: str
    runs: int
    diverged: int
    parameters: int
    parameters_active: int
    flops_per_token: float
    state_bytes: int
    learning_rate: float
    rate_inside: bool | None
    nats: Estimate | None
    bits_per_byte: Estimate | None
    comparison: Comparison | None
    multiplier: Estimate | None
    multiplier_steps: int | None
    multiplier_seconds: Estimate | None
    seconds: float | None
    kernels: tuple[str, ...]
    tokens_per_second: float | None
    context: Estimate | None
    lengths: dict[int, Estimate | None]
    accuracy: dict[str, Estimate | None]
    solved: dict[str, Estimate | None]
    diverged_tasks: dict[str, int]
    distinct_2: Estimate | None
    distinct_2_real: Estimate | None


def leaderboard(results: ScaleResults) -> list[Entry]:
    """All arms by ascending test loss; arms without one last."""
    compared = compare(results)
    entries = [_entry(results, arm, compared.get(arm)) for arm in results.arms]
    return sorted(entries, key=lambda entry: math.inf if entry.nats is None else entry.nats.value)


def compare(results: ScaleResults) -> dict[str, Comparison]:
    """Each arm against the study's subject, over the seeds whose runs both have a test loss."""
    differences: dict[str, Estimate] = {}
    for arm in results.arms:
        found = loss_difference(results, arm, results.subject) if results.subject and arm != results.subject else None
        if found is not None:
            differences[arm] = found
    raw = {arm: p_value(difference) for arm, difference in differences.items()}
    exploratory = {arm: p for arm, p in raw.items() if arm != results.baseline and p is not None}
    adjusted = dict(zip(exploratory, holm(list(exploratory.values())), strict=True))
    return {
        arm: Comparison(difference, adjusted.get(arm, raw[arm]), arm == results.baseline)
        for arm, difference in differences.items()
    }


def _entry(results: ScaleResults, arm: str, comparison: Comparison | None) -> Entry:
    runs, sweep = results.of(arm), results.sweeps.get(arm)
    header = runs[0].header

    def over_seeds(read: Callable[[RunRecord], float | None]) -> Estimate | None:
        return complete_interval(map(read, runs), results.analysis.confidence)

    def evaluated(read: Callable[[Evaluation], float | None]) -> Estimate | None:
        return over_seeds(lambda run: None if run.evaluation is None else read(run.evaluation))

    pairs = results.pairs(arm, results.baseline) if arm != results.baseline else ()
    multipliers = {axis: at_budgets(pairs, axis, results.analysis.confidence, results) for axis in ("flops", "seconds")}
    largest, in_seconds = (multipliers[axis].largest for axis in ("flops", "seconds"))
    speed = over_seeds(lambda run: run.summary.tokens_per_second)
    return Entry(
        arm=arm,
        label=results.label(arm),
        runs=len(runs),
        diverged=sum(run.arm == arm for run in results.diverged),
        parameters=header.parameters.total,
        parameters_active=header.parameters.active,
        flops_per_token=header.flops_per_token.training,
        state_bytes=header.state_bytes,
        learning_rate=header.run.size.learning_rate,
        rate_inside=None if sweep is None else sweep.inside,
        nats=final_loss(results, arm),
        bits_per_byte=final_bits(results, arm),
        comparison=comparison,
        multiplier=None if largest is None else largest.estimate,
        multiplier_steps=None if largest is None else largest.steps,
        multiplier_seconds=None if in_seconds is None else in_seconds.estimate,
        seconds=math.fsum(run.summary.seconds for run in runs) / len(runs) if timed(runs) else None,
        kernels=tuple(sorted({run.header.kernels for run in runs})),
        tokens_per_second=None if speed is None or not timed(runs) else speed.value,
        context=evaluated(_context),
        lengths={length: evaluated(partial(_extrapolated, length=length)) for length in LENGTHS},
        accuracy={task: _share(over_seeds(lambda run, t=task: run.accuracy(t))) for task in TASKS},  # type: ignore[misc]
        solved={task: _solved(results, runs, task) for task in TASKS},
        diverged_tasks={task: sum(task in run.diverged_tasks for run in runs) for task in TASKS},
        distinct_2=_share(evaluated(lambda found: None if found.samples is None else found.samples.generated.distinct_2)),
        distinct_2_real=_share(evaluated(lambda found: None if found.samples is None else found.samples.real.distinct_2)),
    )


def _solved(results: ScaleResults, runs: Iterable[RunRecord], task: str) -> Estimate | None:
    """Over the runs that were trained on a task; one that diverged did not solve it."""
    found = [accuracy for run in runs if (accuracy := attempt(run, task)) is not None]
    return solved(found, results.analysis.solved_accuracy, results.analysis.confidence) if found else None


def _share(estimate: Estimate | None) -> Estimate | None:
    """The estimate of a share, whose interval cannot leave [0, 1]."""
    return None if estimate is None else estimate.map(lambda share: min(1.0, max(0.0, share)))


def _context(evaluation: Evaluation) -> float | None:
    return _minus(evaluation.positions.late.bits_per_byte, evaluation.positions.early.bits_per_byte)


def _extrapolated(evaluation: Evaluation, length: int) -> float | None:
    score = evaluation.lengths.windows.get(str(length))
    return None if score is None or score.beyond is None else score.beyond.nats - score.beyond.nats_trained


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def flat(entry: Entry) -> dict[str, Any]:
    """An entry as flat columns; an estimate is its mean, followed by ``_low`` and ``_high``, which are None without an interval.

    In the order a reader asks: how low the loss is, against whom, at what cost to the same loss; size and cost; the rest.
    """
    comparison = entry.comparison
    return {
        **_spread("test_nats", entry.nats),
        **_spread("bits_per_byte", entry.bits_per_byte),
        **_spread("minus_subject_nats", None if comparison is None else comparison.difference),
        "minus_subject_p": None if comparison is None else comparison.p_value,
        "minus_subject_p_adjusted": None if comparison is None else not comparison.declared,
        **_spread("flops_multiplier", entry.multiplier),
        "flops_multiplier_steps": entry.multiplier_steps,
        **_spread("seconds_multiplier", entry.multiplier_seconds),
        "runs": entry.runs,
        "runs_diverged": entry.diverged,
        "parameters": entry.parameters,
        "parameters_active": entry.parameters_active,
        "training_flops_per_token": entry.flops_per_token,
        "state_bytes": entry.state_bytes,
        "seconds": entry.seconds,
        "tokens_per_second": entry.tokens_per_second,
        "kernels": " ".join(entry.kernels),
        "learning_rate": entry.learning_rate,
        "rate_inside_grid": entry.rate_inside,
        **_spread("late_minus_early_bits_per_byte", entry.context),
        **{k: v for length, found in entry.lengths.items() for k, v in _spread(f"length_{length}x_nats", found).items()},
        **{k: v for task, found in entry.accuracy.items() for k, v in _spread(f"{task}_accuracy", found).items()},
        **{k: v for task, found in entry.solved.items() for k, v in _spread(f"{task}_solved", found).items()},
        **{f"{task}_diverged": count for task, count in entry.diverged_tasks.items()},
        **_spread("distinct_2", entry.distinct_2),
        **_spread("distinct_2_real", entry.distinct_2_real),
    }


def _spread(name: str, found: Estimate | None) -> dict[str, float | None]:
    low, high = (None, None) if found is None or found.interval is None else found.interval
    return {name: None if found is None else found.value, f"{name}_low": low, f"{name}_high": high}


def table(entries: Iterable[Entry]) -> str:
    """``leaderboard.csv``: one line an arm."""
    rows = [{"arm": entry.arm, "label": csv_cell(entry.label)} | flat(entry) for entry in entries]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def metrics(entries: Iterable[Entry]) -> dict[str, dict[str, float]]:
    """``leaderboard.json``: by arm, best first, its means as numbers, for `dvc metrics show` and `dvc metrics diff`."""
    kept = {}
    for entry in entries:
        numbers = {k: v for k, v in flat(entry).items() if isinstance(v, int | float) and not isinstance(v, bool)}
        kept[entry.arm] = {k: v for k, v in numbers.items() if not k.endswith(("_low", "_high", "_steps", "_diverged"))}
    return kept
