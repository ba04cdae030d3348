"""Flat token files, read through memory maps; :mod:`lolm.corpus.shards` writes them and describes the layout."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np

from lolm import one_line
from lolm.data.errors import DataError
from lolm.records import RecordError, made_by, read_json, sha256_of

DTYPES = ("uint16", "uint32")  # of token ids


class TokenStream:
    """One split as one long sequence of token ids, read from memory-mapped shards.

    Attributes:
        split: its name.
        vocab_size: number of ids, V.
        eos_id: id after each document.
        n_bytes: UTF-8 bytes of the split's text.
        token_bytes: (V,) int32, UTF-8 bytes of text that each id stands for, 0 for control ids.
        document_starts: (n_documents,) int64, position of each document's first token.
        checksum: SHA-256 over the shards' checksums, as the index has them.
    """

    def __init__(self, folder: Path, split: str, index: dict[str, Any]) -> None:
        entry = index["splits"][split]
        self.split = split
        self.vocab_size: int = index["vocab_size"]
        self.eos_id: int = index["eos_id"]
        self.n_bytes: int = entry["n_bytes"]
        self.token_bytes = _load_array(folder / "token_bytes.npy", self.vocab_size)
        if checksum_of(self.token_bytes) != index["token_bytes_sha256"]:
            raise _damaged(folder / "token_bytes.npy", "not what was written")
        self._folder = folder
        self._shards = entry["shards"]
        if index["dtype"] not in DTYPES:  # NumPy evaluates names of types
            raise _damaged(folder / "index.json", f"dtype is {index['dtype']!r}, not {' or '.join(DTYPES)}")
        dtype = np.dtype(index["dtype"]).newbyteorder("<")
        self._maps = [_map(folder / shard["file"], shard["tokens"], dtype) for shard in self._shards]
        self._starts = np.cumsum([0] + [shard["tokens"] for shard in self._shards])
        self.document_starts = _load_array(folder / split / "documents.npy", entry["n_documents"])
        self.checksum = hashlib.sha256("".join(shard["sha256"] for shard in self._shards).encode()).hexdigest()

    @classmethod
    def open(cls, folder: str | Path, split: str) -> TokenStream:
        """Open a split and check that every file is there and of its length; :meth:`verify` checks the bytes too.

        Raises:
            DataError: no such split, or a file that is missing or cut short, by name.
        """
        folder = Path(folder)
        try:
            index = read_json(folder / "index.json")
        except RecordError as error:
            raise DataError(str(error)) from None
        splits = index.get("splits") if isinstance(index, dict) else None
        if not isinstance(splits, dict) or split not in splits:
            raise _damaged(folder / "index.json", f"no split {split!r}; it has {', '.join(splits or ['none'])}")
        try:
            for shard in index["splits"][split]["shards"]:
                if not re.fullmatch(rf"{re.escape(split)}/[0-9]+\.bin", shard["file"]):
                    raise _damaged(folder / "index.json", f"{shard['file']!r} is no shard of this folder")
            return cls(folder, split, index)
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise _damaged(folder / "index.json", f"no index ({type(error).__name__}: {one_line(error)})") from None

    def __len__(self) -> int:
        return int(self._starts[-1])

    def window(self, start: int, length: int) -> np.ndarray:
        """(length,) int64: the ids at ``start .. start + length - 1``, across shards; IndexError outside the stream."""
        if not 0 <= start <= start + length <= len(self):
            raise IndexError(f"{self.split}: tokens {start}..{start + length} are not within 0..{len(self)}")
        result = np.empty(length, dtype=np.int64)
        shard = int(np.searchsorted(self._starts, start, side="right")) - 1
        done = 0
        while done < length:
            offset = start + done - int(self._starts[shard])
            part = self._maps[shard][offset : offset + length - done]
            result[done : done + len(part)] = part
            done += len(part)
            shard += 1
        return result

    def document_ids(self) -> list[str]:
        """Ids of the documents, in the order of ``document_starts``."""
        path = self._folder / self.split / "documents.json"
        ids = read_json(path)
        if not isinstance(ids, list) or len(ids) != len(self.document_starts) or not all(isinstance(name, str) for name in ids):
            raise _damaged(path, f"not a list of {len(self.document_starts)} ids")
        return ids

    def verify(self) -> None:
        """Compare every shard's SHA-256 with the index, and what the other files say of the tokens with the tokens.

        Raises:
            DataError: naming the first file that is not what was written.
        """
        n_bytes, ends = 0, [np.zeros(1, dtype=np.int64)]
        for shard, tokens, start in zip(self._shards, self._maps, self._starts, strict=False):
            path = self._folder / shard["file"]
            if sha256_of(path) != shard["sha256"]:
                raise _damaged(path, "its bytes are not those that were written")
            n_bytes += int(self.token_bytes[tokens].sum(dtype=np.int64))
            ends.append(np.flatnonzero(tokens == self.eos_id) + start + 1)
        if not np.array_equal(np.concatenate(ends)[:-1], self.document_starts):
            raise _damaged(self._folder / self.split / "documents.npy", "not where documents begin")
        if n_bytes != self.n_bytes:
            raise _damaged(self._folder / "index.json", f"the {self.split} split has {n_bytes} bytes of text")


def _damaged(path: Path, what: str) -> DataError:
    return DataError(f"{path}: {what}; delete its folder and run `{made_by(path)}`")


def _map(path: Path, tokens: int, dtype: np.dtype[Any]) -> np.ndarray:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise _damaged(path, "this shard is missing") from None
    if size != tokens * dtype.itemsize:
        raise _damaged(path, f"{size} bytes, but the index says {tokens * dtype.itemsize}; cut short or changed")
    return np.memmap(path, dtype=dtype, mode="r")


def checksum_of(token_bytes: np.ndarray) -> str:
    return hashlib.sha256(token_bytes.astype("<i4").tobytes()).hexdigest()


def _load_array(path: Path, length: int) -> np.ndarray:
    try:
        array = np.load(path)
    except FileNotFoundError:
        raise _damaged(path, "missing") from None
    except Exception as error:  # NumPy reads a header as Python, which may fail in any way
        raise _damaged(path, f"broken ({type(error).__name__}: {one_line(error)})") from None
    if len(array) != length:
        raise _damaged(path, f"{len(array)} entries, but the index says {length}")
    return array
