"""How many seeds each measured claim would need, from the variance that the committed runs show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lolm.analysis.statistics import seeds_needed, t_interval
from lolm.claims.entry import Entry
from lolm.claims.ledger import DECIDED, Claim, Quantity
from lolm.claims.rules import Above, Below, Between, Within, resolve
from lolm.config import AnalysisConfig


@dataclass(frozen=True)
class PowerRow:
    """A claim's number, the threshold it is nearest to, and seeds for the test of their difference; None: more than a thousand.

    Attributes:
        distance: between them, and ``sd`` over seeds; of ratios in ln.
    """

    claim: str
    verdict: str
    quantity: Quantity
    threshold: float
    distance: float
    sd: float
    seeds: int | None


def power_rows(ledger: Sequence[Claim], entries: dict[str, Entry], analysis: AnalysisConfig) -> list[PowerRow]:
    """The measured claims of a ledger, those that need most seeds last.

    The effect is taken to be what was measured and the standard deviation that over these few seeds, so a number of seeds is an
    order of magnitude. Claims on equality are left out: for them the margin decides, not a difference.
    """
    rows = []
    for claim in ledger:
        found, entry = claim.sound, entries.get(claim.id)
        if entry is None or found is None or claim.verdict not in DECIDED or len(found.per_seed) < 2:
            continue
        if isinstance(entry.rule, Within):
            continue
        ends = _thresholds(entry, found, analysis)
        ratio = found.unit == "x" and min(found.per_seed) > 0
        scale = math.log if ratio else float
        values = t_interval([scale(value) for value in found.per_seed])
        distance, threshold = min((abs(values.value - scale(end)), end) for end in ends)
        sd = (values.error or 0.0) * math.sqrt(values.n)
        if sd:
            needed = seeds_needed(sd, distance, analysis.confidence, analysis.power)
            rows.append(PowerRow(claim.id, claim.verdict, found, threshold, distance, sd, needed))
    return sorted(rows, key=lambda row: (row.seeds is None, row.seeds))


def _thresholds(entry: Entry, found: Quantity, analysis: AnalysisConfig) -> list[float]:
    """Of the entry's rule; where the measure decides: no difference."""
    if isinstance(entry.rule, Above | Below):
        return [resolve(entry.rule.at, analysis)]
    if isinstance(entry.rule, Between):
        return [resolve(entry.rule.low, analysis), resolve(entry.rule.high, analysis)]
    return [1.0 if found.unit == "x" else 0.0]
