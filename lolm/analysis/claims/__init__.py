"""The ledger: each published claim beside our number under the published definition, a sound one, and a verdict."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lolm.analysis.claims import efficiency, gate, inversion, streams
from lolm.analysis.claims.arithmetic import arithmetic
from lolm.analysis.claims.ledger import FAILS, GROUPS, UNTESTABLE, VERDICTS, Claim, Quantity
from lolm.analysis.results import ScaleResults

__all__ = ["GROUPS", "VERDICTS", "Claim", "Quantity", "build_ledger", "headline", "to_records"]


def build_ledger(results: ScaleResults) -> list[Claim]:
    """All entries, measured ones first; an arm that was not run makes its claims `not testable at this scale`, never an error."""
    sane = streams.sanity(results)
    measured = [*efficiency.claims(results), *gate.claims(results), *inversion.claims(results), *streams.claims(results)]
    compared = {f"sanity_{arm}" for arm in (results.subject, results.baseline) if arm}
    untrained = [claim.statement.split(":")[0] for claim in sane if claim.id in compared and claim.verdict == FAILS]
    if untrained:
        measured = [_withheld(claim, " and ".join(untrained)) for claim in measured]
    return [*measured, *sane, *arithmetic()]


def _withheld(claim: Claim, arms: str) -> Claim:
    """The numbers of a claim without its verdict: models that know less than a bigram model are no test of anything."""
    if claim.verdict == UNTESTABLE:
        return claim
    why = (
        f"Verdict withheld, since {arms} had too little training to beat a bigram model. The rule alone would say: "
        f"{claim.verdict}. {claim.why}"
    )
    return replace(claim, verdict=UNTESTABLE, why=why)


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
