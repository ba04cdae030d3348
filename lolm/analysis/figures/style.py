"""One look for every figure: what a picture is, its colours and labels, and SVG whose bytes depend on the data alone."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lolm.analysis.results import ScaleResults

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
    """A figure without a window system, and its axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, **kwargs)


def colours(results: ScaleResults) -> dict[str, tuple[str, Any]]:
    """Colour and dash of each arm: the subject first, then the baseline, then the others."""
    first = [arm for arm in (results.subject, results.baseline) if arm]
    order = [*first, *(arm for arm in results.arms if arm not in first)]
    return {arm: (PALETTE[i % len(PALETTE)], DASHES[i % len(DASHES)]) for i, arm in enumerate(order)}


def label_ends(axes: Axes, labels: Iterable[tuple[float, str, str]], size: float = 9) -> None:
    """Write labels (y, text, colour) beside the right end of an axis, pushed apart so that none overlap."""
    axes.get_figure(root=True).draw_without_rendering()  # type: ignore[union-attr]
    wanted = sorted(
        (axes.transAxes.inverted().transform(axes.transData.transform((0, y)))[1], text, colour) for y, text, colour in labels
    )
    height = axes.get_window_extent().height / axes.figure.dpi * 72
    gap = 1.25 * size / max(height, 1)
    placed = spread([min(max(y, 0.0), 1.0) for y, _, _ in wanted], gap)
    for (_, text, colour), y in zip(wanted, placed, strict=True):
        axes.annotate(
            text, (1.015, y), xycoords="axes fraction", va="center", ha="left", color=colour, fontsize=size, annotation_clip=False
        )


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


def mean_by(rows: Iterable[tuple[Any, float]]) -> tuple[list[Any], list[float]]:
    """Mean of values with the same key, keys ascending."""
    groups: dict[Any, list[float]] = {}
    for key, value in rows:
        groups.setdefault(key, []).append(value)
    keys = sorted(groups)
    return keys, [sum(groups[key]) / len(groups[key]) for key in keys]


def seeds_text(seeds: Sequence[int]) -> str:
    return "one seed" if len(seeds) == 1 else f"{len(seeds)} seeds"
