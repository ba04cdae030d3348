"""Figures that set all arms side by side beyond their loss: recall against state, loss by position, learning-rate sweeps."""

from __future__ import annotations

import math
import textwrap
from typing import Any

from lolm.analysis.statistics import t_interval
from lolm.records.results import ScaleResults
from lolm.report.figures.style import (
    FAINT,
    GREY,
    Picture,
    band,
    estimates_by,
    label_ends,
    label_room,
    log_ticks,
    looks,
    new_figure,
    reference_line,
    scientific,
    seeds_text,
)

TASKS = {"mqar": "multi-query associative recall", "induction": "induction"}


def recall(results: ScaleResults) -> Picture | None:
    """Accuracy of every arm in each recall task against the state it carries."""
    rows: tuple[tuple[Any, ...], ...] = tuple(
        (task, run.arm, run.seed, run.recall["state_elements"], scores["accuracy"], scores["chance"], scores["nats"])
        for run in results.runs
        if run.recall is not None
        for task, scores in run.recall["tasks"].items()
    )
    if not rows:
        return None
    tasks = list(dict.fromkeys(row[0] for row in rows))
    look = looks(results)
    confidence = results.analysis.confidence

    def draw() -> Any:
        height = label_room(len(look), 2.7)
        figure, panels = new_figure(len(tasks), 1, height * len(tasks), sharex=True, squeeze=False)
        for task, axes in zip(tasks, panels[:, 0], strict=True):
            ends, strong = [], []
            for arm, style in look.items():
                mine = [row for row in rows if row[:2] == (task, arm)]
                if not mine:
                    continue
                found, state = t_interval([row[4] for row in mine], confidence), mine[0][3]
                if found.interval:
                    ends_of = [min(1.0, max(0.0, end)) for end in found.interval]  # an accuracy cannot leave [0, 1]
                    axes.plot((state, state), ends_of, color=style.colour, linewidth=1.2, zorder=style.order)
                axes.plot(state, found.value, "o", color=style.colour, markersize=6.5 if style.bold else 4.5, zorder=style.order)
                ends.append((state, found.value, results.label(arm), style.colour))
                strong += [results.label(arm)] if style.bold else []
            axes.set_xscale("log", base=2)
            log_ticks(axes.xaxis, lambda v: f"{v:,.0f}", base=2)
            axes.set_ylim(-0.03, 1.03)
            axes.margins(x=0.1)
            chance = next(row[5] for row in rows if row[0] == task)
            reference_line(axes, chance, "chance")
            axes.set_title(TASKS.get(task, task).capitalize())
            axes.set_ylabel("accuracy")
            label_ends(axes, [end[1:] for end in ends], x=[end[0] for end in ends], bold=strong)
        panels[-1, 0].set_xlabel("numbers in the state that generation carries, at the task's length (logarithmic)")
        return figure

    return Picture(
        "recall",
        "Recall against state",
        "Accuracy at the positions that a synthetic task asks, after training on it from scratch at the arm's own size; mean "
        f"over {seeds_text(results.seeds)}"
        + (f", lines: {100 * confidence:g} % intervals" if len(results.seeds) > 1 else "")
        + ". The learning rate is the one chosen on text, and the training is short: an arm that fails here may learn the task "
        "with more of it.",
        "Accuracy of each arm in recall tasks against the size of its state, with a line at chance.",
        ("task", "arm", "seed", "state_elements", "accuracy", "chance", "nats"),
        rows,
        draw,
    )


def by_position(results: ScaleResults) -> Picture | None:
    """Test loss of every arm by position in the window."""
    rows: tuple[tuple[Any, ...], ...] = tuple(
        (run.arm, run.seed, part["start"], part["stop"], part["nats"], part["bits_per_byte"], part["accuracy"])
        for run in results.runs
        for part in run.measured("positions", "bins") or ()
    )
    if not rows:
        return None
    look = looks(results)
    confidence = results.analysis.confidence

    def draw() -> Any:
        figure, axes = new_figure(1, 1, label_room(len(look), 3.3))
        ends, strong = [], []
        for arm, style in look.items():
            mine = [row for row in rows if row[0] == arm]
            if not mine:
                continue
            bins, found = estimates_by(((row[2:4], row[4]) for row in mine), confidence)
            x, y = [math.sqrt((a + 1) * b) for a, b in bins], [e.value for e in found]
            axes.plot(x, y, color=style.colour, linewidth=style.width, linestyle=style.dash, marker="o", markersize=2.5,
                      zorder=style.order)  # fmt: skip
            if style.bold or len(look) <= 4:
                band(axes, x, found, style)
            ends.append((x[-1], y[-1], results.label(arm), style.colour))
            strong += [results.label(arm)] if style.bold else []
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda v, _: f"{v:g}")
        axes.set_xlabel("position of the target in the window (logarithmic)")
        axes.set_ylabel("test loss, nats a token")
        label_ends(axes, [end[1:] for end in ends], x=[end[0] for end in ends], bold=strong)
        return figure

    return Picture(
        "by_position",
        "Loss by position",
        f"Mean test loss of the targets in bins whose edges double, over {seeds_text(results.seeds)}. The n-th target has n "
        "tokens of context; how far a curve falls is what the arm makes of it.",
        "Test loss of each arm against the position in the window, falling with context.",
        ("arm", "seed", "start", "stop", "nats", "bits_per_byte", "accuracy"),
        rows,
        draw,
    )


def rates(results: ScaleResults) -> Picture | None:
    """Validation loss against the peak learning rate in each arm's sweep, the chosen one marked."""
    rows: tuple[tuple[Any, ...], ...] = tuple(
        (arm, rate["learning_rate"], rate["nats"], rate["learning_rate"] == sweep["chosen"], sweep["inside"])
        for arm, sweep in results.sweeps.items()
        for rate in sorted(sweep["rates"], key=lambda rate: rate["learning_rate"])
    )
    if not rows:
        return None
    look = {arm: style for arm, style in looks(results).items() if any(row[0] == arm for row in rows)}
    steps = max(sweep["steps"] for sweep in results.sweeps.values())
    reach = 0.3  # nats above an arm's best that are drawn

    def draw() -> Any:
        columns = min(3, len(look))
        lines = math.ceil(len(look) / columns)
        figure, panels = new_figure(lines, columns, 0.7 + 1.45 * lines, sharex=True, sharey=True, squeeze=False)
        for axes in panels.flat[len(look) :]:
            axes.set_axis_off()
        for axes, (arm, style) in zip(panels.flat, look.items(), strict=False):
            mine = [row for row in rows if row[0] == arm]
            best = min(row[2] for row in mine if row[2] is not None)
            x, y = zip(*((row[1], min(row[2] - best, 1.2 * reach)) for row in mine if row[2] is not None), strict=True)
            axes.plot(x, y, color=style.colour, linewidth=1.4, marker="o", markersize=3)
            for _, rate, nats, chosen, _ in mine:
                if chosen:
                    axes.plot(
                        rate, nats - best, "o", color=style.colour, markersize=8, markerfacecolor="none", markeredgewidth=1.4
                    )
                if nats is None:
                    axes.plot(rate, reach, "x", color=GREY, markersize=6)
            title = results.label(arm) if mine[0][4] is not False else f"{results.label(arm)} (edge)"
            axes.set_title(
                "\n".join(textwrap.wrap(title, 28)), fontsize=9, fontweight="bold" if style.bold else "normal", color=style.colour
            )
            axes.axhline(0, color=FAINT, linewidth=0.6, zorder=0)
            axes.set_xscale("log")
            log_ticks(axes.xaxis, scientific)
            axes.set_ylim(-0.04, 1.1 * reach)
        for axes in panels[:, 0]:
            axes.set_ylabel("nats above best")
        figure.supxlabel("peak learning rate (logarithmic)", fontsize=9.5)
        return figure

    return Picture(
        "rates",
        "Choice of the learning rate",
        f"Validation loss of runs of {steps:,} steps, each with a whole schedule, above the arm's best; the ring is the "
        "rate that was chosen and trained with, a cross a run that diverged. “Edge”: the best rate is the last of its grid, so "
        "a better one may lie beyond.",
        "One panel an arm: loss above the arm's best against the peak learning rate, the chosen rate marked.",
        ("arm", "learning_rate", "nats", "chosen", "inside"),
        rows,
        draw,
    )
