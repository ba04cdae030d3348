"""Against other models and on tasks: the like that these runs have, and what no run here can show."""

from __future__ import annotations

from collections.abc import Callable

from lolm.analysis.statistics import paired_difference, t_interval
from lolm.claims.entry import Context, NotRun, NotTestable, Reading
from lolm.claims.ledger import Control, Quantity
from lolm.claims.measures.common import Read, difference, values
from lolm.records.results import RunRecord


def never(why: str) -> Callable[[Context], Reading]:
    """No run of any preset shows it."""

    def measure(context: Context) -> Reading:
        raise NotTestable(why)

    return measure


def not_scored(context: Context) -> Reading:
    """Tasks that were announced and that no stage of this project scores."""
    raise NotRun(
        "no stage scores downstream tasks yet; at a scale whose models leave chance, the command beside trains what would be "
        "scored"
    )


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
