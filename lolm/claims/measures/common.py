"""What measures share: values over seeds, and the words for what is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lolm.analysis.in_curve import constant_until
from lolm.analysis.statistics import Estimate, geometric_interval, paired_difference, t_interval
from lolm.claims.entry import NotRun
from lolm.claims.ledger import Quantity
from lolm.claims.published import clipped_perplexity
from lolm.records.results import RunRecord, ScaleResults
from lolm.records.schema import TrainingStream

Read = Callable[[RunRecord], float | None]


def values(runs: Sequence[RunRecord], read: Read) -> list[float] | None:
    """A number of each run; None unless all have it."""
    found = [value for value in map(read, runs) if value is not None]
    return found if found and len(found) == len(runs) else None


def needed(runs: Sequence[RunRecord], read: Read, missing: str) -> list[float]:
    """A number of each run.

    Raises:
        NotRun: a run lacks it.
    """
    found = values(runs, read)
    if found is None:
        raise NotRun(missing)
    return found


def quantity(found: Sequence[float] | None, results: ScaleResults, unit: str, definition: str, missing: str = "") -> Quantity:
    """The mean over seeds, or a quantity that says what is missing."""
    mean = None if found is None else t_interval(found, results.analysis.confidence)
    return Quantity.known(mean, unit, definition, missing or again(results))


def difference(
    a: Sequence[float] | None, b: Sequence[float] | None, results: ScaleResults, unit: str, definition: str, missing: str = ""
) -> Quantity:
    """The paired difference, or a quantity that says what is missing."""
    paired = None if a is None or b is None else paired_difference(a, b, results.analysis.confidence)
    return Quantity.known(paired, unit, definition, missing or again(results))


def diverged_on(task: str, runs: Sequence[RunRecord], results: ScaleResults) -> str:
    """The runs whose training on a recall task diverged, as a sentence that follows another; empty without one."""
    gone = [f"{results.label(run.arm)}, seed {run.seed}" for run in runs if task in run.diverged_tasks]
    return f" Training on {task} diverged, so it was not solved: {'; '.join(gone)}." if gone else ""


def another_baseline(results: ScaleResults) -> str | None:
    """Why the declared baseline is not of the kind of every published comparison, a Transformer; None where it is."""
    architecture = results.params.architectures.get(results.params.selected.baseline)
    if architecture is None:
        return None
    if architecture.family == "lolm" and architecture.latent.form != "none":
        return f"the baseline of study {results.study} has a latent stream of its own, unlike the published one"
    if any(block.mixer.name != "attention" for block in architecture.surface.blocks.values()):
        return f"the baseline of study {results.study} is no Transformer, as the published one is"
    return None


def again(results: ScaleResults) -> str:
    """Which command makes a measurement that the records lack."""
    return f"measured by `make repro SCALE={results.scale} STUDY={results.study}`"


def t_value(found: Sequence[float]) -> float:
    """Mean."""
    return t_interval(found).value


def training_stream(run: RunRecord) -> TrainingStream | None:
    """What was scored on the head of the training stream at the last kept weights before the rate decays; None if nothing was."""
    found = () if run.evaluation is None else run.evaluation.training_stream
    end = constant_until(run)
    return max((row for row in found if row.step <= end), key=lambda row: row.step, default=None)


def on_training_stream(
    runs: Sequence[RunRecord], results: ScaleResults, read: Callable[[float, float, float], float]
) -> tuple[Estimate | None, str | None]:
    """Geometric mean over runs of what is read off three capped perplexities of :func:`training_stream`: of the model as it is,
    with its gate forced to 1, and to 0. None with a note where these were not scored."""
    found = []
    for row in map(training_stream, runs):
        if row is None or row.gate_one is None or row.gate_zero is None:
            return None, f"the head of the training stream was not scored; {again(results)}"
        found.append(read(*map(clipped_perplexity, (row.nats, row.gate_one, row.gate_zero))))
    return geometric_interval(found, results.analysis.confidence), None


def removed(runs: Sequence[RunRecord], intervention: str, value: float | None = None) -> list[float] | None:
    """Damage in each run, nats; None unless every one has it."""
    return values(runs, lambda run: run.damage(intervention, value))


def nats(run: RunRecord, intervention: str, value: float | None = None, step: int | None = None) -> float:
    """Loss under an intervention.

    Raises:
        NotRun: it was not measured.
    """
    found = run.condition(intervention, value, step)
    if found is None:
        at = "" if value is None else f" = {value:g}"
        raise NotRun(f"{run.name}: the intervention {intervention}{at} was not measured")
    return found.nats


def addend(run: RunRecord, branch: str, key: str) -> float | None:
    """A number of a branch's addend at the fusion, at the final weights; None where it was not measured."""
    row = run.contribution()
    return None if row is None or branch not in row.addends else getattr(row.addends[branch], key)


def parameters(results: ScaleResults, arm: str | None) -> int:
    """Of an arm that was run."""
    return results.of(arm or "")[0].header.parameters.total


def mismatch(results: ScaleResults) -> str | None:
    """How far the compared arms are from equal parameters, in words; None where they are matched, or one was not run."""
    tolerance = results.analysis.parameter_tolerance
    if not results.of(results.baseline or "") or not results.of(results.subject or ""):
        return None
    found = abs(parameters(results, results.baseline) / parameters(results, results.subject) - 1)
    if found <= tolerance:
        return None
    return f"The arms are not matched: their parameters differ by {100 * found:.2f} %, more than {100 * tolerance:g} %"
