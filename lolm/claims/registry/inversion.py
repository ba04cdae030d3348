"""Dependency inversion, and how dependency goes with training, the gate and the tokens."""

from __future__ import annotations

from lolm.claims.entry import Entry
from lolm.claims.measures.inversion import (
    DEFINITION,
    by_token_class,
    declared,
    follows_gate,
    forced_gate,
    growth,
    one_stream,
    over_training,
    random_halves,
    serial_control,
)
from lolm.claims.measures.readouts import information
from lolm.claims.rules import Above, Below

GROUP = "inversion"
NATS = ("gate_one_nats", "gate_zero_nats")
REMOVED = ("gate_means", "refits")  # controls of a forced gate
DECODER_STAYS = "A forced gate removes a branch at the fusion alone: the decoder still feeds the SSM, memory, regime and gate."
CAPPED = "perplexity capped at e^20 as published; own vocabulary"
BELOW_UNIGRAM = "loss minus the unigram model's on the same tokens"

ENTRIES = (
    Entry(
        "inversion_preregistered",
        GROUP,
        "Dependency inversion, pre-registered: removing the latent branch damages LOLM more than removing the surface branch.",
        declared,
        rule_text="holds if the interval over seeds lies above {inversion_margin:g} nats, fails if none of it does "
        "(analysis.inversion_statistic, here: {how}, and inversion_margin, fixed before the runs)",
        definition=f"{DEFINITION}, {{label}}, final weights, test split",
        published=("ratio_inversion", *NATS),
        caveats=(
            DECODER_STAYS,
            "The published claim is of the smaller branch. Whether the latent branch is the smaller one is a control below.",
        ),
        controls=("random_halves", "serial", "minority", "refits"),
        further_study="inversion",
        figure="inversion_statistic",
    ),
    Entry(
        "inversion_null",
        GROUP,
        "Control: the two branches differ by more than two random halves of their dimensions do, whichever is missed more.",
        random_halves,
        rule_text="holds if in every seed, two or more, |S| exceeds that of all its draws, and by chance that is rarer than "
        "{level}; fails if none of the interval of the difference lies above 0",
        definition="|S| of mean ablation minus the largest |S| of the random halves of the same run",
        caveats=(
            "A random half has about half of either, so branches that are unequal in any way exceed it; that does not say why.",
        ),
        figure="inversion_statistic",
    ),
    Entry(
        "damage_is_information",
        GROUP,
        "The damage at g = 1 is information lost, not a readout off its distribution.",
        information,
        rule=Above(),
        rule_text="holds if more than half of the damage is left (interval of left minus half above 0), fails if none of the "
        "interval is; inconclusive where the damage is not above 0",
        definition="loss at g = 1 minus that of the intact model, heads of both refitted on training text, test split",
        lead="{lead}",
        figure="readout_recovery",
    ),
    Entry(
        "dependency_grows",
        GROUP,
        "The dependency on the latent stream grows with training.",
        growth,
        rule=Above(),
        definition="damage without latent ({label}) at step {last} minus that at step {first}",
        lead="Damage at the last minus the first checkpoint",
        caveats=("The better a model, the more there is to lose: the damage of any part may grow.",),
        figure="trajectory",
    ),
    Entry(
        "dependency_follows_gate",
        GROUP,
        "The dependency on a stream follows the mean gate: S falls where the gate rises.",
        follows_gate,
        rule=Below(),
        rule_text="holds if the interval of the correlation lies below 0, fails if none of it does; not transformed",
        unit="r",
        definition="Pearson correlation of the mean gate and S over {count} checkpoints of a run",
        lead="Correlation over checkpoints",
        caveats=(
            "Both move with training, so a correlation is no effect of one on the other; arms with another gate level say more.",
        ),
        figure="trajectory",
    ),
    Entry(
        "function_words",
        GROUP,
        "Function words go through the surface stream, content words through the latent stream.",
        by_token_class,
        rule=Above("gate_margin"),
        unit="gate",
        definition="mean gate at function words minus mean gate at content words, test split",
        lead="Gate at function minus content words",
        stated=("explorer",),
        caveats=("The values of the authors' page are illustrations, not measurements.",),
        figure="token_classes",
    ),
    Entry(
        "inversion",
        GROUP,
        "Dependency inversion: removing the latent stream (g = 1) damages LOLM more than removing the surface stream (g = 0).",
        forced_gate,
        rule=Above("inversion_margin"),
        definition="loss at g = 1 minus loss at g = 0, uncapped, paired by seed, final weights, test split",
        lead="Loss at g = 1 minus loss at g = 0",
        published=("ratio_inversion", *NATS),
        published_unit="x",
        published_definition="perplexity at g = 1 over perplexity at g = 0, each capped at e^20 as published",
        caveats=(
            "Both settings are off the training distribution; the claim inversion_control says what the difference can mean.",
            DECODER_STAYS,
        ),
        controls=(*REMOVED, "minority"),
        further_study="inversion",
        figure="inversion_statistic",
        fact="inversion_preregistered",
    ),
    Entry(
        "inversion_over_training",
        GROUP,
        "The inversion is there at every stage of training.",
        over_training,
        rule_text="holds if the interval lies above {inversion_margin:g} nats at every checkpoint, fails if at any one none of "
        "it does; not corrected for their number",
        definition="loss at g = 1 minus loss at g = 0, the smallest of {count} checkpoints (selected, not corrected for it)",
        controls=REMOVED,
        figure="damage",
    ),
    Entry(
        "inversion_control",
        GROUP,
        "The damage at g = 1 shows a dependence that a plain Transformer does not have.",
        serial_control,
        rule_text="holds if the excess lies above {inversion_margin:g} nats, fails if none of it does",
        definition="damage of g = 1 in LOLM minus damage of skipping the last {last} in the Transformer, paired by seed",
        further_study="inversion",
        figure="damage",
        pair=True,
    ),
    Entry(
        "latent_alone",
        GROUP,
        "With the latent stream alone (g = 0) LOLM still works as a language model.",
        one_stream(0.0),
        rule_text="holds if the intervals of loss minus the unigram and minus the bigram model's both lie below 0, fails if "
        "none of either does",
        definition=BELOW_UNIGRAM,
        published=("gate_zero_nats", "gate_zero_ppl"),
        published_unit="perplexity",
        published_definition=CAPPED,
        caveats=(DECODER_STAYS,),
        controls=REMOVED,
        figure="ablation_sweep",
    ),
    Entry(
        "surface_alone",
        GROUP,
        "With the surface stream alone (g = 1) LOLM collapses.",
        one_stream(1.0),
        rule_text="holds if the interval lies above 0, fails if none of it does",
        definition=BELOW_UNIGRAM,
        published=("gate_one_nats", "gate_one_ppl"),
        published_unit="perplexity",
        published_definition=CAPPED,
        controls=REMOVED,
        figure="ablation_sweep",
        fact="inversion_preregistered",
    ),
)
