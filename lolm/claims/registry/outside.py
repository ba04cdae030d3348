"""Against other models, on tasks, and about larger models: tested where this project has the like, named where not."""

from __future__ import annotations

import math

from lolm.claims.entry import Entry
from lolm.claims.measures.external import (
    against_baseline,
    late_bits,
    late_change,
    never,
    on_own_tasks,
    on_public_tasks,
    real_repetition,
    repetition,
)
from lolm.claims.measures.training import BeatsAll, Emergent, RecallContrast
from lolm.claims.published import NUMBERS
from lolm.claims.registry.training import WORSE, contrast
from lolm.claims.rules import Above, Below, Rule
from lolm.records import names

GROUP = "outside"
PURE = ("mamba", "transformer_modern")  # the components alone, as good as they come
JOINED = "The two differ in more than how the streams are joined."
HELLASWAG_ITEMS = 200  # the printed percentages are multiples of 0.5 %
HELLASWAG_ERROR = math.sqrt(0.25 * 0.75 / HELLASWAG_ITEMS)
HELLASWAG_GAP = NUMBERS["hellaswag_baseline"].value - NUMBERS["hellaswag"].value
PYTHIA = (
    "Pythia-410M is not among the arms: another tokenizer, text and schedule. The like here is LOLM against its matched "
    "Transformer, same tokenizer and text."
)
LARGER = (
    "A hypothesis about models of 7B and 13B, for which params.yaml has no preset; its premise, a trend over sizes, is what "
    "`make budgets` tests."
)


def _like(id: str, statement: str, measure, rule: Rule, definition: str, figure: str | None = "by_position") -> Entry:
    return Entry(
        id,
        GROUP,
        statement,
        measure,
        rule=rule,
        unit="points",
        definition=f"the same, LOLM minus the matched Transformer, paired by seed: {definition}",
        lead="LOLM minus Transformer",
        published=(id,),
        published_unit="share",
        published_definition=f"LOLM: {definition}",
        caveats=(PYTHIA,),
        figure=figure,
        pair=True,
    )


def _never(id: str, statement: str, published: tuple[str, ...], why: str, scale: str, study: str = "main", **more) -> Entry:
    return Entry(id, GROUP, statement, never(why), study, published=published, further_scale=scale, **more)


SOLVED = "share of runs that solve multi-query associative recall"
NEWCOMBE = ", each trained on the task; from the exact interval of each share (Newcombe's method 10)"

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
        "No run here is trained on WikiText-103; the held-out loss at matched budget is the like. A loss of about 7.6 nats is "
        "that of a model that has hardly begun.",
        "304m",
        against=True,
    ),
    _never(
        "downstream_tasks",
        "At step 20,000 the baseline is ahead on HellaSwag (25.5 against 22.5 %) and LAMBADA (0.6 against 0.4 %).",
        ("hellaswag", "hellaswag_baseline", "lambada"),
        "A level of two models at one step; `make downstream` scores others. The printed difference on HellaSwag, "
        f"{100 * HELLASWAG_GAP:.1f} points, is one standard error: with about {HELLASWAG_ITEMS} items, as the "
        f"printed digits suggest, it is {100 * HELLASWAG_ERROR:.1f} points for each model at chance.",
        "304m",
        against=True,
    ),
    Entry(
        "downstream_announced",
        GROUP,
        "What LOLM gains in loss it gains in downstream tasks (MMLU, HellaSwag, ARC and others, announced).",
        on_public_tasks,
        rule=Above(),
        unit="points",
        definition="accuracy, LOLM minus the matched Transformer, paired by seed, the mean over tasks on which either arm lies "
        "more than {errors} standard errors above chance, of those that others have made: {tasks}",
        lead="Accuracy on public tasks, LOLM minus Transformer",
        stated=("seed",),
        caveats=("Tasks on which both arms guess are left out: of small models all that were announced.",),
        further_scale="304m",
        pair=True,
    ),
    Entry(
        "downstream_own",
        GROUP,
        "What LOLM gains in loss it gains in tasks made of the same held-out text: cloze and minimal pairs.",
        on_own_tasks,
        rule=Above(),
        unit="points",
        definition="accuracy, LOLM minus the matched Transformer, paired by seed, the mean over tasks on which either arm lies "
        "more than {errors} standard errors above chance, of those made from the test split: {tasks}",
        lead="Accuracy on own tasks, LOLM minus Transformer",
        caveats=("These are near to the loss itself, and no task that the authors announced.",),
        further_scale="304m",
        pair=True,
    ),
    _never(
        "pile",
        "On the Pile the 319M LOLM ends at 5.413 nats (perplexity 224).",
        ("pile_319m",),
        "No preset reads the Pile; any other text is `scales.<scale>.corpus`.",
        "304m",
    ),
    _never(
        "projected_inversion",
        "At 7B the inversion will be 500 million, at 13B 5 billion.",
        ("projected_inversion",),
        f"{LARGER} By the published definition no such ratio exists, see arithmetic_projected_inversion.",
        "1570m",
        "budgets",
    ),
    _never("projected_codes", "At 7B and 13B all 128 regime codes are alive.", ("projected_codes",), LARGER, "1570m", "budgets"),
    _never(
        "projected_gate",
        "At 7B the mean gate will be 0.60 to 0.65 (latent 35 to 40 %), at 13B 0.55 to 0.60 (40 to 45 %).",
        ("projected_gate", "projected_latent"),
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
    Entry(
        "neither_alone",
        GROUP,
        "Neither architecture suffices alone: a pure Mamba and a pure modern Transformer of LOLM's size are both worse (the "
        "smaller difference to LOLM's loss).",
        BeatsAll(PURE),
        "field",
        rule_text="holds if both intervals lie above {equivalence_margin:g} nats, fails if none of either does",
        definition="test loss minus LOLM's, the smaller of the two differences, paired by seed",
        stated=("seed",),
        figure="loss_at_ends",
    ),
    Entry(
        "samba_beats_parts",
        GROUP,
        "Neither architecture suffices alone, whatever joins them: Samba beats a pure Mamba and a pure modern Transformer.",
        BeatsAll(PURE, "samba"),
        "field",
        rule_text="holds if both intervals lie above {equivalence_margin:g} nats, fails if none of either does",
        definition="test loss minus Samba's, the smaller of the two differences, paired by seed",
        stated=("seed",),
        caveats=("Attention in a window, every second layer: one hybrid of many.",),
        figure="loss_at_ends",
    ),
    Entry(
        "emergent_properties",
        GROUP,
        "The hybrid has properties that neither component has alone.",
        Emergent(PURE),
        "field",
        rule_text="holds if in one thing measured LOLM is better than both (each interval above 0, at the level over their "
        "number), "
        "fails if in none it can be",
        unit="count",
        definition="things of {count} (test loss, late loss, how often each recall task is solved) in which LOLM is better than "
        "pure Mamba and pure modern Transformer",
        stated=("seed",),
        caveats=("A property is read as being better at something that these runs measure.",),
    ),
    contrast(
        "hybrid_beats_mamba",
        "A pure Mamba of LOLM's size is worse.",
        "field",
        WORSE,
        "mamba",
        group=GROUP,
        caveat="Pure Mamba has a short convolution in every layer, which no Transformer block here has.",
        stated="seed",
    ),
    contrast(
        "gate_beats_samba",
        "A learned gate beats fixed interleaving: Samba, of LOLM's size, is worse.",
        "field",
        WORSE,
        "samba",
        group=GROUP,
        caveat=JOINED,
        stated="seed",
    ),
    contrast(
        "gate_beats_griffin",
        "A learned gate beats fixed interleaving: Griffin, of LOLM's size, is worse.",
        "baselines",
        WORSE,
        "griffin",
        group=GROUP,
        caveat=JOINED,
        stated="seed",
    ),
    contrast(
        "gate_beats_jamba",
        "A learned gate beats fixed interleaving: Jamba, dense and of LOLM's size, is worse.",
        "baselines",
        WORSE,
        "jamba",
        group=GROUP,
        caveat=JOINED,
        stated="seed",
    ),
    Entry(
        "retrieval_pure",
        GROUP,
        "Pure state-space models are weak at retrieval: Mamba recalls less than a modern Transformer.",
        RecallContrast(names.MQAR, "mamba", first="transformer_modern"),
        "field",
        Above(),
        unit="points",
        definition=f"{SOLVED}, modern Transformer minus Mamba{NEWCOMBE}",
        lead="Share of runs that solve it, modern Transformer minus Mamba",
        stated=("seed",),
        caveats=("Sequences are short, so this asks how soon an arm learns to recall, not how far.",),
    ),
    Entry(
        "retrieval_mamba",
        GROUP,
        "A hybrid mends the retrieval of pure state-space models: LOLM recalls more than Mamba.",
        RecallContrast(names.MQAR, "mamba"),
        "field",
        Above(),
        unit="points",
        definition=f"{SOLVED}, LOLM minus Mamba{NEWCOMBE}",
        lead="Share of runs that solve it, LOLM minus Mamba",
        stated=("seed",),
    ),
)
