"""Over sizes and budgets: how a compute multiplier changes along the compute-optimal path, and what the subject depends on."""

from __future__ import annotations

from collections.abc import Callable

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
        slopes = {s.shared: s for s in record.slopes if s.baseline == baseline}
        if shared not in slopes:
            why = "; ".join(
                f"no law for {arm}: {record.refused[arm]}" for arm in (record.subject, baseline) if arm in record.refused
            )
            return Reading(verdict=INCONCLUSIVE, why=f"{why or 'the two arms were measured at no common compute'}.")
        slope, judged = slopes[shared], _estimate(slopes[shared].tenfold)
        ends = [m for m in record.multipliers if (m.baseline, m.shared) == (baseline, shared)]
        details = {
            f"multiplier at {m.flops:.2g} FLOPs": _quantity(m.multiplier, "x", "along the compute-optimal paths") for m in ends
        }
        if other := slopes.get(not shared):
            text = "the same with each arm's own E" if shared else "the same with one E for all arms"
            details["other floor"] = _quantity(other.tenfold, "x", text)
        unbounded = "The interval has no bound: under some draws an arm's law never reaches the other's loss."
        return Reading(
            sound=judged,
            why=None
            if judged.interval
            else unbounded
            if slope.tenfold.n > 1
            else "No size has two seeds, so there is no interval.",
            values={"low": f"{slope.low:.1e}", "high": f"{slope.high:.1e}"},
            more=""
            if slope.inside == 1
            else f"Of that path {100 * slope.inside:.0f} % lies within the sizes and tokens measured.",
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
        return Reading(sound=_estimate(trends[quantity].parameters), details=details)

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


def _estimate(value: Value) -> Estimate:
    bounded = value.n > 1 and value.low is not None and value.high is not None
    interval = (value.low, value.high) if bounded else None
    return Estimate(value.value or 0.0, interval, value.n, (), 0.95)  # type: ignore[arg-type]


def _quantity(value: Value, unit: str, definition: str) -> Quantity:
    if value.value is None:
        return Quantity.missing(unit, definition, "no finite value")
    return Quantity.of(_estimate(value), unit, definition)
