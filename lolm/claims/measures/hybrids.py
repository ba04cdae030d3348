"""Which type of layer hybrids depend on: the recurrent or the attention mixers, for text and for recall."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lolm.analysis import layers as by
from lolm.analysis.statistics import Estimate, complete_interval, geometric_interval, t_interval
from lolm.claims.entry import Context, NotRun, Reading
from lolm.claims.ledger import FAILS, HOLDS, INCONCLUSIVE, Quantity
from lolm.claims.measures.common import again, diverged_on
from lolm.claims.numbers import show, show_estimate
from lolm.claims.rules import above, every, within
from lolm.records import names
from lolm.records.results import RunRecord, ScaleResults

S_TYPE = "loss without the recurrent mixers minus loss without the attention mixers"
Read = Callable[[RunRecord, str], float | None]  # of a run, and what stands in the place of what is removed


class OfArms:
    """A measure whose arms are named, whatever the subject of the study is."""

    def arms(self, results: ScaleResults) -> tuple[str, ...]:
        """Arms whose runs it takes in a study."""
        raise NotImplementedError

    def runs(self, context: Context, arm: str) -> tuple[RunRecord, ...]:
        """Runs of an arm whose layers were removed; raises NotRun."""
        runs = context.results.of(arm)
        if not runs or any(run.by_layer is None for run in runs):
            raise NotRun(
                f"no run of arm {arm}" if not runs else f"the layers of {arm} were not removed; {again(context.results)}"
            )
        return runs


def _over(context: Context, runs: Sequence[RunRecord], read: Read, what: str) -> Estimate:
    found = complete_interval([read(run, context.analysis.type_statistic) for run in runs], context.confidence)
    if found is None:
        raise NotRun(f"{what}; {again(context.results)}")
    return found


def s_type(run: RunRecord, how: str) -> float | None:
    """S_type at the final weights."""
    return by.statistic(run.by_layer, how)


def s_type_per(per: str) -> Read:
    """S_type of damages that are divided by a key of :data:`lolm.analysis.layers.PER`."""
    return lambda run, how: by.statistic(run.by_layer, how, per=per)


def damage_of(kind: str) -> Read:
    """Damage without a type."""
    return lambda run, how: by.damage(run.by_layer, kind, how)


def beyond_random(kind: str, match: str) -> Read:
    """Damage without a type minus that without random mixers of equal ``match``."""
    return lambda run, how: by.beyond_random(run.by_layer, kind, match, how)


def random_sizes(kind: str, match: str) -> Callable[[RunRecord], list[float]]:
    """How many times as large as the type the random mixers of equal ``match`` are."""
    return lambda run: by.matched_sizes(run.by_layer, kind, match)


def early(run: RunRecord, how: str) -> float | None:
    """Mean damage of single mixers in the first half of the layers minus that in the second."""
    return by.early_minus_late(run.by_layer, how)


def single_layers(run: RunRecord, how: str) -> float | None:
    """Mean damage of single mixers."""
    found = run.by_layer
    lost = [] if found is None else [found.damage((site,), how) for site in found.mixers]
    return None if not lost or None in lost else math.fsum(lost) / len(lost)  # type: ignore[arg-type]


@dataclass(frozen=True)
class OfRuns(OfArms):
    """A number of each run of an arm, or that minus the number of ``other``'s run of the same seed; beside it other arms'.

    Attributes:
        two_sided: the claim is that there is a difference, in whichever direction.
        sizes: of the random sets of each run, beside that of the type.
    """

    arm: str
    read: Read
    other: str | None = None
    beside: tuple[str, ...] = ()
    two_sided: bool = False
    sizes: Callable[[RunRecord], list[float]] | None = None

    def arms(self, results: ScaleResults) -> tuple[str, ...]:
        return (self.arm,) if self.other is None else (self.arm, self.other)

    def __call__(self, context: Context) -> Reading:
        runs = list(self.runs(context, self.arm))
        if self.other is None:
            found = _over(context, runs, self.read, f"not measured of {self.arm}")
        else:
            self.runs(context, self.other)
            pairs = context.results.pairs(self.arm, self.other)
            each = [[self.read(run, context.analysis.type_statistic) for run in pair] for pair in pairs]
            if not each or any(None in pair for pair in each):
                raise NotRun(f"not measured of {self.arm} and {self.other} with the same seeds; {again(context.results)}")
            found = t_interval([a - b for a, b in each], context.confidence)  # type: ignore[operator]
            runs = [run for pair in pairs for run in pair]
        details = {}
        for arm in self.beside:
            value = complete_interval(
                [self.read(run, context.analysis.type_statistic) for run in context.results.of(arm)], context.confidence
            )
            if value is not None:
                details[context.results.label(arm)] = Quantity.of(value, context.entry.unit, "the same of this arm")
        more = ""
        for arm in (self.arm, *self.beside) if self.sizes else ():
            drawn = [sizes for run in context.results.of(arm) if (sizes := self.sizes(run))]  # type: ignore[misc]
            if not drawn:
                continue
            mean = t_interval([math.fsum(sizes) / len(sizes) for sizes in drawn], context.confidence)
            spread = f"single sets from {show(min(map(min, drawn)), 'x')} to {show(max(map(max, drawn)), 'x')}"
            text = "the random sets' over the type's, mean over the sets of a run"
            details[f"{context.results.label(arm)}: how equal the sets are"] = Quantity.of(mean, "x", text, spread)
            more = more or f"The sets have {show(mean.value, 'x')} of the type's on average, {spread}."
        if not self.two_sided:
            return Reading(found, runs=runs, details=details, more=more)
        called = by.missed_more(found, context.analysis.type_margin)
        verdict = {by.NEITHER: FAILS, by.UNDECIDED: INCONCLUSIVE}.get(called, HOLDS)
        return Reading(found, runs=runs, details=details, verdict=verdict, why=f"Difference: {show_estimate(found, 'nats')}.")


@dataclass(frozen=True)
class TypeStatistic(OfArms):
    """S_type of an arm with its share, its normalised forms and the other replacements.

    Attributes:
        minority: the claim is of an inversion: the type that is missed more also writes the smaller part.
    """

    arm: str
    minority: bool = False

    def arms(self, results: ScaleResults) -> tuple[str, ...]:
        return (self.arm,)

    def __call__(self, context: Context) -> Reading:
        runs, how, margin, confidence = (
            self.runs(context, self.arm),
            context.analysis.type_statistic,
            context.analysis.type_margin,
            context.confidence,
        )
        found = _over(context, runs, s_type, f"arm {self.arm} has no mixers of both types")
        share = complete_interval([by.share(run.by_layer) for run in runs], confidence)
        details = {}
        for kind in (*names.MIXER_TYPES, names.MLP):
            lost = complete_interval([by.damage(run.by_layer, kind, how) for run in runs], confidence)
            if lost is not None:
                note = "bypassed: shown to cost less than the margin" if by.unused(lost, margin) else None
                details[f"damage without {kind}"] = Quantity.of(lost, "nats", f"all {kind} layers, {how}", note)
        if share is not None:
            details["recurrent share"] = Quantity.of(share, "share", "of the removed norm of recurrent and attention mixers")
        for per, text in by.PER.items():
            value = complete_interval([by.statistic(run.by_layer, how, per=per) for run in runs], confidence) if per else None
            if value is not None:
                details[f"S{text}"] = Quantity.of(value, f"nats{text}", f"both damages{text}")
        later = complete_interval([by.later_layers(run.by_layer, how) for run in runs], confidence)
        if later is not None:
            text = "damages of single mixers beyond the first layer, summed by type: recurrent minus attention"
            details["S of later layers"] = Quantity.of(later, "nats", text)
        for other in names.REPLACEMENTS:
            value = complete_interval([by.statistic(run.by_layer, other) for run in runs], confidence)
            if value is not None and other != how:
                details[f"S, {other}"] = Quantity.of(value, "nats", f"{S_TYPE}, {other} in their place")
        called = by.missed_more(found, margin)
        words = {by.NEITHER: "neither type is missed more", by.UNDECIDED: "not settled"}
        why = f"S, {S_TYPE} ({how}): {show_estimate(found, 'nats')} against ±{show(margin, 'nats')}: "
        why += words.get(called, f"the {called} mixers are missed more") + "."
        why += f" Their share of what both write: {show_estimate(share, 'share')}." if share else ""
        return Reading(
            found,
            None if self.minority else self._ratio(runs, confidence),
            runs,
            verdict=self._verdict(context, found, share),
            why=why,
            details=details,
        )

    def _verdict(self, context: Context, found: Estimate, share: Estimate | None) -> str:
        verdict = above(found, context.analysis.type_margin)
        if not self.minority or verdict == FAILS:
            return verdict
        if share is None or share.interval is None:
            return INCONCLUSIVE
        if share.interval[0] >= 0.5:
            return FAILS
        return verdict if share.interval[1] < 0.5 else INCONCLUSIVE

    @staticmethod
    def _ratio(runs: Sequence[RunRecord], confidence: float) -> Estimate | None:
        """Perplexity without the recurrent mixers, zeroed, over the intact model's."""
        lost = [by.damage(run.by_layer, names.RECURRENT, names.ZERO) for run in runs]
        return None if None in lost else geometric_interval([math.exp(nats) for nats in lost], confidence)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Labellings(OfArms):
    """Exact p over all ways to name the mixers' types, several arms together; of one seed alone it decides nothing."""

    hybrids: tuple[str, ...]

    def arms(self, results: ScaleResults) -> tuple[str, ...]:
        return self.hybrids

    def __call__(self, context: Context) -> Reading:
        found: dict[str, by.Permutation] = {}
        runs: list[RunRecord] = []
        how = context.analysis.type_statistic
        for arm in self.hybrids:
            of_arm = self.runs(context, arm)
            one = by.permutation([run.by_layer for run in of_arm], how)
            if one is not None:
                found[context.results.label(arm)] = one
                runs += of_arm
        if not found:
            raise NotRun(f"no labellings were measured with {how} in the mixers' place")
        p = by.joint_p_value(list(found.values()))
        listed = "; ".join(f"{label}: p = {one.p_value:.3f} of {len(one.all)} labellings" for label, one in found.items())
        level, one_seed = 1 - context.confidence, min(Counter(run.arm for run in runs).values()) < 2
        return Reading(
            sound=p,
            runs=runs,
            verdict=HOLDS if p <= level and not one_seed else INCONCLUSIVE,
            why=f"Joint exact p = {p:.3g} against {level:.2g}. {listed}.{' One seed decides nothing.' if one_seed else ''}",
            values={"level": f"{level:.2g}"},
            details={label: Quantity(one.observed, "nats", "S_type, mean over seeds") for label, one in found.items()},
        )


@dataclass(frozen=True)
class OverTraining(OfArms):
    """S_type at every checkpoint; the smallest is shown."""

    arm: str

    def arms(self, results: ScaleResults) -> tuple[str, ...]:
        return (self.arm,)

    def __call__(self, context: Context) -> Reading:
        runs, how, margin = self.runs(context, self.arm), context.analysis.type_statistic, context.analysis.type_margin
        steps = sorted(set.intersection(*(set(run.by_layer.steps) for run in runs if run.by_layer)))
        found = {n: complete_interval([by.statistic(run.by_layer, how, n) for run in runs], context.confidence) for n in steps}
        known = {n: estimate for n, estimate in found.items() if estimate is not None}
        if len(known) < 2:
            raise NotRun("the types were removed at one checkpoint only")
        verdicts = {n: above(estimate, margin) for n, estimate in known.items()}
        return Reading(
            sound=min(known.values(), key=lambda estimate: estimate.value),
            runs=runs,
            verdict=every(verdicts.values()),
            why=f"Against {margin:g} nats: {', '.join(f'step {n}: {verdict}' for n, verdict in verdicts.items())}.",
            values={"count": len(known)},
            details={f"step {n}": Quantity.of(estimate, "nats", S_TYPE) for n, estimate in known.items()},
        )


@dataclass(frozen=True)
class TrainedWithout(OfArms):
    """Damage of removing a type minus what an arm pays that never had it, for each (hybrid, type, arm); the smallest is shown."""

    pairs: tuple[tuple[str, str, str], ...]

    def arms(self, results: ScaleResults) -> tuple[str, ...]:
        return tuple(dict.fromkeys(arm for hybrid, _, without in self.pairs for arm in (hybrid, without)))

    def __call__(self, context: Context) -> Reading:
        results, how, found, runs = context.results, context.analysis.type_statistic, {}, []
        for hybrid, kind, without in self.pairs:
            self.runs(context, hybrid)
            pairs = results.pairs(hybrid, without)
            excess = complete_interval([by.overstated(a, b, kind, how) for a, b in pairs], context.confidence)
            if excess is None:
                raise NotRun(f"these runs do not hold {hybrid} and {without}, evaluated, with the same seeds")
            found[f"{results.label(hybrid)} without {kind}, against {results.label(without)}"] = excess
            runs += [run for pair in pairs for run in pair]
        margin = context.analysis.type_margin
        return Reading(
            sound=min(found.values(), key=lambda excess: excess.value),
            runs=runs,
            verdict=every(above(excess, margin) for excess in found.values()),
            why="; ".join(f"{name}: {show_estimate(excess, 'nats')}" for name, excess in found.items()) + ".",
            details={name: Quantity.of(excess, "nats", context.entry.definition) for name, excess in found.items()},
        )


@dataclass(frozen=True)
class RecallByType(OfArms):
    """Accuracy lost without attention minus that lost without recurrence, of the runs that learned a recall task.

    Attributes:
        dissociated: the claim is also that for text the recurrent mixers are missed more; else, that recall does without these.
    """

    arm: str
    task: str
    dissociated: bool = False

    def arms(self, results: ScaleResults) -> tuple[str, ...]:
        return (self.arm,)

    def __call__(self, context: Context) -> Reading:
        runs, how = context.results.of(self.arm), context.analysis.type_statistic
        trained = [run for run in runs if self.task not in run.diverged_tasks]
        lost = [[by.recall_lost(run, self.task, kind, how) for kind in names.MIXER_TYPES] for run in trained]
        if not runs or any(None in pair for pair in lost):
            raise NotRun(f"recall of {self.arm} was not scored without its types; {again(context.results)}")
        least = context.analysis.solved_accuracy
        solved = [(run, pair) for run, pair in zip(trained, lost, strict=True) if (run.accuracy(self.task) or 0.0) >= least]
        counted = f"Solved (accuracy of {least:g} or more): {len(solved)} of {len(runs)} seeds."
        counted += diverged_on(self.task, runs, context.results)
        if not solved:
            why = f"{counted} What was not learned cannot be lost."
            return Reading(runs=runs, verdict=INCONCLUSIVE, why=why, note="no run learned the task")
        confidence = context.confidence
        found = t_interval([attention - recurrent for _, (recurrent, attention) in solved], confidence)  # type: ignore[operator]
        details = {}
        for i, kind in enumerate(names.MIXER_TYPES):
            one = t_interval([pair[i] for _, pair in solved], confidence)  # type: ignore[misc]
            details[f"accuracy lost without {kind}"] = Quantity.of(one, "points", f"all {kind} mixers, {how}")
        left = [(run.accuracy(self.task) or 0.0) - pair[1] for run, pair in solved]  # type: ignore[operator]
        verdicts = [above(found, 0.0)]
        why = f"{counted} Accuracy lost without attention minus without recurrence: {show_estimate(found, 'points')}."
        if self.dissociated:
            text = _over(context, self.runs(context, self.arm), s_type, f"arm {self.arm} has no mixers of both types")
            verdicts.append(above(text, context.analysis.type_margin))
            details["S_type"] = Quantity.of(text, "nats", f"{S_TYPE}, text")
            why += f" For text, S_type is {show_estimate(text, 'nats')}."
        else:
            recurrent = t_interval([pair[0] for _, pair in solved], confidence)  # type: ignore[misc]
            verdicts.append(within(recurrent, 0.0, context.analysis.gate_margin))
            why += f" Lost without recurrence: {show_estimate(recurrent, 'points')}."
        ours = None if self.dissociated else t_interval(left, confidence)
        return Reading(found, ours, [run for run, _ in solved], verdict=every(verdicts), why=why, details=details)
