"""Over sizes and budgets: how a compute multiplier changes along the compute-optimal path, and what the subject depends on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from lolm.analysis.budgets import settings_of
from lolm.analysis.statistics import Estimate
from lolm.claims.entry import Context, NotRun, Reading
from lolm.claims.ledger import INCONCLUSIVE, Quantity
from lolm.claims.numbers import of_difference, show_estimate
from lolm.records.schema import Budgets, Value


def found(context: Context) -> Budgets:
    """The record of the study.

    Raises:
        NotRun: it was not made, is of another design or under other settings, or lacks runs: which were made must not depend on
            what they showed.
    """
    record = context.results.budgets
    if record is None:
        raise NotRun("the study over sizes and budgets was not made")
    if record.scales != context.results.params.budgets:
        raise NotRun("what is recorded is not over the scales and studies under `budgets` in params.yaml; see `make report`")
    now = vars(settings_of(context.analysis))
    if changed := [name for name, value in vars(record.settings).items() if now[name] != value]:
        raise NotRun(f"what is recorded was read under another `analysis.{changed[0]}`; `make report` reads the runs again")
    if record.missing:
        more = f" and {len(record.missing) - 1} more" if len(record.missing) > 1 else ""
        made = f"{record.made} of the {record.asked} runs of the study over sizes and budgets were made"
        raise NotRun(f"{made}; missing: {record.missing[0]}{more}")
    return record


def path_slope(baseline: str) -> Callable[[Context], Reading]:
    """Factor by which the subject's compute multiplier against an arm changes per tenfold compute."""

    def measure(context: Context) -> Reading:
        record, shared = found(context), context.analysis.shared_floor
        if not any(p.arm == baseline for p in record.points):
            raise NotRun(f"the study over sizes and budgets has no run of {baseline}")
        slopes = {s.shared: s for s in record.slopes if s.baseline == baseline}
        if shared not in slopes:
            why = "; ".join(
                f"no law for {arm}: {record.refused[arm]}" for arm in (record.subject, baseline) if arm in record.refused
            )
            why = why or "at no compute that both arms spent were the best size and tokens of both, by their laws, measured"
            return Reading(verdict=INCONCLUSIVE, why=f"{why[0].upper()}{why[1:]}.", values={"low": "—", "high": "—"})
        slope = slopes[shared]
        ends = [m for m in record.multipliers if (m.baseline, m.shared) == (baseline, shared)]
        path = "along the compute-optimal paths"
        details = {f"multiplier at {m.flops:.2g} FLOPs": _quantity(m.multiplier, "x", path) for m in ends}
        laws = [law for law in record.laws if law.shared == shared and law.arm in (record.subject, baseline)]
        wrong = [law.arm for law in laws if law.form is not None and law.form < 1 - context.confidence]
        if other := slopes.get(not shared):
            text = "the same with each arm's own E" if shared else "the same with one E for all arms"
            details["other floor"] = _quantity(other.tenfold, "x", text)
        return _judged(
            context,
            slope.tenfold,
            values={"low": f"{slope.low:.1e}", "high": f"{slope.high:.1e}"},
            wrong=[context.results.label(arm) for arm in wrong],
            more=f"That is {100 * slope.inside:.0f} % of the compute that both spent; elsewhere a best size or budget was not "
            f"measured.{_at_equal_size(record, baseline)}",
            details=details | _gap_trends(record, baseline),
        )

    return measure


def grows_with_size(quantity: str) -> Callable[[Context], Reading]:
    """Change of a quantity of the subject per tenfold parameters, at equal tokens."""

    def measure(context: Context) -> Reading:
        record = found(context)
        trends = {t.quantity: t for t in record.trends if not t.against}
        if quantity not in trends or trends[quantity].parameters.value is None:
            raise NotRun("the interventions were not measured at two sizes")
        details = {
            f"{name} per tenfold {axis}": _quantity(getattr(t, axis), of_difference(t.unit), NAMES[name])
            for axis in ("tokens", "parameters")
            for name, t in trends.items()
            if (name, axis) != (quantity, "parameters")
        }
        return _judged(context, trends[quantity].parameters, details=details)

    return measure


NAMES = {
    "statistic": "S, by the declared way of removal",
    "damage_latent": "damage without the latent branch",
    "share": "latent branch's share of the gated signal",
    "gate": "mean gate",
}


def _gap_trends(record: Budgets, baseline: str) -> dict[str, Quantity]:
    texts = {
        "gap": "loss of the other arm minus LOLM's at equal parameters and tokens, change per tenfold, no law",
        "multiplier": "measured compute multiplier at equal parameters, factor per tenfold, no law",
    }
    return {
        f"{t.quantity} per tenfold {axis}": _quantity(getattr(t, axis), t.unit, texts[t.quantity])
        for t in record.trends
        if t.against == baseline
        for axis in ("tokens", "parameters")
    }


def _at_equal_size(record: Budgets, baseline: str) -> str:
    """The same question without a law, in words; empty where it was not measured."""
    found = [t.tokens for t in record.trends if (t.quantity, t.against) == ("multiplier", baseline)]
    estimate = _estimate(found[0]) if found else None
    return "" if estimate is None else f" Measured at equal size, per tenfold tokens: {show_estimate(estimate, 'x')}."


def _judged(context: Context, value: Value, wrong: Sequence[str] = (), **more: Any) -> Reading:
    """A reading of a number over runs, which are no seeds of one size; without an interval nothing is decided, nor where the laws
    of some arms are shown ``wrong``, since their intervals know nothing of that."""
    found, entry = _estimate(value), context.entry
    if gone := context.results.budgets.diverged if context.results.budgets else ():
        more["more"] = f"{more.get('more', '')} Diverged: {', '.join(gone)}.".strip()
    if wrong and found is not None:
        return Reading(sound=found, verdict=INCONCLUSIVE, why=f"The law does not fit: {', '.join(wrong)}.", **more)
    if found is None or found.interval is None or entry.rule is None:
        why = "Under some draws an arm's law never reaches the other's loss." if value.n > 1 else "No size has two seeds."
        return Reading(sound=found, verdict=INCONCLUSIVE, why=why, **more)
    why = f"{entry.lead}: {entry.rule.why(found, entry.unit, context.analysis)}.".replace(" seeds", " runs")
    return Reading(sound=found, why=why, note=f"{value.n} runs of several sizes.", **more)


def _estimate(value: Value) -> Estimate | None:
    if value.value is None:
        return None
    interval = None if value.n < 2 or value.low is None or value.high is None else (value.low, value.high)
    return Estimate(value.value, interval, value.n, (), math.nan)  # its confidence is that of the record


def _quantity(value: Value, unit: str, definition: str) -> Quantity:
    found = _estimate(value)
    return Quantity.missing(unit, definition, "no finite value") if found is None else Quantity.of(found, unit, definition)
