"""Scratch folders of runs: from the first checkpoint until what was made of them is safe."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path

from lolm.records import atomic_folder, link, read, read_rows, sha256_of, write, write_rows
from lolm.records.schema import RunHeader, Summary

SCRATCH = Path(".scratch")  # of a project: what is on the way
FINISHED = "finished"  # marks the scratch folder of a run that has ended
BRANCHES = "branches"  # checkpoints where cooldowns leave the trunk


def publish(scratch: Path, records: Path, weights: Path) -> Summary:
    """Give both folders their own copy of a finished run, each whole or not at all; returns the run's summary.

    Weights are a second name of the same file, records are small and written anew, the series compressed. The records come last:
    where they are, the weights are.

    Raises:
        RecordError: the scratch folder lacks a record; both folders stay as they were.
    """
    header, summary = read(scratch / "config.json", RunHeader), read(scratch / "summary.json", Summary)
    series = read_rows(scratch / "metrics.jsonl")
    digests = {}
    with atomic_folder(weights) as whole:
        for path in sorted(scratch.rglob("*.safetensors")):
            target = whole / path.relative_to(scratch)
            target.parent.mkdir(parents=True, exist_ok=True)
            link(path, target)
            digests[path.relative_to(scratch).as_posix()] = sha256_of(path)
    summary = replace(summary, weights=digests)
    with atomic_folder(records) as whole:
        write(whole / "config.json", header)
        write_rows(whole / "metrics.jsonl.xz", series)
        write(whole / "summary.json", summary)
    return summary


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
