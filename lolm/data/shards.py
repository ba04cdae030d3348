"""Flat token files: written once in document order, read through memory maps.

Layout of a folder::

    index.json                 vocab_size, dtype, checksum of token_bytes, and per split: shards, n_tokens, n_bytes, n_documents
    token_bytes.npy            (V,) int32, UTF-8 bytes of text that each id stands for
    <split>/00000.bin ...      little-endian uint16 (uint32 above 65,536 ids), each document followed by one end-of-document id
    <split>/documents.npy      (n_documents,) int64, position of each document's first token in the split
    <split>/documents.json     their ids
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lolm.config import ShardsConfig
from lolm.data.documents import SPLITS, Document, iterate_split
from lolm.data.files import DataError
from lolm.records import RecordError, read_json, sha256_of, write_json

if TYPE_CHECKING:  # reading token files needs no tokenizer
    from lolm.data.tokenizer import Tokenizer

REMAKE = "delete its folder and run `dvc repro shards`"


def write_shards(config: ShardsConfig, corpus: str | Path, tokenizer: Tokenizer, folder: Path) -> dict[str, Any]:
    """Encode every split of a corpus folder into ``folder``; returns the index.

    Raises:
        DataError: the corpus is missing or broken.
    """
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 65_536 else "<u4")
    index: dict[str, Any] = {
        "vocab_size": tokenizer.vocab_size,
        "dtype": dtype.name,
        "eos_id": tokenizer.eos_id,
        "token_bytes_sha256": _checksum(tokenizer.token_bytes),
        "splits": {
            split: write_split(iterate_split(corpus, split), tokenizer, folder / split, config.shard_tokens, dtype)
            for split in SPLITS
        },
    }
    np.save(folder / "token_bytes.npy", tokenizer.token_bytes)
    write_json(folder / "index.json", index)
    return index


def write_split(
    documents: Iterable[Document], tokenizer: Tokenizer, folder: Path, shard_tokens: int, dtype: np.dtype[Any]
) -> dict[str, Any]:
    """Write one split's shards of ``shard_tokens`` tokens each (the last one shorter); returns its entry of the index."""
    folder.mkdir(parents=True)
    starts: list[int] = []
    ids: list[str] = []
    shards: list[dict[str, Any]] = []
    n_tokens = n_bytes = 0
    pending: list[np.ndarray] = []  # encoded documents that are not in a shard yet
    waiting = 0  # their tokens

    def save(tokens: np.ndarray) -> None:
        path = folder / f"{len(shards):05d}.bin"
        path.write_bytes(tokens.tobytes())
        shards.append({"file": f"{folder.name}/{path.name}", "tokens": len(tokens), "sha256": sha256_of(path)})

    for document in documents:
        encoded = tokenizer.encode(document.text)
        starts.append(n_tokens)
        ids.append(document.id)
        pending += [encoded.astype(dtype), np.array([tokenizer.eos_id], dtype=dtype)]
        n_tokens += len(encoded) + 1
        waiting += len(encoded) + 1
        n_bytes += len(document.text.encode())
        if waiting >= shard_tokens:
            tokens = np.concatenate(pending)
            whole = waiting // shard_tokens * shard_tokens
            for first in range(0, whole, shard_tokens):
                save(tokens[first : first + shard_tokens])
            pending, waiting = [tokens[whole:].copy()], waiting - whole
    if waiting:
        save(np.concatenate(pending))
    np.save(folder / "documents.npy", np.array(starts, dtype=np.int64))
    write_json(folder / "documents.json", ids)
    return {"shards": shards, "n_tokens": n_tokens, "n_bytes": n_bytes, "n_documents": len(ids)}


def shards_report(index: dict[str, Any]) -> dict[str, Any]:
    """The index as scalars: tokens, bytes, documents, shards and bytes per token of each split."""
    report: dict[str, Any] = {"vocab_size": index["vocab_size"], "dtype": index["dtype"]}
    for split, entry in index["splits"].items():
        report[split] = {
            "tokens": entry["n_tokens"],
            "bytes": entry["n_bytes"],
            "documents": entry["n_documents"],
            "shards": len(entry["shards"]),
            "bytes_per_token": round(entry["n_bytes"] / entry["n_tokens"], 6),
        }
    return report


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
        if _checksum(self.token_bytes) != index["token_bytes_sha256"]:
            raise DataError(f"{folder / 'token_bytes.npy'}: not what was written; {REMAKE}")
        self._folder = folder
        self._shards = entry["shards"]
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
        if split not in index.get("splits", {}):
            raise DataError(f"{folder / 'index.json'}: no split {split!r}; it has {', '.join(index.get('splits', {}))}")
        return cls(folder, split, index)

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
        return read_json(self._folder / self.split / "documents.json")

    def verify(self) -> None:
        """Compare every shard's SHA-256 with the index; raises DataError naming the first that differs."""
        for shard in self._shards:
            path = self._folder / shard["file"]
            if sha256_of(path) != shard["sha256"]:
                raise DataError(f"{path}: its bytes are not those that were written; {REMAKE}")


def _map(path: Path, tokens: int, dtype: np.dtype[Any]) -> np.ndarray:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise DataError(f"{path}: this shard is missing; {REMAKE}") from None
    if size != tokens * dtype.itemsize:
        raise DataError(f"{path}: {size} bytes, but the index says {tokens * dtype.itemsize}; cut short or changed; {REMAKE}")
    return np.memmap(path, dtype=dtype, mode="r")


def _checksum(token_bytes: np.ndarray) -> str:
    return hashlib.sha256(token_bytes.astype("<i4").tobytes()).hexdigest()


def _load_array(path: Path, length: int) -> np.ndarray:
    try:
        array = np.load(path)
    except FileNotFoundError:
        raise DataError(f"{path}: missing; {REMAKE}") from None
    except (ValueError, EOFError) as error:
        raise DataError(f"{path}: broken ({error}); {REMAKE}") from None
    if len(array) != length:
        raise DataError(f"{path}: {len(array)} entries, but the index says {length}; {REMAKE}")
    return array
