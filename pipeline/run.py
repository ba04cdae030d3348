"""The pipeline: `dvc repro` at the scale and study of ``params.yaml``, or at others without editing it; then MLflow is filled.

The stages themselves make runs side by side, so `dvc repro` alone does the same.
"""

from __future__ import annotations

import argparse
import configparser
import os
import secrets
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import get_args

import yaml
from filelock import FileLock, Timeout

from lolm import LolmError, one_line, tracking
from lolm.config import load_params
from lolm.config.ranges import Count
from lolm.records import Layout, sha256_of
from lolm.training.scratch import SCRATCH, clear_finished
from pipeline import cluster, stage
from pipeline.dvc_state import LOCK, keep_lock, mend_lock, mend_rwlock
from pipeline.environment import FORCE, JOBS, LAUNCHER, STAGES, Launcher
from pipeline.jobs import foreground, keep_bytecode


class PipelineError(LolmError):
    """A stage failed, or DVC cannot run here."""


def run() -> None:
    args = _arguments()
    with ExitStack() as stack:
        SCRATCH.mkdir(exist_ok=True)
        keep_bytecode()
        try:
            stack.enter_context(FileLock(SCRATCH / "runner.lock", timeout=0))
        except Timeout:
            raise PipelineError("the pipeline is running in this folder already; wait for it or stop it") from None
        params = load_params().select(args.scale, args.study)
        check_dvc(Path())
        mend_lock()
        mend_rwlock()
        if args.launcher == "slurm":
            cluster.check()
        environment = child_environment(args.jobs, force=args.force) | {LAUNCHER: args.launcher, STAGES: " ".join(_stages())}
        before = sha256_of(LOCK) if LOCK.exists() else ""
        status = foreground(command(args.scale, args.study, "repro", *(["--force"] if args.force else [])), environment)
        if status or args.force or not LOCK.exists() or sha256_of(LOCK) != before:  # else nothing was made
            tracking.try_sync_scale(params.scale)  # also what was made before a failure
            if not status:
                clear_finished(SCRATCH)
            keep_lock()
        if status:
            raise PipelineError(f"`dvc repro` failed with status {status}; the reason stands above")
    folder = Layout(params.scale).study(params.study)
    print(f"the report: {folder}/report.html; all studies: reports/{params.scale}/index.html; the curves: make ui")


def command(scale: str | None, study: str | None, *words: str) -> list[str]:
    """DVC's command line at a scale and study; None leaves what params.yaml says."""
    chosen = [*(["--scale", scale] if scale else []), *(["--study", study] if study else [])]
    return [sys.executable, "-m", "pipeline.dvc", *chosen, *words]


def check_dvc(root: Path) -> None:
    """Raises PipelineError when DVC would refuse this folder, and says how to make it accept it."""
    if any((folder / ".git").exists() for folder in (root.resolve(), *root.resolve().parents)):
        return
    config = configparser.ConfigParser()
    try:
        config.read([root / ".dvc" / "config", root / ".dvc" / "config.local"], encoding="utf-8")
        alone = config.getboolean("core", "no_scm", fallback=False)
    except (configparser.Error, ValueError) as error:
        advice = "mend that line, or bring the file back with `git checkout .dvc/config`"
        raise PipelineError(f".dvc/config or .dvc/config.local cannot be read ({one_line(error)}); {advice}") from None
    if not alone:
        raise PipelineError(
            "DVC wants a git repository, and this folder is none (a downloaded archive?); `git clone` the project, run "
            "`git init`, or tell DVC to do without: dvc config --local core.no_scm true"
        )


def _stages() -> list[str]:
    """Names of DVC's stages, in order; raises PipelineError where ``dvc.yaml`` says none."""
    try:
        return list(yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"])
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, RecursionError) as error:
        advice = "bring it back with `git checkout dvc.yaml`"
        raise PipelineError(f"dvc.yaml: not a list of stages ({one_line(error)}); {advice}") from None


def child_environment(jobs: int | None = None, *, force: bool = False) -> dict[str, str]:
    """Environment of the stages: this interpreter's ``python`` first, one invocation id, how many pieces at a time."""
    environment = dict(os.environ)
    environment["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), environment.get("PATH", "")])
    environment["LOLM_PIPELINE"] = os.environ.setdefault(
        "LOLM_PIPELINE", f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    )
    environment |= {"MLFLOW_DISABLE_TELEMETRY": "true", tracking.RUNNER: "1"}
    return environment | ({JOBS: str(jobs)} if jobs else {}) | ({FORCE: "1"} if force else {})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", help="run at this scale (default: that of params.yaml, which stays as it is)")
    parser.add_argument("--study", help="run this study of `studies` (default: that of params.yaml)")
    parser.add_argument("--jobs", type=stage.option(Count), help="runs at a time (default: what the cores hold; a cluster: all)")
    parser.add_argument("--launcher", choices=get_args(Launcher), default="local", help="where runs are made (default: here)")
    parser.add_argument("--force", action="store_true", help="make everything again")
    return parser.parse_args()


if __name__ == "__main__":
    stage.main(run)
