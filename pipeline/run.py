"""Run the whole pipeline: `dvc repro`, with independent runs side by side.

`dvc repro` makes one stage at a time. This makes what all runs share first, then sweeps the arms' learning rates, then trains
and measures the runs, each next to each other through `dvc repro --single-item`, then lets a plain `dvc repro` make the rest
and confirm that all is up to date, and fills MLflow. Everything it does can be had from `dvc repro` alone; it is only faster.
"""

from __future__ import annotations

import argparse
import configparser
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from lolm import LolmError, tracking
from lolm.accounting.resolve import resolve_run
from lolm.config import ConfigError, Params, StudyConfig, load_params, scale_of
from lolm.training.scratch import clear_finished
from pipeline import stage
from pipeline.estimate import Estimate, estimate, stages_of_run, stages_to_make, timed_stages
from pipeline.jobs import Job, foreground, side_by_side
from pipeline.override import override, put_back

PARAMS = Path("params.yaml")
SCRATCH = Path(".scratch")
SHARED = ("corpus", "tokenizer", "shards")  # by all runs of a scale
NOTE = SCRATCH / "override.json"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
DVC = (sys.executable, "-m", "pipeline.quick_dvc", "--wait-for-lock")


class PipelineError(LolmError):
    """A stage failed, or DVC cannot run here."""


@dataclass(frozen=True)
class Run:
    arm: str
    seed: int

    def __str__(self) -> str:
        return f"{self.arm}-{self.seed}"


def run() -> None:
    args = _arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end the children and put params.yaml back, as on Ctrl-C
    with ExitStack() as stack:
        SCRATCH.mkdir(exist_ok=True)
        keep_bytecode(SCRATCH / "bytecode")
        try:
            stack.enter_context(FileLock(SCRATCH / "runner.lock", timeout=0))
        except Timeout:
            raise PipelineError("the pipeline is running in this folder already; wait for it or stop it") from None
        if put_back(PARAMS, NOTE):
            print("params.yaml: put back what an interrupted run had overridden")
        params = chosen(load_params(PARAMS), args.scale, args.study)
        scale = params.scale
        runs = planned_runs(params, scale)
        check_dvc(Path())
        wanted = ({"scale": scale} if args.scale else {}) | ({"study": args.study} if args.study else {})
        stack.enter_context(override(PARAMS, wanted, NOTE))
        environment = child_environment(scale_of(params, scale).training.threads)
        if args.force:
            clear_finished(SCRATCH)  # else a run that has just ended would be handed out again
        jobs = args.jobs or default_jobs(scale_of(params, scale).training.threads, len(runs))
        try:
            reproduce(params, scale, runs, jobs, environment, force=args.force)
        except PipelineError:
            tracking.try_sync_scale(scale)  # what was made before the failure
            raise
        tracking.try_sync_scale(scale)
        clear_finished(SCRATCH)
    folder = stage.Paths(scale).study(params.selected.name)
    print(f"the report: {folder}/report.html; the ledger: {folder}/claims.md; the curves: make ui")


def chosen(params: Params, scale: str | None, study: str | None) -> Params:
    """The parameters with the scale and study of the command line.

    Raises:
        ConfigError: there is no such scale or study.
    """
    params = params.select(scale, study)
    if params.selected.recall is None:  # DVC would only say that it could not find it
        raise ConfigError(f"studies.{params.selected.name}: recall is missing; name the arms to train on the recall tasks")
    return params


def reproduce(
    params: Params, scale: str, runs: list[Run], jobs: int, environment: dict[str, str], *, force: bool = False
) -> None:
    """Make everything of a scale.

    Raises:
        PipelineError: a stage failed; says which, and where its output is.
    """
    stale = timed_stages(params, scale) if force else stale_stages(environment)
    if not stale:
        print(f"scale {scale}: everything is up to date")
        return
    print(describe(params, scale, runs, jobs, stale), flush=True)
    store = threading.Thread(target=tracking.try_prepare_store, daemon=True)  # takes 8 s the first time, meanwhile DVC works
    store.start()
    flags = ["--force"] if force else []
    if jobs == 1 or len(runs) == 1:
        store.join()
        _foreground([*DVC, "repro", *flags], environment)
        return

    shared = {f"plan@{scale}-{params.selected.name}", *(f"{name}@{scale}" for name in SHARED)}
    sweeps = {arm: f"sweep@{scale}-{arm}" for arm in params.selected.arms}
    if force or shared & stale:
        _foreground([*DVC, "repro", *flags, f"plan@{scale}-{params.selected.name}", f"shards@{scale}"], environment)
        if not (stale >= set(sweeps.values()) and all_will_be_made(stale, params.selected, scale, runs)):
            stale = stale_stages(environment)
    store.join()
    logs = SCRATCH / "logs"

    def job(name: str, stages: list[str]) -> Job:
        return Job(name, [*DVC, "repro", "--single-item", *flags, *stages], logs / f"{scale}-{name.replace(' ', '-')}.log")

    queue = [job(f"sweep {arm}", [name]) for arm, name in sweeps.items() if name in stale]
    _all(queue, jobs, environment, scale)
    if queue and not all_will_be_made(stale, params.selected, scale, runs):
        stale = stale_stages(environment)
    made = {one: stages_to_make(stale, params.selected, scale, one.arm, one.seed) for one in runs}
    _all([job(f"{one.arm} {one.seed}", wanted) for one, wanted in made.items() if wanted], jobs, environment, scale)
    if force:
        _foreground([*DVC, "repro", "--single-item", "--force", f"report@{scale}-{params.selected.name}"], environment)
    _foreground([*DVC, "repro"], environment)


def _all(queue: list[Job], jobs: int, environment: dict[str, str], scale: str) -> None:
    """Do the jobs side by side; raises PipelineError when one fails."""
    failures, unstarted = side_by_side(
        queue, jobs, environment | {"PYTHONUNBUFFERED": "1"}, done=lambda job: tracking.try_sync_scale(scale)
    )
    if failures:
        lines = [f"{f.job.name} failed with status {f.status}: {f.reason}\n       its output: {f.job.log}" for f in failures]
        if unstarted:
            lines.append("not started: " + ", ".join(job.name for job in unstarted))
        raise PipelineError("\n       ".join([*lines, "after mending it, the same command goes on from the last checkpoints"]))


def all_will_be_made(stale: set[str], study: StudyConfig, scale: str, runs: list[Run]) -> bool:
    """Whether all stages of all runs are to be made: then DVC, which takes seconds, has nothing to add to what is stale."""
    return all(
        stages_to_make(stale, study, scale, one.arm, one.seed) == stages_of_run(study, scale, one.arm, one.seed) for one in runs
    )


def planned_runs(params: Params, scale: str) -> list[Run]:
    """Every run of the parameter file at a scale, those that take longest first.

    Raises:
        ConfigError: the scale is unknown or gives an arm no size.
    """
    for arm in params.selected.arms:
        resolve_run(params, scale, arm, params.selected.seeds[0])
    slow_first = sorted(params.selected.arms, key=lambda arm: params.architectures[arm].family != "lolm")
    return [Run(arm, seed) for arm in slow_first for seed in params.selected.seeds]


def describe(params: Params, scale: str, runs: list[Run], jobs: int, stale: set[str]) -> str:
    """The plan in a few lines, with the time that what is stale will take."""
    training = scale_of(params, scale).training
    tokens = training.steps * training.tokens_per_step
    expected: Estimate = estimate(params, scale, stale)
    return "\n".join(
        (
            f"scale {scale}, study {params.study}: {len(params.selected.arms)} arms x {len(params.selected.seeds)} seeds = "
            f"{len(runs)} runs, {jobs} at a time: {', '.join(params.selected.arms)}",
            f"each run: {training.steps:,} steps of {training.tokens_per_step:,} tokens = {tokens / 1e6:.3g} M tokens"
            + (f", annealed also at {', '.join(f'{s:,}' for s in training.cooldown_steps)}" if training.cooldowns else ""),
            expected.text(jobs),
        )
    )


def stale_stages(environment: dict[str, str]) -> set[str]:
    """Names of the stages that DVC would make now, judged each for itself."""
    done = subprocess.run([*DVC, "status", "--json"], env=environment, capture_output=True, text=True, check=False)
    try:
        return set(json.loads(done.stdout)) if not done.returncode else _dvc_failed(done.stderr)
    except json.JSONDecodeError:
        return _dvc_failed(done.stdout + done.stderr)


def _dvc_failed(output: str) -> set[str]:
    raise PipelineError(f"`dvc status` failed: {output.strip()}")


def check_dvc(root: Path) -> None:
    """Raises PipelineError when DVC would refuse this folder, and says how to make it accept it."""
    if any((folder / ".git").exists() for folder in (root.resolve(), *root.resolve().parents)):
        return
    config = configparser.ConfigParser()
    config.read([root / ".dvc" / "config", root / ".dvc" / "config.local"])
    if not config.getboolean("core", "no_scm", fallback=False):
        raise PipelineError(
            "DVC wants a git repository, and this folder is none (a downloaded archive?); `git clone` the project, run "
            "`git init`, or tell DVC to do without: dvc config --local core.no_scm true"
        )


def keep_bytecode(folder: Path) -> None:
    """Where Python is told to write no bytecode (as in many containers), let it write that in ``folder`` instead of nowhere.

    Else each of the pipeline's many processes compiles DVC, PyTorch or MLflow anew, 1 to 2 s each time.
    """
    if not sys.dont_write_bytecode or sys.pycache_prefix:
        return
    sys.dont_write_bytecode, sys.pycache_prefix = False, str(folder.resolve())
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix


def child_environment(threads: int) -> dict[str, str]:
    """Environment of the stages: this interpreter's ``python`` first, one invocation id, ``threads`` per process (0 = all)."""
    environment = dict(os.environ)
    environment["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), environment.get("PATH", "")])
    environment["LOLM_PIPELINE"] = os.environ.setdefault(
        "LOLM_PIPELINE", f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    )
    environment |= {"MLFLOW_DISABLE_TELEMETRY": "true", tracking.RUNNER: "1"}
    if threads:
        environment |= dict.fromkeys(THREAD_VARIABLES, str(threads))
    return environment


def default_jobs(threads: int, runs: int) -> int:
    """As many runs as the cores hold at ``threads`` each; one on a GPU, which a single run is meant to fill."""
    if has_cuda():
        return 1
    return max(1, min(available_cores() // threads if threads else 1, runs))


def available_cores() -> int:
    """Cores this process may use: its affinity, and its container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))


def has_cuda() -> bool:
    """Whether an NVIDIA driver shows a device that isn't hidden; cheaper than importing PyTorch to ask."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    return Path("/proc/driver/nvidia/gpus").is_dir() or Path("/dev/nvidia0").exists()


def _foreground(command: list[str], environment: dict[str, str]) -> None:
    if status := foreground(command, environment):
        raise PipelineError(f"`dvc {' '.join(command[len(DVC) :])}` failed with status {status}; the reason stands above")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", help="run at this scale; params.yaml is the same afterwards (default: what it says)")
    parser.add_argument("--study", help="run this study of `studies`; params.yaml is the same afterwards")
    parser.add_argument("--jobs", type=_positive, help="runs at a time (default: what the cores hold)")
    parser.add_argument("--force", action="store_true", help="make everything again")
    return parser.parse_args()


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


if __name__ == "__main__":
    stage.main(run)
