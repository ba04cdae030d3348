"""The metric series of a run: one JSON object a line.

Each line has ``step``, ``tokens``, ``flops`` and ``seconds`` of training so far, and any number of values under ``prefix/name``
keys: ``train/``, ``val/``, ``gate/``, ``regime/``, ``speed/``, ``system/``; ``annealed/`` where a learning-rate schedule ended,
at the run's own end and at those of annealed copies. While a run trains it is ``metrics.jsonl``, to which lines are appended;
that of a finished run is ``metrics.jsonl.xz``.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

from lolm.records.files import RecordError, named
from lolm.records.store import make_again, parse_json, read_text, write_text

START_AGAIN = "delete the scratch folder, and the run begins anew"
AXES = ("step", "tokens", "flops", "seconds")

Row = dict[str, float]


def read_series(path: str | Path) -> list[Row]:
    """All lines by ascending step; raises RecordError naming file and line of a broken one.

    The ends of annealed copies stand at the end of the file, and get their place among the steps here.
    """
    return sorted(read_rows(path), key=lambda row: row["step"])


def read_rows(path: str | Path) -> list[Row]:
    """All lines in the order they were written; raises RecordError naming file and line of a broken one."""
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        try:
            row = parse_json(line)
        except ValueError:
            raise RecordError(f"{path}: line {number} is not valid JSON: the file was cut short; {make_again(path)}") from None
        if not isinstance(row, dict) or not all(type(value) in (int, float) for value in row.values()):
            raise RecordError(f"{path}: line {number} is no mapping of names to numbers; {make_again(path)}")
        missing = [axis for axis in AXES if axis not in row]
        if missing:
            raise RecordError(f"{path}: line {number} has no {', '.join(missing)}; {make_again(path)}")
        rows.append(row)
    return rows


def write_rows(path: str | Path, rows: Sequence[Row]) -> None:
    """Write a whole series, in the order of the rows."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def points(rows: Sequence[Row], key: str, axis: str = "step") -> tuple[list[float], list[float]]:
    """The points of one metric: (positions on the axis, values), in the order of the rows."""
    found = [(row[axis], row[key]) for row in rows if key in row]
    return [p[0] for p in found], [p[1] for p in found]


class SeriesWriter:
    """Appends lines to ``metrics.jsonl``; reopening truncates to the length stored in the checkpoint.

    A line that was written after the last checkpoint belongs to steps which a resumed run makes again, so it is dropped.
    """

    def __init__(self, path: str | Path, length: int = 0, checksum: int | None = None) -> None:
        """
        Args:
            length: bytes to keep.
            checksum: CRC-32 of these bytes, by :meth:`flush`; None where it is not known.

        Raises:
            RecordError: the file is shorter, or its bytes are others.
        """
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        mode = "r+b" if self.path.exists() else "w+b"
        self._file = open(self.path, mode)  # noqa: SIM115 - lives as long as the run
        with named(self.path):
            kept = self._file.read(length)
        if len(kept) < length:
            raise RecordError(f"{self.path}: {len(kept)} bytes, but the checkpoint has seen {length}; {START_AGAIN}")
        self._checksum = zlib.crc32(kept)
        if checksum not in (None, self._checksum):
            raise RecordError(f"{self.path}: its bytes are not those that the checkpoint has seen; {START_AGAIN}")
        self._file.truncate(length)
        self._file.seek(length)

    def write(self, row: Row) -> None:
        for key, value in row.items():
            if not math.isfinite(value):
                raise RecordError(f"{self.path}: {key} is {value} at step {row.get('step')}; lower the learning rate")
        line = json.dumps(row).encode() + b"\n"
        with named(self.path):
            self._file.write(line)
        self._checksum = zlib.crc32(line, self._checksum)

    def flush(self) -> tuple[int, int]:
        """Make what was written durable; returns the file's length and its CRC-32 for the checkpoint."""
        with named(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())
        return self._file.tell(), self._checksum

    def close(self) -> None:
        self.flush()
        self._file.close()
