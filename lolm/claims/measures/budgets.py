"""Over sizes and budgets: how a compute multiplier changes along the compute-optimal path, and what the subject depends on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from lolm.analysis.budgets import settings_of
from lolm.analysis.statistics import Estimate
from lolm.claims.entry import Context, NotRun, Reading
from lolm.claims.ledger import INCONCLUSIVE, Quantity
from lolm.claims.numbers import of_difference, show_estimate
from lolm.claims.rules import above, why_of
from lolm.records.schema import Budgets, Value

SEEDS = 3  # of a size whose gap is judged: an interval over two is 13 times as wide as its standard error


class Run(NamedTuple):
    """A run of another scale than the ledger's."""

    name: str
    fingerprint: str


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
        runs, trends = _runs(record, baseline), _gap_trends(record, baseline)
        if shared not in slopes:
            why = "; ".join(
                f"no law for {arm}: {record.refused[arm]}" for arm in (record.subject, baseline) if arm in record.refused
            )
            why = why or "at no compute that both arms spent were the best size and tokens of both, by their laws, measured"
            values, more = {"low": "—", "high": "—"}, _at_equal_size(record, baseline).strip()
            why = f"{why[0].upper()}{why[1:]}."
            return Reading(verdict=INCONCLUSIVE, why=why, values=values, more=more, details=trends, runs=runs)
        slope = slopes[shared]
        ends = [m for m in record.multipliers if (m.baseline, m.shared) == (baseline, shared)]
        path = "along the compute-optimal paths"
        beyond = f"{path}, where a best size or budget of either was not measured"
        details = {f"multiplier at {m.flops:.2g} FLOPs": _quantity(m.multiplier, "x", path if m.inside else beyond) for m in ends}
        laws = [law for law in record.laws if law.shared == shared and law.arm in (record.subject, baseline)]
        wrong = [law.arm for law in laws if law.form is not None and law.form < 1 - context.confidence]
        if other := slopes.get(not shared):
            text = "the same with each arm's own E" if shared else "the same with one E for all arms"
            details["other floor"] = _quantity(other.tenfold, "x", text)
        least, width = context.analysis.path_range, slope.high / slope.low
        against = f"The law does not fit: {', '.join(context.results.label(arm) for arm in wrong)}." if wrong else ""
        if not wrong and width < least:
            against = f"Best sizes and budgets of both were measured over a factor of {width:.1f} of compute, of {least:g} asked."
        if against:
            details["by the laws"] = _quantity(slope.tenfold, "x", "what the laws say all the same")
        return _judged(
            context,
            slope.tenfold,
            against=against,
            values={"low": f"{slope.low:.1e}", "high": f"{slope.high:.1e}"},
            more=f"That is {100 * slope.inside:.0f} % of the range of compute that both spent, in logarithms; elsewhere a best "
            f"size or budget was not measured.{_at_equal_size(record, baseline)}",
            details=details | trends,
            runs=runs,
        )

    return measure


def leads_at_the_end(baseline: str) -> Callable[[Context], Reading]:
    """Loss of an arm minus the subject's with the most tokens that all sizes have, at each size; no law is in it."""

    def measure(context: Context) -> Reading:
        record = found(context)
        ends = {g.scale: {h.tokens for h in record.gaps if (h.baseline, h.scale) == (baseline, g.scale)} for g in record.gaps}
        if not (common := set.intersection(*ends.values()) if ends else set()):
            raise NotRun(f"the study over sizes and budgets has no run of {baseline} beside LOLM's")
        gaps = {g.scale: g.nats for g in record.gaps if (g.baseline, g.tokens) == (baseline, max(common))}
        judged = {
            scale: estimate for scale, value in gaps.items() if (estimate := _estimate(value, "seeds")) and value.n >= SEEDS
        }
        verdicts = {above(estimate, 0.0) for estimate in judged.values()}
        told = "; ".join(f"{scale}: {why_of(estimate, 0.0, 'nats')}" for scale, estimate in judged.items())
        return Reading(
            sound=list(judged.values())[-1] if judged else None,
            verdict=verdicts.pop() if len(verdicts) == 1 else INCONCLUSIVE,
            why=f"{told[0].upper()}{told[1:]}." if told else f"No size has {SEEDS} seeds.",
            values={"tokens": f"{max(common) / 1e6:.3g} M", "scale": list(judged)[-1] if judged else "none"},
            details={f"at {scale}": _quantity(value, "nats", "the same at this size", "seeds") for scale, value in gaps.items()},
            runs=_runs(record, baseline),
        )

    return measure


def _runs(record: Budgets, *baselines: str) -> Any:
    """The runs of the subject and of other arms."""
    mine = [p for p in record.points if p.arm in (record.subject, *baselines)]
    return [Run(f"{p.arm} · {p.scale} · seed {p.seed}", p.fingerprint) for p in mine]


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
        return _judged(context, trends[quantity].parameters, details=details, runs=_runs(record))

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
    details = {}
    for t in record.trends:
        if t.against == baseline:
            text = texts[t.quantity]
            for axis, value in (("tokens", t.tokens), ("parameters", t.parameters)):
                details[f"{t.quantity} per tenfold {axis}"] = _quantity(value, t.unit, text)
            for scale, value in t.by_scale.items():
                details[f"{t.quantity} per tenfold tokens at {scale}"] = _quantity(value, t.unit, text, "seeds")
    return details


def _at_equal_size(record: Budgets, baseline: str) -> str:
    """The same question without a law, in words; empty where it was not measured."""
    found = [t for t in record.trends if (t.quantity, t.against) == ("multiplier", baseline)]
    sizes = {scale: estimate for t in found for scale, value in t.by_scale.items() if (estimate := _estimate(value, "seeds"))}
    shown = ", ".join(f"{scale} {show_estimate(estimate, 'x')}" for scale, estimate in sizes.items())
    return f" Measured at equal size, per tenfold tokens: {shown}." if shown else ""


def _judged(context: Context, value: Value, against: str = "", **more: Any) -> Reading:
    """A reading of a number over runs, which are no seeds of one size; without an interval nothing is decided, nor where
    something speaks ``against`` what the number is read off, of which its interval knows nothing: then it is no finding."""
    found, entry = _estimate(value), context.entry
    if gone := context.results.budgets.diverged if context.results.budgets else ():
        more["more"] = f"{more.get('more', '')} Diverged: {', '.join(gone)}.".strip()
    if against:
        return Reading(verdict=INCONCLUSIVE, why=against, **more)
    if found is None or found.interval is None or entry.rule is None:
        why = "Under some draws an arm's law never reaches the other's loss." if value.n > 1 else "No size has two seeds."
        return Reading(sound=found, verdict=INCONCLUSIVE, why=why, **more)
    why = f"{entry.lead}: {entry.rule.why(found, entry.unit, context.analysis)}."
    return Reading(sound=found, why=why, note=f"{value.n} runs of several sizes.", **more)


def _estimate(value: Value, over: str = "runs") -> Estimate | None:
    if value.value is None:
        return None
    interval = None if value.n < 2 or value.low is None or value.high is None else (value.low, value.high)
    return Estimate(value.value, interval, value.n, (), math.nan, over=over)  # its confidence is that of the record


def _quantity(value: Value, unit: str, definition: str, over: str = "runs") -> Quantity:
    found = _estimate(value, over)
    missing = "no finite value, or shown to differ between sizes"
    return Quantity.known(found, unit, definition, missing)
