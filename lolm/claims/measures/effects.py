"""What h and z do through the fusion, through all else that reads them, and alone: what follows a change is computed again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lolm.analysis.dependency import LABELS
from lolm.analysis.statistics import Estimate, paired_difference, t_interval
from lolm.claims.entry import Context, NotRun, Reading
from lolm.claims.ledger import Control, Quantity
from lolm.claims.measures.common import again, nats, removed
from lolm.claims.numbers import show
from lolm.claims.rules import below, every, why_of
from lolm.records import names
from lolm.records.results import RunRecord

STREAM = {names.SURFACE: "h", names.LATENT: "z"}
WORDS = {
    names.TOTAL: "on all that reads it",
    names.DIRECT: "at the fusion alone",
    names.INDIRECT: "on all but the fusion",
    names.INTO_LATENT: "in the SSM's input alone",
}
Damages = dict[tuple[str, str], list[float]]


def _way(context: Context) -> str:
    """The declared replacement.

    Raises:
        NotRun: effects are not computed through with it.
    """
    way = context.analysis.inversion_statistic
    if way not in names.RECOMPUTED:
        raise NotRun(f"what follows is computed again for {', '.join(names.RECOMPUTED)}, not for inversion_statistic: {way}")
    return way


def _damages(runs: Sequence[RunRecord], way: str) -> Damages:
    """By stream and kind of effect, damage in each run, nats; those that every run has."""
    keys = [(branch, kind) for branch, kinds in names.EFFECTS.items() for kind in kinds]
    return {key: found for key in keys if (found := removed(runs, names.effect(*key, way))) is not None}


@dataclass(frozen=True)
class Effect:
    """One damage minus another, each (stream, kind of effect); all that were measured stand beside it."""

    first: tuple[str, str]
    second: tuple[str, str]

    def __call__(self, context: Context) -> Reading:
        runs, declared, confidence = context.subject(), _way(context), context.confidence
        by_way = {way: _damages(runs, way) for way in names.RECOMPUTED}
        damages = by_way[declared]
        found = {way: e for way, of_way in by_way.items() if (e := self._difference(of_way, confidence)) is not None}
        if declared not in found:
            lacking = [names.effect(*key, declared) for key in (self.first, self.second) if key not in damages]
            raise NotRun(f"these runs were not measured under {' and '.join(lacking)}; {again(context.results)}")
        details = {
            f"damage, {STREAM[branch]} {WORDS[kind]}": Quantity.of(t_interval(values, confidence), "nats", LABELS[declared])
            for (branch, kind), values in damages.items()
        }
        for branch, stream in STREAM.items():
            parts = [damages.get((branch, kind)) for kind in (names.TOTAL, names.DIRECT, names.INDIRECT)]
            if None not in parts:
                rest = [t - d - i for t, d, i in zip(*parts, strict=True)]  # type: ignore[arg-type]
                text = "total minus direct minus indirect damage"
                details[f"interaction, {stream}"] = Quantity.of(t_interval(rest, confidence), "nats", text)
        text, sentence = "the same with another replacement", "What stands in a stream's place is no part of the claim."
        controls = [
            Control(f"with {LABELS[way]}", Quantity.of(e, "nats", text), sentence) for way, e in found.items() if way != declared
        ]
        return Reading(found[declared], runs=runs, values={"label": LABELS[declared]}, details=details, controls=tuple(controls))

    def _difference(self, damages: Damages, confidence: float) -> Estimate | None:
        if self.first not in damages or self.second not in damages:
            return None
        return paired_difference(damages[self.first], damages[self.second], confidence)


def branch_alone(branch: str):
    """Loss with all that the fusion adds beside one branch at its mean, minus the unigram and the bigram model's."""

    def measure(context: Context) -> Reading:
        runs, confidence = context.subject(), context.confidence
        losses = [nats(run, names.alone(branch)) for run in runs]
        references = [run.ablation.references for run in runs if run.ablation is not None]
        unigram, bigram = (
            paired_difference(losses, [getattr(reference, name) for reference in references], confidence)
            for name in ("unigram", "bigram")
        )
        other = next(name for name in names.BRANCHES if name != branch)
        details = {"over bigram": Quantity.of(bigram, "nats", "loss minus the interpolated bigram model's")}
        for title, intervention, text in (
            ("minus the other branch alone", names.alone(other), "loss minus that of the other branch alone"),
            (
                "minus the same with the gate at its mean",
                names.joined(names.alone(branch), names.GATE_MEAN_DIMENSION),
                "what the gate tells of the stream that is not there: negative where it helps",
            ),
        ):
            if all(run.condition(intervention) for run in runs):
                beside = [nats(run, intervention) for run in runs]
                details[title] = Quantity.of(paired_difference(losses, beside, confidence), "nats", text)
        loss = t_interval(losses, confidence)
        return Reading(
            unigram,
            runs=runs,
            verdict=every((below(unigram, 0.0), below(bigram, 0.0))),
            why=f"Loss {show(loss.value, 'nats')}. Minus that of the unigram model: {why_of(unigram, 0.0, 'nats')}; minus that "
            f"of the bigram model: {why_of(bigram, 0.0, 'nats')}.",
            details=details,
        )

    return measure
