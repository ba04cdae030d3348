"""One run on several processes: what the command `torchrun` does, from inside the stage."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

from lolm import LolmError
from pipeline.environment import PARENT, PORT, said


class ProcessesError(LolmError):
    """The processes of a run could not be started, or one of them ended."""


def launch(name: str, command: Sequence[str], devices: int, nodes: int) -> None:
    """Run a command as ``devices`` processes here, in one group with those of the other nodes; return when all are done.

    On several nodes the same stage is started on each (``srun --nodes 2 --ntasks-per-node 1 python -m pipeline.train …``), and
    the variables MASTER_ADDR and, if 29500 is taken, MASTER_PORT say where they meet.

    Raises:
        ProcessesError: a process died, which ends the others; GPUs or the meeting point are missing.
        SystemExit: a process ended with an error that it has told.
    """
    import torch
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    here = torch.cuda.device_count()
    if torch.cuda.is_available() and here < devices:
        raise ProcessesError(f"{name}: training.devices is {devices}, and this machine shows {here}; lower it")
    if nodes > 1 and "MASTER_ADDR" not in os.environ:
        raise ProcessesError(
            f"{name}: training.nodes is {nodes}; start the stage on each of them with MASTER_ADDR naming the first, for example "
            f"MASTER_ADDR=… srun --nodes {nodes} --ntasks-per-node 1 {' '.join(command)}"
        )
    place = f"{os.environ['MASTER_ADDR']}:{said(PORT) or 29500}" if nodes > 1 else "localhost:0"
    run_id = name.replace(" ", "")
    config = LaunchConfig(nodes, nodes, devices, run_id=run_id, rdzv_backend="c10d", rdzv_endpoint=place, max_restarts=0)
    os.environ[PARENT] = str(os.getpid())
    try:
        elastic_launch(config, command[0])(*command[1:])
    except SignalException:
        raise KeyboardInterrupt from None
    except ChildFailedError as error:
        # Who is killed takes others along, whose lost connections are an effect.
        rank, failure = min(error.failures.items(), key=lambda item: (item[1].exitcode >= 0, item[1].timestamp))
        if failure.exitcode == 2:
            raise SystemExit(2) from None
        end = signal.Signals(-failure.exitcode).name if failure.exitcode < 0 else f"status {failure.exitcode}"
        raise ProcessesError(
            f"{name}: process {rank} of {devices * nodes} ended with {end}, and the others with it; the same command goes on "
            "from the last checkpoint"
        ) from None
