"""Flat token files: written once in document order, read through memory maps.

Layout of a folder::

    index.json                 vocab_size, dtype, checksum of token_bytes, and per split: shards, n_tokens, n_bytes, n_documents
    token_bytes.npy            (V,) int32, UTF-8 bytes of text that each id stands for
    <split>/00000.bin ...      little-endian uint16 (uint32 above 65,536 ids), each document followed by one end-of-document id
    <split>/documents.npy      (n_documents,) int64, position of each document's first token in the split
    <split>/documents.json     their ids
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from lolm.config import ShardsConfig
from lolm.corpus.documents import SPLITS, Document, iterate_split, read_manifest
from lolm.data.errors import DataError
from lolm.data.stream import checksum_of
from lolm.records import made_by, named, read_mapping, sha256_of, write_json

if TYPE_CHECKING:  # reading token files needs no tokenizer
    from lolm.corpus.tokenizer import Tokenizer

BATCH_CHARACTERS = 4_000_000  # text that is encoded at a time by a worker
COMMIT_BATCHES = 16  # encoded again after a kill, at most
UNFINISHED, STARTS = "unfinished.json", "starts.tmp"  # in the folder of a split until all are whole


def write_shards(
    config: ShardsConfig, corpus: str | Path, tokenizer: Tokenizer, folder: Path, workers: int = 1
) -> dict[str, Any]:
    """Encode every split of a corpus folder into ``folder``, with what a killed call left there; returns the index.

    Args:
        workers: threads that encode, outside Python's lock; the bytes do not depend on their number.

    Raises:
        DataError: the corpus is missing, broken or not the one of its manifest.
    """
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 65_536 else "<u4")
    index: dict[str, Any] = {
        "vocab_size": tokenizer.vocab_size,
        "dtype": dtype.name,
        "eos_id": tokenizer.eos_id,
        "token_bytes_sha256": checksum_of(tokenizer.token_bytes),
        "splits": {},
    }
    expected = read_manifest(corpus)["splits"]
    for split in SPLITS:
        documents = iterate_split(corpus, split)
        entry = write_split(documents, tokenizer, folder / split, config.shard_tokens, dtype, workers)
        if entry["n_documents"] != expected[split]["documents"]:
            raise DataError(
                f"{corpus}: {entry['n_documents']} documents in the {split} split, the manifest says "
                f"{expected[split]['documents']}; delete the folder and run `{made_by(Path(corpus) / 'manifest.json')}`"
            )
        index["splits"][split] = entry
    with named(folder / "token_bytes.npy"):
        np.save(folder / "token_bytes.npy", tokenizer.token_bytes)
    write_json(folder / "index.json", index)
    for split in SPLITS:
        for name in (UNFINISHED, STARTS):
            (folder / split / name).unlink()
    return index


def write_split(
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    folder: Path,
    shard_tokens: int,
    dtype: np.dtype[Any],
    workers: int = 1,
) -> dict[str, Any]:
    """Write one split's shards of ``shard_tokens`` tokens each (the last one shorter); returns its entry of the index."""
    with named(folder):
        split = _SplitWriter(folder, shard_tokens, dtype)
        rest = islice(documents, split.state["n_documents"], None)
        for number, encoded in enumerate(_encoded(_batches(rest), tokenizer, dtype, workers), 1):
            split.append(*encoded)
            if number % COMMIT_BATCHES == 0:
                split.commit()
        return split.close()


Encoded = tuple[list[str], list[int], np.ndarray, int]  # of some documents: ids, tokens of each, all tokens, bytes of text


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _encoded(batches: Iterable[list[Document]], tokenizer: Tokenizer, dtype: np.dtype[Any], workers: int) -> Iterator[Encoded]:
    """Batches encoded side by side, in their order; no more than two a worker are in memory."""

    def encode(batch: list[Document]) -> Encoded:
        pieces = [np.append(tokenizer.encode(document.text), tokenizer.eos_id).astype(dtype) for document in batch]
        size = sum(len(document.text.encode()) for document in batch)
        return [document.id for document in batch], [len(piece) for piece in pieces], np.concatenate(pieces), size

    pool = ThreadPoolExecutor(workers)
    try:
        waiting: deque[Future[Encoded]] = deque()
        for batch in batches:
            if len(waiting) == 2 * workers:
                yield waiting.popleft().result()
            waiting.append(pool.submit(encode, batch))
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


class _SplitWriter:
    """Files of a split that grow, and how much of them is sure: the rest is cut off when work goes on after a kill."""

    def __init__(self, folder: Path, shard_tokens: int, dtype: np.dtype[Any]) -> None:
        self.folder, self.shard_tokens, self.dtype = folder, shard_tokens, dtype
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / UNFINISHED
        empty: dict[str, Any] = {"shards": [], "n_tokens": 0, "n_bytes": 0, "n_documents": 0, "ids_bytes": 0}
        kinds = {key: type(value) for key, value in empty.items()}
        self.state: dict[str, Any] = read_mapping(path, **kinds) if path.exists() else empty
        self._ids = _opened(folder / "documents.json", self.state["ids_bytes"])
        self._starts = _opened(folder / STARTS, self.state["n_documents"] * 8)
        self._shard = self._open_shard()

    @property
    def _room(self) -> int:
        """Tokens that the last shard still takes."""
        return self.shard_tokens * (len(self.state["shards"]) + 1) - self.state["n_tokens"]

    def _open_shard(self) -> BinaryIO:
        tokens = self.shard_tokens - self._room
        return _opened(self.folder / f"{len(self.state['shards']):05d}.bin", tokens * self.dtype.itemsize)

    def append(self, ids: list[str], lengths: list[int], tokens: np.ndarray, size: int) -> None:
        """Add encoded documents."""
        state = self.state
        starts = state["n_tokens"] + np.cumsum([0, *lengths[:-1]])
        self._starts.write(starts.astype("<i8").tobytes())
        for number, identity in enumerate(ids, state["n_documents"]):  # as write_json writes a list
            self._ids.write(f"{',' if number else '['}\n  {json.dumps(identity, ensure_ascii=False)}".encode())
        state["n_documents"] += len(ids)
        state["n_bytes"] += size
        while len(tokens):
            part, tokens = tokens[: self._room], tokens[self._room :]
            self._shard.write(part.tobytes())
            state["n_tokens"] += len(part)
            if not self._room:
                self._close_shard(self.shard_tokens)
                self._shard = self._open_shard()

    def _close_shard(self, tokens: int) -> None:
        _sync(self._shard)
        self._shard.close()
        path = Path(self._shard.name)
        name = f"{self.folder.name}/{path.name}"
        self.state["shards"].append({"file": name, "tokens": tokens, "sha256": sha256_of(path)})

    def commit(self) -> None:
        """Make sure of what the files hold now."""
        for file in (self._ids, self._starts, self._shard):
            _sync(file)
        write_json(self.folder / UNFINISHED, self.state | {"ids_bytes": self._ids.tell()})

    def close(self) -> dict[str, Any]:
        """Finish the files; returns the entry of the index. Where that was done before, it is done again."""
        self.commit()
        tokens = self.shard_tokens - self._room
        if tokens:
            self._close_shard(tokens)
        else:
            self._shard.close()
            Path(self._shard.name).unlink()
        self._ids.write(b"\n]\n" if self.state["n_documents"] else b"[]\n")
        self._ids.close()
        self._starts.close()
        np.save(self.folder / "documents.npy", np.fromfile(self._starts.name, dtype="<i8"))
        return {key: self.state[key] for key in ("shards", "n_tokens", "n_bytes", "n_documents")}


def _opened(path: Path, length: int) -> BinaryIO:
    """A file that goes on after its first ``length`` bytes."""
    path.touch()
    if path.stat().st_size < length:
        raise DataError(f"{path}: shorter than when it was written; delete {path.parents[1]}")
    file = open(path, "r+b")  # noqa: SIM115
    file.truncate(length)
    file.seek(length)
    return file


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


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
