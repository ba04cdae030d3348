"""How many seeds each measured claim would need, from the variance that the committed runs show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lolm.analysis.statistics import seeds_needed, t_interval
from lolm.claims.ledger import DECIDED, Claim, Quantity
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


def power_rows(ledger: Sequence[Claim], analysis: AnalysisConfig) -> list[PowerRow]:
    """The measured claims of a ledger that one number decides against a threshold, those that need most seeds last.

    The effect is taken to be what was measured and the standard deviation that over these few seeds, so a number of seeds is an
    order of magnitude. Each is tested at its own level, which is higher where it is corrected for others. Left out are claims on
    equality, where the margin decides and no difference, and those that several numbers decide together.
    """
    rows = []
    for claim in ledger:
        found = claim.judged
        if found is None or not claim.judged_at or claim.verdict not in DECIDED or len(found.per_seed) < 2:
            continue
        ratio = found.unit == "x" and min(found.per_seed) > 0
        scale = math.log if ratio else float
        values = t_interval([scale(value) for value in found.per_seed])
        distance, threshold = min((abs(values.value - scale(end)), end) for end in claim.judged_at)
        sd = (values.error or 0.0) * math.sqrt(values.n)
        if sd:
            needed = seeds_needed(sd, distance, found.confidence, analysis.power)
            rows.append(PowerRow(claim.id, claim.verdict, found, threshold, distance, sd, needed))
    return sorted(rows, key=lambda row: (row.seeds is None, row.seeds))
