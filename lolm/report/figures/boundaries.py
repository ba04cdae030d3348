"""Figure: loss, latent share and gate by the distance from the last boundary of the text."""

from __future__ import annotations

from typing import Any

import pandas as pd

from lolm.records.results import ScaleResults
from lolm.report.figures.style import PALETTE, Ends, estimates, label_arms, looks, new_figure, of_arm

COLUMNS = ("arm", "seed", "kind", "first", "last", "tokens", "events", "nats", "gap_nats", "gate", "share", "damage_latent",
           "damage_surface")  # fmt: skip


def boundaries_table(results: ScaleResults) -> pd.DataFrame:
    """Every row of every run; ``gap_nats`` is the loss minus the subject's of the same seed."""
    rows: list[dict[str, Any]] = [
        {"arm": run.arm, "seed": run.seed} | vars(row) for run in results.runs if run.ablation for row in run.ablation.boundaries
    ]
    mine = {(r["seed"], r["kind"], r["first"]): r["nats"] for r in rows if r["arm"] == results.subject}
    for r in rows:
        own = mine.get((r["seed"], r["kind"], r["first"]))
        r["gap_nats"] = None if own is None else r["nats"] - own
    return pd.DataFrame(rows, columns=list(COLUMNS))


def boundaries(table: pd.DataFrame, results: ScaleResults) -> Any:
    """Left: what the other arms lose to the subject, a panel a kind; right: gate and latent share of the subject."""
    kinds = [kind for kind in ("sentence", "paragraph", "document") if (table["kind"] == kind).any()]
    figure, panels = new_figure(len(kinds), 2, 1.9 * len(kinds) + 0.6, sharex=True, squeeze=False)
    firsts = sorted(table["first"].unique())
    for kind, (left, right) in zip(kinds, panels, strict=True):
        of_kind, ends = table[table["kind"] == kind], Ends()
        for arm, style in looks(results).items():
            mine = of_kind[of_kind["arm"] == arm]
            if arm == results.subject or mine["gap_nats"].isna().all():
                continue
            keys, found = estimates(mine, "first", "gap_nats", results.analysis.confidence)
            with of_arm(left, results, arm):
                left.plot(keys, [e.value for e in found], color=style.colour, linestyle=style.dash, marker="o", markersize=3)
                for key, e in zip(keys, found, strict=True):
                    if e.interval:
                        left.plot((key, key), e.interval, color=style.colour, linewidth=1)
            ends.append((float(keys[-1]), found[-1].value, results.label(arm), style.colour))
        left.axhline(0, color="#555555", linewidth=0.7)
        label_arms(left, results, ends)
        left.set_ylabel(f"{kind}: gap, nats")
        mine = of_kind[of_kind["arm"] == results.subject].dropna(subset=["gate"])
        series = (("gate", "gate", PALETTE[2]), ("share", "latent share", PALETTE[3]))
        for column, label, colour in series if len(mine) else ():
            keys, found = estimates(mine, "first", column, results.analysis.confidence)
            right.plot(keys, [e.value for e in found], color=colour, marker="o", markersize=3, label=label)
            for key, e in zip(keys, found, strict=True):
                if e.interval:
                    right.plot((key, key), e.interval, color=colour, linewidth=1)
        right.set_xscale("log", base=2)
        right.set_xticks(firsts, [str(first) for first in firsts])
        right.minorticks_off()
    if len(panels[0, 1].lines):
        panels[0, 1].legend()
    for axes in panels[-1]:
        axes.set_xlabel("tokens since the boundary, from")
    return figure
