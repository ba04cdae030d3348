"""Levels of single published models: losses, gates, live codes, at each published size."""

from __future__ import annotations

from lolm.claims.entry import Entry
from lolm.claims.measures.levels import DEFINITIONS, Level
from lolm.claims.published import NUMBERS

GROUP = "levels"
SIZES = {"20m": "20.5M", "149m": "149M", "304m": "304M", "1570m": "1.57B"}
ENDS = {"20m": "20m", "149m": "149m", "304m": "304m", "1570m": "157b"}  # of ids and of keys of NUMBERS


def _level(id: str, statement: str, key: str, scale: str, kind: str, fact: str | None = None, baseline: bool = False) -> Entry:
    unit, definition = DEFINITIONS[kind]
    return Entry(
        id,
        GROUP,
        statement,
        Level(kind, baseline),
        rule_text="{level_rule}",
        unit=unit,
        definition=definition,
        published=(key,),
        scale=scale,
        fact=fact,
    )


def _of(scale: str) -> tuple[Entry, ...]:
    size, end = SIZES[scale], ENDS[scale]
    nats, gate, codes = (NUMBERS[f"{kind}_{end}"].value for kind in ("nats", "gate", "codes"))
    alive = "all are" if codes == 1 else "one is"
    return (
        _level(f"level_loss_{end}", f"LOLM at {size} reaches a training loss of {nats:.2f} nats.", f"nats_{end}", scale, "loss"),
        _level(f"level_gate_{end}", f"The mean gate of LOLM at {size} is {gate:g}.", f"gate_{end}", scale, "gate", "gate_level"),
        _level(
            f"level_codes_{end}",
            f"Of the regime codes at {size}, {alive} alive.",
            f"codes_{end}",
            scale,
            "codes",
            "regime_codes" if codes == 1 else "regime_collapse",
        ),
    )


ENTRIES = (
    *(entry for scale in SIZES for entry in _of(scale)),
    _level(
        "level_baseline_157b",
        "The 1.57B baseline reaches a training perplexity of 39.1.",
        "nats_baseline_157b",
        "1570m",
        "loss",
        baseline=True,
    ),
)
