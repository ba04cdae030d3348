"""Whether a recorded run is one of the present parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from lolm.config import RunConfig
from lolm.records.identity import fingerprint_of
from lolm.records.layout import Layout
from lolm.records.schema import DataChecksums
from lolm.records.store import from_record, read_mapping


@dataclass(frozen=True)
class Expected:
    """What a run must have been made from to count.

    Attributes:
        runs: by arm, its resolved configuration, whose seed and learning rate are not looked at; None: whatever was recorded.
        rates: by arm, the learning rate that a sweep chose for it; of an arm without one any counts.
        data: of the present text; None: any.
    """

    runs: Mapping[str, RunConfig] | None
    rates: Mapping[str, float]
    data: DataChecksums | None = None

    def counts(self, run: RunConfig, data: DataChecksums | None) -> bool:
        rate = run.size.learning_rate
        if self.rates.get(run.arm, rate) != rate:
            return False
        if self.runs is None:
            return True
        wanted = self.runs.get(run.arm)
        if wanted is None or self.data not in (None, data):
            return False
        size = replace(wanted.size, learning_rate=rate)
        return fingerprint_of(run) == fingerprint_of(replace(wanted, seed=run.seed, size=size))


def data_recorded(layout: Layout) -> DataChecksums | None:
    """Checksums of a scale's splits by the record of its shards; None where that has none, as before they were taken.

    Raises:
        RecordError: the record is broken.
    """
    path = layout.shards_record
    found = read_mapping(path).get("checksums") if path.exists() else None
    return None if found is None else from_record(DataChecksums, found, path)
