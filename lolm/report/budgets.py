"""The page of the study over sizes and budgets, made from its record alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from lolm.claims.numbers import show_level
from lolm.config import Params
from lolm.records.schema import BudgetPoint, Budgets, Value
from lolm.report.render import render, si


def shown(found: Value | None, form: str = "{:.3f}") -> str:
    """``1.20 [1.10 to 1.31]``; an end without a bound is ∞."""
    if found is None:
        return "—"
    value = "∞" if found.value is None and found.n else "—" if found.value is None else form.format(found.value)
    if found.n < 2:
        return value.replace("-", "−")
    low, high = ("−∞" if found.low is None else form.format(found.low), "∞" if found.high is None else form.format(found.high))
    return f"{value} [{low} to {high}]".replace("-", "−")


def budgets_page(record: Budgets, params: Params, figure: str | None = None) -> str:
    """``budgets.md``: laws, multipliers over compute, measured gaps, dependency over sizes and budgets, forecasts."""
    labels = {arm: architecture.label for arm, architecture in params.architectures.items()}
    declared = params.analysis.shared_floor
    return render(
        "budgets.md",
        record=record,
        labels=labels,
        level=show_level(params.analysis.confidence),
        figure=figure,
        shown=shown,
        si=si,
        shared=declared,
        flops=multiplier_columns(record, declared),
        table=multiplier_rows(record, declared),
        tokens=sorted({p.tokens for p in record.points}),
        gaps={(g.baseline, g.scale, g.tokens): g.nats for g in record.gaps},
        against=list(dict.fromkeys(g.baseline for g in record.gaps)),
        dependency=_dependency(record),
        rates=_rates(record),
        rises=_rises(record),
        state=_states(record, declared, params.analysis.confidence),
    )


def _rates(record: Budgets) -> dict[str, dict[str, str]]:
    """Peak learning rates by arm and scale."""
    rates: dict[str, dict[str, str]] = {}
    for p in record.points:
        if p.learning_rate is not None:
            rates.setdefault(p.arm, {})[p.scale] = f"{p.learning_rate:g}"
    return rates


def _rises(record: Budgets) -> list[str]:
    """Ends of schedule whose loss is above that of the same run with fewer tokens."""
    runs: dict[tuple[str, str, int], list[BudgetPoint]] = {}
    for p in sorted(record.points, key=lambda p: p.tokens):
        runs.setdefault((p.scale, p.arm, p.seed), []).append(p)
    return [
        f"{scale}: {arm}-{seed} at {si(now.tokens)} tokens, {now.nats:.3f} after {before.nats:.3f}"
        for (scale, arm, seed), ends in runs.items()
        for before, now in pairwise(ends)
        if now.nats > before.nats
    ]


def _states(record: Budgets, shared: bool, confidence: float) -> dict[str, str]:
    """By arm, what is wrong with its law."""
    states = {}
    for law in record.laws:
        if law.shared == shared:
            refuted = ["does not fit"] if law.form is not None and law.form < 1 - confidence else []
            states[law.arm] = "; ".join([*refuted, *([f"is loose in {', '.join(law.loose)}"] if law.loose else [])]) or "—"
    return states


def multiplier_columns(record: Budgets, shared: bool, most: int = 5) -> list[float]:
    """A few of the computes at which every pair's multiplier is read."""
    flops = sorted({m.flops for m in record.multipliers if m.shared == shared and m.baseline == record.baseline})
    return flops[:: max(1, (len(flops) - 1) // (most - 1))] if flops else []


def multiplier_rows(record: Budgets, shared: bool) -> list[tuple[str, list[str]]]:
    """By the arm that the subject is held against, the multiplier nearest to each of :func:`multiplier_columns`."""
    rows = []
    for arm in dict.fromkeys(m.baseline for m in record.multipliers):
        mine = [m for m in record.multipliers if m.baseline == arm and m.shared == shared]
        cells = []
        for flops in multiplier_columns(record, shared) if mine else ():
            near = min(mine, key=lambda m: abs(m.flops - flops))
            cells.append(shown(near.multiplier, "{:.2f}×") + ("" if near.inside else " *"))
        rows.append((arm, cells))
    return rows


def _dependency(record: Budgets) -> list[tuple[str, int, int, dict[str, str]]]:
    """(scale, tokens, seeds, means over seeds) of what the subject depends on."""
    rows = []
    for scale, tokens in dict.fromkeys((d.scale, d.tokens) for d in record.dependency):
        mine = [d for d in record.dependency if (d.scale, d.tokens) == (scale, tokens)]
        cells = {name: _mean([getattr(d, name) for d in mine]) for name in ("statistic", "damage_latent", "share", "gate")}
        rows.append((scale, tokens, len(mine), cells))
    return rows


def _mean(values: Sequence[float | None]) -> str:
    found = [value for value in values if value is not None]
    return f"{sum(found) / len(found):.3f}".replace("-", "−") if found else "—"
