"""The study over sizes and budgets: one law L(N, D) for each arm over the scales of `budgets` in params.yaml, and what follows.

Writes ``reports/budgets/`` from the records that there are, and names what is missing. With ``--run`` the runs of each scale are
made first, in the order of the file, and what is there is written after each; then the front pages. A run whose records are whole
is not made again where its weights are not here, as in a clone. Other arguments are the runner's. The same command goes on.
Where ``budgets`` names no scale, what stands there is removed.
"""

from __future__ import annotations

import argparse
import sys
from functools import cache

from lolm.accounting.count import account_run
from lolm.accounting.counting import Counting
from lolm.accounting.resolve import resolve_run
from lolm.analysis.budgets import Published, budgets, refuse_incomparable
from lolm.analysis.scaling import ScalingError
from lolm.claims.cost import needs
from lolm.config import Params, load_params
from lolm.records import Layout, budgets_record, write, write_text
from lolm.records.results import load_run
from lolm.records.schema import Budgets
from lolm.report.budgets import budgets_page
from lolm.report.figures.budgets import budgets_picture
from pipeline import front
from pipeline.environment import RECORDED
from pipeline.jobs import foreground
from pipeline.report import load_study
from pipeline.run import child_environment
from pipeline.stage import main

PUBLISHED = {"20m": "lolm_v0", "149m": "lolm_v0", "304m": "lolm_published", "1570m": "lolm_published"}


def study() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="store_true", help="make the runs first")
    asked, others = parser.parse_known_args()
    if others and not asked.run:
        parser.error(f"{' '.join(others)}: goes with --run, and is the runner's")
    params = load_params()
    if not params.budgets:
        remove(".json", ".md", ".svg", ".csv")
        print("budgets: params.yaml names no scale")
        return
    check(params)
    for scale, name in params.budgets.items() if asked.run else ():
        words = [sys.executable, "-m", "pipeline.run", "--scale", scale, "--study", name, *others]
        status = foreground(words, child_environment() | {RECORDED: "1"})  # a law reads no weights
        record = make(params)
        if status:
            raise ScalingError(f"scale {scale!r} of `budgets` failed with status {status}; the reason stands above")
        print(f"budgets: {record.made} of {record.asked} runs")
    record = make(params)
    shown = [scale for scale in (params.scale, *params.budgets) if Layout(scale).reports.exists()]
    for scale in shown if asked.run else ():
        front.make(params, scale, shown)
    rest = "" if not record.missing else f" of {record.asked}; `make budgets` goes on"
    print(f"budgets: {budgets_record().with_suffix('.md')}, over {record.made} runs{rest}" if record.made else "budgets: not run")


def make(params: Params) -> Budgets:
    """Write the record, its page, figure and table; before the first run there is none, nor one of runs that no longer count."""
    read_run = cache(load_run)
    results = [load_study(params, scale, name, read_run, over_scales=False)[0] for scale, name in params.budgets.items()]
    price = needs(params, "", next(iter(params.budgets.values())), Counting(params))
    record = budgets(results, published(params), price.training_flops or 0.0)
    drawn, path = budgets_picture(record, params), budgets_record()
    if record.made:
        write(path, record)
        write_text(path.with_suffix(".md"), budgets_page(record, params, "budgets.svg" if drawn else None))
    else:
        remove(".json", ".md")
    if drawn:
        write_text(path.with_suffix(".svg"), drawn.svg)
        write_text(path.with_suffix(".csv"), drawn.csv())
    else:
        remove(".svg", ".csv")
    return record


def remove(*suffixes: str) -> None:
    """Remove files of an earlier record that nothing stands behind any more."""
    for suffix in suffixes:
        budgets_record().with_suffix(suffix).unlink(missing_ok=True)


def check(params: Params) -> None:
    """Raises ConfigError where no run can be made or compared, before hours go into the first one."""
    designs = [params.select(scale, name) for scale, name in params.budgets.items()]
    refuse_incomparable(designs)
    for design in designs:
        for arm in design.selected.arms:
            resolve_run(design, design.scale, arm, 0)


def published(params: Params) -> list[Published]:
    """The published models that params.yaml has, each at the tokens that were planned for it."""
    counting, found = Counting(params), []
    for scale, arm in PUBLISHED.items():
        if scale in params.scales and arm in params.architectures:
            run = counting.resolve(scale, arm)
            tokens = run.training.steps * run.training.tokens_per_step
            found.append(Published(scale, account_run(run).parameters.total, tokens))
    return found


if __name__ == "__main__":
    main(study)
