"""Whether an arm has learned anything: its loss beside those of trivial models."""

from __future__ import annotations

from dataclasses import dataclass, fields

from lolm.analysis.statistics import paired_difference
from lolm.claims.entry import Context, Entry, NotRun, Reading
from lolm.claims.ledger import Quantity
from lolm.claims.rules import Below
from lolm.records.results import ScaleResults
from lolm.records.schema import References


@dataclass(frozen=True)
class AgainstTrivial:
    """Test loss of an arm minus that of the interpolated bigram model of the tokens it was trained on."""

    arm: str

    def arms(self, results: ScaleResults) -> tuple[str, ...]:
        return (self.arm,)

    def __call__(self, context: Context) -> Reading:
        runs = context.results.of(self.arm)
        evaluations = [run.evaluation for run in runs if run.evaluation is not None]
        if not evaluations or len(evaluations) < len(runs):
            raise NotRun("the test losses were not measured")
        losses = [evaluation.test.nats for evaluation in evaluations]
        against = {
            name: paired_difference(losses, [getattr(e.references, name) for e in evaluations], context.confidence)
            for name in sorted((field.name for field in fields(References)), key=ORDER.index)
        }
        details = {
            f"minus {name.replace('_', ' ')}": Quantity.of(e, "nats", "test loss minus the reference's")
            for name, e in against.items()
        }
        return Reading(against["bigram"], runs=runs, details=details)


ORDER = ("bigram", "unigram", "uniform", "bigram_all_text")


def sanity(results: ScaleResults, arm: str) -> Entry:
    """The entry of an arm."""
    return Entry(
        f"sanity_{arm}",
        "sanity",
        f"{results.label(arm)}: held-out loss below that of a bigram model of the same training tokens.",
        AgainstTrivial(arm),
        results.study,
        Below(),
        definition="test loss minus that of the interpolated bigram model, same test tokens",
        lead="Test loss minus the bigram's",
    )
