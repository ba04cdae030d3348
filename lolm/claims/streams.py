"""Claims about regime codes, CPC and memory, and the sanity of every arm beside trivial models."""

from __future__ import annotations

import math

from lolm.analysis.statistics import equivalence, paired_difference, t_interval
from lolm.claims.ledger import (
    FAILS,
    HOLDS,
    INCONCLUSIVE,
    Claim,
    Quantity,
    above,
    below,
    runs_of,
    show,
    untestable,
    why_of,
)
from lolm.claims.published import NUMBERS
from lolm.records.results import RunRecord, ScaleResults

CODES = "All regime codes are alive."
CPC = "The contrastive loss is learned: it falls below chance."
MEMORY = "The memory contributes to the loss through the fusion sum."
REGIME = "The regime codes contribute to the loss through the fusion sum."
LADDER = ("bigram", "unigram", "uniform")


def claims(results: ScaleResults) -> list[Claim]:
    """Codes against noise, CPC against ln n, what memory and regime contribute."""
    runs = results.of(results.subject) if results.subject else ()
    return [
        _codes(results, runs),
        _cpc(results, runs),
        _contribution(results, runs, "regime", REGIME, "no_regime"),
        _contribution(results, runs, "memory", MEMORY, "no_memory"),
    ]


def sanity(results: ScaleResults) -> list[Claim]:
    """Each arm against the interpolated bigram model estimated on the tokens it was trained on."""
    return [_sane(results, arm) for arm in results.arms]


def _section(runs: tuple[RunRecord, ...], key: str) -> list[dict] | None:
    found = [run.evaluation[key] for run in runs if run.evaluation is not None and run.evaluation.get(key) is not None]
    return found if found and len(found) == len(runs) else None


def _codes(results: ScaleResults, runs: tuple[RunRecord, ...]) -> Claim:
    published = ("codes_20m", "codes_304m", "codes_157b")
    records = _section(runs, "regime")
    if records is None:
        return untestable("regime_codes", "streams", CODES, published, "these runs hold no measured regime layer")
    confidence = results.analysis.confidence
    sampled = t_interval([r["alive_sampled"] / r["codes"] for r in records], confidence)
    noise = t_interval([r["alive_noise"] / r["codes"] for r in records], confidence)
    used = t_interval([r["alive_eval"] / r["codes"] for r in records], confidence)
    entropy = {
        name: t_interval([r[f"usage_entropy_{name}"] / r["max_entropy"] for r in records], confidence)
        for name in ("sampled", "noise", "eval")
    }
    verdict = (
        INCONCLUSIVE
        if used.interval is None
        else HOLDS
        if min(used.per_seed) == 1
        else FAILS
        if used.interval[1] < 1
        else INCONCLUSIVE
    )
    without = ", ".join(f"{r['alive_eval']:g} of {r['codes']:g}" for r in records)
    if abs(noise.value - sampled.value) < 0.5 / records[0]["codes"]:
        noise_text = (
            f"The published count gives pure noise the same score ({show(noise.value, 'share')} of the "
            "codes), so it is no evidence of use. "
        )
    else:
        noise_text = (
            f"The published count gives {show(sampled.value, 'share')} of the codes, pure noise {show(noise.value, 'share')}. "
        )
    why = (
        noise_text
        + f"Without noise the codes ever chosen are {without}. Being chosen is not being of use: see what they contribute."
    )
    if verdict == INCONCLUSIVE and used.interval is None:
        why += " One seed decides nothing."
    details = {
        "codes alive under pure noise": Quantity.of(noise, "share", "uniform logits, same sampling, same number of tokens"),
        **{
            f"usage entropy, {name}": Quantity.of(e, "share", "entropy of code usage over its maximum ln R")
            for name, e in (
                ("Gumbel samples", entropy["sampled"]),
                ("pure noise", entropy["noise"]),
                ("evaluation mode", entropy["eval"]),
            )
        },
    }
    return Claim(
        "regime_codes",
        "streams",
        CODES,
        published,
        Quantity.of(sampled, "share", "codes that are the argmax of some Gumbel sample"),
        Quantity.of(used, "share", "codes that are the argmax for some test token without noise"),
        verdict,
        why,
        "holds if without noise every code is chosen somewhere in every seed (two or more), fails if the interval "
        "lies below that",
        runs_of(runs),
        details,
    )


def _cpc(results: ScaleResults, runs: tuple[RunRecord, ...]) -> Claim:
    published = ("cpc_304m", "cpc_157b")
    records = _section(runs, "cpc")
    if records is None:
        return untestable("cpc_chance", "streams", CPC, published, "these runs hold no measured CPC loss")
    confidence, margin = results.analysis.confidence, results.analysis.equivalence_margin
    loss = t_interval([r["nats"] for r in records], confidence)
    excess = paired_difference(loss.per_seed, [math.log(r["candidates"]) for r in records], confidence)
    verdict, why = below(excess, 0.0), why_of(excess, 0.0, "nats")
    same = equivalence(excess.per_seed, margin, confidence)
    if same.equivalent:
        verdict, why = FAILS, f"{why}; it is equivalent to chance: TOST within ±{margin:g} nats, p = {same.p_value:.3g}"
    n = records[0]["candidates"]
    why = (
        f"Loss {show(loss.value, 'nats')} against chance ln {n:g} = {math.log(n):.3f}: {why}. "
        "Negatives come from the same sequence, so position alone can lower it; this says nothing of what it is good for."
    )
    return Claim(
        "cpc_chance",
        "streams",
        CPC,
        published,
        Quantity.of(loss, "nats", "CPC loss; its level depends on the number of candidates"),
        Quantity.of(excess, "nats", "CPC loss minus ln n, n the number of candidates actually offered, test split"),
        verdict,
        why,
        f"fails if none of the interval lies below chance, or if the loss is equivalent to chance within {margin:g} nats, "
        "wherever it lies; otherwise holds if all of it lies below",
        runs_of(runs),
    )


def _contribution(results: ScaleResults, runs: tuple[RunRecord, ...], stream: str, statement: str, key: str) -> Claim:
    id = f"{stream}_contribution"
    zero, mean = ([run.damage(f"{stream}_{how}") for run in runs] for how in ("zero", "mean"))
    if not runs or None in mean or None in zero:
        return untestable(id, "streams", statement, (key,), f"these runs hold no LOLM whose {stream} was removed")
    confidence, margin = results.analysis.confidence, results.analysis.equivalence_margin
    zeroed, averaged = t_interval(zero, confidence), t_interval(mean, confidence)  # type: ignore[arg-type]
    why = (
        f"Replacing its output by its mean: {why_of(averaged, margin, 'nats')}. Zeroing costs {show(zeroed.value, 'nats')}"
        f" ({show(math.expm1(zeroed.value), 'share')} of perplexity; published {show(NUMBERS[key].value, 'share')}); "
        "zeroing also removes a constant that the head has learned to expect. The gate was computed before, as published, so "
        "what the stream does through the gate is not in this. What it buys in training needs an arm trained without it."
    )
    return Claim(
        id,
        "streams",
        statement,
        (key,),
        Quantity.of(zeroed.map(math.expm1), "share", "change of perplexity when the stream's output is zeroed"),
        Quantity.of(averaged, "nats", "damage when the stream's output is replaced by its mean over validation tokens"),
        above(averaged, margin),
        why,
        f"holds if the damage of mean ablation lies above {margin:g} nats, fails if none of it does",
        runs_of(runs),
        {"damage by zeroing": Quantity.of(zeroed, "nats", "test split, final weights")},
    )


def _sane(results: ScaleResults, arm: str) -> Claim:
    runs = results.of(arm)
    label = results.label(arm)
    statement = f"{label}: held-out loss below that of a bigram model of the same training tokens."
    if any(run.evaluation is None for run in runs):
        return untestable(f"sanity_{arm}", "sanity", statement, (), "the test losses were not measured")
    confidence = results.analysis.confidence
    losses = [run.evaluation["test"]["nats"] for run in runs]  # type: ignore[index]
    against = {
        name: paired_difference(losses, [run.evaluation["references"][name] for run in runs], confidence)  # type: ignore[index]
        for name in (*LADDER, "bigram_all_text")
        if all(name in run.evaluation["references"] for run in runs)  # type: ignore[index]
    }
    excess = against["bigram"]
    details = {
        f"minus {name.replace('_', ' ')}": Quantity.of(e, "nats", "test loss minus the reference's")
        for name, e in against.items()
    }
    return Claim(
        f"sanity_{arm}",
        "sanity",
        statement,
        (),
        None,
        Quantity.of(excess, "nats", "test loss minus that of the interpolated bigram model, same test tokens"),
        below(excess, 0.0),
        f"Test loss minus the bigram's: {why_of(excess, 0.0, 'nats')}.",
        "holds if the interval lies below 0, fails if none of it does",
        runs_of(runs),
        details,
    )
