"""Filling MLflow from a stage, which must not die of it: any failure is one line on stderr, once."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from lolm import redacted
from lolm.records import write_text
from lolm.tracking.runs import sync_live
from lolm.tracking.scales import sync_benchmark, sync_scale
from lolm.tracking.store import BusyError, in_use, store_lock

RUNNER = "LOLM_RUNNER"  # set in the environment of the stages that the runner starts
HAND_OVER = "LOLM_HAND_OVER"  # set in a job on another machine: MLflow is filled by the process alone that follows it
HANDED_OVER = "handed-over"  # what a job shows of a run that goes on, in the run's scratch folder

_warned = False
_last_try = time.monotonic()


def try_sync(folder: str | Path, min_interval: float = 20.0) -> None:
    """:func:`sync_live` at a checkpoint of training, with the folder that it writes to.

    It does nothing within ``min_interval`` seconds of the process's start or of the last call: runs that short are not worth the
    import of MLflow (4 s) before they end. Training waits for no other process that fills the store, and for a store that failed
    once in this process not again: what the records hold is sent when they are whole. Where MLflow is filled from another
    machine, a copy is left for that.
    """
    global _last_try
    if HAND_OVER in os.environ:
        _guarded(_hand_over, Path(folder))
        return
    if _warned or time.monotonic() - _last_try < min_interval:
        return
    _guarded(_sync_now, folder)
    _last_try = time.monotonic()


def _sync_now(folder: str | Path) -> None:
    with suppress(BusyError), store_lock(patience=1.0):
        sync_live(folder)


def _hand_over(folder: Path) -> None:
    """Copy what a checkpoint has made durable; of a run that has ended the records are enough."""
    if (folder / "metrics.jsonl").exists():
        for name in ("config.json", "metrics.jsonl"):
            write_text(folder / HANDED_OVER / name, (folder / name).read_text(encoding="utf-8"))


def try_sync_scale(scale: str) -> None:
    """:func:`sync_scale` for the report stage; left to the runner, if there is one."""
    if not _left_to_runner():
        _guarded(sync_scale, scale)


def try_sync_benchmark(path: str | Path) -> None:
    """:func:`sync_benchmark` under the same terms."""
    _guarded(sync_benchmark, path)


def _left_to_runner() -> bool:
    """Whether a runner stands behind this process, which fills MLflow from the records and has it loaded already."""
    return RUNNER in os.environ and not in_use()


def _guarded(call: Any, *args: Any) -> None:
    global _warned
    try:
        call(*args)
    except Exception as error:
        if not _warned:
            reason = redacted(str(error)).strip().partition("\n")[0] or type(error).__name__
            print(f"warning: MLflow was not filled ({reason}); fill it later with `python -m pipeline.track`", file=sys.stderr)
        _warned = True
