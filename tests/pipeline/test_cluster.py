"""A stage of many pieces on a real Slurm of one node: failures, kills, requeues, a driver that dies, and what is not made twice.

The pieces are stand-ins; a study whose runs are trained there is ``test_slurm_study.py``'s.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from projects import ROOT
from slurm_node import INSTALLED, started
from test_pieces import wait_for

from lolm import LolmError
from lolm.config import ClusterConfig, ConfigError, from_mapping
from pipeline import cluster, runs, stage
from pipeline.jobs import Job

PIECE = """
import os, sys, time
from pipeline.jobs import end_with_parent
end_with_parent()
name = sys.argv[1]
def log(event):
    with open("events.txt", "a") as file:
        file.write(f"{event} {name} {os.environ['OMP_NUM_THREADS']} {os.environ['SLURM_CPUS_PER_TASK']}\\n")
log("start")
print(f"{name}: hello", flush=True)
while not os.path.exists("go"):
    time.sleep(0.1)
if name in os.environ.get("FAIL", "").split(","):
    print("error: stand-in failure")
    sys.exit(2)
open(f"made-{name}", "w").write(name)
log("end")
"""

DRIVER = """
import os, sys
from pathlib import Path
from types import SimpleNamespace
from lolm.config import ClusterConfig
from lolm.records import Layout
from pipeline import progress, runs, stage
from pipeline.estimate import Estimate
runs.command = lambda name, stage, piece: (sys.executable, "piece.py", str(piece))
progress.estimate = lambda params, pieces: Estimate((60.0,) * len(pieces), True)
progress.arms_of = lambda params, stage: ()
study = SimpleNamespace(name="main", subject="lolm", baseline="transformer", seeds=(1, 2))
cluster = ClusterConfig(partition="both", minutes=5, memory_gb=0.5, poll_seconds=1, setup=("export SET=UP",), options={"nice": 1})
chosen = SimpleNamespace(
    scale="smoke", params=SimpleNamespace(cluster=cluster), study=study, layout=Layout("smoke"),
    preset=SimpleNamespace(training=SimpleNamespace(threads=1, devices=1, nodes=1)))
pieces = [runs.Piece(arm, seed) for arm in ("lolm", "transformer") for seed in (1, 2)]
why = lambda piece: None if Path(f"made-{piece}").exists() else "no record"
inputs = lambda piece: os.environ.get("INPUTS", "as they were")
stage.main(lambda: runs._make_all("train", chosen, {piece: why(piece) for piece in pieces}, inputs))
"""
NAMES = ["lolm-1", "lolm-2", "transformer-1", "transformer-2"]

on_slurm = pytest.mark.skipif(not INSTALLED, reason="Slurm is not installed: apt-get install slurm-wlm munge")


@pytest.fixture(scope="module")
def slurm():
    with started() as environment:
        yield environment


@pytest.fixture
def folder(tmp_path, monkeypatch, slurm):
    (tmp_path / "piece.py").write_text(PIECE, encoding="utf-8")
    (tmp_path / "driver.py").write_text(DRIVER, encoding="utf-8")
    for name, value in {**slurm, "PYTHONPATH": str(ROOT), "LOLM_LAUNCHER": "slurm"}.items():
        monkeypatch.setenv(name, value)
    for name in ("LOLM_FORCE", "LOLM_JOBS", "LOLM_PARENT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Driver:
    """A stage that runs; what it says is read at its end."""

    def __init__(self, name="driver", **variables):
        self.output = Path(f"{name}.out")
        with open(self.output, "wb") as output:
            default = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731 - background jobs inherit it ignored
            self.process = subprocess.Popen(
                [sys.executable, "driver.py"], env=os.environ | variables, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True, preexec_fn=default,
            )  # fmt: skip

    def until(self, condition):
        assert wait_for(lambda: condition() or self.process.poll() is not None)
        assert condition(), self.said()

    def said(self):
        return self.output.read_text(encoding="utf-8")

    def end(self, status=0, number=None):
        if number:
            os.kill(self.process.pid, number)
        ended = self.process.wait(timeout=90)
        said = self.said()
        assert ended == status, said
        assert "Traceback" not in said, said
        return said


def names(kind="start"):
    path = Path("events.txt")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return sorted(line.split()[1] for line in lines if line.startswith(kind))


def queue():
    return cluster._queue()


def jobs(name):
    """Slurm's id of the task that makes a piece, while it is in the queue."""
    found = [path for path in cluster.FOLDER.glob("*_submitted.pkl") if f"train {name}".encode() in path.read_bytes()]
    return [path.name.removesuffix("_submitted.pkl") for path in found]


def tell_slurm(*words):
    subprocess.run(words, check=True)


def number_of(ident):
    """What Slurm's processes call a task."""
    words = ["squeue", "--me", "--noheader", "--format=%A", f"--jobs={ident}"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def has_left(number):
    """Whether Slurm itself has no process for a task on the node any more.

    That comes after the task's state; one that began anew before would be ended by what the first one still reports.
    """
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            if f"slurmstepd: [{number}.".encode() in (process / "cmdline").read_bytes():
                return False
    return True


@pytest.mark.system
@on_slurm
def test_a_failed_a_killed_a_warned_and_a_requeued_task(folder):
    """One exits with an error, one is killed, one is warned as at the end of its time, one requeued by the scheduler."""
    driver = Driver(FAIL="lolm-1")
    driver.until(lambda: len(names()) == 2)  # a core has one
    (warned,), (killed,) = jobs("lolm-1"), jobs("lolm-2")
    tell_slurm("scancel", "--signal=KILL", killed)
    warning = subprocess.Popen(["scancel", "--signal=USR2", warned])  # it goes on trying once the task has gone
    driver.until(lambda: queue()[warned][0] == "PENDING")
    warning.kill()
    driver.until(lambda: names() == NAMES)  # the cores are free for the others
    (requeued,) = jobs("transformer-1")
    tell_slurm("scontrol", "requeue", requeued)
    driver.until(lambda: queue()[requeued][0] == "PENDING")
    for ident in (warned, requeued):  # Slurm waits two minutes: late news of the first try would end the second
        number = number_of(ident)
        driver.until(lambda number=number: has_left(number))
        tell_slurm("scontrol", "update", f"jobid={ident}", "starttime=now+5")
    Path("go").touch()
    said = driver.end(2)
    assert names() == sorted([*NAMES, "lolm-1", "transformer-1"]), said
    assert names("end") == ["transformer-1", "transformer-2"]
    assert "train: 4 of 4 to make, 4 at a time" in said
    assert re.search(r"train: submitted as job \d+\n", said), "one array"
    assert "[train transformer-2] transformer-2: hello" in said
    assert "[train lolm-1] the node is to be given back" in said
    assert said.count("error: train lolm-1 failed with status 2: error: stand-in failure") == 1
    assert re.search(r"error: train lolm-2 failed .* the cluster ended job \d+_1 before it had .*: slurmstepd.* CANCELLED", said)
    assert ".scratch/logs/smoke-train-lolm-2.log" in said
    assert "2 of 4 were made; the same command goes on" in said
    assert {tuple(line.split()[2:]) for line in Path("events.txt").read_text(encoding="utf-8").splitlines()} == {("1", "1")}

    assert "2 of 4 to make" in Driver().end()
    assert names("end") == NAMES
    assert "train: all 4 are made" in Driver().end()
    assert len(names()) == 8
    assert not list(cluster.FOLDER.glob("*.pkl"))


@pytest.mark.system
@on_slurm
def test_after_a_driver_that_died_nothing_is_submitted_twice(folder):
    first = Driver("first", LOLM_JOBS="1")
    first.until(lambda: len(names()) == 1)
    first.end(-9, signal.SIGKILL)
    second = Driver("second", LOLM_JOBS="1")
    second.until(lambda: "4 of them are in the queue already" in second.said())
    second.end(-9, signal.SIGKILL)
    # What waits for other parameters is of no use.
    third = Driver("third", INPUTS="edited")
    third.until(lambda: len(names()) == 3)  # one of the first, two at a time of the new ones
    assert len({ident.partition("_")[0] for ident in queue()}) == 1
    Path("go").touch()
    said = third.end()
    assert "waiting for the end of job" in said
    assert names("end") == NAMES


@pytest.mark.system
@on_slurm
def test_a_stopped_driver_leaves_no_job(folder):
    driver = Driver()
    driver.until(lambda: len(names()) == 2)
    driver.end(130, signal.SIGINT)
    assert wait_for(lambda: not queue(), 20)
    Path("go").touch()
    Driver().end()
    assert names("end") == NAMES


@pytest.mark.system
@on_slurm
def test_what_slurm_refuses_is_one_line(folder):
    text = Path("driver.py").read_text(encoding="utf-8")
    Path("driver.py").write_text(text.replace('partition="both"', 'partition="none"'), encoding="utf-8")
    said = Driver().end(2)
    assert "error: train: Slurm refuses the jobs: " in said
    assert "invalid partition" in said


def test_without_slurm_the_launcher_says_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LolmError, match="there is no sbatch, srun, squeue, scancel"):
        cluster.check()


def test_what_a_run_on_several_devices_asks_for(monkeypatch, tmp_path):
    for name, lines in {"sbatch": 'cp "$1" asked.sh; echo "Submitted batch job 7"', "srun": ""}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{lines}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_JOB_ID", "1")  # the driver's own job, of which nothing is to be handed on
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "100")
    monkeypatch.chdir(tmp_path)
    settings = ClusterConfig(minutes=720, gpus=1, cpus=8, memory_gb=0.75, setup=("module load cuda",), options={"qos": "long; x"})
    training = SimpleNamespace(threads=1, devices=4, nodes=2)
    chosen = SimpleNamespace(params=SimpleNamespace(cluster=settings), preset=SimpleNamespace(training=training))
    assert runs._share("evaluate", chosen) == cluster.Share(cpus=8, gpus=1, nodes=1)
    task = cluster.Task(Job("train lolm-1", ["true"], Path("lolm-1.log")), {})
    assert cluster._submit("train", [task], 1, settings, runs._share("train", chosen)) == {"7": task}
    asked = Path("asked.sh").read_text(encoding="utf-8").splitlines()
    wanted = "time=720 nodes=2 gpus-per-node=4 cpus-per-task=32 mem=768M signal=USR2@90 requeue job-name=lolm-train"
    assert {f"#SBATCH --{option}" for option in [*wanted.split(), "qos='long; x'"]} <= set(asked)
    assert {"module load cuda", *cluster.MEETING_POINT} <= set(asked)
    assert "--cpus-per-task=32" in asked[-1]
    assert "SLURM_MEM_PER_NODE" not in os.environ
    assert cluster._submit("evaluate", [task], 1, ClusterConfig(), cluster.Share()) == {"7": task}
    assert "MASTER_ADDR" not in Path("asked.sh").read_text(encoding="utf-8")


def test_settings_of_a_cluster_are_checked():
    with pytest.raises(ConfigError) as caught:
        from_mapping(ClusterConfig, {"minutes": 0, "gpus": -1, "partition": "a\nb", "partiton": "a", "options": {"a;b": 1}})
    assert len(caught.value.problems) == 5
    with pytest.raises(ConfigError) as caught:
        from_mapping(ClusterConfig, {"minutes": 1, "options": {"time": 3, "array": "1-2", "qos": "a\nb", "exclusive": True}})
    assert [str(problem) for problem in caught.value.problems] == [
        "warning_seconds: 90 leave nothing of the task's 1 minutes",
        "options.time: is set by cluster.minutes",
        "options.array: is the launcher's own",
        "options.qos: 'a\\nb' is not one line of text",
    ]


def test_a_job_that_waited_makes_what_it_was_submitted_for(monkeypatch):
    runs._refuse_other_inputs(lambda: pytest.fail("nobody asked"))
    monkeypatch.setenv("LOLM_IDENTITY", "as it was")
    runs._refuse_other_inputs(lambda: "as it was")
    with pytest.raises(runs.StageError, match="submitted to make something else"):
        runs._refuse_other_inputs(lambda: "edited")


def test_what_is_made_is_judged_by_the_nodes_device(monkeypatch):
    assert stage.training_device() in ("cpu", "cuda")
    monkeypatch.setenv("LOLM_DEVICE", "cuda")
    assert stage.training_device() == "cuda"
