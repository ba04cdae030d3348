"""What only training decides: arms and factors against the subject, the wiring, the authors' ladder, recall."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from lolm.analysis.dependency import INVERTED, calls
from lolm.analysis.effects import OUTCOMES, arm_effect, main_effects
from lolm.analysis.effects import measure as outcome_of
from lolm.analysis.recall import attempt
from lolm.analysis.statistics import Estimate, paired_difference, share_difference, solved, t_interval
from lolm.claims.entry import Context, NotRun, Reading
from lolm.claims.ledger import FAILS, HOLDS, INCONCLUSIVE, Control, Quantity
from lolm.claims.measures.common import Read, difference, diverged_on, values
from lolm.claims.numbers import of_difference
from lolm.claims.rules import Above, Threshold, Within, above, below, every, resolve, why_of
from lolm.records import names
from lolm.records.results import ScaleResults

LADDER = ("ladder_1_decoder", "ladder_2_memory", "ladder_3_ssm", "ladder_4_ssm_memory", "ladder_5_regime", "ladder_6_full")


@dataclass(frozen=True)
class Contrast:
    """An arm, or the high level of a factor, minus the subject (the low level) in one outcome, a key of OUTCOMES.

    The level of the interval is Bonferroni's, over all contrasts that a group of the registry asks of the same runs in the same
    outcome; the declared comparison is not corrected.

    Attributes:
        one_sided: the claim bounds a difference on one side (no worse than), so no correction makes it harder to show.
    """

    outcome: str
    arm: str | None = None
    factor: str | None = None
    one_sided: bool = False

    @property
    def name(self) -> str:
        """The arm or factor whose difference is asked for."""
        return self.arm or self.factor or ""

    def arms(self, results: ScaleResults) -> tuple[str, ...]:
        """Arms whose runs it takes in a study."""
        study = results.params.selected
        return study.arms if self.factor else (study.subject, self.name)

    def difference(self, results: ScaleResults) -> Estimate | None:
        """Over seeds, at the level of the analysis; None where it was not measured."""
        if self.arm is not None:
            return arm_effect(results, self.arm, self.outcome) if results.subject else None
        return next((e.difference for e in main_effects(results, self.outcome) if e.name == self.factor), None)

    def __call__(self, context: Context) -> Reading:
        results, outcome = context.results, OUTCOMES[self.outcome]
        found = self.difference(results)
        if found is None:
            what = f"arm {self.arm}" if self.arm else f"factor {self.factor}"
            raise NotRun(f"these runs do not measure {outcome.name} for {what}")
        alpha, declared = 1 - results.analysis.confidence, self._declared(results)
        family = self._family(context)
        if not declared:
            found = found.at(1 - alpha / family)
        name = results.label(self.arm) if self.arm else f"the high level of {self.name.replace('_', ' ')}"
        other = f"“{results.label(results.subject)}”" if self.arm and results.subject else "the low level"
        runs = results.runs if self.factor else (*results.of(self.name), *results.of(results.subject or ""))
        reading = Reading(
            found,
            runs=runs,
            values={
                "lead": f"{outcome.name[0].upper()}{outcome.name[1:]} of {name} minus that of {other}",
                "contrast": f"{outcome.definition}: {name} minus {other}, paired by seed, "
                f"{100 * found.confidence:.4g} % interval",
            },
            rule_note="; the declared comparison, not corrected"
            if declared
            else f"; its level is 1 − {alpha:.2g}/{family} (Bonferroni), for "
            + (f"the {family} factors of the design" if self.factor else f"{family} {'contrast' if family == 1 else 'contrasts'}")
            + f" asked of these runs in {outcome.name}",
            details=self._levels(results) if self.factor else {},
            controls=self._controls(results),
        )
        return self._explaining(context, reading, found)

    def _levels(self, results: ScaleResults) -> dict[str, Quantity]:
        """The outcome of each arm of a design: a main effect is an average over what else they differ in."""
        study, outcome, found = results.params.selected, OUTCOMES[self.outcome], {}
        for arm in study.arms:
            own = values(results.of(arm), outcome_of(results, self.outcome))
            high = [factor.replace("_", " ") for factor, arms in study.factors.items() if arm in arms]
            if own is not None:
                text = f"{outcome.definition}; high: {', '.join(high) or 'none'}"
                found[results.label(arm)] = Quantity.of(t_interval(own, results.analysis.confidence), outcome.unit, text)
        return found

    def _explaining(self, context: Context, reading: Reading, found: Estimate) -> Reading:
        """A difference in S explains an inversion only where there is one."""
        rule = context.entry.rule
        if self.outcome != "inversion" or rule is None or isinstance(rule, Within) or self.one_sided:
            return reading
        note = f"{reading.rule_note}; a difference explains only an inversion that is shown, else it is inconclusive"
        reading = replace(reading, rule_note=note)
        if rule.verdict(found, context.analysis) != HOLDS or inverted(context.results):
            return reading
        why = f"{reading.values['lead']}: {rule.why(found, 'nats', context.analysis)}."
        why += " S differs, but LOLM is not shown to be inverted: there is nothing to explain."
        return replace(reading, verdict=INCONCLUSIVE, why=why)

    def _family(self, context: Context) -> int:
        """How many contrasts are asked of these runs in this outcome, without the declared pair; of a design, all its factors."""
        if self.factor is not None:
            return len(context.results.params.selected.factors)
        same = [entry for entry in context.entries.values() if entry.group == context.entry.group]
        asked = [entry.measure for entry in same if isinstance(entry.measure, Contrast)]
        asked = [one for one in asked if one.outcome == self.outcome and one.difference(context.results) is not None]
        return max(1, len({one.name for one in asked if not one._declared(context.results)}))

    def _declared(self, results: ScaleResults) -> bool:
        """Whether it is the comparison that params.yaml declares, which is one of test losses."""
        return self.outcome == "nats" and self.arm is not None and self.arm == results.baseline

    def _controls(self, results: ScaleResults) -> tuple[Control, ...]:
        """The same arm or factor in the other outcomes: a change of one that comes with a change of all has another cause."""
        sentence = "A change here as well would offer itself as the cause."
        made = []
        for key, outcome in OUTCOMES.items():
            if key == self.outcome:
                continue
            found, text = replace(self, outcome=key).difference(results), f"{outcome.definition}, the same difference"
            unit = of_difference(outcome.unit)
            made.append(Control(outcome.name, Quantity.known(found, unit, text, "not measured in both"), sentence))
        return tuple(made)


def inverted(results: ScaleResults) -> bool:
    """Whether the subject shows the inversion, by the declared rule."""
    return any(one.arm == results.subject and one.called == INVERTED for one in calls(results))


def by_construction(holds: bool, words: str) -> Callable[[Context], Reading]:
    """What the code of a LOLM says without a measurement."""

    def measure(context: Context) -> Reading:
        return Reading(runs=context.subject(), verdict=HOLDS if holds else FAILS, why=f"By construction: {words}")

    return measure


def parallel_paths(context: Context) -> Reading:
    """By construction: whether the SSM reads the decoder's output or the embeddings."""
    latent = context.subject()[0].header.run.architecture.latent
    if context.subject()[0].family != "lolm" or latent.form == "none":
        raise NotRun("these runs hold no LOLM with a latent stream")
    if latent.input != "surface":
        return by_construction(True, "the SSM of this arm reads the token embeddings.")(context)
    words = (
        "as in the published code, z is computed from the decoder's final hidden state, so the streams are a stack with a skip "
    )
    return by_construction(False, f"{words}around its last layers.")(context)


def memory_writes(context: Context) -> Reading:
    """By construction: whether something is read after it was written within a sequence, so that writing gets a gradient."""
    run = context.subject()[0].header.run
    size = run.size.memory
    if run.architecture.family != "lolm" or not run.architecture.memory.enabled or size is None:
        raise NotRun("these runs hold no LOLM with a memory")
    length = run.training.seq_len
    chunks = size.chunks if run.architecture.memory.chunking == "count" else math.ceil(length / size.chunk_tokens)
    words = f"{chunks} chunks of a sequence of {length} tokens, of which each but the last writes what later ones read."
    return by_construction(chunks > 1, words)(context)


@dataclass(frozen=True)
class BeatsAll:
    """Test loss of each of the ``others`` minus that of ``arm`` (default: the subject), against ``least``. To beat all is to beat
    each, so nothing is corrected; the smallest difference stands for them."""

    others: tuple[str, ...]
    arm: str | None = None
    least: Threshold = "equivalence_margin"

    def arms(self, results: ScaleResults) -> tuple[str, ...]:
        return (self.arm or results.params.selected.subject, *self.others)

    def __call__(self, context: Context) -> Reading:
        results, margin = context.results, resolve(self.least, context.analysis)
        first = self.arms(results)[0]
        found = {arm: effect for arm in self.others if (effect := arm_effect(results, arm, "nats", first)) is not None}
        if len(found) < len(self.others):
            raise NotRun(f"these runs do not hold {first} and each of {', '.join(self.others)}")
        words = [f"{results.label(arm)}: {why_of(effect, margin, 'nats')}" for arm, effect in found.items()]
        return Reading(
            sound=min(found.values(), key=lambda effect: effect.value),
            runs=[run for arm in self.arms(results) for run in results.of(arm)],
            verdict=every(above(effect, margin) for effect in found.values()),
            why=f"Minus {results.label(first)}: {'; '.join(words)}.",
            rule=Above(self.least),
            details={
                f"{results.label(arm)} minus {results.label(first)}": Quantity.of(e, "nats", "test loss")
                for arm, e in found.items()
            },
        )


@dataclass(frozen=True)
class Emergent:
    """In how many of the things that are measured the subject is better than each of its ``parts``: test loss, loss late in the
    window, the share of runs that solve a recall task. One is enough, so each is tested at the level over their number."""

    parts: tuple[str, ...]

    def arms(self, results: ScaleResults) -> tuple[str, ...]:
        return (results.params.selected.subject, *self.parts)

    def __call__(self, context: Context) -> Reading:
        results = context.results
        losses: dict[str, Read] = {  # the higher the better
            "test loss": lambda run: None if run.test_nats is None else -run.test_nats,
            "late loss": lambda run: None if run.evaluation is None else -run.evaluation.positions.late.nats,
        }
        abilities = (*losses, *names.TASKS)
        level = 1 - (1 - results.analysis.confidence) / len(abilities)
        verdicts, details = [], {}
        for ability in abilities:
            read, each = losses.get(ability, lambda run, task=ability: attempt(run, task)), []  # type: ignore[misc]
            for part in self.parts:
                pairs = results.pairs(results.subject, part)
                mine, theirs = values([a for a, _ in pairs], read), values([b for _, b in pairs], read)
                if mine is None or theirs is None:
                    raise NotRun(f"{ability} was not measured in LOLM and {part}")
                if ability in losses:
                    unit, text, found = "nats", "by how much LOLM is better", paired_difference(mine, theirs, level)
                else:
                    ours, other = (solved(one, context.analysis.solved_accuracy, level) for one in (mine, theirs))
                    unit, text = "points", "share of runs that solve it, LOLM minus the part"
                    found = share_difference(ours, other)
                each.append(found)
                text += f", {100 * level:.4g} % interval"
                details[f"{ability}, against {results.label(part)}"] = Quantity.of(found, unit, text)
            verdicts.append(every(above(found, 0.0) for found in each))
        held = [ability for ability, verdict in zip(abilities, verdicts, strict=True) if verdict == HOLDS]
        lost, runs = verdicts.count(FAILS), [run for arm in self.arms(results) for run in results.of(arm)]
        return Reading(
            float(len(held)),
            runs=runs,
            verdict=HOLDS if held else FAILS if lost == len(verdicts) else INCONCLUSIVE,
            why=f"Better than each part in {len(held)} of {len(verdicts)} ({', '.join(held) or 'none'}), shown not to be in "
            f"{lost}.{''.join(diverged_on(task, runs, results) for task in names.TASKS)}",
            values={"count": len(verdicts)},
            details=details,
        )


@dataclass(frozen=True)
class Ladder:
    """The largest of the authors' steps from the plain decoder to the full model."""

    def arms(self, results: ScaleResults) -> tuple[str, ...]:
        return LADDER

    def __call__(self, context: Context) -> Reading:
        results, rungs = context.results, list(zip(LADDER, LADDER[1:], strict=False))
        steps = [step for a, b in rungs if (step := arm_effect(results, b, "nats", a)) is not None]
        if len(steps) < len(rungs):
            raise NotRun("no numbers were published for the ladder, and these runs do not hold all of its arms")
        details = {
            f"{results.label(b)} minus {results.label(a)}": Quantity.of(step, "nats", "test loss")
            for (a, b), step in zip(rungs, steps, strict=True)
        }
        return Reading(
            sound=max(steps, key=lambda step: step.value),
            runs=[run for arm in LADDER for run in results.of(arm)],
            verdict=every(below(step, 0.0) for step in steps),
            why="Steps: " + "; ".join(f"{name}: {q.shown}" for name, q in details.items()) + ".",
            details=details,
        )


@dataclass(frozen=True)
class RecallContrast:
    """How often ``first`` (default: the subject) solves a synthetic recall task minus how often another arm does, both trained on
    it from scratch."""

    task: str
    arm: str
    first: str | None = None

    def arms(self, results: ScaleResults) -> tuple[str, ...]:
        return (self.first or results.params.selected.subject, self.arm)

    def __call__(self, context: Context) -> Reading:
        results, least = context.results, context.analysis.solved_accuracy
        first = self.arms(results)[0]
        pairs = results.pairs(first, self.arm)
        sides = [[pair[i] for pair in pairs] for i in (0, 1)]
        mine, theirs = (values(runs, lambda run: attempt(run, self.task)) for runs in sides)
        if mine is None or theirs is None:
            raise NotRun(f"these runs do not measure recall for arms {first} and {self.arm}")
        ours, other = (solved(accuracies, least, context.confidence) for accuracies in (mine, theirs))
        counted = ", ".join(
            f"{results.label(arm)} {sum(one.per_seed):.0f} of {one.n}" for arm, one in ((first, ours), (self.arm, other))
        )
        details = {
            f"solved by {results.label(arm)}": Quantity.of(one, "share", "share of runs, with the exact interval")
            for arm, one in ((first, ours), (self.arm, other))
        }
        reached, others = (values(runs, lambda run: run.accuracy(self.task)) for runs in sides)
        text = "as if accuracies were spread about a mean, which they are not"
        missing = "a run that diverged has no accuracy"
        details["difference of mean accuracies"] = difference(reached, others, results, "points", text, missing)
        runs = [run for pair in pairs for run in pair]
        return Reading(
            share_difference(ours, other),
            runs=runs,
            more=f"Solved (accuracy of {least:g} or more): {counted}. A run either finds the solution or does not."
            f"{diverged_on(self.task, runs, results)}",
            details=details,
        )
