"""Rows of the files that texts and tasks are passed around in: lines of UTF-8, JSONL and Parquet; errors name file and place."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from lolm import one_line
from lolm.data.errors import DataError
from lolm.records import parse_json


def _open_zstd(path: Path, mode: str) -> IO[bytes]:
    import pyarrow as pa  # which datasets are read with too

    return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path), mode), "zstd"))  # type: ignore[type-var, return-value]


OPENERS: dict[str, Callable[..., Any]] = {".xz": lzma.open, ".gz": gzip.open, ".bz2": bz2.open, ".zst": _open_zstd}
ROWS = 1024  # of a Parquet file, in memory at a time
MEND = "mend that, or take the file away"
BOM = b"\xef\xbb\xbf"


def decode(raw: bytes, where: str) -> str:
    """Text without its byte order mark; raises DataError at ``where`` for other bytes than UTF-8."""
    try:
        return raw.removeprefix(BOM).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 at byte {error.start}; convert it, for example with iconv") from None


def read_lines(path: Path, skip: int = 0) -> Iterator[tuple[int, str]]:
    """Number, from 1, and text of every line that is not blank, compressed or not, but for the first ``skip`` of them.

    A line ends at a newline alone: what else Unicode takes for the end of a line stands in texts.

    Raises:
        DataError: bytes that are not UTF-8 (names the line), or a compressed file that is broken.
    """
    place = [0]
    with _opened(path, place) as file:
        for place[0], raw in enumerate(file, 1):
            if raw.removeprefix(BOM).strip() and (skip := skip - 1) < 0:
                yield place[0], decode(raw, f"{path}: line {place[0]}").rstrip("\r\n")


def read_whole(path: Path) -> str:
    """A file's text, compressed or not; raises DataError as :func:`read_lines`."""
    with _opened(path, [0]) as file:
        return decode(file.read(), str(path))


@contextmanager
def _opened(path: Path, line: list[int]) -> Iterator[IO[bytes]]:
    """A file, unpacked by its suffix; where it is broken the error says after which line."""
    try:
        with OPENERS.get(path.suffix.lower(), open)(path, "rb") as file:
            yield file
    except (lzma.LZMAError, zlib.error, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError(f"{path}: the compressed file is broken after line {line[0]} ({one_line(error)}); {MEND}") from None


def read_jsonl(path: Path, skip: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number of the line and object of every row, as :func:`read_lines`; raises DataError also for a line that is none."""
    for number, line in read_lines(path, skip):
        try:
            row = parse_json(line)
        except ValueError as error:
            raise DataError(f"{path}: line {number} is not valid JSON ({getattr(error, 'msg', error)}); {MEND}") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}: line {number} is not a JSON object; {MEND}")
        yield number, row


def read_parquet(
    path: Path, skip: int = 0, columns: Callable[[list[str]], list[str] | None] = lambda names: None
) -> Iterator[dict[str, Any]]:
    """Rows of a Parquet file after the first ``skip``.

    Args:
        columns: of those that there are, those that are read; None: all.

    Raises:
        DataError: it is not a whole one.
    """
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            used = columns(file.schema_arrow.names)
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if skip < rows:
                    for batch in file.iter_batches(ROWS, row_groups=[group], columns=used):
                        yield from batch.slice(min(skip, len(batch))).to_pylist()
                        skip = max(0, skip - len(batch))
                else:
                    skip -= rows
    except MemoryError:
        raise
    except Exception as error:  # of pyarrow, and of what makes Python's values of its own; they have no common class
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError(f"{path}: not a readable Parquet file ({one_line(error)}); {MEND}") from error
