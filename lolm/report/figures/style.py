"""One look for every figure: colours, labels, marks of means and intervals, and SVG whose bytes depend on the data alone."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import escape

from lolm.analysis.statistics import Estimate, t_interval
from lolm.records.results import ScaleResults

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart by colour-blind readers; dashes tell arms apart in grey print.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (3, 1)), (0, (8, 2)))
GREY, FAINT = "#555555", "#8a8a8a"
GRID: dict[str, Any] = {"color": "#e6e6e6", "linewidth": 0.7}
MARGIN: dict[str, Any] = {"color": "#ececec", "zorder": 0}  # the band inside which S counts as 0
WIDTH = 7.4  # inches
STYLE: dict[Any, Any] = {
    "font.size": 9.5,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "axes.titlesize": 10,
    "axes.labelsize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.edgecolor": GREY,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.solid_capstyle": "round",
    "text.parse_math": False,  # a label may have dollar signs
    "svg.hashsalt": "lolm",
    "svg.fonttype": "none",
}


ARM = "arm:"  # begins the id of what is drawn for one arm


def svg_of(draw: Callable[[], Figure], name: str) -> str:
    """A figure as an inline ``<svg>``; ids are prefixed with the name, so that several can share a page.

    What is drawn for an arm (:func:`of_arm`) carries its name as ``data-arm``; ``data-values`` holds :func:`values`.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    with matplotlib.rc_context(STYLE):
        buffer, figure = io.StringIO(), draw()
        canvas = FigureCanvasSVG(figure)  # whose texts the layout measures
        lay_out(figure)
        figure.set_layout_engine("none")
        canvas.print_svg(buffer, metadata={"Date": None, "Creator": None})  # `savefig` draws twice, once for the layout
        shown = escape(json.dumps(values(figure), ensure_ascii=False, separators=(",", ":")))
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(rf'\bid="{ARM}([^:"]*):([^"]*)"', r'data-arm="\1" data-label="\2"', text)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = text.replace("<svg ", f'<svg data-values="{shown}" ', 1)
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def values(figure: Figure) -> list[dict[str, Any]]:
    """What a page shows under the pointer: of each panel the names of its axes and, of every line of data, its arm, its arm's
    label and its points: where they lie in the drawing and what they are worth. The figure is laid out as it was saved."""
    height, panels = figure.bbox.height, []
    for axes in figure.axes:
        lines = []
        for line in axes.lines:
            x, y = np.asarray(line.get_xydata(), dtype=float).reshape(-1, 2).T
            inside = [i for i in range(len(x)) if _within(x[i], axes.get_xlim()) and _within(y[i], axes.get_ylim())]
            if line.get_transform() != axes.transData or not inside or len(x) > 1000:
                continue
            _, arm, label = f"{line.get_gid() or ''}::".split(":", 2)
            places = axes.transData.transform([(x[i], y[i]) for i in inside])
            points = [
                [round(float(across), 1), round(float(height - up), 1), float(f"{x[i]:.5g}"), float(f"{y[i]:.5g}")]
                for i, (across, up) in zip(inside, places, strict=True)
            ]
            lines.append([arm, label.rstrip(":"), points])
        if lines:
            names = (
                [label.get_text() for label in axes.get_yticklabels()] if axes.yaxis.get_tick_params().get("length") == 0 else []
            )
            shared = (axes.get_shared_x_axes().get_siblings(axes), axes.get_shared_y_axes().get_siblings(axes))
            x_name = next(filter(None, [other.get_xlabel() for other in (axes, *shared[0])]), figure.get_supxlabel())
            y_name = next(filter(None, [other.get_ylabel() for other in (axes, *shared[1])]), figure.get_supylabel())
            title = " ".join(axes.get_title(loc="left").split())
            panels.append({"title": title, "x": x_name, "y": y_name, "rows": names, "lines": lines})
    return panels


def _within(value: float, limits: tuple[float, float]) -> bool:
    low, high = sorted(limits)
    return bool(low <= value <= high)


@contextmanager
def of_arm(axes: Axes, results: ScaleResults, arm: str) -> Iterator[None]:
    """What is drawn inside is an arm's: the page can switch it off, and names it under the pointer."""
    before = set(axes.get_children())
    yield
    for artist in axes.get_children():
        if artist not in before:
            artist.set_gid(f"{ARM}{arm}:{results.label(arm)}")


def new_figure(rows: int = 1, columns: int = 1, height: float = 3.0, **kwargs: Any) -> tuple[Figure, Any]:
    """A figure without a window system, and its axes; none with no rows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), dpi=72, layout="constrained")  # as SVG has it
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, **kwargs) if rows else None


def lay_out(figure: Any) -> None:
    """Give axes the places and limits that they are drawn with, without drawing anything."""
    figure.get_layout_engine().execute(figure)


OTHERS = (*PALETTE[2:], "#7F6000", "#6A3D9A", "#4D7EA8", "#9C3D54")  # arms beside subject and baseline, reused when they run out


@dataclass(frozen=True)
class Look:
    """How an arm is drawn everywhere: subject and baseline in bold, the others thinner the more there are."""

    colour: str
    dash: Any
    width: float
    bold: bool

    @property
    def order(self) -> int:
        return 4 if self.bold else 3


def looks(results: ScaleResults) -> dict[str, Look]:
    """Look of each arm: the subject first, then the baseline, then the others."""
    return looks_of(results.subject, results.baseline, results.arms)


def looks_of(subject: str | None, baseline: str | None, arms: Iterable[str]) -> dict[str, Look]:
    """:func:`looks` of arms by name."""
    first = [arm for arm in (subject, baseline) if arm]
    others = [arm for arm in arms if arm not in first]
    found = {arm: Look(PALETTE[i], DASHES[i], 2.1, True) for i, arm in enumerate(first)}
    width = 1.5 if len(others) <= 4 else 0.9
    for i, arm in enumerate(others):
        found[arm] = Look(OTHERS[i % len(OTHERS)], DASHES[i // len(OTHERS) % len(DASHES)], width, False)
    return found


def label_room(count: int, least: float, size: float = 9) -> float:
    """Height of a figure with one panel, in inches, whose right edge takes that many labels."""
    return max(least, 1.3 * size / 72 * count + 0.8)


def label_ends(
    axes: Axes,
    labels: Iterable[tuple[float, str, str]],
    size: float = 9,
    x: Sequence[float] | None = None,
    bold: Iterable[str] = (),
    ids: Mapping[str, str] | None = None,
) -> None:
    """Write labels (y, text, colour) beside the right end of an axis, pushed apart so that none overlap.

    With ``x``, the positions of what is labelled, a thin line leads from there to its label. ``bold`` names the texts in bold,
    ``ids`` the id of what belongs to a text.
    """
    lay_out(axes.get_figure(root=True))
    to_axes = axes.transData + axes.transAxes.inverted()
    labels = list(labels)
    points = [to_axes.transform((0 if x is None else x[i], y)) for i, (y, _, _) in enumerate(labels)]
    order = sorted(range(len(labels)), key=lambda i: points[i][1])
    height = axes.get_window_extent().height / axes.figure.dpi * 72
    gap = 1.25 * size / max(height, 1)
    placed = spread([min(max(points[i][1], 0.0), 1.0) for i in order], gap)
    placed = [max(y, gap * i) for i, y in enumerate(placed)]  # beside the panel, not below it
    placed = [min(y, 1 - gap * i) for i, y in zip(range(len(placed) - 1, -1, -1), placed, strict=True)]
    start = 1.015 if x is None else 1.045
    strong = set(bold)
    for i, y in zip(order, placed, strict=True):
        _, text, colour = labels[i]
        gid = (ids or {}).get(text)
        axes.annotate(
            text, (start, y), xycoords="axes fraction", va="center", ha="left", color=colour, fontsize=size,
            fontweight="bold" if text in strong else "normal", annotation_clip=False, gid=gid,
        )  # fmt: skip
        if x is not None:
            leader: dict[str, Any] = {"color": colour, "linewidth": 0.5, "alpha": 0.7, "clip_on": False, "zorder": 1}
            axes.plot((points[i][0], start - 0.005), (points[i][1], y), transform=axes.transAxes, gid=gid, **leader)


def band(axes: Axes, x: Sequence[float], estimates: Sequence[Estimate], colour: str) -> None:
    """Intervals of means along a line as a band, where all have one."""
    ends = [found.interval for found in estimates]
    if all(end is not None for end in ends):
        axes.fill_between(x, [e[0] for e in ends], [e[1] for e in ends], color=colour, alpha=0.15, linewidth=0)  # type: ignore[index]


def log_ticks(axis: Any, form: Callable[[float], str], base: int = 10) -> None:
    """Few ticks on a logarithmic axis, in the size of all other text: matplotlib's own have small exponents."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    subs = (1.0, 2.0, 5.0) if base == 10 else (1.0,)
    axis.set_major_locator(LogLocator(base=base, subs=subs, numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: form(value)))
    axis.set_minor_formatter(NullFormatter())


def scientific(value: float) -> str:
    """``2e11``: short, for FLOPs."""
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Ascending positions moved as little as possible until neighbours are ``gap`` apart: crowded ones share their mean."""
    blocks: list[tuple[float, int]] = []  # (centre, members)
    for position in wanted:
        blocks.append((position, 1))
        while len(blocks) > 1 and blocks[-1][0] - blocks[-2][0] < gap * (blocks[-1][1] + blocks[-2][1]) / 2:
            (a, n), (b, m) = blocks[-2:]
            blocks[-2:] = [((a * n + b * m) / (n + m), n + m)]
    return [centre + gap * (i - (size - 1) / 2) for centre, size in blocks for i in range(size)]


def reference_lines(axes: Axes, levels: Mapping[str, float], dash: Any = (0, (1, 2)), place: float = 0.985) -> None:
    """Thin horizontal lines with their names on them, at a share of the width; names of lines that lie close are pushed apart.

    To be called when the limits of the axes are final; lines outside them are left out.
    """
    low, high = sorted(axes.get_ylim())
    inside = sorted((level, name) for name, level in levels.items() if low <= level <= high)
    lay_out(axes.get_figure(root=True))
    to_axes = axes.transData + axes.transAxes.inverted()
    height = axes.get_window_extent().height / axes.figure.dpi * 72
    wanted = [to_axes.transform((0, level))[1] + 2 / height for level, _ in inside]
    for (level, name), y in zip(inside, spread(wanted, 11 / height), strict=True):
        axes.axhline(level, color=FAINT, linewidth=0.9, linestyle=dash, zorder=0)
        side = "right" if place > 0.6 else "center" if place > 0.4 else "left"
        axes.annotate(name, (place, y), xycoords="axes fraction", ha=side, va="bottom", fontsize=9, color=GREY)


def estimates(table: pd.DataFrame, by: Any, value: str, confidence: float) -> tuple[list[Any], list[Estimate]]:
    """Mean with its interval of a column's values that share a key (of one or more columns), keys ascending."""
    groups = table.dropna(subset=[value]).groupby(by, sort=True)[value]
    found = {key: t_interval(group.tolist(), confidence) for key, group in groups}
    return list(found), list(found.values())


def stated(table: pd.DataFrame, value: str, confidence: float) -> Estimate | None:
    """Mean of a column with the interval that its table states, ``low`` to ``high`` in each row; None without a value."""
    values = table[value].dropna().tolist()
    low, high = table[["low", "high"]].iloc[0].astype(float)
    interval = None if math.isnan(low) or math.isnan(high) else (float(low), float(high))
    return Estimate(fmean(values), interval, len(values), tuple(values), confidence) if values else None


def over_seeds(table: pd.DataFrame, value: str, confidence: float) -> Estimate | None:
    """Mean of a column over all rows with its interval; None where no row has a value."""
    values = table[value].dropna().tolist()
    return t_interval(values, confidence) if values else None


def means(table: pd.DataFrame, by: str, value: str) -> tuple[list[Any], list[float]]:
    """Mean of a column's values that share a key, keys ascending."""
    keys, found = estimates(table, by, value, 0.5)
    return keys, [e.value for e in found]


def seed_lines(axes: Axes, table: pd.DataFrame, x: str, y: str, colour: str, **kwargs: Any) -> None:
    """A thin line for each seed."""
    for _, line in table.dropna(subset=[y]).groupby("seed"):
        axes.plot(line[x].astype(float), line[y], color=colour, **({"linewidth": 0.6, "alpha": 0.5} | kwargs))


Ends = list[tuple[float, float, str, str]]  # x, y, text, colour of what is labelled beside an axis


def arm_lines(
    axes: Axes,
    results: ScaleResults,
    table: pd.DataFrame,
    x: str,
    y: str,
    *,
    by: str | None = None,
    marker: bool = False,
    intervals: str = "band",
) -> Ends:
    """The mean of ``y`` over seeds against that of ``x``, a line an arm; rows are joined over seeds by the column ``by`` (``x``).

    ``intervals`` is ``band``, ``bars`` or empty; they are drawn for subject and baseline, and for all where arms are few.
    Returns the lines' ends, for :func:`label_arms`.
    """
    look, ends = looks(results), []
    for arm, style in look.items():
        mine = table[table["arm"] == arm]
        if mine.empty:
            continue
        keys, found = estimates(mine, by or x, y, results.analysis.confidence)
        places = [float(key) for key in keys] if by is None else means(mine, by, x)[1]
        centres = [e.value for e in found]
        size = (4.5 if style.bold else 3) if marker else 0
        with of_arm(axes, results, arm):
            axes.plot(
                places, centres, color=style.colour, linewidth=style.width, linestyle=style.dash, zorder=style.order,
                marker="o" if marker else None, markersize=size,
            )  # fmt: skip
            if style.bold or len(look) <= 4:
                if intervals == "band":
                    band(axes, places, found, style.colour)
                for place, e in zip(places, found, strict=True) if intervals == "bars" else ():
                    if e.interval:
                        axes.plot((place, place), e.interval, color=style.colour, linewidth=1, zorder=style.order)
        ends.append((places[-1], centres[-1], results.label(arm), style.colour))
    return ends


def label_arms(axes: Axes, results: ScaleResults, ends: Ends) -> None:
    """Names of arms beside the right end of an axis, subject and baseline in bold."""
    strong = [results.label(arm) for arm, style in looks(results).items() if style.bold]
    ids = {text: f"{ARM}{arm}:{results.label(arm)}" for _, _, text, _ in ends if (arm := _arm_of(text, results))}
    label_ends(axes, [end[1:] for end in ends], x=[end[0] for end in ends], bold=strong, ids=ids)


def _arm_of(text: str, results: ScaleResults) -> str | None:
    """The arm whose label a text is, or begins with, before a comma."""
    found = [arm for arm in results.arms if f"{text},".startswith(f"{results.label(arm)},")]
    return max(found, key=lambda arm: len(results.label(arm)), default=None)


def bar(axes: Axes, y: float, found: Estimate, colour: str, bold: bool = False, marker: str = "o") -> None:
    """A mean with its interval and its seeds on one line."""
    if found.interval:
        axes.plot(found.interval, (y, y), color=colour, linewidth=3.2 if bold else 1.8, alpha=0.9, zorder=3)
    axes.plot(found.per_seed, [y] * found.n, "|", color=colour, markersize=8, alpha=0.6, zorder=3)
    axes.plot(found.value, y, marker, color=colour, markersize=7 if bold else 5, zorder=4)


def named_lines(axes: Axes, names: Sequence[str], bold: Sequence[str] = ()) -> None:
    """Named horizontal lines, the first at the top."""
    axes.set_yticks(range(len(names)), list(reversed(names)))
    axes.tick_params(axis="y", length=0, labelcolor="black")
    for label in axes.get_yticklabels():
        if label.get_text() in bold:
            label.set_fontweight("bold")
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.grid(axis="y", **GRID)
    axes.set_axisbelow(True)


def between(values: Sequence[int]) -> str:
    """``200 to 2,000``: the ends of some whole numbers, once where they agree; ``no`` without any."""
    return " to ".join(f"{value:,}" for value in dict.fromkeys((min(values), max(values)))) if values else "no"
