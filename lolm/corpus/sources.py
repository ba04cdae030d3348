"""Documents from where they are: the embedded corpus, local files, or a data set of the Hugging Face hub.

Every reader is a generator, so that a source need not fit into memory, and yields documents in a fixed order.
"""

from __future__ import annotations

import glob
import gzip
import json
import lzma
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lolm.config import CorpusConfig
from lolm.corpus.documents import Document
from lolm.data.errors import DataError

JSONL = (".jsonl", ".jsonl.xz", ".jsonl.gz")
SUFFIXES = (".txt", ".parquet", *JSONL)


def read_documents(config: CorpusConfig) -> Iterator[Document]:
    """All documents of the configured source, in order; limits and duplicates are the caller's business.

    Raises:
        DataError: no such file, an unreadable line, a missing text field, or a hub that cannot be reached.
    """
    if config.source == "hub":
        yield from _read_hub(config)
        return
    root, files = find_files(config.path)
    for path in files:
        name = path.relative_to(root).as_posix()
        if name.endswith(".txt"):
            yield Document(name.removesuffix(".txt"), root.name, "", _decode(path.read_bytes(), path))
        elif name.endswith(".parquet"):
            yield from _rows_to_documents(_read_parquet(path), name.removesuffix(".parquet"), config, str(path))
        else:
            yield from _rows_to_documents(_read_jsonl(path), name.partition(".jsonl")[0], config, str(path))


def find_files(pattern: str) -> tuple[Path, list[Path]]:
    """The folder that names are relative to, and the files of a file, folder (searched below) or glob, sorted.

    Raises:
        DataError: nothing of a readable kind is there.
    """
    path = Path(pattern)
    if path.is_file():
        found, root = [path], path.parent
    elif path.is_dir():
        found, root = [p for p in path.rglob("*") if p.is_file()], path
    else:
        found = [Path(p) for p in glob.glob(pattern, recursive=True) if Path(p).is_file()]
        fixed = list(Path(pattern).parts)
        while fixed and (glob.has_magic("/".join(fixed)) or not Path(*fixed).is_dir()):
            fixed.pop()
        root = Path(*fixed)
    usable = sorted((p for p in found if p.name.endswith(SUFFIXES)), key=lambda p: p.as_posix())
    if not usable:
        found_text = f"; it has {found[0].name}, which is none of them" if found else ""
        raise DataError(
            f"corpus.path {pattern!r}: no {', '.join(SUFFIXES)} file there{found_text}; put the text there, or set "
            "scales.<scale>.corpus.path"
        )
    return root, usable


def _decode(raw: bytes, path: Path) -> str:
    try:
        return raw.decode("utf-8-sig")  # a byte order mark is not text
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; convert it, for example with iconv") from None


def _read_jsonl(path: Path) -> Iterator[Mapping[str, Any]]:
    opener = lzma.open if path.suffix == ".xz" else gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opener(path, "rt", encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise DataError(f"{path}: line {number} is not a JSON object")
                    yield row
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: line {number} is not valid JSON ({error.msg})") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 after line {number}") from None
    except (lzma.LZMAError, gzip.BadGzipFile, EOFError) as error:
        raise DataError(f"{path}: the compressed file is broken after line {number} ({error})") from None


def _read_parquet(path: Path) -> Iterator[Mapping[str, Any]]:
    from datasets import load_dataset

    try:
        yield from load_dataset("parquet", data_files=str(path), split="train", streaming=True)
    except Exception as error:  # pyarrow, datasets and fsspec raise no common class
        raise DataError(f"{path}: not a readable Parquet file ({type(error).__name__}: {error})") from error


def _read_hub(config: CorpusConfig) -> Iterator[Document]:
    from datasets import load_dataset

    name = str(config.name)
    try:
        rows = load_dataset(name, config.subset, split=config.split, streaming=True)
        yield from _rows_to_documents(rows, name, config, f"data set {name}")
    except DataError:
        raise
    except (ConnectionError, TimeoutError) as error:
        raise DataError(
            f"data set {name!r} cannot be reached ({type(error).__name__}: {error}). Without a network, put its text into a "
            f".parquet, .jsonl or .txt file and set corpus.source to 'local' and corpus.path to that file or its folder"
        ) from error
    except Exception as error:  # the hub's clients raise no common class; what they say is what the user needs
        raise DataError(
            f"data set {name!r} (subset {config.subset!r}, split {config.split!r}) cannot be read: "
            f"{type(error).__name__}: {error}"
        ) from error


def _rows_to_documents(rows: Any, name: str, config: CorpusConfig, where: str) -> Iterator[Document]:
    for position, row in enumerate(rows):
        if config.text_field not in row:
            raise DataError(f"{where}: no field {config.text_field!r}; set corpus.text_field to one of {', '.join(row)}")
        text = row[config.text_field]
        if text is not None and not isinstance(text, str):
            raise DataError(f"{where}: field {config.text_field!r} of row {position} is {type(text).__name__}, not text")
        given = row.get(config.id_field) if config.id_field else None
        identity = f"{name}/{position:09d}" if given is None else str(given)
        licence = row.get("licence") or row.get("license") or ""
        yield Document(identity, str(row.get("source") or name), str(licence), text or "")
