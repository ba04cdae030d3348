"""The registry: every claim once, as data. To add one, add an entry to the file of its group."""

from __future__ import annotations

from collections.abc import Iterable

from lolm.claims.entry import Entry
from lolm.claims.registry import (
    boundaries,
    budgets,
    components,
    efficiency,
    gate,
    hybrids,
    inversion,
    levels,
    outside,
    streams,
    training,
)

ENTRIES: tuple[Entry, ...] = (
    *efficiency.ENTRIES,
    *gate.ENTRIES,
    *inversion.ENTRIES,
    *components.ENTRIES,
    *streams.ENTRIES,
    *training.ENTRIES,
    *levels.ENTRIES,
    *outside.ENTRIES,
    *hybrids.ENTRIES,
    *budgets.ENTRIES,
    *boundaries.ENTRIES,
)


def by_id(entries: Iterable[Entry]) -> dict[str, Entry]:
    """Entries by their ids.

    Raises:
        ValueError: an id stands twice.
    """
    found: dict[str, Entry] = {}
    for entry in entries:
        if entry.id in found:
            raise ValueError(f"two claims have the id {entry.id}")
        found[entry.id] = entry
    return found
