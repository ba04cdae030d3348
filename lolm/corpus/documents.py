"""Documents, and the Parquet files that hold those of a split."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lolm import one_line
from lolm.data.errors import DataError
from lolm.records import made_by, read_json, sha256_of

SPLITS = ("train", "validation", "test")
ROW_GROUP_BYTES = 32_000_000  # text held in memory at a time


@dataclass(frozen=True)
class Document:
    """A text with its id (unique in the corpus), the set it comes from, and its licence ("" when unknown)."""

    id: str
    source: str
    licence: str
    text: str


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The report that lies with a corpus; raises RecordError when the corpus was not made, DataError when it lacks numbers."""
    path = Path(folder) / "manifest.json"
    manifest = read_json(path)
    try:
        sound = isinstance(manifest.get("sha256", {}), dict) and all(
            type(manifest["splits"][split][key]) is int for split in SPLITS for key in ("documents", "bytes")
        )
    except (KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise DataError(f"{path}: lacks the splits' numbers; delete its folder and run `{made_by(path)}`")
    return manifest


def part_of(folder: str | Path, split: str, number: int) -> Path:
    """File of a part of a split; what fits one part is in ``<split>.parquet`` alone."""
    return Path(folder) / (f"{split}-{number:05d}.parquet" if number else f"{split}.parquet")


def iterate_split(folder: str | Path, split: str) -> Iterator[Document]:
    """The documents of one split in order, a row group in memory at a time.

    Raises:
        DataError: a file is missing or broken, or its bytes are not those whose SHA-256 the manifest has.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    finished = (Path(folder) / "manifest.json").exists()
    digests = read_manifest(folder).get("sha256", {}) if finished else {}
    later = (int(path.stem.rpartition("-")[2]) for path in Path(folder).glob(f"{split}-*.parquet"))
    for number in range(max(later, default=0) + 1):
        path = part_of(folder, split, number)
        try:
            if digests and sha256_of(path) != digests.get(path.name):
                raise DataError(f"{path}: its bytes are not those that were written; delete its folder and run `{made_by(path)}`")
            with pq.ParquetFile(path) as file:
                for group in range(file.num_row_groups):
                    for row in file.read_row_group(group).to_pylist():
                        yield Document(**row)
        except FileNotFoundError:
            raise DataError(f"{path}: no such file; run `{made_by(path)}` to make it") from None
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            said = one_line(error)
            raise DataError(f"{path}: not a whole Parquet file ({said}); delete its folder and run `{made_by(path)}`") from None


class DocumentWriter:
    """Parquet file of documents whose bytes depend on the documents alone."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._schema = pa.schema([(name, pa.string()) for name in ("id", "source", "licence", "text")])
        self._sink = open(path, "wb")  # noqa: SIM115
        self._file = pq.ParquetWriter(self._sink, self._schema, compression="zstd", use_dictionary=["source", "licence"])
        self._rows: list[Document] = []
        self._bytes = 0

    def add(self, document: Document, size: int) -> None:
        """Append a document of ``size`` bytes."""
        self._rows.append(document)
        self._bytes += size
        if self._bytes >= ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._rows:
            table = pa.Table.from_pylist([vars(row) for row in self._rows], schema=self._schema)
            self._file.write_table(table, row_group_size=len(self._rows))
        self._rows, self._bytes = [], 0

    def close(self) -> None:
        """Write what is pending and the footer, all the way to the disk."""
        self._flush()
        self._file.close()
        self._sink.flush()
        os.fsync(self._sink.fileno())
        self._sink.close()
