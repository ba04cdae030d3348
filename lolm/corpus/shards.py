"""Flat token files: written once in document order, read through memory maps.

Layout of a folder::

    index.json                 vocab_size, dtype, checksum of token_bytes, and per split: shards, n_tokens, n_bytes, n_documents
    token_bytes.npy            (V,) int32, UTF-8 bytes of text that each id stands for
    <split>/00000.bin ...      little-endian uint16 (uint32 above 65,536 ids), each document followed by one end-of-document id
    <split>/documents.npy      (n_documents,) int64, position of each document's first token in the split
    <split>/documents.json     their ids
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lolm.config import ShardsConfig
from lolm.corpus.documents import SPLITS, Document, iterate_split
from lolm.data.stream import checksum_of
from lolm.records import sha256_of, write_json

if TYPE_CHECKING:  # reading token files needs no tokenizer
    from lolm.corpus.tokenizer import Tokenizer


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
        "token_bytes_sha256": checksum_of(tokenizer.token_bytes),
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
