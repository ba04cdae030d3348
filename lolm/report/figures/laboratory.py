"""Figures of the dependency laboratory: the inversion statistic with its null, its path, refits, contributions, classes, arms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lolm.analysis import dependency as dep
from lolm.analysis.effects import OUTCOMES, Effect, arm_effects, main_effects
from lolm.analysis.statistics import Estimate, t_interval
from lolm.claims.dependency import READOUT_NAMES
from lolm.records.results import RunRecord, ScaleResults
from lolm.report.figures.style import GREY, PALETTE, Picture, estimates_by, new_figure, seeds_text

Rows = tuple[tuple[Any, ...], ...]
GRID = {"color": "#e6e6e6", "linewidth": 0.7}


def subjects(results: ScaleResults) -> tuple[RunRecord, ...]:
    """Runs of the subject."""
    return results.of(results.subject) if results.subject else ()


def bar(axes: Any, y: float, found: Estimate, colour: str, bold: bool = False, marker: str = "o") -> None:
    """A mean with its interval and its seeds on one line."""
    if found.interval:
        axes.plot(found.interval, (y, y), color=colour, linewidth=3.2 if bold else 1.8, alpha=0.9, zorder=3)
    axes.plot(found.per_seed, [y] * found.n, "|", color=colour, markersize=8, alpha=0.6, zorder=3)
    axes.plot(found.value, y, marker, color=colour, markersize=7 if bold else 5, zorder=4)


def lines(axes: Any, names: Sequence[str], bold: Sequence[str] = ()) -> None:
    """Named lines, the first at the top."""
    axes.set_yticks(range(len(names)), list(reversed(names)))
    axes.tick_params(axis="y", length=0, labelcolor="black")
    for label in axes.get_yticklabels():
        if label.get_text() in bold:
            label.set_fontweight("bold")
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.grid(axis="y", **GRID)
    axes.set_axisbelow(True)


def inversion_statistic(results: ScaleResults) -> Picture | None:
    """S for every way of removing a branch, final weights, beside the random halves."""
    runs, confidence, margin = subjects(results), results.analysis.confidence, results.analysis.inversion_margin
    found = {p: e for p in dep.REMOVAL_METHODS if (e := dep.over_seeds(runs, p, confidence)) is not None}
    if not found:
        return None
    rows: list[tuple[Any, ...]] = [
        (p.label, run.seed, p == dep.primary(results), dep.statistic(run, p)) for p in found for run in runs
    ]
    nulls = [dep.null(run) for run in runs]
    draws = [(run.seed, d) for run, n in zip(runs, nulls, strict=True) if n is not None for d in n.draws]
    rows += [("random halves", seed, False, draw) for seed, draw in draws]
    declared = dep.primary(results).label

    def draw() -> Any:
        ordered = sorted(found, key=lambda p: p != dep.primary(results))
        names = [p.label for p in ordered] + (["random halves, both signs"] if draws else [])
        figure, axes = new_figure(1, 1, 0.9 + 0.27 * len(names))
        axes.axvspan(-margin, margin, color="#ececec", zorder=0)
        axes.axvline(0, color=GREY, linewidth=0.8)
        for i, p in enumerate(ordered):
            first = p == dep.primary(results)
            bar(axes, len(names) - 1 - i, found[p], PALETTE[0] if first else PALETTE[1] if p.way == "gate" else GREY, first)
        if draws:
            both = [sign * d for _, d in draws for sign in (1, -1)]
            axes.plot(both, [0] * len(both), "o", color=PALETTE[2], markersize=3.5, alpha=0.6, markeredgewidth=0)
        lines(axes, names, (declared,))
        axes.set_xlabel("S, nats a token")
        return figure

    return Picture(
        "inversion_statistic",
        "Which branch is missed more",
        f"Inversion statistic at the final weights, {seeds_text([run.seed for run in runs])}; bars: {100 * confidence:g} % "
        f"intervals, "
        f"ticks: seeds. Bold and blue: the declared way, which alone decides; orange: the published one. Grey band: "
        f"±{margin:g} nats. "
        "Green: two random halves of all dimensions in the branches' place.",
        "Inversion statistic with intervals for each way of removing the branches, and the values of random halves.",
        ("removal", "seed", "declared", "nats"),
        tuple(rows),
        draw,
    )


def trajectory(results: ScaleResults) -> Picture | None:
    """S, mean gate and its target, and the latent share of the variance over checkpoints."""
    runs, confidence, margin = subjects(results), results.analysis.confidence, results.analysis.inversion_margin
    pair = dep.primary(results)
    if len(dep.checkpoints(runs, pair)) < 2:
        pair = dep.RemovalMethod("gate")
    points = dep.trajectory(runs, pair)
    if len({p.step for p in points}) < 2:
        return None
    rows: Rows = tuple((p.seed, p.step, p.statistic, p.gate, p.target, p.share) for p in points)

    def series(axes: Any, column: int, colour: str, label: str, dash: Any = "-") -> None:
        values = [(row[1], row[column]) for row in rows if row[column] is not None]
        if not values:
            return
        x, found = estimates_by(values, confidence)
        for seed in {row[0]: None for row in rows}:
            mine = [(row[1], row[column]) for row in rows if row[0] == seed and row[column] is not None]
            axes.plot(*zip(*mine, strict=True), color=colour, linewidth=0.6, alpha=0.45, linestyle=dash)
        axes.plot(
            x, [e.value for e in found], color=colour, linewidth=1.9, marker="o", markersize=3.5, linestyle=dash, label=label
        )
        if all(e.interval for e in found):
            axes.fill_between(x, *zip(*(e.interval for e in found), strict=True), color=colour, alpha=0.14, linewidth=0)  # type: ignore[arg-type]

    def draw() -> Any:
        figure, (left, right) = new_figure(1, 2, 3.1)
        left.axhspan(-margin, margin, color="#ececec", zorder=0)
        left.axhline(0, color=GREY, linewidth=0.8)
        series(left, 2, PALETTE[0], "S")
        left.set_title(f"Inversion statistic, {pair.label}")
        left.set_ylabel("nats (above 0: latent missed more)")
        series(right, 3, PALETTE[1], "mean gate")
        series(right, 4, GREY, "its supervised target", (0, (5, 1.6)))
        series(right, 5, PALETTE[2], "latent share of the variance of o", (0, (1.2, 1.2)))
        right.set_title("Gate and contribution")
        low, high = right.get_ylim()
        right.set_ylim(min(0, low), max(1, high) + 0.42)
        right.set_yticks((0, 0.25, 0.5, 0.75, 1))
        right.legend(loc="upper right", handlelength=2.6)
        for axes in (left, right):
            axes.set_xlabel("optimiser steps")
            axes.set_xlim(left=0)
        return figure

    return Picture(
        "trajectory",
        "Dependency, gate and target over training",
        f"{seeds_text([run.seed for run in runs]).capitalize()} (thin), mean and {100 * confidence:g} % interval. Grey "
        f"band: ±{margin:g} "
        "nats. Gate: held-out text; target: training batches.",
        "Inversion statistic over training beside mean gate, its supervised target and the latent share of variance.",
        ("seed", "step", "inversion_nats", "gate", "target", "latent_variance_share"),
        rows,
        draw,
    )


def readout_recovery(results: ScaleResults) -> Picture | None:
    """Damage that is left after each refit."""
    runs, confidence = subjects(results), results.analysis.confidence
    names = {"gate=1": "g = 1 (no latent)", "gate=0": "g = 0 (no surface)", "latent_mean": "latent mean",
             "surface_mean": "surface mean"}  # fmt: skip
    found = []
    for run in runs:
        table = [
            (r["intervention"] if r.get("value") is None else f"{r['intervention']}={r['value']:g}", r)
            for r in run.laboratory("readouts")
        ]
        intact = {r["readout"]: r["refitted"] for key, r in table if key == "none"}
        for key, r in table:
            if key in names and r["readout"] in intact:
                damage, left = r["damaged"] - r["full"], r["refitted"] - intact[r["readout"]]
                recovered = 1 - left / damage if damage > 0 else None
                readout = READOUT_NAMES.get(r["readout"], r["readout"])
                found.append((names[key], readout, run.seed, damage, left, recovered))
    rows: Rows = tuple(found)
    if not rows:
        return None

    def draw() -> Any:
        shown = [name for name in names.values() if any(row[0] == name for row in rows)]
        kinds = ["as learned", *(k for k in READOUT_NAMES.values() if any(row[1] == k for row in rows))]
        figure, panels = new_figure(1, len(shown), 0.95 + 0.3 * len(kinds), sharey=True, sharex=True, squeeze=False)
        for axes, name in zip(panels[0], shown, strict=True):
            mine = [row for row in rows if row[0] == name]
            for i, kind in enumerate(kinds):
                values = [r[4] for r in mine if r[1] == kind] if i else list({r[2]: r[3] for r in mine}.values())
                if values:
                    y, found = len(kinds) - 1 - i, t_interval(values, confidence)
                    axes.barh(y, found.value, height=0.55, color=PALETTE[0] if i else GREY, alpha=0.35)
                    bar(axes, y, found, PALETTE[0] if i else GREY)
            axes.axvline(0, color=GREY, linewidth=0.8)
            axes.set_title(name)
        lines(panels[0][0], kinds)
        for axes in panels[0]:
            axes.grid(axis="y", **GRID)
        figure.supxlabel("damage that is left after refitting, nats", fontsize=9.5)
        return figure

    return Picture(
        "readout_recovery",
        "Is it lost, or only unreadable?",
        "Loss minus that of the intact model, after the same part of either was refitted on training text, the intervention in "
        "place. Near 0, the information was there and the readout off its distribution.",
        "Damage left after refitting temperature, norms, head or all weights, for each intervention.",
        ("intervention", "refitted", "seed", "damage_nats", "left_nats", "recovered"),
        rows,
        draw,
    )


def contributions(results: ScaleResults) -> Picture | None:
    """Shares of the addends beside what the gate would say."""
    runs, confidence = subjects(results), results.analysis.confidence
    found = [(run, row) for run in runs if (row := run.contribution()) is not None]
    if not found:
        return None
    rows: list[tuple[Any, ...]] = []
    for run, row in found:
        naive = {} if row["gate"] is None else {"surface": row["gate"], "latent": 1 - row["gate"]}
        for name, a in row["addends"].items():
            rows.append((name, run.seed, naive.get(name), a["variance_share"], a["logit_centred"], a["mean_norm"]))

    def draw() -> Any:
        names = list(dict.fromkeys(row[0] for row in rows))
        figure, panels = new_figure(1, 3, 1.2 + 0.34 * len(names), sharey=True)
        titles = ("share of the variance of o", "logit of the true token, centred", "mean length")
        for axes, column, title in zip(panels, (3, 4, 5), titles, strict=True):
            for i, name in enumerate(names):
                values = [row[column] for row in rows if row[0] == name and row[column] is not None]
                if values:
                    bar(axes, len(names) - 1 - i, t_interval(values, confidence), PALETTE[0])
                gates = [row[2] for row in rows if row[0] == name and row[2] is not None]
                if column == 3 and gates:
                    axes.plot(sum(gates) / len(gates), len(names) - 1 - i, "D", color=PALETTE[1], markersize=6, zorder=5)
            axes.axvline(0, color=GREY, linewidth=0.8)
            axes.set_title(title)
        lines(panels[0], names)
        for axes in panels[1:]:
            axes.grid(axis="y", **GRID)
        return figure

    return Picture(
        "contributions",
        "What each addend contributes, beside the gate",
        f"Final weights, held-out text; mean and {100 * confidence:g} % interval. Orange diamonds: the mean gate and one "
        f"minus it, which "
        "are coefficients and no shares. A negative share works against the others.",
        "Share of variance, logit contribution and length of each addend of the fusion beside the mean gate.",
        ("addend", "seed", "gate_or_one_minus_gate", "variance_share", "logit_centred", "mean_norm"),
        tuple(rows),
        draw,
    )


def token_classes(results: ScaleResults) -> Picture | None:
    """Gate and damage by class of the input token."""
    runs, confidence = subjects(results), results.analysis.confidence
    rows: Rows = tuple(
        (c["class"], run.seed, c["tokens"], c["gate_mean"], c["damage_latent_mean"], c["damage_surface_mean"])
        for run in runs
        for c in run.laboratory("token_classes")
        if not c["class"].startswith("target_")
    )
    if not rows or all(row[column] is None for row in rows for column in (3, 4, 5)):
        return None

    def draw() -> Any:
        names = list(dict.fromkeys(row[0] for row in rows))
        figure, (left, right) = new_figure(1, 2, 1.1 + 0.24 * len(names), sharey=True)
        for axes, column, colour, shift in ((left, 3, GREY, 0), (right, 4, PALETTE[2], 0.14), (right, 5, PALETTE[0], -0.14)):
            for i, name in enumerate(names):
                values = [row[column] for row in rows if row[0] == name and row[column] is not None]
                if values:
                    bar(axes, len(names) - 1 - i + shift, t_interval(values, confidence), colour)
        left.set_title("mean gate (1 = surface)")
        right.plot([], [], "o-", color=PALETTE[2], label="damage without latent, nats")
        right.plot([], [], "o-", color=PALETTE[0], label="without surface")
        right.axvline(0, color=GREY, linewidth=0.8)
        right.legend(loc="lower left", bbox_to_anchor=(-0.04, 1.0), ncols=2, borderaxespad=0, handlelength=1.2, columnspacing=1.2)
        lines(left, [name.replace("_", " ") for name in names], ("all",))
        right.grid(axis="y", **GRID)
        return figure

    return Picture(
        "token_classes",
        "The gate and the branches by class of token",
        f"Class of the input token or its position; classes overlap. Mean over {seeds_text([run.seed for run in runs])} and "
        f"{100 * confidence:g} % interval. The authors' page on single tokens shows drawn values, not measurements.",
        "Mean gate, and damage without latent and without surface, for function words, content words and other classes.",
        ("class", "seed", "tokens", "gate_mean", "damage_latent_mean", "damage_surface_mean"),
        rows,
        draw,
    )


def training_arms(results: ScaleResults) -> Picture | None:
    """Arms of the subject's family minus the subject, or main effects of a design, in every outcome."""
    read = main_effects if getattr(results.params.selected, "factors", {}) else arm_effects
    effects: dict[str, list[Effect]] = {key: read(results, key) for key in OUTCOMES} if results.subject else {}
    family = {arm for arm in results.arms if results.family(arm) == "lolm"}
    if read is arm_effects:
        effects = {key: [e for e in found if e.name in family] for key, found in effects.items()}
    effects = {key: found for key, found in effects.items() if found}
    if not effects:
        return None
    rows: Rows = tuple(
        (e.name, OUTCOMES[key].name, e.difference.value, *(e.difference.interval or (None, None)), e.p_value, e.adjusted)
        for key, found in effects.items()
        for e in found
    )

    def draw() -> Any:
        names = list(dict.fromkeys(row[0] for row in rows))
        labels = [results.label(n) if n in results.arms else n.replace("_", " ") for n in names]
        figure, panels = new_figure(1, len(effects), 1.1 + 0.3 * len(names), sharey=True, squeeze=False)
        for axes, (key, found) in zip(panels[0], effects.items(), strict=True):
            for e in found:
                shown = e.adjusted is not None and e.adjusted < 1 - results.analysis.confidence
                bar(axes, len(names) - 1 - names.index(e.name), e.difference, PALETTE[0] if shown else GREY, shown)
            axes.axvline(0, color=GREY, linewidth=0.8)
            axes.set_title({"usage": "code usage", "inversion": "S, inversion"}.get(key, OUTCOMES[key].name))
            low, high = axes.get_xlim()
            axes.set_xlim(min(low, -1e-3), max(high, 1e-3))
            axes.set_xlabel({"gate": "gate", "share": "share of ln R"}.get(OUTCOMES[key].unit, "nats"))
            axes.locator_params(axis="x", nbins=4)
        lines(panels[0][0], labels)
        for axes in panels[0][1:]:
            axes.grid(axis="y", **GRID)
        return figure

    what = (
        "Main effect of each factor, high minus low level"
        if read is main_effects
        else "Each arm minus the subject, paired by seed"
    )
    return Picture(
        "training_arms",
        "What training otherwise does",
        f"{what}; {100 * results.analysis.confidence:g} % intervals over seeds, ticks: seeds. Blue and bold: shown after "
        f"Holm's "
        "correction within the panel.",
        "Differences of arms, or main effects of factors, in test loss, mean gate, inversion statistic and code usage.",
        ("arm_or_factor", "outcome", "difference", "low", "high", "p", "p_adjusted"),
        rows,
        draw,
    )
