"""The real pipeline at scale smoke, in a copy of the project: what a user gets, and what a second run, a kill or an edit does."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest
import slurm_node
import yaml
from projects import copy_of_project, dvc, environment, git, python

from lolm.records import Layout, read, read_json, read_series
from lolm.records.results import load_results
from lolm.records.schema import Ablation, Divergence, Evaluation, Recall, RunHeader, Sweep

pytestmark = pytest.mark.slow

ARMS, SEEDS, STEPS = ("lolm", "transformer"), (1, 2), 30
RUNS = [(arm, seed) for arm in ARMS for seed in SEEDS]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy with a short smoke scale chosen, in a fresh repository, in which the whole pipeline has run once."""
    root = copy_of_project(tmp_path_factory.mktemp("project"))
    path = root / "params.yaml"
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    params |= {"scale": "smoke", "study": "main"}
    params["studies"]["main"]["seeds"] = list(SEEDS)
    params["scales"]["smoke"]["training"]["steps"] = STEPS
    path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "copy")
    python(root, "-m", "pipeline.run", "--jobs", "2")
    return root


@pytest.fixture
def layout(project):
    return Layout("smoke", project)


def mlflow_rows(root, query):
    with closing(sqlite3.connect(root / "mlflow.db")) as database:
        return database.execute(query).fetchall()


def test_every_record_of_every_run_is_there(project, layout):
    results = load_results(project)
    assert [run.key for run in results.runs] == RUNS
    assert (results.missing, results.diverged) == ((), ())
    for run in results.runs:
        assert [row["step"] for row in run.rows if "val/nats" in row] == [0, 10, 20, 30]
        assert [(end.step, end.tokens) for end in run.evaluation.schedule_ends] == [(step, step * 256) for step in (8, 15, 30)]
        assert (run.evaluation.tokens, run.evaluation.subset_tokens) == (4096, 2048)
        assert run.evaluation.schedule_ends[-1].validation == run.evaluation.validation
        assert run.evaluation.schedule_ends[-1].test != run.evaluation.test, "of a part of the text, and of the whole"
        assert run.evaluation.samples.generated.distinct_2 is not None
        assert run.evaluation.positions.bins[-1].stop == 64
        assert set(run.evaluation.lengths.windows) | set(run.evaluation.lengths.left_out) == {"1", "2", "4"}
        assert set(run.recall.tasks) == {"mqar", "induction"}
        assert run.ablation_steps == (8, 15, 30)
        assert all(record.inputs for record in (run.evaluation, run.ablation, run.recall))
        assert sorted(path.name for path in layout.weights(*run.key).iterdir()) == ["cooldowns", "model.safetensors", "snapshots"]
        assert set(read_json(layout.metrics(*run.key))) >= {"test_nats", "bits_per_byte", "accuracy", "parameters", "seconds"}
    assert "inversion" in read_json(layout.metrics("lolm", 1))
    assert not list((project / ".scratch").glob("*/checkpoint.pt"))


def test_the_swept_rate_is_the_one_trained_with(layout):
    for arm in ARMS:
        sweep = read(layout.sweep(arm), Sweep)
        rates = {rate.learning_rate: rate.nats for rate in sweep.rates}
        assert len(rates) == 3
        assert sweep.chosen == min(rates, key=rates.__getitem__)
        for seed in SEEDS:
            assert read(layout.header(arm, seed), RunHeader).run.size.learning_rate == sweep.chosen


def test_pages_and_the_front_page(project, layout):
    for page in (layout.study("main") / "report.html", layout.reports / "index.html"):
        text = page.read_text(encoding="utf-8")
        assert "<svg" in text
        assert not re.search(r"""(src|href)=["'](https?:)?//""", text), "the page must need nothing from outside"
    assert (project / "reports/index.html").exists()
    board = read_json(layout.study("main") / "leaderboard.json")
    assert set(board) == set(ARMS)
    columns = {"length_2x_nats", "length_4x_nats", "late_minus_early_bits_per_byte", "mqar_accuracy", "distinct_2"}
    assert all(columns <= set(row) for row in board.values()), "what the stages write is what the leaderboard reads"


# Claims of which a study of LOLM and its baseline at scale smoke measures all that they need, whatever comes out. A record that
# lost a key, or a measure that asks for another name, would make one of them "not testable" without a word.
MEASURED = """
    efficiency_2x efficiency_direction matched_budget early_lead behind_at_end gate_level gate_surface gate_reversal
    gate_target gate_share gate_reversal_everywhere inversion_preregistered inversion_null inversion_ways inversion_total
    surface_direct latent_direct latent_is_serial latent_branch_alone surface_branch_alone latent_minority dependency_grows
    function_words inversion inversion_over_training inversion_control latent_alone surface_alone half_worse_than_one
    gate_context regime_codes cpc_chance regime_contribution memory_contribution regime_entropy memory_loss pythia_late
    pythia_context pythia_repetition sanity_lolm sanity_transformer
""".split()  # noqa: SIM905


def test_claims_that_must_be_measured_are(layout):
    """Thirty steps decide nothing, so verdicts are withheld; the numbers behind them are there all the same."""
    claims = {claim["id"]: claim for claim in read_json(layout.study("main") / "claims.json")}
    assert sorted(set(MEASURED) - set(claims)) == []
    lacking = [name for name in MEASURED if claims[name]["sound"] is None or claims[name]["sound"]["value"] is None]
    assert lacking == []
    assert all(claims[name]["runs"] for name in MEASURED)
    assert not any(claims[name]["verdict"] == "not run" for name in MEASURED)
    assert {claims[f"sanity_{arm}"]["verdict"] for arm in ARMS} <= {"holds", "fails", "inconclusive"}


def test_second_run_does_nothing(project):
    folders = (project / "artifacts", project / "reports")
    before = {path: path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*") if path.is_file()}
    printed = dvc(project, "repro")
    assert "Running stage" not in printed
    assert "Data and pipelines are up to date" in printed
    assert before == {path: path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*") if path.is_file()}


def test_every_run_is_in_mlflow_once_with_what_the_records_say(project, layout):
    names = [row[0] for row in mlflow_rows(project, "SELECT name FROM runs WHERE lifecycle_stage = 'active'")]
    assert sorted(name for name in names if "report" not in name) == [f"{arm} · smoke · seed {seed}" for arm, seed in RUNS]
    for key in RUNS:
        fingerprint = read(layout.header(*key), RunHeader).fingerprint
        query = f"""SELECT metrics.step, metrics.value FROM metrics JOIN tags USING (run_uuid)
                    WHERE tags.key = 'fingerprint' AND tags.value = '{fingerprint}' AND metrics.key = 'val/nats'"""
        recorded = [(row["step"], row["val/nats"]) for row in read_series(layout.series(*key)) if "val/nats" in row]
        assert sorted(mlflow_rows(project, query)) == recorded
    runs_of_claims = {run["fingerprint"] for claim in read_json(layout.study("main") / "claims.json") for run in claim["runs"]}
    tagged = {row[0] for row in mlflow_rows(project, "SELECT value FROM tags WHERE key = 'fingerprint'")}
    assert runs_of_claims
    assert runs_of_claims <= tagged, "each number of the ledger leads to a run in MLflow"


def test_lost_store_is_filled_again_from_the_records(project):
    query = "SELECT key, value, step FROM metrics ORDER BY key, step, value"
    before = mlflow_rows(project, query)
    (project / "mlflow.db").rename(project / "kept.db")
    try:
        for _ in range(2):
            python(project, "-m", "pipeline.track")
            assert mlflow_rows(project, query) == before
    finally:
        (project / "kept.db").rename(project / "mlflow.db")


def test_dvc_shows_metrics_that_fit_a_terminal_and_a_plot_by_arm(project):
    shown = dvc(project, "metrics", "show")
    assert "test_nats" in shown
    assert max(map(len, shown.splitlines())) <= 160
    dvc(project, "plots", "show", "-o", "plots")
    page = (project / "plots" / "index.html").read_text(encoding="utf-8")
    assert "Held-out loss of each arm" in page
    assert '"field": "arm"' in page
    assert "learning_curves" in page
    assert "train@smoke" in dvc(project, "dag")


def test_notebooks_run_on_the_results(project, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    for name, value in {"LOLM_ROOT": str(project), "LOLM_SCALE": "smoke", "MPLBACKEND": "agg"}.items():
        monkeypatch.setenv(name, value)
    for path in sorted((project / "notebooks").glob("*.ipynb")):
        NotebookClient(nbformat.read(path, as_version=4), timeout=120, kernel_name="python3").execute()


def copied(project, folder, *left_out):
    return Path(shutil.copytree(project, folder, ignore=shutil.ignore_patterns(".site", "mlflow.db", "kept.db", *left_out)))


def test_killed_run_goes_on_and_ends_bit_identical(project, layout, tmp_path):
    """kill -9 in the middle of training, then the same stage again: the weights of the undisturbed run, and nothing else made."""
    copy = copied(project, tmp_path / "killed", "plots", ".scratch")
    ours = Layout("smoke", copy)
    shutil.rmtree(ours.weights("lolm", 1))
    words = [sys.executable, "-m", "pipeline.train"]
    process = subprocess.Popen(words, cwd=copy, env=environment(copy), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(copy.glob(".scratch/*/checkpoint.pt")):
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(1.5)  # what it started ends with it
    assert not ours.weights("lolm", 1).exists()
    said = python(copy, "-m", "pipeline.train")
    assert "1 of 4 to make" in said
    assert "lolm-1: no weights" in said
    assert "going on from step" in said
    for name in ("model.safetensors", "snapshots/step-000015.safetensors"):
        assert (ours.weights("lolm", 1) / name).read_bytes() == (layout.weights("lolm", 1) / name).read_bytes(), name
    assert ours.header("lolm", 1).read_bytes() == layout.header("lolm", 1).read_bytes()
    timing = {"seconds", "speed/tokens_per_second"}
    rows = [
        [{k: v for k, v in row.items() if k not in timing} for row in read_series(where.series("lolm", 1))]
        for where in (ours, layout)
    ]
    assert rows[0] == rows[1]


def process_of(root, stage, arm, seed):
    """The process that makes a piece of a project, and its parent; None while there is none."""
    words = [f"pipeline.{stage}", "--arm", arm, "--seed", str(seed)]
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            command = (folder / "cmdline").read_text(encoding="utf-8").split("\0")
            if all(word in command for word in words) and (folder / "cwd").resolve() == root.resolve():
                status = (folder / "stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
                return int(folder.name), int(status[1])
    return None


@pytest.mark.skipif(not slurm_node.INSTALLED, reason="Slurm is not installed: apt-get install slurm-wlm munge")
def test_a_study_on_slurm_is_the_study(project, layout, tmp_path):
    """Trained anew on a real Slurm, one run killed and one sent back into the queue: the weights of the undisturbed local runs,
    every run once in MLflow, and measurements that hold on."""
    copy = copied(project, tmp_path / "cluster", "plots", ".scratch")
    ours, path = Layout("smoke", copy), copy / "params.yaml"
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    params["cluster"] = {"minutes": 10, "poll_seconds": 1, "memory_gb": 1}
    path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    for key in RUNS:
        shutil.rmtree(ours.weights(*key))
        shutil.rmtree(ours.train(*key))
    ours.evaluation("transformer", 1).unlink()
    words = [sys.executable, "-m", "pipeline.run", "--launcher", "slurm"]
    with slurm_node.started() as slurm:
        output = tmp_path / "first.out"
        with open(output, "wb") as file:
            runner = subprocess.Popen(words, cwd=copy, env=environment(copy, **slurm), stdout=file, stderr=subprocess.STDOUT)
        for seed, number in ((1, signal.SIGKILL), (2, signal.SIGSTOP)):
            checkpoint = copy / ".scratch" / read(layout.header("lolm", seed), RunHeader).fingerprint / "checkpoint.pt"
            deadline = time.monotonic() + 120
            while not checkpoint.exists():
                assert runner.poll() is None, output.read_text(encoding="utf-8")
                assert time.monotonic() < deadline, output.read_text(encoding="utf-8")
                time.sleep(0.01)
            process, task = process_of(copy, "train", "lolm", seed)
            os.kill(process, number)
        os.kill(task, signal.SIGUSR2)  # as Slurm does before a task's time is over; its training, which stands still, cannot end
        deadline = time.monotonic() + 120
        while "BeginTime" not in (waiting := slurm_node.said(slurm, "squeue", "--noheader", "--array", "--format=%i %r")):
            assert runner.poll() is None, output.read_text(encoding="utf-8")
            assert time.monotonic() < deadline, waiting
            time.sleep(0.2)
        slurm_node.said(slurm, "scontrol", "update", f"jobid={waiting.split()[0]}", "starttime=now")  # two minutes later, else
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


def test_a_run_that_diverges_stops_no_other_and_shows_as_such(project, tmp_path):
    """A learning rate far too high in one arm's sweep record: its runs diverge, the others are kept, the rest goes on."""
    copy = copied(project, tmp_path / "diverged", "plots")
    ours, path = Layout("smoke", copy), Layout("smoke", copy).sweep("transformer")
    path.write_text(re.sub(r'"chosen": [\d.e-]+', '"chosen": 1e30', path.read_text(encoding="utf-8")), encoding="utf-8")
    said = python(copy, "-m", "pipeline.train")
    assert "2 of 4 to make" in said
    assert "other parameters: size.learning_rate" in said
    for seed in SEEDS:
        assert "not finite" in read(ours.divergence("transformer", seed), Divergence).reason
        assert not ours.header("transformer", seed).exists()
        assert not ours.weights("transformer", seed).exists()
        assert not ours.evaluation("transformer", seed).exists()
    assert "train: all 4 are made" in python(copy, "-m", "pipeline.train")
    assert "evaluate: all 4 are made" in python(copy, "-m", "pipeline.evaluate")
    python(copy, "-m", "pipeline.report", "--scale", "smoke", "--study", "main")
    assert "diverged" in (ours.study("main") / "report.html").read_text(encoding="utf-8")


def test_dvcs_own_overrides_change_exactly_what_they_name_and_the_runner_still_works(project, layout, tmp_path):
    copy = copied(project, tmp_path / "copy", "plots", ".scratch")
    ours, before = Layout("smoke", copy), yaml.safe_load((copy / "params.yaml").read_text(encoding="utf-8"))
    printed = dvc(copy, "exp", "run", "-S", "scales.smoke.evaluation.samples=2")
    shown = [line for line in dvc(copy, "params", "diff").splitlines() if line.startswith("params.yaml")]
    assert len(shown) == 1, "what an edit changes and nothing else"
    assert "scales.smoke.evaluation.samples" in shown[0]
    assert set(re.findall(r"Running stage '(\w+)@", printed)) == {"plan", "evaluate", "report", "front"}
    after = yaml.safe_load((copy / "params.yaml").read_text(encoding="utf-8"))
    before["scales"]["smoke"]["evaluation"]["samples"] = 2
    assert after == before, "exactly that key has changed"
    assert read(ours.evaluation("lolm", 1), Evaluation).samples.texts == 2
    ablation = read(ours.ablation("lolm", 1), Ablation)
    assert ablation == read(layout.ablation("lolm", 1), Ablation)

    printed = dvc(copy, "exp", "run", "-S", "study=smoke")
    assert "train: all 2 are made" in printed, "the runs that both studies name are made once"
    assert (ours.study("smoke") / "report.html").exists()
    assert ours.header("lolm", 2).exists(), "runs of the other study are kept"
    assert "to make" not in printed
    dvc(copy, "exp", "run", "-S", "scale=nano", "plan@nano")
    assert (copy / "artifacts/nano/plan/train.json").exists()

    chosen = (copy / "params.yaml").read_bytes()
    said = python(copy, "-m", "pipeline.run", "--scale", "smoke", "--study", "main")
    assert "evaluate: all 4 are made" in said, "after DVC's writer, whose file has no comment and no flow style left"
    assert (copy / "params.yaml").read_bytes() == chosen
    assert read(ours.recall("lolm", 1), Recall) == read(layout.recall("lolm", 1), Recall)
    assert "did you mean 'smoke'" in dvc(copy, "exp", "run", "-S", "study=smokes", status=None)  # DVC leaves it in the file


def test_broken_inputs_are_named(project, tmp_path):
    copy = copied(project, tmp_path / "broken", ".dvc")
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
