"""The gate."""

from __future__ import annotations

from lolm.claims.entry import Entry
from lolm.claims.measures.gate import (
    LEVELS,
    at_transitions,
    level,
    mean_gate,
    reversal,
    reversal_everywhere,
    settles,
    share,
    target,
)
from lolm.claims.rules import Above, Below, Within

GROUP = "gate"
HELD_OUT = "mean over tokens and dimensions, test split, noise off"
LOGGED = "mean over training batches, published window, before the rate decays"
DIP = "depth of the dip below where the gate begins; its step is taken from the other seeds, so that noise makes no dip"

ENTRIES = (
    Entry(
        "gate_level",
        GROUP,
        "The mean gate settles at the published level (0.27, 0.55, 0.83, 0.71 from 20.5M to 1.57B).",
        level,
        rule_text="at a published scale: holds if the whole interval lies within {gate_margin:g} of the published level, fails "
        "if none of it does; elsewhere no published level applies",
        unit="gate",
        definition=HELD_OUT,
        published=LEVELS,
        published_definition=LOGGED,
        controls=("addends",),
        further_study="gate",
        figure="gate_path",
    ),
    Entry(
        "gate_surface",
        GROUP,
        "The gate settles above one half: it favours the surface stream.",
        mean_gate,
        rule=Above(0.5),
        unit="gate",
        definition=HELD_OUT,
        lead="On held-out text",
        published=("gate_304m", "gate_157b"),
        published_definition=LOGGED,
        caveats=("This is the level of a coefficient, not of a contribution.",),
        controls=("addends",),
        figure="gate_path",
    ),
    Entry(
        "gate_reversal",
        GROUP,
        "The gate reverses: it dips below its start, then climbs above it (0.36, 0.17, 0.83).",
        reversal,
        rule_text="holds if both the dip and the climb above the start exceed 0, fails if either does not",
        unit="gate",
        definition=DIP,
        published=("gate_start", "gate_dip", "gate_304m"),
        published_definition="lowest log window of each run",
        controls=("free_path",),
        figure="gate_path",
    ),
    Entry(
        "gate_settles",
        GROUP,
        "Once it has risen the gate stays (0.83 from step 5,000 of 33,000 on).",
        settles,
        rule=Within("gate_margin"),
        unit="gate",
        definition="mean gate on training batches at step {until:,.0f}, the last of the constant rate, minus that at step "
        "{step:,.0f}",
        lead="Later minus earlier gate",
        published=("gate_304m",),
        figure="gate_path",
    ),
    Entry(
        "gate_discourse",
        GROUP,
        "At the first token of a sentence the gate turns to the latent stream.",
        at_transitions,
        rule=Below("-gate_margin"),
        unit="gate",
        definition="mean gate at first tokens of sentences minus that at first tokens of words, test split",
        lead="Gate at starts of sentences minus starts of words",
        stated=("seed",),
        caveats=("A word's first token has another gate than its later ones, so starts are compared with starts.",),
        figure="token_classes",
    ),
    Entry(
        "gate_target",
        GROUP,
        "The gate finds its level by itself.",
        target,
        rule_text="fails if the gate is equivalent to its target within {gate_margin:g}; otherwise inconclusive, since only an "
        "arm without the target could show it",
        unit="gate",
        definition="mean gate minus mean target, test split",
        stated=("paper", "scaling"),
        controls=("free_gate",),
        further_study="gate",
        figure="gate_path",
    ),
    Entry(
        "gate_share",
        GROUP,
        "One minus the mean gate is the latent stream's share of the signal.",
        share,
        rule_text="holds if the two agree within {gate_margin:g} at a gate further than that from one half, where branches of "
        "equal power agree whatever the gate says; fails if they differ by more",
        unit="share",
        definition="mean of |(1-g) v|² / (|g u|² + |(1-g) v|²), test split",
        published=("latent_share",),
        published_definition="one minus the mean gate",
        controls=("addends",),
        further_study="gate",
        figure="contributions",
    ),
    Entry(
        "gate_reversal_everywhere",
        GROUP,
        "The gate reverses at every scale.",
        reversal_everywhere,
        rule_text="fails if the reversal fails at this scale; otherwise inconclusive",
        unit="gate",
        definition=DIP,
        published=("gate_start", "gate_dip"),
        stated=("scaling",),
        figure="gate_path",
        further_study="main",
        further_scale="304m",
        fact="gate_reversal",
    ),
)
