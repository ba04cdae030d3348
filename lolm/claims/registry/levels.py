"""Levels of single published models at one step: losses, gates, live codes, the contrastive loss."""

from __future__ import annotations

from lolm.claims.entry import Entry
from lolm.claims.measures.levels import DEFINITIONS, Level
from lolm.claims.published import NUMBERS

GROUP = "levels"
SIZES = {"20m": "20.5M", "149m": "149M", "304m": "304M", "1570m": "1.57B"}
ENDS = {"20m": "20m", "149m": "149m", "304m": "304m", "1570m": "157b"}  # of ids and of keys of NUMBERS
REACHED = {"304m": 33_000, "1570m": 23_700}  # steps of the published runs, where levels of earlier steps were printed


def _level(id: str, statement: str, key: str, scale: str, level: Level, fact: str | None = None, **more) -> Entry:
    unit, definition = DEFINITIONS[level.kind]
    return Entry(
        id,
        more.pop("group", GROUP),
        statement,
        level,
        rule_text="{level_rule}",
        unit=unit,
        definition=f"{definition}, at step {{step:,.0f}}",
        published=(key,),
        scale=scale,
        fact=fact,
        **more,
    )


def _of(scale: str) -> tuple[Entry, ...]:
    size, end = SIZES[scale], ENDS[scale]
    nats, gate, codes = (NUMBERS[f"{kind}_{end}"].value for kind in ("nats", "gate", "codes"))
    alive = "all are" if codes == 1 else "one is"
    loss = Level("loss", 23_700 if scale == "1570m" else 20_000)
    return (
        _level(f"level_loss_{end}", f"LOLM at {size} reaches a training loss of {nats:.2f} nats.", f"nats_{end}", scale, loss),
        _level(
            f"level_gate_{end}",
            f"The mean gate of LOLM at {size} is {gate:g}.",
            f"gate_{end}",
            scale,
            Level("gate", 20_000),
            "gate_level",
        ),
        _level(
            f"level_codes_{end}",
            f"Of the regime codes at {size}, {alive} alive.",
            f"codes_{end}",
            scale,
            Level("codes", 20_000),
            "regime_codes" if codes == 1 else "regime_collapse",
        ),
    )


def _at(id: str, statement: str, key: str, scale: str, kind: str, step: int, fact: str, at: float | None = None, **more) -> Entry:
    """A level on the way."""
    return _level(id, statement, key, scale, Level(kind, step, REACHED[scale], threshold=at), fact, **more)


ENTRIES = (
    *(entry for scale in SIZES for entry in _of(scale)),
    _level(
        "level_baseline_157b",
        "The 1.57B baseline reaches a training perplexity of 39.1.",
        "nats_baseline_157b",
        "1570m",
        Level("loss", 26_250, baseline=True),
    ),
    _at("gate_dip_304m", "At 304M the mean gate is 0.17 at step 1,800.", "gate_dip", "304m", "gate", 1_800, "gate_reversal"),
    _at(
        "gate_half_304m",
        "At 304M the mean gate is back at 0.5 by step 3,300.",
        "gate_half",
        "304m",
        "gate",
        3_300,
        "gate_reversal",
    ),
    _at(
        "gate_dip_157b",
        "At 1.57B the mean gate falls to 0.125 by step 2,000.",
        "gate_min_157b",
        "1570m",
        "gate",
        2_000,
        "gate_reversal",
    ),
    _level("level_gate_319m", "On TPU the mean gate is 0.81.", "gate_tpu", "304m", Level("gate", 50_000), "gate_level"),
    _at(
        "cpc_early",
        "The contrastive loss falls below chance early (at 304M by step 1,500, before its warm-up ends).",
        "cpc_breaks_304m",
        "304m",
        "cpc_excess",
        1_500,
        "cpc_chance",
        at=0.0,
        caveats=("Its warm-up has 2,000 steps, so no step of a run with another share of warm-up is the like of step 1,500.",),
    ),
    _at("cpc_2100", "At 304M the contrastive loss is 4.1 nats at step 2,100.", "cpc_2100", "304m", "cpc", 2_100, "cpc_chance"),
    _at("cpc_5000", "At 304M the contrastive loss is 1.5 nats at step 5,000.", "cpc_5000", "304m", "cpc", 5_000, "cpc_chance"),
    _at("cpc_30k", "At 304M the contrastive loss is 0.15 nats at step 30,000.", "cpc_304m", "304m", "cpc", 30_000, "cpc_chance"),
    _level(
        "collapse_early",
        "Without isolation the codes collapse to one within 500 to 2,000 steps (304M).",
        "codes_collapsed",
        "304m",
        Level("codes", 2_000, REACHED["304m"], arm="lolm_reg_ic"),
        "regime_collapse",
        study="regime",
    ),
)
