"""Strict loading of plain mappings (YAML, JSON) into frozen dataclasses: every mistake at once, each with its full key.

What a field accepts stands in its annotation: the type, and in ``Annotated[...]`` a range (:class:`Range`), a demand on a list
(:class:`Items`) or on a text (:class:`Pattern`), or :class:`PartOf` for a mapping that gives some fields of a dataclass.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
import types
import typing
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from lolm import LolmError
from lolm.config.faulty import FAULTY, MARK

T = TypeVar("T")


class Problem(NamedTuple):
    """One mistake: the key it is at (dotted; empty for the whole), and what is wrong there."""

    key: str
    text: str

    def below(self, where: str) -> Problem:
        return Problem(join(where, self.key) if self.key else where, self.text)

    def __str__(self) -> str:
        if self.text.startswith(("unknown key", "missing key")):  # the key is what is wrong, not what is at it
            kind, rest = self.text[:11], self.text[11:]
            return f"{kind} {self.key!r}{rest}"
        return f"{self.key}: {self.text}" if self.key else self.text


class ConfigError(LolmError):
    """Values that cannot be used; one line each, which names the key and says what to do; of several first how many."""

    def __init__(self, *problems: str | Problem) -> None:
        self.problems = tuple(p if isinstance(p, Problem) else Problem("", p) for p in problems)
        lines = list(map(str, self.problems))
        super().__init__("\n  ".join([f"{len(lines)} mistakes", *lines] if len(lines) > 1 else lines))


def refuse(problems: Iterable[tuple[bool, str, str]]) -> None:
    """Raise one ConfigError for all rows (wrong, key, text) that are wrong: the checks across the fields of a dataclass.

    A row that is about a value which was refused already is left out.
    """
    found = [Problem(key, text) for wrong, key, text in problems if wrong and MARK not in f"{key}{text}"]
    if found:
        raise ConfigError(*found)


# ---------------------------------------------------------------------------------------------- what annotations say


@dataclasses.dataclass(frozen=True)
class Range:
    """Bounds of a number: ``least`` ≤ x ≤ ``most``, ``above`` < x < ``below``."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def problem(self, value: Any) -> str | None:
        bounds = {
            "at least": (self.least, lambda a: value >= a),
            "above": (self.above, lambda a: value > a),
            "at most": (self.most, lambda b: value <= b),
            "below": (self.below, lambda b: value < b),
        }
        given = {word: (bound, holds) for word, (bound, holds) in bounds.items() if bound is not None}
        if all(holds(bound) for bound, holds in given.values()):
            return None
        return f"must be {' and '.join(f'{word} {bound:,}' for word, (bound, _) in given.items())}, got {_short(value)}"


@dataclasses.dataclass(frozen=True)
class Items:
    """Demands on a list: how many items at least, each once, ascending."""

    least: int = 0
    distinct: bool = False
    ascending: bool = False

    def problem(self, value: tuple[Any, ...]) -> str | None:
        if len(value) < self.least:
            return f"need at least {'one item' if self.least == 1 else f'{self.least} items'}, got {list(value)}"
        if self.distinct and len(set(value)) != len(value):
            return f"each once; got {list(value)}"
        if self.ascending and sorted(set(value)) != list(value):
            return f"must be ascending; got {list(value)}"
        return None


@dataclasses.dataclass(frozen=True)
class Pattern:
    """What a text must match as a whole, and how to say so."""

    regex: str
    words: str

    def problem(self, value: str) -> str | None:
        return None if re.fullmatch(self.regex, value) else f"{_short(value)} is not {self.words}"


@dataclasses.dataclass(frozen=True)
class PartOf:
    """A mapping that gives some of the fields of a dataclass; it stays a mapping."""

    cls: type


@dataclasses.dataclass(frozen=True)
class Scalar:
    """A truth value, a text or a finite number that is not negative."""

    def problem(self, value: Any) -> str | None:
        if isinstance(value, bool | str):
            return None
        if not isinstance(value, float | int):
            return f"expected a number, a text, true or false, got {_shown(value)}"
        if isinstance(value, float) and not math.isfinite(value):
            return f"must be finite, got {value}"
        return Range(least=0).problem(value)


# ---------------------------------------------------------------------------------------------- loading


def from_mapping(cls: type[T], raw: Any, where: str = "") -> T:
    """Build a configuration dataclass from plain mappings, strictly.

    Args:
        cls: a frozen dataclass.
        raw: what YAML or JSON gave.
        where: dotted path of ``raw`` in the file, for messages.

    Raises:
        ConfigError: all that is wrong: unknown keys (names the nearest), missing keys, wrong types, values out of their range,
            and clashes found by ``__post_init__``.
    """
    value: T = checked(cls, raw, where)
    return value


def from_text(kind: Any, text: str, where: str = "") -> Any:
    """The value of a kind (of :mod:`lolm.config.ranges`, or a Literal) that a word of a command or the environment stands for.

    Raises:
        ConfigError: it is of another type, or out of its range; names ``where`` it stands.
    """
    value: Any = text
    with suppress(ValueError):
        value = float(text)
        value = int(text)
    return checked(kind, value, where)


def checked(kind: Any, value: Any, where: str = "") -> Any:
    """A value of YAML or JSON as what an annotation says it is; raises ConfigError with all that is wrong."""
    value, problems = attempted(kind, value, where)
    if problems:
        raise ConfigError(*problems)
    return value


def attempted(kind: Any, value: Any, where: str = "") -> tuple[Any, list[Problem]]:
    """As :func:`checked`, with all that is wrong; then the value has :data:`FAULTY` in places, and only checks may look at it."""
    problems: list[Problem] = []
    return _convert(kind, value, where, problems), problems


def to_mapping(config: Any) -> dict[str, Any]:
    """The plain mapping :func:`from_mapping` reads back, for JSON records."""
    return dataclasses.asdict(config)


def flatten(mapping: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping to dotted keys, for trackers that take flat parameters."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        name = join(prefix, key)
        flat.update(flatten(value, name) if isinstance(value, dict) and value else {name: value})
    return flat


def as_text(value: Any) -> str:
    """A setting of a flat mapping as a text: a word as it is, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def join(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)


LISTED = 60  # known names in one message


def nearest(word: Any, known: Iterable[Any]) -> str:
    """``; did you mean …?``, or the known names where none is near; nothing for a known word: rows of checks ask always."""
    names = [str(k) for k in known]
    if str(word) in names:
        return ""
    close = difflib.get_close_matches(str(word), names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    listed = sorted(names)[:LISTED] + [f"and {len(names) - LISTED} more"] * (len(names) > LISTED)
    return f"; known: {', '.join(listed)}" if names else ""


@cache
def whole_numbers(cls: type) -> tuple[str, ...]:
    """The fields of a dataclass that take whole numbers alone."""
    return tuple(name for name, kind in typing.get_type_hints(cls).items() if kind in (int, int | None))


@cache
def _specs(cls: type) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(cls)


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)


def _build(cls: type[T], raw: Any, where: str, problems: list[Problem]) -> T:
    """An instance of ``cls``; where anything was wrong, ``problems`` grew, and what is returned is for further checks alone."""
    before = len(problems)
    values, specs = _fields(cls, raw, where, problems), _specs(cls)  # type: ignore[arg-type]
    for spec in specs:
        if spec.name in values:
            continue
        if spec.default_factory is not dataclasses.MISSING:
            values[spec.name] = spec.default_factory()
        elif spec.default is not dataclasses.MISSING:
            values[spec.name] = spec.default
        elif isinstance(raw, dict):
            problems.append(Problem(join(where, spec.name), "missing key"))
    if len(problems) > before:
        wrong = {re.sub(r"\[\d+\]$", "", problem.key) for problem in problems[before:]}
        values = {name: FAULTY if join(where, name) in wrong else value for name, value in values.items()}
    made = object.__new__(cls)
    for spec in specs:
        object.__setattr__(made, spec.name, values.get(spec.name, FAULTY))
    try:
        getattr(made, "__post_init__", lambda: None)()
    except ConfigError as error:
        told = (problem for problem in error.problems if MARK not in str(problem))
        problems += untold((problem.below(where) for problem in told), problems)
        for name in {problem.key.partition(".")[0] for problem in error.problems} & {spec.name for spec in specs}:
            value = getattr(made, name)
            if not any(map(dataclasses.is_dataclass, value.values() if isinstance(value, dict) else [value])):
                object.__setattr__(made, name, FAULTY)
    except Exception:
        if len(problems) == before:
            raise
    return made


def untold(more: Iterable[Problem], told: Iterable[Problem]) -> list[Problem]:
    """Of further mistakes those at other keys than were told."""
    keys = {problem.key for problem in told if problem.key}
    return [problem for problem in more if problem.key not in keys]


def _fields(cls: type, raw: Any, where: str, problems: list[Problem]) -> dict[str, Any]:
    """The values that ``raw`` gives for fields of ``cls``."""
    if not isinstance(raw, dict):
        problems.append(Problem(where or "the file", f"expected a mapping, got {_shown(raw)}"))
        return {}
    hints, names = _hints(cls), [spec.name for spec in _specs(cls)]
    problems += [Problem(join(where, key), f"unknown key{nearest(key, names)}") for key in raw if key not in names]
    return {name: _convert(hints[name], raw[name], join(where, name), problems) for name in names if name in raw}


def _convert(hint: Any, value: Any, where: str, problems: list[Problem]) -> Any:
    if value is FAULTY or (type(value) is hint and _finite(value)):
        return value
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _checked(args[0], args[1:], value, where, problems)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        literal = [a for a in args if typing.get_origin(a) is Literal]
        others = [a for a in args if a is not type(None) and a not in literal]
        word = literal and (isinstance(value, str) or not others)  # in place of a number
        return _convert(literal[0] if word else others[0], value, where, problems)
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, where, problems)  # type: ignore[arg-type]
    if hint is Any:
        return value
    wrong = None
    if origin is Literal:
        if not any(value == known and type(value) is type(known) for known in args):
            wrong = f"{_short(value)} is not one of {', '.join(map(repr, args))}{nearest(value, args)}"
    elif origin is tuple:
        if not isinstance(value, list | tuple):
            wrong = f"expected a list, got {_shown(value)}"
        elif args[-1] is not Ellipsis and len(value) != len(args):
            wrong = f"expected {len(args)} values, got {len(value)}"
        elif args[-1] is Ellipsis and set(map(type, value)) == {args[0]} and all(map(_finite, value)):
            return tuple(value)  # long lists of numbers, at once
        else:
            kinds = [args[0]] * len(value) if args[-1] is Ellipsis else args
            items = enumerate(zip(kinds, value, strict=True))
            return tuple(_convert(kind, item, f"{where}[{i}]", problems) for i, (kind, item) in items)
    elif origin is dict:
        if not isinstance(value, dict):
            wrong = f"expected a mapping, got {_shown(value)}"
        else:
            for key in value:
                _convert(args[0], key, f"the name of {join(where, key)}", problems)
            values = {key: _convert(args[1], item, join(where, key), problems) for key, item in value.items()}
            wrong_items = {problem.key for problem in problems}
            return {key: FAULTY if join(where, key) in wrong_items else item for key, item in values.items()}
    else:
        return _scalar(hint, value, where, problems)
    if wrong:
        problems.append(Problem(where, wrong))
    return value


def _checked(hint: Any, demands: tuple[Any, ...], value: Any, where: str, problems: list[Problem]) -> Any:
    before = len(problems)
    if value is FAULTY:
        return value
    for demand in demands:
        if isinstance(demand, PartOf):
            return _fields(demand.cls, value, where, problems)
    value = _convert(hint, value, where, problems)
    for demand in demands:
        if len(problems) == before and value is not None and (wrong := demand.problem(value)):
            problems.append(Problem(where, wrong))
    return value


def _finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _scalar(hint: type, value: Any, where: str, problems: list[Problem]) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        if abs(value) > 2**1000:  # no float is as large
            problems.append(Problem(where, "must be finite"))
            return value
        return float(value)
    if isinstance(value, bool) is not (hint is bool) or not isinstance(value, hint):
        whole = f"; write {int(value)}" if hint is int and isinstance(value, float) and value.is_integer() else ""
        problems.append(Problem(where, f"expected {hint.__name__}, got {_shown(value)}{whole}"))
    elif not _finite(value):
        problems.append(Problem(where, f"must be finite, got {value}"))
    return value


def _shown(value: Any) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {_short(value)}"


def _short(value: Any) -> str:
    """A value as it is shown in a message. Python refuses to write whole numbers of thousands of digits."""
    if isinstance(value, int) and abs(value) > 10**30:
        return "a number of more than 30 digits"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
