"""At the boundaries of a text, measured at the scale that has windows and words for it."""

from __future__ import annotations

from lolm.claims.entry import Entry
from lolm.claims.measures.boundaries import lead_there, turn
from lolm.claims.rules import Above

EVENTS = (
    "The test split holds a dozen documents, so what stands under `document` rests on few events; all seeds score the same ones."
)

ENTRIES = (
    Entry(
        "gate_at_transitions",
        "gate",
        "The gate turns to the latent stream at discourse transitions.",
        turn,
        "context",
        rule=Above(),
        unit="points",
        definition="latent branch's share of the power of the gated signal at the first {tokens} predictions of a paragraph or "
        "document, minus that at all predictions farther from any boundary, test split",
        lead="Just after a transition minus elsewhere",
        published_unit="gate",
        published_definition="the same of one minus the mean gate",
        stated=("seed",),
        caveats=(EVENTS,),
        figure="boundaries",
    ),
    Entry(
        "lead_at_boundaries",
        "gate",
        "LOLM's lead over its matched Transformer is larger just after a boundary of the text than elsewhere.",
        lead_there,
        "context",
        rule=Above(),
        definition="loss of the baseline minus LOLM's at the first {tokens} predictions of a sentence, paragraph or document, "
        "minus the same at all other predictions, test split, paired by seed",
        lead="Lead after a boundary minus lead elsewhere",
        caveats=(EVENTS,),
        figure="boundaries",
        pair=True,
    ),
)
