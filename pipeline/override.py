"""Run another scale or study than ``params.yaml`` names, without the user's file being any different afterwards.

DVC takes both from ``params.yaml`` alone, so their lines are edited while DVC runs and put back afterwards. The old and new
lines are written to a note first: if the process is killed, the next invocation finds the note and puts the lines back. Only
these lines are touched, so an edit that the user makes meanwhile stays.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lolm.config import ConfigError
from lolm.records import write_text


def put_back(params: Path, note: Path) -> bool:
    """Undo an override that a killed process left behind; returns whether there was one."""
    if not note.exists():
        return False
    for line in json.loads(note.read_text(encoding="utf-8")):
        _replace(params, line["key"], line["override"].encode(), line["original"].encode())
    note.unlink()
    return True


@contextmanager
def override(params: Path, values: dict[str, str], note: Path) -> Iterator[None]:
    """Within the block ``params`` has these values at its top-level keys; afterwards their lines are what they were.

    Raises:
        ConfigError: a key has no line of its own.
    """
    lines = []
    for key, value in values.items():
        found = _line(key).search(params.read_bytes())
        if found is None:
            raise ConfigError(f"{params}: no line `{key}: <name>` to override; write the key on a line of its own")
        new = found[0][: found.start(1) - found.start()] + value.encode()
        if new != found[0]:
            lines.append({"key": key, "original": found[0].decode(), "override": new.decode()})
    if not lines:
        yield
        return
    write_text(note, json.dumps(lines))
    try:
        for line in lines:
            _replace(params, line["key"], line["original"].encode(), line["override"].encode())
        yield
    finally:
        put_back(params, note)


def _line(key: str) -> re.Pattern[bytes]:
    return re.compile(rb"^" + re.escape(key.encode()) + rb":[ \t]*(\"[^\"\n]*\"|'[^'\n]*'|[^\s#]+)", re.MULTILINE)


def _replace(params: Path, key: str, old: bytes, new: bytes) -> None:
    text = params.read_bytes()
    found = _line(key).search(text)
    if found is None or found[0] != old:  # the user has changed the line meanwhile: theirs stands
        return
    temporary = params.with_name(f".{params.name}.{os.getpid()}.tmp")
    temporary.write_bytes(text[: found.start()] + new + text[found.end() :])
    shutil.copymode(params, temporary)
    os.replace(temporary, params)
