"""Arguments of the Python interface: one of another type ends in one line that names it, not in a traceback from below."""

from __future__ import annotations

from typing import Any

import numpy as np

from lolm import LolmError
from lolm.config.strict import _shown


def argument(error: type[LolmError], name: str, value: Any, *kinds: type) -> Any:
    """A value of one of some classes, a number of NumPy as Python's; None for ``type(None)``; truth values are no numbers.

    Raises:
        error: it is of another class; names the argument, what it takes, and what was given.
    """
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool)):
        return value
    raise error(f"{name}: expected {' or '.join(map(_name, kinds))}, got {_shown(value)}")


def _name(kind: type) -> str:
    where = "" if kind.__module__ == "builtins" else f"{kind.__module__.removesuffix('._C')}."
    return "None" if kind is type(None) else where + kind.__name__
