"""Run at another scale than ``params.yaml`` names, without the user's file being any different afterwards.

DVC takes ``${scale}`` from ``params.yaml`` alone, so the line is edited while DVC runs and put back afterwards. The two
lines are written to a note first: if the process is killed, the next invocation finds the note and puts the line back. Only
that line is touched, so an edit that the user makes meanwhile stays.
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

_LINE = re.compile(rb"^scale:[ \t]*(\"[^\"\n]*\"|'[^'\n]*'|[^\s#]+)", re.MULTILINE)


def put_back(params: Path, note: Path) -> bool:
    """Undo an override that a killed process left behind; returns whether there was one."""
    if not note.exists():
        return False
    lines = json.loads(note.read_text(encoding="utf-8"))
    _replace(params, lines["override"].encode(), lines["original"].encode())
    note.unlink()
    return True


@contextmanager
def scale_override(params: Path, scale: str, note: Path) -> Iterator[None]:
    """Within the block ``params`` says ``scale: <scale>``; afterwards the line is what it was, byte for byte.

    Raises:
        ConfigError: the file has no ``scale:`` line of its own.
    """
    found = _LINE.search(params.read_bytes())
    if found is None:
        raise ConfigError(f"{params}: no line `scale: <name>` to override; write the key on a line of its own")
    original = found[0]
    override = original[: found.start(1) - found.start()] + scale.encode()
    if override == original:
        yield
        return
    write_text(note, json.dumps({"original": original.decode(), "override": override.decode()}))
    try:
        _replace(params, original, override)
        yield
    finally:
        put_back(params, note)


def _replace(params: Path, old: bytes, new: bytes) -> None:
    text = params.read_bytes()
    found = _LINE.search(text)
    if found is None or found[0] != old:  # the user has changed the line meanwhile: theirs stands
        return
    temporary = params.with_name(f".{params.name}.{os.getpid()}.tmp")
    temporary.write_bytes(text[: found.start()] + new + text[found.end() :])
    shutil.copymode(params, temporary)
    os.replace(temporary, params)
