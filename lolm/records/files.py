"""Records of a run: the files that everything else (reports, MLflow, notebooks) is filled from.

``metrics.jsonl``
    One JSON object a line: ``step``, ``tokens``, ``flops``, ``seconds`` of training so far, and any number of values under
    ``prefix/name`` keys (``train/``, ``val/``, ``gate/``, ``regime/``, ``speed/``; ``annealed/`` where a learning-rate schedule
    ended: at the run's own end, and at those of its annealed copies).
``config.json``, ``summary.json``
    The resolved configuration with its fingerprint, and the last values.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lolm import LolmError

AXES = ("step", "tokens", "flops", "seconds")


class RecordError(LolmError):
    """A record file that is missing, cut short or not what it should be."""


def write_text(path: str | Path, text: str) -> None:
    """Write a file whole or not at all: to a temporary name, flushed, then renamed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Give an empty folder beside ``path`` to write into; it takes the place of ``path`` when the block ends well.

    When the block raises, nothing is left behind and an older ``path`` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON with sorted keys, whole or not at all. NaN and infinity are refused (ValueError)."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read JSON; raises RecordError naming the file when it is missing or broken."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecordError(f"{path}: no such record; run `dvc repro` to make it") from None
    except json.JSONDecodeError as error:
        raise RecordError(f"{path}: not valid JSON ({error}); delete it and run `dvc repro`") from None


def read_metrics(path: str | Path) -> list[dict[str, float]]:
    """All lines of a ``metrics.jsonl`` by ascending step; raises RecordError naming file and line of a broken one.

    The ends of annealed copies stand at the end of the file, and get their place among the steps here.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise RecordError(f"{path}: no such record; run `dvc repro` to make it") from None
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            raise RecordError(f"{path}: line {number} is not valid JSON; the file was cut short") from None
        missing = [axis for axis in AXES if axis not in row]
        if missing:
            raise RecordError(f"{path}: line {number} has no {', '.join(missing)}")
        rows.append(row)
    return sorted(rows, key=lambda row: row["step"])


def series(rows: list[dict[str, float]], key: str, axis: str = "step") -> tuple[list[float], list[float]]:
    """The points of one metric: (positions on the axis, values), in the order of the rows."""
    points = [(row[axis], row[key]) for row in rows if key in row]
    return [p[0] for p in points], [p[1] for p in points]


class MetricsWriter:
    """Appends lines to ``metrics.jsonl``; reopening truncates to the length stored in the checkpoint.

    A line that was written after the last checkpoint belongs to steps which a resumed run makes again, so it is dropped.
    """

    def __init__(self, path: str | Path, length: int = 0) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        mode = "r+b" if self.path.exists() else "w+b"
        self._file = open(self.path, mode)  # noqa: SIM115 - lives as long as the run
        size = self._file.seek(0, os.SEEK_END)
        if size < length:
            raise RecordError(f"{self.path}: {size} bytes, but the checkpoint has seen {length}; delete the scratch folder")
        self._file.truncate(length)
        self._file.seek(length)

    def write(self, row: dict[str, float]) -> None:
        for key, value in row.items():
            if not math.isfinite(value):
                raise RecordError(f"{self.path}: {key} is {value} at step {row.get('step')}")
        self._file.write(json.dumps(row).encode() + b"\n")

    def flush(self) -> int:
        """Make what was written durable; returns the file's length for the checkpoint."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        self.flush()
        self._file.close()


def sha256_of(path: str | Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint_of(*parts: Any) -> str:
    """Short hash (16 hex digits) of JSON-able parts: what identifies a run by its configuration, data and code."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
