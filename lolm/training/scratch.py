"""Scratch folders of runs: from the first checkpoint until what was made of them is safe."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

from lolm.records import read_json

FINISHED = "finished"  # marks the scratch folder of a run that has ended


def publish(scratch: Path, output: Path) -> dict[str, Any]:
    """Give ``output`` its own copy of a finished run's folder, whole or not at all; returns the run's summary."""
    whole = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    whole.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(scratch, whole, copy_function=_link, ignore=shutil.ignore_patterns(FINISHED))
    shutil.rmtree(output, ignore_errors=True)
    os.replace(whole, output)
    return read_json(output / "summary.json")


def _link(source: str, target: str) -> None:
    """A second name for the file, or a copy where the file system has none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def clear_finished(scratch: Path, seconds: float = 0.0) -> None:
    """Remove the folders of runs that were finished at least that long ago; ``scratch`` holds one folder for each run."""
    for mark in scratch.glob(f"*/{FINISHED}"):
        if time.time() - mark.stat().st_mtime >= seconds:
            shutil.rmtree(mark.parent, ignore_errors=True)
            mark.parent.with_suffix(".lock").unlink(missing_ok=True)
