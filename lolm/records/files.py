"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lolm import LolmError


class RecordError(LolmError):
    """A record file that is missing, cut short or not what it should be."""


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file whole or not at all: to a temporary name, flushed, then renamed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Give an empty folder beside ``path`` to write into; it takes the place of ``path`` when the block ends well.

    When the block raises, nothing is left behind and an older ``path`` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def publish_folder(finished: Path, path: Path) -> None:
    """Give ``path`` the files of a finished folder, whole or not at all; ``finished`` stays as it is.

    Files get a second name, or a copy where the file system has none: killed at any moment, this can be done again.
    """
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):  # of a process that was killed while it published
        shutil.rmtree(leftover, ignore_errors=True)
    with atomic_folder(path) as whole:
        shutil.copytree(finished, whole, copy_function=link, dirs_exist_ok=True)


def link(source: str | Path, target: str | Path) -> None:
    """A second name for a file, or a copy where the file system has none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
