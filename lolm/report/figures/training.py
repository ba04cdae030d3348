"""Figures of training: learning curves, the lead of the subject over the baseline, the gate's path, final losses."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from lolm.analysis.efficiency import timed
from lolm.records import AXES
from lolm.records.results import ScaleResults
from lolm.report.figures.style import (
    FAINT,
    GREY,
    GRID,
    PALETTE,
    arm_lines,
    band,
    estimates,
    label_arms,
    label_ends,
    label_room,
    looks,
    means,
    new_figure,
    of_arm,
    reference_lines,
    seed_lines,
    stated,
)
from lolm.report.tables import GATE_SERIES, LADDER, REFERENCES, references

AXIS_LABELS = {"step": "optimiser steps", "tokens": "training tokens", "flops": "training FLOPs", "seconds": "wall-clock seconds"}


def learning_curves(table: pd.DataFrame, results: ScaleResults) -> Any:
    """Held-out loss of every arm against tokens (large), steps, FLOPs and seconds."""
    from matplotlib.ticker import EngFormatter

    levels = {REFERENCES[name]: nats for name, nats in references(results, "validation").items() if name in LADDER}
    tall = label_room(len(results.arms), 3.2)
    small: list[Any] = [axis for axis in AXES if axis != "tokens" and (axis != "seconds" or timed(results.runs))]
    figure, _ = new_figure(0, 0, tall + 2.3)
    panels = figure.subplot_mosaic([["tokens"] * len(small), small], height_ratios=(tall, 2.3))
    lowest = min([table["val_nats"].min(), *levels.values()])
    top = max([*levels.values(), table.loc[table["step"] > 0, "val_nats"].max()])
    late = max(table.loc[table["step"] >= 0.08 * table["step"].max(), "val_nats"].max(), levels.get("bigram", lowest))
    for axis, axes in panels.items():
        large = axis == "tokens"
        ends = arm_lines(axes, results, table, axis, "val_nats", by="step", intervals="band" if large else "")
        axes.set_xlabel(AXIS_LABELS[axis])
        axes.set_xlim(left=0, right=float(table[axis].max()) * (1 if large else 1.03))
        highest = late if large else top  # the large panel shows where the arms part
        axes.set_ylim(lowest - 0.04 * (highest - lowest), highest + 0.06 * (highest - lowest))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.locator_params(axis="x", nbins=8 if large else 3)
        if large or axis == small[0]:
            axes.set_ylabel("held-out loss, nats a token" if large else "nats a token")
        else:
            axes.tick_params(labelleft=False)
        reference_lines(axes, levels)
        if large:
            label_arms(axes, results, ends)
    return figure


def lead(table: pd.DataFrame, results: ScaleResults) -> Any:
    """Loss difference over training, and the multiplier at each loss the baseline passed."""
    figure, (left, right) = new_figure(1, 2, 3.1)
    difference = table[table["quantity"] == "difference"]
    seed_lines(left, difference, "step", "value", PALETTE[0], linewidth=0.7)
    steps, found = estimates(difference, "step", "value", results.analysis.confidence)
    average = [e.value for e in found]
    band(left, [float(s) for s in steps], found, PALETTE[0])
    left.plot([float(s) for s in steps], average, color=PALETTE[0], linewidth=1.9)
    left.axhline(0, color=GREY, linewidth=0.8)
    left.set_title("Loss of subject minus baseline")
    left.set_ylabel("nats a token; below 0: subject ahead")
    reach = max(1e-3, 1.25 * max(abs(value) for value in average[len(average) // 4 :]))
    left.set_ylim(min(-reach, 1.1 * min(average)), max(reach, 1.1 * max(average)))
    ends, pairs = [], difference["seed"].nunique()
    for axis, colour, dash in (("step", PALETTE[0], "-"), ("flops", PALETTE[3], (0, (5, 1.6)))):
        curve = table[table["quantity"] == f"multiplier in {axis}"]
        seed_lines(right, curve, "step", "value", colour)
        whole = curve[curve.groupby("step")["seed"].transform("nunique") == pairs]  # a mean over fewer would be of the best seeds
        x, logs = means(whole.assign(log=whole["value"].map(math.log)), "step", "log")
        if x:
            right.plot([float(s) for s in x], [math.exp(v) for v in logs], color=colour, linewidth=1.9, linestyle=dash)
        if len(curve):
            last = math.exp(logs[-1]) if x else float(curve["value"].iloc[-1])
            ends.append((last, "steps" if axis == "step" else "FLOPs", colour))
    right.axhline(1, color=GREY, linewidth=0.8)
    right.set_title("Multiplier at the baseline's loss there")
    right.set_ylabel("baseline's cost / subject's cost")
    right.set_ylim(0, max(2.3, 1.1 * table.loc[table["quantity"] != "difference", "value"].max()))
    for axes in (left, right):
        axes.set_xlabel("optimiser steps" if axes is left else "the baseline's steps")
        axes.set_xlim(left=0)
    if results.subject and results.family(results.subject) == "lolm":
        reference_lines(right, {"published: 2×": 2.0})
    label_ends(right, ends)
    return figure


def gate_path(table: pd.DataFrame, results: ScaleResults) -> Any:
    """Mean gate during training beside its supervised target; of arms beside the subject the mean on training batches."""
    dashes = {"training batches": ("-", 1.9), "supervised target": ((0, (5, 1.6)), 1.3), "held-out": ((0, (1.2, 1.2)), 1.5)}
    arms = list(dict.fromkeys(table["arm"]))
    first = results.subject if results.subject in arms else arms[0]
    figure, axes = new_figure(1, 1, label_room(len(arms) + 2, 3.2))
    ends = []
    for arm in arms:
        for index, name in enumerate(GATE_SERIES.values()):
            mine = table[(table["arm"] == arm) & (table["series"] == name)]
            if mine.empty or (index and arm != first):
                continue
            colour, (dash, width) = PALETTE[index] if len(arms) == 1 else looks(results)[arm].colour, dashes[name]
            if not index and arm == first:
                seed_lines(axes, mine, "step", "value", colour)
            x, y = means(mine, "step", "value")
            axes.plot([float(s) for s in x], y, color=colour, linestyle=dash, linewidth=width)
            label = name if len(arms) == 1 else results.label(arm) if arm != first else f"{results.label(arm)}, {name}"
            ends.append((float(x[-1]), y[-1], label, colour))
    axes.axhline(0.5, color=FAINT, linewidth=0.8, linestyle=(0, (1, 2)), zorder=0)
    axes.set_ylim(0, 1)
    axes.set_xlabel("optimiser steps")
    axes.set_ylabel("mean gate (1 = surface, 0 = latent)")
    axes.set_xlim(0, max(end[0] for end in ends))
    label_ends(axes, [end[1:] for end in ends], x=[end[0] for end in ends])
    return figure


def bits_per_byte(table: pd.DataFrame, results: ScaleResults) -> Any:
    """Test loss of each arm beside trivial models, best on top."""
    levels = table[table["kind"] == "reference"].sort_values("bits_per_byte", ascending=False)
    runs = table[table["kind"] == "run"]
    arms = list(runs.groupby("arm")["bits_per_byte"].mean().sort_values(ascending=False, kind="stable").index)
    count = len(levels) + len(arms)
    figure, axes = new_figure(1, 1, 0.9 + (0.34 if count <= 12 else 0.25) * count)
    beside: dict[str, Any] = {"xytext": (8, 0), "textcoords": "offset points", "va": "center", "fontsize": 9}
    for y, level in enumerate(levels["bits_per_byte"]):
        axes.plot(level, y, "D", color=GREY, markersize=5)
        axes.annotate(f"{level:.3f}", (level, y), color=GREY, **beside)
    for y, arm in enumerate(arms, len(levels)):
        colour = looks(results)[arm].colour
        found = stated(runs[runs["arm"] == arm], "bits_per_byte", results.analysis.confidence)
        assert found is not None
        if found.interval:
            axes.plot(found.interval, (y, y), color=colour, linewidth=1.4)
        axes.plot(found.per_seed, [y] * found.n, "o", color=colour, markersize=4, alpha=0.6, markeredgewidth=0)
        with of_arm(axes, results, arm):
            axes.plot(found.value, y, "|", color=colour, markersize=13, markeredgewidth=2)
        axes.annotate(f"{found.value:.3f}", (max([*found.per_seed, *(found.interval or ())]), y), color=colour, **beside)
    axes.set_yticks(range(count), [*(REFERENCES[name] for name in levels["arm"]), *map(results.label, arms)])
    axes.tick_params(axis="y", length=0, labelcolor="black")
    axes.set_xlabel("test loss, bits per byte (lower is better)")
    axes.set_ylim(-0.6, count - 0.4)
    axes.margins(x=0.12)
    axes.grid(axis="y", **GRID)
    axes.set_axisbelow(True)
    return figure
