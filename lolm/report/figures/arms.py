"""Figures that set all arms side by side: loss and multiplier where schedules end, recall, loss by position, sweeps."""

from __future__ import annotations

import math
import textwrap
from typing import Any

import pandas as pd

from lolm.records.results import ScaleResults
from lolm.report.figures.style import (
    FAINT,
    GREY,
    arm_lines,
    label_arms,
    label_room,
    log_ticks,
    looks,
    new_figure,
    of_arm,
    reference_lines,
    scientific,
)

TASKS = {"mqar": "multi-query associative recall", "induction": "induction"}


def loss_at_ends(table: pd.DataFrame, results: ScaleResults) -> Any:
    """Loss of every arm at its ends of schedule against the FLOPs spent by then."""
    figure, axes = new_figure(1, 1, label_room(len(results.arms), 3.4))
    ends = arm_lines(axes, results, table, "flops", "nats", by="step", marker=True, intervals="bars")
    axes.set_xscale("log")
    log_ticks(axes.xaxis, scientific)
    axes.set_xlabel("training FLOPs by the end of the schedule (logarithmic)")
    axes.set_ylabel(f"{table['split'].iloc[0]} loss, nats a token")
    label_arms(axes, results, ends)
    return figure


def multipliers(table: pd.DataFrame, results: ScaleResults) -> Any:
    """Compute multiplier of every arm against the baseline at every budget that can be measured."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    drawn = table.dropna(subset=["multiplier"])
    arms = [arm for arm in looks(results) if arm in set(drawn["arm"])]
    figure, axes = new_figure(1, 1, label_room(len(arms), 3.4))
    ends = []
    for i, arm in enumerate(arms):
        style, mine = looks(results)[arm], drawn[drawn["arm"] == arm]
        shift = 1 + 0.012 * (i - (len(arms) - 1) / 2) * min(1.0, 8 / len(arms))  # so that intervals stand side by side
        x = mine["baseline_flops"] * shift
        with of_arm(axes, results, arm):
            axes.plot(
                x, mine["multiplier"], color=style.colour, linewidth=style.width, linestyle=style.dash, marker="o",
                markersize=4.5 if style.bold else 3, zorder=style.order,
            )  # fmt: skip
            axes.vlines(x, mine["low"], mine["high"], color=style.colour, linewidth=1 if style.bold else 0.6, zorder=2)
        ends.append((float(x.iloc[-1]), float(mine["multiplier"].iloc[-1]), results.label(arm), style.colour))
    axes.set_xscale("log")
    axes.set_yscale("log")
    values, centre = drawn[["multiplier", "low", "high"]], drawn["multiplier"]
    low = max(values.min().min(), centre.min() / 1.6)  # an interval may leave the page
    high = min(values.max().max(), centre.max() * 1.6)
    axes.set_ylim(min(low, 0.9) / 1.05, max(high, 2.1) * 1.05)
    ticks = [t for t in (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10) if axes.get_ylim()[0] <= t <= axes.get_ylim()[1]]
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}×"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.axhline(1, color=GREY, linewidth=0.9, zorder=1)
    budgets = sorted(set(table["baseline_flops"].dropna()))
    axes.xaxis.set_major_locator(FixedLocator(budgets))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: scientific(v)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(budgets[0] / 1.08, budgets[-1] * 1.08)
    axes.set_xlabel("training FLOPs of the baseline at the end of the schedule (logarithmic)")
    axes.set_ylabel("baseline's FLOPs / arm's FLOPs")
    if results.subject and results.family(results.subject) == "lolm":
        reference_lines(axes, {"published for LOLM: 2×": 2.0}, place=0.01)
    label_arms(axes, results, ends)
    return figure


def recall(table: pd.DataFrame, results: ScaleResults) -> Any:
    """Accuracy of every run in each recall task against the state it carries, and how many of an arm's runs solve it; one that
    diverged does not."""
    look, tasks = looks(results), list(dict.fromkeys(table["task"]))
    figure, panels = new_figure(len(tasks), 1, label_room(len(look), 2.7) * len(tasks), sharex=True, squeeze=False)
    for task, axes in zip(tasks, panels[:, 0], strict=True):
        ends, of_task = [], table[table["task"] == task]
        for arm, style in look.items():
            for state, runs in of_task[of_task["arm"] == arm].groupby("state_elements")["accuracy"]:
                right, counted = runs.dropna(), runs.fillna(0.0)
                size, lost = 6.5 if style.bold else 4.5, len(runs) - len(right)
                # each run: it solves the task or does not, and a mean would lie where no run is
                with of_arm(axes, results, arm):
                    axes.plot(
                        [state] * len(right), right, "o", color=style.colour, markersize=size, alpha=0.7, zorder=style.order
                    )
                    if lost:
                        axes.plot([state] * lost, [0.0] * lost, "x", color=style.colour, markersize=size, zorder=style.order)
                done = int((counted >= results.analysis.solved_accuracy).sum())
                ends.append((float(state), float(counted.median()), f"{results.label(arm)}, {done} of {len(runs)}", style.colour))
        axes.axhline(results.analysis.solved_accuracy, color=FAINT, linewidth=0.8, zorder=0)
        axes.set_xscale("log", base=2)
        log_ticks(axes.xaxis, lambda v: f"{v:,.0f}", base=2)
        axes.set_ylim(-0.03, 1.03)
        axes.margins(x=0.1)
        axes.set_title(TASKS.get(task, task).capitalize())
        axes.set_ylabel("accuracy")
        reference_lines(axes, {"chance": float(of_task["chance"].iloc[0])})
        label_arms(axes, results, ends)
    panels[-1, 0].set_xlabel("numbers in the state that generation carries, at the task's length (logarithmic)")
    return figure


def by_position(table: pd.DataFrame, results: ScaleResults) -> Any:
    """Test loss of every arm by position in the window."""
    figure, axes = new_figure(1, 1, label_room(len(results.arms), 3.3))
    middle = table.assign(middle=((table["start"] + 1) * table["stop"]).map(math.sqrt))
    ends = arm_lines(axes, results, middle, "middle", "nats", marker=True)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda v, _: f"{v:g}")
    axes.set_xlabel("position of the target in the window (logarithmic)")
    axes.set_ylabel("test loss, nats a token")
    label_arms(axes, results, ends)
    return figure


def rates(table: pd.DataFrame, results: ScaleResults) -> Any:
    """Validation loss against the peak learning rate in each arm's sweep, the chosen one marked."""
    reach = 0.3  # nats above an arm's best that are drawn
    styles, swept = looks(results), set(table["arm"])
    look = {arm: style for arm, style in styles.items() if arm in swept}
    for arm, style in styles.items():  # whose rate may come from an arm that is none of the study
        if arm in results.sweeps:
            look.setdefault(results.sweeps[arm].arm, style)
    columns = min(3, len(look))
    lines = math.ceil(len(look) / columns)
    figure, panels = new_figure(lines, columns, 0.7 + 1.45 * lines, sharex=True, sharey=True, squeeze=False)
    for axes in panels.flat[len(look) :]:
        axes.set_axis_off()
    for axes, (arm, style) in zip(panels.flat, look.items(), strict=False):
        mine = table[table["arm"] == arm]
        above = mine.assign(above=mine["nats"] - mine["nats"].min()).dropna(subset=["nats"])
        diverged, chosen = mine[mine["nats"].isna()], above[above["chosen"].astype(bool)]
        axes.plot(above["learning_rate"], above["above"].clip(upper=1.2 * reach), color=style.colour, linewidth=1.4,
                  marker="o", markersize=3)  # fmt: skip
        axes.plot(chosen["learning_rate"], chosen["above"], "o", color=style.colour, markersize=8, markerfacecolor="none",
                  markeredgewidth=1.4)  # fmt: skip
        axes.plot(diverged["learning_rate"], [reach] * len(diverged), "x", color=GREY, markersize=6)
        edge = " (edge)" if (mine["inside"] == False).all() else ""  # noqa: E712 - empty where there was no sweep
        axes.set_title(
            "\n".join(textwrap.wrap(results.label(arm) + edge, 28)), fontsize=9, color=style.colour,
            fontweight="bold" if style.bold else "normal",
        )  # fmt: skip
        axes.axhline(0, color=FAINT, linewidth=0.6, zorder=0)
        axes.set_xscale("log")
        log_ticks(axes.xaxis, scientific)
        axes.set_ylim(-0.04, 1.1 * reach)
    for axes in panels[:, 0]:
        axes.set_ylabel("nats above best")
    figure.supxlabel("peak learning rate (logarithmic)", fontsize=9.5)
    return figure
