"""The gate: its level, its path, its supervised target, and what it says about the streams' shares."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lolm.analysis import dependency
from lolm.analysis.dependency import follows
from lolm.analysis.in_curve import constant_until, window_mean
from lolm.analysis.statistics import Estimate, paired_difference, t_interval
from lolm.claims.entry import Context, NotRun, Reading
from lolm.claims.ledger import FAILS, HOLDS, INCONCLUSIVE, NOT_RUN, UNTESTABLE, Quantity
from lolm.claims.measures.common import again, t_value, values
from lolm.claims.numbers import show, show_interval
from lolm.claims.published import NUMBERS
from lolm.claims.rules import above, every, why_of, within
from lolm.records import names
from lolm.records.results import RunRecord

SETTLED = 5_000 / 33_000  # share of the published run from which on the gate is said to stay
LEVELS = ("gate_20m", "gate_149m", "gate_304m", "gate_157b")


def gated(context: Context) -> tuple[RunRecord, ...]:
    """Runs of the subject that have a gate.

    Raises:
        NotRun: there are none.
    """
    runs = tuple(run for run in context.subject() if run.points(names.GATE_LEVEL)[1])
    if not runs:
        raise NotRun("these runs hold no LOLM with a gate")
    return runs


def held_out(run: RunRecord) -> float:
    """Mean gate on held-out text: of the evaluation, or of the last validation pass."""
    return run.points(names.VAL_GATE_MEAN)[1][-1] if run.gate_mean is None else run.gate_mean


def _logged(run: RunRecord, window: int, until: float) -> float:
    """Mean gate on training batches over the last published window by a step, as the levels are read."""
    found = window_mean(run, names.GATE_LEVEL, window, until)
    assert found is not None, "gated runs have logged it"
    return found


def _levels(context: Context, runs: Sequence[RunRecord]) -> tuple[Estimate, Estimate]:
    """(on training batches, on held-out text)"""
    window, confidence = context.analysis.published_window, context.confidence
    logged = [_logged(run, window, constant_until(run)) for run in runs]
    return t_interval(logged, confidence), t_interval([held_out(run) for run in runs], confidence)


def mean_gate(context: Context) -> Reading:
    """Mean gate at the end."""
    runs = gated(context)
    ours, sound = _levels(context, runs)
    return Reading(sound, ours, runs)


def level(context: Context) -> Reading:
    """Mean gate at the end, judged against the level published at this scale, if there is one."""
    runs, margin, scale = gated(context), context.analysis.gate_margin, context.results.scale
    ours, sound = _levels(context, runs)
    same = next((key for key in LEVELS if NUMBERS[key].scale == scale), None)
    if same is None:
        verdict = UNTESTABLE
        why = f"The levels belong to published models; at scale {scale} the gate ends at {show(sound.value, 'gate')}."
    elif sound.interval is None:
        verdict, why = INCONCLUSIVE, "One seed gives no interval."
    else:
        published = NUMBERS[same].value
        verdict = within(sound, published, margin)
        state = {HOLDS: "lies within", FAILS: "lies outside", INCONCLUSIVE: "is not settled against"}[verdict]
        why = f"The interval, {show_interval(*sound.interval, 'gate')}, {state} ±{margin:g} of the published {published}."
    return Reading(sound, ours, runs, verdict=verdict, why=why)


MOVED = 0.01  # a gate that is farther from its level at step 0 in the first log window has moved by then


def gate_paths(runs: Sequence[RunRecord]) -> tuple[list[dict[float, float]], list[float], list[float]]:
    """The mean gate by step of each run, the steps that all have, and of each run the gate at the dip.

    A path begins at the first log window, or where the gate has moved by then at its level in validation text at step 0.

    The lowest point of a noisy curve is low by selection, so the step of the dip is read off the mean curve of the *other*
    seeds; with one seed there is no other, and the value carries no interval.

    Raises:
        NotRun: no runs, or fewer than three steps are common to all.
    """
    curves = [dict(zip(*run.points(names.GATE_LEVEL), strict=True)) for run in runs]
    begins = [dict(zip(*run.points(names.VAL_GATE_MEAN), strict=True)).get(0) for run in runs]
    if any(b is not None and curve and abs(curve[min(curve)] - b) > MOVED for b, curve in zip(begins, curves, strict=True)):
        curves = [curve if b is None else {0: b} | curve for b, curve in zip(begins, curves, strict=True)]
    steps = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
    if len(steps) < 3:
        raise NotRun("too few log windows during training")
    dips = []
    for i, curve in enumerate(curves):
        others = [c for j, c in enumerate(curves) if j != i] or [curve]
        at = min(steps, key=lambda step: math.fsum(c[step] for c in others))
        dips.append(curve[at])
    return curves, steps, dips


def reversal(context: Context) -> Reading:
    """Depth of the dip and height of the climb."""
    runs, confidence = gated(context), context.confidence
    curves, steps, dips = gate_paths(runs)
    start, end = [c[steps[0]] for c in curves], [c[steps[-1]] for c in curves]
    dip, climb = paired_difference(start, dips, confidence), paired_difference(end, start, confidence)
    mean_end = t_value(end)
    why = (
        f"From {t_value(start):.2f} through {t_value(dips):.2f} to {mean_end:.2f}. Depth of the dip: "
        f"{why_of(dip, 0.0, 'gate')}. End above start: {why_of(climb, 0.0, 'gate')}."
    )
    if not any(dip.per_seed):
        top = max(steps, key=lambda step: math.fsum(c[step] for c in curves))
        peak = t_value([c[top] for c in curves])
        why += f" The beginning is the lowest: the gate rises to {peak:.2f} at step {top:g} and then ends at {mean_end:.2f}."
    return Reading(
        sound=dip,
        published=t_interval([min(c.values()) for c in curves], confidence),
        runs=runs,
        verdict=every((above(dip, 0.0), above(climb, 0.0))),
        why=why,
        details={
            "depth of the dip": Quantity.of(dip, "gate", "beginning minus the dip"),
            "end minus start": Quantity.of(climb, "gate", "last log window minus the beginning"),
        },
    )


def reversal_everywhere(context: Context) -> Reading:
    """The same at this scale: one exception refutes that it is everywhere, and no scale alone can show it."""
    here = context.decide(context.entries["gate_reversal"])
    if here.verdict == NOT_RUN or here.sound is None:
        raise NotRun(here.why)
    failed, runs = here.verdict == FAILS, gated(context)
    return Reading(
        sound=reversal(context).sound,
        runs=runs,
        verdict=FAILS if failed else INCONCLUSIVE,
        why="It does not here, with this recipe, and one exception is enough."
        if failed
        else "One scale cannot show it for every one.",
    )


def target(context: Context) -> Reading:
    """Mean gate minus the mean of what the competitive loss pulls it to."""
    runs, confidence, margin = gated(context), context.confidence, context.analysis.gate_margin
    weights = [run.header.run.architecture.objectives.competitive_weight for run in runs]
    if not all(weights):
        raise NotRun("in these runs no loss gives the gate a target")
    summaries = [run.evaluation.gate for run in runs if run.evaluation and run.evaluation.gate]
    measured = [(gate.mean, gate.target) for gate in summaries if gate.target is not None]
    if len(measured) < len(runs):
        raise NotRun("the gate's target was not measured")
    gates, targets = [gate for gate, _ in measured], [target for _, target in measured]
    gap = paired_difference(gates, targets, confidence)
    details = {
        "mean target": Quantity.of(t_interval(targets, confidence), "gate", "mean of sigmoid(5 (u_h - u_z)) on the test split")
    }
    tracks = [r for run in runs if (r := follows(run)) is not None]
    if len(tracks) == len(runs):
        details["correlation over training"] = Quantity.of(
            t_interval(tracks, confidence), "r", "Pearson correlation of logged gate and logged target over log windows"
        )
    if gap.interval is None:
        verdict, why = INCONCLUSIVE, "One seed gives no interval"
    elif within(gap, 0.0, margin) == HOLDS:
        verdict, why = FAILS, f"The gate sits on its supervised target: their difference lies within ±{margin:g}"
    else:
        outside = gap.interval[0] >= margin or gap.interval[1] <= -margin
        state = f"stays more than {margin:g} away from" if outside else f"is not shown to lie within ±{margin:g} of"
        verdict, why = INCONCLUSIVE, f"The gate {state} its target; whether the target shaped it, a run without this loss decides"
    why += (
        f" (gate {t_value(gates):.3f}, target {t_value(targets):.3f}). A loss of weight {weights[0]:g} pulls the mean gate there."
    )
    return Reading(gap, runs=runs, verdict=verdict, why=why, details=details)


def settles(context: Context) -> Reading:
    """Mean gate on training batches at the last step of the constant rate, minus that after 5/33 of these steps."""
    runs, window = gated(context), context.analysis.published_window
    early, late = ([_logged(run, window, share * constant_until(run)) for run in runs] for share in (SETTLED, 1.0))
    end = constant_until(runs[-1])
    return Reading(
        paired_difference(late, early, context.confidence),
        runs=runs,
        values={"step": SETTLED * end, "until": end, "share": SETTLED},
    )


def at_transitions(context: Context) -> Reading:
    """Mean gate at first tokens of sentences minus that at first tokens of words; line ends and starts of documents beside."""
    runs = context.subject()

    def level(name: str) -> list[float]:
        rows = [None if run.ablation is None else run.ablation.token_class(name) for run in runs]
        found = [row.gate_mean for row in rows if row is not None and row.gate_mean is not None]
        if len(found) < len(runs):
            raise NotRun(f"the gate was not measured at the class {name}; {again(context.results)}")
        return found

    def minus(name: str, other: str) -> Estimate:
        return paired_difference(level(name), level(other), context.confidence)

    details = {
        text: Quantity.of(minus(name, other), "gate", f"mean gate at {name} minus that at {other}")
        for text, name, other in (
            ("at ends of lines", names.NEWLINE, names.ALL),
            ("in the first 32 tokens of a document", "document_1_32", "document_later"),
        )
    }
    return Reading(minus(names.SENTENCE_START, names.WORD_START), runs=runs, details=details)


def latent_share(runs: Sequence[RunRecord]) -> list[float] | None:
    """The latent branch's share of the power of the gated signal; None unless every run has it."""
    return values(runs, dependency.latent_share)


def share(context: Context) -> Reading:
    """One minus the mean gate, beside the latent branch's share of the power."""
    runs, margin = gated(context), context.analysis.gate_margin
    shares = latent_share(runs)
    if shares is None:
        raise NotRun("the branches' shares were not measured")
    latent = t_interval(shares, context.confidence)
    naive = t_interval([1 - held_out(run) for run in runs], context.confidence)
    gap = paired_difference(naive.per_seed, latent.per_seed, context.confidence)
    verdict = within(gap, 0.0, margin)
    if verdict == HOLDS and abs(naive.value - 0.5) < margin:
        verdict = INCONCLUSIVE
        why = f"The two agree within ±{margin:g}, as at a gate of one half they do whatever the branches are."
    elif gap.interval is None:
        why = "One seed gives no interval."
    elif verdict == HOLDS:
        why = f"The two agree within ±{margin:g}."
    elif verdict == FAILS:
        why = f"They differ by {gap.value:+.3f}, more than {margin:g}."
    else:
        why = f"Their difference, {gap.interval[0]:+.3f} to {gap.interval[1]:+.3f}, is not settled against ±{margin:g}."
    why += (
        f" One minus the gate says {show(naive.value, 'share')}, the latent branch's share of the power is "
        f"{show(latent.value, 'share')}."
    )
    return Reading(latent, naive, runs, verdict=verdict, why=why)
