"""Figures of what is read where learning-rate schedules end: loss against compute, and the multiplier at each budget."""

from __future__ import annotations

from typing import Any

from lolm.analysis import efficiency as eff
from lolm.records.results import ScaleResults
from lolm.report.figures.style import (
    GREY,
    Picture,
    estimates_by,
    label_ends,
    label_room,
    log_ticks,
    looks,
    mean_by,
    new_figure,
    scientific,
    seeds_text,
)


def loss_at_ends(results: ScaleResults) -> Picture | None:
    """Loss of every arm at its ends of schedule against the FLOPs spent by then."""
    split = eff.annealed_split(results.runs)
    rows: list[tuple[Any, ...]] = []
    for run in results.runs:
        steps, flops = run.annealed(split) or ([], []), run.annealed(split, "flops") or ([], [])
        rows += [(run.arm, run.seed, *point) for point in zip(steps[0], flops[0], steps[1], strict=True)]
    if not rows:
        return None
    look = looks(results)
    confidence = results.analysis.confidence

    def draw() -> Any:
        figure, axes = new_figure(1, 1, label_room(len(look), 3.4))
        ends, strong = [], []
        for arm, style in look.items():
            mine = [row for row in rows if row[0] == arm]
            if not mine:
                continue
            _, x = mean_by((row[2], row[3]) for row in mine)
            _, found = estimates_by(((row[2], row[4]) for row in mine), confidence)
            y = [e.value for e in found]
            axes.plot(
                x, y, color=style.colour, linewidth=style.width, linestyle=style.dash, marker="o",
                markersize=4.5 if style.bold else 3, zorder=style.order,
            )  # fmt: skip
            for position, e in zip(x, found, strict=True):
                if e.interval and (style.bold or len(look) <= 4):
                    axes.plot((position, position), e.interval, color=style.colour, linewidth=1, zorder=style.order)
            ends.append((x[-1], y[-1], results.label(arm), style.colour))
            strong += [results.label(arm)] if style.bold else []
        axes.set_xscale("log")
        log_ticks(axes.xaxis, scientific)
        axes.set_xlabel("training FLOPs by the end of the schedule (logarithmic)")
        axes.set_ylabel(f"{split} loss, nats a token")
        label_ends(axes, [end[1:] for end in ends], x=[end[0] for end in ends], bold=strong)
        return figure

    return Picture(
        "loss_at_ends",
        "Loss where schedules end",
        f"Each point is a model whose learning rate was annealed: the run itself, or a copy that ended its schedule earlier. "
        f"Mean over {seeds_text(results.seeds)}"
        + (f", lines: {100 * confidence:g} % intervals of the mean" if len(results.seeds) > 1 else "")
        + ". Sound multipliers are read from these points.",
        f"{split.capitalize()} loss of each arm at its ends of schedule against training FLOPs.",
        ("arm", "seed", "step", "flops", "nats"),
        tuple(rows),
        draw,
    )


def multipliers(results: ScaleResults) -> Picture | None:
    """Compute multiplier of every arm against the baseline at every budget that can be measured."""
    rows: list[tuple[Any, ...]] = []
    for arm in results.arms:
        pairs = results.pairs(arm, results.baseline) if arm != results.baseline else ()
        for point in eff.at_budgets(pairs, "flops", results.analysis.confidence).points if pairs else ():
            found = point.estimate
            low, high = (None, None) if found is None or found.interval is None else found.interval
            value = None if found is None else found.value
            rows.append((arm, point.steps, point.baseline, value, low, high, point.reason))
    drawn = [row for row in rows if row[3] is not None]
    if not drawn:
        return None
    baseline = results.label(results.baseline)  # type: ignore[arg-type]

    def draw() -> Any:
        from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

        arms = [arm for arm in looks(results) if any(row[0] == arm for row in drawn)]
        figure, axes = new_figure(1, 1, label_room(len(arms), 3.4))
        ends, strong = [], []
        for i, arm in enumerate(arms):
            style = looks(results)[arm]
            mine = [row for row in drawn if row[0] == arm]
            shift = 1 + 0.012 * (i - (len(arms) - 1) / 2) * min(1.0, 8 / len(arms))  # so that intervals stand side by side
            x = [row[2] * shift for row in mine]
            axes.plot(
                x, [row[3] for row in mine], color=style.colour, linewidth=style.width, linestyle=style.dash, marker="o",
                markersize=4.5 if style.bold else 3, zorder=style.order,
            )  # fmt: skip
            for position, row in zip(x, mine, strict=True):
                if row[4] is not None:
                    axes.plot((position, position), row[4:6], color=style.colour, linewidth=1 if style.bold else 0.6, zorder=2)
            ends.append((x[-1], mine[-1][3], results.label(arm), style.colour))
            strong += [results.label(arm)] if style.bold else []
        axes.set_xscale("log")
        axes.set_yscale("log")
        values = [v for row in drawn for v in row[3:6] if v is not None]
        centre = [row[3] for row in drawn]
        low, high = max(min(values), min(centre) / 1.6), min(max(values), max(centre) * 1.6)  # an interval may leave the page
        axes.set_ylim(min(low, 0.9) / 1.05, max(high, 2.1) * 1.05)
        ticks = [t for t in (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10) if axes.get_ylim()[0] <= t <= axes.get_ylim()[1]]
        axes.yaxis.set_major_locator(FixedLocator(ticks))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}×"))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.axhline(1, color=GREY, linewidth=0.9, zorder=1)
        axes.axhline(2, color=GREY, linewidth=0.9, linestyle=(0, (1, 2)), zorder=1)
        axes.annotate("published: 2×", (0.01, 2), xycoords=("axes fraction", "data"), xytext=(0, 3), textcoords="offset points",
                      fontsize=9, color=GREY)  # fmt: skip
        budgets = sorted({row[2] for row in drawn if row[0] == drawn[0][0]} | {row[2] for row in rows})
        axes.xaxis.set_major_locator(FixedLocator(budgets))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: scientific(v)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(budgets[0] / 1.08, budgets[-1] * 1.08)
        axes.set_xlabel("training FLOPs of the baseline at the end of the schedule (logarithmic)")
        axes.set_ylabel("baseline's FLOPs / arm's FLOPs")
        label_ends(axes, [end[1:] for end in ends], x=[end[0] for end in ends], bold=strong)
        return figure

    missing = len(rows) - len(drawn)
    return Picture(
        "multipliers",
        "Compute multiplier at each budget",
        f"FLOPs of {baseline} over those of the arm to the lowest loss that both reach by a common end of schedule, geometric "
        f"mean over {seeds_text(results.seeds)}. Above 1 the arm needs less. Points of one arm share runs."
        + (f" {missing} points cannot be measured without extrapolation; the data say why." if missing else ""),
        "Compute multiplier of each arm against the baseline at each end of schedule, with lines at 1 and at the published 2.",
        ("arm", "step", "baseline_flops", "multiplier", "low", "high", "not_measured"),
        tuple(rows),
        draw,
    )
