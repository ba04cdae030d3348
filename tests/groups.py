"""Several processes as one group, forked from the test's own: nothing is imported again."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

PATIENCE = 300.0


def together(count: int, folder: Path, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What ``work(*arguments)`` returns in each of ``count`` processes of one gloo group, by rank, as JSON has it."""
    import torch._dynamo
    import torch.distributed.checkpoint
    import torch.distributed.fsdp  # noqa: F401

    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob("rank-*"):
        leftover.unlink()
    meeting = folder / f"meeting-{time.monotonic_ns()}"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_one, args=(rank, count, meeting, folder, work, arguments)) for rank in range(count)]
    for process in processes:
        process.start()
    until = time.monotonic() + PATIENCE
    try:
        for process in processes:
            process.join(max(0.0, until - time.monotonic()))
    finally:
        for process in processes:
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)  # type: ignore[arg-type]
    wrong = [(folder / f"rank-{r}.err").read_text() for r in range(count) if (folder / f"rank-{r}.err").exists()]
    assert not wrong, "\n".join(wrong)
    assert [p.exitcode for p in processes] == [0] * count
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(count)]


def _one(rank: int, count: int, meeting: Path, folder: Path, work: Callable[..., Any], arguments: tuple) -> None:
    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=count)
        (folder / f"rank-{rank}.json").write_text(json.dumps(work(*arguments)))
        dist.destroy_process_group()
    except BaseException:
        (folder / f"rank-{rank}.err").write_text(f"rank {rank}:\n{traceback.format_exc()}")
        sys.stdout.flush()
        os._exit(1)
    os._exit(0)
