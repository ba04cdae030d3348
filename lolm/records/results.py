"""All records of one study at one scale as one typed, read-only object.

Reports and notebooks read results through :func:`load_results` and nothing else; no weights and no torch are needed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from lolm.config import AnalysisConfig, Params, RunConfig, load_params, scale_of, tuned_arm
from lolm.records import names
from lolm.records.expected import Expected, data_recorded
from lolm.records.files import RecordError
from lolm.records.identity import fingerprint_of
from lolm.records.layout import Layout, RunKey, budgets_record, external_record
from lolm.records.schema import (
    Ablation,
    Budgets,
    Condition,
    Contribution,
    Divergence,
    Downstream,
    Evaluation,
    External,
    LayerRemovals,
    Layers,
    Recall,
    RunHeader,
    Score,
    Summary,
    Sweep,
    TextLosses,
)
from lolm.records.series import AXES, Row, points, read_series
from lolm.records.store import made_by, read, read_mapping

T = TypeVar("T")


@dataclass(frozen=True)
class RunRecord:
    """What one run (arm, seed) left behind.

    Attributes:
        header: resolved configuration, costs, data checksums.
        rows: the metric series by ascending step.
        summary: last values of training.
        evaluation: final measurement on the test split, or None if that stage has not run.
        ablation: losses under interventions at several checkpoints, or None.
        recall: accuracy on synthetic tasks that the same arm was trained on from scratch, or None.
        layers: losses without layers and types of layer at several checkpoints, or None.
        downstream: scores on downstream tasks, or None.
        text: losses of the evaluation by piece of text; None where it is older than they.
        stale: stages whose record is of another model than the header's: it counts as not made.
    """

    arm: str
    seed: int
    header: RunHeader
    rows: list[Row] = field(repr=False)
    summary: Summary = field(repr=False)
    evaluation: Evaluation | None = field(default=None, repr=False)
    ablation: Ablation | None = field(default=None, repr=False)
    recall: Recall | None = field(default=None, repr=False)
    layers: Layers | None = field(default=None, repr=False)
    text: TextLosses | None = field(default=None, repr=False)
    downstream: Downstream | None = field(default=None, repr=False)
    stale: tuple[str, ...] = ()

    @property
    def key(self) -> RunKey:
        return RunKey(self.arm, self.seed)

    @property
    def name(self) -> str:
        """The run's name in MLflow."""
        return self.header.name

    @property
    def fingerprint(self) -> str:
        return self.header.fingerprint

    @property
    def label(self) -> str:
        return self.header.label

    @property
    def family(self) -> str:
        return self.header.run.architecture.family

    def points(self, metric: str, axis: str = "step") -> tuple[list[float], list[float]]:
        """Positions on ``axis`` (step, tokens, flops, seconds) and values of a metric, in training order; none where the arm has
        no such metric.

        Raises:
            RecordError: no series has such a metric or axis.
        """
        if axis not in AXES:
            raise RecordError(f"no axis {axis!r}; known: {', '.join(AXES)}")
        return points(self.rows, names.check_metric(metric), axis)

    @property
    def test_nats(self) -> float | None:
        """Held-out loss on the test split, nats a token."""
        return None if self.evaluation is None else self.evaluation.test.nats

    @property
    def gate_mean(self) -> float | None:
        """Mean gate on the test split; None without a gate or an evaluation."""
        return None if self.evaluation is None or self.evaluation.gate is None else self.evaluation.gate.mean

    def annealed(self, split: str, axis: str = "step") -> tuple[list[float], list[float]] | None:
        """Positions on an axis and losses (nats) where a learning-rate schedule ended, ascending; the run's own end is the last.

        Args:
            split: ``test`` (scored by the evaluation) or ``validation`` (scored during training, on the fixed smaller set).

        Returns None where that split was not measured there.
        """
        if split == "validation":
            found = self.points(names.ANNEALED_NATS, axis)
            return found if found[0] else None
        if self.evaluation is None:
            return None
        ends = self.evaluation.schedule_ends
        scores: list[Score] = [getattr(end, split) for end in ends]
        # Ends are scored on a subset, the final weights on more. The last point is their loss there, the others lie as far above
        # it as on the subset: what a text adds to all ends of a run cancels.
        rest = self.evaluation.test.nats - ends[-1].test.nats
        return [getattr(end, axis) for end in ends], [score.nats + rest for score in scores]

    def accuracy(self, task: str) -> float | None:
        """Share of the asked positions that the arm gets right in a recall task; None if it was not trained on it or diverged.

        Raises:
            RecordError: there is no such task.
        """
        names.check_task(task)
        found = None if self.recall is None else self.recall.tasks.get(task)
        return None if found is None else found.accuracy

    @property
    def diverged_tasks(self) -> tuple[str, ...]:
        """Recall tasks on which the arm's training diverged."""
        return () if self.recall is None else tuple(name for name, task in self.recall.tasks.items() if task.diverged)

    @property
    def by_layer(self) -> LayerRemovals | None:
        """What removing its layers did; None if that was not measured."""
        return None if self.layers is None else self.layers.measured

    @property
    def ablation_steps(self) -> tuple[int, ...]:
        """Checkpoints the interventions were measured at, ascending."""
        return () if self.ablation is None else self.ablation.steps

    def condition(self, intervention: str, value: float | None = None, step: int | None = None) -> Condition | None:
        """The measurement under one intervention at one checkpoint (default: the last); None if it was not made.

        Raises:
            RecordError: there is no such intervention.
        """
        names.check_intervention(intervention)
        return None if self.ablation is None else self.ablation.condition(intervention, value, step)

    def contribution(self, step: int | None = None) -> Contribution | None:
        """Contributions of the fusion's addends at one checkpoint (default: the last); None if they were not measured."""
        found = {row.step: row for row in (self.ablation.contributions if self.ablation else ())}
        return found.get(max(found) if step is None else step) if found else None

    def damage(self, intervention: str, value: float | None = None, step: int | None = None) -> float | None:
        """Loss under an intervention minus the learned model's loss on the same tokens, nats."""
        changed, intact = self.condition(intervention, value, step), self.condition(names.NONE, None, step)
        return None if changed is None or intact is None else changed.nats - intact.nats


@dataclass(frozen=True)
class ScaleResults:
    """The records of one study at one scale; ``params.study`` is that study.

    Attributes:
        runs: those that were made, in the study's order.
        missing: runs that the study asks for and that were not made, or that were made under other parameters than the present
            ones, at another rate than the sweep chose, or on other text.
        diverged: runs whose loss was not finite; one of before its record had parameters is here under any.
        sweeps: by arm, how its learning rate was chosen, be it for another arm whose rate it takes; an arm without a record is
            missing.
        corpus: counts of documents and bytes by split.
        budgets: what the study over sizes and budgets found, over its own scales; None where it was not made.
    """

    scale: str
    params: Params
    corpus: dict[str, Any]
    runs: tuple[RunRecord, ...]
    missing: tuple[RunKey, ...] = ()
    diverged: tuple[Divergence, ...] = ()
    sweeps: dict[str, Sweep] = field(default_factory=dict)
    budgets: Budgets | None = field(default=None, repr=False)

    @property
    def study(self) -> str:
        return self.params.study

    @property
    def analysis(self) -> AnalysisConfig:
        return self.params.analysis

    @property
    def arms(self) -> tuple[str, ...]:
        """Arms with at least one run."""
        return tuple(dict.fromkeys(run.arm for run in self.runs))

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted({run.seed for run in self.runs}))

    def of(self, arm: str) -> tuple[RunRecord, ...]:
        """Runs of one arm in seed order; none if it was not run."""
        return self._by_arm.get(arm, ())

    @cached_property
    def _by_arm(self) -> dict[str, tuple[RunRecord, ...]]:
        by_arm: dict[str, list[RunRecord]] = defaultdict(list)
        for run in sorted(self.runs, key=lambda run: run.seed):
            by_arm[run.arm].append(run)
        return {arm: tuple(runs) for arm, runs in by_arm.items()}

    def family(self, arm: str) -> str:
        return self.params.architectures[arm].family

    def label(self, arm: str) -> str:
        return self.params.architectures[arm].label

    @property
    def subject(self) -> str | None:
        """The arm that the claims are about, if it was run."""
        name = self.params.selected.subject
        return name if name in self.arms else None

    @property
    def subjects(self) -> tuple[RunRecord, ...]:
        """Runs of the subject; none if it was not run."""
        return self.of(self.params.selected.subject)

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
    root: str | Path = ".",
    scale: str | None = None,
    params: Params | None = None,
    study: str | None = None,
    expected: Mapping[str, RunConfig] | None = None,
    read_run: Callable[[Layout, RunKey], RunRecord | None] | None = None,
    *,
    over_scales: bool = True,
) -> ScaleResults:
    """Read the records of a study's runs at a scale below a project root.

    Args:
        root: the project's root folder, with ``params.yaml`` and ``reports/``.
        scale: default is the one in ``params.yaml``.
        params: default is ``params.yaml`` of the root.
        study: name under ``studies``; default is ``study`` of ``params.yaml``.
        expected: by arm, the resolved configuration of the present parameters, whose seed and learning rate (a sweep chooses it)
            are not looked at. A run that was made under another one, or on other text than the record of the shards says, counts
            as not made. Default: every recorded run counts.
        read_run: default :func:`load_run`. Who reads several studies gives ``cache(load_run)``, since studies share runs.
        over_scales: what the study over sizes and budgets found is read too; who makes that record goes without.

    Raises:
        ConfigError: unknown scale or study, or broken ``params.yaml``.
        RecordError: a record is broken.
    """
    root = Path(root)
    params = (params or load_params(root / "params.yaml")).select(scale, study)
    scale_of(params, params.scale)
    layout = Layout(params.scale, root)
    runs, missing, diverged = [], [], []
    tuned = {arm: layout.sweep(tuned_arm(params, params.scale, arm)) for arm in params.selected.arms}
    sweeps = {arm: read(path, Sweep) for arm, path in tuned.items() if path.exists()}
    rates = {arm: sweep.chosen for arm, sweep in sweeps.items()}
    wanted = Expected(expected, rates, data_recorded(layout) if expected is not None else None)
    for key in (RunKey(arm, seed) for arm in params.selected.arms for seed in params.selected.seeds):
        failed = read(layout.divergence(*key), Divergence) if layout.divergence(*key).exists() else None
        run = None if failed else (read_run or load_run)(layout, key)
        header = failed.header if failed else run.header if run else None
        if header is not None and not wanted.counts(header.run, header.data):
            missing.append(key)
        elif failed:
            diverged.append(failed)
        elif run:
            runs.append(run)
        else:
            missing.append(key)
    corpus = read_mapping(layout.corpus_record, **_CORPUS) if layout.corpus_record.exists() else {}
    budgets = load_budgets(root) if over_scales else None
    return ScaleResults(params.scale, params, corpus, tuple(runs), tuple(missing), tuple(diverged), sweeps, budgets)


def load_budgets(root: str | Path = ".") -> Budgets | None:
    """What the study over sizes and budgets found, None where it was not made; raises RecordError where the record is broken."""
    path = budgets_record(root)
    return read(path, Budgets) if path.exists() else None


_COUNT = {"documents": int, "bytes": int}
_CORPUS = _COUNT | {  # the form of its record
    "dropped": {"*": int},
    "duplicates": list,
    "empty": list,
    "held_out": [{"id": str, "split": str, "words": int, "overlap": float}],
    "licences": [{"licence": str, "documents": int}],
    "overlap": {"*": float},
    "sources": {"*": {"*": int}},
    "splits": {"*": _COUNT},
}


def load_external(root: str | Path = ".") -> dict[str, External]:
    """What was measured on public models, by name; raises RecordError where a record is broken."""
    return {path.stem: read(path, External) for path in sorted(external_record("*", root).parent.glob("*.json"))}


def load_run(layout: Layout, key: RunKey) -> RunRecord | None:
    """The records of one run, None if it left none. A measurement that was not made, or of another model, is None in them.

    Raises:
        RecordError: a record is broken.
    """
    if not layout.train(*key).exists() or layout.divergence(*key).exists():
        return None
    header = read(layout.header(*key), RunHeader)
    rows = read_series(layout.series(*key))
    if not rows:
        path = layout.series(*key)
        raise RecordError(f"{path}: is empty; delete {path.parent} and run `{made_by(path)}`")

    stale: list[str] = []

    def measured(path: Path, kind: type[T], of_this_run: Callable[[T], bool]) -> T | None:
        found = read(path, kind) if path.exists() else None
        if found is None or of_this_run(found):
            return found
        stale.append(path.parent.name)
        return None

    evaluation = measured(layout.evaluation(*key), Evaluation, lambda found: found.fingerprint == header.fingerprint)
    ablation = measured(layout.ablation(*key), Ablation, lambda found: found.fingerprint == header.fingerprint)
    layers = measured(layout.layers(*key), Layers, lambda found: found.fingerprint == header.fingerprint)
    recall = measured(layout.recall(*key), Recall, lambda found: found.model == model_of(header.run))
    tasks = measured(layout.downstream(*key), Downstream, lambda found: found.fingerprint == header.fingerprint)
    text = measured(layout.text_losses(*key), TextLosses, lambda found: found.fingerprint == header.fingerprint)
    if text is not None and (evaluation is None or text.inputs != evaluation.inputs):
        text = None  # of another evaluation
    if ablation is not None:
        _check_names(layout.ablation(*key), ablation)
    summary = read(layout.summary(*key), Summary)
    others = tuple(dict.fromkeys(stale))
    return RunRecord(*key, header, rows, summary, evaluation, ablation, recall, layers, text, tasks, others)


def _check_names(path: Path, ablation: Ablation) -> None:
    """A row under a name that nobody can ask for would be lost without a word."""
    checks = (
        (names.check_intervention, {row.intervention for row in ablation.conditions}),
        (names.check_intervention, {row.intervention for row in ablation.readouts}),
        (names.check_readout, {row.readout for row in ablation.readouts}),
        (names.check_token_class, {row.token_class for row in ablation.token_classes}),
    )
    for check, found in checks:
        for name in sorted(found):
            try:
                check(name)
            except RecordError as error:
                raise RecordError(f"{path}: {error}") from None


def model_of(run: RunConfig) -> str:
    """Hash of architecture and size: what a run on text shares with the recall tasks its arm is trained on."""
    return fingerprint_of(run.architecture, run.size)
