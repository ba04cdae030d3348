"""Records as flat series of points: what a tracker is filled with. Knows the records' schema and no tracker.

What arms are compared by, some forty names a run; the rest stays in the records, where it is some hundreds. Losses are in nats.

``train/ val/ gate/ regime/ moe/ speed/ system/`` over the training step, with ``val/tokens`` for an axis of tokens, and
``annealed/nats`` where a learning-rate schedule ended; ``eval/*`` at the last step; ``position/nats`` over the position in the
window, ``length/nats`` over its length; ``recall/<task>_accuracy``; ``tasks/<task>_*`` of downstream tasks.
``intervention/<name>`` is the loss under it, where the step axis is the strength of a sweep at the final weights (per cent for
the gate, blocks for skipped blocks), or the training step of the weights when there is nothing to sweep; the gate forced to 0,
0.5 and 1 is also given over training. Beside it ``intervention/inversion`` (the statistic, by means) and
``intervention/latent_share`` of the gated signal; ``layers/<type>`` is the damage without all layers of a type, replaced by their
means. The order of names is that of sections in a chart view that nobody has arranged: ``eval`` comes first.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import Any

from lolm.analysis.dependency import statistics
from lolm.records import AXES, names
from lolm.records.schema import Ablation, Downstream, Evaluation, Layers, Recall
from lolm.records.series import Row

SWEPT_OVER_TRAINING = (0.0, 0.5, 1.0)
ABLATIONS_SHOWN = frozenset(
    (
        names.NONE, names.GATE, names.SKIP_LAST_BLOCKS,
        *(names.replaced(stream, names.MEAN) for stream in (names.MEMORY, names.REGIME, *names.BRANCHES)),
    )
)  # fmt: skip
# Of a run's series: the same loss in other units, and what a setting says already.
LEFT_OUT = frozenset(
    (
        *AXES, names.VAL_BITS_PER_BYTE, names.GATE_TARGET, names.REGIME_TAU,
        *(f"{names.ANNEALED}/{value}" for value in ("bits_per_byte", "accuracy", "gate_mean")),
    )
)  # fmt: skip
VAL_TOKENS = "val/tokens"

Point = tuple[str, float, int, float]  # key, value, step, seconds since the run's start


def as_written(rows: Sequence[Row]) -> list[Row]:
    """Rows in the order they were written: the ends of annealed copies come last. So what was sent earlier stays a prefix."""
    end = max((row["step"] for row in rows), default=0)
    return sorted(rows, key=lambda row: names.ANNEALED_NATS in row and row["step"] < end)


def training_points(rows: Iterable[Row]) -> list[Point]:
    """Values of the series at their steps, and the tokens until then where a model was scored."""
    points: list[Point] = []
    for row in rows:
        values = row | ({VAL_TOKENS: row["tokens"]} if names.VAL_NATS in row else {})
        points += [(key, value, int(row["step"]), row["seconds"]) for key, value in values.items() if key not in LEFT_OUT]
    return points


def evaluation_points(evaluation: Evaluation, step: int, seconds: float) -> list[Point]:
    """Losses on the splits beside a bigram's; that of annealed copies over the step at which a schedule ended; by the first
    position of each bin; by the window's tokens."""
    test = evaluation.test
    values = {
        "test_nats": test.nats, "test_bits_per_byte": test.bits_per_byte, "test_accuracy": test.accuracy,
        "validation_nats": evaluation.validation.nats, "bigram_nats": evaluation.references.bigram,
    }  # fmt: skip
    if evaluation.gate is not None:
        values["gate_mean"] = evaluation.gate.mean
    points: list[Point] = [(f"eval/{key}", value, step, seconds) for key, value in values.items()]
    points += [("eval/annealed_test_nats", end.test.nats, end.step, end.seconds) for end in evaluation.schedule_ends]
    points += [("position/nats", part.nats, part.start, seconds) for part in evaluation.positions.bins]
    return points + [("length/nats", window.nats, window.seq_len, seconds) for window in evaluation.lengths.windows.values()]


def recall_points(recall: Recall, step: int, seconds: float) -> list[Point]:
    """``recall/<task>_accuracy`` at a run's last step; of a run that diverged ``_diverged``."""
    points: list[Point] = []
    for name, task in recall.tasks.items():
        values = {"accuracy": task.accuracy, "diverged": 1.0 if task.diverged else None}
        points += [(f"recall/{name}_{key}", value, step, seconds) for key, value in values.items() if value is not None]
    return points


def downstream_points(downstream: Downstream, step: int, seconds: float) -> list[Point]:
    """``tasks/<task>_<metric>`` of each task, and ``_error``, ``_bigram``, ``_chance`` of its main one, at a run's last step."""
    points: list[Point] = []
    for name, task in downstream.tasks.items():
        for metric, found in task.metrics.items():
            key = re.sub(r"[^\w.-]", "_", metric)  # that of a filtered answer has a comma, which MLflow refuses
            points.append((f"tasks/{name}_{key}", found.value, step, seconds))
        main = task.metrics[task.main]
        beside = {"error": main.error, "bigram": main.bigram, "chance": main.chance}
        points += [(f"tasks/{name}_{key}", value, step, seconds) for key, value in beside.items() if value is not None]
    return points


def ablation_points(ablation: Ablation, seconds: float) -> list[Point]:
    """Conditions of an ablation record; the top of this module says which step axis each gets."""
    points: list[Point] = []

    def add(name: str, step: int, nats: float) -> None:
        points.append((f"intervention/{name}", nats, step, seconds))

    for condition in ablation.conditions:
        name, value = condition.intervention, condition.value
        if name not in ABLATIONS_SHOWN:
            continue
        if value is None:
            add(name, condition.step, condition.nats)
            continue
        if condition.step == ablation.steps[-1]:
            add(name, round(value) if name == names.SKIP_LAST_BLOCKS else round(100 * value), condition.nats)
        if name == names.GATE and value in SWEPT_OVER_TRAINING:
            add(f"{names.GATE}_{value:g}", condition.step, condition.nats)
    for step in ablation.steps:
        if (nats := statistics(ablation, step).get(names.MEAN)) is not None:
            add("inversion", step, nats)
    for row in ablation.contributions:
        latent = row.addends.get(names.LATENT)
        if latent is not None and latent.share is not None:
            add("latent_share", row.step, latent.share)
    return points


def layer_points(layers: Layers, seconds: float) -> list[Point]:
    """``layers/<type>``: damage without all layers of a type, replaced by their means, at every checkpoint, nats."""
    found = layers.measured
    values = (
        (f"layers/{kind}", found.damage(sites, names.MEAN, step), step)
        for kind, sites in found.of_type.items()
        for step in found.steps
    )
    return [(name, value, step, seconds) for name, value, step in values if value is not None]


def claim_points(claims: Iterable[dict[str, Any]]) -> list[Point]:
    """``claim/<id>``, and ``_low``, ``_high`` of its interval: our values under the sound definitions."""
    values: dict[str, Any] = {}
    for claim in claims:
        sound = claim.get("sound") or {}
        low, high = sound.get("interval") or (None, None)
        values |= {claim["id"]: sound.get("value"), f"{claim['id']}_low": low, f"{claim['id']}_high": high}
    return [(f"claim/{key}", float(value), 0, 0.0) for key, value in values.items() if isinstance(value, int | float)]


def mean_points(evaluations: Iterable[Evaluation]) -> list[Point]:
    """``mean/<arm>_test_<metric>``: the test split's values averaged over an arm's seeds."""
    groups: dict[str, list[float]] = {}
    for evaluation in evaluations:
        for metric, value in dataclasses.asdict(evaluation.test).items():
            groups.setdefault(f"mean/{evaluation.arm}_test_{metric}", []).append(value)
    return [(key, sum(values) / len(values), 0, 0.0) for key, values in groups.items()]
