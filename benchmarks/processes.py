"""What happens around training: starting, DVC and MLflow, runs side by side, compiling."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.settings import Settings
from benchmarks.timing import Part, Samples, Unavailable, ratios, scaled, summary, timed
from benchmarks.worker import Worker
from lolm.records import Layout, RunKey, read
from lolm.records.schema import Summary
from pipeline.jobs import available_cores

IMPORTS = {"interpreter": "pass", "lolm.config": "import lolm.config", "pipeline.train": "import pipeline.train"}
DVC_STAGE = "corpus"
COMPILE_LIMIT = 150.0  # seconds: a warm-up that is longer than this does not pay in any run of a laptop
# Fills a new store from one finished run: scale, arm, seed; prints seconds of the import with the store, and of the run.
SYNC = """
import json, sys, time
from lolm import tracking
from lolm.records import Layout, RunKey
start = time.perf_counter()
tracking.prepare_store()
ready = time.perf_counter()
tracking.sync_run(Layout(sys.argv[1]), RunKey(sys.argv[2], int(sys.argv[3])))
print(json.dumps([ready - start, time.perf_counter() - ready]))
"""


def startup(settings: Settings, stack: ExitStack) -> Part:
    """Seconds of processes that do nothing but start, of DVC for a stage that is up to date, and of MLflow for a run."""
    calls: dict[str, Callable[[], float]] = {name: timed_process([sys.executable, "-c", code]) for name, code in IMPORTS.items()}
    skipped: dict[str, Any] = {}
    try:
        calls["dvc"] = idle_stage(settings.scale)
    except Unavailable as reason:
        skipped["dvc"] = {"skipped": str(reason)}
    layout, synced = Layout(settings.scale), list[list[float]]()
    run = finished_run(layout)
    if run is None:
        skipped["mlflow"] = {"skipped": f"{layout.reports} has no finished run"}
    else:
        calls["mlflow"] = lambda: synced.append(mlflow_seconds(layout, run)) or sum(synced[-1])  # type: ignore[func-returns-value]

    def result(samples: Samples) -> dict[str, Any]:
        entry: dict[str, Any] = {f"import {name}": summary(samples[name]) for name in IMPORTS}
        if "dvc" in calls:
            entry["dvc"] = {"stage": f"{DVC_STAGE}@{settings.scale}", "seconds": summary(samples["dvc"])}
        if run is not None:
            record = read(layout.summary(*run), Summary)
            training = record.seconds + record.annealing_seconds
            of_run = [seconds for _, seconds in synced]
            entry["mlflow"] = {
                "store_seconds": summary([seconds for seconds, _ in synced]),
                "run_seconds": summary(of_run),
                "training_seconds": training,
                "share_of_training": summary(scaled(of_run, 1 / training)),
            }
        return entry | skipped

    return Part(calls, result, most=3)


def timed_process(command: list[str], **options: Any) -> Callable[[], float]:
    """Measures seconds of a process that must succeed; raises Unavailable with its last line where it does not."""

    def measure() -> float:
        return timed(lambda: process(command, **options))

    return measure


def process(command: list[str], **options: Any) -> str:
    """Run a process; returns its standard output, or raises Unavailable with its last line."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no message"]
        raise Unavailable(f"{' '.join(command[1:4])}: {last[0]}")
    return done.stdout


def idle_stage(scale: str) -> Callable[[], float]:
    """Measures ``dvc repro`` of one stage that is up to date; nothing is run or written.

    Raises:
        Unavailable: there is no lock file, or the stage is not up to date.
    """
    if not Path("dvc.lock").exists():
        raise Unavailable("no dvc.lock here; `dvc repro` makes it")
    stage = f"{DVC_STAGE}@{scale}"
    command = [sys.executable, "-m", "dvc", "repro", "--dry", "--single-item", stage]
    if "Running" in process(command):
        raise Unavailable(f"stage {stage} is not up to date; `dvc repro` makes it")
    return timed_process(command)


def finished_run(layout: Layout) -> RunKey | None:
    """A run of the scale that ended well, by its records."""
    return next((key for key in layout.recorded_runs() if layout.summary(*key).exists()), None)


def mlflow_seconds(layout: Layout, run: RunKey) -> list[float]:
    """Seconds to import MLflow and make a store, and to fill it from a run; in a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        store = {"MLFLOW_TRACKING_URI": "", "DVC_ROOT": folder, "MLFLOW_DISABLE_TELEMETRY": "true"}
        output = process([sys.executable, "-c", SYNC, layout.scale, run.arm, str(run.seed)], env=os.environ | store)
    return json.loads(output.strip().splitlines()[-1])


# ---------------------------------------------------------------------------------------------- side by side


def side(settings: Settings, stack: ExitStack) -> Part:
    """Tokens a second of two runs with one thread each, against one run with two threads, and one with one."""
    if available_cores() < 2:
        raise Unavailable("one core has no room for two runs")
    arm, steps = settings.arms[0], settings.worker_steps
    pair = [Worker(stack, settings.scale, arm, 1) for _ in range(2)]
    double = Worker(stack, settings.scale, arm, 2)
    tokens = [worker.ready() for worker in (*pair, double)][0]["tokens"]

    def speed(*workers: Worker) -> float:
        for worker in workers:
            worker.ask(steps)
        return sum(steps * tokens / worker.seconds() for worker in workers)

    measures = {"pair": lambda: speed(*pair), "double": lambda: speed(double), "single": lambda: speed(pair[0])}

    def result(samples: Samples) -> dict[str, Any]:
        return {
            "arm": arm,
            "unit": "tokens per second",
            "two_runs_of_one_thread": summary(samples["pair"]),
            "one_run_of_two_threads": summary(samples["double"]),
            "one_run_of_one_thread": summary(samples["single"]),
            "two_runs_over_two_threads": summary(ratios(samples["pair"], samples["double"])),
            "two_runs_over_one_run": summary(ratios(samples["pair"], samples["single"])),
        }

    return Part(measures, result)


def compiling(settings: Settings, stack: ExitStack) -> Part:
    """Step time with and without ``torch.compile``, and the steps after which its warm-up has paid."""
    compiler = os.environ.get("CXX") or next((name for name in ("g++", "c++", "clang++") if shutil.which(name)), None)
    if compiler is None:
        raise Unavailable("no C++ compiler")
    arm, steps = settings.arms[0], max(1, settings.worker_steps // 4)
    folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))  # a cache would hide the warm-up
    compiled = Worker(stack, settings.scale, arm, settings.threads, True, {"TORCHINDUCTOR_CACHE_DIR": folder})
    first = compiled.ready(COMPILE_LIMIT)["first_seconds"]
    plain = Worker(stack, settings.scale, arm, settings.threads)
    plain_first = plain.ready()["first_seconds"]

    def one(worker: Worker) -> float:
        worker.ask(steps)
        return worker.seconds() / steps

    def result(samples: Samples) -> dict[str, Any]:
        with_it, without = summary(samples["compiled"]), summary(samples["plain"])
        saved = without["median"] - with_it["median"]
        warm_up = first - plain_first
        return {
            "arm": arm,
            "compiled_seconds": with_it,
            "plain_seconds": without,
            "plain_over_compiled": summary(ratios(samples["plain"], samples["compiled"])),
            "warm_up_seconds": warm_up,
            "steps_until_it_pays": warm_up / saved if saved > 0 else None,
        }

    return Part({"compiled": lambda: one(compiled), "plain": lambda: one(plain)}, result)
