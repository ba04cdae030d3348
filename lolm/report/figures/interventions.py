"""Figures of what is done to a trained model: forced gates, damage over training, gate histogram, regime usage."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from lolm.records.results import ScaleResults
from lolm.report.ablations import NO_LATENT, NO_SURFACE, TOWARD, references, skipped
from lolm.report.figures.style import (
    GREY,
    GRID,
    PALETTE,
    estimates,
    label_ends,
    looks,
    means,
    named_lines,
    new_figure,
    reference_lines,
    seed_lines,
)
from lolm.report.tables import CODE_COUNTS


def ablation_sweep(table: pd.DataFrame, results: ScaleResults) -> Any:
    """Loss against the value the gate is forced to, per checkpoint."""
    levels = {name: nats for name, nats in references(results).items() if name in ("uniform", "unigram")}  # on the curve's tokens
    figure, axes = new_figure(1, 1, 3.9)
    forced, learned = table[table["gate"] == "forced"], table[table["gate"] == "learned"]
    steps, ends = sorted(set(forced["step"])), []
    for i, step in enumerate(steps):
        last = step == steps[-1]
        colour, alpha = (PALETTE[0], 1.0) if last else (GREY, 0.4 + 0.5 * i / len(steps))  # grey, stronger with training
        x, found = estimates(forced[forced["step"] == step], "forced_to", "nats", results.analysis.confidence)
        axes.plot(x, [e.value for e in found], color=colour, alpha=alpha, linewidth=2.2 if last else 1.2, marker="o",
                  markersize=4 if last else 2.5, zorder=3 if last else 2)  # fmt: skip
        for place, e in zip(x, found, strict=True) if last else ():
            if e.interval:
                axes.plot((place, place), e.interval, color=colour, linewidth=1)
        ends.append((found[-1].value, f"step {step:,}", colour))
    intact = learned.loc[learned["step"] == steps[-1], "nats"].mean()
    if not math.isnan(intact):
        axes.axhline(intact, color=PALETTE[0], linewidth=1, linestyle=(0, (5, 1.6)))
        ends.append((intact, "learned gate", PALETTE[0]))
    if levels and table["nats"].max() > 2.5 * levels["uniform"]:
        axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_ylim(min([low, *(0.98 * v for v in levels.values())]), max([high, *(1.02 * v for v in levels.values())]))
    axes.set_xlabel("gate forced to (0 = latent alone, 1 = surface alone)")
    axes.set_ylabel("test loss, nats a token, uncapped")
    reference_lines(axes, levels, place=0.5)
    label_ends(axes, ends)
    return figure


def damage(table: pd.DataFrame, results: ScaleResults) -> Any:
    """Damage of g = 1, g = 0 and of the serial control at each checkpoint; and of partial moves of the gate."""
    blended = bool(table["series"].isin(TOWARD).any())
    figure, panels = new_figure(1, 2 if blended else 1, 3.3, gridspec_kw={"width_ratios": (1.25, 1)} if blended else None)
    left = panels[0] if blended else panels
    control = skipped(results)
    for name, colour in {NO_LATENT: PALETTE[0], NO_SURFACE: PALETTE[2], control: PALETTE[1]}.items():
        mine = table[table["series"] == name]
        seed_lines(left, mine, "step", "damage_nats", colour)
        x, y = means(mine, "step", "damage_nats")
        if x:
            dash: Any = (0, (5, 1.6)) if name == control else "-"
            left.plot(
                [float(s) for s in x], y, color=colour, linewidth=1.9, marker="o", markersize=3.5, linestyle=dash, label=name
            )
    left.axhline(0, color=GREY, linewidth=0.8)
    left.set_title("Over training")
    left.set_xlabel("optimiser steps")
    left.set_ylabel("damage, nats a token")
    left.set_xlim(left=0)
    left.margins(y=0.18)
    left.legend(loc="upper left", handlelength=2.6)
    low, high = left.get_ylim()
    left.set_ylim(low, high + 0.32 * (high - low))
    if blended:
        right, ends = panels[1], []
        for name, colour in zip(TOWARD, (PALETTE[0], PALETTE[2]), strict=True):
            mine = table[table["series"] == name]
            start = mine.drop_duplicates("seed").assign(setting=0.0, damage_nats=0.0)  # no move, no damage
            mine = pd.concat([start, mine])
            seed_lines(right, mine, "setting", "damage_nats", colour)
            x, y = means(mine, "setting", "damage_nats")
            if x:
                right.plot(x, y, color=colour, linewidth=1.9, marker="o", markersize=3.5)
                ends.append((y[-1], name, colour))
        right.axhline(0, color=GREY, linewidth=0.8)
        right.set_title("Part of the way, final model")
        right.set_xlabel("share of the way to the constant")
        label_ends(right, ends)
    return figure


def gate_histogram(table: pd.DataFrame, results: ScaleResults) -> Any:
    """How gate values are spread over tokens and dimensions."""
    figure, axes = new_figure(1, 1, 2.7)
    arms = list(dict.fromkeys(table["arm"]))
    for arm in arms:
        mine, colour = table[table["arm"] == arm], looks(results)[arm].colour
        edges = sorted(set(mine["from"]) | set(mine["to"]))
        counts = mine.pivot(index="from", columns="seed", values="count")
        shares = counts / counts.sum().clip(lower=1)
        for seed in shares:
            axes.stairs(shares[seed], edges, color=colour, linewidth=0.7, alpha=0.6)
        average = shares.mean(axis=1)
        axes.stairs(average, edges, color=colour, fill=True, alpha=0.25 if len(arms) == 1 else 0.1)
        axes.stairs(average, edges, color=colour, linewidth=1.8, label=results.label(arm))
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("gate value (1 = surface, 0 = latent)")
    axes.set_ylabel("share of values")
    if len(arms) > 1:
        axes.legend(loc="upper center", ncols=1 if len(arms) <= 4 else 2)
    return figure


def regimes(table: pd.DataFrame, results: ScaleResults) -> Any:
    """Code usage as published, under pure noise, and without noise: a line an arm, side by side."""
    arms = list(dict.fromkeys(table["arm"]))
    marks = dict(zip(CODE_COUNTS.values(), ((PALETTE[0], "o", 0.22), (GREY, "s", 0.0), (PALETTE[1], "D", -0.22)), strict=True))
    figure, panels = new_figure(1, 2, 1.3 + 0.5 * len(arms), sharey=True)
    for axes, top, bottom, title in (
        (panels[0], "alive", "codes", "share of codes in use"),
        (panels[1], "usage_entropy", "max_entropy", "usage entropy over its maximum"),
    ):
        for y, arm in enumerate(reversed(arms)):
            for text, (colour, marker, shift) in marks.items():
                mine = table[(table["arm"] == arm) & (table["counted"] == text)]
                values, place = mine[top] / mine[bottom], y + shift
                axes.plot(values, [place] * len(values), marker, color=colour, markersize=4.5, alpha=0.55, markeredgewidth=0)
                axes.plot(values.mean(), place, "|", color=colour, markersize=10, markeredgewidth=2)
        axes.set_xlim(-0.03, 1.05)
        axes.set_title(title)
        axes.grid(axis="y", **GRID)
        axes.set_axisbelow(True)
    handles = [panels[0].plot([], [], marker, color=colour, label=text)[0] for text, (colour, marker, _) in marks.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), handletextpad=0.3, columnspacing=1.4)
    named_lines(panels[0], [results.label(arm) for arm in arms])
    return figure
