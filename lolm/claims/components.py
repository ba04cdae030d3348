"""Claims about what is done to a trained model beside the two branches: constant gates, gate controls, all parts at once.

Printed sizes of damage are levels of one published model: tested at its preset, elsewhere shown beside ours without verdict.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from lolm.analysis.statistics import paired_difference, t_interval
from lolm.claims.dependency import again
from lolm.claims.ledger import Claim, Control, Quantity, above, runs_of, show, unmeasured, untestable, why_of
from lolm.claims.published import NUMBERS, clipped_perplexity
from lolm.claims.required_runs import needs
from lolm.records.results import RunRecord, ScaleResults

GROUP = "components"
COLLAPSE = "Without its latent stream (g = 1) LOLM's perplexity is 14,000,000 times higher."
GATE_ONE = "Forcing the gate to 1 raises perplexity by 744 %."
GATE_HALF = "Forcing the gate to 0.5 raises perplexity by 905 %."
WORSE = "A constant mixture (g = 0.5) is worse than no latent stream at all (g = 1)."
CONTEXT = "The gate decides token by token: which tokens get which mixture matters."
ALL = "Without latent stream, memory and regime together perplexity rises by 3,612 %."
GATE_CONTROLS = {
    "gate_mean_dimension": (
        "frozen at its mean in each dimension",
        "Takes the context away and keeps the pattern over dimensions.",
    ),
    "gate_mean_global": ("frozen at its overall mean", "Keeps the level alone: what is left of g = 0.5 once its level is right."),
    "gate_shuffled_positions": ("shuffled over positions", "Keeps every value, and takes away only which token gets which."),
    "gate_permuted_dimensions": ("permuted over dimensions", "Keeps level and spread, not which dimension has which."),
}


def claims(results: ScaleResults) -> list[Claim]:
    """The published removals of the trained model that no other module has."""
    runs = results.of(results.subject) if results.subject else ()
    ratio = math.log(NUMBERS["ratio_learned"].value)
    one, half = (math.log1p(NUMBERS[f"component_gate_{name}"].value) for name in ("one", "half"))
    return [
        _damage(results, runs, "gate_one_ratio", COLLAPSE, "ratio_learned", "1570m", 1.0, ratio, capped=True),
        _damage(results, runs, "component_gate_one", GATE_ONE, "component_gate_one", "304m", 1.0, one),
        _damage(results, runs, "component_gate_half", GATE_HALF, "component_gate_half", "304m", 0.5, half),
        _worse(results, runs),
        _context(results, runs),
        _all(results, runs),
    ]


def damages(runs: Sequence[RunRecord], intervention: str, value: float | None = None) -> list[float] | None:
    """Damage in each run, nats; None unless every one has it."""
    found = [run.damage(intervention, value) for run in runs]
    return None if not found or None in found else found  # type: ignore[return-value]


def gate_controls(results: ScaleResults, runs: Sequence[RunRecord]) -> tuple[Control, ...]:
    """Damage when only a part of what the gate says is taken away."""
    made = []
    for name, (text, sentence) in GATE_CONTROLS.items():
        found = damages(runs, name)
        quantity = (
            unmeasured("nats", f"damage with the gate {text}", again(results))
            if found is None
            else Quantity.of(t_interval(found, results.analysis.confidence), "nats", f"damage with the gate {text}")
        )
        made.append(Control(f"gate {text}", quantity, sentence))
    return tuple(made)


def _damage(
    results: ScaleResults,
    runs: Sequence[RunRecord],
    id: str,
    statement: str,
    key: str,
    scale: str,
    value: float,
    threshold: float,
    capped: bool = False,
) -> Claim:
    found = damages(runs, "gate", value)
    if found is None:
        why = f"these runs hold no LOLM whose gate was forced to {value:g}"
        return untestable(id, GROUP, statement, (key,), why, needs(results.params, scale, "main"))
    confidence = results.analysis.confidence
    damage = t_interval(found, confidence)
    if capped:
        logs = [
            math.log(clipped_perplexity(run.condition("gate", value)["nats"]) / clipped_perplexity(run.condition("none")["nats"]))  # type: ignore[index]
            for run in runs
        ]
        ours = Quantity.of(
            t_interval(logs, confidence).map(math.exp), "x", "ratio of perplexities, each capped at e^20 as published"
        )
    else:
        ours = Quantity.of(damage.map(math.expm1), "share", f"relative change of perplexity at g = {value:g}")
    if results.scale != scale:
        return _elsewhere(results, id, statement, key, scale, ours)
    why = (
        f"Damage at g = {value:g}: {why_of(damage, threshold, 'nats')}, the published ratio in nats. The size of the damage is "
        "that of a model off its training distribution, and depends on the scale of its logits."
    )
    return Claim(
        id,
        GROUP,
        statement,
        (key,),
        ours,
        Quantity.of(damage, "nats", f"loss at g = {value:g} minus loss with the learned gate, test split"),
        above(damage, threshold),
        why,
        f"holds if the interval lies above {show(threshold, 'nats')}, fails if none of it does",
        runs_of(runs),
        controls=(*_fitted(results, runs, value), *gate_controls(results, runs)),
        figure="ablation_sweep",
    )


def _elsewhere(results: ScaleResults, id: str, statement: str, key: str, scale: str, ours: Quantity | None) -> Claim:
    """The level of a model that these runs are not: our number beside it, no verdict."""
    why = f"The number is that of one model: {NUMBERS[key].where}; these runs are of scale {results.scale}."
    if ours is not None:
        ours = replace(ours, note=f"These runs are of scale {results.scale}, another model.")
    return untestable(id, GROUP, statement, (key,), why, needs(results.params, scale, "main"), as_published=ours)


def _fitted(results: ScaleResults, runs: Sequence[RunRecord], value: float) -> list[Control]:
    rows = [(run.condition("gate", value), run.condition("none")) for run in runs]
    values = [None if a is None or b is None else (a.get("nats_fitted"), b.get("nats_fitted")) for a, b in rows]
    text = f"damage at g = {value:g} with one fitted temperature each"
    if any(v is None or None in v for v in values):
        quantity = unmeasured("nats", text, again(results))
    else:
        a, b = zip(*values, strict=True)  # type: ignore[arg-type]
        quantity = Quantity.of(paired_difference(a, b, results.analysis.confidence), "nats", text)
    sentence = "A loss of many nats can come from overconfident logits alone; with a fitted temperature it cannot exceed ln V."
    return [Control("temperature fitted", quantity, sentence)]


def _worse(results: ScaleResults, runs: Sequence[RunRecord]) -> Claim:
    keys = ("component_gate_half", "component_gate_one")
    half, one = damages(runs, "gate", 0.5), damages(runs, "gate", 1.0)
    if half is None or one is None:
        return untestable(
            "half_worse_than_one", GROUP, WORSE, keys, "these runs hold no LOLM whose gate was forced to 0.5 and to 1"
        )
    excess = paired_difference(half, one, results.analysis.confidence)
    return Claim(
        "half_worse_than_one",
        GROUP,
        WORSE,
        keys,
        Quantity.of(excess.map(math.exp), "x", "perplexity at g = 0.5 over perplexity at g = 1"),
        Quantity.of(excess, "nats", "loss at g = 0.5 minus loss at g = 1, paired by seed"),
        above(excess, 0.0),
        f"Loss at 0.5 minus loss at 1: {why_of(excess, 0.0, 'nats')}. Which constant is worse says which lies further from the "
        "learned level, not that mixing harms.",
        "holds if the interval lies above 0, fails if none of it does",
        runs_of(runs),
        controls=gate_controls(results, runs),
        figure="ablation_sweep",
    )


def _context(results: ScaleResults, runs: Sequence[RunRecord]) -> Claim:
    stated, frozen = ("paper", "explorer"), damages(runs, "gate_mean_dimension")
    if frozen is None:
        why = f"The gate was not frozen at its mean; {again(results)}." if runs else "these runs hold no LOLM with a gate"
        return untestable("gate_context", GROUP, CONTEXT, (), why, stated=stated)
    confidence, margin = results.analysis.confidence, results.analysis.equivalence_margin
    damage = t_interval(frozen, confidence)
    return Claim(
        "gate_context",
        GROUP,
        CONTEXT,
        (),
        None,
        Quantity.of(damage, "nats", "damage with the gate frozen at its mean over tokens in each dimension, test split"),
        above(damage, margin),
        f"Damage of a gate without context: {why_of(damage, margin, 'nats')}. The published test, g = 0.5, changes the "
        f"level as well.",
        f"holds if the interval lies above {margin:g} nats, fails if none of it does",
        runs_of(runs),
        controls=tuple(c for c in gate_controls(results, runs) if "each dimension" not in c.name),
        stated=stated,
    )


def _all(results: ScaleResults, runs: Sequence[RunRecord]) -> Claim:
    scale, where = "304m", needs(results.params, "304m", "main")
    found = damages(runs, "gate+memory_zero+regime_zero", 1.0)
    if found is None:
        parts = [damages(runs, *one) for one in (("gate", 1.0), ("memory_zero", None), ("regime_zero", None))]
        why = (
            "The three removals together are not part of the ablation stage; "
            "`force_gate(1.0) | remove_stream('memory') | remove_stream('regime')` of lolm.interventions makes them."
        )
        if None not in parts:
            total = t_interval([sum(values) for values in zip(*parts, strict=True)], results.analysis.confidence)  # type: ignore[arg-type]
            why += f" If the three damages simply added, which they need not: {show(math.expm1(total.value), 'share')}."
        return untestable("component_all", GROUP, ALL, ("component_all",), why, where)
    ours = Quantity.of(
        t_interval(found, results.analysis.confidence).map(math.expm1),
        "share",
        "relative change of perplexity, all three removed",
    )
    if results.scale != scale:
        return _elsewhere(results, "component_all", ALL, "component_all", scale, ours)
    damage, threshold = t_interval(found, results.analysis.confidence), math.log1p(NUMBERS["component_all"].value)
    return Claim(
        "component_all",
        GROUP,
        ALL,
        ("component_all",),
        ours,
        Quantity.of(damage, "nats", "damage of all three, test split"),
        above(damage, threshold),
        f"Damage: {why_of(damage, threshold, 'nats')}.",
        f"holds if the interval lies above {show(threshold, 'nats')}, fails if none of it does",
        runs_of(runs),
        controls=gate_controls(results, runs),
    )
