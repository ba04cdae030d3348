"""The YAML that ``params.yaml`` is written in: what every reader reads alike.

DVC reads and writes YAML 1.2, much else reads 1.1, and they differ: ``010`` is 8 or 10, ``1:30`` is 90 or a text, ``yes`` is true
or a text. Such values are refused, with their line. Numbers in scientific notation may be written with or without a dot; as in
YAML 1.2 both are floats (DVC writes 1e-05). Anchors, aliases and merge keys are refused, since DVC loses them when it writes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from lolm.config.strict import Problem, join

DEPTH = 100  # of nesting
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # C's: ten times faster
_RESOLVER = yaml.resolver.Resolver()
_OLD = yaml.constructor.SafeConstructor()
_WORDS = {"true": True, "false": False, "null": None, "~": None, "": None}  # of YAML 1.2's core schema, in lower case
_INT = re.compile(r"[-+]?[0-9]+")
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"([-+]?\.(inf|Inf|INF))|\.(nan|NaN|NAN)")


class _Reader:
    """Builds plain Python values from YAML's events, noting what is refused by key."""

    def __init__(self, text: str) -> None:
        self.problems: list[Problem] = []
        self.events: Iterator[Any] = iter(yaml.parse(text, _Loader))
        next(self.events)  # start of the stream

    def document(self) -> Any:
        if isinstance(next(self.events), yaml.StreamEndEvent):
            return None
        value = self._node(next(self.events), "", 0)
        next(self.events)  # end of the document
        if not isinstance(event := next(self.events), yaml.StreamEndEvent):
            self._refuse(event, "", "a second document begins; the file is one")
        return value

    def _refuse(self, event: Any, where: str, text: str) -> None:
        self.problems.append(Problem(where, f"line {event.start_mark.line + 1}: {text}"))

    def _node(self, event: Any, where: str, depth: int) -> Any:
        if isinstance(event, yaml.AliasEvent):
            self._refuse(event, where, f"an alias, *{event.anchor}; DVC loses them when it writes, use `extends:`")
            return None
        if event.anchor:
            self._refuse(event, where, f"an anchor, &{event.anchor}; DVC loses them when it writes, use `extends:`")
        if event.tag and event.tag != "!":
            self._refuse(event, where, f"a tag, {event.tag}; write the value alone")
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, where) if event.implicit[0] else event.value
        if depth == DEPTH:
            raise yaml.YAMLError(f"line {event.start_mark.line + 1}: nested more than {DEPTH} deep")
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Any] = []
            while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
                items.append(self._node(event, f"{where}[{len(items)}]", depth + 1))
            return items
        return self._mapping(where, depth)

    def _mapping(self, where: str, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        event: Any
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            plain = isinstance(event, yaml.ScalarEvent)
            key = event.value if plain else str(self._node(event, where, depth + 1))
            here = join(where, key)
            if not plain:
                self._refuse(event, where, "a list or mapping for a key")
            elif event.anchor:
                self._refuse(event, here, f"an anchor, &{event.anchor}; DVC loses them when it writes")
            elif key == "<<" and event.implicit[0]:
                self._refuse(event, where, "a merge key; DVC loses them when it writes, use `extends:`")
            elif event.implicit[0] and not (isinstance(_new(key), str) and isinstance(_old(key), str)):
                self._refuse(event, here, f"the key {key} is not a text; put it in quotes or choose another name")
            if key in found:
                self._refuse(event, here, "a second time; a key stands once")
            value = self._node(next(self.events), here, depth + 1)
            found.setdefault(key, value)
        return found

    def _scalar(self, event: Any, where: str) -> Any:
        new, old = _new(event.value), _old(event.value)
        exponent = isinstance(new, float) and "e" in event.value.lower()  # of which YAML 1.1 knows fewer forms
        if not exponent and (type(new) is not type(old) or repr(new) != repr(old)):
            both = f"{_named(old)} to one reader of YAML and {_named(new)} to another"
            self._refuse(event, where, f"{event.value} is {both}; {_advice(new, old)}")
        return new


def parse(text: str) -> tuple[Any, list[Problem]]:
    """The plain value of a YAML text, and what the dialect refuses in it.

    Raises:
        yaml.YAMLError: it is not YAML at all.
    """
    reader = _Reader(text)
    return reader.document(), reader.problems


def _new(text: str) -> Any:
    """A plain scalar as YAML 1.2's core schema has it."""
    if text.lower() in _WORDS and text in (text.lower(), text.upper(), text.capitalize()):
        return _WORDS[text.lower()]
    try:
        if _INT.fullmatch(text):
            return int(text)
        if _BASED.fullmatch(text):
            return int(text, 0)
    except ValueError:  # thousands of digits
        return 10**31
    if _FLOAT.fullmatch(text):
        return float(text)
    if _INFINITE.fullmatch(text):
        return float(text.replace(".", ""))
    return text


def _old(text: str) -> Any:
    """A plain scalar as YAML 1.1 has it, by PyYAML."""
    tag = _RESOLVER.resolve(yaml.ScalarNode, text, (True, False))
    if tag in ("tag:yaml.org,2002:merge", "tag:yaml.org,2002:value"):
        return text
    try:
        return _OLD.construct_object(yaml.ScalarNode(tag, text))
    except ValueError:
        return 10**31


def _named(value: Any) -> str:
    if isinstance(value, str):
        return "a text"
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)


def _advice(new: Any, old: Any) -> str:
    if isinstance(old, bool):
        return f"write {_named(old)}, or quote the text"
    numbers = [value for value in (new, old) if isinstance(value, int | float)]
    return f"write {numbers[0]}, or quote the text" if numbers else "quote it"
