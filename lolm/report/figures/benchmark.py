"""Figure of the benchmark: share of the machine's peak of each arm, and how much longer other packages take."""

from __future__ import annotations

from typing import Any

import pandas as pd

from lolm.report.figures.picture import Picture
from lolm.report.figures.style import GREY, PALETTE, log_ticks, new_figure

SHARE, PEER = "share of peak", "peer over ours"
SIZES = {"base": "at the scale's size", "wide": "all widths doubled"}

_OVER_ROUNDS = dict.fromkeys(("median", "low", "high"), float)
_MEDIAN = {"median": float}
_ARM = {
    "label": str,
    "share_of_peak": _OVER_ROUNDS,
    "over_baseline?": _OVER_ROUNDS,
    "seconds": _MEDIAN,
    "tokens_per_second": _MEDIAN,
}
_PEER = {"over_own": _OVER_ROUNDS}
FORM = {  # of the record, as far as a report reads it, see lolm.records.store.has
    "machine": {"processor": str, "cores": int, "torch": str},
    "settings": {"rounds": int, "scale": str},
    "steps?": {f"{size}?": {"arms": {"*": _ARM}} for size in SIZES},
    "scan?": {"shapes?": {"*": {way: {"mambapy?": _PEER} for way in ("forward", "both")}}},
    "peers?": {"transformers?": {"*": _PEER}},
    "text?": {"datasets_over_own?": _OVER_ROUNDS},
}


def peers_of(record: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Time of other packages over ours by what is compared; empty where none was measured."""
    found: dict[str, dict[str, float]] = {}
    for shape, entry in record.get("scan", {}).get("shapes", {}).items():
        for way, name in (("forward", "forward"), ("both", "forward and backward")):
            if "mambapy" in entry[way]:
                found[f"scan, {name}, {shape} (mambapy)"] = entry[way]["mambapy"]["over_own"]
    for name, entry in record.get("peers", {}).get("transformers", {}).items():
        found[f"{name} (transformers)"] = entry["over_own"]
    if "datasets_over_own" in record.get("text", {}):
        found["encoding text (datasets, tokenizers)"] = record["text"]["datasets_over_own"]
    return found


def speed(record: dict[str, Any]) -> Picture | None:
    """Shares of the peak at both sizes and ratios to peers; None where neither was measured."""
    steps = record.get("steps", {})
    rows: list[dict[str, Any]] = [
        {"kind": SHARE, "size": size, "name": entry["label"]} | entry["share_of_peak"]
        for size in SIZES
        for entry in steps.get(size, {}).get("arms", {}).values()
    ]
    rows += [{"kind": PEER, "size": "", "name": name} | value for name, value in peers_of(record).items()]
    if not rows:
        return None
    table = pd.DataFrame(rows, columns=["kind", "size", "name", "median", "low", "high"])

    def draw() -> Any:
        kinds = [kind for kind in (SHARE, PEER) if kind in set(table["kind"])]
        names = {kind: list(dict.fromkeys(table.loc[table["kind"] == kind, "name"])) for kind in kinds}
        heights = [max(2, len(names[kind])) for kind in kinds]
        figure, panels = new_figure(
            len(kinds), 1, 0.3 * sum(heights) + 0.9 * len(kinds), squeeze=False, gridspec_kw={"height_ratios": heights}
        )
        for kind, axes in zip(kinds, panels[:, 0], strict=True):
            places = {name: -i for i, name in enumerate(names[kind])}
            series = SIZES if kind == SHARE else {"": ""}
            for i, (size, label) in enumerate(series.items()):
                mine = table[(table["kind"] == kind) & (table["size"] == size)]
                y = [places[name] + 0.16 * (0.5 * (len(series) - 1) - i) for name in mine["name"]]
                axes.plot(mine["median"], y, "os"[i], color=PALETTE[i], markersize=4.5, label=label)
                axes.hlines(y, mine["low"], mine["high"], color=PALETTE[i], linewidth=1)
            axes.set_yticks([*places.values()], [*places])
            axes.set_ylim(-len(places) + 0.4, 0.6)
            if kind == SHARE:
                axes.set_xlim(left=0)
                axes.set_xlabel("share of the peak of matrix products")
                axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)  # above: points may lie anywhere
            else:
                axes.set_xscale("log")
                log_ticks(axes.xaxis, lambda value: f"{value:g}×")
                axes.axvline(1, color=GREY, linewidth=0.9)
                axes.set_xlabel("their time / ours (logarithmic)")
        return figure

    return Picture(
        "benchmark",
        "Speed on the machine of the benchmark",
        "Floating-point operations of a training step, as the accounting counts them, over the peak of matrix products measured "
        "in the same rounds; below, the time of other packages over ours for the same work. Points: medians; lines: quartiles "
        f"over {record['settings']['rounds']} rounds.",
        "Share of the machine's peak of each arm at two sizes, and time of other packages over ours.",
        table,
        draw,
    )
