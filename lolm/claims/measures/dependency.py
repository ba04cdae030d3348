"""S beside what it could follow from: what stands in a branch's place, and over arms the branch's share and the mean gate."""

from __future__ import annotations

from collections.abc import Callable

from lolm.analysis import dependency as dep
from lolm.analysis.over_arms import over_arms
from lolm.analysis.statistics import t_interval
from lolm.claims.entry import Context, NotRun, Reading
from lolm.claims.ledger import FAILS, HOLDS, INCONCLUSIVE, Quantity
from lolm.claims.measures.common import addend, again, needed, quantity, values
from lolm.claims.numbers import of_difference, show, show_estimate
from lolm.claims.rules import within
from lolm.records import names
from lolm.records.results import RunRecord, ScaleResults

Read = Callable[[RunRecord], float | None]


def smaller(context: Context) -> Reading:
    """The latent branch's share of the gated signal, beside other measures of how large it is."""
    runs, results = context.subject(), context.results
    found = dep.share_over_seeds(runs, context.confidence)
    if found is None:
        raise NotRun(f"the branches' shares were not measured; {again(results)}")

    def length(run: RunRecord) -> float | None:
        latent, surface = (addend(run, branch, "mean_norm") for branch in (names.LATENT, names.SURFACE))
        return None if latent is None or surface is None else latent / (latent + surface)

    asked: dict[str, tuple[Read, str]] = {
        "share of the variance of the branches": (
            lambda run: addend(run, names.LATENT, "spread_share"),
            "Σ_d Var over tokens, latent over both branches",
        ),
        "share of the branches' lengths": (length, "mean length of the latent addend over that of both"),
        "share of the variance of o": (
            lambda run: addend(run, names.LATENT, "variance_share"),
            "Σ_d Cov(addend, o) over Σ_d Var(o), of all addends",
        ),
    }
    details = {name: quantity(values(runs, read), results, "share", text) for name, (read, text) in asked.items()}
    return Reading(found, runs=runs, details=details)


def same_in_every_way(context: Context) -> Reading:
    """S by one way of removing a branch minus S by another, of every two; shown is the pair that lies furthest beyond the margin,
    by its p value."""
    runs, margin = context.subject(), context.analysis.inversion_margin
    found = dep.way_contrasts(runs, context.confidence, margin)
    if not found:
        raise NotRun(f"the branches were removed in fewer than two ways; {again(context.results)}")
    decides = min(found, key=lambda c: (1.0 if c.beyond is None else c.beyond, -abs(c.difference.value)))
    level, verdict = 1 - context.confidence, INCONCLUSIVE
    shown = [c for c in found if c.adjusted is not None and c.adjusted < level]
    beyond = [c for c in found if c.beyond is not None and c.beyond < level]
    if all(within(c.difference, 0.0, margin) == HOLDS for c in found):
        verdict = HOLDS
    elif beyond:
        verdict = FAILS
    named = ", ".join(f"{c.first.way} − {c.second.way} {show_estimate(c.difference, 'nats')}" for c in shown)
    why = (
        f"Of {len(found)} pairs of ways, {len(shown)} are shown to differ after Holm's correction{': ' if shown else ''}{named}."
    )
    if shown:
        further = ", ".join(f"{c.first.way} − {c.second.way}, p {c.beyond:.2g}" for c in beyond)
        why += f" By more than {margin:g} nats, corrected alike: {further or 'none'}."
    details = {
        f"{c.first.way} − {c.second.way}": Quantity.of(
            c.difference, "nats", "paired by seed", None if c.adjusted is None else f"Holm's p {c.adjusted:.2g}"
        )
        for c in found
    }
    pair = f"{decides.first.way} minus {decides.second.way}"
    return Reading(
        decides.difference, runs=runs, verdict=verdict, why=why, values={"count": len(found), "pair": pair}, details=details
    )


class OverArms:
    """Correlation of a number of a run, of the given unit, with S over the arms of a study, in each seed. Arms whose means lie
    within the margin that gate levels and shares are called equal by order nothing."""

    def __init__(self, what: str, read: Read, unit: str) -> None:
        self.what, self.read, self.unit = what, read, unit

    def arms(self, results: ScaleResults) -> tuple[str, ...]:
        return results.params.selected.arms

    def __call__(self, context: Context) -> Reading:
        results = context.results
        over = over_arms(results, self.read)
        if over is None:
            raise NotRun(f"it takes S and {self.what} of four arms or more, in every seed; {again(results)}")
        called = [one for one in dep.calls(results) if one.arm in over.arms]
        details, means = {}, list[float]()
        for one in called:
            details[f"{results.label(one.arm)}: S"] = Quantity.of(
                one.found, "nats", f"alone {one.called}, corrected {one.corrected}"
            )
            found = t_interval(needed(results.of(one.arm), self.read, self.what), context.confidence)
            means.append(found.value)
            details[f"{results.label(one.arm)}: {self.what}"] = Quantity.of(found, self.unit, self.what)
        runs = [run for one in called for run in results.of(one.arm)]
        rule, level = context.entry.rule, 1 - context.confidence
        chance = f"p {over.p_value:.2g} by permutation of {len(called)} arms"
        margin, spread = context.analysis.gate_margin, max(means) - min(means)
        unit = of_difference(self.unit)
        alike = f"the arms' means of {self.what} lie within {show(spread, unit)}, called equal" if spread < margin else ""
        by_chance = rule is not None and rule.verdict(over.found, context.analysis) != INCONCLUSIVE and over.p_value >= level
        return Reading(
            over.found,
            runs=runs,
            verdict=INCONCLUSIVE if by_chance or alike else None,
            why=f"{show_estimate(over.found, 'r')} in each seed, but {alike or f'{chance}: so few arms may have it by chance'}."
            if by_chance or alike
            else None,
            more="" if by_chance else f"{chance}.".capitalize(),
            values={"count": len(called), "what": self.what},
            rule_note=f"; decided only where a permutation over arms gives p below {level:.2g}, and their means are further "
            f"apart than {show(margin, unit)}",
            details=details,
        )
