"""Ledgers: of one study, and of all studies of a scale."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lolm.claims.cost import Counting
from lolm.claims.decide import decide, withheld
from lolm.claims.entry import Entry
from lolm.claims.ledger import FAILS, HYBRIDS, NOT_RUN, Claim
from lolm.claims.measures.sanity import sanity
from lolm.claims.registry import ENTRIES, by_id
from lolm.claims.registry.arithmetic import arithmetic
from lolm.claims.registry.public import public
from lolm.config import Params
from lolm.records.results import ScaleResults
from lolm.records.schema import External

MODERN = "field"  # the study that holds the subject against the modern Transformer


def build_ledger(results: ScaleResults, entries: Sequence[Entry] = ENTRIES, counting: Counting | None = None) -> list[Claim]:
    """The ledger of one study: every claim of the registry, then the sanity of its arms, then the arithmetic.

    A study whose subject is no LOLM has no claims on LOLM, only those on hybrids and its arms' sanity; one on LOLM has
    none on them.

    Args:
        counting: what counts the FLOPs of runs that were not made; without it no cost stands beside a command.
    """
    sane = [decide(sanity(results, arm), results, {}) for arm in results.arms]
    lolm, known = has_lolm(results.params, results.study), by_id(entries)
    unable = untrained(results, sane)
    asked = [entry for entry in entries if lolm != (entry.group == HYBRIDS)]
    measured = [_unless(unable, decide(entry, results, known, counting)) for entry in asked]
    return [*measured, *sane, *(arithmetic() if lolm else ())]


def merged_ledger(
    results_by_study: Mapping[str, ScaleResults],
    params: Params,
    scale: str,
    entries: Sequence[Entry] = ENTRIES,
    counting: Counting | None = None,
    external: Mapping[str, External] | None = None,
) -> list[Claim]:
    """One ledger over all studies of a scale: each claim once, decided by the study that tests it.

    Where that study has no records, or lacks what the claim takes, another study of the same subject (and, where the claim is
    held against a baseline, of the same baseline) stands in for it, of several the one of most seeds; without one the claim is
    ``not run``. What is asked against both Transformers stands twice: against the published form, and as ``<id>_modern`` against
    the modern one.

    Args:
        results_by_study: the studies that were run, by name.
        counting: as of :func:`build_ledger`.
        external: what was measured on public models, by name.
    """
    known = by_id(entries)
    sane = {study: [decide(sanity(r, arm), r, {}) for arm in r.arms] for study, r in results_by_study.items()}
    unable = {study: untrained(results, sane[study]) for study, results in results_by_study.items()}

    by_seeds = sorted(results_by_study.values(), key=lambda results: (not results.missing, len(results.seeds)), reverse=True)

    def decided(entry: Entry) -> Claim:
        first: Claim | None = None
        for study in _candidates(entry, results_by_study, params, scale):
            results = results_by_study[study]
            others = [other for other in by_seeds if other is not results and other.scale == results.scale]
            claim = _unless(unable[study], decide(entry, results, known, counting, others))
            if claim.verdict != NOT_RUN:
                return claim
            first = first or claim
        return first or decide(entry, _nothing(entry, params, scale), known, counting)

    asked = [one for entry in entries for one in ((entry, modern(entry)) if entry.modern else (entry,))]
    arms: dict[str, Claim] = {}
    for claim in (claim for claims in sane.values() for claim in claims):  # of an arm of several studies: what most runs say
        arms[claim.id] = max(arms.get(claim.id, claim), claim, key=lambda one: (one.verdict != NOT_RUN, len(one.runs)))
    return [*map(decided, asked), *public(external or {}, params.analysis), *arms.values(), *arithmetic()]


def modern(entry: Entry) -> Entry:
    """The same claim against the modern Transformer, which is this project's: no published number is of it."""
    return replace(
        entry,
        id=f"{entry.id}_modern",
        statement=entry.modern,
        study=MODERN,
        published=(),
        stated=(),
        modern="",
        fact=entry.fact or entry.id,
    )


def has_lolm(params: Params, study: str) -> bool:
    """Whether the subject of a study is a LOLM."""
    subject = params.studies[study].subject if study in params.studies else params.selected.subject
    return params.architectures[subject].family == "lolm"


def _candidates(entry: Entry, results_by_study: Mapping[str, ScaleResults], params: Params, scale: str) -> list[str]:
    """Studies that can decide: the one that tests it, then those of most seeds, of these the one of which most was run.

    A study that is made for another scale stands in for none: runs here that it shares are another study's. Nor does one of fewer
    seeds where the study that tests it has all of its runs: it would show a part of them, chosen by what was measured.
    """
    asked, whole = params.studies.get(entry.study), results_by_study.get(entry.study)
    least = 0 if whole is None or {key.arm for key in whole.missing} & {*entry.arms(whole)} else len(whole.seeds)
    others = []
    for name, results in results_by_study.items():
        study = results.params.selected
        if name == entry.study or asked is None or asked.scale or study.scale or not params.is_made_for(name, scale):
            continue
        if len(study.seeds) >= least and study.subject == asked.subject and (not entry.pair or study.baseline == asked.baseline):
            others.append(name)
    size = {name: (len(results.params.selected.seeds), len(results.runs)) for name, results in results_by_study.items()}
    others.sort(key=size.__getitem__, reverse=True)
    return [*([entry.study] if entry.study in results_by_study else []), *others]


def _nothing(entry: Entry, params: Params, scale: str) -> ScaleResults:
    """The results of a study that was not run."""
    study = entry.study if entry.study in params.studies else params.study
    return ScaleResults(scale, params.select(params.studies[study].scale or scale, study), {}, ())


def untrained(results: ScaleResults, ledger: Sequence[Claim]) -> list[str]:
    """Labels of the two compared arms that are shown not to beat a bigram model."""
    failed = {claim.id for claim in ledger if claim.group == "sanity" and claim.verdict == FAILS}
    return [results.label(arm) for arm in (results.subject, results.baseline) if arm and f"sanity_{arm}" in failed]


def _unless(unable: Sequence[str], claim: Claim) -> Claim:
    return withheld(claim, " and ".join(unable)) if unable else claim


def to_records(ledger: Iterable[Claim]) -> list[dict[str, Any]]:
    """The ledger as ``claims.json`` holds it."""
    return [claim.to_record() for claim in ledger]
