"""MLflow says what the records say, each run once and each point once, whatever was interrupted."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import forks
import pytest
from filelock import FileLock
from mlflow.exceptions import MlflowException
from synthetic import Truth, write_results

from lolm import LolmError, redacted, tracking
from lolm.config import load_params
from lolm.records import Layout, RecordError, RunKey, read, to_record, write, write_json, write_rows, write_text
from lolm.records.schema import (
    Ablation,
    Condition,
    Divergence,
    Downstream,
    Evaluation,
    Recall,
    RunHeader,
    Summary,
    TaskMetric,
    TaskScores,
)
from lolm.tracking import scales, stages, store
from lolm.tracking.experiments import GROUP_TAG
from lolm.tracking.runs import finished_view
from lolm.tracking.series import ablation_points, claim_points, evaluation_points, mean_points, recall_points
from lolm.tracking.store import BusyError, open_client
from lolm.training.scratch import FINISHED
from pipeline import cluster

ROOT = Path(__file__).resolve().parents[2]
LAYOUT, KEY = Layout("smoke"), RunKey("lolm", 1)


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Records of two arms, from which those of the tests are made."""
    truth = Truth(steps=40, log_every=2, eval_every=20)
    return Layout("smoke", write_results(tmp_path_factory.mktemp("made"), seeds=(1,), truth=truth))


@pytest.fixture(autouse=True, scope="module")
def _records(made):
    global MADE
    MADE = made


def header(arm="lolm", fingerprint="f00d"):
    return replace(read(MADE.header(arm, 1), RunHeader), fingerprint=fingerprint)


def rows(n, pace=0.5):
    """``n`` log lines, one every two steps; ``pace`` is the seconds a line takes, which differs between executions."""
    made = []
    for i in range(1, n + 1):
        axes = {"step": 2 * i, "tokens": 512 * i, "flops": 1e6 * i, "seconds": pace * i}
        made.append(axes | {"train/loss": 5.0 / i, "gate/mean": 0.4, "speed/tokens_per_second": 512 / pace})
    return made


def live_run(lines, **kwargs):
    """The folder of a run that goes on, as the training loop writes it."""
    folder = Path(".scratch/f00d")
    write(folder / "config.json", header(**kwargs))
    write_rows(folder / "metrics.jsonl", lines)
    return folder


def finished_run(lines=None, arm="lolm", **kwargs):
    """Records of a run in the current folder; returns its key."""
    lines = lines or rows(20)
    write(LAYOUT.header(arm, 1), header(arm, **kwargs))
    write_rows(LAYOUT.series(arm, 1), lines)
    write(LAYOUT.summary(arm, 1), replace(read(MADE.summary(arm, 1), Summary), step=lines[-1]["step"]))
    write_text(LAYOUT.weights(arm, 1) / "model.safetensors", "weights")
    return RunKey(arm, 1)


def evaluation(fingerprint="f00d", nats=4.5, arm="lolm"):
    record = read(MADE.evaluation(arm, 1), Evaluation)
    return replace(record, fingerprint=fingerprint, test=replace(record.test, nats=nats))


def evaluated(**kwargs):
    record = evaluation(**kwargs)
    write(LAYOUT.evaluation(record.arm, 1), record)


def ablation(fingerprint="f00d"):
    at = [(10, "none", None), (10, "gate", 1.0), (10, "gate", 0.25), (40, "none", None), (40, "gate", 1.0), (40, "gate", 0.25)]
    conditions = tuple(Condition(step, name, value, 5.0, 2.6, 0.1, 0.3, 0.5) for step, name, value in at)
    return replace(read(MADE.ablation("lolm", 1), Ablation), fingerprint=fingerprint, conditions=conditions)


@pytest.fixture
def project(tmp_path, monkeypatch, migrated):
    """An empty project folder with a store, as the current directory."""
    for variable in ("MLFLOW_TRACKING_URI", "DVC_ROOT"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / ".dvc").mkdir()
    shutil.copy(migrated, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def runs(experiment="lolm-smoke"):
    client = open_client()
    experiment = client.get_experiment_by_name(experiment)
    return [] if experiment is None else client.search_runs([experiment.experiment_id])


def models():
    """Those of the training runs that are there."""
    experiment = open_client().get_experiment_by_name("lolm-smoke")
    return open_client().search_logged_models([experiment.experiment_id])


def points(run):
    """All points of an MLflow run: (key, step, value), counted."""
    client = open_client()
    history = [client.get_metric_history(run.info.run_id, key) for key in run.data.metrics]
    return Counter((p.key, p.step, p.value) for series in history for p in series)


def expected(lines):
    return Counter((k, line["step"], v) for line in lines for k, v in line.items() if "/" in k)


def test_run_is_complete_and_readable(project):
    tracking.sync_run(LAYOUT, finished_run())
    (run,) = runs()
    assert run.info.run_name == "lolm · smoke · seed 1"
    assert run.info.status == "FINISHED"
    assert run.info.end_time - run.info.start_time == 10_000  # 20 lines of half a second
    assert points(run) == expected(rows(20))
    wrote = header()
    assert run.data.params["training.steps"] == str(wrote.run.training.steps)
    assert run.data.params["training.betas"] == "[0.9, 0.95]"
    assert run.data.params["parameters.by_part.surface"] == "100000"
    assert run.data.params["flops_per_token.training"] == "750000.0"
    tags = run.data.tags
    wanted = {"stage": "train", "arm": "lolm", "seed": "1", "scale": "smoke", "fingerprint": "f00d", "kernels": "cpu"}
    wanted[GROUP_TAG] = "lolm"
    assert wanted.items() <= tags.items()
    assert "100,000 parameters" in tags["mlflow.note.content"]
    assert len([tag for tag in tags if not tag.startswith("mlflow.")]) == len(wanted), "bookkeeping is out of sight"
    sets = {(i.tags[0].value, i.dataset.name, i.dataset.digest) for i in run.inputs.dataset_inputs}
    assert ("training", "smoke-train", wrote.data.train[:32]) in sets
    assert {context for context, _, _ in sets} == {"training", "validation", "testing"}
    artifacts = {file.path for file in open_client().list_artifacts(run.info.run_id)}
    assert artifacts == {"config.json", "summary.json"}
    assert (project / "mlartifacts").is_dir()


def test_repeated_syncs_add_nothing(project):
    key = finished_run()
    first = tracking.sync_run(LAYOUT, key)
    assert tracking.sync_run(LAYOUT, key) == first
    assert tracking.sync_scale("smoke") == 0
    (run,) = runs()
    assert points(run) == expected(rows(20))


def test_nothing_new_needs_no_mlflow(project):
    finished_run()
    assert tracking.sync_scale("smoke") == 1
    code = "import sys; from lolm import tracking; assert tracking.sync_scale('smoke') == 0; assert 'mlflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})


def test_run_in_progress_becomes_the_finished_one(project):
    ids = {tracking.sync_live(live_run(rows(n))) for n in (5, 12)}
    (run,) = runs()
    assert run.info.status == "RUNNING"
    assert points(run) == expected(rows(12))
    ids.add(tracking.sync_run(LAYOUT, finished_run()))
    (run,) = runs()
    assert ids == {run.info.run_id}
    assert run.info.status == "FINISHED"
    assert points(run) == expected(rows(20))


@pytest.fixture(scope="module")
def begun(migrated, tmp_path_factory):
    """A project whose run goes on and has been sent once, for :func:`test_killed_between_any_two_calls`, and a copy of it."""
    folder = tmp_path_factory.mktemp("begun") / "project"
    (folder / ".dvc").mkdir(parents=True)
    shutil.copy(migrated, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("MLFLOW_TRACKING_URI", "DVC_ROOT"):
            patch.delenv(variable, raising=False)
        patch.setenv("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")  # no connection outlives the file that it was opened to
        patch.chdir(folder)
        evaluated()
        write(LAYOUT.ablation(*KEY), ablation())
        tracking.sync_live(live_run(rows(5)))
        live_run(rows(12))
    return folder, shutil.copytree(folder, folder.with_name("copy"))


@pytest.mark.parametrize("call", range(1, 22))
def test_killed_between_any_two_calls(project, begun, monkeypatch, call):
    """The process dies right after the n-th call to the store, training resumes, and every point is there once.

    Always in the same place, so that MLflow has its engine and what that has compiled already.
    """
    folder, copy = begun
    shutil.rmtree(folder)
    shutil.copytree(copy, folder)
    monkeypatch.chdir(folder)
    scratch = Path(".scratch/f00d")

    class Killed(BaseException):
        pass

    def train_on():
        tracking.sync_live(scratch)
        tracking.sync_run(LAYOUT, finished_run())

    made = 0
    client = type(open_client())

    def dying(original):
        def wrapped(*args, **kwargs):
            nonlocal made
            result = original(*args, **kwargs)
            made += 1
            if made == call:
                raise Killed
            return result

        return wrapped

    with monkeypatch.context() as patch:
        writing = (
            "create_run",
            "log_batch",
            "set_tag",
            "log_artifact",
            "set_terminated",
            "update_run",
            "log_inputs",
            "log_outputs",
        )
        for name in (*writing, "create_logged_model", "log_model_artifacts", "finalize_logged_model"):
            patch.setattr(client, name, dying(getattr(client, name)))
        with pytest.raises(Killed):
            train_on()
    train_on()
    (run,) = runs()
    measured = ("eval/", "intervention/", "position/", "length/")
    found = points(run)
    assert Counter({p: n for p, n in found.items() if not p[0].startswith(measured)}) == expected(rows(20))
    assert set(found.values()) == {1}
    assert run.data.metrics["eval/test_nats"] == 4.5
    (model,) = models()
    assert [output.model_id for output in run.outputs.model_outputs] == [model.model_id]
    assert len(run.inputs.dataset_inputs) == 3
    assert tracking.sync_scale("smoke") == 0


def test_killed_in_the_first_sync_then_begun_anew(project, monkeypatch):
    """Lines were sent but not acknowledged, and the scratch folder was deleted: the new execution must not mix with them."""
    scratch = live_run(rows(5))
    client = type(open_client())
    original = client.log_batch

    def dying(self, run_id, metrics=(), params=(), **kwargs):
        original(self, run_id, metrics=metrics, params=params, **kwargs)
        if metrics:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(client, "log_batch", dying)
        with pytest.raises(KeyboardInterrupt):
            tracking.sync_live(scratch)
    tracking.sync_live(live_run(rows(8, pace=0.9)))
    (run,) = runs()
    assert points(run) == expected(rows(8, pace=0.9))


def test_forced_rerun_replaces_the_run(project):
    old = tracking.sync_run(LAYOUT, finished_run())
    assert tracking.sync_run(LAYOUT, finished_run(rows(20, pace=0.7))) != old
    (run,) = runs()
    assert points(run) == expected(rows(20, pace=0.7))


def test_restored_records_fill_an_empty_store(project, monkeypatch, capsys):
    monkeypatch.setattr("lolm.tracking.scales.SAID_EVERY", 0.0)
    for arm, fingerprint in (("lolm", "f00d"), ("transformer", "beef")):
        finished_run(arm=arm, fingerprint=fingerprint)
        evaluated(fingerprint=fingerprint, arm=arm)
    assert tracking.sync_scale("smoke") == 2
    assert "filling MLflow from reports/smoke: 1 of 2 runs\n" in capsys.readouterr().err, "minutes for a hundred runs"
    assert tracking.sync_scale("smoke") == 0
    assert capsys.readouterr().err == ""
    assert sorted(run.info.run_name for run in runs()) == ["lolm · smoke · seed 1", "transformer · smoke · seed 1"]
    assert all(run.data.metrics["eval/test_nats"] == 4.5 for run in runs())


def test_measurements_join_later_and_stale_ones_are_left_out(project):
    first = tracking.sync_run(LAYOUT, finished_run())
    evaluated(fingerprint="of an older run")
    tracking.sync_scale("smoke")
    (run,) = runs()
    assert "eval/test_nats" not in run.data.metrics
    evaluated()
    assert tracking.sync_scale("smoke") == 1
    (run,) = runs()
    assert run.info.run_id == first
    assert run.data.metrics["eval/test_nats"] == 4.5
    evaluated(nats=4.4)  # measured again, on more tokens say
    assert tracking.sync_scale("smoke") == 1
    assert tracking.sync_scale("smoke") == 0
    (run,) = runs()
    assert [n for n in points(run) if n[0] == "eval/test_nats"] == [("eval/test_nats", 40, 4.4)]


def diverged():
    shutil.rmtree(LAYOUT.train(*KEY), ignore_errors=True)
    found = header()
    write(LAYOUT.divergence(*KEY), Divergence("lolm", 1, found.name, "f00d", 14, "train/loss is nan at step 14"))


def test_a_run_that_diverged_shows_as_failed_with_its_last_step(project):
    first = tracking.sync_live(live_run(rows(5)))
    diverged()
    assert tracking.sync_scale("smoke") == 1
    assert tracking.sync_scale("smoke") == 0
    (run,) = runs()
    assert (run.info.run_id, run.info.status) == (first, "FAILED")
    assert points(run) == expected(rows(5)) + Counter({("train/diverged_at", 14, 14.0): 1})
    assert run.data.tags["diverged"] == "train/loss is nan at step 14"


def test_a_run_that_diverged_shows_in_an_empty_store_and_a_later_success_replaces_it(project):
    diverged()
    assert tracking.sync_scale("smoke") == 1
    (run,) = runs()
    assert (run.info.status, run.info.run_name) == ("FAILED", "lolm · smoke · seed 1")
    assert {"arm": "lolm", "seed": "1", "scale": "smoke", "fingerprint": "f00d"}.items() <= run.data.tags.items()
    shutil.rmtree(LAYOUT.train(*KEY))
    finished_run()
    assert tracking.sync_scale("smoke") == 1
    (run,) = runs()
    assert run.info.status == "FINISHED"
    assert points(run) == expected(rows(20))


def test_report_run(project):
    said = {"group": "gate", "statement": "", "source": "", "runs": [], "published": []}
    claims = [
        said | {"id": "gate-mean", "verdict": "fails", "sound": {"value": 0.31, "interval": [0.3, 0.32], "n_seeds": 3}},
        said | {"id": "scaling", "verdict": "not testable at this scale", "sound": None},
    ]
    write_json(Path("reports/smoke/main/claims.json"), claims)
    write_text("reports/smoke/main/claims.md", "| claim | verdict |\n")
    write_text("reports/smoke/main/report.html", "<html></html>")
    write_text("reports/smoke/main/figures/gate.svg", "<svg></svg>")
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    finished_run()
    evaluated()
    assert tracking.sync_scale("smoke") == 2
    assert tracking.sync_scale("smoke") == 0
    (run,) = runs("lolm-reports")
    assert run.info.run_name == "report · smoke · main"
    assert [trained.data.tags["stage"] for trained in runs()] == ["train"]
    assert run.data.tags["study"] == "main"
    assert run.data.params == {"verdict.gate-mean": "fails", "verdict.scaling": "not testable at this scale"}
    assert run.data.metrics["claim/gate-mean_low"] == 0.3
    assert run.data.metrics["mean/lolm_test_nats"] == 4.5
    assert run.data.tags["mlflow.note.content"].startswith("| claim")
    artifacts = {file.path for file in open_client().list_artifacts(run.info.run_id)}
    assert artifacts == {"claims.json", "claims.md", "report.html", "params.yaml", "figures"}
    assert [file.path for file in open_client().list_artifacts(run.info.run_id, "figures")] == ["figures/gate.svg"]
    # A new state of dvc.lock refreshes this run; another scale's entries don't.
    write_text("dvc.lock", "stages:\n  train@tiny-lolm-1: {cmd: x}\n")
    assert tracking.sync_scale("smoke") == 0
    write_text("dvc.lock", "stages:\n  report@smoke-main: {cmd: x}\n")
    assert tracking.sync_scale("smoke") == 1
    assert len(runs("lolm-reports")) == 1
    # Another study of the same runs has a report of its own.
    shutil.copytree("reports/smoke/main", "reports/smoke/wide")
    assert tracking.sync_scale("smoke") == 1
    assert sorted(run.info.run_name for run in runs("lolm-reports")) == ["report · smoke · main", "report · smoke · wide"]
    assert [run.info.run_name for run in runs()] == ["lolm · smoke · seed 1"]


def test_names_and_axes():
    removed = ("intervention/none", "intervention/gate")
    ablated = {(key, step) for key, _, step, _ in ablation_points(ablation(), 20.0) if key.startswith(removed)}
    sweep = {("intervention/gate", 100), ("intervention/gate", 25)}  # per cent, final weights only
    trajectory = {(f"intervention/{name}", step) for name in ("none", "gate_1") for step in (10, 40)}
    assert ablated == sweep | trajectory
    assert claim_points([{"id": "a", "sound": {"value": None}}]) == []


def test_of_the_ablations_the_main_ones_and_the_inversion_over_training_are_sent():
    def row(step, kind, value, nats):
        return Condition(step, kind, value, nats, nats / 3, 0.1, 0.3, 0.5)

    controls = ["latent_zero+match_norm", "split_0_first", "latent_dimensions_random_0", "gate_swapped", "surface_gaussian"]
    conditions = [row(step, kind, None, 9.0) for step in (10, 40) for kind in controls]
    for step, growth in ((10, 0.1), (40, 0.5)):
        conditions += [row(step, "latent_mean", None, 4.0 + growth), row(step, "surface_mean", None, 4.0)]
        conditions += [row(step, "gate", 1.0, 3.0 + 2 * growth), row(step, "gate", 0.0, 3.0)]
    record = replace(ablation(), conditions=tuple(conditions))
    found = {(key, step): value for key, value, step, _ in ablation_points(record, 1.0)}
    assert not [key for key, _ in found if any(control in key for control in controls)]
    over_training = {key: value for key, value in found.items() if "inversion" in key[0]}
    assert over_training == pytest.approx({("intervention/inversion", 10): 0.1, ("intervention/inversion", 40): 0.5})
    assert found["intervention/latent_mean", 40] == 4.5


def test_tables_of_an_evaluation_become_series():
    record = evaluation()
    found = evaluation_points(record, 40, 20.0)
    by_key = {}
    for key, value, step, _ in found:
        by_key.setdefault(key, []).append((step, value))
    assert by_key["eval/test_nats"] == [(40, 4.5)]
    assert by_key["eval/gate_mean"] == [(40, record.gate.mean)]
    assert by_key["position/nats"] == [(part.start, part.nats) for part in record.positions.bins]
    assert by_key["length/nats"] == [(window.seq_len, window.nats) for window in record.lengths.windows.values()]
    assert by_key["eval/annealed_test_nats"] == [(end.step, end.test.nats) for end in record.schedule_ends]
    assert len(by_key) <= 10


def test_recall_reaches_mlflow(project):
    finished_run()
    record = read(MADE.recall(*KEY), Recall)
    record.tasks["induction"] = replace(record.tasks["induction"], accuracy=None, nats=None, diverged=True)
    path = LAYOUT.recall(*KEY)
    write(path, record)
    assert {point[0] for point in recall_points(record, 40, 1.0)} == {
        "recall/mqar_accuracy", "recall/induction_diverged",
    }  # fmt: skip
    assert tracking.sync_scale("smoke") == 1
    assert tracking.sync_scale("smoke") == 0
    (run,) = runs()
    assert run.data.metrics["recall/mqar_accuracy"] == record.tasks["mqar"].accuracy
    record.tasks["mqar"] = replace(record.tasks["mqar"], accuracy=0.8)
    write(path, record)
    assert tracking.sync_scale("smoke") == 1  # trained again: the new accuracy replaces the old one
    (run,) = runs()
    assert [p for p in points(run) if p[0] == "recall/mqar_accuracy"] == [("recall/mqar_accuracy", 40, 0.8)]
    write_json(path, to_record(record) | {"model": "of another size"})
    assert "recall" not in finished_view(LAYOUT, KEY).measured


def test_downstream_scores_reach_mlflow(project):
    finished_run()
    filtered = {"exact_match,strict-match": TaskMetric(0.2, None, None, None)}
    tasks = {
        "piqa": TaskScores(100, "1", {"acc": TaskMetric(0.6, 0.1, 0.5, 0.4), "acc_norm": TaskMetric(0.7, 0.1, 0.5, None)}),
        "gsm8k": TaskScores(100, "3", filtered),
    }
    header = read(LAYOUT.header(*KEY), RunHeader)
    write(LAYOUT.downstream(*KEY), Downstream(*KEY, header.name, header.fingerprint, "0.4.13", 64, None, tasks))
    assert tracking.sync_scale("smoke") == 1
    (run,) = runs()
    found = {name: value for name, value in run.data.metrics.items() if name.startswith("tasks/")}
    piqa = {"tasks/piqa_acc": 0.6, "tasks/piqa_acc_norm": 0.7, "tasks/piqa_error": 0.1, "tasks/piqa_chance": 0.5}
    assert found == piqa | {"tasks/gsm8k_exact_match_strict-match": 0.2}
    (model,) = models()
    assert {metric.key for metric in model.metrics} == set(found)
    assert tracking.sync_scale("smoke") == 0


def test_ends_of_annealed_copies_are_added_to_what_was_sent(project):
    """They're read in the order of steps, but were written last: nothing that was sent before is sent anew."""
    first = tracking.sync_live(live_run(rows(20)))
    end = {"step": 40, "tokens": 1, "flops": 1, "seconds": 10.0, "annealed/nats": 4.0}
    copies = [end, *(end | {"step": s, "seconds": s / 4, "annealed/nats": 5.0} for s in (10, 21))]
    for count in (1, 2, 3):
        assert tracking.sync_live(live_run(rows(20) + copies[:count])) == first
    assert tracking.sync_run(LAYOUT, finished_run(rows(20) + copies)) == first
    (run,) = runs()
    assert points(run) == expected(rows(20) + copies)
    assert run.data.metrics["annealed/nats"] == 4.0


def test_means_are_over_seeds():
    assert ("mean/lolm_test_nats", 4.5, 0, 0.0) in mean_points([evaluation(nats=4.0), evaluation(nats=5.0)])


def test_means_are_over_the_runs_of_the_study_as_they_are_now(project):
    main = load_params(ROOT / "params.yaml").studies["main"]
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    for arm, seed, of, nats in (
        ("lolm", main.seeds[0], "f00d", 4.0), ("lolm", main.seeds[1], "f00d", 5.0), ("lolm", 90, "f00d", 7.0),
        ("transformer", main.seeds[0], "f00d", 3.0), ("transformer", main.seeds[1], "a model of before", 7.0),
        ("mamba", main.seeds[0], "f00d", 7.0),
    ):  # fmt: skip
        write(LAYOUT.header(arm, seed), header())
        write(LAYOUT.evaluation(arm, seed), replace(evaluation(of, nats), arm=arm, seed=seed))
    means = {point[0]: point[1] for point in mean_points(scales._evaluations(LAYOUT, "main")) if point[0].endswith("_test_nats")}
    assert means == {"mean/lolm_test_nats": 4.5, "mean/transformer_test_nats": 3.0}
    assert scales._evaluations(LAYOUT, "of another file") == []


def test_failure_is_one_warning(project, monkeypatch, capsys):
    Path("mlflow.db").write_bytes(b"this is no database" * 100)
    monkeypatch.setattr(stages, "_warned", False)
    finished_run()
    tracking.try_sync_scale("smoke")
    tracking.try_sync_scale("smoke")
    error = capsys.readouterr().err
    assert error.count("warning: MLflow was not filled") == 1
    assert "python -m pipeline.track" in error


def test_training_waits_for_no_other_process_and_tries_a_broken_store_once(project, monkeypatch, capsys):
    monkeypatch.setattr(stages, "_warned", False)
    scratch = live_run(rows(5))
    with FileLock("mlflow.db.lock"):
        began = time.monotonic()
        tracking.try_sync(scratch, min_interval=0.0)
        assert time.monotonic() - began < 3
        said = r"mlflow\.db\.lock: another process has filled MLflow for 0 s; wait for it"
        with pytest.raises(BusyError, match=said), store.store_lock(patience=0.0):
            pass
    assert capsys.readouterr().err == ""
    tracking.try_sync(scratch, min_interval=0.0)
    assert [run.info.status for run in runs()] == ["RUNNING"]
    calls = []
    monkeypatch.setattr(stages, "sync_live", lambda folder: calls.append(folder) or 1 / 0)
    for _ in range(3):
        tracking.try_sync(scratch, min_interval=0.0)
    assert calls == [scratch]
    assert capsys.readouterr().err.count("warning: MLflow was not filled") == 1


def test_who_waits_for_another_process_says_so(project, monkeypatch, capsys):
    monkeypatch.setattr(store, "SAID_AFTER", 0.1)
    with FileLock("mlflow.db.lock"), pytest.raises(BusyError), store.store_lock(patience=0.3):
        pass
    assert "waiting for another process that fills MLflow (lock" in capsys.readouterr().err


def test_what_sqlalchemy_says_of_a_store_that_cannot_be_written_is_told_with_its_cure(project):
    said = (
        "(raised as a result of Query-invoked autoflush; consider using a session.no_autoflush block if this flush is occurring "
        "prematurely)\n(sqlite3.OperationalError) attempt to write a readonly database\n[SQL: INSERT INTO tags]"
    )
    told = r"cannot be used \(attempt to write a readonly database\); let this user write it"
    with pytest.raises(store.TrackingError, match=told), store.store_lock():
        raise MlflowException(said)


@pytest.mark.parametrize("address", ["foo://bar", "relative/folder"])
def test_an_address_that_is_no_store_is_told_with_what_one_looks_like(project, monkeypatch, address):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    told = f"^{address}: cannot be used .*; set MLFLOW_TRACKING_URI to the address of a server, http://"
    with pytest.raises(store.TrackingError, match=told), store.store_lock():
        store.open_client().get_experiment_by_name("lolm-tiny")
    assert [path.name for path in project.iterdir() if path.name == "relative"] == []


def test_a_copied_project_keeps_its_artifacts_to_itself(project, monkeypatch):
    write_text("reports/smoke/main/report.html", "first")
    write_json(Path("reports/smoke/main/claims.json"), [])
    finished_run()
    assert tracking.sync_scale("smoke") == 2
    copy = project.with_name(f"{project.name} copy")
    shutil.copytree(project, copy)
    monkeypatch.chdir(copy)
    write_text("reports/smoke/main/report.html", "second")
    assert forks.stage(copy, "track").returncode == 0
    (run,) = runs("lolm-reports")
    (model,) = models()
    assert run.info.artifact_uri.startswith((copy / "mlartifacts").as_uri() + "/lolm-reports/")
    assert model.artifact_location.startswith((copy / "mlartifacts").as_uri() + "/lolm-smoke/")
    for root, said in ((project, "first"), (copy, "second")):
        assert [path.read_text(encoding="utf-8") for path in root.rglob("mlartifacts/**/report.html")] == [said]
    with sqlite3.connect("mlflow.db") as database:
        assert not [row for row in database.iterdump() if f"{project.as_uri()}/" in row]


ODD = ["what?x=1", "a#b", "50%25 x", "ünï-東京", "it's [final]; {x}"]


@pytest.mark.parametrize("name", ODD)
def test_a_store_in_an_odd_folder_lies_there_and_is_read_again(tmp_path, monkeypatch, project, name):
    root = tmp_path / "odd" / name
    (root / ".dvc").mkdir(parents=True)
    shutil.copy("mlflow.db", root)
    monkeypatch.chdir(root)
    before = {path for path in tmp_path.rglob("*") if root not in (path, *path.parents)}
    finished_run()
    write_text("reports/smoke/main/report.html", "said")
    write_json(Path("reports/smoke/main/claims.json"), [])
    assert tracking.sync_scale("smoke") == 2
    assert store.known_digests("smoke")
    assert tracking.sync_scale("smoke") == 0
    (run,) = runs("lolm-reports")
    assert Path(open_client().download_artifacts(run.info.run_id, "report.html")).read_text(encoding="utf-8") == "said"
    assert [path.read_text(encoding="utf-8") for path in root.rglob("mlartifacts/**/report.html")] == ["said"]
    assert {path for path in tmp_path.rglob("*") if root not in (path, *path.parents)} == before
    assert len(runs()) == 1
    assert len(models()) == 1


@pytest.mark.slow
def test_a_store_is_made_and_migrated_in_an_odd_folder(tmp_path, monkeypatch):
    root = tmp_path / "what?x=1#50%25"
    (root / ".dvc").mkdir(parents=True)
    monkeypatch.chdir(root)
    for variable in ("MLFLOW_TRACKING_URI", "DVC_ROOT"):
        monkeypatch.delenv(variable, raising=False)
    tracking.prepare_store()
    with sqlite3.connect("mlflow.db") as database:
        assert database.execute("SELECT count(*) FROM experiments").fetchone() == (1,)
    assert list(tmp_path.iterdir()) == [root]
    upgrade = f"import runpy, sys; sys.argv = ['mlflow', 'db', 'upgrade', {tracking.store_uri()!r}]; "
    done = forks.begun(root, upgrade + "runpy.run_module('mlflow', run_name='__main__')")
    assert "Updating database tables" in done.communicate(timeout=120)[1]
    assert done.returncode == 0
    assert list(tmp_path.iterdir()) == [root]
    assert {path.name for path in root.iterdir()} <= {".dvc", "mlflow.db", "mlflow.db.lock"}


SECRETS = {
    "HF_TOKEN": "hf_planted1",
    "AWS_SECRET_ACCESS_KEY": "planted2",
    "MLFLOW_TRACKING_URI": "http://me:planted3@127.0.0.1:9",
}


def test_secrets_of_the_environment_stand_nowhere(project):
    finished_run()
    write_text("reports/smoke/main/report.html", "said")
    write_json(Path("reports/smoke/main/claims.json"), [])
    filling = "from lolm.tracking import stages; stages.try_sync_scale('smoke')"
    elsewhere = SECRETS | {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    both = (elsewhere, elsewhere | {"MLFLOW_TRACKING_URI": ""})
    tracked = [forks.stage(project, "track", **secrets) for secrets in both]
    said = [done.stdout + done.stderr for done in tracked]
    said += ["".join(forks.begun(project, filling, **secrets).communicate(timeout=120)) for secrets in both]
    assert "error: http://***@127.0.0.1:9: cannot be used" in said[0]
    assert "runs and reports written" in said[1]
    files = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    assert Path("mlflow.db").resolve() in files
    assert "planted" not in "".join(said)
    assert [path for path, content in files.items() if b"planted" in content] == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:pw@host:5000/x: no", "http://***@host:5000/x: no"),
        ("postgresql+psycopg://a:p@ss@h/db, s3://k@b", "postgresql+psycopg://***@h/db, s3://***@b"),
        ("https://host/a@b?c=@d, me@host, sqlite:////tmp/a@b", "https://host/a@b?c=@d, me@host, sqlite:////tmp/a@b"),
    ],
)
def test_addresses_are_shown_without_passwords(text, shown):
    assert str(LolmError(text)) == redacted(text) == shown


def test_broken_record_is_named(project):
    folder = live_run(rows(3))
    (folder / "metrics.jsonl").write_text('{"step": 1', encoding="utf-8")
    with pytest.raises(RecordError, match=r"metrics\.jsonl: line 1"):
        tracking.sync_live(folder)
    key = finished_run()
    LAYOUT.summary(*key).write_text("{", encoding="utf-8")
    with pytest.raises(RecordError, match=r"summary\.json: not valid JSON"):
        tracking.sync_run(LAYOUT, key)
    assert runs() == []


def test_short_runs_do_not_pay_for_mlflow(project):
    scratch = live_run(rows(5))
    tracking.try_sync(scratch, min_interval=1e9)
    assert runs() == []
    tracking.try_sync(scratch, min_interval=0.0)
    assert [run.info.status for run in runs()] == ["RUNNING"]
    finished_run()
    tracking.try_sync_scale("smoke")
    assert [run.info.status for run in runs()] == ["FINISHED"]


def test_a_job_on_another_machine_leaves_its_last_checkpoint_to_the_process_that_follows_it(project, monkeypatch):
    synced = {}

    def checkpoint(lines):
        with monkeypatch.context() as job:
            job.setenv(tracking.HAND_OVER, "1")
            tracking.try_sync(live_run(lines))

    checkpoint(rows(3))
    cluster._fill_mlflow(synced)
    assert runs() == [], "a run that may end before its next checkpoint is left to the end"
    checkpoint(rows(5))
    live_run(rows(8))  # no checkpoint knows of these lines
    cluster._fill_mlflow(synced)
    assert [points(run) for run in runs()] == [expected(rows(5))]
    finished_run()
    tracking.try_sync_scale("smoke")
    checkpoint(rows(20))
    (Path(".scratch/f00d") / FINISHED).touch()
    cluster._fill_mlflow(synced)
    assert [run.info.status for run in runs()] == ["FINISHED"]


def test_stages_of_the_runner_leave_it_to_the_runner(project):
    """A short run under the runner ends without loading MLflow; without a runner it fills MLflow itself."""
    finished_run()
    code = "import sys; from lolm import tracking; tracking.try_sync_scale('smoke')"
    command = [sys.executable, "-c", code + "; assert 'mlflow' not in sys.modules"]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(ROOT), tracking.RUNNER: "1"})
    assert runs() == []
    done = forks.begun(project, code)
    assert done.communicate(timeout=120)[1] == ""
    assert len(runs()) == 1


@pytest.mark.slow
def test_two_processes_prepare_the_store(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    code = "from lolm import tracking; from lolm.records import Layout; tracking.prepare_store()"
    code += "; print(repr(tracking.chart_page_of(Layout('tiny'), 'main')))"
    both = [forks.begun(tmp_path, code, DVC_ROOT=str(tmp_path)) for _ in range(2)]
    assert [process.communicate(timeout=300)[0].strip() for process in both] == ["''", "''"]
    assert [process.returncode for process in both] == [0, 0]
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        assert database.execute("SELECT count(*) FROM experiments").fetchone() == (1,)  # MLflow's own "Default"
    assert {file.name for file in tmp_path.iterdir() if "mlflow.db" in file.name} <= {"mlflow.db", "mlflow.db.lock"}
