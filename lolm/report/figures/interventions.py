"""Figures of what is done to a trained model: forced gates, damage over training, gate histogram, regime usage."""

from __future__ import annotations

import math
from typing import Any

from lolm.analysis.statistics import t_interval
from lolm.claims.inversion import control_depth
from lolm.records.results import RunRecord, ScaleResults
from lolm.report.figures.style import GREY, PALETTE, Picture, label_ends, looks, mean_by, new_figure, seeds_text


def ablated(results: ScaleResults) -> tuple[RunRecord, ...]:
    """Runs of the subject whose gate was forced."""
    runs = results.of(results.subject) if results.subject else ()
    return tuple(run for run in runs if run.ablation and any(c["intervention"] == "gate" for c in run.ablation["conditions"]))


def sweep(results: ScaleResults) -> Picture | None:
    """Loss against the value the gate is forced to, per checkpoint."""
    runs = ablated(results)
    rows: tuple[tuple[Any, ...], ...] = tuple(
        (
            run.seed,
            int(c["step"]),
            "learned" if c["intervention"] == "none" else "forced",
            c["value"],
            c["nats"],
            c["accuracy"],
            c["kl_to_full"],
        )
        for run in runs
        for c in run.ablation["conditions"]  # type: ignore[index]
        if c["intervention"] in ("gate", "none")
    )
    if not rows:
        return None
    levels = {
        name: math.fsum(run.ablation["references"][name] for run in runs) / len(runs)  # type: ignore[index]
        for name in ("uniform", "unigram")
    }
    confidence = results.analysis.confidence

    def draw() -> Any:
        figure, axes = new_figure(1, 1, 3.9)
        steps = sorted({row[1] for row in rows})
        ends = []
        for i, step in enumerate(steps):
            last = step == steps[-1]
            colour = PALETTE[0] if last else str(round(0.62 - 0.4 * i / len(steps), 3))  # grey, darker with training
            points = [row for row in rows if row[1] == step and row[2] == "forced"]
            x, y = mean_by((row[3], row[4]) for row in points)
            axes.plot(
                x,
                y,
                color=colour,
                linewidth=2.2 if last else 1.2,
                marker="o",
                markersize=4 if last else 2.5,
                zorder=3 if last else 2,
            )
            if last:
                for value in x:
                    found = t_interval([row[4] for row in points if row[3] == value], confidence)
                    if found.interval:
                        axes.plot((value, value), found.interval, color=colour, linewidth=1)
                _, learned = mean_by((0, row[4]) for row in rows if row[1] == step and row[2] == "learned")
                axes.axhline(learned[0], color=PALETTE[0], linewidth=1, linestyle=(0, (5, 1.6)))
                ends.append((learned[0], "learned gate", colour))
            ends.append((y[-1], f"step {step}", colour if last else GREY))
        if max(row[4] for row in rows) > 2.5 * levels["uniform"]:
            axes.set_yscale("log")
        for name, level in levels.items():
            axes.axhline(level, color=GREY, linewidth=0.9, linestyle=(0, (1, 2)), zorder=0)
            axes.annotate(
                name,
                (0.5, level),
                xycoords=("axes fraction", "data"),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=9,
                color=GREY,
            )
        axes.set_xlabel("gate forced to (0 = latent alone, 1 = surface alone)")
        axes.set_ylabel("test loss, nats a token, uncapped")
        label_ends(axes, ends)
        return figure

    return Picture(
        "ablation_sweep",
        "Loss with the gate forced to a constant",
        f"Mean over {seeds_text([run.seed for run in runs])}; the thick line is the final model, with "
        f"{100 * confidence:g} % intervals; thin lines are earlier "
        "checkpoints. A model above the dotted lines predicts worse than the unigram model, or than a uniform guess, "
        "and is non-functional.",
        "Loss against the forced gate value for several checkpoints, with lines for the learned gate, unigram and "
        "uniform losses.",
        ("seed", "step", "gate", "forced_to", "nats", "accuracy", "kl_to_full"),
        rows,
        draw,
    )


def damage(results: ScaleResults) -> Picture | None:
    """Damage of g = 1, g = 0 and of the serial control at each checkpoint; and of partial moves of the gate."""
    runs = ablated(results)
    if not runs:
        return None
    depth, pairs = control_depth(results, runs)
    rows: list[tuple[Any, ...]] = []

    def add(name: str, run: RunRecord, intervention: str, value: float) -> None:
        for step in run.ablation_steps:
            found = run.damage(intervention, value, step)
            if found is not None:
                rows.append((name, run.seed, step, value, found))

    blocks = "block" if depth == 1 else f"{depth} blocks"
    series = {
        "g = 1 (no latent)": PALETTE[0],
        "g = 0 (no surface)": PALETTE[2],
        f"Transformer without its last {blocks}": PALETTE[1],
    }
    names = list(series)
    for run in runs:
        add(names[0], run, "gate", 1.0)
        add(names[1], run, "gate", 0.0)
    for _, base in pairs:
        add(names[2], base, "skip_last_blocks", float(depth or 0))
    blends = {"toward 1": "gate_blend_one", "toward 0": "gate_blend_zero"}
    for name, intervention in blends.items():
        for run in runs:
            conditions = run.ablation["conditions"]  # type: ignore[index]
            for value in sorted({c["value"] for c in conditions if c["intervention"] == intervention}):
                found = run.damage(intervention, value)
                if found is not None:
                    rows.append((name, run.seed, run.ablation_steps[-1], value, found))

    def draw() -> Any:
        blended = any(row[0] in blends for row in rows)
        figure, panels = new_figure(1, 2 if blended else 1, 3.3, gridspec_kw={"width_ratios": (1.25, 1)} if blended else None)
        left = panels[0] if blended else panels
        for name, colour in series.items():
            mine = [row for row in rows if row[0] == name]
            for seed in {row[1]: None for row in mine}:
                line = [row for row in mine if row[1] == seed]
                left.plot([r[2] for r in line], [r[4] for r in line], color=colour, linewidth=0.6, alpha=0.5)
            x, y = mean_by((row[2], row[4]) for row in mine)
            if x:
                left.plot(
                    x,
                    y,
                    color=colour,
                    linewidth=1.9,
                    marker="o",
                    markersize=3.5,
                    linestyle=(0, (5, 1.6)) if name == names[2] else "-",
                    label=name,
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
            right = panels[1]
            ends = []
            for name, colour in (("toward 1", PALETTE[0]), ("toward 0", PALETTE[2])):
                mine = [row for row in rows if row[0] == name]
                for seed in {row[1]: None for row in mine}:
                    line = [row for row in mine if row[1] == seed]
                    right.plot([0, *(r[3] for r in line)], [0, *(r[4] for r in line)], color=colour, linewidth=0.6, alpha=0.5)
                x, y = mean_by((row[3], row[4]) for row in mine)
                if x:
                    right.plot([0, *x], [0, *y], color=colour, linewidth=1.9, marker="o", markersize=3.5)
                    ends.append((y[-1], name, colour))
            right.axhline(0, color=GREY, linewidth=0.8)
            right.set_title("Part of the way, final model")
            right.set_xlabel("share of the way to the constant")
            label_ends(right, ends)
        return figure

    return Picture(
        "damage",
        "Damage done by interventions",
        "Loss under the intervention minus loss of the intact model on the same test tokens. Left: gate forced to 1 "
        "or 0, beside the control: a plain "
        "Transformer whose last blocks, as many as LOLM has latent layers, are skipped. Right: the learned gate moved "
        "part of the way to the constant.",
        "Damage in nats of forcing the gate to 1 and to 0 and of skipping the Transformer's last blocks, at several checkpoints.",
        ("series", "seed", "step", "setting", "damage_nats"),
        tuple(rows),
        draw,
    )


def histogram(results: ScaleResults) -> Picture | None:
    """How gate values are spread over tokens and dimensions."""
    rows: tuple[tuple[Any, ...], ...] = tuple(
        (run.arm, run.seed, edges[i], edges[i + 1], counts[i])
        for run in results.runs
        if run.evaluation is not None and run.evaluation["gate"] is not None
        for edges, counts in [(run.evaluation["gate"]["histogram"]["edges"], run.evaluation["gate"]["histogram"]["counts"])]
        for i in range(len(counts))
    )
    if not rows:
        return None

    def draw() -> Any:
        figure, axes = new_figure(1, 1, 2.7)
        arms = list(dict.fromkeys(row[0] for row in rows))
        for arm in arms:
            colour = looks(results)[arm].colour
            edges = sorted({row[2] for row in rows if row[0] == arm} | {row[3] for row in rows if row[0] == arm})
            shares: list[list[float]] = []
            for seed in {row[1]: None for row in rows if row[0] == arm}:
                counts = [row[4] for row in rows if row[0] == arm and row[1] == seed]
                shares.append([count / max(1, sum(counts)) for count in counts])
                axes.stairs(shares[-1], edges, color=colour, linewidth=0.7, alpha=0.6)
            mean = [math.fsum(column) / len(column) for column in zip(*shares, strict=True)]
            axes.stairs(mean, edges, color=colour, fill=True, alpha=0.25 if len(arms) == 1 else 0.1)
            axes.stairs(mean, edges, color=colour, linewidth=1.8, label=results.label(arm))
        axes.set_xlim(0, 1)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("gate value (1 = surface, 0 = latent)")
        axes.set_ylabel("share of values")
        if len(arms) > 1:
            axes.legend(loc="upper center", ncols=1 if len(arms) <= 4 else 2)
        return figure

    return Picture(
        "gate_histogram",
        "Distribution of gate values",
        "Gate values over test tokens and dimensions, final weights. Thin: each seed; thick: mean.",
        "Histogram of gate values between 0 and 1 on test tokens.",
        ("arm", "seed", "from", "to", "count"),
        rows,
        draw,
    )


def regimes(results: ScaleResults) -> Picture | None:
    """Code usage as published, under pure noise, and without noise."""
    kinds = {
        "sampled": "Gumbel samples (as published)",
        "noise": "pure noise, same sampling",
        "eval": "evaluation mode, no noise",
    }
    rows: tuple[tuple[Any, ...], ...] = tuple(
        (run.arm, run.seed, text, r[f"alive_{kind}"], r["codes"], r[f"usage_entropy_{kind}"], r["max_entropy"])
        for run in results.runs
        if run.evaluation is not None and run.evaluation["regime"] is not None
        for r in [run.evaluation["regime"]]
        for kind, text in kinds.items()
    )
    if not rows:
        return None

    def draw() -> Any:
        arms = list(dict.fromkeys(row[0] for row in rows))
        lines = [(arm, text) for arm in arms for text in kinds.values()]
        figure, (left, right) = new_figure(1, 2, 0.9 + 0.36 * len(lines), sharey=True)
        for axes, top, bottom, title in (
            (left, 3, 4, "codes chosen at all, share"),
            (right, 5, 6, "usage entropy over its maximum"),
        ):
            for y, (arm, text) in enumerate(reversed(lines)):
                values = [row[top] / row[bottom] for row in rows if row[0] == arm and row[2] == text]
                colour = GREY if "pure" in text else PALETTE[0]
                axes.plot(values, [y] * len(values), "o", color=colour, markersize=5, alpha=0.55, markeredgewidth=0)
                axes.plot(sum(values) / len(values), y, "|", color=colour, markersize=13, markeredgewidth=2)
            axes.set_xlim(-0.03, 1.05)
            axes.set_xlabel(title)
            axes.grid(axis="y", color="#e6e6e6", linewidth=0.7)
            axes.set_axisbelow(True)
        left.set_yticks(range(len(lines)), [text if len(arms) == 1 else f"{arm}: {text}" for arm, text in reversed(lines)])
        left.tick_params(axis="y", length=0, labelcolor="black")
        left.set_ylim(-0.6, len(lines) - 0.4)
        return figure

    return Picture(
        "regimes",
        "Use of the regime codes",
        "Counting the argmax of noisy samples, as published, finds every code alive even when the logits say nothing (grey). "
        "What the layer itself chooses shows without noise. Dots: seeds; bar: mean.",
        "Share of regime codes in use and their usage entropy, as sampled, under pure noise, and without noise.",
        ("arm", "seed", "counted", "alive", "codes", "usage_entropy", "max_entropy"),
        rows,
        draw,
    )
