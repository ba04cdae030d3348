"""The corpus: documents without exact duplicates, split whole into training, validation and test.

A document's split depends on its id alone: ids named in the configuration first, then a salted hash. So adding or
removing a document moves no other, and nothing of a held-out document is ever trained on.
"""

from __future__ import annotations

import difflib
import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lolm.config import CorpusConfig
from lolm.corpus.documents import SPLITS, Document, DocumentWriter, iterate_split
from lolm.corpus.overlap import NGRAM, OverlapIndex
from lolm.corpus.sources import read_documents
from lolm.data.errors import DataError
from lolm.records import atomic_folder, write_json

SALT = "lolm/split/1:"  # another salt is another split
LISTED = 1000  # ids written out in lists; counts are always complete


def hashed_split(identity: str, validation_fraction: float, test_fraction: float) -> str:
    """The split that a hash of the id decides: 'train', 'validation' or 'test'."""
    digest = hashlib.sha256((SALT + identity).encode()).digest()
    u = int.from_bytes(digest[:8], "big") / 2**64
    if u < validation_fraction:
        return "validation"
    return "test" if u < validation_fraction + test_fraction else "train"


def build_corpus(config: CorpusConfig, folder: str | Path) -> dict[str, Any]:
    """Read, deduplicate and split the documents; write ``<split>.parquet`` and ``manifest.json`` into ``folder``.

    Returns:
        The report: numbers per split and source, what was dropped, ids held out and how much of each (share of its distinct
        8-word sequences) also stands in the training split.

    Raises:
        DataError: unreadable source, two documents of one id, unknown held-out id, or an empty split.
    """
    named = _named_splits(config)
    seen_texts: dict[bytes, str] = {}  # digest of the text -> id of the document that is kept
    seen_ids: dict[bytes, None] = {}
    known: list[str] = []
    duplicates: list[dict[str, str]] = []
    empty: list[str] = []
    dropped: Counter[str] = Counter()
    missing = set(named)
    totals: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
    sources: dict[str, Counter[str]] = {}
    licences: Counter[str] = Counter()
    overlap = OverlapIndex()

    with atomic_folder(folder) as temporary:
        writers = {split: DocumentWriter(temporary / f"{split}.parquet") for split in SPLITS}
        kept = kept_bytes = 0
        for document in read_documents(config):
            identity = _digest(document.id)
            if identity in seen_ids:
                raise DataError(
                    f"document id {document.id!r} occurs twice; make ids unique, or set corpus.id_field to null "
                    f"to name documents by file and position"
                )
            seen_ids[identity] = None
            if len(known) < 100_000:
                known.append(document.id)
            if not document.text.strip():
                dropped["empty"] += 1
                empty.append(document.id)
                continue
            first = seen_texts.setdefault(_digest(document.text), document.id)
            if first != document.id:
                dropped["duplicate"] += 1
                duplicates.append({"id": document.id, "same_as": first})
                if document.id in named and named.get(first) != named[document.id]:
                    raise DataError(
                        f"corpus.{named[document.id]} names {document.id!r}, whose text is that of {first!r}; name that one"
                    )
                missing.discard(document.id)
                continue
            missing.discard(document.id)
            split = named.get(document.id) or hashed_split(document.id, config.validation_fraction, config.test_fraction)
            size = len(_utf8(document))
            writers[split].add(document, size)
            totals[split].update(documents=1, bytes=size)
            sources.setdefault(document.source, Counter()).update({"documents": 1, "bytes": size, f"{split}_documents": 1})
            licences[document.licence or "not stated"] += 1
            if split != "train":
                overlap.add(document.id, split, document.text)
            kept, kept_bytes = kept + 1, kept_bytes + size
            if kept == config.max_documents or (config.max_bytes is not None and kept_bytes >= config.max_bytes):
                break
        for writer in writers.values():
            writer.close()
        _check_complete(config, missing, named, known, totals)
        for document in iterate_split(temporary, "train"):
            overlap.compare(document.id, document.text)
        report = {
            "documents": kept,
            "bytes": kept_bytes,
            "dropped": {"duplicate": dropped["duplicate"], "empty": dropped["empty"]},
            "splits": {split: dict(totals[split]) for split in SPLITS},
            "sources": {name: dict(counts) for name, counts in _largest(sources, key=lambda item: item[1]["bytes"])},
            "overlap": {"ngram_words": NGRAM, **overlap.summary()},
            "held_out": overlap.rows()[:LISTED],  # lists are left out of tables of metrics
            "duplicates": duplicates[:LISTED],
            "empty": empty[:LISTED],
            "licences": [{"licence": name, "documents": count} for name, count in _largest(licences, key=lambda item: item[1])],
        }
        write_json(temporary / "manifest.json", report)
    return report


def _largest(table: dict[str, Any], key: Callable[[tuple[str, Any]], int]) -> list[tuple[str, Any]]:
    return sorted(table.items(), key=lambda item: (-key(item), item[0]))[:50]  # a hub data set may have one source a document


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _utf8(document: Document) -> bytes:
    try:
        return document.text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"document {document.id!r}: half a surrogate pair at character {error.start}; it is not text") from None


def _named_splits(config: CorpusConfig) -> dict[str, str]:
    named: dict[str, str] = {}
    for split in ("validation", "test"):
        for identity in getattr(config, split):
            if identity in named:
                raise DataError(f"corpus.{split} names {identity!r}, which corpus.{named[identity]} names already")
            named[identity] = split
    return named


def _check_complete(
    config: CorpusConfig, missing: set[str], named: dict[str, str], known: list[str], totals: dict[str, Counter[str]]
) -> None:
    where = f"data set {config.name!r}" if config.source == "hub" else f"corpus.path {config.path!r}"
    if not any(totals[split]["documents"] for split in SPLITS):
        raise DataError(f"{where} has no document with text ({len(known)} read); nothing to train on")
    for identity in sorted(missing):
        close = difflib.get_close_matches(identity, known, n=1, cutoff=0.0)
        hint = f"; the nearest id is {close[0]!r}" if close else ""
        raise DataError(f"corpus.{named[identity]} names {identity!r}, which is not among the {len(known)} documents read{hint}")
    for split in SPLITS:
        if not totals[split]["documents"]:
            advice = "lower the fractions" if split == "train" else f"raise corpus.{split}_fraction or name ids in corpus.{split}"
            raise DataError(f"{where}: no document falls into the {split} split; add documents, {advice}")
