"""Figure of the study over sizes and budgets: loss against compute with each arm's law, and the subject's multiplier."""

from __future__ import annotations

from typing import Any

import pandas as pd

from lolm.claims.numbers import show_level
from lolm.config import Params
from lolm.records.schema import Budgets, Value
from lolm.report.figures.picture import Picture
from lolm.report.figures.style import GREY, label_ends, label_room, log_ticks, looks_of, new_figure, scientific

COLUMNS = ("kind", "arm", "scale", "seed", "flops", "value", "low", "high", "inside")


def budgets_table(record: Budgets) -> pd.DataFrame:
    """Rows of kind ``point`` (a measured loss), ``path`` (least loss by the arm's law) and ``multiplier`` (against the arm)."""

    def ends(found: Value) -> dict[str, Any]:
        return {"value": found.value, "low": found.low, "high": found.high}

    rows: list[dict[str, Any]] = [
        {"kind": "point", "arm": p.arm, "scale": p.scale, "seed": p.seed, "flops": p.flops, "value": p.nats}
        for p in record.points
    ]
    rows += [{"kind": "path", "arm": p.arm, "flops": p.flops, "inside": p.inside} | ends(p.nats) for p in record.paths]
    shared = next((law.shared for law in record.laws), False)  # the declared way stands first
    rows += [
        {"kind": "multiplier", "arm": m.baseline, "flops": m.flops, "inside": m.inside} | ends(m.multiplier)
        for m in record.multipliers
        if m.shared == shared and m.multiplier.value is not None
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"seed": "Int64"})


def budgets_picture(record: Budgets, params: Params) -> Picture | None:
    """The figure; None before the first run was evaluated."""
    table = budgets_table(record)
    if table.empty:
        return None
    arms = list(dict.fromkeys(p.arm for p in record.points))
    look = looks_of(record.subject, record.baseline, arms)
    labels = {arm: params.architectures[arm].label for arm in arms}

    def draw() -> Any:
        two = bool((table["kind"] == "multiplier").any())
        height = label_room(len(arms), 3.2)
        figure, panels = new_figure(2 if two else 1, 1, height * (1.8 if two else 1), sharex=True, squeeze=False)
        for kind, axes in zip(("path", "multiplier"), panels[:, 0], strict=False):
            named = []
            for arm, style in look.items():
                mine = table[table["arm"] == arm]
                points, line = mine[mine["kind"] == "point"], mine[mine["kind"] == kind]
                if kind == "path":
                    axes.plot(points["flops"], points["value"], "o", color=style.colour, markersize=2.5, alpha=0.7)
                values = line[["flops", "value", "low", "high"]].astype(float)
                for inside, dash in ((True, "-"), (False, (0, (2, 2)))):
                    shown = values["value"].where(line["inside"].astype(bool) == inside)
                    axes.plot(
                        values["flops"], shown, color=style.colour, linewidth=style.width, linestyle=dash, zorder=style.order
                    )
                axes.fill_between(values["flops"], values["low"], values["high"], color=style.colour, alpha=0.12, linewidth=0)
                last = (values if len(values) else points[["flops", "value"]]).tail(1).astype(float)
                if len(last) and (kind == "path" or len(values)):
                    named.append((float(last["flops"].iloc[0]), float(last["value"].iloc[0]), labels[arm], style.colour))
            axes.set_xscale("log")
            log_ticks(axes.xaxis, scientific)
            if kind == "multiplier":
                axes.axhline(1, color=GREY, linewidth=0.9)
                middle = table[table["kind"] == "multiplier"]["value"].astype(float)
                axes.set_ylim(0.5 * middle.min(), 2 * middle.max())
            axes.set_yscale("log")
            log_ticks(axes.yaxis, lambda value: f"{value:g}")
            axes.set_ylabel("test loss, nats a token" if kind == "path" else "arm's FLOPs / subject's FLOPs")
            label_ends(axes, [end[1:] for end in named], x=[end[0] for end in named])
        panels[-1, 0].set_xlabel("training FLOPs (logarithmic)")
        return figure

    subject = labels.get(record.subject, record.subject)
    return Picture(
        "budgets",
        "Loss and compute over sizes and budgets",
        f"Above: test loss at every end of schedule of {record.made} of {record.asked} runs (dots), and the least loss at each "
        "compute by the law of each arm, dashed where its best size or tokens lie outside those measured. Below: FLOPs that "
        f"the arm needs for the least loss of {subject} at the FLOPs on the axis, over these. Bands: "
        f"{show_level(params.analysis.confidence)} bootstrap intervals over runs.",
        "Test loss against training FLOPs with a law for each arm, and the compute multiplier against each.",
        table,
        draw,
    )
