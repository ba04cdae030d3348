"""The ledger: each published claim beside our number under the published definition, a sound one, and a verdict.

A claim is an entry of :mod:`lolm.claims.registry`: data, with a measure from :mod:`lolm.claims.measures` and a rule from
:mod:`lolm.claims.rules`.
"""

from __future__ import annotations

from lolm.claims.build import build_ledger, merged_ledger, to_records
from lolm.claims.ledger import Claim

__all__ = ["Claim", "build_ledger", "merged_ledger", "to_records"]
