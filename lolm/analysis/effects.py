"""What a training intervention does: arms against the subject, and main effects of factorial designs, over seeds.

Runs are paired by seed, which gives every arm the same data order. Of many comparisons the p values are Holm's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from lolm.analysis.dependency import latent_share, primary, statistic
from lolm.analysis.statistics import Estimate, holm, p_value, t_interval
from lolm.analysis.uncertainty import TextSample, difference
from lolm.records.results import RunRecord, ScaleResults

Measure = Callable[[RunRecord], float | None]


@dataclass(frozen=True)
class Outcome:
    """Something that arms are compared in."""

    name: str
    unit: str
    definition: str


OUTCOMES = {
    "nats": Outcome("test loss", "nats", "test loss"),
    "gate": Outcome("mean gate", "gate", "mean gate on the test split"),
    "inversion": Outcome("inversion statistic", "nats", "loss without latent minus loss without surface"),
    "share": Outcome("latent branch's share", "share", "latent branch's share of the gated signal"),
    "usage": Outcome("usage of regime codes", "share", "entropy of code usage over its maximum, evaluation mode"),
}


def measure(results: ScaleResults, outcome: str) -> Measure:
    """How an outcome (a key of OUTCOMES) is read from a run."""
    pair = primary(results)

    def usage(run: RunRecord) -> float | None:
        regime = None if run.evaluation is None else run.evaluation.regime
        return None if regime is None or not regime.max_entropy else regime.usage_entropy_eval / regime.max_entropy

    return {
        "nats": lambda run: run.test_nats,
        "gate": lambda run: run.gate_mean,
        "inversion": lambda run: statistic(run, pair),
        "share": latent_share,
        "usage": usage,
    }[outcome]


@dataclass(frozen=True)
class Effect:
    """A difference in one outcome, of an arm (minus the subject) or of a factor (high minus low level).

    Attributes:
        p_value: two-sided, as it is; ``adjusted`` by Holm over the effects that were asked for together. None with one seed.
    """

    name: str
    outcome: str
    difference: Estimate
    p_value: float | None
    adjusted: float | None


def arm_effect(results: ScaleResults, arm: str, outcome: str, other: str | None = None) -> Estimate | None:
    """Outcome of an arm minus that of another (default: the subject), paired by seed; None where it was not measured."""
    if arm not in results.arms or (other or results.subject) not in results.arms:
        return None
    text = TextSample.final if outcome == "nats" else None
    return difference(results, arm, other or results.subject or "", measure(results, outcome), text)


def arm_effects(results: ScaleResults, outcome: str) -> list[Effect]:
    """Every other arm of the study against the subject, Holm-adjusted together."""
    found = {arm: arm_effect(results, arm, outcome) for arm in results.arms if arm != results.subject}
    return _adjusted([_effect(arm, outcome, one) for arm, one in found.items() if one is not None])


def main_effects(results: ScaleResults, outcome: str) -> list[Effect]:
    """Main effect of each factor of the study's design: mean over the arms at its high level minus mean over the others.

    Within a seed all arms count once, so the interval over seeds is that of a paired difference. In a fractional design a main
    effect stands for its aliases too: of resolution III they are interactions of two factors. Empty where the study has no
    design, nothing or an arm was not run, or a run lacks the outcome.
    """
    design, arms = results.params.selected.factors, results.params.selected.arms
    read = measure(results, outcome)
    values = {(run.arm, run.seed): read(run) for run in results.runs}
    if not design or not results.seeds or any(values.get((arm, seed)) is None for arm in arms for seed in results.seeds):
        return []
    found = []
    for factor, high in design.items():
        low = [arm for arm in arms if arm not in high]
        per_seed = [_mean(values, high, seed) - _mean(values, low, seed) for seed in results.seeds]
        found.append(_effect(factor, outcome, t_interval(per_seed, results.analysis.confidence)))
    return _adjusted(found)


def _mean(values: dict, arms: Sequence[str], seed: int) -> float:
    return sum(values[arm, seed] for arm in arms) / len(arms)


def _effect(name: str, outcome: str, found: Estimate) -> Effect:
    return Effect(name, outcome, found, p_value(found), None)


def _adjusted(effects: list[Effect]) -> list[Effect]:
    tested = [i for i, effect in enumerate(effects) if effect.p_value is not None]
    for i, value in zip(tested, holm([effects[i].p_value for i in tested]), strict=True):  # type: ignore[misc]
        effects[i] = replace(effects[i], adjusted=value)
    return effects
