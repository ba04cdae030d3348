"""Scratch folders of runs: from the first checkpoint until what was made of them is safe."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

from lolm.records import atomic_folder, read_json

FINISHED = "finished"  # marks the scratch folder of a run that has ended
FORKS = "forks"  # checkpoints where the schedules of shorter horizons part from the run


def publish(scratch: Path, output: Path) -> dict[str, Any]:
    """Give ``output`` its own copy of a finished run's folder, whole or not at all; returns the run's summary.

    Weights are a second name of the same file, everything else is copied, since records are opened for writing again.

    Raises:
        RecordError: the scratch folder has no summary; ``output`` stays as it was.
    """
    for leftover in output.parent.glob(f".{output.name}.*.tmp"):  # of a process that was killed while it published
        shutil.rmtree(leftover, ignore_errors=True)
    ignored = shutil.ignore_patterns(FINISHED, "checkpoint.pt", FORKS, "*.tmp")
    with atomic_folder(output) as whole:
        shutil.copytree(scratch, whole, copy_function=_link, ignore=ignored, dirs_exist_ok=True)
        return read_json(whole / "summary.json")


def _link(source: str, target: str) -> None:
    """A second name for a file of weights, or a copy where the file system has none; a copy of any other file."""
    try:
        if not source.endswith(".safetensors"):
            raise OSError
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def remove(scratch: Path) -> None:
    """Remove the folder of one run and its lock; the mark goes first, so that half a folder is never taken for a finished run."""
    (scratch / FINISHED).unlink(missing_ok=True)
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.with_suffix(".lock").unlink(missing_ok=True)


def clear_finished(folder: Path, seconds: float = 0.0) -> None:
    """Remove the runs that were finished at least that long ago; ``folder`` holds one scratch folder for each run."""
    for mark in folder.glob(f"*/{FINISHED}"):
        if time.time() - mark.stat().st_mtime >= seconds:
            remove(mark.parent)
