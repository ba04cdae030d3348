"""Leaderboard, claims ledger, figures with the data behind them, and the page a person reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from lolm.analysis.leaderboard import leaderboard, metrics, table
from lolm.claims import build_ledger, headline, to_records, with_figures
from lolm.records import read_json, write_json, write_text
from lolm.records.results import load_results
from lolm.report.figures import pictures
from lolm.report.figures.benchmark import speed
from lolm.report.page import html, markdown
from lolm.tracking import try_sync_scale
from pipeline.stage import Paths, arguments, main


def report() -> None:
    scale = arguments(__doc__).scale
    results = load_results(Path("."), scale)
    drawn, entries = pictures(results), leaderboard(results)
    ledger = with_figures(build_ledger(results), (picture.name for picture in drawn))
    measured = Path("reports") / "benchmark.json"  # of `make bench`, where it was run
    benchmark = read_json(measured) if measured.exists() else None
    timings = speed(benchmark) if benchmark else None
    texts = {
        "report.html": html(results, ledger, [*drawn, *([timings] if timings else [])], benchmark),
        "claims.md": markdown(results, ledger),
        "leaderboard.csv": table(entries),
        "leaderboard.json": json.dumps(metrics(entries), indent=2, allow_nan=False) + "\n",  # in order, not sorted by key
    }
    for picture in drawn:
        texts[f"figures/{picture.name}.svg"], texts[f"figures/{picture.name}.csv"] = picture.svg, picture.csv()
    curves = {picture.name: picture for picture in drawn}.get("learning_curves")
    if curves is not None:
        texts["learning_curves.csv"] = curves.csv()
    # Everything is made before anything is written, so that an error leaves the last report as it was.
    folder = Paths(scale).study(results.study)
    shutil.rmtree(folder / "figures", ignore_errors=True)
    for name, text in texts.items():
        write_text(folder / name, text)
    write_json(folder / "claims.json", to_records(ledger))
    write_json(folder / "summary.json", headline(ledger))
    for claim in ledger:
        print(f"{claim.verdict:>26}  {claim.statement}")
    print(f"report: {folder / 'report.html'}")
    try_sync_scale(scale)


if __name__ == "__main__":
    main(report)
