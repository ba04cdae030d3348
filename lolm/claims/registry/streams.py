"""Regime codes, contrastive loss, memory."""

from __future__ import annotations

from lolm.claims.entry import Entry
from lolm.claims.measures.components import stream
from lolm.claims.measures.streams import (
    codes_alive,
    collapse,
    contrastive_loss,
    memory_loss,
    usage_entropy,
)
from lolm.claims.rules import Above, Below

GROUP = "streams"
ASKED_FOR = "A loss of the training asks for exactly this, so that it holds says nothing of what it is good for."
POSITION = "Negatives come from the same sequence, so position alone can lower it; this says nothing of what it is good for."
BEFORE_GATE = "The gate was computed before, as published, so what the stream does through the gate is not in this."


def _contribution(name: str, label: str, key: str) -> Entry:
    return Entry(
        f"{name}_contribution",
        GROUP,
        f"The {label} contribute{'s' if name == 'memory' else ''} to the loss through the fusion sum.",
        stream(name, key),
        rule=Above("equivalence_margin"),
        definition="damage when the stream's output is replaced by its mean over validation tokens",
        lead="Replacing its output by its mean",
        published=(key,),
        published_unit="share",
        published_definition="change of perplexity when the stream's output is zeroed",
        caveats=(BEFORE_GATE, "What it buys in training needs an arm trained without it."),
        controls=(f"{name}_permuted", f"{name}_trained_without"),
        further_study="parts",
    )


ENTRIES = (
    Entry(
        "regime_codes",
        GROUP,
        "All regime codes are alive.",
        codes_alive,
        rule_text="holds if without noise every code is chosen somewhere in every seed (two or more), fails if the interval lies "
        "below that",
        unit="share",
        definition="codes that are the argmax for some test token without noise",
        published=("codes_20m", "codes_304m", "codes_157b"),
        published_definition="codes that are the argmax of some Gumbel sample",
        caveats=(ASKED_FOR,),
        further_study="regime",
        figure="regimes",
        trained_for=True,
    ),
    Entry(
        "cpc_chance",
        GROUP,
        "The contrastive loss is learned: it falls below chance.",
        contrastive_loss,
        rule_text="fails if none of the interval lies below chance, or if the loss is equivalent to chance within "
        "{equivalence_margin:g} nats, wherever it lies; otherwise holds if all of it lies below",
        definition="CPC loss minus ln n, n the number of candidates actually offered, test split",
        published=("cpc_304m", "cpc_157b"),
        published_definition="CPC loss; its level depends on the number of candidates",
        caveats=(POSITION,),
        controls=("other_negatives",),
        further_study="cpc",
    ),
    _contribution("regime", "regime codes", "no_regime"),
    _contribution("memory", "memory", "no_memory"),
    Entry(
        "regime_entropy",
        GROUP,
        "Regime codes are used evenly: usage entropy is 3.465 of 3.466 nats.",
        usage_entropy,
        rule_text="holds if the interval lies above {least} % of the maximum, fails if none of it does",
        unit="share",
        definition="the same of the argmax without noise, test split",
        published=("usage_entropy_304m",),
        published_definition="entropy of the argmax of Gumbel samples over its maximum",
        caveats=(ASKED_FOR,),
        further_study="regime",
        figure="regimes",
        trained_for=True,
    ),
    Entry(
        "regime_collapse",
        GROUP,
        "Without isolation, with the regime layer as in v0, the codes collapse to one.",
        collapse,
        "regime",
        rule_text="holds if the interval lies below one code plus {gate_margin:g}, fails if none of it does",
        unit="share",
        definition="codes alive without noise, test split",
        published=("codes_20m", "codes_149m"),
        published_definition="codes alive among Gumbel samples",
        figure="regimes",
    ),
    Entry(
        "memory_loss",
        GROUP,
        "The memory learns to be read sharply: its loss goes to 0.",
        memory_loss,
        rule=Below("gate_margin"),
        unit="share",
        definition="entropy of the slots' attention over ln S, training batches at the end of the run",
        lead="Memory loss at the end",
        published=("memory_loss_304m", "memory_loss_157b"),
        caveats=("Sharp reading is not use.", ASKED_FOR),
        further_study="parts",
        trained_for=True,
    ),
)
