"""The ledger: each published claim beside our number under the published definition, a sound one, and a verdict."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from lolm.analysis.leaderboard import Entry
from lolm.claims import (
    components,
    dependency,
    dynamics,
    early,
    efficiency,
    gate,
    inversion,
    levels,
    outside,
    streams,
    training,
)
from lolm.claims.arithmetic import arithmetic
from lolm.claims.controls import with_controls
from lolm.claims.ledger import FAILS, GROUPS, HOLDS, UNTESTABLE, VERDICTS, Claim, Quantity, show, show_estimate
from lolm.records.results import ScaleResults

__all__ = ["GROUPS", "VERDICTS", "Claim", "Quantity", "build_ledger", "findings", "headline", "to_records", "with_figures"]


def build_ledger(results: ScaleResults) -> list[Claim]:
    """All entries, measured ones first; an arm that was not run makes its claims `not testable at this scale`, never an error."""
    sane = streams.sanity(results)
    published_pair = results if against_decoder(results) else _without_baseline(results)
    gates = gate.claims(results)
    reversal = next(claim for claim in gates if claim.id == "gate_reversal")
    measured = [
        *efficiency.claims(published_pair),
        *early.claims(published_pair),
        *gates,
        *dependency.claims(results),
        *inversion.claims(results),
        *components.claims(results),
        *streams.claims(results),
        *dynamics.claims(results, reversal),
        *training.claims(results),
        *levels.claims(results),
        *outside.claims(published_pair),
    ]
    measured = [with_controls(results, claim) for claim in measured]
    below_bigram = untrained(results, sane)
    if below_bigram:
        measured = [_withheld(claim, " and ".join(below_bigram)) for claim in measured]
    return [*measured, *sane, *arithmetic()]


def against_decoder(results: ScaleResults) -> bool:
    """Whether the declared baseline has no latent stream, as in every published comparison; so too where there is none."""
    if results.baseline is None:
        return True
    architecture = results.of(results.baseline)[0].config["run"]["architecture"]
    return architecture["family"] != "lolm" or architecture["latent"]["form"] == "none"


def _without_baseline(results: ScaleResults) -> ScaleResults:
    params = results.params
    study = replace(params.selected, baseline="")
    return replace(results, params=replace(params, studies=params.studies | {params.study: study}))


def with_figures(ledger: Sequence[Claim], drawn: Iterable[str]) -> list[Claim]:
    """The ledger without the figures that these results have no data for."""
    names = set(drawn)
    return [claim if claim.figure in names else replace(claim, figure=None) for claim in ledger]


def untrained(results: ScaleResults, ledger: Sequence[Claim]) -> list[str]:
    """Labels of the two compared arms that are shown not to beat a bigram model."""
    failed = {claim.id for claim in ledger if claim.group == "sanity" and claim.verdict == FAILS}
    return [results.label(arm) for arm in (results.subject, results.baseline) if arm and f"sanity_{arm}" in failed]


def _withheld(claim: Claim, arms: str) -> Claim:
    """The numbers of a claim without its verdict: models that know less than a bigram model are no test of anything."""
    if claim.verdict == UNTESTABLE:
        return claim
    why = f"Withheld: no better than a bigram model: {arms}. The rule alone would say: {claim.verdict}. {claim.why}"
    return replace(claim, verdict=UNTESTABLE, why=why)


def findings(results: ScaleResults, entries: Sequence[Entry], ledger: Sequence[Claim]) -> list[str]:
    """What was found, in a few sentences: the declared comparison first, then the whole field, then what may be read into it."""
    found: list[str] = []
    board = {entry.arm: entry for entry in entries}
    subject, baseline = board.get(results.subject or ""), board.get(results.baseline or "")
    if subject and baseline:
        ours, theirs = f"“{subject.label}”", f"“{baseline.label}”"
        published = " (published: 2×, in steps)" if against_decoder(results) else ""
        if subject.multiplier is None:
            found.append(
                f"To the same loss, the training FLOPs of {theirs} over those of {ours} cannot be measured without extrapolation"
                f"{published}."
            )
        else:
            found.append(
                f"To the same loss, {theirs} needs {show_estimate(subject.multiplier, 'x')} the training FLOPs of {ours}"
                f"{published}."
            )
        unmatched = efficiency.mismatch(results)
        if unmatched:
            found[-1] += f" {unmatched}."
        if baseline.comparison is not None:
            difference = baseline.comparison.difference.map(lambda nats: -nats)
            found.append(f"At equal tokens, test loss of {ours} minus {theirs}: {show_estimate(difference, 'nats')}.")
    ranked = [entry for entry in entries if entry.nats is not None]
    if len(ranked) > 2:
        best = ranked[0]
        text = f"Lowest mean test loss of {len(ranked)} arms: “{best.label}”, {show(best.nats.value, 'nats')}"  # type: ignore[union-attr]
        if subject in ranked and subject is not best:
            text += f"; “{subject.label}” is number {ranked.index(subject) + 1}"  # type: ignore[union-attr,arg-type]
        level = 1 - results.analysis.confidence
        compared = [entry.comparison for entry in ranked if entry.comparison is not None]
        shown = [c.difference.value for c in compared if not c.declared and c.p_value is not None and c.p_value < level]
        if compared:
            text += f". Shown to differ from the subject after Holm's correction: {len(shown)} of "
            text += f"{sum(not c.declared for c in compared)} other arms, {sum(d < 0 for d in shown)} of them better"
        found.append(text + ".")
    arms = untrained(results, ledger)
    if arms:
        named = " and ".join(f"“{arm}”" for arm in arms)
        found.append(f"No better than a bigram model: {named}. So every verdict on a measured claim is withheld.")
    elif len(results.seeds) == 1:
        found.append("One seed gives no interval, so no measured claim is decided.")
    else:
        found.append(_tally(ledger))
    return found


def decisive(ledger: Sequence[Claim]) -> list[Claim]:
    """The authors' measured claims with published numbers, one entry a fact: the one that decides for it."""
    measured = [claim for claim in ledger if claim.published and claim.group not in ("arithmetic", "sanity")]
    return [claim for claim in measured if claim.fact in (None, claim.id)]


def _tally(ledger: Sequence[Claim]) -> str:
    counted = decisive(ledger)
    supports = [claim for claim in counted if not claim.against]
    held, failed, admitted = (
        [claim.statement for claim in some if claim.verdict == verdict]
        for some, verdict in ((supports, HOLDS), (supports, FAILS), ([c for c in counted if c.against], HOLDS))
    )
    text = (
        f"Of the claims with published numbers, each fact counted once, {len(held)} in LOLM's favour "
        f"{'holds' if len(held) == 1 else 'hold'} here and {len(failed)} {'fails' if len(failed) == 1 else 'fail'}."
    )
    text += f" What holds: {' '.join(held)}" if held else ""
    return text + (f" What holds of what speaks against LOLM: {' '.join(admitted)}" if admitted else "")


def to_records(ledger: list[Claim]) -> list[dict[str, Any]]:
    """The ledger as ``claims.json`` holds it."""
    return [claim.as_record() for claim in ledger]


def headline(ledger: list[Claim]) -> dict[str, Any]:
    """Flat numbers for `dvc metrics show`: each measured claim's sound value, and the count of each verdict."""
    flat: dict[str, Any] = {f"verdicts/{verdict.split(' at')[0].replace(' ', '_')}": 0 for verdict in VERDICTS}
    for claim in ledger:
        if claim.group == "arithmetic":
            continue
        if claim.group != "sanity":
            flat[f"verdicts/{claim.verdict.split(' at')[0].replace(' ', '_')}"] += 1
        if claim.sound is not None and claim.sound.value is not None:
            flat[claim.id] = claim.sound.value
    return flat
