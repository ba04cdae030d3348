"""DVC's own command line, `python -m pipeline.quick_dvc status`, that parses a parameter file once and not once a stage.

The runner calls DVC this way; what DVC does is the same. With a large params.yaml the parsing was most of an idle `dvc status`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cache
from typing import Any


def remembering(load: Callable[..., Any]) -> Callable[..., Any]:
    """``load(path, fs, ...)`` of a local file that is called again only after the file has changed; the result is shared."""

    @cache
    def loaded(path: str, fs: Any, changed: int, size: int) -> Any:
        return load(path, fs)

    def wrapped(path: str, fs: Any, **options: Any) -> Any:
        if options or not os.path.isfile(path):
            return load(path, fs, **options)
        state = os.stat(path)
        return loaded(path, fs, state.st_mtime_ns, state.st_size)

    return wrapped


def main(arguments: list[str]) -> int:
    from dvc import cli
    from dvc.dependency import param

    if hasattr(param, "load_path"):
        param.load_path = remembering(param.load_path)
    return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
