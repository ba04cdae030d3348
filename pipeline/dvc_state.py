"""What DVC keeps in a project while it runs, and what a kill leaves of it: ``dvc.lock`` and ``.dvc/tmp/rwlock``.

DVC writes both in place. Started by this project it writes ``dvc.lock`` beside and renames it; a plain `dvc repro` does not.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml

from lolm import LolmError
from lolm.records import parse_json, write_text

LOCK, TEMPORARY = Path("dvc.lock"), Path(".dvc/tmp")  # the second is DVC's own, which git leaves out
KEPT = Path(".scratch/dvc.lock.kept")  # the last lock that was whole
BUSY = TEMPORARY / "rwlock"  # which process reads and writes which files
SCHEMA = b"2.0"
ENTRIES = ("deps", "params", "outs")


class LockError(LolmError):
    """``dvc.lock`` is cut or broken, and no whole one was kept."""


def keep_lock() -> None:
    """Keep ``dvc.lock`` where it is whole."""
    if _stages(LOCK) is not None:
        write_text(KEPT, LOCK.read_text(encoding="utf-8"))


def mend_lock() -> None:
    """Put the last whole ``dvc.lock`` in the place of one that a kill has cut, and keep it where it is whole.

    What DVC had recorded since is found again by the identity of finished runs.

    Raises:
        LockError: it is broken, and no whole one was kept; or of another DVC, whose file is left as it is.
    """
    if not LOCK.exists() or (KEPT.exists() and KEPT.read_bytes() == LOCK.read_bytes()):
        return
    schema = re.search(rb"^schema: *['\"]?(.*?)['\"]?\s*\n", LOCK.read_bytes(), re.MULTILINE)
    if schema and schema[1] != SCHEMA:
        of = schema[1].decode("utf-8", errors="replace")
        raise LockError(
            f"dvc.lock: schema: {of!r} is not that of the pinned DVC, {SCHEMA.decode()}: bring the file back with "
            "`git checkout dvc.lock`, or delete it, and finished runs are reused"
        )
    if not _cut():
        write_text(KEPT, LOCK.read_text(encoding="utf-8"))
        return
    if _stages(KEPT) is None:
        raise LockError("dvc.lock is cut short or broken: bring it back with `git checkout dvc.lock`, or delete it")
    write_text(LOCK, KEPT.read_text(encoding="utf-8"))
    print("dvc.lock was cut short or broken, as a kill leaves it; the last whole one is back, and finished runs are reused")


def _cut() -> bool:
    """Whether the lock is broken or, cut between two of its lines, a beginning of the one that was kept.

    Such a file is YAML with fewer stages, or less of the last one; a lock that is as committed may well have fewer.
    """
    stages, kept = _stages(LOCK), _stages(KEPT)
    if stages is None or kept is None or not stages:
        return stages is None or bool(kept)
    names, last = list(stages), list(stages)[-1]
    if names != list(kept)[: len(names)]:
        return False
    less = any(len(stages[last].get(part, ())) < len(kept[last].get(part, ())) for part in ENTRIES)
    return (len(names) < len(kept) or less) and not _committed(LOCK)


def _committed(path: Path) -> bool:
    """Whether a file is as in git's last commit; no where git or the commit is missing."""
    try:
        return subprocess.run(["git", "diff", "--quiet", "HEAD", "--", path], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _stages(lock: Path) -> dict[str, Any] | None:
    """Entries of a lock file by stage; None where DVC has not written it to its end, as far as its form shows."""
    try:
        text = lock.read_text(encoding="utf-8")
        content = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        stages = content["stages"]
        files = [file for stage in stages.values() for file in (*stage.get("deps", ()), *stage.get("outs", ()))]
        sound = "schema" in content and all(isinstance(stage["cmd"], str | list) for stage in stages.values())
        sound &= all(isinstance(file[key], str) for file in files for key in ("path", "md5"))
        return stages if sound and text.endswith("\n") else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, yaml.YAMLError):
        return None


def write_beside() -> None:
    """Let DVC, in this process, write its lock beside and rename it: a kill leaves the old one or the new one."""
    from dvc import dvcfile

    modify = dvcfile.modify_yaml

    @contextmanager
    def beside(path: str, fs: Any = None) -> Iterator[Any]:
        target, temporary = Path(path), Path(path).parent / TEMPORARY / f"{Path(path).name}.{os.getpid()}"
        temporary.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            shutil.copyfile(target, temporary)
        try:
            with modify(str(temporary), fs=fs) as data:
                yield data
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)

    dvcfile.modify_yaml = beside


def mend_rwlock() -> None:
    """Take away what dead processes left in DVC's note on who uses which file: a cut note, and entries that nobody holds.

    DVC drops entries of processes that are gone, but not those whose number another process has by now.
    """
    if not BUSY.exists():
        return
    from dvc.lock import make_lock

    with make_lock(str(TEMPORARY / "rwlock.lock"), tmp_dir=str(TEMPORARY)):  # which DVC holds while it writes the note
        try:
            held = parse_json(BUSY.read_text(encoding="utf-8"))
            sides = {"read": {path: list(users) for path, users in held.get("read", {}).items()}}
            sides["write"] = {path: [user] for path, user in held.get("write", {}).items()}
            live = {
                side: {path: kept for path, users in paths.items() if (kept := [user for user in users if _at_work(user["pid"])])}
                for side, paths in sides.items()
            }
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            BUSY.unlink()
            print(f"{BUSY} was cut short, as a kill leaves it; it is gone, and DVC begins a new one")
            return
        if live == sides:
            return
        write_text(BUSY, json.dumps({"read": live["read"], "write": {path: users[0] for path, users in live["write"].items()}}))
        print(f"{BUSY} named processes that are not at work here any more, as a kill leaves it; they are taken out")


def _at_work(number: int) -> bool:
    """Whether a process may be DVC at work in this folder."""
    try:
        process = psutil.Process(number)
        words = " ".join(process.cmdline())
        return ("dvc" in words or "pipeline" in words) and Path(process.cwd()).resolve() == Path().resolve()
    except psutil.AccessDenied:  # another user's, which does not say
        return True
    except psutil.Error:
        return False
