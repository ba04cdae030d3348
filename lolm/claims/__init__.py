"""The ledger: each published claim beside our number under the published definition, a sound one, and a verdict.

A claim is an entry of :mod:`lolm.claims.registry`: data, with a measure from :mod:`lolm.claims.measures` and a rule from
:mod:`lolm.claims.rules`.
"""

from __future__ import annotations

from lolm.claims.build import build_ledger, has_lolm, merged_ledger, to_records, untrained
from lolm.claims.entry import Entry
from lolm.claims.ledger import (
    FAILS,
    GROUPS,
    HOLDS,
    INCONCLUSIVE,
    NOT_RUN,
    UNTESTABLE,
    VERDICTS,
    Claim,
    Control,
    Quantity,
    decisive,
)
from lolm.claims.sentences import findings

__all__ = [
    "FAILS",
    "GROUPS",
    "HOLDS",
    "INCONCLUSIVE",
    "NOT_RUN",
    "UNTESTABLE",
    "VERDICTS",
    "Claim",
    "Control",
    "Entry",
    "Quantity",
    "build_ledger",
    "decisive",
    "findings",
    "has_lolm",
    "merged_ledger",
    "to_records",
    "untrained",
]
