"""Records as flat series of points: what a tracker is filled with. Knows the records' schema and no tracker.

Names: ``train/ val/ gate/ regime/ speed/`` over the training step; ``eval/*`` at the last step; ``ablate/<intervention>/*``,
where the step axis is the intervention's strength for a sweep at the final weights (per cent for the gate, blocks for skipped
blocks), or the training step of the weights when there is nothing to sweep. The gate forced to 0, 0.5 and 1 is also given over
training: ``ablate/gate_0/*``, ``ablate/gate_0.5/*``, ``ablate/gate_1/*``; so is the inversion statistic of each way of removing a
branch, ``ablate/inversion_<way>``. The controls stay in the record: there are some hundred.
``annealed/*`` at the steps where a learning-rate schedule ended; ``position/*`` over the position in the window, ``length/*`` over
the window's length in tokens; ``recall/<task>_*``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lolm.config import flatten
from lolm.laboratory.inversion import inversion
from lolm.records import AXES, fingerprint_of, read_json, read_series
from lolm.records.results import belongs

SWEPT_OVER_TRAINING = (0.0, 0.5, 1.0)
ABLATIONS_SHOWN = frozenset(
    ("none", "gate", "gate_blend_one", "gate_blend_zero", "memory_zero", "memory_mean", "regime_zero", "regime_mean")
    + ("surface_mean", "latent_mean", "skip_last_blocks")
)
ABLATION_METRICS = ("nats", "bits_per_byte", "accuracy", "kl_to_full")

Point = tuple[str, float, int, float]  # key, value, step, seconds since the run's start


@dataclass(frozen=True)
class Records:
    """Everything on disk about one run; ``rows`` in the order they were written: ends of annealed copies come last."""

    folder: Path
    config: dict[str, Any]
    rows: list[dict[str, float]]
    summary: dict[str, Any] | None
    evaluation: dict[str, Any] | None
    ablation: dict[str, Any] | None
    recall: dict[str, Any] | None = None

    @classmethod
    def load(cls, folder: Path, finished: bool) -> Records:
        """Read a run's folder and, of a finished run, what was measured on it (stale measurements are left out)."""
        config = read_json(folder / "config.json")
        later: dict[str, Any] = {}
        if finished:
            for stage in ("evaluate", "ablate", "recall"):
                path = folder.parent.parent / stage / f"{folder.name}.json"
                record = read_json(path) if path.exists() else None
                later[stage] = record if record and belongs(stage, record, config) else None
        rows = read_series(folder / "metrics.jsonl")
        end = max((row["step"] for row in rows), default=0)
        rows.sort(key=lambda row: "annealed/nats" in row and row["step"] < end)  # as written: what was sent stays a prefix
        return cls(
            folder=folder,
            config=config,
            rows=rows,
            summary=read_json(folder / "summary.json") if finished else None,
            evaluation=later.get("evaluate"),
            ablation=later.get("ablate"),
            recall=later.get("recall"),
        )

    @property
    def digest(self) -> str:
        return fingerprint_of(self.config, self.rows, self.summary, self.evaluation, self.ablation, self.recall)

    @property
    def step(self) -> int:
        """The last step of training."""
        return max((int(row["step"]) for row in self.rows), default=0)

    @property
    def seconds(self) -> float:
        return max((row["seconds"] for row in self.rows), default=0.0)


def training_points(rows: list[dict[str, float]]) -> list[Point]:
    """Every value of ``metrics.jsonl`` except the axes, at its step."""
    return [(key, value, int(row["step"]), row["seconds"]) for row in rows for key, value in row.items() if key not in AXES]


def evaluation_points(evaluation: dict[str, Any], step: int, seconds: float) -> list[Point]:
    """Scalars of an evaluation record as ``eval/<section>_<name>``, and three of its tables as series over an axis of their own.

    ``eval/annealed_<split>_<metric>`` over the step at which a schedule ended; ``position/<metric>`` over the first position of
    each bin; ``length/<metric>`` over the window's tokens. Other lists (histograms), texts and the scores of single lengths stay
    in the record.
    """
    skip = {"arm", "seed", "fingerprint", "name", "step", "split", "schedule_ends", "lengths"}
    flat = _numbers({key: value for key, value in evaluation.items() if key not in skip})
    points = [(f"eval/{key}", value, step, seconds) for key, value in flat.items()]
    for end in evaluation.get("schedule_ends") or ():
        scores = _numbers({split: end[split] for split in ("validation", "test") if split in end})
        points += [(f"eval/annealed_{key}", value, int(end["step"]), end["seconds"]) for key, value in scores.items()]
    for part in (evaluation.get("positions") or {}).get("bins", ()):
        scores = _numbers({key: value for key, value in part.items() if key not in ("start", "stop")})
        points += [(f"position/{key}", value, int(part["start"]), seconds) for key, value in scores.items()]
    for row in (evaluation.get("lengths") or {}).get("windows", {}).values():
        scores = _numbers({key: value for key, value in row.items() if key not in ("seq_len", "tokens")})
        scores.pop("beyond_tokens", None)
        points += [(f"length/{key}", value, int(row["seq_len"]), seconds) for key, value in scores.items()]
    return points


def recall_points(recall: dict[str, Any], step: int, seconds: float) -> list[Point]:
    """``recall/<task>_accuracy``, ``_nats`` and ``_chance`` of each task, at a run's last step."""
    return [
        (f"recall/{task}_{key}", float(scores[key]), step, seconds)
        for task, scores in recall["tasks"].items()
        for key in ("accuracy", "nats", "chance")
    ]


def _numbers(mapping: dict[str, Any]) -> dict[str, float]:
    flat = {key.replace(".", "_"): value for key, value in flatten(mapping).items()}
    return {key: float(value) for key, value in flat.items() if isinstance(value, int | float) and not isinstance(value, bool)}


def ablation_points(ablation: dict[str, Any], seconds: float) -> list[Point]:
    """Conditions of an ablation record; the top of this module says which step axis each gets."""
    conditions = ablation["conditions"]
    last = max((c["step"] for c in conditions), default=0)
    points: list[Point] = []

    def add(name: str, step: int, condition: dict[str, Any]) -> None:
        present = [metric for metric in ABLATION_METRICS if condition.get(metric) is not None]
        points.extend((f"ablate/{name}/{metric}", float(condition[metric]), step, seconds) for metric in present)

    for condition in conditions:
        kind, value, step = condition["intervention"], condition["value"], condition["step"]
        if kind not in ABLATIONS_SHOWN:
            continue
        if value is None:
            add(kind, step, condition)
            continue
        if step == last:
            add(kind, round(100 * value) if kind.startswith("gate") else round(value), condition)
        if kind == "gate" and value in SWEPT_OVER_TRAINING:
            add(f"gate_{value:g}", step, condition)
    for step in sorted({c["step"] for c in conditions}):
        points += [(f"ablate/inversion_{way}", nats, step, seconds) for way, nats in inversion(conditions, step).items()]
    return points


def claim_points(claims: list[dict[str, Any]]) -> list[Point]:
    """``claim/<id>``, and ``_low``, ``_high`` of its interval: our values under the sound definitions."""
    values: dict[str, Any] = {}
    for claim in claims:
        sound = claim.get("sound") or {}
        low, high = sound.get("interval") or (None, None)
        values |= {claim["id"]: sound.get("value"), f"{claim['id']}_low": low, f"{claim['id']}_high": high}
    return [(f"claim/{key}", float(value), 0, 0.0) for key, value in values.items() if isinstance(value, int | float)]


def mean_points(folder: Path) -> list[Point]:
    """``mean/<arm>_test_<metric>``: the test split's values averaged over an arm's seeds."""
    groups: dict[str, list[float]] = {}
    for path in sorted(folder.glob("*.json")):
        record = read_json(path)
        for metric, value in record["test"].items():
            groups.setdefault(f"mean/{record['arm']}_test_{metric}", []).append(value)
    return [(key, sum(values) / len(values), 0, 0.0) for key, values in groups.items()]
