"""DVC's own command line, `python -m pipeline.quick_dvc status`, that parses a parameter file once and not once a stage, and
walks to a parameter instead of holding every one in the file against its name.

The runner calls DVC this way; what DVC does is the same. With a large params.yaml these two were most of an idle `dvc status`.
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


class PlainPaths:
    """The module ``dpath`` with a quick ``get`` for paths of plain names through mappings; all else is left to it."""

    def __init__(self, dpath: Any) -> None:
        self._dpath = dpath

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dpath, name)

    def get(self, tree: Any, path: str, separator: str = "/", **options: Any) -> Any:
        """What is at ``path``.

        Raises:
            KeyError: there is nothing.
        """
        found = tree
        for name in path.split(separator):
            if options or not isinstance(found, dict) or name not in found or set(name) & set("*?[!"):
                return self._dpath.get(tree, path, separator=separator, **options)
            found = found[name]
        return found


def main(arguments: list[str]) -> int:
    from dvc import cli
    from dvc.dependency import param

    if hasattr(param, "load_path"):
        param.load_path = remembering(param.load_path)
    if hasattr(param, "dpath"):
        param.dpath = PlainPaths(param.dpath)
    return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
