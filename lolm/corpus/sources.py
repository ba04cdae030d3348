"""Documents from where they are: the embedded corpus, local files, or a data set of the Hugging Face hub.

Every reader is a generator, so that a source need not fit into memory, and yields documents in a fixed order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lolm import one_line
from lolm.config import CorpusConfig
from lolm.corpus.documents import Document
from lolm.corpus.files import find_files, in_unicode
from lolm.corpus.progress import stamps
from lolm.corpus.rows import MEND, read_jsonl, read_parquet, read_whole
from lolm.data.errors import DataError

Row = dict[str, Any]
LABELS = ("source", "licence", "license")  # fields that are read beside text and id


def read_documents(config: CorpusConfig) -> Iterator[Document]:
    """All documents of the configured source, in order; limits and duplicates are the caller's business.

    Raises:
        DataError: no such file, an unreadable line, a missing text field, or a hub that cannot be reached.
    """
    yield from Source(config).documents()


class Source:
    """Documents in a fixed order, from the beginning or from a place in it.

    Attributes:
        version: of the files (names, sizes, times) or of the data set: a place is one in this version.
        left_out: files and folders under ``corpus.path`` that are not read.

    Raises:
        DataError: as :func:`read_documents`.
    """

    def __init__(self, config: CorpusConfig) -> None:
        self._config = config
        self._row = self._file = 0
        self._hub: Any = None
        self.left_out: tuple[str, ...] = ()
        if config.source == "hub":
            from datasets import load_dataset_builder

            with _explained(config):
                builder = load_dataset_builder(str(config.name), config.subset)
                self._hub = builder.as_streaming_dataset(split=config.split)
            self.version: Any = builder.hash  # on the hub that of the commit
        else:
            self._found = find_files(config.path)
            self._files, self.left_out = list(self._found.kinds), self._found.left_out
            self.version = stamps(self._files)

    def place(self) -> dict[str, Any]:
        """Where the document after the last one stands, for :meth:`documents`; JSON-able."""
        return {"file": self._file, "row": self._row} | ({"hub": self._hub.state_dict()} if self._hub is not None else {})

    def documents(self, place: Mapping[str, Any] | None = None) -> Iterator[Document]:
        """The documents from a place on. Nothing before it is parsed; compressed files are unpacked from their start."""
        first, row = (place["file"], place["row"]) if place else (0, 0)
        if self._hub is not None:
            if place:
                self._hub.load_state_dict(place["hub"])
            name = str(self._config.name)
            with _explained(self._config):
                rows = _numbered(self._hub, row)
                yield from self._counted(_rows_to_documents(rows, name, self._config, f"data set {name}", row), 0, row)
            return
        for number, path in enumerate(self._files[first:], first):
            skipped = row if number == first else 0
            yield from self._counted(self._read(path, skipped), number, skipped)

    def _counted(self, documents: Iterator[Document], number: int, row: int) -> Iterator[Document]:
        self._file = number
        for self._row, document in enumerate(documents, row + 1):
            yield document

    def _read(self, path: Path, skip: int) -> Iterator[Document]:
        name, kind = self._found.names[path], self._found.kinds[path]
        if kind == "text":
            if not skip:
                yield Document(name, in_unicode(Path(self._found.root.name)), "", read_whole(path))
            return
        if kind == "parquet":
            rows = _numbered(read_parquet(path, skip, self._columns), skip)
        else:
            rows = ((f"line {number}", row) for number, row in read_jsonl(path, skip))
        yield from _rows_to_documents(rows, name, self._config, str(path), skip)

    def _columns(self, names: list[str]) -> list[str] | None:
        """Of a Parquet file those that are read; where it has no text all of them, to be named in the error."""
        used = [name for name in names if name in (self._config.text_field, self._config.id_field, *LABELS)]
        return used if self._config.text_field in names else None


@contextmanager
def _explained(config: CorpusConfig) -> Iterator[None]:
    """Errors of the hub in terms of the configuration."""
    name = config.name
    try:
        yield
    except DataError:
        raise
    except (ConnectionError, TimeoutError) as error:
        raise DataError(
            f"data set {name!r} cannot be reached ({type(error).__name__}: {one_line(error)}). Without a network, put its text "
            f"into a .parquet, .jsonl or .txt file and set corpus.source to 'local' and corpus.path to that file or its folder"
        ) from error
    except Exception as error:  # the hub's clients raise no common class; what they say is what the user needs
        raise DataError(
            f"data set {name!r} (subset {config.subset!r}, split {config.split!r}) cannot be read: "
            f"{type(error).__name__}: {one_line(error)}; see to corpus.name, subset and split of the scale, then the same "
            "command reads on"
        ) from error


def _numbered(rows: Iterable[Row], first: int) -> Iterator[tuple[str, Row]]:
    return ((f"row {position}", row) for position, row in enumerate(rows, first))


def _rows_to_documents(
    rows: Iterable[tuple[str, Row]], name: str, config: CorpusConfig, where: str, first: int
) -> Iterator[Document]:
    """Documents of rows, each with the place where it stands, from the ``first`` on; raises DataError at a row without text."""
    for position, (place, row) in enumerate(rows, first):
        if config.text_field not in row:
            cure = MEND if position or not row else f"set corpus.text_field to one of {', '.join(row)}"
            raise DataError(f"{where}: {place} has no field {config.text_field!r}; {cure}")
        text = row[config.text_field]
        if text is not None and not isinstance(text, str):
            raise DataError(f"{where}: field {config.text_field!r} of {place} is {type(text).__name__}, not text; {MEND}")
        given = row.get(config.id_field) if config.id_field else None
        identity = f"{name}/{position:09d}" if given is None else str(given)
        licence = row.get("licence") or row.get("license") or ""
        yield Document(identity, str(row.get("source") or name), str(licence), text or "")
