"""Figures of the dependency laboratory: the inversion statistic with its null, its path, refits, contributions, classes, arms."""

from __future__ import annotations

from typing import Any

import pandas as pd

from lolm.claims.measures.readouts import READOUT_NAMES
from lolm.records.names import LATENT, SURFACE
from lolm.records.results import ScaleResults
from lolm.report.ablations import HALVES, REMOVED
from lolm.report.figures.style import (
    GREY,
    GRID,
    MARGIN,
    PALETTE,
    bar,
    estimates,
    looks,
    named_lines,
    new_figure,
    of_arm,
    over_seeds,
    seed_lines,
    stated,
)


def inversion_statistic(table: pd.DataFrame, results: ScaleResults) -> Any:
    """S for every way of removing a branch, final weights, beside the random halves."""
    halves, margin = table[table["method"] == HALVES], results.analysis.inversion_margin
    ways = table[table["method"] != HALVES].sort_values("declared", ascending=False, kind="stable")
    removals = list(dict.fromkeys(ways["removal"]))
    names = removals + ([f"{HALVES}, both signs"] if len(halves) else [])
    figure, axes = new_figure(1, 1, 0.9 + 0.27 * len(names))
    axes.axvspan(-margin, margin, **MARGIN)
    axes.axvline(0, color=GREY, linewidth=0.8)
    for i, removal in enumerate(removals):
        mine = ways[ways["removal"] == removal]
        found = stated(mine, "nats", results.analysis.confidence)
        declared, published = bool(mine["declared"].iloc[0]), mine["method"].iloc[0] == "gate"
        if found:
            bar(axes, len(names) - 1 - i, found, PALETTE[0] if declared else PALETTE[1] if published else GREY, declared)
    if len(halves):
        both = [*halves["nats"], *(-halves["nats"])]
        axes.plot(both, [0] * len(both), "o", color=PALETTE[2], markersize=3.5, alpha=0.6, markeredgewidth=0)
    named_lines(axes, names, list(ways.loc[ways["declared"], "removal"]))
    axes.set_xlabel("S, nats a token")
    return figure


def dependency_share(table: pd.DataFrame, results: ScaleResults) -> Any:
    """S against the latent branch's share, and against the mean gate: a point a run, a cross of intervals an arm."""
    margin, confidence = results.analysis.inversion_margin, results.analysis.confidence
    sides = [("latent_share", "latent share of the gated signal"), ("gate", "mean gate (1 = surface)")]
    sides = [side for side in sides if table[side[0]].notna().any()]
    figure, panels = new_figure(1, len(sides), 3.6, sharey=True, squeeze=False)
    for axes, (column, title) in zip(panels[0], sides, strict=True):
        axes.axhspan(-margin, margin, **MARGIN)
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.axvline(0.5, color=GREY, linewidth=0.8, linestyle=(0, (1.2, 1.2)))
        for arm, mine in table.groupby("arm", sort=False):
            if mine[column].isna().all():
                continue
            colour = looks(results)[arm].colour
            with of_arm(axes, results, arm):
                axes.plot(mine[column], mine["inversion_nats"], "o", color=colour, markersize=3.5, alpha=0.5, markeredgewidth=0)
            across, up = over_seeds(mine, column, confidence), stated(mine, "inversion_nats", confidence)
            if across and up and across.interval and up.interval:
                axes.plot(across.interval, (up.value, up.value), color=colour, linewidth=1.4)
                axes.plot((across.value, across.value), up.interval, color=colour, linewidth=1.4)
            axes.plot([], [], "o-", color=colour, markersize=3.5, label=results.label(arm))
        axes.set_xlabel(title)
    panels[0][0].set_ylabel("S, nats a token")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


def effects(table: pd.DataFrame, results: ScaleResults) -> Any:
    """Damage without h and without z by what reads them; a panel an arm."""
    kinds = {
        "total": "total",
        "direct": "at the fusion",
        "indirect": "all but the fusion",
        "into_latent": "into the SSM",
        "alone": "branch alone",
    }
    shown, arms = [kind for kind in kinds if kind in set(table["effect"])], list(dict.fromkeys(table["arm"]))
    across = min(len(arms), 3)
    down = -(-len(arms) // across)
    figure, panels = new_figure(down, across, down * (1.0 + 0.34 * len(shown)), sharey=True, squeeze=False)
    for axes, arm in zip(panels.flat, arms, strict=False):
        for stream, colour, shift in ((SURFACE, PALETTE[0], -0.16), (LATENT, PALETTE[2], 0.16)):
            for i, kind in enumerate(shown):
                mine = table[(table["arm"] == arm) & (table["stream"] == stream) & (table["effect"] == kind)]
                found = over_seeds(mine, "damage_nats", results.analysis.confidence)
                if found:
                    bar(axes, len(shown) - 1 - i + shift, found, colour)
            axes.plot([], [], "o-", color=colour, label={SURFACE: "h, surface", LATENT: "z, latent"}[stream])
        axes.axvline(0, color=GREY, linewidth=0.8)
        axes.set_title(results.label(arm), fontsize=9)
        axes.set_xlabel("damage, nats")
        axes.grid(axis="y", **GRID)
    for axes in list(panels.flat)[len(arms) :]:
        axes.set_axis_off()
    for row in panels:
        named_lines(row[0], [kinds[kind] for kind in shown])
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def trajectory(table: pd.DataFrame, results: ScaleResults) -> Any:
    """S, mean gate and its target, and the latent branch's share over checkpoints."""
    margin = results.analysis.inversion_margin

    def series(axes: Any, column: str, colour: str, label: str, dash: Any = "-") -> None:
        x, found = estimates(table, "step", column, results.analysis.confidence)
        if not x:
            return
        steps = [float(step) for step in x]
        seed_lines(axes, table, "step", column, colour, alpha=0.45, linestyle=dash)
        axes.plot(
            steps, [e.value for e in found], color=colour, linewidth=1.9, marker="o", markersize=3.5, linestyle=dash, label=label
        )
        intervals = [e.interval for e in found if e.interval]
        if len(intervals) == len(found):
            axes.fill_between(steps, *zip(*intervals, strict=True), color=colour, alpha=0.14, linewidth=0)

    figure, (left, right) = new_figure(1, 2, 3.1)
    left.axhspan(-margin, margin, **MARGIN)
    left.axhline(0, color=GREY, linewidth=0.8)
    series(left, "inversion_nats", PALETTE[0], "S")
    left.set_title(f"Inversion statistic, {table['removal'].iloc[0]}")
    left.set_ylabel("nats (above 0: latent missed more)")
    series(right, "gate", PALETTE[1], "mean gate")
    series(right, "target", GREY, "its supervised target", (0, (5, 1.6)))
    series(right, "latent_share", PALETTE[2], "latent share of the gated signal", (0, (1.2, 1.2)))
    right.set_title("Gate and share")
    low, high = right.get_ylim()
    right.set_ylim(min(0, low), max(1, high) + 0.42)
    right.set_yticks((0, 0.25, 0.5, 0.75, 1))
    right.legend(loc="upper right", handlelength=2.6)
    for axes in (left, right):
        axes.set_xlabel("optimiser steps")
        axes.set_xlim(left=0)
    return figure


def readout_recovery(table: pd.DataFrame, results: ScaleResults) -> Any:
    """Damage that is left after each refit."""
    shown = [name for name in REMOVED.values() if name in set(table["intervention"])]
    kinds = ["as learned", *(kind for kind in READOUT_NAMES.values() if kind in set(table["refitted"]))]
    figure, panels = new_figure(1, len(shown), 0.95 + 0.3 * len(kinds), sharey=True, sharex=True, squeeze=False)
    for axes, name in zip(panels[0], shown, strict=True):
        mine = table[table["intervention"] == name]
        for i, kind in enumerate(kinds):
            rows = mine[mine["refitted"] == kind] if i else mine.drop_duplicates("seed")
            found = over_seeds(rows, "left_nats" if i else "damage_nats", results.analysis.confidence)
            if found:
                y, colour = len(kinds) - 1 - i, PALETTE[0] if i else GREY
                axes.barh(y, found.value, height=0.55, color=colour, alpha=0.35)
                bar(axes, y, found, colour)
        axes.axvline(0, color=GREY, linewidth=0.8)
        axes.set_title(name)
    named_lines(panels[0][0], kinds)
    for axes in panels[0]:
        axes.grid(axis="y", **GRID)
    figure.supxlabel("damage that is left after refitting, nats", fontsize=9.5)
    return figure


def contributions(table: pd.DataFrame, results: ScaleResults) -> Any:
    """Shares of the addends beside what the gate would say."""
    names = list(dict.fromkeys(table["addend"]))
    figure, panels = new_figure(1, 3, 1.2 + 0.34 * len(names), sharey=True)
    titles = {
        "variance_share": "share of the variance of o",
        "logit_centred": "logit of the true token, centred",
        "mean_norm": "mean length",
    }
    for axes, (column, title) in zip(panels, titles.items(), strict=True):
        for i, name in enumerate(names):
            mine = table[table["addend"] == name]
            found, gates = over_seeds(mine, column, results.analysis.confidence), mine["gate_or_one_minus_gate"].dropna()
            if found:
                bar(axes, len(names) - 1 - i, found, PALETTE[0])
            if column == "variance_share" and len(gates):
                axes.plot(gates.mean(), len(names) - 1 - i, "D", color=PALETTE[1], markersize=6, zorder=5)
        axes.axvline(0, color=GREY, linewidth=0.8)
        axes.set_title(title)
    named_lines(panels[0], names)
    for axes in panels[1:]:
        axes.grid(axis="y", **GRID)
    return figure


def token_classes(table: pd.DataFrame, results: ScaleResults) -> Any:
    """Gate and damage by class of the input token."""
    names = list(dict.fromkeys(table["class"]))
    figure, (left, right) = new_figure(1, 2, 1.1 + 0.24 * len(names), sharey=True)
    for axes, column, colour, shift in (
        (left, "gate_mean", GREY, 0),
        (right, "damage_latent_mean", PALETTE[2], 0.14),
        (right, "damage_surface_mean", PALETTE[0], -0.14),
    ):
        for i, name in enumerate(names):
            found = over_seeds(table[table["class"] == name], column, results.analysis.confidence)
            if found:
                bar(axes, len(names) - 1 - i + shift, found, colour)
    left.set_title("mean gate (1 = surface)")
    right.plot([], [], "o-", color=PALETTE[2], label="damage without latent, nats")
    right.plot([], [], "o-", color=PALETTE[0], label="without surface")
    right.axvline(0, color=GREY, linewidth=0.8)
    right.legend(loc="lower left", bbox_to_anchor=(-0.04, 1.0), ncols=2, borderaxespad=0, handlelength=1.2, columnspacing=1.2)
    named_lines(left, [name.replace("_", " ") for name in names], ("all",))
    right.grid(axis="y", **GRID)
    return figure


def training_arms(table: pd.DataFrame, results: ScaleResults) -> Any:
    """Arms of the subject's family minus the subject, or main effects of a design, in every outcome."""
    names, outcomes = list(dict.fromkeys(table["arm_or_factor"])), list(dict.fromkeys(table["key"]))
    figure, panels = new_figure(1, len(outcomes), 1.1 + 0.3 * len(names), sharey=True, squeeze=False)
    for axes, key in zip(panels[0], outcomes, strict=True):
        mine = table[table["key"] == key]
        for name, pairs in mine.groupby("arm_or_factor", sort=False):
            found = stated(pairs, "value", results.analysis.confidence)
            shown = bool(pairs["p_adjusted"].iloc[0] < 1 - results.analysis.confidence)  # an empty cell is not below
            if found:
                bar(axes, len(names) - 1 - names.index(name), found, PALETTE[0] if shown else GREY, shown)
        axes.axvline(0, color=GREY, linewidth=0.8)
        titles = {"usage": "code usage", "inversion": "S, inversion", "share": "latent share"}
        axes.set_title(titles.get(key, mine["outcome"].iloc[0]))
        low, high = axes.get_xlim()
        axes.set_xlim(min(low, -1e-3), max(high, 1e-3))
        axes.set_xlabel({"gate": "gate", "share": "share of power", "usage": "share of ln R"}.get(key, "nats"))
        axes.locator_params(axis="x", nbins=4 if len(outcomes) < 4 else 2)
    labels = [results.label(name) if name in results.arms else name.replace("_", " ") for name in names]
    named_lines(panels[0][0], labels)
    for axes in panels[0][1:]:
        axes.grid(axis="y", **GRID)
    return figure
