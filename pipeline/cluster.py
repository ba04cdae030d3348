"""Jobs as array tasks of a Slurm cluster whose nodes share this folder: submitted through submitit, followed, picked up again.

A task runs on its node the command that would run here, with the same log. When its time is up or the cluster wants the node
back it is requeued, and goes on from its last checkpoint. What was submitted stands in submitit's own files, each of which holds
a :class:`Task`, so that a driver that comes after one that died follows what is still in the queue and submits none of it twice.
"""

from __future__ import annotations

import atexit
import importlib.util
import math
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lolm import LolmError, tracking
from lolm.config import ClusterConfig
from lolm.training.scratch import FINISHED, SCRATCH
from pipeline.environment import DEVICE, IDENTITY, PARENT
from pipeline.jobs import Failure, Job, ended_with_us, show

FOLDER = SCRATCH / "cluster"
SETTLING = 3.0  # seconds that a failed task waits, since Slurm may have ended its command first and comes to the task next
# A task counts as ended when so many looks at the queue have missed it, over so many seconds: a requeued one is missing a while.
GONE, GONE_SECONDS = 2, 10.0

# Where the processes of a run on several nodes find one another.
MEETING_POINT = (
    'export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
    "export MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))",
)


class ClusterError(LolmError):
    """The cluster cannot be used, or refuses a job."""


@dataclass(frozen=True)
class Task:
    """A job as a node runs it; submitit calls it, and ``checkpoint`` when the node is to be given back.

    Attributes:
        environment: what the job gets beside the node's own.
    """

    job: Job
    environment: Mapping[str, str]

    @property
    def identity(self) -> tuple[Any, ...]:
        return (self.job.log, self.environment.get(IDENTITY))

    def __call__(self) -> int:
        """Run the command; returns its exit status, which Slurm is told as well."""
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # Slurm ends the task: no result, it may be requeued
        self.job.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.job.log, "ab", buffering=0) as log:
            child = subprocess.Popen(
                self.job.command,
                env={**os.environ, **self.environment, PARENT: str(os.getpid()), DEVICE: ""},  # it looks for itself
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGUSR2, signal.SIG_IGN),  # Slurm warns every process of a step
            )
            with ended_with_us([child]):
                status = child.wait()
                if status:
                    time.sleep(SETTLING)
        if status:
            atexit.register(os._exit, status % 256)
        return status

    def checkpoint(self) -> Any:
        """What is to be run when the task has a node again: the same, from the run's last checkpoint."""
        from submitit.core.utils import DelayedSubmission

        with open(self.job.log, "a", encoding="utf-8") as log:
            log.write("the node is to be given back; from the last checkpoint on it is made again\n")
        return DelayedSubmission(self)


@dataclass(frozen=True)
class Share:
    """What a task gets on each of its nodes."""

    cpus: int = 1
    gpus: int = 0
    nodes: int = 1


class Log:
    """What a task has written to its job's log since the last look."""

    def __init__(self, job: Job) -> None:
        self.job, self.rest = job, b""
        self.position = job.log.stat().st_size if job.log.exists() else 0

    def show(self) -> None:
        if not self.job.log.exists():
            return
        with open(self.job.log, "rb") as file:  # anew each time: so that NFS looks for what another node has written
            file.seek(self.position)
            new = file.read()
        self.position += len(new)
        *lines, self.rest = (self.rest + new).split(b"\n")
        for line in lines:
            show(self.job, line)


def check() -> None:
    """Raises ClusterError where jobs cannot be submitted."""
    if importlib.util.find_spec("submitit") is None:
        raise ClusterError("LAUNCHER=slurm needs the package submitit; pip install -c constraints.txt -e '.[cluster]'")
    missing = [name for name in ("sbatch", "srun", "squeue", "scancel") if shutil.which(name) is None]
    if missing:
        raise ClusterError(f"LAUNCHER=slurm needs Slurm's commands on the PATH, and there is no {', '.join(missing)}")
    _queue()


def array(
    stage: str, tasks: Sequence[Task], at_once: int, config: ClusterConfig, share: Share, ended: Callable[[Job], None]
) -> list[Failure]:
    """Have tasks run as a job array and wait for them; one that fails stops no other. Returns the failures.

    Tasks that an earlier driver submitted and that are in the queue still are followed; those of them that were to be made from
    other parameters, data or code are cancelled and submitted anew. All are cancelled when the wait is left by an exception.

    Args:
        stage: name for people.
        at_once: tasks that may run at a time.
        share: what a task gets.
        ended: told the job of each that has ended.
    """
    running: dict[str, Task] = {}
    try:
        running |= _left_by_an_earlier_driver(tasks)
        if running:
            print(f"{stage}: {len(running)} of them are in the queue already, as {_names(running)}", flush=True)
        followed = {task.identity for task in running.values()}
        new = [task for task in tasks if task.identity not in followed]
        if new:
            with _undisturbed():
                submitted = _submit(stage, new, at_once, config, share)
                running |= submitted
            print(f"{stage}: submitted as {_names(submitted)}", flush=True)
        return _wait(stage, running, config, ended)
    except BaseException:
        if running:
            with _undisturbed():
                subprocess.run(["scancel", *running], check=False)
        raise


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM wait, so that no job is left which nobody knows of."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _submit(stage: str, tasks: Sequence[Task], at_once: int, config: ClusterConfig, share: Share) -> dict[str, Task]:
    import submitit

    for task in tasks:
        task.job.log.unlink(missing_ok=True)
    if "SLURM_JOB_ID" in os.environ:  # the driver is a job itself, whose settings are not those of the tasks
        for name in [name for name in os.environ if name.startswith("SLURM_") and name != "SLURM_CONF"]:
            del os.environ[name]
    memory = None if config.memory_gb is None else f"{math.ceil(1024 * config.memory_gb)}M"
    optional = {"partition": config.partition, "account": config.account, "mem": memory, "gpus_per_node": share.gpus or None}
    executor = submitit.SlurmExecutor(FOLDER.resolve(), max_num_timeout=config.requeues)
    executor.update_parameters(
        job_name=f"lolm-{stage}",
        time=config.minutes,
        nodes=share.nodes,
        cpus_per_task=share.cpus,
        signal_delay_s=config.warning_seconds,
        array_parallelism=at_once,
        setup=[*config.setup, *(MEETING_POINT if share.nodes > 1 else ())],
        stderr_to_stdout=True,
        srun_args=[f"--cpus-per-task={share.cpus}"],  # which srun takes over from sbatch no more, since Slurm 22.05
        additional_parameters={"requeue": True} | {key: value for key, value in config.options.items() if value is not False},
        **{key: value for key, value in optional.items() if value is not None},
    )
    try:
        with executor.batch():
            jobs = [executor.submit(task) for task in tasks]
    except submitit.core.utils.FailedJobError as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[-1]
        raise ClusterError(f"{stage}: Slurm refuses the jobs: {reason}; see `cluster` in params.yaml") from None
    return {job.job_id: task for job, task in zip(jobs, tasks, strict=True)}


def _left_by_an_earlier_driver(tasks: Sequence[Task]) -> dict[str, Task]:
    """Tasks in the queue that are to do what these do, by id; those that are to do it otherwise are cancelled first."""
    wanted, logs = {task.identity: task for task in tasks}, {task.job.log for task in tasks}
    queue, found, stale = _queue(), {}, []
    for path in FOLDER.glob("*_submitted.pkl"):
        ident = path.name.removesuffix("_submitted.pkl")
        if ident not in queue:
            _forget(ident)
            continue
        try:
            task = pickle.loads(path.read_bytes()).function
        except Exception:  # of another version of this module
            stale.append(ident)
            continue
        if task.identity in wanted and queue[ident][0] != "COMPLETING":
            found[ident] = wanted[task.identity]
        elif task.job.log in logs:
            stale.append(ident)
    if stale:
        print(f"waiting for the end of {_names(stale)}, cancelled or submitted for other parameters, data or code", flush=True)
        subprocess.run(["scancel", *stale], check=False)
        while not _queue().keys().isdisjoint(stale):
            time.sleep(1.0)
        for ident in stale:
            _forget(ident)
    return found


def _wait(stage: str, running: dict[str, Task], config: ClusterConfig, told: Callable[[Job], None]) -> list[Failure]:
    """Show what tasks write until all have ended."""
    failures: list[Failure] = []
    logs = {ident: Log(task.job) for ident, task in running.items()}
    missed: Counter[str] = Counter()
    seen = dict.fromkeys(running, time.monotonic())
    synced: dict[Path, float] = {}
    looked, said = -math.inf, ""
    while running:
        due = time.monotonic() - looked >= config.poll_seconds
        if due:
            try:
                queue = _queue()
            except ClusterError as error:  # Slurm's controller may be away for a while; tasks go on
                print(f"warning: {error}", file=sys.stderr, flush=True)
                queue = dict.fromkeys(running, ("UNKNOWN", ""))
            looked = time.monotonic()
            said = _say_state(stage, {ident: queue[ident] for ident in running if ident in queue}, said)
            _fill_mlflow(synced)
        with suppress(PermissionError):
            os.chmod(FOLDER, FOLDER.stat().st_mode)  # makes NFS look at the folder anew
        for ident, task in list(running.items()):
            ended = _result(ident).exists()
            missed[ident] = 0 if ident in queue else missed[ident] + due
            seen[ident] = seen[ident] if missed[ident] else time.monotonic()
            logs[ident].show()
            if ended or missed[ident] >= GONE and time.monotonic() - seen[ident] >= GONE_SECONDS:
                status = _status(ident, task.job)
                if status:
                    failures.append(Failure(task.job, status))
                _forget(ident)
                del running[ident]
                told(task.job)
        time.sleep(0.5 if running else 0.0)
    return failures


def _queue() -> dict[str, tuple[str, str]]:
    """State of every job of this user that has not ended, and the reason where it waits, by id.

    Raises:
        ClusterError: Slurm does not answer.
    """
    words = ["squeue", "--me", "--all", "--array", "--noheader", "--format=%i|%T|%r"]
    asked = subprocess.run(words, capture_output=True, text=True, check=False, start_new_session=True)
    if asked.returncode:
        reason = (asked.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ClusterError(f"Slurm does not say what is in the queue: {reason}")
    rows = (line.split("|") for line in asked.stdout.splitlines() if line.count("|") == 2)
    return {ident: (state, reason) for ident, state, reason in rows}


def _fill_mlflow(synced: dict[Path, float]) -> None:
    """Let MLflow show what runs have handed over at their checkpoints; ``synced`` remembers when each had."""
    for path in SCRATCH.glob(f"*/{tracking.HANDED_OVER}/metrics.jsonl"):
        changed = path.stat().st_mtime
        if synced.setdefault(path, changed) != changed and not (path.parents[1] / FINISHED).exists():
            tracking.try_sync(path.parent, min_interval=0.0)
            synced[path] = changed


def _say_state(stage: str, queue: Mapping[str, tuple[str, str]], said: str) -> str:
    """One line where it is another than the last one: how many tasks run and why others do not."""
    count = Counter(f"waiting ({reason})" if state == "PENDING" else state.lower() for state, reason in queue.values())
    line = ", ".join(f"{number} {state}" for state, number in sorted(count.items()))
    if line and line != said:
        print(f"{stage}: {line}", flush=True)
    return line


def _status(ident: str, job: Job) -> int:
    """Exit status of a task that has ended. Where it left none, the end of Slurm's log is added to the job's."""
    text, slurm = "", FOLDER / f"{ident}_0_log.out"
    if _result(ident).exists():
        outcome, result = pickle.loads(_result(ident).read_bytes())
        if outcome == "success":
            return int(result)
        text = result.replace("submitit.core.utils.UncompletedJobError: ", "")
    elif slurm.exists():
        text = slurm.read_text(encoding="utf-8", errors="replace")
    lines = [line for line in text.splitlines() if line.strip()] or ["no reason given"]
    why = ([line for line in lines if "slurmstepd" in line] or lines)[-1]  # who ended it; what follows from that stands below
    error = f"error: the cluster ended job {ident} before it had finished: {why}"
    with open(job.log, "a", encoding="utf-8") as log:
        log.writelines(f"{line}\n" for line in [*lines[-20:], error])
    show(job, error.encode())
    return 1


def _result(ident: str) -> Path:
    return FOLDER / f"{ident}_0_result.pkl"


def _forget(ident: str) -> None:
    """Remove submitit's files of a job that has ended."""
    for path in FOLDER.glob(f"{ident}_*"):
        path.unlink(missing_ok=True)


def _names(idents: Sequence[str] | Mapping[str, Any]) -> str:
    """``job 12`` or ``jobs 12 and 15``: arrays by their one number."""
    numbers = sorted({ident.partition("_")[0] for ident in idents}, key=int)
    return f"job{'s' if len(numbers) > 1 else ''} {' and '.join(numbers)}"
