"""Efficiency and loss at a matched budget."""

from __future__ import annotations

from lolm.claims.entry import Entry
from lolm.claims.measures.efficiency import multiplier
from lolm.claims.measures.losses import final_lead, gap, lead, matched_budget, shrinking_lead, step_overhead
from lolm.claims.published import NUMBERS
from lolm.claims.rules import Above, Below, Between

GROUP = "efficiency"
COMPARED = ("conditioning", "depth", "learning_rates")  # controls of every comparison with the baseline
MULTIPLIER = (
    "baseline's over LOLM's training FLOPs (auxiliary heads included) to the lowest loss that both arms of a pair reach where "
    "schedules end, {split} split"
)
MULTIPLIER_PUBLISHED = (
    "steps to the lowest training loss both arms reach, trailing mean of {window} log windows, with whatever dropout and noise "
    "training has"
)
IN_DECAY = (
    "As published it is read inside the runs: here the end of a run lies in the decay of the learning rate, the authors' reading "
    "at about 98 % of its peak."
)
GAP = "1 - exp(paired difference of {split} losses), same training tokens, schedules ended, noise off in both arms"
LEAD_X = (
    "perplexity of the baseline over LOLM's, validation at step {step:,} (first one after {share:.0%} of the run), paired by seed"
)
LEAD_X_PUBLISHED = "perplexity of the baseline over LOLM's, training loss up to step {step:,}, published window"
NO_SPEED = "A ratio of losses at one step is no speed."


def _multiplier(id: str, statement: str, threshold: float, **more) -> Entry:
    return Entry(
        id,
        GROUP,
        statement,
        multiplier(threshold),
        rule_text="holds if the whole interval of the multiplier in FLOPs at the largest measurable budget lies above "
        f"{threshold:g}, fails if none of it does",
        unit="x",
        definition=MULTIPLIER,
        published_definition=MULTIPLIER_PUBLISHED,
        caveats=(IN_DECAY,),
        controls=COMPARED,
        figure="multipliers",
        pair=True,
        **more,
    )


def _gap(id: str, statement: str, key: str, definition: str, published_definition: str, figure: str) -> Entry:
    return Entry(
        id,
        GROUP,
        statement,
        gap(definition),
        rule=Above(NUMBERS[key].value),
        unit="share",
        definition=GAP,
        lead="On held-out text at the same number of tokens",
        published=(key,),
        published_definition=published_definition,
        controls=COMPARED,
        figure=figure,
        pair=True,
    )


ENTRIES = (
    _multiplier(
        "efficiency_2x",
        "LOLM reaches the matched Transformer's loss with half the compute (2×).",
        NUMBERS["efficiency"].value,
        published=("efficiency",),
        modern="LOLM reaches the matched modern Transformer's loss with half the compute (2×).",
    ),
    _multiplier(
        "efficiency_direction",
        "LOLM reaches a given loss with less compute than the matched Transformer (any multiplier above 1).",
        1.0,
        stated=("seed", "paper"),
        modern="LOLM reaches a given loss with less compute than the matched modern Transformer (any multiplier above 1).",
    ),
    _gap(
        "gap_25_9",
        "LOLM's perplexity is 25.9 % lower at a matched budget.",
        "gap_headline",
        "mixed",
        "LOLM's held-out perplexity (evaluation mode) against the baseline's training perplexity",
        "loss_at_ends",
    ),
    _gap(
        "gap_16_8",
        "LOLM's perplexity is 16.8 % lower at the same step.",
        "gap_training",
        "training",
        "training perplexities at the last step, published window",
        "learning_curves",
    ),
    _gap(
        "gap_15",
        "LOLM's perplexity is 15 % lower late in training, at nine tenths of the baseline's steps.",
        "gap_later",
        "late",
        "training perplexities, LOLM at {late:.3f} of the baseline's steps",
        "learning_curves",
    ),
    Entry(
        "matched_budget",
        GROUP,
        "At the same number of training tokens LOLM has the lower held-out loss.",
        matched_budget,
        rule_text="fails if the interval lies above 0, or if the arms are equivalent within {equivalence_margin:g} nats wherever "
        "it lies; otherwise holds if it lies below 0",
        definition="{split} loss of LOLM minus baseline, paired by seed",
        stated=("paper",),
        controls=COMPARED,
        figure="loss_at_ends",
        pair=True,
        modern="At the same number of training tokens LOLM has a lower held-out loss than the modern Transformer.",
    ),
    Entry(
        "early_lead",
        GROUP,
        "The lead of LOLM in nats is an early one: it shrinks as training goes on.",
        shrinking_lead,
        rule_text="holds if the intervals of both the early lead and its decline lie above 0, fails if either has none there",
        definition="lead of LOLM in validation loss at step {step:g} (first evaluation after {early:.0%} of the run) minus its "
        "lead at the end",
        published=("tpu_gap_3k", "tpu_gap_50k"),
        published_unit="share",
        published_definition="perplexity gap at the last step; the published TPU pair ends behind",
        caveats=(
            "A lead in nats can shrink on flattening curves while the multiplier stays; the figure of the lead shows both.",
        ),
        controls=COMPARED,
        figure="lead",
        pair=True,
        fact="faster_43",
        against=True,
    ),
    Entry(
        "advantage_2k",
        GROUP,
        "Early in training (step 2,000 of 20,000) LOLM's perplexity is 42.8 times lower.",
        lead(2_000 / 20_000, "x"),
        rule=Above(NUMBERS["advantage_2k"].value),
        unit="x",
        definition=LEAD_X,
        lead="At step {step:,}",
        published=("advantage_2k",),
        published_definition=LEAD_X_PUBLISHED,
        caveats=(NO_SPEED, "The arms with the published initial values, which alone make an early lead, are other ones."),
        controls=("conditioning",),
        figure="lead",
        pair=True,
    ),
    Entry(
        "advantage_13k",
        GROUP,
        "From two thirds of the run on (step 13,000 of 20,000) LOLM's perplexity is 1.2 to 1.3 times lower.",
        lead(13_000 / 20_000, "x"),
        rule=Between(NUMBERS["advantage_13k"].value, 1.3),
        unit="x",
        definition=LEAD_X,
        lead="At step {step:,}",
        published=("advantage_13k",),
        published_definition=LEAD_X_PUBLISHED,
        caveats=(NO_SPEED,),
        controls=("conditioning",),
        figure="lead",
        pair=True,
    ),
    Entry(
        "faster_43",
        GROUP,
        "LOLM is up to 43 % ahead (step 3,000 of 50,000).",
        lead(3_000 / 50_000, "share"),
        rule=Above(NUMBERS["faster_43"].value),
        unit="share",
        definition="one minus LOLM's perplexity over the baseline's, validation at step {step:,} (first one after {share:.0%} of "
        "the run), paired by seed",
        lead="At step {step:,}",
        published=("faster_43",),
        published_definition="one minus LOLM's perplexity over the baseline's, training loss to step {step:,}, published window",
        caveats=(NO_SPEED,),
        controls=("conditioning",),
        figure="lead",
        pair=True,
    ),
    Entry(
        "behind_at_end",
        GROUP,
        "At the end of training LOLM is behind its matched baseline (perplexity 4.4 % higher).",
        final_lead,
        rule=Below(),
        definition="test loss of the baseline minus LOLM's, paired by seed, schedules ended",
        lead="Baseline minus LOLM at the end",
        published=("tpu_gap_50k",),
        published_unit="share",
        published_definition="perplexity gap in training loss up to step {step:,}",
        controls=("conditioning",),
        figure="lead",
        pair=True,
        against=True,
    ),
    Entry(
        "flops_overhead",
        GROUP,
        "A training step of LOLM costs 4.3 % more FLOPs than one of its matched baseline.",
        step_overhead,
        rule_text="holds if it rounds to the printed figure, otherwise inconclusive, since the authors' count is not published; "
        "exact, so no interval",
        unit="share",
        definition="training FLOPs a token of the 319M LOLM over the 317M baseline's, windows of 512, auxiliary heads included",
        published=("flops_overhead",),
        published_definition="training FLOPs a token of these arms at scale {scale}",
        caveats=(
            "An SSM layer and a Transformer layer of equal size cost about the same per parameter; attention, scan and auxiliary "
            "heads make the difference.",
        ),
        against=True,
    ),
)
