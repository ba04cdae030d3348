"""One process of a run, started by torchrun: ``rank_process.py FOLDER [STEP]``; the second one kills itself before that step."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from runs import fit, make_trainer, short_run

from lolm.training import ranks
from pipeline.jobs import end_with_parent
from pipeline.stage import main


def work() -> None:
    end_with_parent()
    torch.set_num_threads(1)
    folder, stop = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None
    with ranks.joined("cpu"):
        trainer = make_trainer(short_run("transformer", training={"accumulation": 2, "devices": 2}), folder)
        original = trainer.sampler.batch

        def batch(index: int):
            if stop is not None and ranks.rank() == 1 and index >= 2 * stop:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(index)

        trainer.sampler.batch = batch
        fit(trainer, folder)


main(work)
