"""A study whose process is killed, whose run diverges, whose files are cut: nothing else is lost, and what broke is named."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time

import forks
import pytest
from projects import environment, halting, in_forks, process_of, python
from smoke_study import SEEDS, copied

from lolm.records import Layout, read, read_series
from lolm.records.schema import Divergence, RunHeader

pytestmark = pytest.mark.system


def test_killed_run_goes_on_and_ends_bit_identical(made, layout, tmp_path):
    """kill -9 in the middle of training, then the same stage again: the weights of the undisturbed run, and nothing else made."""
    copy = copied(made, tmp_path / "killed", "plots", ".scratch")
    ours, fingerprint = Layout("smoke", copy), read(layout.header("lolm", 1), RunHeader).fingerprint
    shutil.rmtree(ours.weights("lolm", 1))
    words = [forks.interpreter(), "-m", "pipeline.train"]
    variables = environment(copy, words[0], **in_forks(halting(tmp_path / "halting", fingerprint)))
    process = subprocess.Popen(words, cwd=copy, env=variables)
    deadline = time.monotonic() + 300
    while not (copy / ".scratch" / fingerprint / "checkpoint.pt").exists():
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    training, _ = process_of(copy, "train", "lolm", 1)
    for number in (process.pid, training):
        os.kill(number, signal.SIGKILL)
    process.wait()
    assert not ours.weights("lolm", 1).exists()
    said = python(copy, "-m", "pipeline.train")
    assert "1 of 4 to make" in said
    assert "lolm-1: no weights" in said
    assert "going on from step" in said
    for name in ("model.safetensors", "snapshots/step-000015.safetensors"):
        assert (ours.weights("lolm", 1) / name).read_bytes() == (layout.weights("lolm", 1) / name).read_bytes(), name
    assert ours.header("lolm", 1).read_bytes() == layout.header("lolm", 1).read_bytes()
    clock = ("seconds", "speed/", "system/")
    rows = [
        [{k: v for k, v in row.items() if not k.startswith(clock)} for row in read_series(where.series("lolm", 1))]
        for where in (ours, layout)
    ]
    assert rows[0] == rows[1]


def test_a_study_without_its_weights_is_made_by_its_records_where_that_is_said(made, tmp_path):
    """As `make budgets` says it: in a clone every run has its records, and none its weights."""
    copy = copied(made, tmp_path / "clone", "plots")
    ours = Layout("smoke", copy)
    shutil.rmtree(ours.artifacts / "runs")
    for name in ("train", "evaluate", "ablate", "layers", "recall"):
        assert f"{name}: all " in python(copy, "-m", f"pipeline.{name}", LOLM_RECORDED="1"), name
    assert list((ours.artifacts / "runs").iterdir()) == []
    ours.ablation("transformer", 1).unlink()
    said = python(copy, "-m", "pipeline.train", LOLM_RECORDED="1")
    assert "train: 1 of 4 to make" in said
    assert "transformer-1: no weights to make reports/smoke/ablate/transformer-1.json.xz with" in said
    assert "ablate: 1 of 4 to make" in python(copy, "-m", "pipeline.ablate", LOLM_RECORDED="1")
    assert "evaluate: all 4 are made" in python(copy, "-m", "pipeline.evaluate", LOLM_RECORDED="1")


def test_a_run_that_diverges_stops_no_other_and_shows_as_such(made, tmp_path):
    """A learning rate far too high in one arm's sweep record: its runs diverge, the others are kept, the rest goes on."""
    copy = copied(made, tmp_path / "diverged", "plots")
    ours, path = Layout("smoke", copy), Layout("smoke", copy).sweep("transformer")
    path.write_text(re.sub(r'"chosen": [\d.e-]+', '"chosen": 1e30', path.read_text(encoding="utf-8")), encoding="utf-8")
    said = python(copy, "-m", "pipeline.train")
    assert "2 of 4 to make" in said
    assert "other parameters: size.learning_rate" in said
    for seed in SEEDS:
        failed = read(ours.divergence("transformer", seed), Divergence)
        assert "not finite" in failed.reason
        assert (failed.header.run.size.learning_rate, failed.header.fingerprint) == (1e30, failed.fingerprint)
        assert not ours.header("transformer", seed).exists()
        assert not ours.weights("transformer", seed).exists()
        assert not ours.evaluation("transformer", seed).exists()
    assert "train: all 4 are made" in python(copy, "-m", "pipeline.train")
    assert "evaluate: all 4 are made" in python(copy, "-m", "pipeline.evaluate")
    python(copy, "-m", "pipeline.report", "--scale", "smoke", "--study", "main")
    assert "diverged" in (ours.study("main") / "report.html").read_text(encoding="utf-8")


def test_broken_inputs_are_named(made, tmp_path):
    copy = copied(made, tmp_path / "broken", ".dvc")
    one = ["--arm", "lolm", "--seed", "1"]
    weights = copy / "artifacts/smoke/runs/lolm-1/model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "model.safetensors" in python(copy, "-m", "pipeline.evaluate", *one, status=2)
    shard = next((copy / "artifacts/smoke/shards/train").glob("*.bin"))
    shard.chmod(0o644)
    shard.write_bytes(shard.read_bytes()[:-2])
    assert shard.name in python(copy, "-m", "pipeline.train", *one, status=2)
    assert os.listdir(copy / "reports/smoke/train/lolm-1")
