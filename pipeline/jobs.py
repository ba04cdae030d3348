"""Child processes side by side: their output told apart, a failure that stops the queue, and none left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

GRACE = 15.0  # seconds between SIGTERM and SIGKILL
_printing = threading.Lock()


@dataclass(frozen=True)
class Job:
    name: str  # stands before each line of its output
    command: Sequence[str]
    log: Path


@dataclass(frozen=True)
class Failure:
    job: Job
    status: int

    @property
    def reason(self) -> str:
        """The last error line of the job's log: the stage's own (``error:``) rather than DVC's (``ERROR:``)."""
        lines = self.job.log.read_text(encoding="utf-8", errors="replace").splitlines()
        own, of_dvc = ([line for line in lines if line.startswith(start)] for start in ("error:", "ERROR:"))
        return (own or of_dvc or lines or ["no output"])[-1]


def foreground(command: Sequence[str], environment: dict[str, str]) -> int:
    """Run one command on the user's own terminal; returns its exit status."""
    child = subprocess.Popen(command, env=environment, start_new_session=True)
    with _ended_with_us([child]):
        return child.wait()


def side_by_side(
    jobs: Sequence[Job], workers: int, environment: dict[str, str], done: Callable[[Job], None]
) -> tuple[list[Failure], list[Job]]:
    """Run jobs in order, at most ``workers`` at once. After a failure those under way finish and no other starts.

    Args:
        done: called after each job that succeeded; the others go on meanwhile.

    Returns:
        The failures, and the jobs that were not started because of them.
    """
    waiting, running, failures = list(jobs), {}, []  # type: ignore[var-annotated]
    active: list[subprocess.Popen[bytes]] = []
    ended: list[Job] = []
    with _ended_with_us(active):
        while running or (waiting and not failures):
            while waiting and not failures and len(running) < workers:
                job = waiting.pop(0)
                child = subprocess.Popen(
                    job.command,
                    env=environment,
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
                else:
                    ended.append(job)
            if ended and not (waiting and not failures and len(running) < workers):  # first start what can start
                done(ended.pop())
            time.sleep(0.05)
        for job in ended:
            done(job)
    return failures, waiting


@contextmanager
def _ended_with_us(children: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    """End the children's process groups when the block is left by an exception (Ctrl-C, SIGTERM).

    DVC leaves a stage's process running when DVC itself is killed, so it is the group that is signalled.
    """
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
            text = line.decode("utf-8", errors="replace").rstrip().rsplit("\r", 1)[-1]  # of a redrawn bar only the last state
            log.write(text.encode() + b"\n")
            if text:
                with _printing:
                    sys.stdout.write(f"[{job.name}] {text}\n")
                    sys.stdout.flush()
