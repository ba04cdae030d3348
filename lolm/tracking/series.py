"""Records as flat series of points: what a tracker is filled with. Knows the records' schema and no tracker.

Names: ``train/ val/ gate/ regime/ speed/`` over the training step; ``eval/*`` at the last step; ``ablate/<intervention>/*``,
where the step axis is the intervention's strength for a sweep at the final weights (per cent for the gate, blocks for skipped
blocks), or the training step of the weights when there is nothing to sweep. The gate forced to 0, 0.5 and 1 is also given over
training: ``ablate/gate_0/*``, ``ablate/gate_0.5/*``, ``ablate/gate_1/*``; so is the inversion statistic of each way of removing a
branch, ``ablate/inversion_<way>``, beside the latent branch's share of the gated signal, ``ablate/latent_share``. The controls
stay in the record: there are some hundred.
``annealed/*`` at the steps where a learning-rate schedule ended; ``position/*`` over the position in the window, ``length/*``
over the window's length in tokens; ``recall/<task>_*``; ``downstream/<task>_*``; ``layers/<type>_<replacement>`` over training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from lolm.analysis.dependency import statistics
from lolm.config import flatten
from lolm.records import AXES, names
from lolm.records.schema import Ablation, Condition, Downstream, Evaluation, Layers, Recall
from lolm.records.series import Row

SWEPT_OVER_TRAINING = (0.0, 0.5, 1.0)
ABLATIONS_SHOWN = frozenset(
    (
        names.NONE, names.GATE, names.BLEND_TO_ONE, names.BLEND_TO_ZERO, names.SKIP_LAST_BLOCKS,
        *(names.replaced(stream, by) for stream in (names.MEMORY, names.REGIME) for by in (names.ZERO, names.MEAN)),
        *(names.replaced(branch, names.MEAN) for branch in names.BRANCHES),
    )
)  # fmt: skip
ABLATION_METRICS = ("nats", "bits_per_byte", "accuracy", "kl_to_full")

Point = tuple[str, float, int, float]  # key, value, step, seconds since the run's start


def as_written(rows: Sequence[Row]) -> list[Row]:
    """Rows in the order they were written: the ends of annealed copies come last. So what was sent earlier stays a prefix."""
    end = max((row["step"] for row in rows), default=0)
    return sorted(rows, key=lambda row: names.ANNEALED_NATS in row and row["step"] < end)


def training_points(rows: Iterable[Row]) -> list[Point]:
    """Every value of the series except the axes, at its step."""
    return [(key, value, int(row["step"]), row["seconds"]) for row in rows for key, value in row.items() if key not in AXES]


def evaluation_points(evaluation: Evaluation, step: int, seconds: float) -> list[Point]:
    """Scalars of an evaluation as ``eval/<section>_<name>``, and three of its tables as series over an axis of their own.

    ``eval/annealed_<split>_<metric>`` over the step at which a schedule ended; ``position/<metric>`` over the first position of
    each bin; ``length/<metric>`` over the window's tokens. Other lists (histograms), texts and the scores of single lengths stay
    in the record.
    """
    identity = {"arm", "seed", "fingerprint", "name", "step", "split"}
    points = [(f"eval/{key}", n, step, seconds) for key, n in _numbers(evaluation, {*identity, "schedule_ends", "lengths"})]
    for end in evaluation.schedule_ends:
        points += [(f"eval/annealed_{key}", value, end.step, end.seconds) for key, value in _numbers(end, set(AXES))]
    for part in evaluation.positions.bins:
        points += [(f"position/{key}", value, part.start, seconds) for key, value in _numbers(part, {"start", "stop"})]
    for window in evaluation.lengths.windows.values():
        scores = [score for score in _numbers(window, {"seq_len", "tokens"}) if score[0] != "beyond_tokens"]
        points += [(f"length/{key}", value, window.seq_len, seconds) for key, value in scores]
    return points


def recall_points(recall: Recall, step: int, seconds: float) -> list[Point]:
    """``recall/<task>_accuracy``, ``_nats`` and ``_chance`` of each task, at a run's last step; of a run that diverged, the
    chance level and ``_diverged``."""
    points: list[Point] = []
    for name, task in recall.tasks.items():
        values = {"accuracy": task.accuracy, "nats": task.nats, "chance": task.chance, "diverged": 1.0 if task.diverged else None}
        points += [(f"recall/{name}_{key}", value, step, seconds) for key, value in values.items() if value is not None]
    return points


def downstream_points(downstream: Downstream, step: int, seconds: float) -> list[Point]:
    """``downstream/<task>_<metric>`` of each task, with ``_bigram`` and ``_chance`` beside its main one, at a run's last step."""
    points: list[Point] = []
    for name, task in downstream.tasks.items():
        points += [(f"downstream/{name}_{metric}", found.value, step, seconds) for metric, found in task.metrics.items()]
        main = task.metrics[task.main]
        beside = {"bigram": main.bigram, "chance": main.chance}
        points += [(f"downstream/{name}_{key}", value, step, seconds) for key, value in beside.items() if value is not None]
    return points


def _numbers(record: Any, skip: set[str]) -> list[tuple[str, float]]:
    """Numbers of a record by their path, ``a_b``; lists, texts and what is skipped at the top left out."""
    flat = flatten({key: value for key, value in dataclasses.asdict(record).items() if key not in skip})
    numbers = {key: value for key, value in flat.items() if isinstance(value, int | float) and not isinstance(value, bool)}
    return [(key.replace(".", "_"), float(value)) for key, value in numbers.items()]


def ablation_points(ablation: Ablation, seconds: float) -> list[Point]:
    """Conditions of an ablation record; the top of this module says which step axis each gets."""
    points: list[Point] = []

    def add(name: str, step: int, condition: Condition) -> None:
        points.extend((f"ablate/{name}/{metric}", getattr(condition, metric), step, seconds) for metric in ABLATION_METRICS)

    for condition in ablation.conditions:
        name, value = condition.intervention, condition.value
        if name not in ABLATIONS_SHOWN:
            continue
        if value is None:
            add(name, condition.step, condition)
            continue
        if condition.step == ablation.steps[-1]:
            add(name, round(value) if name == names.SKIP_LAST_BLOCKS else round(100 * value), condition)
        if name == names.GATE and value in SWEPT_OVER_TRAINING:
            add(f"{names.GATE}_{value:g}", condition.step, condition)
    for step in ablation.steps:
        points += [(f"ablate/inversion_{way}", nats, step, seconds) for way, nats in statistics(ablation, step).items()]
    for row in ablation.contributions:
        latent = row.addends.get(names.LATENT)
        if latent is not None and latent.share is not None:
            points.append(("ablate/latent_share", latent.share, row.step, seconds))
    return points


def layer_points(layers: Layers, seconds: float) -> list[Point]:
    """``layers/<type>_<replacement>``: damage without all layers of a type at every checkpoint, nats."""
    found = layers.measured
    values = (
        (f"layers/{kind}_{by}", found.damage(sites, by, step), step)
        for kind, sites in found.of_type.items()
        for by in names.REPLACEMENTS
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
