"""Efficiency and loss at a matched budget."""

from __future__ import annotations

from lolm.claims.entry import Entry
from lolm.claims.measures.efficiency import multiplier
from lolm.claims.measures.losses import (
    crossover,
    final_lead,
    gap,
    lead,
    matched_budget,
    shrinking_lead,
    step_overhead,
    stepwise_wins,
)
from lolm.claims.measures.training import BeatsAll
from lolm.claims.published import NUMBERS
from lolm.claims.rules import Above, Below, Between, Rule

GROUP = "efficiency"
COMPARED = ("conditioning", "depth", "learning_rates")  # controls of every comparison with the baseline
MULTIPLIER = (
    "baseline's over LOLM's training FLOPs (auxiliary heads included) to the lowest loss that both arms of a pair reach where "
    "schedules end, {split} split"
)
REACHED = "loss that both arms reach by step {until:,.0f}, the last of the constant rate"
MULTIPLIER_PUBLISHED = (
    f"steps to the lowest training {REACHED}; a trailing mean of {{window}} log windows, dropout {{dropout:g}} (the authors read "
    "theirs at about 98 % of the peak rate)"
)
IN_CURVE = (
    "As published it is read inside the runs, before any schedule ended: each arm's loss is that of a rate still at its peak."
)
GAP = "1 - exp(paired difference of {split} losses), same training tokens, schedules ended, noise off in both arms"
BEFORE_DECAY = "before the rate decays, at step {until:,.0f}"
TRAINING_GAP = "perplexity gap in training loss over the published window at the end"
LEAD = "validation at step {step:,}, the first after {share:.0%} of the {end:,.0f} steps"
NO_SPEED = "A ratio of losses at one step is no speed."


def _multiplier(id: str, statement: str, threshold: float, study: str = "main", **more) -> Entry:
    return Entry(
        id,
        GROUP,
        statement,
        multiplier(threshold),
        study,
        rule_text="holds if the whole interval of the multiplier in FLOPs at the largest measurable budget lies above "
        f"{threshold:g}, fails if none of it does",
        unit="x",
        definition=MULTIPLIER,
        published_definition=MULTIPLIER_PUBLISHED,
        caveats=(IN_CURVE,),
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
        scale="1570m",
        pair=True,
        fact="matched_budget",
    )


def _lead(
    id: str, statement: str, share: float, rule: Rule, scale: str | None, fact: str | None, unit: str = "x", **more
) -> Entry:
    """A lead inside the run; with a ``scale`` its published size, without one its direction."""
    ratio = "perplexity of the baseline over LOLM's" if unit == "x" else "one minus LOLM's perplexity over the baseline's"
    return Entry(
        id,
        GROUP,
        statement,
        lead(share, unit, whole=unit == "share"),
        "published",
        rule,
        unit=unit,
        definition=f"{ratio}, {LEAD}{' of the run' if unit == 'share' else ' before the rate decays'}, paired by seed",
        lead="At step {step:,}",
        published=more.pop("published", (id,)),
        published_definition=f"{ratio}, training loss over the published window that ends by {{share:.0%}} of the {{end:,.0f}} "
        f"steps{'' if unit == 'share' else ' before the rate decays'}, paired by seed",
        caveats=(NO_SPEED,),
        controls=("conditioning",),
        figure="lead",
        scale=scale,
        pair=True,
        fact=fact,
        **more,
    )


def _recipe(id: str, statement: str, arm: str, whose: str, caveat: str) -> Entry:
    return Entry(
        id,
        GROUP,
        statement,
        BeatsAll(("transformer_published",), arm, 0.0),
        "published",
        rule_text="holds if the interval lies above 0, fails if none of it does",
        definition=f"test loss of the Transformer as published minus {whose}, paired by seed",
        caveats=(caveat,),
        figure="loss_at_ends",
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
        "LOLM's perplexity in evaluation mode on the head of its training stream against the baseline's logged training "
        "perplexity, both at the last kept weights before the rate decays",
        "loss_at_ends",
    ),
    _gap(
        "gap_16_8",
        "LOLM's perplexity is 16.8 % lower at the same step.",
        "gap_training",
        "training",
        f"training perplexities of both arms over the published window {BEFORE_DECAY}",
        "learning_curves",
    ),
    _gap(
        "gap_15",
        "LOLM's perplexity is 15 % lower late in training, at nine tenths of the baseline's steps.",
        "gap_later",
        "late",
        f"training perplexities over the published window {BEFORE_DECAY}, LOLM at {{late:.3f}} of it",
        "learning_curves",
    ),
    Entry(
        "matched_budget",
        GROUP,
        "At the same number of training tokens LOLM has the lower held-out loss (LOLM's minus its baseline's).",
        matched_budget,
        rule_text="fails if the interval lies above 0, or if the arms are equivalent within {equivalence_margin:g} nats wherever "
        "it lies; otherwise holds if it lies below 0",
        definition="{split} loss of LOLM minus baseline, paired by seed",
        published=("gap_headline", "gap_training", "gap_later"),
        published_unit="share",
        published_definition=f"one minus LOLM's training perplexity over the baseline's, published window, {BEFORE_DECAY}",
        controls=COMPARED,
        figure="loss_at_ends",
        pair=True,
        modern="At the same number of training tokens LOLM has a lower held-out loss than the modern Transformer (LOLM's minus "
        "its).",
    ),
    Entry(
        "early_lead",
        GROUP,
        "The lead of LOLM in nats is an early one: it shrinks as training goes on.",
        shrinking_lead,
        "published",
        rule_text="holds if the intervals of both the early lead and its decline lie above 0, fails if either has none there",
        definition="lead of LOLM in validation loss at step {step:g} (first evaluation after {early:.0%} of the run) minus its "
        "lead at step {until:,.0f}, the last of the constant rate",
        published=("tpu_gap_3k", "tpu_gap_50k"),
        published_unit="share",
        published_definition=f"{TRAINING_GAP}; the published TPU pair ends behind",
        caveats=(
            "A lead in nats can shrink on flattening curves while the multiplier stays; the figure of the lead shows both.",
        ),
        controls=COMPARED,
        figure="lead",
        pair=True,
        against=True,
    ),
    _lead(
        "advantage_early",
        "Early in training LOLM, as published, is ahead of its baseline, as published.",
        2_000 / 20_000,
        Above(1.0),
        None,
        None,
        published=("advantage_2k", "faster_43"),
        recipe=True,
    ),
    _lead(
        "advantage_2k",
        "Early in training (step 2,000 of 20,000) LOLM's perplexity is 42.8 times lower.",
        2_000 / 20_000,
        Above(NUMBERS["advantage_2k"].value),
        "1570m",
        "advantage_early",
    ),
    _lead(
        "advantage_13k",
        "From two thirds of the run on (step 13,000 of 20,000) LOLM's perplexity is 1.2 to 1.3 times lower.",
        13_000 / 20_000,
        Between(NUMBERS["advantage_13k"].value, 1.3),
        "1570m",
        "matched_budget",
    ),
    _lead(
        "faster_43",
        "LOLM is up to 43 % ahead (step 3,000 of 50,000).",
        3_000 / 50_000,
        Above(NUMBERS["faster_43"].value),
        "304m",
        "advantage_early",
        "share",
    ),
    _multiplier(
        "efficiency_2x_published",
        "As published, recipes included, LOLM reaches its baseline's loss with half the compute (2×).",
        NUMBERS["efficiency"].value,
        "published",
        published=("efficiency",),
        recipe=True,
        fact="efficiency_2x",
    ),
    _multiplier(
        "efficiency_direction_published",
        "As published, recipes included, LOLM reaches a given loss with less compute than its baseline (any multiplier above 1).",
        1.0,
        "published",
        stated=("seed", "paper"),
        recipe=True,
    ),
    _recipe(
        "lead_over_published",
        "LOLM under the sound recipe has a lower test loss than the Transformer under the published one (its loss minus LOLM's).",
        "lolm",
        "LOLM's under the sound recipe",
        "The recipe goes with the arm, so this holds each at its own; the declared comparisons hold both at one.",
    ),
    _recipe(
        "sound_recipe_helps",
        "The sound recipe is no handicap to the baseline: its test loss is lower than under the published one (published minus "
        "sound).",
        "transformer",
        "the same Transformer's under the sound recipe",
        "Initial values, norm before the head, decay and the rate chosen for it change together.",
    ),
    Entry(
        "stepwise_wins",
        GROUP,
        "Step by step LOLM loses to its baseline more often than it wins (39.2 % wins).",
        stepwise_wins,
        "published",
        Below(0.5),
        unit="share",
        definition="share of log windows of the whole run in which LOLM's training loss is the lower one, same batches",
        lead="Share of windows won",
        published=("stepwise_wins",),
        caveats=("Windows follow each other, so their number is no number of trials; the interval is over seeds.",),
        controls=("conditioning",),
        figure="lead",
        pair=True,
        against=True,
    ),
    Entry(
        "crossover",
        GROUP,
        "The baseline overtakes LOLM after three to four tenths of the run (step 15,000 to 20,000 of 50,000).",
        crossover,
        "published",
        Between(15_000 / 50_000, 20_000 / 50_000),
        unit="share",
        definition="share of the run at the end of the last published window of training losses with LOLM ahead",
        lead="Share of the run",
        published=("crossover_first", "crossover_last"),
        figure="lead",
        scale="304m",
        pair=True,
        fact="behind_at_end",
        against=True,
    ),
    Entry(
        "behind_at_end",
        GROUP,
        "At the end of training LOLM is behind its matched baseline (perplexity 4.4 % higher).",
        final_lead,
        "published",
        rule=Below(),
        definition="test loss of the baseline minus LOLM's, paired by seed, schedules ended",
        lead="Baseline minus LOLM at the end",
        published=("tpu_gap_50k", "scratch_full", "scratch_baseline"),
        published_unit="share",
        published_definition=TRAINING_GAP,
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
