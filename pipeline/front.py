"""The front page of a scale over all its studies, and the pages above the scales. Made from the records in `reports/` alone.

`--readme` also writes what was found into README.md and docs/laboratory.md, between their two marks.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection
from functools import cache
from pathlib import Path

from lolm import LolmError
from lolm.accounting.counting import Counting
from lolm.claims import Claim, merged_ledger, to_records
from lolm.claims.sentences import summary
from lolm.config import Params, arms_of, load_params
from lolm.records import Layout, write_json, write_text
from lolm.records.results import ScaleResults, load_external, load_run
from lolm.report.front import front_figures, front_markdown, front_page, laboratory_block, pointer, readme_block
from pipeline.report import UnresolvedError, load_study, present_scales, reported_studies
from pipeline.stage import main

README, LABORATORY = Path("README.md"), Path("docs/laboratory.md")
TRIAL = "smoke"  # the scale that tries the pipeline and no claim: git leaves its reports out, and no page leads there
BEGIN, END = "<!-- findings:begin -->\n", "<!-- findings:end -->"


def front() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", help="name of a preset under `scales`; default: every scale with records")
    parser.add_argument("--readme", action="store_true", help="write what was found at the scale of params.yaml into the pages")
    asked = parser.parse_args()
    params = load_params()
    scales = [asked.scale] if asked.scale else present_scales(params)
    for scale in scales:
        make(params, scale, scales, readme=asked.readme)


def make(params: Params, scale: str, made: Collection[str] = (), *, readme: bool = False) -> None:
    """Write the front page of a scale; of the selected one also the pages above the scales, but for a trial beside others.

    Args:
        made: scales whose front pages are made with it, so that it can lead there.
    """
    results = scale_results(params, scale)
    claims = merged_ledger(results, params, scale, counting=Counting(params), external=load_external())
    folder = Layout(scale).reports
    above = scale == params.scale and not (scale == TRIAL and _others(params, scale))
    write({folder: ""} | ({folder.parent: f"{scale}/"} if above else {}), params, scale, results, claims, made)
    if above:
        write_text(folder.parent / "report.html", pointer("index.html", "LOLM: what was claimed and what was measured"))
        if readme:
            for page, block in ((README, readme_block), (LABORATORY, laboratory_block)):
                write_text(page, with_block(page.read_text(encoding="utf-8"), block(scale, params, claims)))
    print(f"front page: {folder / 'index.html'}", *(f"{topic}. {said}" for topic, said in summary(claims).items()), sep="\n")


def scale_results(params: Params, scale: str) -> dict[str, ScaleResults]:
    """The results of every study of which a run was made at the scale, or at the one scale that the study is made for.

    Raises:
        UnresolvedError: an arm of the selected study cannot be made; other such studies are left out, and named.
    """
    sized, read_run = set(arms_of(params, scale)), cache(load_run)
    found: dict[str, ScaleResults] = {}
    for name, study in params.studies.items():
        if study.scale or set(study.arms) <= sized:
            try:
                found[name] = load_study(params, study.scale or scale, name, read_run)[0]
            except UnresolvedError as error:
                error.leave_out(params)
    return {name: results for name, results in found.items() if results.runs}


def write(
    places: dict[Path, str],
    params: Params,
    scale: str,
    results: dict[str, ScaleResults],
    claims: list[Claim],
    made: Collection[str] = (),
) -> None:
    """The three files of a front page in each folder; its value is the path from there to the studies' folders."""
    pages, figures = reported_studies(params, scale), front_figures(results, claims)
    others = [other for other in _others(params, scale) if other in made or (Layout(other).reports / "index.html").exists()]
    texts: dict[Path, str] = {}
    for folder, here in places.items():
        scales = {other: f"{'' if here else '../'}{other}/index.html" for other in others}
        texts[folder / "index.html"] = front_page(scale, params, results, claims, pages, figures, here, scales)
        texts[folder / "claims.md"] = front_markdown(scale, params, results, claims, pages, here)
    for path, text in texts.items():  # all are made before one is written
        write_text(path, text)
    for folder in places:
        write_json(folder / "claims.json", to_records(claims))


def _others(params: Params, scale: str) -> list[str]:
    return [other for other in present_scales(params) if other not in (scale, TRIAL)]


def with_block(text: str, block: str) -> str:
    """A page's text with another block between its marks.

    Raises:
        LolmError: the marks are not there, each once and in order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise LolmError(f"README.md and docs/laboratory.md need the lines {BEGIN.strip()} and {END}, each once and in this order")
    return text[: text.index(BEGIN) + len(BEGIN)] + block + text[text.index(END) :]


if __name__ == "__main__":
    main(front)
