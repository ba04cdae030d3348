"""The one loader and the one writer of records: typed, strict, whole or not at all; compressed where the name ends in ``.xz``."""

from __future__ import annotations

import dataclasses
import json
import lzma
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

from lolm.config import ConfigError, from_mapping
from lolm.records.files import RecordError, write_bytes
from lolm.records.layout import scale_of_path

T = TypeVar("T")
PRESET = 6  # of xz
INDENT: int | None = 2  # of JSON

MADE_BY = {  # by place, where * stands for folders too; all else by the pipeline
    "benchmark.json": "make bench",
    "claims.json": "make report",
    "carried.json": "make gpu-shards",
    "reports/budgets/budgets.json": "make report",
    "reports/external/*.json": "make external",
    "reports/gpu/*.json": "make gpu",
    "reports/*/downstream/*.json": "make downstream",
    "artifacts/*/exports/*.json": "make export",
}
PLAIN = {int, float, str, bool, type(None)}  # hold no keys
KEPT = "reports/accepted.json"  # without it every record counts as made by other code
ALIASES = {"token_class": "class"}  # fields whose key in a record is a word that Python keeps for itself


def read(path: str | Path, kind: type[T]) -> T:
    """Read a record.

    Args:
        kind: its dataclass in :mod:`lolm.records.schema`.

    Raises:
        RecordError: the file is missing or broken, or a key is missing, unknown or of another type; names file and key.
    """
    return from_record(kind, read_json(path), path)


def from_record(kind: type[T], raw: Any, path: str | Path) -> T:
    """A record from what JSON gave; ``path`` is named in errors."""
    try:
        return from_mapping(kind, _renamed(raw, {key: name for name, key in ALIASES.items()}))
    except ConfigError as error:
        wrong = "; ".join(map(str, error.problems))
        raise RecordError(
            f"{path}: {wrong}; the record is of another version of this project: make it again by `{made_by(path)}`"
        ) from None


def write(path: str | Path, record: Any) -> None:
    """Write a record (a dataclass of the schema) with sorted keys. NaN and infinity are refused (ValueError)."""
    write_json(path, to_record(record))


def to_record(record: Any) -> dict[str, Any]:
    """The plain mapping of a record, as it stands in its file."""
    return _renamed(record, ALIASES)


def read_json(path: str | Path) -> Any:
    """Read JSON; raises RecordError naming the file when it is missing or broken."""
    return _parsed(read_text(path), path)


def read_mapping(path: str | Path, **needed: Any) -> dict[str, Any]:
    """Read JSON that is a mapping of a form, see :func:`has`.

    Raises:
        RecordError: it is something else; names file and key.
    """
    return has(read_json(path), str(path), needed)


def has(value: Any, where: str, needed: Mapping[str, Any]) -> dict[str, Any]:
    """A value that is a mapping with these keys at least.

    Args:
        where: its file, and where in it after a colon.
        needed: of each key the type of its value (``float``: any number), or its form as another such mapping; in a list, of all
            values of a list. A key that ends in ``?`` may be missing, ``*`` stands for all keys.

    Raises:
        RecordError: it is something else; says what is wrong ``where``.
    """
    if wrong := _wrong(value, needed):
        raise RecordError(f"{where}: {wrong}; {make_again(where.partition(':')[0])}")
    return dict(value)


def _wrong(value: Any, form: Any, key: str = "") -> str:
    kind: Any = dict if isinstance(form, Mapping) else list if isinstance(form, list) else form
    sound = isinstance(value, (int, float) if kind is float else kind) and (kind is bool or not isinstance(value, bool))
    if not sound:
        return f"{key}: expected {kind.__name__}" if key else "not a mapping"
    if kind is list and form is not list:
        return next((wrong for i, inner in enumerate(value) if (wrong := _wrong(inner, form[0], f"{key}[{i}]"))), "")
    for name, inner in form.items() if isinstance(form, Mapping) else ():
        for wanted in value if name == "*" else (name.removesuffix("?"),):
            path = f"{key}.{wanted}" if key else wanted
            if wanted in value:
                wrong = _wrong(value[wanted], inner, path)
            else:
                wrong = "" if name.endswith("?") else f"{_wrong(None, inner, path)}, and there is none"
            if wrong:
                return wrong
    return ""


def make_again(path: str | Path) -> str:
    """What to do about a broken record."""
    return f"bring it back with `git checkout {path}`" if _at(path, KEPT) else f"delete it and run `{made_by(path)}`"


def made_by(path: str | Path) -> str:
    """The command that makes what lies at a path: of its own scale, which need not be that of ``params.yaml``."""
    place, command = next((found for found in MADE_BY.items() if _at(path, found[0])), ("/*/", None))
    scale = scale_of_path(path) if "/*/" in place else None
    return f"{command or 'make repro'} SCALE={scale}" if scale else command or "dvc repro"


def _at(path: str | Path, place: str) -> bool:
    return fnmatchcase(f"/{Path(path).as_posix()}", f"*/{place}")


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON with sorted keys, whole or not at all. NaN and infinity are refused (ValueError)."""
    write_text(path, json.dumps(value, indent=INDENT, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def read_text(path: str | Path) -> str:
    """Text of a file, decompressed where its name ends in ``.xz``; raises RecordError naming a missing or broken file."""
    path = Path(path)
    try:
        content = path.read_bytes()
        return (lzma.decompress(content) if path.suffix == ".xz" else content).decode("utf-8")
    except FileNotFoundError:
        raise RecordError(f"{path}: no such record; run `{made_by(path)}` to make it") from None
    except (lzma.LZMAError, EOFError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: broken ({error}); {make_again(path)}") from None


def write_text(path: str | Path, text: str) -> None:
    """Write text whole or not at all, compressed where the name ends in ``.xz``: the same bytes for the same text."""
    content = text.encode("utf-8")
    write_bytes(path, lzma.compress(content, preset=PRESET) if Path(path).suffix == ".xz" else content)


def parse_json(text: str, constant: Callable[[str], Any] | None = None) -> Any:
    """The value of a JSON text. Raises ValueError, also where nesting is too deep or a number has thousands of digits.

    Args:
        constant: is given ``NaN`` or ``Infinity``, which JSON does not have and some writers write; None: they are floats.
    """
    try:
        return json.loads(text, parse_constant=constant)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is no number of JSON")


def _parsed(text: str, path: str | Path) -> Any:
    try:
        return parse_json(text, _refused)
    except ValueError as error:
        raise RecordError(f"{path}: not valid JSON ({error}); {make_again(path)}") from None


def _renamed(value: Any, names: dict[str, str]) -> Any:
    """The same value with keys renamed, at every depth; records become mappings of their fields."""
    if dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {names.get(key, key): _renamed(inner, names) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return list(value) if PLAIN.issuperset(map(type, value)) else [_renamed(inner, names) for inner in value]
    return value
