"""Figures of training: learning curves, the lead of LOLM over the baseline, the gate's path, final losses."""

from __future__ import annotations

import math
from typing import Any

from lolm.analysis import efficiency as eff
from lolm.analysis.statistics import t_interval
from lolm.records.results import ScaleResults
from lolm.report.figures.style import (
    FAINT,
    GREY,
    PALETTE,
    Picture,
    band,
    estimates_by,
    label_ends,
    label_room,
    looks,
    mean_by,
    new_figure,
    reference_line,
    seeds_text,
)

AXIS_LABELS = {"step": "optimiser steps", "tokens": "training tokens", "flops": "training FLOPs", "seconds": "wall-clock seconds"}
LADDER = ("uniform", "unigram", "bigram")


def references(results: ScaleResults, split: str = "references_validation") -> dict[str, float]:
    """Mean loss of each trivial model over the evaluated runs, nats a token."""
    found = [run.evaluation[split] for run in results.runs if run.evaluation is not None]
    names = [name for name in (*LADDER, "bigram_all_text") if found and all(name in record for record in found)]
    return {name: math.fsum(record[name] for record in found) / len(found) for name in names}


def learning_curves(results: ScaleResults) -> Picture | None:
    """Held-out loss of every arm against steps, tokens, FLOPs and seconds."""
    rows: tuple[tuple[Any, ...], ...] = tuple(
        (
            run.arm,
            run.seed,
            row["step"],
            row["tokens"],
            row["flops"],
            row["seconds"],
            row["val/nats"],
            row.get("val/bits_per_byte"),
        )
        for run in results.runs
        for row in run.rows
        if "val/nats" in row
    )
    if not rows:
        return None
    levels = {name: value for name, value in references(results).items() if name in LADDER}
    look = looks(results)
    confidence = results.analysis.confidence
    small = ("step", "flops", "seconds")

    def draw() -> Any:
        from matplotlib.ticker import EngFormatter

        tall = label_room(len(look), 3.2)
        figure, _ = new_figure(0, 0, tall + 2.3)
        panels = figure.subplot_mosaic([["tokens"] * 3, list(small)], height_ratios=(tall, 2.3))
        lowest = min([row[6] for row in rows] + list(levels.values()))
        top = max([*levels.values(), max(row[6] for row in rows if row[2] > 0)])
        last = max(row[2] for row in rows)
        late = max([row[6] for row in rows if row[2] >= 0.08 * last] + [levels.get("bigram", lowest)])
        ends, strong = [], []
        for axis, axes in panels.items():
            column = 2 + eff.AXES.index(axis)
            for arm, style in look.items():
                mine = [row for row in rows if row[0] == arm]
                _, x = mean_by((row[2], row[column]) for row in mine)
                _, found = estimates_by(((row[2], row[6]) for row in mine), confidence)
                y = [e.value for e in found]
                axes.plot(x, y, color=style.colour, linewidth=style.width, linestyle=style.dash, zorder=style.order)
                if axis == "tokens":
                    ends.append((x[-1], y[-1], results.label(arm), style.colour))
                    strong += [results.label(arm)] if style.bold else []
                    if style.bold or len(look) <= 4:
                        band(axes, x, found, style)
            for name, level in levels.items():
                if axis != "tokens" or level <= late:
                    reference_line(axes, level, name)
            axes.set_xlabel(AXIS_LABELS[axis])
            axes.set_xlim(left=0, right=max(row[column] for row in rows) * (1 if axis == "tokens" else 1.03))
            highest = late if axis == "tokens" else top  # the large panel shows where the arms part
            axes.set_ylim(lowest - 0.04 * (highest - lowest), highest + 0.06 * (highest - lowest))
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.locator_params(axis="x", nbins=8 if axis == "tokens" else 3)
            if axis in ("tokens", small[0]):
                axes.set_ylabel("held-out loss, nats a token" if axis == "tokens" else "nats a token")
            if axis in small[1:]:
                axes.tick_params(labelleft=False)
        label_ends(panels["tokens"], [end[1:] for end in ends], x=[end[0] for end in ends], bold=strong)
        return figure

    alt = (
        "Panels of held-out loss falling with "
        + ", ".join(AXIS_LABELS.values())
        + f", for {', '.join(map(results.label, results.arms))}."
    )
    return Picture(
        "learning_curves",
        "Learning curves",
        f"Held-out loss on a fixed validation set during training, mean over {seeds_text(results.seeds)}; bands: "
        f"{100 * confidence:g} % intervals of the mean, wider than those of paired differences. Dotted: "
        "uniform guess, unigram and interpolated bigram model of the same training tokens, on the same validation tokens. "
        "The large panel leaves out the first losses. Seconds depend on the machine and on "
        "what else it did.",
        alt,
        ("arm", "seed", "step", "tokens", "flops", "seconds", "val_nats", "val_bits_per_byte"),
        rows,
        draw,
    )


def lead(results: ScaleResults) -> Picture | None:
    """Loss difference over training, and the multiplier at each loss the baseline passed."""
    pairs = results.pairs(results.subject, results.baseline)
    rows: list[tuple[Any, ...]] = []
    for subject, base in pairs:
        ours, theirs = (dict(zip(*run.points("val/nats"), strict=True)) for run in (subject, base))
        rows += [
            ("difference", subject.seed, step, ours[step] - theirs[step]) for step in sorted(set(ours) & set(theirs)) if step > 0
        ]
    for axis in ("step", "flops"):
        for subject, base in pairs:
            steps = dict(zip(eff.heldout_curve(base, axis).positions, eff.heldout_curve(base, "step").positions, strict=True))
            found = eff.along([eff.heldout_curve(base, axis)], [eff.heldout_curve(subject, axis)], axis)
            rows += [
                (f"multiplier in {axis}", subject.seed, steps[r["position"]], r["multiplier"]) for r in found if r["multiplier"]
            ]
    if not rows:
        return None
    confidence = results.analysis.confidence

    def draw() -> Any:
        figure, (left, right) = new_figure(1, 2, 3.1)
        found = [row for row in rows if row[0] == "difference"]
        for seed in {row[1]: None for row in found}:
            line = [row for row in found if row[1] == seed]
            left.plot([r[2] for r in line], [r[3] for r in line], color=PALETTE[0], linewidth=0.7, alpha=0.5)
        steps, means = mean_by((row[2], row[3]) for row in found)
        bands = [t_interval([row[3] for row in found if row[2] == step], confidence).interval for step in steps]
        if all(bands):
            left.fill_between(steps, [b[0] for b in bands], [b[1] for b in bands], color=PALETTE[0], alpha=0.15, linewidth=0)  # type: ignore[index]
        left.plot(steps, means, color=PALETTE[0], linewidth=1.9)
        left.axhline(0, color=GREY, linewidth=0.8)
        left.set_title("Loss of LOLM minus baseline")
        left.set_ylabel("nats a token; below 0: LOLM ahead")
        reach = 1.25 * max(abs(m) for m in means[len(means) // 4 :])
        left.set_ylim(min(-reach, 1.1 * min(means)), max(reach, 1.1 * max(means)))
        ends = []
        for name, colour, dash in (("step", PALETTE[0], "-"), ("flops", PALETTE[3], (0, (5, 1.6)))):
            curve = [row for row in rows if row[0] == f"multiplier in {name}"]
            for seed in {row[1]: None for row in curve}:
                line = [row for row in curve if row[1] == seed]
                right.plot([r[2] for r in line], [r[3] for r in line], color=colour, linewidth=0.6, alpha=0.5)
            x, logs = mean_by((row[2], math.log(row[3])) for row in curve)
            if x:
                right.plot(x, [math.exp(v) for v in logs], color=colour, linewidth=1.9, linestyle=dash)
                ends.append((math.exp(logs[-1]), "steps" if name == "step" else "FLOPs", colour))
        right.axhline(1, color=GREY, linewidth=0.8)
        reference_line(right, 2.0, "published: 2×")
        right.set_title("Multiplier at the baseline's loss there")
        right.set_ylabel("baseline's cost / LOLM's cost")
        right.set_ylim(0, max(2.3, 1.1 * max([row[3] for row in rows if row[0] != "difference"], default=2)))
        for axes in (left, right):
            axes.set_xlabel("optimiser steps" if axes is left else "the baseline's steps")
            axes.set_xlim(left=0)
        label_ends(right, ends)
        return figure

    return Picture(
        "lead",
        "The lead during training",
        f"Left: held-out loss of LOLM minus that of the baseline, same seed, with a {100 * confidence:g} % interval of the mean. "
        "Right: cost of the baseline over cost of LOLM to the loss that the baseline has at that step; missing where "
        "LOLM never measures "
        "that loss. A multiplier read in the middle of a run compares unequal learning rates.",
        "Two panels: the paired loss difference between LOLM and baseline over training, and the multiplier in steps and FLOPs.",
        ("quantity", "seed", "step", "value"),
        tuple(rows),
        draw,
    )


def gate_path(results: ScaleResults) -> Picture | None:
    """Mean gate during training beside its supervised target."""
    keys = {"gate/mean": "training batches", "gate/target": "supervised target", "val/gate_mean": "held-out"}
    rows: tuple[tuple[Any, ...], ...] = tuple(
        (run.arm, run.seed, row["step"], name, row[key])
        for run in results.runs
        if run.family == "lolm"
        for row in run.rows
        for key, name in keys.items()
        if key in row
    )
    if not rows:
        return None
    series = {"training batches": ("-", 1.9), "supervised target": ((0, (5, 1.6)), 1.3), "held-out": ((0, (1.2, 1.2)), 1.5)}
    arms = list(dict.fromkeys(row[0] for row in rows))
    lead_arm = results.subject if results.subject in arms else arms[0]  # of the others the mean on training batches is enough

    def draw() -> Any:
        figure, axes = new_figure(1, 1, label_room(len(arms) + 2, 3.2))
        ends = []
        for arm in arms:
            for index, (name, (dash, width)) in enumerate(series.items()):
                colour = PALETTE[index] if len(arms) == 1 else looks(results)[arm].colour
                mine = [row for row in rows if row[0] == arm and row[3] == name]
                if not mine or (index and arm != lead_arm):
                    continue
                if name == "training batches" and arm == lead_arm:
                    for seed in {row[1]: None for row in mine}:
                        line = [row for row in mine if row[1] == seed]
                        axes.plot([r[2] for r in line], [r[4] for r in line], color=colour, linewidth=0.6, alpha=0.5)
                x, y = mean_by((row[2], row[4]) for row in mine)
                axes.plot(x, y, color=colour, linestyle=dash, linewidth=width)
                label = name if len(arms) == 1 else results.label(arm) if arm != lead_arm else f"{results.label(arm)}, {name}"
                ends.append((x[-1], y[-1], label, colour))
        axes.axhline(0.5, color=FAINT, linewidth=0.8, linestyle=(0, (1, 2)), zorder=0)
        axes.set_ylim(0, 1)
        axes.set_xlim(left=0)
        axes.set_xlabel("optimiser steps")
        axes.set_ylabel("mean gate (1 = surface, 0 = latent)")
        axes.set_xlim(right=max(end[0] for end in ends))
        label_ends(axes, [end[1:] for end in ends], x=[end[0] for end in ends])
        return figure

    return Picture(
        "gate_path",
        "Path of the mean gate",
        "Mean over dimensions and positions. The target is the regression target of the competitive loss, so a gate "
        "that lies on it was put there. "
        "Published paths: 0.36, dip to 0.17, then 0.83 (304M); 0.71 (1.57B).",
        "The mean gate over training steps on training batches and held-out text, with its supervised target.",
        ("arm", "seed", "step", "series", "value"),
        rows,
        draw,
    )


def bits_per_byte(results: ScaleResults) -> Picture | None:
    """Test loss of each arm in bits per byte beside trivial models."""
    rows: list[tuple[Any, ...]] = [
        (run.arm, run.label, run.seed, run.evaluation["test"]["bits_per_byte"], run.evaluation["test"]["nats"])
        for run in results.runs
        if run.evaluation is not None
    ]
    if not rows:
        return None
    factor = rows[0][3] / rows[0][4]  # bits per byte over nats per token: the same test tokens for every arm
    for name, level in references(results, "references").items():
        rows.append((name, "reference", None, level * factor, level))
    confidence = results.analysis.confidence

    def draw() -> Any:
        arms = [arm for arm in results.arms if any(row[0] == arm for row in rows)]
        levels = [row for row in rows if row[1] == "reference"]
        names = [*levels, *arms]
        figure, axes = new_figure(1, 1, 0.9 + (0.34 if len(names) <= 12 else 0.25) * len(names))
        ticks = []
        for y, row in enumerate(sorted(levels, key=lambda row: -row[3])):
            axes.plot(row[3], y, "D", color=GREY, markersize=5)
            axes.annotate(
                f"{row[3]:.3f}", (row[3], y), xytext=(8, 0), textcoords="offset points", va="center", fontsize=9, color=GREY
            )
            ticks.append(row[0].replace("_", " ").replace("bigram all text", "bigram, whole training text"))
        arms.sort(key=lambda arm: -mean_by((0, row[3]) for row in rows if row[0] == arm)[1][0])  # best on top
        for y, arm in enumerate(arms, len(levels)):
            colour = looks(results)[arm].colour
            values = [row[3] for row in rows if row[0] == arm]
            found = t_interval(values, confidence)
            if found.interval:
                axes.plot(found.interval, (y, y), color=colour, linewidth=1.4)
            axes.plot(values, [y] * len(values), "o", color=colour, markersize=4, alpha=0.6, markeredgewidth=0)
            axes.plot(found.value, y, "|", color=colour, markersize=13, markeredgewidth=2)
            right = max([*values, *(found.interval or ())])
            axes.annotate(
                f"{found.value:.3f}", (right, y), xytext=(8, 0), textcoords="offset points", va="center", fontsize=9, color=colour
            )
            ticks.append(results.label(arm))
        axes.set_yticks(range(len(ticks)), ticks)
        axes.tick_params(axis="y", length=0, labelcolor="black")
        axes.set_xlabel("test loss, bits per byte (lower is better)")
        axes.set_ylim(-0.6, len(ticks) - 0.4)
        axes.margins(x=0.12)
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.7)
        axes.set_axisbelow(True)
        return figure

    return Picture(
        "bits_per_byte",
        "Test loss in bits per byte",
        f"Independent of the tokenizer. Bar: mean over {seeds_text(results.seeds)}, dots: seeds, line: "
        f"{100 * confidence:g} % interval. Uniform, unigram "
        "and bigram were estimated on the tokens that the runs trained on, the last on the whole training text.",
        "Test loss of each arm in bits per byte beside uniform, unigram and bigram models.",
        ("arm", "label", "seed", "bits_per_byte", "nats"),
        tuple(rows),
        draw,
    )
