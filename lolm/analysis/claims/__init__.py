"""The ledger: each published claim beside our number under the published definition, a sound one, and a verdict."""

from __future__ import annotations

from typing import Any

from lolm.analysis.claims import efficiency, gate, inversion, streams
from lolm.analysis.claims.arithmetic import arithmetic
from lolm.analysis.claims.ledger import GROUPS, VERDICTS, Claim, Quantity
from lolm.analysis.results import ScaleResults

__all__ = ["GROUPS", "VERDICTS", "Claim", "Quantity", "build_ledger", "headline", "to_records"]


def build_ledger(results: ScaleResults) -> list[Claim]:
    """All entries, measured ones first; an arm that was not run makes its claims `not testable at this scale`, never an error."""
    return [
        *efficiency.claims(results),
        *gate.claims(results),
        *inversion.claims(results),
        *streams.claims(results),
        *streams.sanity(results),
        *arithmetic(),
    ]


def to_records(ledger: list[Claim]) -> list[dict[str, Any]]:
    """The ledger as ``claims.json`` holds it."""
    return [claim.as_record() for claim in ledger]


def headline(ledger: list[Claim]) -> dict[str, Any]:
    """Flat numbers for `dvc metrics show`: each measured claim's sound value, and the count of each verdict."""
    flat: dict[str, Any] = {f"verdicts/{verdict.split(' at')[0].replace(' ', '_')}": 0 for verdict in VERDICTS}
    for claim in ledger:
        if claim.group == "arithmetic":
            continue
        flat[f"verdicts/{claim.verdict.split(' at')[0].replace(' ', '_')}"] += 1
        if claim.sound is not None and claim.sound.value is not None:
            flat[claim.id] = claim.sound.value
    return flat
