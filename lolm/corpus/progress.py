"""Work on a corpus that a kill interrupts and the next start takes up: what it was made from, and what it knew."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

from lolm.corpus.documents import SPLITS, Document
from lolm.records import fingerprint_of, parse_json, sha256_of, write_text

CACHE_KB = 65_536
_COUNTS = ("documents", "bytes", *(f"{split}_documents" for split in SPLITS))
_TABLES = f"""
    create table ids (digest blob primary key) without rowid;
    create table texts (digest blob primary key, id text) without rowid;
    create table counts (kind text, name text, {", ".join(_COUNTS)}, primary key (kind, name)) without rowid;
    create table state (value text);
"""


def version_of(*inputs: Any) -> str:
    """Identity of unfinished work: what it is made from, and the code that makes it."""
    return fingerprint_of(*inputs, [sha256_of(path) for path in sorted(Path(__file__).parent.glob("*.py"))])


def stamps(files: list[Path]) -> list[list[Any]]:
    """Name, size and time of files: what tells that they were changed without reading them."""
    return [[path.as_posix(), path.stat().st_size, path.stat().st_mtime_ns] for path in files]


def resumed(scratch: Path, version: str) -> Path:
    """Folder in ``scratch`` with what unfinished work of that version left there; empty after work of another."""
    mark = scratch / "version"
    if not mark.exists() or mark.read_bytes() != version.encode():
        shutil.rmtree(scratch, ignore_errors=True)
        write_text(mark, version)
    (scratch / "content").mkdir(exist_ok=True)
    return scratch / "content"


class Progress:
    """Digests of ids and texts, counts by source and licence, and a state, in a SQLite file that only :meth:`commit` changes.

    Memory is that of SQLite's cache and of the names counted since the last commit, whatever the number of documents; disk is
    about 200 bytes a document with an id of 45.

    Args:
        path: of the file.
        state: JSON-able, to begin with.

    Attributes:
        state: to be changed in place.
        committed: whether anything has been committed.
    """

    def __init__(self, path: Path, state: dict[str, Any]) -> None:
        self._db = sqlite3.connect(path)
        for setting in ("locking_mode = exclusive", "journal_mode = wal", f"cache_size = -{CACHE_KB}"):  # in this order: no mmap
            self._db.execute(f"pragma {setting}")
        if not self._db.execute("select * from sqlite_master").fetchone():
            self._db.executescript(f"begin; {_TABLES} commit;")  # all or none, if a kill comes between
        row = self._db.execute("select value from state").fetchone()
        self.committed = row is not None
        try:
            self.state = parse_json(row[0]) if row else state
        except ValueError as error:
            raise sqlite3.DatabaseError(f"its state is broken: {error}") from None
        self._counted: dict[tuple[str, str], list[int]] = {}

    def is_new(self, identity: str) -> bool:
        """Whether no document of that id was seen before; it is now."""
        return bool(self._db.execute("insert or ignore into ids values (?)", (_digest(identity.encode()),)).rowcount)

    def first_of(self, text: bytes, identity: str) -> str:
        """Id of the first document with that text: ``identity`` itself if there was none."""
        digest = _digest(text)
        if self._db.execute("insert or ignore into texts values (?, ?)", (digest, identity)).rowcount:
            return identity
        return self._db.execute("select id from texts where digest = ?", (digest,)).fetchone()[0]

    def count(self, document: Document, split: str, size: int) -> None:
        """Count a document of ``size`` bytes for its source and its licence."""
        for key in (("source", document.source), ("licence", document.licence or "not stated")):
            counts = self._counted.setdefault(key, [0] * len(_COUNTS))
            for name, more in (("documents", 1), ("bytes", size), (f"{split}_documents", 1)):
                counts[_COUNTS.index(name)] += more

    def largest(self, kind: str, by: str) -> list[tuple[str, dict[str, int]]]:
        """The fifty sources or licences with the most documents or bytes, as of the last commit; counts of zero are left out."""
        rows = self._db.execute(f"select * from counts where kind = ? order by {by} desc, name limit 50", (kind,))
        return [(row[1], {name: n for name, n in zip(_COUNTS, row[2:], strict=True) if n}) for row in rows]

    def kept_ids(self, limit: int) -> list[str]:
        """Ids of documents that were kept, some of them where there are many."""
        return [row[0] for row in self._db.execute("select id from texts limit ?", (limit,))]

    def commit(self) -> None:
        """Make everything since the last commit last."""
        added = ", ".join(f"{name} = {name} + excluded.{name}" for name in _COUNTS)
        self._db.executemany(
            f"insert into counts values (?, ?{', ?' * len(_COUNTS)}) on conflict do update set {added}",
            [(*key, *counts) for key, counts in self._counted.items()],
        )
        self._db.execute("delete from state")
        self._db.execute("insert into state values (?)", (json.dumps(self.state),))
        self._db.commit()
        self._counted, self.committed = {}, True

    def close(self) -> None:
        self._db.close()


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()
