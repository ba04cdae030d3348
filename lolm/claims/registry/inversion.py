"""Dependency inversion, and how dependency goes with the branches' shares, with wiring, training, the gate and the tokens."""

from __future__ import annotations

from lolm.analysis.dependency import latent_share
from lolm.claims.entry import Entry
from lolm.claims.measures.dependency import OverArms, same_in_every_way, smaller
from lolm.claims.measures.effects import Effect, branch_alone
from lolm.claims.measures.inversion import (
    DEFINITION,
    by_token_class,
    declared,
    forced_gate,
    growth,
    one_stream,
    over_training,
    random_halves,
    serial_control,
)
from lolm.claims.measures.readouts import information
from lolm.claims.registry.training import contrast
from lolm.claims.rules import Above, Below, Within
from lolm.records.names import DIRECT, INDIRECT, INTO_LATENT, LATENT, SURFACE, TOTAL

GROUP = "inversion"
NATS = ("gate_one_nats", "gate_zero_nats")
REMOVED = ("gate_means", "refits")  # controls of a forced gate
DECODER_STAYS = "A forced gate removes a branch at the fusion alone: the decoder still feeds the SSM, memory, regime and gate."
CAPPED = "perplexity capped at e^20, on the head of the training stream before the rate decays, as published; own vocabulary"
BELOW_UNIGRAM = "loss minus the unigram model's on the same tokens"
BETTER = (
    "holds if the intervals of loss minus the unigram and minus the bigram model's both lie below 0, fails if none of either does"
)
THROUGH = "What follows a change is computed again; means and other documents are those of the unchanged model."
ALL_ARMS = (
    "The arms are those of one study, no sample: the interval says how far other seeds could move this, not what others give."
)

ENTRIES = (
    Entry(
        "inversion_preregistered",
        GROUP,
        "Dependency inversion, by the declared rule: removing the latent branch, the minority of the gated signal, damages LOLM "
        "more than removing the surface branch.",
        declared,
        rule_text="holds if the interval of S over seeds lies above {inversion_margin:g} nats and that of the latent branch's "
        "share below one half (inverted); fails if S lies above and the share not below (latent majority), if S does not and "
        "lies within ±{inversion_band:g} nats (no inversion), or if none of it lies above {inversion_margin:g} (not inverted); "
        "not corrected "
        "(analysis.inversion_statistic, here: {how}, inversion_margin and inversion_band)",
        definition=f"{DEFINITION}, {{label}}, final weights, test split",
        published=("ratio_inversion", *NATS),
        caveats=(DECODER_STAYS, "The published minority is one by the gate's value, which is no share (gate_share)."),
        controls=("minority", "random_halves", "serial", "refits"),
        further_study="inversion",
        figure="inversion_statistic",
    ),
    Entry(
        "latent_minority",
        GROUP,
        "The latent branch is the minority of the gated signal.",
        smaller,
        rule=Below(0.5),
        unit="share",
        definition="|(1 − g) v|² / (|g u|² + |(1 − g) v|²), mean over test tokens, final weights",
        lead="Latent share",
        stated=("seed",),
        caveats=("A share of the signal says how much is there, not what is read of it.",),
        further_study="inversion",
        figure="dependency_share",
    ),
    Entry(
        "dependency_follows_share",
        GROUP,
        "Which branch is missed more follows which is the larger: over arms S rises with the latent branch's share.",
        OverArms("latent share", latent_share, "share"),
        "inversion",
        Above(),
        unit="r",
        definition="Pearson correlation of latent share and S over {count} arms, in each seed, on Fisher's scale",
        lead="Correlation over arms",
        caveats=(ALL_ARMS,),
        against=True,
        figure="dependency_share",
    ),
    Entry(
        "inversion_ways",
        GROUP,
        "S is the same whatever stands in the removed branch's place.",
        same_in_every_way,
        rule_text="holds if S by every two ways differs by less than {inversion_margin:g} nats, paired by seed, fails if one "
        "differs by more than that, tested against it, all pairs corrected by Holm",
        definition="S by {pair}: of {count} pairs the one furthest beyond the margin (selected)",
        figure="inversion_statistic",
    ),
    Entry(
        "inversion_total",
        GROUP,
        "Dependency inversion, what follows computed again: removing z from all that reads it damages LOLM more than removing h.",
        Effect((LATENT, TOTAL), (SURFACE, TOTAL)),
        "inversion",
        Above("inversion_margin"),
        definition="total damage without z minus total damage without h ({label})",
        lead="Total damage without z minus without h",
        caveats=(THROUGH, "In series all that z knows comes from h, so removing h removes z as well."),
        figure="effects",
    ),
    Entry(
        "surface_direct",
        GROUP,
        "The surface stream acts directly: what h does at the fusion is more than what it does through the SSM, memory and gate.",
        Effect((SURFACE, DIRECT), (SURFACE, INDIRECT)),
        "inversion",
        Above("inversion_margin"),
        definition="damage without h at the fusion alone minus damage without h everywhere else ({label})",
        lead="Direct minus indirect damage without h",
        caveats=(THROUGH,),
        figure="effects",
    ),
    Entry(
        "latent_direct",
        GROUP,
        "The latent stream acts at the fusion: what z does there is more than what it does through regime codes and gate.",
        Effect((LATENT, DIRECT), (LATENT, INDIRECT)),
        "inversion",
        Above("inversion_margin"),
        definition="damage without z at the fusion alone minus damage without z everywhere else ({label})",
        lead="Direct minus indirect damage without z",
        caveats=(THROUGH,),
        figure="effects",
    ),
    Entry(
        "latent_is_serial",
        GROUP,
        "What the latent stream knows is what the surface told it: without h in the SSM's input at least as much is lost as "
        "without z.",
        Effect((SURFACE, INTO_LATENT), (LATENT, TOTAL)),
        "inversion",
        Above("-inversion_margin"),
        definition="damage without h in the SSM's input alone minus total damage without z ({label})",
        lead="Damage without h in the SSM's input minus total damage without z",
        caveats=(
            THROUGH,
            "In series this is so by construction; what the SSM makes of a constant input can harm more than no z.",
            "Worded as “at least as much” after one run had been looked at; it was “as much” before.",
        ),
        against=True,
        figure="effects",
    ),
    Entry(
        "latent_branch_alone",
        GROUP,
        "The latent branch alone, with the other branch, memory and regime at their means, still works as a language model.",
        branch_alone(LATENT),
        "inversion",
        rule_text=BETTER,
        definition=BELOW_UNIGRAM,
        caveats=(DECODER_STAYS, "The gate reads h too, and still weighs."),
        figure="effects",
    ),
    Entry(
        "surface_branch_alone",
        GROUP,
        "The surface branch alone, with the other branch, memory and regime at their means, still works as a language model.",
        branch_alone(SURFACE),
        "inversion",
        rule_text=BETTER,
        definition=BELOW_UNIGRAM,
        caveats=("The gate reads z too, and still weighs.",),
        figure="effects",
    ),
    contrast(
        "inversion_recurrence",
        "The inversion statistic does not need recurrence: with the SSM's convolution alone it is the same.",
        "inversion",
        Within("inversion_margin"),
        "lolm_conv_latent",
        "inversion",
        caveat="The latent keeps the block's width-4 convolution and gate and has no recurrence.",
    ),
    contrast(
        "inversion_convolution",
        "The inversion statistic does not need an SSM: a Transformer block with a short convolution in its place has the same.",
        "inversion",
        Within("inversion_margin"),
        "lolm_transformer_conv_latent",
        "inversion",
        caveat="Against the block without a convolution, inversion_ssm, this says what of the difference is the convolution's.",
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
        "interval is; inconclusive where the damage is not above 0; refits stop on validation text, their start included",
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
        "The dependency on a stream follows the mean gate: over arms S falls where the gate rises.",
        OverArms("mean gate", lambda run: run.gate_mean, "gate"),
        "inversion",
        Below(),
        unit="r",
        definition="Pearson correlation of mean gate and S over {count} arms, in each seed, on Fisher's scale",
        lead="Correlation over arms",
        caveats=(ALL_ARMS, "Over the checkpoints of one run both drift with time, so a correlation there says nothing."),
        figure="dependency_share",
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
        published_definition="perplexity at g = 1 over perplexity at g = 0, each capped at e^20, on the head of the training "
        "stream "
        "before the rate decays, as published",
        caveats=(
            "Both settings are off the training distribution; the claim inversion_control says what the difference can mean.",
            "Two damages are compared: whether the branch that is missed more is the smaller one, latent_minority says.",
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
        rule_text=BETTER,
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
