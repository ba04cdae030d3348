"""Against other models and on tasks: the like that these runs have, and what no run here can show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from lolm.analysis.statistics import paired_difference, t_interval
from lolm.claims.entry import Context, NotRun, NotTestable, Reading
from lolm.claims.ledger import Control, Quantity
from lolm.claims.measures.common import Read, difference, values
from lolm.records import names
from lolm.records.results import RunRecord
from lolm.records.schema import TaskScores


def never(why: str) -> Callable[[Context], Reading]:
    """No run of any preset shows it."""

    def measure(context: Context) -> Reading:
        raise NotTestable(why)

    return measure


OWN = (names.CLOZE, names.MINIMAL_PAIRS)


def on_public_tasks(context: Context) -> Reading:
    """:func:`_on_tasks` that others have made."""
    return _on_tasks(context, lambda name: name not in OWN)


def on_own_tasks(context: Context) -> Reading:
    """:func:`_on_tasks` made from the text whose loss is measured."""
    return _on_tasks(context, OWN.__contains__)


def _on_tasks(context: Context, wanted: Callable[[str], bool]) -> Reading:
    """Accuracy of LOLM minus its matched Transformer's, the mean over tasks on which either leaves chance, paired by seed."""
    pairs, results = context.pairs(), context.results
    unscored = [str(run.key) for pair in pairs for run in pair if not run.downstream]
    if unscored:  # which runs are scored must not depend on what they showed
        command = f"`make downstream SCALE={results.scale} STUDY={results.study}`"
        raise NotRun(f"not scored on downstream tasks: {', '.join(unscored)}; once they are trained, {command} does that")
    scored = [[run.downstream.tasks for run in pair if run.downstream] for pair in pairs]
    every = [tasks for pair in scored for tasks in pair]
    alike = [
        name
        for name, first in every[0].items()
        if wanted(name)
        and all(name in tasks and (tasks[name].items, tasks[name].version) == (first.items, first.version) for tasks in every)
        and first.main.startswith("acc")
    ]
    errors = results.analysis.chance_errors
    asked = [name for name in alike if any(_leaves_chance([pair[i][name] for pair in scored], errors) for i in (0, 1))]
    if not asked:
        raise NotTestable(f"neither arm scores beyond chance on any task that both were asked ({', '.join(alike) or 'none'})")

    def gains(names: Sequence[str]) -> list[float]:
        scores = [[fmean(tasks[name].metrics[tasks[name].main].value for name in names) for tasks in pair] for pair in scored]
        return [mine - theirs for mine, theirs in scores]

    return Reading(
        sound=t_interval(gains(asked), context.confidence),
        runs=[run for pair in pairs for run in pair],
        values={"tasks": ", ".join(asked), "errors": f"{errors:g}"},
        details={
            name: Quantity.of(t_interval(gains([name]), context.confidence), "points", f"on {name} alone") for name in alike
        },
    )


def _leaves_chance(runs: Sequence[TaskScores], errors: float) -> bool:
    """Whether an arm's mean lies so many standard errors above chance; the errors are of the same items in all runs, so no mean
    makes them smaller."""
    found = [scores.metrics[scores.main] for scores in runs]
    return fmean(one.value - (one.chance or 0.0) for one in found) > errors * fmean(one.error or 0.0 for one in found)


def against_baseline(read: Read, control: Callable[[Context], Control] | None = None) -> Callable[[Context], Reading]:
    """A number of LOLM, and the same minus its matched Transformer's."""

    def measure(context: Context) -> Reading:
        pairs = context.pairs()
        mine, theirs = values([a for a, _ in pairs], read), values([b for _, b in pairs], read)
        if mine is None or theirs is None:
            raise NotRun("these runs do not have it measured in both arms")
        return Reading(
            sound=paired_difference(mine, theirs, context.confidence),
            published=t_interval(mine, context.confidence),
            runs=[run for pair in pairs for run in pair],
            controls=() if control is None else (control(context),),
        )

    return measure


def late_change(key: str) -> Read:
    """Score in the last quarter of the window over that in the first, minus one."""

    def read(run: RunRecord) -> float | None:
        if run.evaluation is None:
            return None
        early, late = (getattr(where, key) for where in (run.evaluation.positions.early, run.evaluation.positions.late))
        return None if late is None or not early else late / early - 1

    return read


def late_bits(context: Context) -> Control:
    """Bits a byte in the last quarter, LOLM minus baseline."""

    def read(run: RunRecord) -> float | None:
        return None if run.evaluation is None else run.evaluation.positions.late.bits_per_byte

    pairs = context.pairs()
    mine, theirs = values([a for a, _ in pairs], read), values([b for _, b in pairs], read)
    text = "bits a byte in the last quarter, LOLM minus Transformer"
    return Control(
        "late positions themselves",
        difference(mine, theirs, context.results, "bits", text, "not measured"),
        "A model that is poor early has more to gain: a larger change is no lower loss.",
    )


def repetition(run: RunRecord) -> float | None:
    """Share of a generated text's word pairs that it has had before."""
    samples = None if run.evaluation is None else run.evaluation.samples
    return None if samples is None else samples.generated.bigram_repetition


def real_repetition(context: Context) -> Control:
    """The same of the texts' own continuations."""
    samples = [run.evaluation.samples for run in context.results.runs if run.evaluation and run.evaluation.samples]
    known = [one.real.bigram_repetition for one in samples if one.real.bigram_repetition is not None]
    text = "the same of the real continuations"
    return Control(
        "the text itself",
        Quantity(sum(known) / len(known), "share", text) if known else Quantity.missing("share", text, "not measured"),
        "Less repetition is better only down to what real text has; sampling settings set it too.",
    )
