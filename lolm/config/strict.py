"""Strict loading of plain mappings (YAML, JSON) into frozen dataclasses: an unknown key is an error naming the nearest."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from typing import Any, Literal, TypeVar

from lolm import LolmError

T = TypeVar("T")


class ConfigError(LolmError):
    """A value of ``params.yaml`` that cannot be used; the message names the key and says what to do."""


def from_mapping(cls: type[T], raw: Any, where: str = "") -> T:
    """Build a configuration dataclass from plain mappings, strictly.

    Args:
        cls: a frozen dataclass.
        raw: what YAML or JSON gave.
        where: dotted path of ``raw`` in the file, for messages.

    Raises:
        ConfigError: unknown key (names the nearest), missing key, wrong type, or a clash found by ``__post_init__``.
    """
    if not isinstance(raw, dict):
        raise ConfigError(f"{where or 'the file'}: expected a mapping, got {_shown(raw)}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in raw:
        if key not in fields:
            raise ConfigError(f"unknown key {_join(where, key)!r}{nearest(str(key), fields)}")
    values = {}
    for name, spec in fields.items():
        if name in raw:
            values[name] = _convert(hints[name], raw[name], _join(where, name))
        elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
            raise ConfigError(f"missing key {_join(where, name)!r}")
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}" if where else str(error)) from None


def to_mapping(config: Any) -> dict[str, Any]:
    """The plain mapping :func:`from_mapping` reads back, for JSON records."""
    return dataclasses.asdict(config)


def flatten(mapping: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping to dotted keys, for trackers that take flat parameters."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        name = _join(prefix, key)
        flat.update(flatten(value, name) if isinstance(value, dict) and value else {name: value})
    return flat


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        (inner,) = (a for a in args if a is not type(None))
        return _convert(inner, value, where)
    if origin is Literal:
        if value not in args:
            raise ConfigError(f"{where}: {value!r} is not one of {', '.join(map(repr, args))}{nearest(str(value), args)}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}: expected a list, got {_shown(value)}")
        if args[-1] is Ellipsis:
            return tuple(_convert(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
        if len(value) != len(args):
            raise ConfigError(f"{where}: expected {len(args)} values, got {len(value)}")
        return tuple(_convert(a, item, f"{where}[{i}]") for i, (a, item) in enumerate(zip(args, value, strict=True)))
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: expected a mapping, got {_shown(value)}")
        return {str(k): _convert(args[1], v, _join(where, k)) for k, v in value.items()}
    if dataclasses.is_dataclass(hint):
        return from_mapping(hint, value, where)  # type: ignore[arg-type]
    if hint is Any:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, bool) is not (hint is bool) or not isinstance(value, hint):
        note = ""
        if hint is float and isinstance(value, str):  # YAML 1.1 reads 3e-4 as text
            note = "; write scientific notation with a dot, as in 3.0e-4"
        raise ConfigError(f"{where}: expected {hint.__name__}, got {_shown(value)}{note}")
    return value


def _shown(value: Any) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {value!r}"


def _join(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)


def nearest(word: str, known: Any) -> str:
    names = [str(k) for k in known]
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(sorted(names))}" if names else ""
