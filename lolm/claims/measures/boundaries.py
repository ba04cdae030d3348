"""At the boundaries of a text: the gate, the latent share and LOLM's lead there, against all later positions."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

from lolm.analysis.statistics import t_interval
from lolm.claims.entry import Context, NotRun, Reading
from lolm.claims.ledger import Quantity
from lolm.records.results import RunRecord
from lolm.records.schema import Boundary

TRANSITIONS = ("paragraph", "document")  # where a discourse moves on; a sentence ends everywhere
KINDS = ("sentence", *TRANSITIONS)
Read = Callable[[Boundary], float | None]


def mean_near(run: RunRecord, read: Read, kinds: Collection[str], tokens: int) -> float | None:
    """Mean over the first ``tokens`` predictions since a boundary of one of the kinds; None where not measured."""
    return _mean(run, read, lambda row: row.kind in kinds and row.last is not None and row.last <= tokens)


def mean_far(run: RunRecord, read: Read, tokens: int) -> float | None:
    """Mean over all predictions that are farther from the last boundary, of whatever kind."""
    return _mean(run, read, lambda row: row.first > tokens)


def _mean(run: RunRecord, read: Read, wanted: Callable[[Boundary], bool]) -> float | None:
    rows = [(row.tokens, read(row)) for row in (run.ablation.boundaries if run.ablation else ()) if wanted(row)]
    if not rows or any(value is None for _, value in rows):
        return None
    return math.fsum(n * value for n, value in rows if value is not None) / sum(n for n, _ in rows)


def _change(run: RunRecord, read: Read, kinds: Collection[str], tokens: int) -> float | None:
    near, far = mean_near(run, read, kinds, tokens), mean_far(run, read, tokens)
    return None if near is None or far is None else near - far


def turn(context: Context) -> Reading:
    """Latent share just after a discourse transition minus that elsewhere; as published, one minus the mean gate."""
    runs, tokens = context.subject(), context.analysis.boundary_tokens

    def change(read: Read, kinds: Collection[str]) -> list[float] | None:
        found = [_change(run, read, kinds, tokens) for run in runs]
        return None if None in found else found  # type: ignore[return-value]

    share, gate = (change(read, TRANSITIONS) for read in (_share, _not_gate))
    if share is None or gate is None:
        raise NotRun("the boundaries of the text were not scored in these runs, or the subject has no gate")
    details = {}
    for name, read, kinds in (
        *((f"latent share, {kind}", _share, (kind,)) for kind in KINDS),
        ("damage without the latent branch", _damage, TRANSITIONS),
    ):
        found = change(read, kinds)
        if found is not None:
            unit = "nats" if read is _damage else "points"
            details[name] = Quantity.of(t_interval(found, context.confidence), unit, "just after a boundary minus elsewhere")
    share_of, gate_of = (t_interval(values, context.confidence) for values in (share, gate))
    return Reading(share_of, gate_of, runs, values={"tokens": tokens}, details=details)


def lead_there(context: Context) -> Reading:
    """LOLM's lead in loss just after a boundary minus its lead elsewhere, paired by seed."""
    tokens, pairs = context.analysis.boundary_tokens, context.pairs()

    def change(kinds: Collection[str]) -> list[float] | None:
        found = [[_change(run, _nats, kinds, tokens) for run in pair] for pair in pairs]
        return None if any(None in pair for pair in found) else [base - mine for mine, base in found]  # type: ignore[operator]

    every = change(KINDS)
    if every is None:
        raise NotRun("the boundaries of the text were not scored in both arms")
    by_kind = {kind: change((kind,)) for kind in KINDS}
    return Reading(
        t_interval(every, context.confidence),
        runs=[run for pair in pairs for run in pair],
        values={"tokens": tokens},
        details={
            kind: Quantity.of(t_interval(found, context.confidence), "nats", f"the same after the start of a {kind}")
            for kind, found in by_kind.items()
            if found is not None
        },
    )


def _share(row: Boundary) -> float | None:
    return row.share


def _not_gate(row: Boundary) -> float | None:
    return None if row.gate is None else 1 - row.gate


def _damage(row: Boundary) -> float | None:
    return row.damage_latent


def _nats(row: Boundary) -> float | None:
    return row.nats
