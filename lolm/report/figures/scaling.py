"""Figure of scaling fits: loss against training compute over scales, and the multiplier between two fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lolm.analysis.scaling import ScalingFit
from lolm.records.results import ScaleResults
from lolm.report.figures.picture import Picture
from lolm.report.figures.style import GREY, label_arms, label_room, log_ticks, looks, new_figure, scientific


def scaling(results: ScaleResults, fits: Mapping[str, ScalingFit], curves: Mapping[str, Sequence[dict[str, Any]]]) -> Picture:
    """Points and fits of every arm; below, the compute multiplier of each arm against the baseline.

    Args:
        results: of any of the scales, for the arms' labels and looks.
        fits: by arm.
        curves: rows of :func:`lolm.analysis.scaling.multipliers` by arm; empty where the baseline has no fit.
    """
    rows: list[dict[str, Any]] = [
        {"arm": arm, "kind": "point", "scale": p.scale, "seed": p.seed, "flops": p.flops, "value": p.nats}
        for arm, fit in fits.items()
        for p in fit.points
    ]
    for arm, fit in fits.items():
        for flops in np.geomspace(fit.law.low, fit.law.high, 25):
            flops = min(max(float(flops), fit.law.low), fit.law.high)
            low, high = fit.band(flops) or (None, None)
            rows.append({"arm": arm, "kind": "fit", "flops": flops, "value": fit.law.loss(flops), "low": low, "high": high})
    rows += [
        {"arm": arm, "kind": "multiplier", "flops": r["flops"], "value": r["multiplier"], "low": r["low"], "high": r["high"]}
        for arm, curve in curves.items()
        for r in curve
        if r["multiplier"] is not None
    ]
    table = pd.DataFrame(rows, columns=["arm", "kind", "scale", "seed", "flops", "value", "low", "high"]).astype(
        {"seed": "Int64"}
    )
    look = {arm: style for arm, style in looks(results).items() if arm in fits}

    def draw() -> Any:
        height = label_room(len(look), 3.2)
        figure, panels = new_figure(2 if curves else 1, 1, height * (1.8 if curves else 1), sharex=True, squeeze=False)
        for kind, axes in zip(("fit", "multiplier"), panels[:, 0], strict=False):
            ends = []
            for arm, style in look.items():
                mine = table[table["arm"] == arm]
                line, points = mine[mine["kind"] == kind], mine[mine["kind"] == "point"]
                if line.empty:
                    continue
                axes.plot(
                    line["flops"],
                    line["value"],
                    color=style.colour,
                    linewidth=style.width,
                    linestyle=style.dash,
                    zorder=style.order,
                )
                if style.bold or len(look) <= 4:
                    banded = line.dropna(subset=["low", "high"])
                    low, high = banded["low"].astype(float), banded["high"].astype(float)
                    axes.fill_between(banded["flops"], low, high, color=style.colour, alpha=0.15, linewidth=0)
                if kind == "fit":
                    axes.plot(points["flops"], points["value"], "o", color=style.colour, markersize=3.5)
                ends.append((float(line["flops"].iloc[-1]), float(line["value"].iloc[-1]), results.label(arm), style.colour))
            axes.set_xscale("log")
            log_ticks(axes.xaxis, scientific)
            if kind == "fit":
                axes.set_yscale("log")
                axes.yaxis.set_major_formatter(lambda v, _: f"{v:.3g}")
                axes.yaxis.set_minor_formatter(lambda v, _: f"{v:.3g}")
                axes.set_ylabel("test loss, nats a token")
            else:
                axes.axhline(1, color=GREY, linewidth=0.9)
                axes.axhline(2, color=GREY, linewidth=0.9, linestyle=(0, (1, 2)))
                axes.set_ylabel("baseline's FLOPs / arm's FLOPs")
            label_arms(axes, results, ends)
        panels[-1, 0].set_xlabel("training FLOPs (logarithmic)")
        return figure

    scales = list(dict.fromkeys(p.scale for fit in fits.values() for p in fit.points))
    return Picture(
        "scaling",
        "Loss and compute over scales",
        f"Test loss at the end of each run at scales {', '.join(scales)}, with fits"
        + (
            " and bootstrap bands, too narrow with fewer than five seeds"
            if len(results.seeds) > 1
            else "; one seed gives no band"
        )
        + ". Below: compute multiplier between two fits, drawn where both are measured; dotted: the published 2×.",
        "Test loss against training FLOPs with a fit for each arm, and the compute multiplier against the baseline.",
        table,
        draw,
    )
