"""LOLM, the Latent Order Language Model, and the systems it is compared with.

One idea per module, imports only from left to right::

    config -> data -> mixers -> models -> objectives -> training -> interventions -> evaluation -> analysis -> tracking

``lolm.load(folder)`` opens a trained model, see :mod:`lolm.api`. Importing this package loads nothing heavy; import the module
you need.
"""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

__version__ = "0.1.0"


class LolmError(ValueError):
    """An error the user can mend: its message names the file, key or value and what to do. Base of all ours."""

    def __str__(self) -> str:
        return printable(super().__str__())


def redacted(text: str) -> str:
    """A message without the names and passwords of the addresses in it."""
    return re.sub(r"(?<=://)[^\s/?#]*@", "***@", text)


def printable(text: str) -> str:
    """A message for a terminal, redacted; what names have of control characters is shown by its code. Further lines of ours begin
    with two blanks or ``error:``."""
    lines = re.split(r"\n(?=  |error: )", redacted(text))
    return "\n".join("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line) for line in lines)


def one_line(error: BaseException) -> str:
    """What a library says, as a part of a message."""
    said = " ".join(str(error).split()) or type(error).__name__
    return said if len(said) <= 300 else f"{said[:300]} …"


def __getattr__(name: str) -> Any:
    """What :mod:`lolm.api` offers, loaded when it is first asked for."""
    if name in ("load", "LoadedModel"):
        return getattr(import_module("lolm.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
