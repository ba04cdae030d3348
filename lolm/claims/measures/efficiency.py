"""How soon the loss of LOLM gets as low as its baseline's: multipliers at matched loss."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from lolm.analysis import efficiency as eff
from lolm.analysis.in_curve import constant_until, heldout_before_decay, training_before_decay, window_rows
from lolm.analysis.statistics import Estimate, geometric_interval
from lolm.claims.entry import Context, Reading
from lolm.claims.ledger import FAILS, INCONCLUSIVE, Quantity
from lolm.claims.numbers import show, show_interval
from lolm.claims.rules import Above, above, why_of
from lolm.records.results import ScaleResults

AXIS_NAMES = {"step": "steps", "tokens": "tokens", "flops": "training FLOPs", "seconds": "seconds"}

Pairs = eff.Pairs


def measured(results: ScaleResults, pairs: Pairs, axis: str) -> eff.Budgets:
    """Sound multipliers of the pairs: losses where schedules ended, at every budget."""
    return eff.at_budgets(pairs, axis, results.analysis.confidence, results)


def in_curve(results: ScaleResults, pairs: Pairs, axis: str = "step") -> eff.Efficiency:
    """Multipliers of the pairs inside the runs, as the authors read theirs: training loss, before the rate decays."""
    window = results.analysis.published_window
    curves = [(training_before_decay(base, window, axis), training_before_decay(run, window, axis)) for run, base in pairs]
    return eff.efficiency(curves, results.analysis.confidence)


def in_heldout_curve(results: ScaleResults, pairs: Pairs) -> eff.Efficiency:
    """The same in steps on validation text."""
    curves = [(heldout_before_decay(base), heldout_before_decay(subject)) for subject, base in pairs]
    return eff.efficiency(curves, results.analysis.confidence)


@lru_cache(maxsize=8)
def _readings(paired: eff.Paired) -> tuple[eff.Budgets, eff.Efficiency, Mapping[str, Quantity]]:
    """Multiplier in FLOPs where schedules ended, inside the runs as published, and the details beside them."""
    pairs, results = paired.pairs, paired.results
    assert results is not None
    flops = measured(results, pairs, "flops")
    return flops, in_curve(results, pairs), _details(results, pairs, flops)


def multiplier(threshold: float):
    """The multiplier in FLOPs at the largest budget that can be measured, claimed to lie above ``threshold``."""

    def measure(context: Context) -> Reading:
        results, pairs = context.results, context.pairs()
        margin = results.analysis.interpolation_margin
        flops, published, details = _readings(eff.Paired.of(pairs, results))
        if flops.largest is None or flops.estimate is None:
            verdict, why = INCONCLUSIVE, f"No multiplier can be measured: {flops.reason}."
        else:
            verdict, why = _beyond(flops.estimate, threshold, margin), why_of(flops.estimate, threshold, "x")
            why = f"In FLOPs to the same loss, schedules ended, {why}. {_behind(flops, len(pairs))}{_stability(flops, margin)}"
        return Reading(
            sound=flops.estimate,
            published=published.common,
            runs=[run for pair in pairs for run in pair],
            verdict=verdict,
            why=why,
            rule=Above(threshold),
            values={"split": flops.split} | _inside(results, pairs),
            note=_note(flops, len(pairs)),
            published_note=published.reason if published.common is None else _reached(published, len(pairs)),
            rule_note=f", nor would if it were {100 * margin:g} % higher" if threshold > 1 else "",
            details=dict(details),
        )

    return measure


def _inside(results: ScaleResults, pairs: Pairs) -> dict[str, Any]:
    """What the texts on a reading inside the runs say of it."""
    run = pairs[0][0]
    window, dropout = window_rows(run, results.analysis.published_window), run.header.run.size.dropout
    return {"until": constant_until(run), "window": window, "dropout": dropout}


def _details(results: ScaleResults, pairs: Pairs, flops: eff.Budgets) -> Mapping[str, Quantity]:
    details = {}
    for axis in ("step", "tokens", "seconds"):
        found = measured(results, pairs, axis)
        definition, name = f"the same in {AXIS_NAMES[axis]}", f"multiplier in {AXIS_NAMES[axis]}"
        note = _note(found, len(pairs))
        details[name] = Quantity.known(found.estimate, "x", definition, found.reason, len(pairs), note)
    for point in flops.points:
        annealed = f"the same, both arms annealed by step {point.steps:,}"
        definition = "the same at a smaller budget" if point.estimate is None else annealed
        name = f"in FLOPs at the schedule of {point.steps:,} steps"
        details[name] = Quantity.known(point.estimate, "x", definition, point.reason, len(pairs))
    if flops.largest is not None:
        for name, other in eff.by_interpolant(pairs, "flops", flops.largest.steps, results.analysis.confidence).items():
            definition = f"the same points, {name} between them; its interval over seeds alone"
            details[f"in FLOPs, {name}"] = Quantity.known(other, "x", definition, "gives none here", len(pairs))
    if flops.change is not None:
        details["change over budgets"] = Quantity.of(
            flops.change, "x", "multiplier in FLOPs at the largest over the smallest budget"
        )
    for name, inside, definition in (
        ("inside the runs, in FLOPs", in_curve(results, pairs, "flops"), "as published, in training FLOPs"),
        ("inside the runs, validation loss", in_heldout_curve(results, pairs), "as published, but on validation text"),
    ):
        reached = _reached(inside, len(pairs))
        details[name] = Quantity.known(inside.common, "x", definition, inside.reason, len(pairs), reached)
    return details


def _beyond(estimate: Estimate, threshold: float, margin: float) -> str:
    """:func:`above`, but for a threshold above 1 no failure that the understated lead of interpolation could explain."""
    verdict = above(estimate, threshold)
    if verdict == FAILS and threshold > 1 and above(estimate.map(lambda x: x * (1 + margin)), threshold) != FAILS:
        return INCONCLUSIVE
    return verdict


def _note(found: eff.Budgets, pairs: int) -> str | None:
    if found.largest is None:
        return found.reason
    return f"At {found.largest.steps:,} of {found.points[-1].steps:,} steps. {_behind(found, pairs)}"


def _behind(found: eff.Budgets, pairs: int) -> str:
    return _in_words(found.reached, pairs, found.needed)


def _reached(found: eff.Efficiency, pairs: int) -> str:
    needs = [1 / m.value for m in found.to_subject if m.value is not None and m.value < 1]
    return _in_words(found.reached, pairs, 1 / geometric_interval(needs).value if needs else None)


def _in_words(reached: int, pairs: int, needed: float | None) -> str:
    if reached == pairs:
        return f"LOLM reaches the baseline's final loss in every pair ({pairs} of {pairs})."
    text = f"LOLM never reaches the baseline's final loss in {pairs - reached} of {pairs} pairs"
    if needed is not None:
        text += f"; the baseline gets to LOLM's final loss with {needed:.2f} of what LOLM spent"
    return text + "."


def _stability(found: eff.Budgets, margin: float) -> str:
    """What the multipliers at different budgets say together."""
    if found.change is None:
        return " Only one budget can be measured, so nothing is known of how the multiplier changes with it."
    first, last = found.measured[0].steps, found.measured[-1].steps
    between = f"between schedules of {first:,} and {last:,} steps"
    differ = found.differ(margin)
    if differ is None:
        return f" One seed cannot say whether it changes {between}."
    if differ:
        return f" It changes by {show(found.change.value, 'x')} {between}: no single number describes it."
    low, high = found.change.interval or (found.change.value, found.change.value)
    return f" No change is shown {between} (ratio {show_interval(low, high, 'x')})."
