"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import errno
import glob
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lolm import LolmError


class RecordError(LolmError):
    """A record file that is missing, cut short or not what it should be."""


@contextmanager
def named(path: str | Path) -> Iterator[None]:
    """Let an OSError of a write name the file: what a full disk raises has no name, and NumPy's not even a number."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from None


DAY = 86_400.0  # seconds


def host() -> str:
    """Where the number of a process means this one: a machine, and on it a namespace of processes, as each container has."""
    try:
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:  # no Linux
        namespace = 0
    return re.sub(r"[^A-Za-z0-9]", "-", f"{platform.node()}-{namespace}")


def _beside(path: Path) -> Path:
    """A temporary name beside a path, where what killed processes have left of it is cleared away."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.[0-9]*.tmp"):
        if _in_use(leftover):
            continue
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)
    return path.with_name(f".{path.name}.{os.getpid()}-{host()}.tmp")


def _in_use(temporary: Path) -> bool:
    """Whether another process may be writing to it: one that lives on this host, or wrote on another one within a day."""
    pid, _, where = temporary.name.removesuffix(".tmp").removesuffix(".0").rpartition(".")[2].partition("-")
    try:
        if where not in ("", host()):
            return time.time() - temporary.stat().st_mtime < DAY
        if int(pid) == os.getpid():
            return False
        os.kill(int(pid), 0)
    except (ProcessLookupError, FileNotFoundError, ValueError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Give a temporary name to write a file to, which takes the place of ``path`` when the block ends well.

    When the block raises, nothing is left behind and an older ``path`` stays as it was; an OSError names ``path``.
    """
    path = Path(path)
    temporary = _beside(path)
    try:
        with named(path):
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file whole or not at all: to a temporary name, flushed, then renamed."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Give an empty folder beside ``path`` to write into; it takes the place of ``path`` when the block ends well.

    When the block raises, nothing is left behind and an older ``path`` stays as it was. Killed at any moment, ``path`` is the
    older folder, the new one, or, between two renames, not there: never a part of one.
    """
    path = Path(path)
    temporary = _beside(path)
    older = temporary.with_suffix(".0.tmp")
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            os.replace(path, older)
        os.replace(temporary, path)
    finally:
        if older.exists() and not path.exists():
            os.replace(older, path)
        for folder in (temporary, older):
            shutil.rmtree(folder, ignore_errors=True)


def publish_folder(finished: Path, path: Path) -> None:
    """Give ``path`` the files of a finished folder, whole or not at all; ``finished`` stays as it is.

    Files get a second name, or a copy where the file system has none: killed at any moment, this can be done again.
    """
    with atomic_folder(path) as whole:
        shutil.copytree(finished, whole, copy_function=link, dirs_exist_ok=True)


def link(source: str | Path, target: str | Path) -> None:
    """A second name for a file, or a copy where the file system has none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
