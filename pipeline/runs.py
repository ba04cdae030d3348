"""A stage that has one piece of work for each arm or each run: makes those that are not made, each in a process of its own.

What is made already is told by identity (see :mod:`pipeline.identity`), so that a stage which DVC starts again, because another
arm was added or because it was killed, makes only what is missing. Which pieces there are is decided here; how they are run, by
:mod:`pipeline.jobs` on this machine and by :mod:`pipeline.cluster` on others.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lolm import LolmError
from lolm.records import RunKey
from lolm.tracking import HAND_OVER, RUNNER
from pipeline.cluster import Share, Task, array, check
from pipeline.code import code_of
from pipeline.environment import ALONE, DEVICE, FORCE, IDENTITY, JOBS, LAUNCHER, PARENT, said
from pipeline.estimate import PER_ARM, PER_RUN
from pipeline.headline import write_headline
from pipeline.jobs import Failure, Job, available_cores, end_with_parent, foreground, keep_bytecode, side_by_side
from pipeline.progress import Progress
from pipeline.stage import Stage, arguments, opened, refuse_other_scale

LOGS = Path(".scratch/logs")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class StageError(LolmError):
    """Some pieces of a stage were not made."""


@dataclass(frozen=True)
class Piece:
    """One piece of a stage's work; ``seed`` is None where an arm has one for all its runs."""

    arm: str
    seed: int | None = None

    def __str__(self) -> str:
        return self.arm if self.seed is None else str(RunKey(self.arm, self.seed))

    @property
    def key(self) -> RunKey:
        assert self.seed is not None, "a piece of a whole arm is no run's"
        return RunKey(self.arm, self.seed)

    @property
    def arguments(self) -> list[str]:
        return ["--arm", self.arm, *([] if self.seed is None else ["--seed", str(self.seed)])]


def per_arm(
    name: str, doc: str | None, make: Callable[[Stage, str], None], why: Callable[[Stage, str], str | None],
    inputs: Callable[[Stage, str], str], arms: Callable[[Stage], Sequence[str]] = lambda stage: stage.study.arms,
) -> None:  # fmt: skip
    """The command of a stage that has one piece of work for each arm, or for each of ``arms``.

    Args:
        name: of the stage.
        make: makes one arm's records.
        why: why an arm's are to be made; None where they are there.
        inputs: a hash of what an arm's are to be made from.
    """
    args = arguments(doc, arm=True)
    stage = opened(args)
    if args.arm:
        end_with_parent()
        _refuse_other_inputs(lambda: inputs(stage, args.arm))
        make(stage, args.arm)
        return
    refuse_other_scale(stage.params)
    _expect_device(stage)
    reasons = {Piece(arm): why(stage, arm) for arm in _slow_first(stage, arms(stage))}
    _make_all(name, stage, reasons, lambda piece: inputs(stage, piece.arm))


def per_run(
    name: str, doc: str | None, make: Callable[[Stage, RunKey], bool | None], why: Callable[[Stage, RunKey], str | None],
    inputs: Callable[[Stage, RunKey], str], arms: Callable[[Stage], Sequence[str]] = lambda stage: stage.study.arms,
) -> None:  # fmt: skip
    """The command of a stage that has one piece of work for each run, see :func:`per_arm`; ``arms`` are those it is made for,
    and ``make`` says False where another process writes the record."""
    args = arguments(doc, seed=True)
    stage = opened(args)
    if args.arm:
        end_with_parent()
        key = RunKey(args.arm, args.seed)
        _refuse_other_inputs(lambda: inputs(stage, key))
        if make(stage, key) is not False:
            write_headline(stage.layout, key, stage.params.analysis)
        return
    refuse_other_scale(stage.params)
    _expect_device(stage)
    reasons = {Piece(*key): why(stage, key) for key in _seed_by_seed(stage, arms(stage))}
    _make_all(name, stage, reasons, lambda piece: inputs(stage, piece.key))


def _slow_first(stage: Stage, arms: Sequence[str]) -> list[str]:
    return sorted(arms, key=lambda arm: stage.params.architectures[arm].family != "lolm")


def _seed_by_seed(stage: Stage, arms: Sequence[str]) -> list[RunKey]:
    """Runs in the order in which they are begun: the first pair to compare, and what each arm takes here, are soon known."""
    return [RunKey(arm, seed) for seed in stage.study.seeds for arm in _slow_first(stage, arms)]


def _expect_device(stage: Stage) -> None:
    """Judge what is made by the device that the pieces will find, if they run on other machines."""
    if said(LAUNCHER) == "slurm":
        os.environ[DEVICE] = "cuda" if stage.params.cluster.gpus else "cpu"


def _refuse_other_inputs(inputs: Callable[[], str]) -> None:
    """In a job that may have waited for hours behind others, or for days in a queue.

    Raises:
        StageError: it was submitted to make something else.
    """
    if IDENTITY in os.environ and os.environ[IDENTITY] != inputs():
        raise StageError(
            "this job was submitted to make something else: params.yaml, data or code have changed, or the node lacks the "
            "device that `cluster.gpus` promises; the same command submits what is asked for now"
        )


def _refuse_other_code(name: str, code: str) -> None:
    """Raises StageError where the code of a stage has become another than it was: DVC would record what is made as made by it."""
    if code_of(name) != code:
        raise StageError(
            f"{name}: its code was edited while it ran, and what was made is of the code before; `make accept` if the edit "
            "changes no result; the same command makes what it does change"
        )


def _make_all(name: str, stage: Stage, reasons: Mapping[Piece, str | None], inputs: Callable[[Piece], str]) -> None:
    """Make the pieces that have a reason, or all of them if told so.

    Args:
        inputs: hash of what a piece is to be made from, which the piece holds against what it finds.

    Raises:
        StageError: some failed; all others were made. Names each with the reason and its log. Or the code was edited meanwhile.
    """
    # DVC asks for a stage's folders also where the study has nothing for it, or all of it diverged.
    if name in PER_ARM + PER_RUN:
        (stage.layout.reports / name).mkdir(parents=True, exist_ok=True)
    if name == "train":
        (stage.layout.artifacts / "runs").mkdir(parents=True, exist_ok=True)
    forced = "asked for" if said(FORCE) else None
    pieces = {piece: why or forced for piece, why in reasons.items() if why or forced}
    if not pieces:
        print(f"{name}: all {len(reasons)} are made")
        return
    keep_bytecode()
    threads, devices = stage.preset.training.threads, stage.preset.training.devices if name == "train" else 1
    slurm = said(LAUNCHER) == "slurm"
    most = len(pieces) if slurm else default_jobs(threads * devices)
    workers = min(said(JOBS) or most, len(pieces))
    progress = Progress(name, stage, [piece.arm for piece in pieces], workers)
    print(f"{name}: {len(pieces)} of {len(reasons)} to make, {workers} at a time; {progress.estimate.text(workers)}")
    for piece, why in pieces.items():
        print(f"  {piece}: {why}")
    sys.stdout.flush()
    code = code_of(name)
    jobs = [
        Job(f"{name} {piece}", command(name, stage, piece), LOGS / f"{stage.scale}-{name}-{piece}.log", inputs(piece))
        for piece in pieces
    ]
    ended = lambda job: progress.piece_ended(jobs.index(job))  # noqa: E731
    settings = {"PYTHONUNBUFFERED": "1"} | (dict.fromkeys(THREAD_VARIABLES, str(threads)) if threads else {})
    if slurm:
        check()
        settings |= {RUNNER: "1", HAND_OVER: "1"} | ({} if stage.params.cluster.gpus else {"CUDA_VISIBLE_DEVICES": ""})
        tasks = [Task(job, settings | job.environment) for job in jobs]
        lines = _told(array(name, tasks, workers, stage.params.cluster, _share(name, stage), ended))
    elif workers == 1:
        environment = os.environ | settings | {PARENT: str(os.getpid())} | ({ALONE: "1"} if said(JOBS) == 1 else {})
        statuses = {}
        for job in jobs:
            statuses[job] = foreground(job.command, environment | job.environment)
            ended(job)
        lines = [f"{job.name} failed with status {status}; the reason stands above" for job, status in statuses.items() if status]
    else:
        lines = _told(side_by_side(jobs, workers, os.environ | settings, ended))
    if lines:
        made = len(pieces) - len(lines)
        raise StageError("\nerror: ".join([*lines, f"{name}: {made} of {len(pieces)} were made; the same command goes on"]))
    _refuse_other_code(name, code)


def _told(failures: Sequence[Failure]) -> list[str]:
    return [f"{f.job.name} failed with status {f.status}: {f.reason}\n       its output: {f.job.log}" for f in failures]


def _share(name: str, stage: Stage) -> Share:
    """What one piece of a stage gets on a cluster: training alone uses several devices."""
    cluster, training = stage.params.cluster, stage.preset.training
    devices, nodes = (training.devices, training.nodes) if name == "train" else (1, 1)
    return Share(devices * (cluster.cpus or training.threads or 1), devices * cluster.gpus, nodes)


def command(name: str, stage: Stage, piece: Piece) -> tuple[str, ...]:
    """The command line that makes one piece."""
    chosen = ("--scale", stage.scale, "--study", stage.study.name)
    return (sys.executable, "-m", f"pipeline.{name}", *chosen, *piece.arguments)


def default_jobs(threads: int) -> int:
    """As many pieces as the cores hold at ``threads`` each; one on a GPU, which a single run is meant to fill."""
    if has_cuda():
        return 1
    return max(1, available_cores() // threads if threads else 1)


def has_cuda() -> bool:
    """Whether an NVIDIA driver shows a device that isn't hidden; cheaper than importing PyTorch to ask."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    return Path("/proc/driver/nvidia/gpus").is_dir() or Path("/dev/nvidia0").exists()
