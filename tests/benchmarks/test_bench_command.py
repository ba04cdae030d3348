"""The command: what it writes, and what it says of what does not exist."""

import json
import os
import shutil
import sqlite3
import subprocess
from pathlib import Path

import forks

from lolm import tracking

ROOT = Path(__file__).resolve().parents[2]


def bench(folder, *arguments):
    shutil.copy(ROOT / "params.yaml", folder)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DVC_ROOT": str(folder), "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [forks.interpreter(), "-m", "benchmarks.__main__", "--scale", "smoke", "--quick", "--rounds", "2", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_quick_run_writes_record_figure_and_one_mlflow_run(tmp_path, monkeypatch):
    done = bench(tmp_path, "--arms", "transformer", "mamba", "--parts", "machine,steps,scan")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "reports" / "benchmark.json").exists(), "what pages show is left alone"
    record = json.loads((tmp_path / "reports" / "benchmark_quick.json").read_text())
    assert record["settings"]["quick"] is True
    assert set(record) == {"settings", "machine", "steps", "scan"}
    assert record["machine"]["cores"] >= 1
    assert record["steps"]["base"]["arms"]["mamba"]["share_of_peak"]["n"] == 2
    assert "steps / wide / arms / mamba / share_of_peak: " in done.stdout
    figure = (tmp_path / "reports" / "figures" / "benchmark_quick.svg").read_text()
    assert "Transformer, published form" in figure
    assert "share of peak,wide,Mamba," in (tmp_path / "reports" / "figures" / "benchmark_quick.csv").read_text()

    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracking.sync_benchmark(tmp_path / "reports" / "benchmark_quick.json")  # again, which adds nothing
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        (name,) = database.execute(
            "SELECT experiments.name FROM runs JOIN experiments USING (experiment_id) WHERE runs.name = 'benchmark'"
        ).fetchone()
        values = dict(database.execute("SELECT key, value FROM metrics"))
    assert name == "benchmark"
    wanted = record["steps"]["base"]["arms"]["mamba"]["seconds"]
    assert values["steps/base/arms/mamba/seconds"] == wanted["median"]
    assert values["steps/base/arms/mamba/seconds/high"] == wanted["high"]


def test_what_does_not_exist_is_one_line_that_names_the_choices(tmp_path):
    done = bench(tmp_path, "--arms", "transformer", "--parts", "scann")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: no part 'scann'")
    done = bench(tmp_path, "--arms", "transformr", "--parts", "scan")
    assert done.returncode == 2
    assert "scale 'smoke' has " in done.stderr
    assert " lolm, " in done.stderr
    assert not (tmp_path / "reports").exists()
