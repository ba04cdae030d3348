"""What a figure is: an entry of the registry, and the picture it gives of a study's results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd

from lolm.claims.numbers import show_level
from lolm.records.escape import csv_text
from lolm.records.results import ScaleResults
from lolm.report.figures.style import between, svg_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Picture:
    """A figure, what it shows in words, and the table it is drawn from."""

    name: str
    title: str
    caption: str
    alt: str
    table: pd.DataFrame = field(repr=False)
    draw: Callable[[], Figure] = field(repr=False)

    @cached_property
    def svg(self) -> str:
        """The figure under its title as an inline ``<svg>``, drawn once."""

        def titled() -> Figure:
            figure = self.draw()
            figure.suptitle(self.title, x=0.01, ha="left", fontsize=11, fontweight="bold")
            return figure

        return svg_of(titled, self.name)

    def csv(self) -> str:
        """The table, empty where nothing was measured."""
        return csv_text(self.table)


@dataclass(frozen=True)
class FigureEntry:
    """A figure of the report: one entry of :data:`lolm.report.figures.FIGURES` and the function that draws it.

    Attributes:
        table: makes the data (:mod:`lolm.report.tables`); without a row the figure is left out.
        draw: from that table, read by column, and the results (for labels, looks and margins).
        caption, alt: below the figure, and for those who do not see it; words in braces are those of :func:`words`.
        needs: what must have been measured, in words: the reason why it is left out.
    """

    name: str
    title: str
    table: Callable[[ScaleResults], pd.DataFrame]
    draw: Callable[[pd.DataFrame, ScaleResults], Any]
    caption: str
    alt: str
    needs: str

    def picture(self, results: ScaleResults) -> Picture | None:
        """The figure of these results; None if they have no data for it."""
        table = self.table(results)
        if table.empty:
            return None
        said = words(results, table)
        caption, alt = self.caption.format(**said), self.alt.format(**said)
        return Picture(self.name, self.title, caption, alt, table, lambda: self.draw(table, results))


def words(results: ScaleResults, table: pd.DataFrame) -> dict[str, str]:
    """What captions may name: arms, seeds, level of intervals, what those cover that a figure takes from its points (``own``),
    margin of S, steps of the sweeps, tokens of the losses during training and of those of trivial models on the same split."""
    steps = [sweep.steps for sweep in results.sweeps.values()]
    level, seeds = show_level(results.analysis.confidence), _seeds(results, table)
    scored = [run.evaluation.subset_tokens or run.evaluation.tokens for run in results.runs if run.evaluation is not None]
    return {
        "subject": results.label(results.subject) if results.subject else "the subject",
        "baseline": results.label(results.baseline) if results.baseline else "the baseline",
        "arms": ", ".join(map(results.label, results.arms)),
        "seeds": "one seed, which gives no interval" if max(seeds) == 1 else f"{between(seeds)} seeds",
        "level": level,
        "own": f"{level} intervals of seeds alone, by each arm's own variance",
        "margin": f"{results.analysis.inversion_margin:g}",
        "type_margin": f"{results.analysis.type_margin:g}",
        "sweep_steps": f"{max(steps):,}" if steps else "no",
        "training_tokens": between([run.header.run.training.eval_tokens for run in results.runs]),
        "reference_tokens": between(scored),
    }


def _seeds(results: ScaleResults, table: pd.DataFrame) -> list[int]:
    """How many seeds each arm has in a table; of one without seeds, in the results."""
    if "seed" not in table:
        return [len(results.of(arm)) for arm in results.arms]
    rows = table.dropna(subset=["seed"])
    groups = [mine for _, mine in rows.groupby("arm")] if "arm" in table else [rows]
    return [mine["seed"].nunique() for mine in groups]
