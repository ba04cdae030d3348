"""Against other models, on tasks, and about larger models: tested where this project has the like, named where not."""

from __future__ import annotations

import math

from lolm.claims.entry import Entry
from lolm.claims.measures.external import against_baseline, late_bits, late_change, never, real_repetition, repetition
from lolm.claims.published import NUMBERS
from lolm.claims.rules import Above, Below, Rule

GROUP = "outside"
HELLASWAG_ITEMS = 200  # the printed percentages are multiples of 0.5 %
HELLASWAG_ERROR = math.sqrt(0.25 * 0.75 / HELLASWAG_ITEMS)
HELLASWAG_GAP = NUMBERS["hellaswag_baseline"].value - NUMBERS["hellaswag"].value
PYTHIA = (
    "Pythia-410M is not among the arms: another tokenizer, text and schedule. The like here is LOLM against its matched "
    "Transformer, same tokenizer and text."
)
LARGER = (
    "A hypothesis about models of 7B and 13B, for which params.yaml has no preset; its premise, a trend over sizes, is what "
    "`make scaling` tests."
)


def _like(id: str, statement: str, measure, rule: Rule, definition: str, figure: str | None = "by_position") -> Entry:
    return Entry(
        id,
        GROUP,
        statement,
        measure,
        rule=rule,
        unit="share",
        definition=f"the same, LOLM minus the matched Transformer, paired by seed: {definition}",
        lead="LOLM minus Transformer",
        published=(id,),
        published_definition=f"LOLM: {definition}",
        caveats=(PYTHIA,),
        figure=figure,
        pair=True,
    )


def _never(id: str, statement: str, published: tuple[str, ...], why: str, scale: str, study: str = "main", **more) -> Entry:
    return Entry(id, GROUP, statement, never(why), study, published=published, further_scale=scale, **more)


ENTRIES = (
    _never(
        "pythia_perplexity",
        "At equal tokens LOLM-304M has half the perplexity of Pythia-410M on WikiText-103 (52.2 % lower).",
        ("pythia_gap", "ppl_304m_pythia"),
        f"{PYTHIA} The printed perplexities are per token of two tokenizers; Pythia at 2 B tokens is likely still in its "
        "warm-up, and at 4 B it is ahead (54.32).",
        "304m",
    ),
    _like(
        "pythia_late",
        "LOLM gains more from context than a Transformer (late positions 17.0 % below early ones, Pythia's 11.4 %).",
        against_baseline(late_change("bits_per_byte"), late_bits),
        Below(),
        "bits a byte in the last quarter of the window over those in the first, minus one",
    ),
    _like(
        "pythia_context",
        "Context raises LOLM's top-1 accuracy more than a Transformer's (45.4 %, Pythia's 34.7 %).",
        against_baseline(late_change("accuracy")),
        Above(),
        "accuracy in the last quarter of the window over that in the first, minus one (the authors give no definition)",
    ),
    _like(
        "pythia_repetition",
        "LOLM's text repeats fewer bigrams than a Transformer's (31.3 %, distinct-2 0.687; Pythia's 39.3 %, 0.607).",
        against_baseline(repetition, real_repetition),
        Below(),
        "share of a generated text's word pairs that it has had before",
        figure=None,
    ),
    _never(
        "downstream_wikitext",
        "At step 20,000 the 317M baseline has the lower perplexity on WikiText-103 (1,837 against 2,046).",
        ("downstream_wikitext", "downstream_baseline"),
        "No run here is scored on WikiText-103; the held-out loss at matched budget is the like. A loss of about 7.6 nats is "
        "that of a model that has hardly begun.",
        "304m",
        against=True,
    ),
    _never(
        "downstream_tasks",
        "At step 20,000 the baseline is ahead on HellaSwag (25.5 against 22.5 %) and LAMBADA (0.6 against 0.4 %).",
        ("hellaswag", "hellaswag_baseline", "lambada"),
        f"No run here is scored on these tasks. The printed difference on HellaSwag, {100 * HELLASWAG_GAP:.1f} points, is one "
        f"standard error: with about {HELLASWAG_ITEMS} items, as the printed digits suggest, it is {100 * HELLASWAG_ERROR:.1f} "
        "points for each model at chance.",
        "304m",
        against=True,
    ),
    _never(
        "projected_gate",
        "At 7B the mean gate will be 0.60 to 0.65, at 13B 0.55 to 0.60.",
        ("projected_gate",),
        LARGER,
        "1570m",
        "budgets",
    ),
    _never(
        "projected_efficiency",
        "At 7B and 13B LOLM will be at least twice as efficient, with 15 to 25 % lower perplexity.",
        ("projected_efficiency", "projected_gap"),
        LARGER,
        "1570m",
        "budgets",
    ),
)
