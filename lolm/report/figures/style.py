"""One look for every figure: what a picture is, its colours and labels, and SVG whose bytes depend on the data alone."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lolm.analysis.statistics import Estimate, t_interval
from lolm.records.results import ScaleResults

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart by colour-blind readers; dashes tell arms apart in grey print.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (3, 1)), (0, (8, 2)))
GREY, FAINT = "#555555", "#8a8a8a"
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
    "svg.hashsalt": "lolm",
    "svg.fonttype": "none",
}


@dataclass(frozen=True)
class Picture:
    """A figure, what it shows in words, and the data it is drawn from.

    ``rows`` are the data behind it, one tuple per row in the order of ``columns``; ``draw`` makes the figure from the same rows.
    """

    name: str
    title: str
    caption: str
    alt: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    draw: Callable[[], Figure]

    @cached_property
    def svg(self) -> str:
        """The figure as an inline ``<svg>``, drawn once; ids are prefixed with the name, so that several can share a page."""
        import matplotlib

        with matplotlib.rc_context(STYLE):
            figure = self.draw()
            buffer = io.StringIO()
            figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        text = buffer.getvalue()
        text = text[text.index("<svg") :]
        text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.S)
        text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{self.name}-", text)
        return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"

    def csv(self) -> str:
        """The data behind the figure."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(["" if cell is None else cell for cell in row] for row in self.rows)
        return buffer.getvalue()


def new_figure(rows: int = 1, columns: int = 1, height: float = 3.0, **kwargs: Any) -> tuple[Figure, Any]:
    """A figure without a window system, and its axes; none with no rows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, **kwargs) if rows else None


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
    first = [arm for arm in (results.subject, results.baseline) if arm]
    others = [arm for arm in results.arms if arm not in first]
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
) -> None:
    """Write labels (y, text, colour) beside the right end of an axis, pushed apart so that none overlap.

    With ``x``, the positions of what is labelled, a thin line leads from there to its label. ``bold`` names the texts in bold.
    """
    axes.get_figure(root=True).draw_without_rendering()  # type: ignore[union-attr]
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
        axes.annotate(
            text,
            (start, y),
            xycoords="axes fraction",
            va="center",
            ha="left",
            color=colour,
            fontsize=size,
            fontweight="bold" if text in strong else "normal",
            annotation_clip=False,
        )
        if x is not None:
            leader: dict[str, Any] = {"color": colour, "linewidth": 0.5, "alpha": 0.7, "clip_on": False, "zorder": 1}
            axes.plot((points[i][0], start - 0.005), (points[i][1], y), transform=axes.transAxes, **leader)


def band(axes: Axes, x: Sequence[float], estimates: Sequence[Estimate], look: Look) -> None:
    """Intervals of means along a line as a band, where all have one."""
    ends = [found.interval for found in estimates]
    if all(end is not None for end in ends):
        axes.fill_between(x, [e[0] for e in ends], [e[1] for e in ends], color=look.colour, alpha=0.15, linewidth=0)  # type: ignore[index]


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


def reference_line(axes: Axes, level: float, text: str, dash: Any = (0, (1, 2))) -> None:
    """A thin horizontal line with its name on it."""
    axes.axhline(level, color=FAINT, linewidth=0.9, linestyle=dash, zorder=0)
    if text:
        axes.annotate(
            text,
            (0.985, level),
            xycoords=("axes fraction", "data"),
            xytext=(0, 2),
            textcoords="offset points",
            ha="right",
            fontsize=9,
            color=GREY,
        )


def estimates_by(rows: Iterable[tuple[Any, float]], confidence: float) -> tuple[list[Any], list[Estimate]]:
    """Mean with its interval of values with the same key, keys ascending."""
    groups: dict[Any, list[float]] = {}
    for key, value in rows:
        groups.setdefault(key, []).append(value)
    keys = sorted(groups)
    return keys, [t_interval(groups[key], confidence) for key in keys]


def mean_by(rows: Iterable[tuple[Any, float]]) -> tuple[list[Any], list[float]]:
    """Mean of values with the same key, keys ascending."""
    groups: dict[Any, list[float]] = {}
    for key, value in rows:
        groups.setdefault(key, []).append(value)
    keys = sorted(groups)
    return keys, [sum(groups[key]) / len(groups[key]) for key in keys]


def seeds_text(seeds: Sequence[int]) -> str:
    return "one seed" if len(seeds) == 1 else f"{len(seeds)} seeds"
