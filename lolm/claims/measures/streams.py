"""Regime codes against noise, the contrastive loss against chance, the memory's loss."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lolm.analysis.in_curve import window_mean
from lolm.analysis.statistics import equivalence, t_interval
from lolm.claims.entry import Context, NotRun, Reading
from lolm.claims.ledger import FAILS, HOLDS, INCONCLUSIVE, Control, Quantity
from lolm.claims.measures.common import quantity, removed, values
from lolm.claims.numbers import show
from lolm.claims.rules import above, below, why_of
from lolm.records import names
from lolm.records.results import RunRecord, ScaleResults
from lolm.records.schema import ContrastiveSummary, RegimeSummary


def _regimes(runs: Sequence[RunRecord]) -> list[RegimeSummary]:
    found = [run.evaluation.regime for run in runs if run.evaluation and run.evaluation.regime]
    if not found or len(found) < len(runs):
        raise NotRun("these runs hold no measured regime layer")
    return found


def _contrastive(runs: Sequence[RunRecord]) -> list[ContrastiveSummary]:
    found = [run.evaluation.cpc for run in runs if run.evaluation and run.evaluation.cpc]
    if not found or len(found) < len(runs):
        raise NotRun("these runs hold no measured CPC loss")
    return found


def codes_alive(context: Context) -> Reading:
    """Codes ever chosen: as published among Gumbel samples, soundly without noise."""
    runs, confidence = context.subject(), context.confidence
    found = _regimes(runs)
    sampled = t_interval([r.alive_sampled / r.codes for r in found], confidence)
    noise = t_interval([r.alive_noise / r.codes for r in found], confidence)
    used = t_interval([r.alive_eval / r.codes for r in found], confidence)
    verdict = INCONCLUSIVE
    if used.interval is not None:
        verdict = HOLDS if min(used.per_seed) == 1 else FAILS if used.interval[1] < 1 else INCONCLUSIVE
    without = ", ".join(f"{r.alive_eval:g} of {r.codes:g}" for r in found)
    if abs(noise.value - sampled.value) < 0.5 / found[0].codes:
        why = (
            f"The published count gives pure noise the same score ({show(noise.value, 'share')} of the codes), so it is no "
            "evidence of use. "
        )
    else:
        why = f"The published count gives {show(sampled.value, 'share')} of the codes, pure noise {show(noise.value, 'share')}. "
    why += f"Without noise the codes ever chosen are {without}. Being chosen is not being of use: see what they contribute."
    if used.interval is None:
        why += " One seed decides nothing."
    details = {
        "codes alive under pure noise": Quantity.of(noise, "share", "uniform logits, same sampling, same number of tokens"),
    }
    for name, key in (
        ("Gumbel samples", "usage_entropy_sampled"),
        ("pure noise", "usage_entropy_noise"),
        ("evaluation mode", "usage_entropy_eval"),
    ):
        entropy = t_interval([getattr(r, key) / r.max_entropy for r in found], confidence)
        details[f"usage entropy, {name}"] = Quantity.of(entropy, "share", "entropy of code usage over its maximum ln R")
    return Reading(used, sampled, runs, verdict=verdict, why=why, details=details)


def usage_entropy(context: Context) -> Reading:
    """Entropy of code usage over its maximum: as published of Gumbel samples, soundly without noise."""
    runs, confidence = context.subject(), context.confidence
    found = _regimes(runs)
    sampled, noise, used = (
        t_interval([getattr(r, f"usage_entropy_{kind}") / r.max_entropy for r in found], confidence)
        for kind in ("sampled", "noise", "eval")
    )
    control = Control(
        "pure noise",
        Quantity.of(noise, "share", "uniform logits, same Gumbel sampling"),
        "Counting noisy samples finds even use in a layer that says nothing.",
    )
    least = 1 - context.analysis.gate_margin
    more = f"Without noise: {why_of(used, least, 'share')}."
    return Reading(
        used,
        sampled,
        runs,
        verdict=above(used, least),
        why=more,
        values={"least": f"{100 * least:g}"},
        controls=(control,),
    )


def isolated(results: ScaleResults, arm: str) -> bool | None:
    """Whether the codes' gradient is cut at the fusion; None where there are no codes, or other edges are cut too."""
    architecture = results.of(arm)[0].header.run.architecture
    if architecture.family != "lolm" or not architecture.regime.enabled or architecture.detach:
        return None
    return architecture.regime.isolate


def collapse(context: Context) -> Reading:
    """Codes alive in the declared baseline, which is without isolation as v0 is; the other arms without it are controls."""
    results, confidence = context.results, context.confidence
    arms = [arm for arm in results.arms if isolated(results, arm) is False]
    judged = results.baseline
    if judged is None or judged not in arms:
        raise NotRun("the baseline of these runs is no LOLM without isolation")
    alive = {arm: _regimes(results.of(arm)) for arm in arms}
    sampled, used = (
        t_interval([getattr(one, f"alive_{kind}") / one.codes for one in alive[judged]], confidence)
        for kind in ("sampled", "eval")
    )
    one, margin = 1 / alive[judged][0].codes, context.analysis.gate_margin
    controls = tuple(
        Control(
            results.label(arm),
            quantity(
                [summary.alive_eval / summary.codes for summary in alive[arm]],
                results,
                "share",
                "codes alive without noise",
            ),
            "Clamp, entropy sign and balance were changed together with isolation; each arm has another mix of them.",
        )
        for arm in arms
        if arm != judged
    )
    return Reading(
        used,
        sampled,
        results.of(judged),
        verdict=below(used, one + margin),
        why=f"Codes alive in {results.label(judged)}: {why_of(used, one + margin, 'share')}; one code is {100 * one:.1f} %.",
        controls=controls,
    )


def memory_loss(context: Context) -> Reading:
    """The memory's loss over the published window at the end of the run."""
    runs = context.subject()
    form = runs[0].header.run.architecture.objectives.memory if runs[0].family == "lolm" else None
    window = context.analysis.published_window
    found = values(runs, lambda run: window_mean(run, names.train_term(names.MEMORY_TERM), window))
    if form != "attention" or found is None:
        raise NotRun("these runs hold no LOLM whose memory loss is the entropy of attention, and logged")
    text = "damage when the memory's output is replaced by its mean"
    worth = quantity(removed(runs, names.replaced(names.MEMORY, names.MEAN)), context.results, "nats", text, "not measured")
    sentence = "The loss is minimised directly: a sharp read is what it asks for, not evidence that what is read is of use."
    return Reading(
        t_interval(found, context.confidence), runs=runs, controls=(Control("what the memory is worth", worth, sentence),)
    )


def above_chance(runs: Sequence[RunRecord]) -> list[float]:
    """The contrastive loss minus ln n of each run, n the candidates that were offered; raises NotRun where one lacks it."""
    return [found.nats - math.log(found.candidates) for found in _contrastive(runs)]


def contrastive_loss(context: Context) -> Reading:
    """The contrastive loss minus ln n, n the candidates that were offered; equivalence to chance refutes it too."""
    runs, confidence, margin = context.subject(), context.confidence, context.analysis.equivalence_margin
    found = _contrastive(runs)
    loss = t_interval([r.nats for r in found], confidence)
    excess = t_interval(above_chance(runs), confidence)
    verdict, why = below(excess, 0.0), why_of(excess, 0.0, "nats")
    same = equivalence(excess.per_seed, margin, confidence)
    if same.equivalent:
        verdict, why = FAILS, f"{why}; it is equivalent to chance: TOST within ±{margin:g} nats, p = {same.p_value:.3g}"
    n = found[0].candidates
    why = f"Loss {show(loss.value, 'nats')} against chance ln {n:g} = {math.log(n):.3f}: {why}."
    return Reading(excess, loss, runs, verdict=verdict, why=why)
