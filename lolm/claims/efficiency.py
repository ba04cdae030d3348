"""Claims about how soon, and how low, the loss of LOLM gets beside its matched Transformer."""

from __future__ import annotations

import math

from lolm.analysis import efficiency as eff
from lolm.analysis.statistics import Estimate, equivalence, geometric_interval, paired_difference, t_interval
from lolm.claims.ledger import (
    FAILS,
    HOLDS,
    INCONCLUSIVE,
    Claim,
    Quantity,
    above,
    below,
    runs_of,
    show,
    show_interval,
    untestable,
    why_of,
)
from lolm.claims.published import NUMBERS, clipped_perplexity
from lolm.records.results import RunRecord, ScaleResults

AXIS_NAMES = {"step": "steps", "tokens": "tokens", "flops": "training FLOPs", "seconds": "seconds"}
EARLY = 0.06  # share of the run at which the published early gap was read: step 3,000 of 50,000

Pairs = tuple[tuple[RunRecord, RunRecord], ...]


def claims(results: ScaleResults) -> list[Claim]:
    """2x, its direction, the three perplexity gaps, the difference at matched budget, and how the lead changes."""
    pairs = results.pairs(results.subject, results.baseline)
    if not pairs:
        why = "these runs hold no pair of a LOLM and a baseline with a common seed"
        return [
            untestable("efficiency_2x", "efficiency", TWICE, ("efficiency",), why),
            untestable("efficiency_direction", "efficiency", DIRECTION, (), why),
            *(untestable(id, "efficiency", statement, (key,), why) for id, statement, key in GAPS),
            untestable("matched_budget", "efficiency", MATCHED, (), why),
            untestable("early_lead", "efficiency", LEAD, ("tpu_gap_3k", "tpu_gap_50k"), why),
        ]
    return [*_multipliers(results, pairs), *_gaps(results, pairs), _matched(results, pairs), _lead(results, pairs)]


TWICE = "LOLM reaches the matched Transformer's loss with half the compute (2×)."
DIRECTION = "LOLM reaches a given loss with less compute than the matched Transformer (any multiplier above 1)."
MATCHED = "At the same number of training tokens LOLM has the lower held-out loss."
LEAD = "The lead of LOLM in nats is an early one: it shrinks as training goes on."
GAPS = (
    ("gap_25_9", "LOLM's perplexity is 25.9 % lower at a matched budget.", "gap_headline"),
    ("gap_16_8", "LOLM's perplexity is 16.8 % lower at the same step.", "gap_training"),
    ("gap_15", "LOLM's perplexity is 15 % lower late in training, at nine tenths of the baseline's steps.", "gap_later"),
)


def measured(results: ScaleResults, pairs: Pairs, axis: str) -> eff.Budgets:
    """Sound multipliers of the pairs: losses where schedules ended, at every budget."""
    return eff.at_budgets(pairs, axis, results.analysis.confidence)


def in_curve(results: ScaleResults, pairs: Pairs, axis: str) -> eff.Efficiency:
    """Multipliers of the pairs from validation losses inside the runs, schedules unfinished."""
    curves = [(eff.heldout_curve(base, axis), eff.heldout_curve(subject, axis)) for subject, base in pairs]
    return eff.efficiency(curves, axis, results.analysis.confidence)


def as_published(results: ScaleResults, pairs: Pairs) -> eff.Efficiency:
    """Multipliers as published: training loss over the published window, in steps."""
    window = results.analysis.published_window
    curves = [(eff.training_curve(base, window), eff.training_curve(subject, window)) for subject, base in pairs]
    return eff.efficiency(curves, "step", results.analysis.confidence)


def _multipliers(results: ScaleResults, pairs: Pairs) -> list[Claim]:
    sound = {axis: measured(results, pairs, axis) for axis in eff.AXES}
    published = as_published(results, pairs)
    window = eff.window_rows(pairs[0][0], results.analysis.published_window)
    ours = _quantity(
        published,
        len(pairs),
        f"steps to the lowest training loss both arms reach, trailing mean of {window} log windows; dropout and noise on",
    )
    flops = sound["flops"]
    quantity = _at_largest(
        flops,
        len(pairs),
        "baseline's over LOLM's training FLOPs (auxiliary heads included) to the lowest loss that both arms of a pair reach "
        f"where schedules end, {flops.split} split",
    )
    details = {
        f"multiplier in {AXIS_NAMES[axis]}": _at_largest(sound[axis], len(pairs), f"the same in {AXIS_NAMES[axis]}")
        for axis in ("step", "tokens", "seconds")
    }
    for point in flops.points:
        details[f"in FLOPs at the schedule of {point.steps:,} steps"] = (
            Quantity(None, "x", "the same at a smaller budget", n_seeds=len(pairs), note=point.reason)
            if point.estimate is None
            else Quantity.of(point.estimate, "x", f"the same, both arms annealed by step {point.steps:,}")
        )
    if flops.change is not None:
        details["change over budgets"] = Quantity.of(
            flops.change, "x", "multiplier in FLOPs at the largest over the smallest budget"
        )
    details["inside the runs, in FLOPs"] = _quantity(
        in_curve(results, pairs, "flops"), len(pairs), "from validation losses before the schedules end, as a second view"
    )
    unmatched = mismatch(results)
    entries = []
    for id, statement, keys, threshold in (
        ("efficiency_2x", TWICE, ("efficiency",), NUMBERS["efficiency"].value),
        ("efficiency_direction", DIRECTION, (), 1.0),
    ):
        if flops.largest is None or flops.estimate is None:
            verdict, why = INCONCLUSIVE, f"No multiplier can be measured: {flops.reason}."
        else:
            verdict, why = _beyond(flops.estimate, threshold), why_of(flops.estimate, threshold, "x")
            why = f"In FLOPs to the same loss, schedules ended, {why}. {_behind(flops, len(pairs))}{_stability(flops)}"
        if unmatched:
            verdict, why = INCONCLUSIVE, f"{unmatched}. {why}"
        rule = (
            f"holds if the whole interval of the multiplier in FLOPs at the largest measurable budget lies above {threshold:g}, "
            "fails if none of it does" + (f", nor would if it were {100 * eff.INTERPOLATION:g} % higher" if threshold > 1 else "")
        )
        runs = runs_of(run for pair in pairs for run in pair)
        entries.append(Claim(id, "efficiency", statement, keys, ours, quantity, verdict, why, rule, runs, details))
    return entries


def _beyond(estimate: Estimate, threshold: float) -> str:
    """:func:`above`, but for a threshold above 1 no failure that the understated lead of interpolation could explain."""
    verdict = above(estimate, threshold)
    if verdict == FAILS and threshold > 1 and above(estimate.map(lambda x: x * (1 + eff.INTERPOLATION)), threshold) != FAILS:
        return INCONCLUSIVE
    return verdict


def _at_largest(found: eff.Budgets, pairs: int, definition: str) -> Quantity:
    if found.estimate is None or found.largest is None:
        return Quantity(None, "x", definition, n_seeds=pairs, note=found.reason)
    note = f"At {found.largest.steps:,} of {found.points[-1].steps:,} steps."
    return Quantity.of(found.estimate, "x", definition, f"{note} {_behind(found, pairs)}")


def _behind(found: eff.Budgets, pairs: int) -> str:
    if found.reached == pairs:
        return f"LOLM reaches the baseline's final loss in every pair ({pairs} of {pairs})."
    text = f"LOLM never reaches the baseline's final loss in {pairs - found.reached} of {pairs} pairs"
    if found.needed is not None:
        text += f"; the baseline gets to LOLM's final loss with {found.needed:.2f} of what LOLM spent"
    return text + "."


def _stability(found: eff.Budgets) -> str:
    """What the multipliers at different budgets say together."""
    if found.change is None:
        return " Only one budget can be measured, so nothing is known of how the multiplier changes with it."
    first, last = found.measured[0].steps, found.measured[-1].steps
    between = f"between schedules of {first:,} and {last:,} steps"
    if found.differ is None:
        return f" One seed cannot say whether it changes {between}."
    if found.differ:
        return f" It changes by {show(found.change.value, 'x')} {between}: no single number describes it."
    low, high = found.change.interval or (found.change.value, found.change.value)
    return f" No change is shown {between} (ratio {show_interval(low, high, 'x')})."


def _quantity(found: eff.Efficiency, pairs: int, definition: str) -> Quantity:
    if found.common is None:
        return Quantity(None, "x", definition, n_seeds=pairs, note=found.reason)
    return Quantity.of(found.common, "x", definition, _reached(found, pairs))


def _reached(found: eff.Efficiency, pairs: int) -> str:
    if found.reached == pairs:
        return f"LOLM reaches the baseline's final loss in every pair ({pairs} of {pairs})."
    needs = [1 / m.value for m in found.to_subject if m.value is not None and m.value < 1]
    text = f"LOLM never reaches the baseline's final loss in {pairs - found.reached} of {pairs} pairs"
    if needs:
        mean = geometric_interval(needs).value
        text += f"; the baseline gets to LOLM's final loss with {1 / mean:.2f} of what LOLM spent"
    return text + "."


def mismatch(results: ScaleResults) -> str | None:
    """How far the compared arms are from equal parameters, in words; None where they are matched."""
    tolerance = results.analysis.parameter_tolerance
    subject, baseline = (results.plan[arm]["parameters"] for arm in (results.subject, results.baseline))  # type: ignore[index]
    found = abs(baseline / subject - 1)
    if found <= tolerance:
        return None
    return f"The arms are not matched: their parameters differ by {100 * found:.2f} %, more than {100 * tolerance:g} %"


def _gap_share(difference: float) -> float:
    return 1 - math.exp(difference)


def _gaps(results: ScaleResults, pairs: Pairs) -> list[Claim]:
    confidence, window = results.analysis.confidence, results.analysis.published_window
    found = {axis: eff.gap_at(pairs, axis, confidence) for axis in eff.AXES}
    at_steps = found["step"]
    if at_steps.difference is None:
        return [
            untestable(id, "efficiency", statement, (key,), "the losses at the end were not measured")
            for id, statement, key in GAPS
        ]
    gap = at_steps.difference.map(_gap_share)
    split = at_steps.split
    sound = Quantity.of(
        gap,
        "share",
        f"1 - exp(paired difference of {split} losses), same training tokens, schedules ended, noise off in both arms",
    )
    details = {
        f"gap at matched {AXIS_NAMES[axis]}": _matched_gap(found[axis], len(pairs), AXIS_NAMES[axis])
        for axis in ("flops", "seconds")
    }
    details["gap at matched parameters"] = Quantity.of(gap, "share", f"the same losses; {_residue(results)}")
    late = NUMBERS["lolm_steps_late"].value / NUMBERS["baseline_steps_late"].value

    def training(run: RunRecord, share: float = 1.0) -> float:
        return eff.final_training_loss(run, window, share)

    definitions = {
        "gap_25_9": (
            "LOLM's held-out perplexity (evaluation mode) against the baseline's training perplexity",
            lambda a, b: (_validation(a), training(b)),
        ),
        "gap_16_8": ("training perplexities at the last step, published window", lambda a, b: (training(a), training(b))),
        "gap_15": (
            f"training perplexities, LOLM at {late:.3f} of the baseline's steps",
            lambda a, b: (training(a, late), training(b)),
        ),
    }
    entries = []
    for id, statement, key in GAPS:
        text, read = definitions[id]
        ratios = [clipped_perplexity(a) / clipped_perplexity(b) for a, b in (read(*pair) for pair in pairs)]
        ours = Quantity.of(geometric_interval(ratios, confidence).map(lambda ratio: 1 - ratio), "share", text)
        threshold = NUMBERS[key].value
        why = f"On held-out text at the same number of tokens, {why_of(gap, threshold, 'share')}."
        rule = f"holds if the whole interval of the held-out gap lies above {100 * threshold:g} %, fails if none of it does"
        runs = runs_of(run for pair in pairs for run in pair)
        entries.append(Claim(id, "efficiency", statement, (key,), ours, sound, above(gap, threshold), why, rule, runs, details))
    return entries


def _matched_gap(found: eff.Gap, pairs: int, what: str) -> Quantity:
    definition = (
        f"perplexity gap at the largest {what} that both arms of a pair spent; the arm that spent more interpolated "
        "between ends of its schedules"
    )
    if found.difference is None:
        return Quantity(None, "share", definition, n_seeds=pairs, note=found.reason)
    return Quantity.of(found.difference.map(_gap_share), "share", definition)


def _residue(results: ScaleResults) -> str:
    subject, baseline = (results.plan[arm]["parameters"] for arm in (results.subject, results.baseline))  # type: ignore[index]
    return f"the baseline's parameters over LOLM's are {baseline / subject:.4f}"


def _validation(run: RunRecord) -> float:
    return run.points("val/nats")[1][-1]


def _matched(results: ScaleResults, pairs: Pairs) -> Claim:
    confidence, margin = results.analysis.confidence, results.analysis.equivalence_margin
    found = {axis: eff.gap_at(pairs, axis, confidence) for axis in ("step", "flops", "seconds")}
    difference, split = found["step"].difference, found["step"].split
    if difference is None:
        return untestable("matched_budget", "efficiency", MATCHED, (), "the losses at the end were not measured")
    same = equivalence(difference.per_seed, margin, confidence)
    verdict, why = below(difference, 0.0), f"LOLM minus baseline: {why_of(difference, 0.0, 'nats')}."
    if same.equivalent and verdict != FAILS:
        verdict = FAILS
        why += f" But the two losses are equivalent: TOST within ±{margin:g} nats, p = {same.p_value:.3g}."
    details = {}
    for axis, name in (("flops", "FLOPs"), ("seconds", "seconds")):
        definition = f"{split} loss of LOLM minus baseline at the {name} that both spent, interpolated between ends of schedules"
        details[f"difference at equal {name}"] = (
            Quantity(None, "nats", definition, n_seeds=len(pairs), note=found[axis].reason)
            if found[axis].difference is None
            else Quantity.of(found[axis].difference, "nats", definition)  # type: ignore[arg-type]
        )
    return Claim(
        "matched_budget",
        "efficiency",
        MATCHED,
        (),
        None,
        Quantity.of(difference, "nats", f"{split} loss of LOLM minus baseline, paired by seed"),
        verdict,
        why,
        f"fails if the interval lies above 0, or if the arms are equivalent within {margin:g} nats wherever it lies; otherwise "
        "holds if it lies below 0",
        runs_of(run for pair in pairs for run in pair),
        details,
    )


def _lead(results: ScaleResults, pairs: Pairs) -> Claim:
    early, end, step = [], [], None
    for subject, base in pairs:
        mine = dict(zip(*subject.points("val/nats"), strict=True))
        theirs = dict(zip(*base.points("val/nats"), strict=True))
        common = sorted(set(mine) & set(theirs))
        after = [s for s in common if s >= max(1, EARLY * common[-1])]
        if len(after) < 2:
            return untestable(
                "early_lead", "efficiency", LEAD, ("tpu_gap_3k", "tpu_gap_50k"), "too few evaluations during training"
            )
        step = after[0]
        early.append(theirs[step] - mine[step])
        end.append(theirs[common[-1]] - mine[common[-1]])
    confidence = results.analysis.confidence
    shrink = paired_difference(early, end, confidence)
    lead, final = t_interval(early, confidence), t_interval(end, confidence)
    definition = (
        f"lead of LOLM in validation loss at step {step:g} (first evaluation after {100 * EARLY:g} % of the "
        "run) minus its lead at the end"
    )
    parts = (above(lead, 0.0), above(shrink, 0.0))
    verdict = HOLDS if parts == (HOLDS, HOLDS) else FAILS if FAILS in parts else INCONCLUSIVE
    why = (
        f"Early lead: {why_of(lead, 0.0, 'nats')}. Its decline: {why_of(shrink, 0.0, 'nats')}. A lead in nats can shrink on "
        "flattening curves while the multiplier stays; the figure of the lead shows both."
    )
    details = {
        "early lead": Quantity.of(lead, "nats", f"baseline minus LOLM, validation loss at step {step:g}"),
        "final lead": Quantity.of(final, "nats", "the same at the last step"),
    }
    steps, curves, split = eff.annealed_curves(pairs, "step")
    if len(steps) > 1:
        for i, step_end in ((0, steps[0]), (-1, steps[-1])):
            at_end = t_interval([base.losses[i] - subject.losses[i] for base, subject in curves], confidence)
            details[f"lead at the end of the schedule of {step_end:,} steps"] = Quantity.of(
                at_end, "nats", f"baseline minus LOLM, both annealed, {split} split"
            )
    ours = Quantity.of(
        final.map(lambda d: 1 - math.exp(-d)), "share", "perplexity gap at the last step; the published TPU pair ends behind"
    )
    rule = "holds if the intervals of both the early lead and its decline lie above 0, fails if either has none of it there"
    runs = runs_of(run for pair in pairs for run in pair)
    return Claim(
        "early_lead",
        "efficiency",
        LEAD,
        ("tpu_gap_3k", "tpu_gap_50k"),
        ours,
        Quantity.of(shrink, "nats", definition),
        verdict,
        why,
        rule,
        runs,
        details,
    )
