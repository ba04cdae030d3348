"""The corpus: documents without exact duplicates, split whole into training, validation and test.

A document's split depends on its id alone: ids named in the configuration first, then a salted hash. So adding or
removing a document moves no other, and nothing of a held-out document is ever trained on.
"""

from __future__ import annotations

import difflib
import hashlib
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lolm.config import CorpusConfig
from lolm.corpus.documents import SPLITS, Document, DocumentWriter, iterate_split, part_of
from lolm.corpus.overlap import NGRAM, OverlapIndex
from lolm.corpus.progress import Progress, resumed, version_of
from lolm.corpus.rows import MEND
from lolm.corpus.sources import Source
from lolm.data.errors import DataError
from lolm.records import publish_folder, sha256_of, write_json

SALT = "lolm/split/1:"  # another salt is another split
PART_BYTES = 256_000_000  # text between two commits, which is what a kill costs at most
LISTED = 1000  # ids written out in lists; counts are always complete


def hashed_split(identity: str, validation_fraction: float, test_fraction: float) -> str:
    """The split that a hash of the id decides: 'train', 'validation' or 'test'."""
    digest = hashlib.sha256((SALT + identity).encode()).digest()
    u = int.from_bytes(digest[:8], "big") / 2**64
    if u < validation_fraction:
        return "validation"
    return "test" if u < validation_fraction + test_fraction else "train"


def build_corpus(
    config: CorpusConfig, folder: str | Path, scratch: Path | None = None, tell: Callable[[str], object] = lambda line: None
) -> dict[str, Any]:
    """Read, deduplicate and split the documents; write ``<split>.parquet`` and ``manifest.json`` into ``folder``.

    More than ``PART_BYTES`` of text goes on in ``<split>-00001.parquet`` and so on. Each part is committed when it is whole:
    killed at any moment, the next call with the same settings and source goes on from there, and the files are the same.

    Args:
        scratch: folder of what is unfinished, removed at the end; by default beside ``folder``.
        tell: takes a line a part.

    Returns:
        The report: numbers per split and source, what was dropped, ids held out and how much of each (share of its distinct
        8-word sequences) also stands in the training split.

    Raises:
        DataError: unreadable source, two documents of one id, unknown held-out id, or an empty split.
    """
    folder = Path(folder)
    scratch = scratch or folder.with_name(f".{folder.name}.unfinished")
    named = _named_splits(config)
    source = Source(config)
    if source.left_out:
        tell(f"not read: {len(source.left_out)} files or folders, such as {source.left_out[0]}; corpus.json lists them")
    state = {
        "place": None,
        "parts": 0,
        "finished": False,
        "read": 0,
        "missing": sorted(named),
        "dropped": {"duplicate": 0, "empty": 0},
        "duplicates": [],
        "empty": [],
        "splits": {split: {"documents": 0, "bytes": 0} for split in SPLITS},
    }
    try:
        content = resumed(scratch, version_of(config, source.version))
        progress = Progress(scratch / "progress.sqlite", state)
        try:
            if progress.committed:
                tell(f"goes on after {progress.state['read']} documents")
            if not progress.state["finished"]:
                _read(config, source, progress, named, content, tell)
            report = _report(progress, content)
            if source.left_out:
                report |= {"left_out": len(source.left_out), "files_left_out": list(source.left_out[:LISTED])}
        finally:
            progress.close()
            if not progress.committed:
                shutil.rmtree(scratch)
    except sqlite3.Error as error:
        raise DataError(f"{scratch}: {error}; if nothing else is at work there, delete it: reading then starts anew") from None
    digests = {path.name: sha256_of(path) for path in sorted(content.glob("*.parquet"))}
    write_json(content / "manifest.json", report | {"sha256": digests})
    publish_folder(content, folder)
    shutil.rmtree(scratch)
    return report


def _read(
    config: CorpusConfig,
    source: Source,
    progress: Progress,
    named: dict[str, str],
    content: Path,
    tell: Callable[[str], object],
) -> None:
    """Read from the last committed part to the end of the source, or to the limit."""
    state = progress.state
    missing = set(state["missing"])
    splits = state["splits"]
    writers: dict[str, DocumentWriter] = {}
    part_bytes = 0

    def commit() -> None:
        nonlocal part_bytes
        for writer in writers.values():
            writer.close()
        state.update(place=source.place(), missing=sorted(missing), parts=state["parts"] + bool(writers))
        progress.commit()
        writers.clear()
        part_bytes = 0
        tell(f"{state['read']} documents, {sum(numbers['bytes'] for numbers in splits.values()) / 1e6:.1f} MB")

    for document in source.documents(state["place"]):
        text = _utf8(document)
        if not progress.is_new(document.id):
            raise DataError(
                f"document id {document.id!r} occurs twice; make ids unique, or set corpus.id_field to null "
                f"to name documents by file and position"
            )
        state["read"] += 1
        if not document.text.strip():
            _drop(state, "empty", document.id)
            continue
        missing.discard(document.id)
        first = progress.first_of(text, document.id)
        if first != document.id:
            _drop(state, "duplicate", {"id": document.id, "same_as": first})
            if document.id in named and named.get(first) != named[document.id]:
                raise DataError(
                    f"corpus.{named[document.id]} names {document.id!r}, whose text is that of {first!r}; name that one"
                )
            continue
        split = named.get(document.id) or hashed_split(document.id, config.validation_fraction, config.test_fraction)
        if not writers:
            writers.update({split: DocumentWriter(part_of(content, split, state["parts"])) for split in SPLITS})
        writers[split].add(document, len(text))
        progress.count(document, split, len(text))
        splits[split]["documents"] += 1
        splits[split]["bytes"] += len(text)
        part_bytes += len(text)
        kept, size = (sum(numbers[key] for numbers in splits.values()) for key in ("documents", "bytes"))
        if kept == config.max_documents or (config.max_bytes is not None and size >= config.max_bytes):
            break
        if part_bytes >= PART_BYTES:
            commit()
    _check_complete(config, missing, named, progress)
    state["finished"] = True
    commit()


def _drop(state: dict[str, Any], why: str, entry: Any) -> None:
    state["dropped"][why] += 1
    listed = state["duplicates" if why == "duplicate" else why]
    if len(listed) < LISTED:
        listed.append(entry)


def _report(progress: Progress, content: Path) -> dict[str, Any]:
    """What a corpus that was read whole is; compares what is held out with the training split."""
    overlap, state = OverlapIndex(), progress.state
    for split in ("validation", "test"):
        for document in iterate_split(content, split):
            overlap.add(document.id, split, document.text)
    for document in iterate_split(content, "train"):
        overlap.compare(document.id, document.text)
    licences = progress.largest("licence", by="documents")
    return {
        "documents": sum(numbers["documents"] for numbers in state["splits"].values()),
        "bytes": sum(numbers["bytes"] for numbers in state["splits"].values()),
        **{key: state[key] for key in ("dropped", "splits", "duplicates", "empty")},
        "sources": dict(progress.largest("source", by="bytes")),
        "overlap": {"ngram_words": NGRAM, **overlap.summary()},
        "held_out": overlap.rows()[:LISTED],  # lists are left out of tables of metrics
        "licences": [{"licence": name, "documents": counts["documents"]} for name, counts in licences],
    }


def _utf8(document: Document) -> bytes:
    """The text's bytes; raises DataError where it or a label cannot be written."""
    try:
        for label in (document.id, document.source, document.licence):
            label.encode()
        return document.text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"document {document.id!r}: half a surrogate pair at character {error.start}, which is not text; {MEND}"
        ) from None


def _named_splits(config: CorpusConfig) -> dict[str, str]:
    named: dict[str, str] = {}
    for split in ("validation", "test"):
        for identity in getattr(config, split):
            if identity in named:
                raise DataError(f"corpus.{split} names {identity!r}, which corpus.{named[identity]} names already; leave one out")
            named[identity] = split
    return named


def _check_complete(config: CorpusConfig, missing: set[str], named: dict[str, str], progress: Progress) -> None:
    where = f"data set {config.name!r}" if config.source == "hub" else f"corpus.path {config.path!r}"
    read, splits = progress.state["read"], progress.state["splits"]
    if not any(splits[split]["documents"] for split in SPLITS):
        raise DataError(f"{where} has no document with text ({read} read): nothing to train on; put text there")
    for identity in sorted(missing):
        close = difflib.get_close_matches(identity, progress.kept_ids(100_000), n=1, cutoff=0.0)
        hint = f"; the nearest id is {close[0]!r}; name that one, or none" if close else "; leave it out"
        raise DataError(f"corpus.{named[identity]} names {identity!r}, which is not among the {read} documents read{hint}")
    kept = sum(splits[split]["documents"] for split in SPLITS)
    for split in SPLITS:
        if not splits[split]["documents"]:
            if kept < len(SPLITS):
                few = "1 document" if kept == 1 else f"{kept} documents"
                raise DataError(f"{where}: {few}, and each of three splits takes one; cut the text into several files or rows")
            advice = "lower the fractions" if split == "train" else f"raise corpus.{split}_fraction or name ids in corpus.{split}"
            raise DataError(f"{where}: no document falls into the {split} split; add documents, {advice}")
