"""Claims about how regime codes, memory and the contrastive loss behave, and about the gate's dip at every size."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lolm.analysis.efficiency import window_rows
from lolm.analysis.statistics import paired_difference, t_interval
from lolm.claims.ledger import (
    FAILS,
    INCONCLUSIVE,
    Claim,
    Control,
    Quantity,
    above,
    below,
    runs_of,
    unmeasured,
    untestable,
    why_of,
)
from lolm.claims.published import NUMBERS
from lolm.claims.required_runs import needs
from lolm.records.results import RunRecord, ScaleResults

GROUP = "streams"
ENTROPY = "Regime codes are used evenly: usage entropy is 3.465 of 3.466 nats."
COLLAPSE = "Without isolation the regime codes collapse to one."
MEMORY_LOSS = "The memory learns to be read sharply: its loss goes to 0."
CPC_EARLY = "The contrastive loss falls below chance early, by a twentieth of training (step 1,500 of 33,000)."
EVERYWHERE = "The gate reverses at every scale."
EARLY = NUMBERS["cpc_breaks_304m"].value / 33_000
CPC_ENDS = 0.05  # share of the run by which the loss must have fallen


def claims(results: ScaleResults, reversal: Claim) -> list[Claim]:
    """``reversal`` is the entry on the gate's dip at this scale, which can refute that it is everywhere."""
    runs = results.of(results.subject) if results.subject else ()
    return [
        _entropy(results, runs),
        _collapse(results),
        _memory_loss(results, runs),
        _cpc_early(results, runs),
        _everywhere(results, reversal),
    ]


def _entropy(results: ScaleResults, runs: Sequence[RunRecord]) -> Claim:
    keys = ("usage_entropy_304m",)
    records = [run.measured("regime") for run in runs]
    if not records or None in records:
        return untestable("regime_entropy", GROUP, ENTROPY, keys, "these runs hold no measured regime layer")
    confidence, least = results.analysis.confidence, 1 - results.analysis.gate_margin
    sampled, noise, used = (
        t_interval([r[f"usage_entropy_{kind}"] / r["max_entropy"] for r in records], confidence)
        for kind in ("sampled", "noise", "eval")
    )
    control = Control(
        "pure noise",
        Quantity.of(noise, "share", "uniform logits, same Gumbel sampling"),
        "Counting noisy samples finds even use in a layer that says nothing.",
    )
    return Claim(
        "regime_entropy",
        GROUP,
        ENTROPY,
        keys,
        Quantity.of(sampled, "share", "entropy of the argmax of Gumbel samples over its maximum"),
        Quantity.of(used, "share", "the same of the argmax without noise, test split"),
        above(used, least),
        f"Without noise: {why_of(used, least, 'share')}.",
        f"holds if the interval lies above {100 * least:g} % of the maximum, fails if none of it does",
        runs_of(runs),
        controls=(control,),
        figure="regimes",
    )


def _collapse(results: ScaleResults) -> Claim:
    keys = ("codes_20m", "codes_149m")
    arms = [arm for arm in results.arms if _isolated(results, arm) is False]
    runs = [run for arm in arms for run in results.of(arm)]
    if not runs or any(run.measured("regime") is None for run in runs):
        why = "These runs hold no LOLM without isolation whose codes were measured; study regime does."
        return untestable("regime_collapse", GROUP, COLLAPSE, keys, why, needs(results.params, results.scale, "regime"))
    confidence = results.analysis.confidence
    sampled, used = (
        t_interval(
            [
                sum(r.measured("regime", f"alive_{kind}") / r.measured("regime", "codes") for r in runs if r.seed == seed)
                / sum(r.seed == seed for r in runs)
                for seed in results.seeds
            ],
            confidence,
        )
        for kind in ("sampled", "eval")
    )
    one = max(1 / run.measured("regime", "codes") for run in runs)
    least = one + results.analysis.gate_margin
    controls = tuple(
        Control(
            results.label(arm),
            Quantity.of(
                t_interval(
                    [r.measured("regime", "alive_eval") / r.measured("regime", "codes") for r in results.of(arm)], confidence
                ),
                "share",
                "codes alive without noise",
            ),
            "Clamp, entropy sign and balance were changed together with isolation; each arm has another mix of them.",
        )
        for arm in arms
    )
    return Claim(
        "regime_collapse",
        GROUP,
        COLLAPSE,
        keys,
        Quantity.of(sampled, "share", f"codes alive among Gumbel samples, mean over {len(arms)} arms without isolation"),
        Quantity.of(used, "share", "the same without noise, test split"),
        below(used, least),
        f"Codes alive without isolation: {why_of(used, least, 'share')}; one code is {100 * one:.1f} %.",
        f"holds if the interval lies below one code plus {results.analysis.gate_margin:g}, fails if none of it does",
        runs_of(runs),
        controls=controls,
        figure="regimes",
        needs=None,
    )


def _isolated(results: ScaleResults, arm: str) -> bool | None:
    """Whether the codes' gradient is cut at the fusion; None where there are no codes, or other edges are cut too."""
    architecture = results.of(arm)[0].config["run"]["architecture"]
    regime = architecture.get("regime")
    if architecture["family"] != "lolm" or not regime or not regime["enabled"] or architecture.get("detach"):
        return None
    return regime["isolate"]


def _ends(results: ScaleResults, run: RunRecord, metric: str) -> float | None:
    values = run.points(metric)[1][-window_rows(run, results.analysis.published_window) :]
    return math.fsum(values) / len(values) if values else None


def _memory_loss(results: ScaleResults, runs: Sequence[RunRecord]) -> Claim:
    keys = ("memory_loss_304m", "memory_loss_157b")
    form = runs[0].config["run"]["architecture"]["objectives"]["memory"] if runs and runs[0].family == "lolm" else None
    values = [_ends(results, run, "train/memory") for run in runs]
    if form != "attention" or not values or None in values:
        why = "these runs hold no LOLM whose memory loss is the entropy of attention, and logged"
        return untestable("memory_loss", GROUP, MEMORY_LOSS, keys, why)
    found, margin = t_interval(values, results.analysis.confidence), results.analysis.gate_margin  # type: ignore[arg-type]
    damage = [run.damage("memory_mean") for run in runs]
    sentence = "The loss is minimised directly: a sharp read is what it asks for, not evidence that what is read is of use."
    text = "damage when the memory's output is replaced by its mean"
    quantity = (
        unmeasured("nats", text, "not measured")
        if None in damage
        else Quantity.of(t_interval(damage, results.analysis.confidence), "nats", text)  # type: ignore[arg-type]
    )
    return Claim(
        "memory_loss",
        GROUP,
        MEMORY_LOSS,
        keys,
        None,
        Quantity.of(found, "share", "entropy of the slots' attention over ln S, training batches at the end of the run"),
        below(found, margin),
        f"Memory loss at the end: {why_of(found, margin, 'share')}. Sharp reading is not use.",
        f"holds if the interval lies below {margin:g}, fails if none of it does",
        runs_of(runs),
        controls=(Control("what the memory is worth", quantity, sentence),),
    )


def _cpc_early(results: ScaleResults, runs: Sequence[RunRecord]) -> Claim:
    keys = ("cpc_breaks_304m",)
    excess = []
    for run in runs:
        steps, values = run.points("train/future")
        candidates = run.measured("cpc", "candidates")
        early = [v for s, v in zip(steps, values, strict=True) if s <= max(steps[0], CPC_ENDS * steps[-1])]
        if not early or candidates is None:
            return untestable("cpc_early", GROUP, CPC_EARLY, keys, "these runs hold no logged contrastive loss")
        excess.append(early[-1] - math.log(candidates))
    if not excess:
        return untestable("cpc_early", GROUP, CPC_EARLY, keys, "these runs hold no LOLM")
    found = t_interval(excess, results.analysis.confidence)
    final = [run.measured("cpc", "nats") - math.log(run.measured("cpc", "candidates")) for run in runs]
    control = Control(
        "at the end",
        Quantity.of(
            paired_difference(final, [0.0] * len(final), results.analysis.confidence), "nats", "test split, loss minus ln n"
        ),
        "Negatives come from the same sequence, so position alone can lower it; study cpc trains with those of other texts.",
    )
    return Claim(
        "cpc_early",
        GROUP,
        CPC_EARLY,
        keys,
        None,
        Quantity.of(found, "nats", f"contrastive loss minus ln n in the last log window of the first {CPC_ENDS:.0%} of the run"),
        below(found, 0.0),
        f"Early loss minus chance: {why_of(found, 0.0, 'nats')}. The published step is {EARLY:.1%} of its run; learning "
        f"rate and length "
        "of warm-up set it.",
        "holds if the interval lies below 0, fails if none of it does",
        runs_of(runs),
        controls=(control,),
        needs=needs(results.params, results.scale, "cpc"),
    )


def _everywhere(results: ScaleResults, reversal: Claim) -> Claim:
    keys, stated = ("gate_start", "gate_dip"), ("scaling",)
    where = needs(results.params, "304m", "main")
    if reversal.sound is None:
        return untestable("gate_reversal_everywhere", "gate", EVERYWHERE, keys, reversal.why, where, stated)
    failed = reversal.verdict == FAILS
    return Claim(
        "gate_reversal_everywhere",
        "gate",
        EVERYWHERE,
        keys,
        None,
        reversal.sound,
        FAILS if failed else INCONCLUSIVE,
        "It does not here, with this recipe, and one exception is enough."
        if failed
        else "One scale cannot show it for every one.",
        "fails if the reversal fails at this scale; otherwise inconclusive",
        reversal.runs,
        figure="gate_path",
        needs=where,
        stated=stated,
    )
