"""A study on a real Slurm of one node is the study that was made here."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time

import forks
import pytest
import slurm_node
import yaml
from projects import dvc, environment, halting, in_forks, process_of, python
from smoke_study import RUNS, copied, mlflow_rows

from lolm.records import Layout, read
from lolm.records.schema import Evaluation, RunHeader

pytestmark = pytest.mark.system


@pytest.mark.skipif(not slurm_node.INSTALLED, reason="Slurm is not installed: apt-get install slurm-wlm munge")
def test_a_study_on_slurm_is_the_study(made, layout, tmp_path):
    """Trained anew on a real Slurm, one run killed and one sent back into the queue: the weights of the undisturbed local runs,
    every run once in MLflow, and measurements that hold on."""
    copy = copied(made, tmp_path / "cluster", "plots", ".scratch")
    ours, path = Layout("smoke", copy), copy / "params.yaml"
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    params["cluster"] = {"minutes": 10, "poll_seconds": 1, "memory_gb": 1}
    path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    for key in RUNS:
        shutil.rmtree(ours.weights(*key))
        shutil.rmtree(ours.train(*key))
    ours.evaluation("transformer", 1).unlink()
    fingerprints = [read(layout.header("lolm", seed), RunHeader).fingerprint for seed in (1, 2)]
    words = [forks.interpreter(), "-m", "pipeline.run", "--launcher", "slurm"]
    with slurm_node.started() as slurm:
        output = tmp_path / "first.out"
        with open(output, "wb") as file:
            halted = in_forks(halting(tmp_path / "halting", *fingerprints))
            variables = environment(copy, words[0], **slurm, **halted)
            runner = subprocess.Popen(words, cwd=copy, env=variables, stdout=file, stderr=subprocess.STDOUT)
        for seed, fingerprint in zip((1, 2), fingerprints, strict=True):
            deadline = time.monotonic() + 300
            while not (copy / ".scratch" / fingerprint / "checkpoint.pt").exists():
                assert runner.poll() is None, output.read_text(encoding="utf-8")
                assert time.monotonic() < deadline, output.read_text(encoding="utf-8")
                time.sleep(0.01)
            process, task = process_of(copy, "train", "lolm", seed)
            if seed == 1:
                os.kill(process, signal.SIGKILL)
        os.kill(task, signal.SIGUSR2)  # as Slurm does before a task's time is over; its training, which stands still, cannot end
        deadline = time.monotonic() + 300
        while "BeginTime" not in (waiting := slurm_node.said(slurm, "squeue", "--noheader", "--array", "--format=%i %r")):
            assert runner.poll() is None, output.read_text(encoding="utf-8")
            assert time.monotonic() < deadline, waiting
            time.sleep(0.2)
        slurm_node.said(slurm, "scontrol", "update", f"jobid={waiting.split()[0]}", "starttime=now+5")  # two minutes later, else
        assert runner.wait(timeout=300) == 2
        said = output.read_text(encoding="utf-8")
        assert "train: 4 of 4 to make, 4 at a time" in said
        assert "[train lolm-2] the node is to be given back" in said
        assert "[train lolm-2] lolm · smoke · seed 2: going on from step" in said
        assert "error: train lolm-1 failed with status -9" in said
        assert "3 of 4 were made; the same command goes on" in said
        said = python(copy, *words[1:], **slurm)
    assert "train: 1 of 4 to make" in said
    assert "[train lolm-1] lolm · smoke · seed 1: going on from step" in said
    assert "evaluate: 1 of 4 to make" in said
    assert "ablate: all 4 are made" in said
    for key in RUNS:
        for weights in layout.weights(*key).rglob("*.safetensors"):
            relative = weights.relative_to(layout.weights(*key))
            assert (ours.weights(*key) / relative).read_bytes() == weights.read_bytes(), (key, relative)
    again, once = (read(where.evaluation("transformer", 1), Evaluation) for where in (ours, layout))
    assert (again.validation, again.test, again.samples) == (once.validation, once.test, once.samples)
    runs = mlflow_rows(copy, "SELECT name FROM runs WHERE lifecycle_stage = 'active' AND name LIKE '%seed%'")
    assert sorted(name for (name,) in runs) == [f"{arm} · smoke · seed {seed}" for arm, seed in RUNS]
    assert "Data and pipelines are up to date" in dvc(copy, "repro")
