"""Over sizes and budgets: how a compute multiplier changes along the compute-optimal path, and what the subject depends on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from lolm.analysis.statistics import Estimate
from lolm.claims.entry import Context, NotRun, Reading
from lolm.claims.ledger import INCONCLUSIVE, Quantity
from lolm.records.schema import Budgets, Trend, Value


def found(context: Context) -> Budgets:
    """The record of the study.

    Raises:
        NotRun: it was not made, or lacks runs: which were made must not depend on what they showed.
    """
    record = context.results.budgets
    if record is None:
        raise NotRun("the study over sizes and budgets was not made")
    if record.missing:
        raise NotRun(f"{record.made} of the {record.asked} runs of the study over sizes and budgets were made")
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
            why = why or "the two arms were measured at no common compute"
            return Reading(verdict=INCONCLUSIVE, why=f"{why[0].upper()}{why[1:]}.", values={"low": "—", "high": "—"})
        slope = slopes[shared]
        ends = [m for m in record.multipliers if (m.baseline, m.shared) == (baseline, shared)]
        path = "along the compute-optimal paths"
        details = {f"multiplier at {m.flops:.2g} FLOPs": _quantity(m.multiplier, "x", path) for m in ends}
        if other := slopes.get(not shared):
            text = "the same with each arm's own E" if shared else "the same with one E for all arms"
            details["other floor"] = _quantity(other.tenfold, "x", text)
        return _judged(
            context,
            slope.tenfold,
            values={"low": f"{slope.low:.1e}", "high": f"{slope.high:.1e}"},
            more=f"Of that path {100 * slope.inside:.0f} % lies within the sizes and tokens measured.",
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
        details = {f"{name} per tenfold tokens": _quantity(t.tokens, t.unit, NAMES[name]) for name, t in trends.items()}
        details |= {
            f"{name} per tenfold parameters": _quantity(t.parameters, t.unit, NAMES[name])
            for name, t in trends.items()
            if name != quantity
        }
        return _judged(context, trends[quantity].parameters, details=details)

    return measure


NAMES = {
    "statistic": "S, by the declared way of removal",
    "damage_latent": "damage without the latent branch",
    "share": "latent addend's share of the variance of the fused signal",
    "gate": "mean gate",
}


def _gap_trends(record: Budgets, baseline: str) -> dict[str, Quantity]:
    def read(trend: Trend) -> dict[str, Quantity]:
        text = "loss of the other arm minus LOLM's at equal parameters and tokens, change per tenfold, no law"
        return {
            "gap per tenfold tokens": _quantity(trend.tokens, "nats", text),
            "gap per tenfold parameters": _quantity(trend.parameters, "nats", text),
        }

    return next((read(t) for t in record.trends if (t.quantity, t.against) == ("gap", baseline)), {})


def _judged(context: Context, value: Value, **more: Any) -> Reading:
    """A reading of a number over runs, which are no seeds of one size; without an interval nothing is decided."""
    found, entry = _estimate(value), context.entry
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
