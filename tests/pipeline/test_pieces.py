"""A stage of many pieces: side by side, a failure that stops no other, kills, and what is not made twice.

The pieces are stand-ins that write a file each.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from lolm.accounting.resolve import resolve_run
from lolm.config import load_params
from lolm.records import Layout, write
from lolm.records.schema import Summary
from pipeline import jobs, runs
from pipeline.estimate import Estimate, estimate, pieces_of, training_tokens

ROOT = Path(__file__).resolve().parents[2]

PIECE = """
import os, sys, time
from pipeline.jobs import end_with_parent
name = sys.argv[1]
end_with_parent()
def log(event):
    with open("events.txt", "a") as file:
        file.write(f"{event} {name} {os.getpid()} {os.environ['OMP_NUM_THREADS']}\\n")
log("start")
time.sleep(float(os.environ.get("SLEEP", "0")))
if name in os.environ.get("FAIL", "").split(","):
    print("error: stand-in failure")
    sys.exit(2)
open(f"made-{name}", "w").write(name)
log("end")
"""

DRIVER = """
import sys
from pathlib import Path
from types import SimpleNamespace
from pipeline import runs, stage
from pipeline.estimate import Estimate
runs.command = lambda name, stage, piece: (sys.executable, "piece.py", str(piece))
runs.estimate = lambda params, pieces: Estimate(60.0 * len(pieces), True)
chosen = SimpleNamespace(scale="smoke", params=None, preset=SimpleNamespace(training=SimpleNamespace(threads=1, devices=1)))
pieces = [runs.Piece(arm, seed) for arm in ("lolm", "transformer") for seed in (1, 2)]
why = lambda piece: None if Path(f"made-{piece}").exists() else "no record"
stage.main(lambda: runs._make_all("train", chosen, {piece: why(piece) for piece in pieces}, str))
"""
NAMES = ["lolm-1", "lolm-2", "transformer-1", "transformer-2"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "piece.py").write_text(PIECE, encoding="utf-8")
    (tmp_path / "driver.py").write_text(DRIVER, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("LOLM_JOBS", "2")
    monkeypatch.delenv("LOLM_FORCE", raising=False)
    monkeypatch.delenv(jobs.PARENT, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def drive(**variables):
    return subprocess.run(
        [sys.executable, "driver.py"], env=os.environ | variables, capture_output=True, text=True, timeout=120, check=False
    )


def started_driver(**variables):
    default = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731 - a shell's background jobs inherit it ignored
    return subprocess.Popen([sys.executable, "driver.py"], env=os.environ | variables, start_new_session=True, preexec_fn=default)


def events(kind="start"):
    path = Path("events.txt")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [line.split() for line in lines if line.startswith(kind)]


def names(kind="start"):
    return [event[1] for event in events(kind)]


def gone(process):
    """Whether a process has ended (a zombie has)."""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_for(condition, seconds=60):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_pieces_are_made_side_by_side_and_nothing_twice(folder):
    done = drive(SLEEP="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(names()) == NAMES
    lines = [line.split()[0] for line in Path("events.txt").read_text(encoding="utf-8").splitlines()]
    assert lines[:2] == ["start", "start"], "the second begins before the first ends"
    assert {event[3] for event in events()} == {"1"}, "one thread a process"
    assert "train: 4 of 4 to make, 2 at a time; about 2 minutes" in done.stdout
    (folder / "made-lolm-2").unlink()
    (folder / "events.txt").unlink()
    assert "1 of 4 to make" in drive().stdout
    assert names() == ["lolm-2"]
    assert "train: all 4 are made" in drive().stdout
    assert names() == ["lolm-2"]
    drive(LOLM_FORCE="1")
    assert len(names()) == 5


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_failure_stops_no_other_and_is_named_at_the_end(folder, workers):
    done = drive(FAIL="lolm-1", LOLM_JOBS=workers)
    assert done.returncode == 2
    assert sorted(names()) == NAMES
    assert sorted(path.name for path in folder.glob("made-*")) == [f"made-{name}" for name in NAMES[1:]]
    assert "error: train lolm-1 failed with status 2" in done.stderr
    assert "3 of 4 were made; the same command goes on" in done.stderr
    assert "Traceback" not in done.stderr
    if workers == "2":
        assert "failed with status 2: error: stand-in failure" in done.stderr
        assert ".scratch/logs/smoke-train-lolm-1.log" in done.stderr
        assert "[train lolm-1] error: stand-in failure" in done.stdout
        assert "stand-in failure" in Path(".scratch/logs/smoke-train-lolm-1.log").read_text(encoding="utf-8")
    assert drive().returncode == 0
    assert names()[4:] == ["lolm-1"], "the same command makes what is missing and nothing else"


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks at /proc")
@pytest.mark.parametrize(
    ("number", "workers"), [(signal.SIGINT, "2"), (signal.SIGTERM, "2"), (signal.SIGTERM, "1"), (signal.SIGKILL, "2")]
)
def test_a_stopped_stage_leaves_no_process_and_goes_on(folder, number, workers):
    child = started_driver(SLEEP="300", LOLM_JOBS=workers)
    assert wait_for(lambda: len(names()) == int(workers))
    processes = [int(event[2]) for event in events()]
    os.kill(child.pid, number)
    assert child.wait(timeout=60) == (-9 if number == signal.SIGKILL else 130)
    assert wait_for(lambda: all(gone(process) for process in processes), 10)
    assert not list(folder.glob("made-*"))
    assert drive().returncode == 0
    assert sorted(names("end")) == NAMES


def test_jobs_follow_cores_threads_and_device(monkeypatch):
    monkeypatch.setattr(runs, "available_cores", lambda: 8)
    monkeypatch.setattr(runs, "has_cuda", lambda: False)
    assert [runs.default_jobs(threads) for threads in (1, 2, 16, 0)] == [8, 4, 1, 1]
    monkeypatch.setattr(runs, "has_cuda", lambda: True)
    assert runs.default_jobs(1) == 1


def test_reason_is_the_last_error_of_the_stage_itself(tmp_path):
    log = tmp_path / "a.log"
    log.write_text("step 1\nerror: loss is NaN\nbye\n")
    assert jobs.Failure(jobs.Job("a", [], log), 1).reason == "error: loss is NaN"
    log.write_text("step 1\nbye\n")
    assert jobs.Failure(jobs.Job("a", [], log), 1).reason == "bye"


def test_a_piece_is_a_command_line_of_its_own():
    stage = SimpleNamespace(scale="tiny", study=SimpleNamespace(name="field"))
    words = runs.command("train", stage, runs.Piece("lolm", 2))
    assert words[1:] == ("-m", "pipeline.train", "--scale", "tiny", "--study", "field", "--arm", "lolm", "--seed", "2")
    assert runs.command("sweep", stage, runs.Piece("lolm"))[-2:] == ("--arm", "lolm")


def test_the_estimate_is_the_speed_seen_times_the_tokens_to_train(tmp_path, monkeypatch):
    params = load_params(ROOT / "params.yaml").select("smoke", "main")
    monkeypatch.chdir(tmp_path)
    assert not estimate(params, [("train", "lolm")]).measured
    for arm, seconds in (("lolm", 90.0), ("transformer", 30.0)):
        for seed in (1, 2):
            summary = Summary(arm, seed, 4, 1000, 1.0, seconds, 0.0, 1, 1.0, 1e-3, 1.0, 1.0, 1.0, 1.0, 0.1)
            write(Layout("smoke").summary(arm, seed), summary)
    found = estimate(params, [("train", "lolm"), ("recall", "transformer")])
    preset = params.scales["smoke"]
    assert found.measured
    wanted = 0.09 * training_tokens(preset, "train") + 0.03 * training_tokens(preset, "recall", fused=False)
    assert found.seconds == pytest.approx(wanted)
    assert training_tokens(preset, "train") >= preset.training.steps * preset.training.tokens_per_step


def test_a_span_of_time_is_said_in_units_a_person_thinks_in():
    assert Estimate(3 * 3600.0, True).text(1) == "about 3.0 hours (from the speed of earlier runs)"
    assert "about 20 minutes" in Estimate(2400.0, True).text(2)
    assert "roughly, from FLOPs" in Estimate(10 * 86400.0, False).text(1)
    assert "10 days" in Estimate(10 * 86400.0, False).text(1)
    assert "267 years" in Estimate(2337362.8 * 3600, False).text(1)


def test_the_pieces_of_a_study_are_its_runs_and_its_recall_arms():
    params = load_params(ROOT / "params.yaml").select("smoke", "inversion")
    pieces, study = pieces_of(params), params.selected
    assert sum(stage == "train" for stage, _ in pieces) == len(study.arms) * len(study.seeds)
    assert [arm for stage, arm in pieces if stage == "recall"] == ["lolm"] * len(study.seeds)
    assert resolve_run(params, "smoke", pieces[0][1], 1).arm == pieces[0][1]
