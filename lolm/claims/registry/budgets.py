"""Over sizes and budgets: the study that fits one law L(N, D) to each arm."""

from __future__ import annotations

from lolm.claims.entry import Entry
from lolm.claims.measures.budgets import grows_with_size, leads_at_the_end, path_slope
from lolm.claims.rules import Above, Below

GROUP, STUDY = "budgets", "budgets"
PATH = (
    "factor by which the compute that {other} needs for LOLM's loss, over LOLM's, changes when compute grows tenfold, both on "
    "their compute-optimal paths, mean from {{low}} to {{high}} FLOPs; bootstrap over runs"
)
RATE = (
    "Each arm's rate is chosen at each size by 200 to 800 steps and may be too high for the longest runs, more so at one size "
    "than at another, which would pass for an effect of tokens or size: the study `rates` asks."
)
FORM = "The interval speaks of other seeds given the law's form, and of these sizes and this text alone."


def _path(id: str, statement: str, arm: str, other: str, **more) -> Entry:
    return Entry(
        id,
        GROUP,
        statement,
        path_slope(arm),
        STUDY,
        rule=Above(1.0),
        unit="x",
        definition=PATH.format(other=other),
        lead="Multiplier after a tenfold of compute over that before",
        caveats=(FORM, RATE, "Above 1 a lead grows, and a lag shrinks."),
        **more,
    )


def _end(id: str, statement: str, arm: str, other: str) -> Entry:
    return Entry(
        id,
        GROUP,
        statement,
        leads_at_the_end(arm),
        STUDY,
        unit="nats",
        definition=f"test loss of {other} minus LOLM's with {{tokens}} tokens at equal parameters, paired by seed, at {{scale}}",
        rule_text="holds: above 0 at every size with three seeds; fails: below at each",
        caveats=("Not declared before the runs: added when 42 of 48 had been read.", RATE),
    )


def _size(id: str, statement: str, quantity: str, rule, unit: str, definition: str, **more) -> Entry:
    return Entry(id, GROUP, statement, grows_with_size(quantity), STUDY, rule=rule, unit=unit, definition=definition, **more)


ENTRIES = (
    _path(
        "lead_with_budget",
        "LOLM's compute multiplier against its matched Transformer grows with the budget.",
        "transformer",
        "the Transformer of the published form",
    ),
    _path(
        "lead_with_budget_modern",
        "LOLM's compute multiplier against the modern Transformer grows with the budget.",
        "transformer_modern",
        "the modern Transformer",
    ),
    _end(
        "lead_at_largest_budget",
        "With the most tokens that every size was given LOLM has a lower loss than its matched Transformer.",
        "transformer",
        "the Transformer of the published form",
    ),
    _end(
        "lead_at_largest_budget_modern",
        "With the most tokens that every size was given LOLM has a lower loss than the modern Transformer.",
        "transformer_modern",
        "the modern Transformer",
    ),
    _path("lag_with_budget", "LOLM's compute multiplier against Mamba grows with the budget.", "mamba", "Mamba"),
    _size(
        "latent_value_grows",
        "The latent stream is worth more the larger the model.",
        "damage_latent",
        Above(),
        "nats",
        "change per tenfold parameters, at equal tokens, of the loss added when the latent branch is removed in the declared "
        "way; slope over runs",
        lead="Per tenfold parameters",
        stated=("seed",),
        caveats=("Damage grows with what a head has come to expect; S and the branch's share stand beside it.",),
    ),
    _size(
        "gate_falls_with_scale",
        "With scale the gate leans more on the latent stream (0.83 at 304M, 0.71 at 1.57B).",
        "gate",
        Below(),
        "gate",
        "change of the mean gate per tenfold parameters, at equal tokens and under one recipe; slope over runs",
        lead="Per tenfold parameters",
        published=("gate_20m", "gate_149m", "gate_304m", "gate_157b"),
        caveats=(
            "The printed levels, 0.27, 0.55, 0.83, 0.71, are not monotone, and come from three recipes and from 0.66 to 2.6 B "
            "tokens.",
        ),
    ),
)
