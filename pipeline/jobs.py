"""Processes side by side: their output told apart, a failure that stops no other, and none left behind."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pipeline.environment import IDENTITY, PARENT, said

GRACE = 15.0  # seconds between SIGTERM and SIGKILL
_printing = threading.Lock()


@dataclass(frozen=True)
class Job:
    """A command, independent of how it is run.

    Attributes:
        name: stands before each line of its output.
        identity: of a piece, a hash of what it is to be made from.
    """

    name: str
    command: Sequence[str]
    log: Path
    identity: str = ""

    @property
    def environment(self) -> dict[str, str]:
        """What it gets beside the environment of all."""
        return {IDENTITY: self.identity} if self.identity else {}


@dataclass(frozen=True)
class Failure:
    job: Job
    status: int

    @property
    def reason(self) -> str:
        """The last error line of the job's log, else its last line."""
        lines = self.job.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return ([line for line in lines if line.startswith("error:")] or lines or ["no output"])[-1]


class TimeIsUp(Exception):
    """Jobs that were not begun, or were ended before they had, when no time was left; and the failures until then."""

    def __init__(self, left: Sequence[Job], failures: Sequence[Failure]) -> None:
        super().__init__(f"{len(left)} jobs are left")
        self.left, self.failures = left, failures


def foreground(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run one command on the user's own terminal; returns its exit status."""
    child = subprocess.Popen(command, env=environment, start_new_session=True)
    with ended_with_us([child]):
        return child.wait()


def side_by_side(
    jobs: Sequence[Job],
    workers: int,
    environment: Mapping[str, str],
    ended: Callable[[Job], None] = lambda job: None,
    seconds: float = math.inf,
) -> list[Failure]:
    """Run jobs in order, at most ``workers`` at once; one that fails stops no other. ``ended`` is told each that has ended.

    Returns:
        The failures.

    Raises:
        ValueError: there are jobs, and no worker.
        TimeIsUp: not all had ended after so many ``seconds``; those under way are ended then.
    """
    until = time.monotonic() + seconds
    if jobs and workers < 1:
        raise ValueError(f"{len(jobs)} jobs need at least one worker, got {workers}")
    waiting, failures = list(jobs), list[Failure]()
    running: dict[subprocess.Popen[bytes], tuple[Job, threading.Thread]] = {}
    active: list[subprocess.Popen[bytes]] = []
    with ended_with_us(active):
        while running or waiting:
            if time.monotonic() >= until:
                raise TimeIsUp([*(job for job, _ in running.values()), *waiting], failures)
            while waiting and len(running) < workers:
                job = waiting.pop(0)
                child = subprocess.Popen(
                    job.command,
                    env={**environment, **job.environment, PARENT: str(os.getpid())},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
                active.append(child)
                reader = threading.Thread(target=_relay, args=(job, child.stdout), daemon=True)
                reader.start()
                running[child] = (job, reader)
            for child in [c for c in running if c.poll() is not None]:
                job, reader = running.pop(child)
                active.remove(child)
                reader.join(timeout=5)
                if child.returncode:
                    failures.append(Failure(job, child.returncode))
                ended(job)
            time.sleep(0.05)
    return failures


def available_cores() -> int:
    """Cores this process may use: its affinity, and its container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))


def end_with_parent() -> None:
    """In a job: end soon after the process that started it, whatever ended that (nothing can be done at SIGKILL itself)."""
    parent = said(PARENT)
    if not parent:
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)  # as if the kill had met this process too: it goes on from its checkpoint

    threading.Thread(target=watch, daemon=True).start()


def keep_bytecode(folder: Path = Path(".scratch/bytecode")) -> None:
    """Where Python is told to write no bytecode (as in many containers), let it write that in ``folder`` instead of nowhere.

    Else each of the pipeline's many processes compiles DVC, PyTorch or MLflow anew, 1 to 2 s each time.
    """
    if not sys.dont_write_bytecode or sys.pycache_prefix:
        return
    sys.dont_write_bytecode, sys.pycache_prefix = False, str(folder.resolve())
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix


@contextmanager
def ended_with_us(children: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    """End the children's process groups when the block is left by an exception (Ctrl-C, SIGTERM)."""
    try:
        yield
    except BaseException:
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave orphans
        try:
            groups = [child.pid for child in children]
            for number, patience in ((signal.SIGTERM, GRACE), (signal.SIGKILL, 2.0)):
                groups = [group for group in groups if _signal(group, number)]
                until = time.monotonic() + patience
                while groups and time.monotonic() < until:
                    for child in children:
                        child.poll()
                    groups = [group for group in groups if _signal(group, 0)]
                    time.sleep(0.05)
        finally:
            signal.signal(signal.SIGINT, previous)
        raise


def _signal(group: int, number: int) -> bool:
    """Send a signal to a process group (0 only asks); returns whether the group still has a process."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:  # only zombies are left, on some systems
        return False
    return True


def _relay(job: Job, pipe: IO[bytes]) -> None:
    """Copy a child's output to its log, and to ours line by line behind the job's name."""
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with open(job.log, "wb", buffering=0) as log:
        for line in pipe:
            log.write(show(job, line).encode() + b"\n")


def show(job: Job, line: bytes) -> str:
    """Print a line of a job's output behind the job's name; returns its text."""
    text = line.decode("utf-8", errors="replace").rstrip().rsplit("\r", 1)[-1]  # of a redrawn bar only the last state
    if text:
        with _printing:
            sys.stdout.write(f"[{job.name}] {text}\n")
            sys.stdout.flush()
    return text
