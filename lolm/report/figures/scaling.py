"""Figure of scaling fits: loss against training compute over scales, and the multiplier between two fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lolm.analysis.scaling import ScalingFit
from lolm.records.results import ScaleResults
from lolm.report.figures.style import GREY, Picture, label_ends, label_room, log_ticks, looks, new_figure, scientific


def scaling(results: ScaleResults, fits: Mapping[str, ScalingFit], curves: Mapping[str, Sequence[dict[str, Any]]]) -> Picture:
    """Points and fits of every arm; below, the compute multiplier of each arm against the baseline.

    Args:
        results: of any of the scales, for the arms' labels and looks.
        fits: by arm.
        curves: rows of :func:`lolm.analysis.scaling.multipliers` by arm; empty where the baseline has no fit.
    """
    rows: list[tuple[Any, ...]] = [
        (arm, "point", p.scale, p.seed, p.flops, p.nats, None, None) for arm, fit in fits.items() for p in fit.points
    ]
    for arm, fit in fits.items():
        for flops in np.geomspace(fit.law.low, fit.law.high, 25):
            flops = min(max(float(flops), fit.law.low), fit.law.high)
            rows.append((arm, "fit", None, None, flops, fit.law.loss(flops), *(fit.band(flops) or (None, None))))
    rows += [
        (arm, "multiplier", None, None, r["flops"], r["multiplier"], r["low"], r["high"])
        for arm, curve in curves.items()
        for r in curve
        if r["multiplier"] is not None
    ]
    look = {arm: style for arm, style in looks(results).items() if arm in fits}

    def draw() -> Any:
        height = label_room(len(look), 3.2)
        figure, panels = new_figure(2 if curves else 1, 1, height * (1.8 if curves else 1), sharex=True, squeeze=False)
        for kind, axes in zip(("fit", "multiplier"), panels[:, 0], strict=False):
            ends, strong = [], []
            for arm, style in look.items():
                line = [row for row in rows if row[:2] == (arm, kind)]
                if not line:
                    continue
                x, y = [row[4] for row in line], [row[5] for row in line]
                axes.plot(x, y, color=style.colour, linewidth=style.width, linestyle=style.dash, zorder=style.order)
                if style.bold or len(look) <= 4:
                    banded = [row for row in line if row[6] is not None]
                    low, high = [row[6] for row in banded], [row[7] for row in banded]
                    axes.fill_between([row[4] for row in banded], low, high, color=style.colour, alpha=0.15, linewidth=0)
                if kind == "fit":
                    points = [row for row in rows if row[:2] == (arm, "point")]
                    axes.plot([row[4] for row in points], [row[5] for row in points], "o", color=style.colour, markersize=3.5)
                ends.append((x[-1], y[-1], results.label(arm), style.colour))
                strong += [results.label(arm)] if style.bold else []
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
            label_ends(axes, [end[1:] for end in ends], x=[end[0] for end in ends], bold=strong)
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
        ("arm", "kind", "scale", "seed", "flops", "value", "low", "high"),
        tuple(rows),
        draw,
    )
