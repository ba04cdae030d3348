"""Figures of removals by layer and type of layer: damage along the stack, S_type beside its labellings, its path."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from lolm.records import names
from lolm.records.results import ScaleResults
from lolm.report.figures.style import (
    GREY,
    MARGIN,
    PALETTE,
    arm_lines,
    bar,
    label_arms,
    label_room,
    means,
    named_lines,
    new_figure,
    over_seeds,
    seed_lines,
)
from lolm.report.layer_tables import LABELLING

COLOURS = dict(zip((names.RECURRENT, names.ATTENTION, names.MLP, names.EXPERT_MLP, names.CONVOLUTION), PALETTE, strict=False))
MARKERS = {names.RECURRENT: "o", names.ATTENTION: "s", names.MLP: "^", names.EXPERT_MLP: "v", names.CONVOLUTION: "D"}


def damage_by_layer(table: pd.DataFrame, results: ScaleResults) -> Any:
    """One panel an arm: damage of each mixer and MLP alone against its layer."""
    arms, columns = list(dict.fromkeys(table["arm"])), 3
    rows = math.ceil(len(arms) / columns)
    figure, axes = new_figure(rows, columns, 0.4 + 1.9 * rows, squeeze=False, sharey=True)
    for panel, arm in zip(axes.flat, [*arms, *[None] * (rows * columns - len(arms))], strict=True):
        if arm is None:
            panel.set_axis_off()
            continue
        for kind, mine in table[table["arm"] == arm].groupby("type"):
            x, y = means(mine, "layer", "nats")
            style: dict[str, Any] = {"color": COLOURS[kind], "marker": MARKERS[kind], "markersize": 4.5}
            panel.plot(x, y, linewidth=0.8, alpha=0.9, **style)
            seed_lines(panel, mine, "layer", "nats", COLOURS[kind], linewidth=0.4, alpha=0.4)
        panel.axhline(0, color=GREY, linewidth=0.6)
        panel.set_yscale("symlog", linthresh=0.01, linscale=0.5)
        panel.set_yticks([0, 0.01, 0.1, 1], ["0", "0.01", "0.1", "1"])
        panel.minorticks_off()
        panel.set_title(results.label(arm), fontsize=9)
        panel.set_xlim(-0.4, table.loc[table["arm"] == arm, "layer"].max() + 0.4)
        panel.xaxis.get_major_locator().set_params(integer=True)
    for panel in axes[:, 0]:
        panel.set_ylabel("damage, nats")
    for panel in axes[-1]:
        panel.set_xlabel("layer")
    present = [kind for kind in COLOURS if kind in set(table["type"])]
    lines = [figure.axes[0].plot([], [], color=COLOURS[kind], marker=MARKERS[kind], label=kind)[0] for kind in present]
    figure.legend(handles=lines, loc="outside lower center", ncols=len(present))
    return figure


def type_statistic(table: pd.DataFrame, results: ScaleResults) -> Any:
    """S_type of every hybrid beside the other labellings; the damage of each type; the recurrent share."""
    arms, confidence, margin = list(dict.fromkeys(table["arm"])), results.analysis.confidence, results.analysis.type_margin
    figure, (left, middle, right) = new_figure(1, 3, 1.3 + 0.42 * len(arms), sharey=True, width_ratios=(3, 3, 2))
    left.axvspan(-margin, margin, **MARGIN)
    for panel, at in ((left, 0), (middle, 0), (right, 0.5)):
        panel.axvline(at, color=GREY, linewidth=0.8)
    for i, arm in enumerate(reversed(arms)):
        mine = table[table["arm"] == arm]
        others, runs = mine[mine["kind"] == LABELLING], mine[mine["kind"] == "S"]
        left.plot(others["nats"], [i] * len(others), "|", color=PALETTE[2], markersize=9, alpha=0.6)
        for panel, column, colour, shift in (
            (left, "nats", PALETTE[0], 0.0),
            (middle, names.RECURRENT, COLOURS[names.RECURRENT], 0.2),
            (middle, names.ATTENTION, COLOURS[names.ATTENTION], 0.0),
            (middle, names.MLP, COLOURS[names.MLP], -0.2),
            (right, "share", PALETTE[0], 0.0),
        ):
            found = over_seeds(runs, column, confidence)
            if found:
                bar(panel, i + shift, found, colour, panel is left, MARKERS.get(column, "o"))
    named_lines(left, [results.label(arm) for arm in arms])
    right.set_xlim(0, 1)
    left.set_xlabel("S, nats a token")
    middle.set_xlabel("damage without a type, nats")
    right.set_xlabel("recurrent share")
    kinds = (names.RECURRENT, names.ATTENTION, names.MLP)
    marks: list[dict[str, Any]] = [{"color": COLOURS[kind], "marker": MARKERS[kind], "label": kind} for kind in kinds]
    marks.append({"color": PALETTE[2], "marker": "|", "label": LABELLING})
    lines = [middle.plot([], [], linestyle="", **mark)[0] for mark in marks]
    figure.legend(handles=lines, loc="outside lower center", ncols=len(lines))
    return figure


def types_over_training(table: pd.DataFrame, results: ScaleResults) -> Any:
    """S_type and the recurrent share over checkpoints, a line an arm."""
    figure, (left, right) = new_figure(1, 2, label_room(table["arm"].nunique(), 3.0), width_ratios=(1, 1))
    margin = results.analysis.type_margin
    left.axhspan(-margin, margin, **MARGIN)
    left.axhline(0, color=GREY, linewidth=0.8)
    right.axhline(0.5, color=GREY, linewidth=0.8)
    arm_lines(left, results, table, "step", "nats", marker=True)
    ends = arm_lines(right, results, table, "step", "share", marker=True)
    left.set_ylabel("S, nats a token")
    right.set_ylabel("recurrent share")
    right.set_ylim(0, 1)
    for panel in (left, right):
        panel.set_xlabel("training step")
    label_arms(right, results, ends)
    return figure
