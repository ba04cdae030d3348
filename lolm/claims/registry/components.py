"""Removing components from a trained model. Printed sizes of damage are levels of one published model."""

from __future__ import annotations

import math

from lolm.claims.entry import Entry
from lolm.claims.measures.components import constant_gate, everything_removed, frozen_gate, half_against_one, without_last_blocks
from lolm.claims.published import NUMBERS
from lolm.claims.rules import Above, Below

GROUP = "components"
SIZE = "The size of the damage is that of a model off its training distribution, and depends on the scale of its logits."


def _forced(id: str, statement: str, key: str, scale: str, gate: float, control: str, fact: str, capped: bool = False) -> Entry:
    printed = NUMBERS[key].value
    return Entry(
        id,
        GROUP,
        statement,
        constant_gate(gate, capped),
        rule=Above(math.log(printed) if capped else math.log1p(printed)),
        definition="loss at g = {gate:g} minus loss with the learned gate, test split",
        lead="Damage at g = {gate:g}, against the published ratio in nats",
        published=(key,),
        published_unit="x" if capped else "share",
        published_definition="ratio of perplexities, each capped at e^20, on the head of the training stream, as published"
        if capped
        else "relative change of perplexity at g = {gate:g}",
        caveats=(SIZE,),
        controls=(control, "gate_all"),
        figure="ablation_sweep",
        scale=scale,
        fact=fact,
    )


ENTRIES = (
    _forced(
        "gate_one_ratio",
        "Without its latent stream (g = 1) LOLM's perplexity is 14,000,000 times higher.",
        "ratio_learned",
        "1570m",
        1.0,
        "temperature_one",
        "inversion_preregistered",
        capped=True,
    ),
    _forced(
        "component_gate_one",
        "Forcing the gate to 1 raises perplexity by 744 %.",
        "component_gate_one",
        "304m",
        1.0,
        "temperature_one",
        "inversion_preregistered",
    ),
    _forced(
        "component_gate_half",
        "Forcing the gate to 0.5 raises perplexity by 905 %.",
        "component_gate_half",
        "304m",
        0.5,
        "temperature_half",
        "half_worse_than_one",
    ),
    Entry(
        "half_worse_than_one",
        GROUP,
        "A constant mixture (g = 0.5) is worse than no latent stream at all (g = 1).",
        half_against_one,
        rule=Above(),
        definition="loss at g = 0.5 minus loss at g = 1, paired by seed",
        lead="Loss at 0.5 minus loss at 1",
        published=("component_gate_half", "component_gate_one"),
        published_unit="x",
        published_definition="perplexity at g = 0.5 over perplexity at g = 1",
        caveats=("Which constant is worse says which lies further from the learned level, not that mixing harms.",),
        controls=("gate_all",),
        figure="ablation_sweep",
    ),
    Entry(
        "transformer_graceful",
        GROUP,
        "A Transformer degrades gracefully when an auxiliary part is taken away.",
        without_last_blocks,
        rule=Below(),
        definition="loss of the Transformer without its last {depth} blocks minus that of a bigram model, test split",
        lead="What is left, against a bigram model",
        stated=("seed",),
        caveats=("Graceful is read as still better than a bigram model; the last blocks stand in LOLM's latent layers' place.",),
        figure="damage",
        pair=True,
    ),
    Entry(
        "gate_context",
        GROUP,
        "The gate decides token by token: which tokens get which mixture matters.",
        frozen_gate,
        rule=Above("equivalence_margin"),
        definition="damage with the gate frozen at its mean over tokens in each dimension, test split",
        lead="Damage of a gate without context",
        stated=("paper", "explorer"),
        caveats=("The published test, g = 0.5, changes the level as well.",),
        controls=("gate_but_dimension_mean",),
    ),
    Entry(
        "component_all",
        GROUP,
        "Without latent stream, memory and regime together perplexity rises by 3,612 %.",
        everything_removed,
        rule=Above(math.log1p(NUMBERS["component_all"].value)),
        definition="damage of all three, test split",
        lead="Damage",
        published=("component_all",),
        published_unit="share",
        published_definition="relative change of perplexity, all three removed",
        controls=("gate_all",),
        scale="304m",
    ),
)
