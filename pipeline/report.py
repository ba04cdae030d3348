"""Pages of studies: leaderboard, ledger, figures with the data behind them. Made from the records in `reports/` alone.

With `--study` the page of that study, without `--scale` at the scale of params.yaml and wherever it has a page; without
`--study`, again every page that exists at the scale (without `--scale`: at every scale) and the benchmark's figure.
"""

from __future__ import annotations

import argparse
import json
from functools import cache
from pathlib import Path
from typing import Any

from lolm import one_line
from lolm.accounting.counting import Counting
from lolm.accounting.resolve import resolve_run
from lolm.analysis.leaderboard import leaderboard, metrics, table
from lolm.claims import Claim, build_ledger, to_records
from lolm.config import ConfigError, Params, RunConfig, load_params
from lolm.records import Layout, RunKey, atomic_folder, read_mapping, recorded_scales, write_json, write_text
from lolm.records.escape import csv_text
from lolm.records.results import ScaleResults, load_results, load_run
from lolm.report.figures import pictures
from lolm.report.figures.benchmark import FORM, speed
from lolm.report.study import curves, headline, own_claims, study_markdown, study_page
from pipeline.headline import ReadRun, write_headline
from pipeline.stage import main, refuse_other_scale

BENCHMARK = Path("reports") / "benchmark.json"  # of `make bench`, of one scale


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--scale", help="name of a preset under `scales` in params.yaml")
    parser.add_argument("--study", help="name under `studies` in params.yaml")


def report(asked: argparse.Namespace | None = None) -> None:
    if asked is None:
        arguments(parser := argparse.ArgumentParser(description=__doc__))
        asked = parser.parse_args()
    params, read_run = load_params(), cache(load_run)
    counting = Counting(params)
    chosen = params.select(asked.scale, asked.study)  # refuses what is not there
    if asked.study and asked.scale:
        refuse_other_scale(chosen)
    if not asked.study and BENCHMARK.exists():
        draw_benchmark(read_mapping(BENCHMARK, **FORM))
    scales = [asked.scale] if asked.scale else page_scales(params, asked.study)
    for scale in scales:
        studies = [asked.study] if asked.study else reported_studies(params, scale)
        for study in studies:
            try:
                make(params, scale, study, read_run, counting)
            except UnresolvedError as error:
                error.leave_out(chosen)
        if not studies:
            print(f"report: no study has a page at scale {scale}; --study makes one")
        if asked.study:  # as a stage: runs that DVC took from its cache show up in MLflow too
            from lolm.tracking import try_sync_scale

            try_sync_scale(scale)
    if not scales:
        of = f" of study {asked.study}" if asked.study else ""
        places = " or ".join(params.scales_for(asked.study) or [params.scale]) if asked.study else "any scale"
        print(f"report: nothing to make{of}: no records at {places}")


def make(params: Params, scale: str, study: str, read_run: ReadRun = load_run, counting: Counting | None = None) -> list[Claim]:
    """Write everything that is reported of one study; returns its ledger."""
    results, stale = load_study(params, scale, study, read_run)
    for run in results.runs:
        write_headline(Layout(scale), run.key, results.analysis, read_run)  # its settings may be newer than the measurements
        for stage in run.stale:
            print(f"report: {stage} of {run.key} is of another model, and left out")
    drawn, entries = pictures(results), leaderboard(results)
    ledger = build_ledger(results, counting=counting or Counting(params))
    benchmark = read_mapping(BENCHMARK, **FORM) if BENCHMARK.exists() else None
    if benchmark and benchmark["settings"]["scale"] != scale:
        benchmark = None  # of models of other sizes
    timings = speed(benchmark) if benchmark else None
    texts = {
        "report.html": study_page(results, ledger, [*drawn, *([timings] if timings else [])], stale, benchmark),
        "claims.md": study_markdown(results, ledger, stale),
        "leaderboard.csv": table(entries) if entries else "",
        "leaderboard.json": json.dumps(metrics(entries), indent=2, allow_nan=False) + "\n",  # in order, not sorted by key
        "learning_curves.csv": csv_text(curves(results)),
    }
    for picture in drawn:
        texts[f"figures/{picture.name}.svg"], texts[f"tables/{picture.name}.csv"] = picture.svg, picture.csv()
    folder = Layout(scale).study(study)
    with atomic_folder(folder) as whole:  # all of a report or none of it
        for name, text in texts.items():
            write_text(whole / name, text)
        write_json(whole / "claims.json", to_records(own_claims(results, ledger)))
        write_json(whole / "summary.json", headline(results, entries, ledger))
    print(f"report: {folder / 'report.html'}")
    return ledger


def draw_benchmark(record: dict[str, Any], path: Path = BENCHMARK) -> None:
    """The figure of a benchmark's record with the table behind it, where it has something to show, under the record's name."""
    if (picture := speed(record)) is not None:
        write_text(path.parent / "figures" / f"{path.stem}.svg", picture.svg)
        write_text(path.parent / "figures" / f"{path.stem}.csv", picture.csv())


class UnresolvedError(ConfigError):
    """An arm of a study cannot be made at the sizes of now.

    Attributes:
        study: of the arm.
    """

    def __init__(self, scale: str, study: str, arm: str, error: ConfigError) -> None:
        super().__init__(*error.problems)
        self.study, self._said = study, f"study {study} is left out at scale {scale}, for its arm {arm}: {one_line(error)}"

    def leave_out(self, chosen: Params) -> None:
        """Say that the study is left out; raises it where the study is the chosen one."""
        if self.study == chosen.study:
            raise self
        print(self._said)


def load_study(
    params: Params, scale: str, study: str, read_run: ReadRun = load_run, *, over_scales: bool = True
) -> tuple[ScaleResults, list[RunKey]]:
    """Results of the runs that were made under the present parameters, and the keys of those made under others.

    Raises:
        UnresolvedError: an arm has no configuration under the present parameters.
    """
    selected = params.select(scale, study).selected
    expected: dict[str, RunConfig] = {}
    for arm in selected.arms:
        try:
            expected[arm] = resolve_run(params, scale, arm, selected.seeds[0])
        except ConfigError as error:
            raise UnresolvedError(scale, study, arm, error) from None
    results = load_results(Path(), scale, params, study, expected, read_run, over_scales=over_scales)
    return results, [key for key in results.missing if Layout(scale).train(*key).exists()]


def present_scales(params: Params) -> list[str]:
    """Scales of params.yaml that have records or reports, in its order."""
    recorded = recorded_scales()
    return [scale for scale in params.scales if scale in recorded]


def page_scales(params: Params, study: str | None) -> list[str]:
    """Scales with records at which pages are made: all; of a study those that it is made for, or that of params.yaml and where it
    has a page."""
    present = present_scales(params)
    if study is None:
        return present
    made_for = params.scales_for(study)
    return [s for s in present if s in made_for or (not made_for and (s == params.scale or study in reported_studies(params, s)))]


def reported_studies(params: Params, scale: str) -> list[str]:
    """Studies that have a page at a scale."""
    return [name for name in params.studies if (Layout(scale).study(name) / "report.html").exists()]


if __name__ == "__main__":
    main(report)
