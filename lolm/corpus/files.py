"""Which files make up a corpus, what their documents are named by, and which files are left out."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lolm.corpus.rows import OPENERS
from lolm.data.errors import DataError

KINDS = {".txt": "text", ".md": "text", ".jsonl": "jsonl", ".parquet": "parquet"}  # in lower or upper case
SUFFIXES = ", ".join(KINDS)


@dataclass(frozen=True)
class Found:
    """Files in the order they are read.

    Attributes:
        root: the folder that names are relative to.
        kinds: ``text``, ``jsonl`` or ``parquet`` by file.
        names: what documents without an id are named by: the path without suffixes; with them where another file has that name.
        left_out: what else is there, a folder as one entry that ends in ``/``: hidden, of no readable kind, met before by
            another link, or a link that leads nowhere.
    """

    root: Path
    kinds: dict[Path, str]
    names: dict[Path, str]
    left_out: tuple[str, ...]


def find_files(pattern: str) -> Found:
    """What is read of a file, of a folder and all below it, or of what a pattern such as ``texts/**/*.txt`` matches.

    A path that exists is taken literally, whatever its letters. Hidden files and folders are left out, links are followed, once.

    Raises:
        DataError: nothing of a readable kind is there.
    """
    pattern = os.path.expanduser(pattern)
    path = Path(pattern)
    left_out: list[Path] = []
    if path.is_file():
        root, there = path.parent, [path]
    elif path.is_dir():
        root, there = path, list(_below(path, {os.path.realpath(path)}, left_out))
    else:
        fixed = list(path.parts)
        while fixed and (glob.has_magic("/".join(fixed)) or not Path(*fixed).is_dir()):
            fixed.pop()
        root, there = Path(*fixed), []
        for matched in map(Path, glob.glob(pattern, recursive=True)):
            if matched.is_file():
                there.append(matched)
            elif "**" not in path.parts:  # which matches the folders on the way
                left_out.append(matched)
    kinds: dict[Path, str] = {}
    names: dict[Path, str] = {}
    met: set[str] = set()
    taken: set[str] = set()
    for file in sorted(there, key=lambda p: p.as_posix()):
        stem, kind = _kind(in_unicode(file.relative_to(root)))
        if kind is None or (real := os.path.realpath(file)) in met:
            left_out.append(file)
            continue
        met.add(real)
        kinds[file] = kind
        names[file] = in_unicode(file.relative_to(root)) if stem in taken else stem
        taken.add(stem)
    if not kinds:
        has = f"; it has {_shown(left_out[0], root)}, which is none of them" if left_out else ""
        raise DataError(
            f"corpus.path {pattern!r}: no {SUFFIXES} file there, plain or with {', '.join(OPENERS)}{has}; put the text there, or "
            "set scales.<scale>.corpus.path"
        )
    return Found(root, kinds, names, tuple(sorted(_shown(entry, root) for entry in left_out)))


def _below(folder: Path, met: set[str], left_out: list[Path]) -> Iterator[Path]:
    """Files of a folder and of those in it. ``met``: real paths of folders that were entered."""
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            left_out.append(entry)
        elif entry.is_file():
            yield entry
        elif entry.is_dir() and (real := os.path.realpath(entry)) not in met:
            met.add(real)
            yield from _below(entry, met, left_out)
        else:
            left_out.append(entry)


def in_unicode(path: Path) -> str:
    """A path as text; what of its bytes is none is shown by its code."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


def _kind(name: str) -> tuple[str, str | None]:
    """A name without its suffixes, and what kind of file it is; a Parquet file is compressed within."""
    stem, suffix = os.path.splitext(name)
    if suffix.lower() in OPENERS:
        stem, suffix = os.path.splitext(stem)
        return (stem, None) if suffix.lower() == ".parquet" else (stem, KINDS.get(suffix.lower()))
    return stem, KINDS.get(suffix.lower())


def _shown(entry: Path, root: Path) -> str:
    return in_unicode(entry.relative_to(root)) + ("/" if entry.is_dir() else "")
