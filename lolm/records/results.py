"""All records of one scale as one typed, read-only object.

Reports and notebooks read results through :func:`load_results` and nothing else; no weights and no torch are needed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lolm.config import AnalysisConfig, Params, load_params
from lolm.records import RecordError, fingerprint_of, read_json, read_metrics, series


@dataclass(frozen=True)
class RunRecord:
    """What one run (arm, seed) left behind.

    Attributes:
        config: ``config.json`` (resolved run, parameters, FLOPs a token, data checksums).
        rows: lines of ``metrics.jsonl`` by ascending step.
        summary: ``summary.json``, the last values of training.
        evaluation: final measurement on the test split, or None if that stage has not run.
        ablation: losses under interventions at several checkpoints, or None.
        recall: accuracy on synthetic tasks that the same arm was trained on from scratch, or None.
    """

    arm: str
    seed: int
    config: dict[str, Any]
    rows: list[dict[str, float]] = field(repr=False)
    summary: dict[str, Any] = field(repr=False)
    evaluation: dict[str, Any] | None = field(repr=False)
    ablation: dict[str, Any] | None = field(repr=False)
    recall: dict[str, Any] | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The run's name in MLflow."""
        return self.config["name"]

    @property
    def fingerprint(self) -> str:
        return self.config["fingerprint"]

    @property
    def label(self) -> str:
        return self.config["label"]

    @property
    def family(self) -> str:
        return self.config["run"]["architecture"]["family"]

    def points(self, metric: str, axis: str = "step") -> tuple[list[float], list[float]]:
        """Positions on ``axis`` (step, tokens, flops, seconds) and values of a metric, in training order."""
        return series(self.rows, metric, axis)

    @property
    def test_nats(self) -> float | None:
        """Held-out loss on the test split, nats a token."""
        return None if self.evaluation is None else self.evaluation["test"]["nats"]

    def annealed(self, split: str, axis: str = "step") -> tuple[list[float], list[float]] | None:
        """Positions on an axis and losses (nats) where a learning-rate schedule ended, ascending; the run's own end is the last.

        Args:
            split: ``test`` (scored by the evaluation) or ``validation`` (scored during training, on the fixed smaller set).

        Returns None where that split was not measured there.
        """
        if split == "validation":
            points = self.points("annealed/nats", axis)
            return points if points[0] else None
        if self.evaluation is None:
            return None
        ends = self.evaluation.get("schedule_ends") or [self.rows[-1] | {split: self.evaluation[split]}]
        return [end[axis] for end in ends], [end[split]["nats"] for end in ends]

    def measured(self, *path: str) -> Any:
        """A value inside the evaluation record by its keys; None where it, or anything on the way, is missing."""
        found: Any = self.evaluation
        for key in path:
            found = found.get(key) if isinstance(found, dict) else None
        return found

    def accuracy(self, task: str) -> float | None:
        """Share of the asked positions that the arm gets right in a recall task, or None."""
        found = (self.recall or {}).get("tasks", {}).get(task)
        return None if found is None else found["accuracy"]

    @property
    def ablation_steps(self) -> tuple[int, ...]:
        """Checkpoints the interventions were measured at, ascending."""
        if self.ablation is None:
            return ()
        return tuple(sorted({int(c["step"]) for c in self.ablation["conditions"]}))

    def condition(self, intervention: str, value: float | None = None, step: int | None = None) -> dict[str, Any] | None:
        """The measurement under one intervention at one checkpoint (default: the last); None if it was not made."""
        steps = self.ablation_steps
        if not steps:
            return None
        step = steps[-1] if step is None else step
        for condition in self.ablation["conditions"]:  # type: ignore[index]
            same = condition["value"] is value or (
                None not in (condition["value"], value) and abs(condition["value"] - value) < 1e-9  # type: ignore[operator]
            )
            if condition["intervention"] == intervention and int(condition["step"]) == step and same:
                return condition
        return None

    def contribution(self, step: int | None = None) -> dict[str, Any] | None:
        """Contributions of the fusion's addends at one checkpoint (default: the last); None if they were not measured."""
        found = {int(row["step"]): row for row in self.laboratory("contributions")}
        return found.get(max(found) if step is None and found else step) if found else None  # type: ignore[arg-type]

    def laboratory(self, part: str) -> list[dict[str, Any]]:
        """Rows of a part of the ablation record: ``contributions``, ``readouts`` or ``token_classes``; none in older records."""
        return (self.ablation or {}).get(part) or []

    def damage(self, intervention: str, value: float | None = None, step: int | None = None) -> float | None:
        """Loss under an intervention minus the learned model's loss on the same tokens, nats."""
        changed, intact = self.condition(intervention, value, step), self.condition("none", None, step)
        return None if changed is None or intact is None else changed["nats"] - intact["nats"]


@dataclass(frozen=True)
class ScaleResults:
    """The records of every run of one study at one scale; ``params.selected`` is that study.

    Attributes:
        plan: exact parameters, FLOPs and state by arm.
        sweeps: by arm, how its learning rate was chosen; an arm without a record is missing.
    """

    scale: str
    params: Params
    plan: dict[str, dict[str, Any]]
    corpus: dict[str, Any]
    runs: tuple[RunRecord, ...]
    sweeps: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def study(self) -> str:
        return self.params.selected.name

    @property
    def analysis(self) -> AnalysisConfig:
        return self.params.analysis

    @property
    def arms(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(run.arm for run in self.runs))

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted({run.seed for run in self.runs}))

    def of(self, arm: str) -> tuple[RunRecord, ...]:
        """Runs of one arm in seed order."""
        return tuple(sorted((run for run in self.runs if run.arm == arm), key=lambda run: run.seed))

    def family(self, arm: str) -> str:
        return self.of(arm)[0].family

    def label(self, arm: str) -> str:
        return self.of(arm)[0].label

    @property
    def subject(self) -> str | None:
        """The arm that the claims are about, if it was run."""
        name = self.params.selected.subject
        return name if name in self.arms else None

    @property
    def baseline(self) -> str | None:
        """The arm the subject is held against, if it was run."""
        name = self.params.selected.baseline
        return name if name in self.arms and name != self.subject else None

    def pairs(self, first: str | None, second: str | None) -> tuple[tuple[RunRecord, RunRecord], ...]:
        """Runs of two arms that share a seed, hence data order."""
        if first is None or second is None:
            return ()
        other = {run.seed: run for run in self.of(second)}
        return tuple((run, other[run.seed]) for run in self.of(first) if run.seed in other)


def load_results(
    root: str | Path = ".", scale: str | None = None, params: Params | None = None, study: str | None = None
) -> ScaleResults:
    """Read the records of a study's runs at a scale below a project root.

    Args:
        root: the project's root folder, with ``params.yaml``, ``artifacts/`` and ``reports/``.
        scale: default is the one in ``params.yaml``.
        params: default is ``params.yaml`` of the root.
        study: name under ``studies``; default is ``study`` of ``params.yaml``.

    Raises:
        ConfigError: unknown scale or study, or broken ``params.yaml``.
        RecordError: a record that the study's ``arms`` x ``seeds`` asks for is missing, broken, or belongs to another run.
    """
    root = Path(root)
    params = params or load_params(root / "params.yaml")
    params = params.select(scale, study)
    scale = params.scale
    artifacts, reports = root / "artifacts" / scale, root / "reports" / scale
    arms = params.selected.arms
    runs = tuple(_load_run(artifacts, arm, seed) for arm in arms for seed in params.selected.seeds)
    plan_path, corpus_path = reports / params.selected.name / "plan.json", reports / "corpus.json"
    plan = read_json(plan_path)
    missing = [arm for arm in arms if arm not in plan]
    if missing:
        raise RecordError(f"{plan_path}: has no entry for arm {missing[0]!r}; run `dvc repro` to renew it")
    corpus = read_json(corpus_path) if corpus_path.exists() else {}
    sweeps = {arm: read_json(path) for arm in arms if (path := artifacts / "sweep" / f"{arm}.json").exists()}
    for run in runs:
        _check_rate(artifacts, run, sweeps)
    return ScaleResults(scale, params, plan, corpus, runs, sweeps)


def _load_run(artifacts: Path, arm: str, seed: int) -> RunRecord:
    name = f"{arm}-{seed}"
    folder = artifacts / "runs" / name
    config = read_json(folder / "config.json")
    for key in ("name", "fingerprint", "label", "run"):
        if key not in config:
            raise RecordError(f"{folder / 'config.json'}: has no {key!r}; delete the folder and run `dvc repro`")
    rows = read_metrics(folder / "metrics.jsonl")
    if not rows:
        raise RecordError(f"{folder / 'metrics.jsonl'}: is empty; delete the folder and run `dvc repro`")
    records: dict[str, Any] = {}
    for stage in ("evaluate", "ablate", "recall"):
        path = artifacts / stage / f"{name}.json"
        records[stage] = record = read_json(path) if path.exists() else None
        if record is not None and not belongs(stage, record, config):
            raise RecordError(f"{path}: measures another model than {folder / 'config.json'}; run `dvc repro`")
    summary = read_json(folder / "summary.json")
    return RunRecord(arm, seed, config, rows, summary, records["evaluate"], records["ablate"], records["recall"])


def _check_rate(artifacts: Path, run: RunRecord, sweeps: dict[str, dict[str, Any]]) -> None:
    used = run.config["run"]["size"]["learning_rate"]
    if run.arm in sweeps and sweeps[run.arm]["chosen"] != used:
        raise RecordError(
            f"{artifacts / 'sweep' / run.arm}.json: chose the learning rate {sweeps[run.arm]['chosen']:g}, but {run.name} was "
            f"trained with {used:g}; run `dvc repro`"
        )


def belongs(stage: str, record: dict[str, Any], config: dict[str, Any]) -> bool:
    """Whether a record of a stage (evaluate, ablate, recall) is of the run, or for recall the model, of a ``config.json``."""
    if stage == "recall":  # trained anew on other data, so architecture and size are all it shares with the run
        return record["model"] == fingerprint_of(config["run"]["architecture"], config["run"]["size"])
    return record.get("fingerprint") == config["fingerprint"]
