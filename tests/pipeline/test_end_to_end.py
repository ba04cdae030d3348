"""The real pipeline at scale smoke, in a copy of the project: what a user gets, and what a second run, a kill or an edit does."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from lolm.records import read_json, read_series

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
ARMS, SEEDS, STEPS = ("lolm", "transformer"), (1, 2), 30
RUNS = [f"{arm}-{seed}" for arm in ARMS for seed in SEEDS]


def environment(root):
    bin_folder = str(Path(sys.executable).parent)
    path = os.pathsep.join([bin_folder, os.environ["PATH"]])
    own = {"PATH": path, "DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(root / ".site"), "OMP_NUM_THREADS": "1"}
    dropped = ("DVC_ROOT", "MLFLOW_TRACKING_URI", "LOLM_PIPELINE")
    return {key: value for key, value in os.environ.items() if key not in dropped} | own


def command(root, *words, status=0):
    done = subprocess.run(words, cwd=root, env=environment(root), capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def dvc(root, *words, status=0):
    return command(root, sys.executable, "-m", "dvc", *words, status=status)


def copy_of_project(root):
    """The files git knows or would add, with a short smoke scale chosen, in a fresh repository."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file() and not name.startswith(("reports/", "tests/", "dvc.lock")):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
    params = (root / "params.yaml").read_text(encoding="utf-8")
    smoke, rest = params.split("\n  tiny:", 1)
    smoke = re.sub(r"(?m)^scale: \w+", "scale: smoke", smoke)
    study = f"{{name: main, arms: [{', '.join(ARMS)}], seeds: {list(SEEDS)}, subject: lolm, baseline: transformer"
    study += f", recall: [{', '.join(ARMS)}]}}"
    smoke = re.sub(r"(?m)^  main: &main \{.*\}$", f"  main: &main {study}", smoke)
    smoke = re.sub(r"(?m)^study: \*\w+", "study: *main", smoke)
    smoke = re.sub(r"\bsteps: \d+", f"steps: {STEPS}", smoke, count=1)
    (root / "params.yaml").write_text(smoke + "\n  tiny:" + rest, encoding="utf-8")
    command(root, "git", "init", "-q")
    command(root, "git", "-c", "user.name=test", "-c", "user.email=test@localhost", "add", "-A")
    command(root, "git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-qm", "copy")
    return root


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy in which the whole pipeline has run once."""
    root = copy_of_project(tmp_path_factory.mktemp("project"))
    command(root, sys.executable, "-m", "pipeline.run", "--jobs", "2")
    return root


def mlflow_rows(root, query):
    with closing(sqlite3.connect(root / "mlflow.db")) as database:
        return database.execute(query).fetchall()


def test_everything_a_reader_expects_is_there(project):
    reports = project / "reports" / "smoke"
    claims = read_json(reports / "main" / "claims.json")
    wanted = {"id", "statement", "source", "published", "as_published", "sound", "verdict", "why", "runs"}
    assert all(wanted <= set(claim) for claim in claims)
    assert {c["verdict"] for c in claims} <= {"holds", "fails", "inconclusive", "not testable at this scale"}
    page = (reports / "main" / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert not re.search(r"""(src|href)=["'](https?:)?//""", page), "the page must need nothing from outside"
    for name in RUNS:
        rows = read_series(project / "artifacts" / "smoke" / "runs" / name / "metrics.jsonl")
        evaluated = [row["step"] for row in rows if "val/nats" in row]
        assert evaluated == [0, 10, 20, 30]
        assert not (project / "artifacts" / "smoke" / "runs" / name / "checkpoint.pt").exists()
    plan = read_json(reports / "main" / "plan.json")
    assert abs(plan["transformer"]["mismatch"]) <= 0.005
    assert {"lolm-1", "transformer-1"} <= {Path(p).name for p in (reports / "runs").iterdir()}


def test_the_swept_rate_is_the_one_trained_with(project):
    for arm in ARMS:
        sweep = read_json(project / "artifacts" / "smoke" / "sweep" / f"{arm}.json")
        rates = {rate["learning_rate"]: rate["nats"] for rate in sweep["rates"]}
        assert len(rates) == 3
        assert sweep["chosen"] == min(rates, key=rates.__getitem__)
        for seed in SEEDS:
            config = read_json(project / "artifacts" / "smoke" / "runs" / f"{arm}-{seed}" / "config.json")
            assert config["run"]["size"]["learning_rate"] == sweep["chosen"]


def test_measurements_of_every_kind(project):
    for name in RUNS:
        record = read_json(project / "artifacts" / "smoke" / "evaluate" / f"{name}.json")
        ends = [(row["step"], row["tokens"]) for row in record["schedule_ends"]]
        assert ends == [(step, step * 256) for step in (8, 15, 30)]
        assert record["schedule_ends"][-1]["test"] == record["test"]
        assert record["samples"]["generated"]["distinct_2"] is not None
        assert record["positions"]["bins"][-1]["stop"] == 64
        assert set(record["lengths"]["windows"]) | set(record["lengths"]["left_out"]) == {"1", "2", "4"}
        tasks = read_json(project / "artifacts" / "smoke" / "recall" / f"{name}.json")["tasks"]
        assert set(tasks) == {"mqar", "induction"}
    board = read_json(project / "reports" / "smoke" / "main" / "leaderboard.json")
    assert set(board) == set(ARMS)
    columns = {"length_2x_nats", "length_4x_nats", "late_minus_early_bits_per_byte", "mqar_accuracy", "distinct_2"}
    assert all(columns <= set(row) for row in board.values()), "what the stages write is what the leaderboard reads"


def test_second_run_does_nothing(project):
    before = {path: path.stat().st_mtime_ns for path in (project / "artifacts").rglob("*") if path.is_file()}
    printed = dvc(project, "repro")
    assert "Running stage" not in printed
    assert "Data and pipelines are up to date" in printed
    assert before == {path: path.stat().st_mtime_ns for path in (project / "artifacts").rglob("*") if path.is_file()}


def test_every_run_is_in_mlflow_once_with_what_the_records_say(project):
    names = [row[0] for row in mlflow_rows(project, "SELECT name FROM runs WHERE lifecycle_stage = 'active'")]
    assert sorted(names) == sorted(
        [f"{r.split('-')[0]} · smoke · seed {r.split('-')[1]}" for r in RUNS] + ["report · smoke · main"]
    )
    for name in RUNS:
        folder = project / "artifacts" / "smoke" / "runs" / name
        fingerprint = read_json(folder / "config.json")["fingerprint"]
        query = f"""SELECT metrics.step, metrics.value FROM metrics JOIN tags USING (run_uuid)
                    WHERE tags.key = 'fingerprint' AND tags.value = '{fingerprint}' AND metrics.key = 'val/nats'"""
        recorded = [(row["step"], row["val/nats"]) for row in read_series(folder / "metrics.jsonl") if "val/nats" in row]
        assert sorted(mlflow_rows(project, query)) == recorded
    runs_of_claims = {
        run["fingerprint"] for claim in read_json(project / "reports/smoke/main/claims.json") for run in claim["runs"]
    }
    tagged = {row[0] for row in mlflow_rows(project, "SELECT value FROM tags WHERE key = 'fingerprint'")}
    assert runs_of_claims
    assert runs_of_claims <= tagged, "each number of the ledger leads to a run in MLflow"


def test_lost_store_is_filled_again_from_the_records(project):
    before = mlflow_rows(project, "SELECT key, value, step FROM metrics ORDER BY key, step, value")
    (project / "mlflow.db").rename(project / "kept.db")
    try:
        for _ in range(2):
            command(project, sys.executable, "-m", "pipeline.track")
            assert mlflow_rows(project, "SELECT key, value, step FROM metrics ORDER BY key, step, value") == before
    finally:
        (project / "kept.db").rename(project / "mlflow.db")


def test_dvc_shows_metrics_plots_and_params(project):
    assert "val_nats" in dvc(project, "metrics", "show", "--md")
    dvc(project, "plots", "show", "-o", "plots")
    assert "learning_curves" in (project / "plots" / "index.html").read_text(encoding="utf-8")
    assert "train@smoke-lolm-1" in dvc(project, "dag")
    edited = (project / "params.yaml").read_text(encoding="utf-8")
    try:
        (project / "params.yaml").write_text(edited.replace("confidence: 0.95", "confidence: 0.9"), encoding="utf-8")
        assert "confidence" in dvc(project, "params", "diff")
    finally:
        (project / "params.yaml").write_text(edited, encoding="utf-8")


def test_notebook_runs_on_the_results(project, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    for name, value in {"LOLM_ROOT": str(project), "LOLM_SCALE": "smoke", "MPLBACKEND": "agg"}.items():
        monkeypatch.setenv(name, value)
    for path in sorted((project / "notebooks").glob("*.ipynb")):
        NotebookClient(nbformat.read(path, as_version=4), timeout=120, kernel_name="python3").execute()


def test_killed_run_goes_on_and_ends_bit_identical(project, tmp_path):
    """kill -9 in the middle of training, then the same stage again: same weights as the undisturbed run."""
    copy = tmp_path / "killed"
    shutil.copytree(project, copy, ignore=shutil.ignore_patterns(".site", "mlflow.db", "kept.db", "runs", "evaluate", "ablate"))
    words = [sys.executable, "-m", "pipeline.train", "--scale", "smoke", "--arm", "lolm", "--seed", "1"]
    process = subprocess.Popen(words, cwd=copy, env=environment(copy), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(copy.glob(".scratch/*/checkpoint.pt")):
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (copy / "artifacts/smoke/runs/lolm-1").exists()
    assert "going on from step" in command(copy, *words)
    ours, theirs = (root / "artifacts/smoke/runs/lolm-1" for root in (copy, project))
    for name in ("model.safetensors", "snapshots/step-000015.safetensors", "config.json"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
    timing = {"seconds", "speed/tokens_per_second"}
    rows = [
        [{k: v for k, v in row.items() if k not in timing} for row in read_series(folder / "metrics.jsonl")]
        for folder in (ours, theirs)
    ]
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("scale: smoke", "scale: smok", "did you mean 'smoke'"),
        ("warmup_steps: 4", "warmup_stepz: 4", "did you mean 'warmup_steps'"),
        ("vocab_size: 512", "vocab_size: many", "expected int"),
    ],
)
def test_wrong_parameters_end_in_one_clear_line(project, tmp_path, old, new, named):
    text = (project / "params.yaml").read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "params.yaml").write_text(text.replace(old, new, 1), encoding="utf-8")
    words = [sys.executable, "-m", "pipeline.plan", "--scale", "smoke"]
    own = environment(tmp_path) | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=tmp_path, env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: params.yaml")
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "reports").exists()


def test_broken_inputs_are_named(project, tmp_path):
    copy = tmp_path / "broken"
    shutil.copytree(project, copy, ignore=shutil.ignore_patterns(".site", "mlflow.db", "kept.db", ".dvc"))
    evaluate = [sys.executable, "-m", "pipeline.evaluate", "--scale", "smoke", "--arm", "lolm", "--seed", "1"]
    weights = copy / "artifacts/smoke/runs/lolm-1/model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "model.safetensors" in command(copy, *evaluate, status=2)
    shard = next((copy / "artifacts/smoke/shards/train").glob("*.bin"))
    shard.chmod(0o644)
    shard.write_bytes(shard.read_bytes()[:-2])
    assert shard.name in command(copy, *[word.replace("evaluate", "train") for word in evaluate], status=2)
    assert json.loads((copy / "reports/smoke/runs/lolm-1/train.json").read_text())["step"] == STEPS
