"""The data behind each figure, as pandas tables read by column: for the page, for `dvc plots`, and for notebooks.

Each function makes one table of a study's results; without the measurement it has its columns and no row. A row is one
measurement of one run, so that means over seeds are left to the reader; ``low`` and ``high``, alike in all rows of a mean, are
the interval that the page prints beside it. Losses are nats a token unless a column's name says otherwise; empty cells were not
measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from lolm.analysis import efficiency as eff
from lolm.analysis.effects import OUTCOMES, arm_effects, main_effects
from lolm.analysis.in_curve import heldout_curve
from lolm.analysis.statistics import Estimate
from lolm.analysis.uncertainty import final_bits
from lolm.records import AXES, names
from lolm.records.results import ScaleResults
from lolm.records.schema import References

LADDER = ("uniform", "unigram", "bigram")  # trivial models, worst first
REFERENCES = {
    "uniform": "uniform guess",
    "unigram": "unigram",
    "bigram": "bigram",
    "bigram_all_text": "bigram, whole training text",
}
CODE_COUNTS = {
    "sampled": "Gumbel samples (as published)",
    "noise": "pure noise, same sampling",
    "eval": "evaluation mode, no noise",
}
GATE_SERIES = {names.GATE_LEVEL: "training batches", names.GATE_TARGET: "supervised target", names.VAL_GATE_MEAN: "held-out"}


def table(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A table with these columns; what is missing in a row is empty, and whole numbers stay whole beside empty cells."""
    table = pd.DataFrame([[row.get(column) for column in columns] for row in rows], columns=list(columns))
    empty = table.columns[table.isna().all()]
    table[empty] = table[empty].astype(float)  # of objects None, which compares with no number
    for column in ("seed", "step"):
        if column in table:
            table[column] = table[column].astype("Int64")
    return table


def ends(found: Estimate | None) -> dict[str, float | None]:
    """The interval of an estimate as the cells ``low`` and ``high``, empty without one."""
    low, high = (found.interval if found else None) or (None, None)
    return {"low": low, "high": high}


def references(results: ScaleResults, split: str = "test") -> dict[str, float]:
    """Mean loss of each trivial model over the evaluated runs, nats a token; ``split`` is ``test`` or ``validation``."""
    found = [run.evaluation for run in results.runs if run.evaluation is not None]
    return mean_references([e.references if split == "test" else e.references_validation for e in found])


def mean_references(losses: Sequence[References]) -> dict[str, float]:
    """Mean loss of each trivial model; none without a loss."""
    return {name: math.fsum(getattr(one, name) for one in losses) / len(losses) for name in REFERENCES} if losses else {}


# ---------------------------------------------------------------------------------------------- training and its end


def test_loss(results: ScaleResults) -> pd.DataFrame:
    """Test loss of every run, and of trivial models on the same tokens (``kind`` is ``reference``).

    ``low`` and ``high`` are the leaderboard's interval of the arm's bits per byte.
    """
    intervals = {arm: ends(final_bits(results, arm)) for arm in results.arms}
    rows: list[dict[str, Any]] = [
        {"kind": "run", "arm": run.arm, "seed": run.seed, "bits_per_byte": e.test.bits_per_byte, "nats": e.test.nats}
        | intervals[run.arm]
        for run in results.runs
        if (e := run.evaluation) is not None
    ]
    factor = rows[0]["bits_per_byte"] / rows[0]["nats"] if rows else 0.0  # the same test tokens for every run
    for name, nats in references(results).items():
        rows.append({"kind": "reference", "arm": name, "seed": None, "bits_per_byte": nats * factor, "nats": nats})
    return table(("kind", "arm", "seed", "bits_per_byte", "nats", "low", "high"), rows)


def learning_curves(results: ScaleResults) -> pd.DataFrame:
    """Validation loss during training against all four costs."""
    return table(
        ("arm", "seed", *AXES, "val_nats", "val_bits_per_byte"),
        (
            {"arm": run.arm, "seed": run.seed, "val_nats": row[names.VAL_NATS]}
            | {"val_bits_per_byte": row.get(names.VAL_BITS_PER_BYTE)}
            | {axis: row[axis] for axis in AXES}
            for run in results.runs
            for row in run.rows
            if names.VAL_NATS in row
        ),
    )


def schedule_ends(results: ScaleResults) -> pd.DataFrame:
    """Loss where each learning-rate schedule ended, on the split that all runs have there."""
    split = eff.annealed_split(results.runs)
    rows = []
    for run in results.runs:
        steps, flops = run.annealed(split) or ([], []), run.annealed(split, "flops") or ([], [])
        for step, spent, nats in zip(steps[0], flops[0], steps[1], strict=True):
            rows.append({"arm": run.arm, "seed": run.seed, "step": step, "flops": spent, "split": split, "nats": nats})
    return table(("arm", "seed", "step", "flops", "split", "nats"), rows)


def multipliers(results: ScaleResults) -> pd.DataFrame:
    """FLOPs of the baseline over the arm's at every common end of schedule; ``not_measured`` says why there is none."""
    columns = ("arm", "step", "baseline_flops", "multiplier", "low", "high", "not_measured")
    rows = []
    for arm in results.arms:
        pairs = results.pairs(arm, results.baseline) if arm != results.baseline else ()
        for point in eff.at_budgets(pairs, "flops", results.analysis.confidence, results).points if pairs else ():
            value = None if point.estimate is None else point.estimate.value
            rows.append(
                {"arm": arm, "step": point.steps, "baseline_flops": point.baseline, "multiplier": value}
                | {"not_measured": point.reason}
                | ends(point.estimate)
            )
    return table(columns, rows if any(row["multiplier"] is not None for row in rows) else ())


def lead(results: ScaleResults) -> pd.DataFrame:
    """Loss of the subject minus the baseline's during training; cost ratios to the loss the baseline has at a step."""
    pairs, rows = results.pairs(results.subject, results.baseline), []
    for subject, base in pairs:
        ours, theirs = (dict(zip(*run.points(names.VAL_NATS), strict=True)) for run in (subject, base))
        rows += [
            {"quantity": "difference", "seed": subject.seed, "step": step, "value": ours[step] - theirs[step]}
            for step in sorted(set(ours) & set(theirs))
            if step > 0
        ]
    for axis in ("step", "flops"):
        for subject, base in pairs:
            steps = dict(zip(heldout_curve(base, axis).positions, heldout_curve(base, "step").positions, strict=True))
            rows += [
                {"quantity": f"multiplier in {axis}", "seed": subject.seed, "step": steps[position], "value": value}
                for position, value in eff.along(heldout_curve(base, axis), heldout_curve(subject, axis))
                if value
            ]
    return table(("quantity", "seed", "step", "value"), rows)


# ---------------------------------------------------------------------------------------------- all arms side by side


def recall(results: ScaleResults) -> pd.DataFrame:
    """Accuracy in each recall task; empty where that run diverged."""
    return table(
        ("task", "arm", "seed", "state_elements", "accuracy", "chance", "nats"),
        (
            {"task": task, "arm": run.arm, "seed": run.seed, "state_elements": run.recall.state_elements}
            | {"accuracy": scores.accuracy, "chance": scores.chance, "nats": scores.nats}
            for run in results.runs
            if run.recall is not None
            for task, scores in run.recall.tasks.items()
        ),
    )


def by_position(results: ScaleResults) -> pd.DataFrame:
    """Test loss over ranges of positions in the window, ``start`` to ``stop`` − 1."""
    return table(
        ("arm", "seed", "start", "stop", "nats", "bits_per_byte", "accuracy"),
        (
            {"arm": run.arm, "seed": run.seed, "start": part.start, "stop": part.stop, "nats": part.nats}
            | {"bits_per_byte": part.bits_per_byte, "accuracy": part.accuracy}
            for run in results.runs
            if run.evaluation is not None
            for part in run.evaluation.positions.bins
        ),
    )


def rates(results: ScaleResults) -> pd.DataFrame:
    """Validation loss at each peak learning rate of each sweep; empty where training diverged."""
    return table(
        ("arm", "learning_rate", "nats", "chosen", "inside"),
        (
            {"arm": sweep.arm, "learning_rate": rate.learning_rate, "nats": rate.nats}
            | {"chosen": rate.learning_rate == sweep.chosen, "inside": sweep.inside}
            for sweep in {sweep.arm: sweep for sweep in results.sweeps.values()}.values()
            for rate in sorted(sweep.rates, key=lambda rate: rate.learning_rate)
        ),
    )


def training_arms(results: ScaleResults) -> pd.DataFrame:
    """Arms of the subject's family minus the subject, or main effects of a design, in every outcome; p as it is and by Holm.

    One row a pair of runs with the same seed; the difference is the mean of ``value`` over them.
    """
    design = bool(results.params.selected.factors)
    read = main_effects if design else arm_effects
    family = {arm for arm in results.arms if results.subject and results.family(arm) == results.family(results.subject)}
    rows = []
    for key, outcome in OUTCOMES.items() if results.subject and results.family(results.subject) == "lolm" else ():
        for effect in read(results, key):
            if design or effect.name in family:
                rows += [
                    {"arm_or_factor": effect.name, "key": key, "outcome": outcome.name, "unit": outcome.unit, "pair": pair}
                    | {"value": value, "difference": effect.difference.value, "p": effect.p_value, "p_adjusted": effect.adjusted}
                    | ends(effect.difference)
                    for pair, value in enumerate(effect.difference.per_seed, 1)
                ]
    columns = ("arm_or_factor", "key", "outcome", "unit", "pair", "value", "difference", "low", "high", "p", "p_adjusted")
    return table(columns, rows)


# ---------------------------------------------------------------------------------------------- gate and regime codes


def gate_path(results: ScaleResults) -> pd.DataFrame:
    """Mean gate during training on training batches and held-out text, and the target it is trained to."""
    return table(
        ("arm", "seed", "step", "series", "value"),
        (
            {"arm": run.arm, "seed": run.seed, "step": row["step"], "series": name, "value": row[key]}
            for run in results.runs
            if run.family == "lolm"
            for row in run.rows
            for key, name in GATE_SERIES.items()
            if key in row
        ),
    )


def gate_histogram(results: ScaleResults) -> pd.DataFrame:
    """Gate values over test tokens and dimensions, counted in bins ``from`` … ``to``."""
    return table(
        ("arm", "seed", "from", "to", "count"),
        (
            {"arm": run.arm, "seed": run.seed, "from": edges[i], "to": edges[i + 1], "count": count}
            for run in results.runs
            if run.evaluation is not None and run.evaluation.gate is not None
            for edges in (run.evaluation.gate.histogram.edges,)
            for i, count in enumerate(run.evaluation.gate.histogram.counts)
        ),
    )


def regimes(results: ScaleResults) -> pd.DataFrame:
    """Codes that are ever chosen and the entropy of their usage, counted in three ways."""
    return table(
        ("arm", "seed", "counted", "alive", "codes", "usage_entropy", "max_entropy"),
        (
            {"arm": run.arm, "seed": run.seed, "counted": text, "alive": getattr(regime, f"alive_{kind}")}
            | {
                "codes": regime.codes,
                "usage_entropy": getattr(regime, f"usage_entropy_{kind}"),
                "max_entropy": regime.max_entropy,
            }
            for run in results.runs
            if run.evaluation is not None and (regime := run.evaluation.regime) is not None
            for kind, text in CODE_COUNTS.items()
        ),
    )
