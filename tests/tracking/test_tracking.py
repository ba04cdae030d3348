"""MLflow says what the records say, each run once and each point once, whatever was interrupted."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from lolm import tracking
from lolm.records import RecordError, fingerprint_of, write_json, write_text
from lolm.tracking.series import Records, ablation_points, claim_points, evaluation_points, mean_points, recall_points

ROOT = Path(__file__).resolve().parents[2]


def config(arm="lolm", seed=1, fingerprint="f00d"):
    return {
        "fingerprint": fingerprint,
        "name": f"{arm} · smoke · seed {seed}",
        "label": "LOLM v3, sound",
        "kernels": "cpu",
        "run": {"scale": "smoke", "arm": arm, "seed": seed, "training": {"steps": 40, "betas": [0.9, 0.95], "compile": False}},
        "parameters": {"total": 1_000_000, "by_part": {"surface": 900_000, "head": 100_000}},
        "flops_per_token": {"forward": 2.0e6, "training": 6.0e6},
        "data": {"shards": "abc"},
    }


def rows(n, pace=0.5):
    """``n`` log lines, one every two steps; ``pace`` is the seconds a line takes, which differs between executions."""
    made = []
    for i in range(1, n + 1):
        axes = {"step": 2 * i, "tokens": 512 * i, "flops": 1e6 * i, "seconds": pace * i}
        made.append(axes | {"train/loss": 5.0 / i, "gate/mean": 0.4, "speed/tokens_per_second": 512 / pace})
    return made


def write_run(folder, lines, *, finished, **kwargs):
    made = config(**kwargs)
    write_json(folder / "config.json", made)
    write_text(folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    if finished:
        write_json(folder / "summary.json", {"step": lines[-1]["step"]})
        write_text(folder / "model.safetensors", "weights")
    return folder


def evaluation(fingerprint="f00d", nats=4.5, arm="lolm"):
    return {
        "arm": arm,
        "seed": 1,
        "fingerprint": fingerprint,
        "name": "x",
        "step": 40,
        "split": "test",
        "tokens": 4096,
        "test": {"nats": nats, "bits_per_byte": 2.5},
        "cpc": None,
        "gate": {"mean": 0.4, "per_dimension": [0.1, 0.7], "histogram": {"edges": [0, 1], "counts": [3]}},
    }


def ablation(fingerprint="f00d"):
    measured = {"nats": 5.0, "bits_per_byte": 2.6, "accuracy": 0.1, "kl_to_full": 0.3, "top1_agreement": 0.5}
    at = [(10, "none", None), (10, "gate", 1.0), (10, "gate", 0.25), (40, "none", None), (40, "gate", 1.0), (40, "gate", 0.25)]
    conditions = [{"step": s, "intervention": kind, "value": v} | measured for s, kind, v in at]
    return {"fingerprint": fingerprint, "conditions": conditions}


@pytest.fixture(scope="session")
def migrated(tmp_path_factory):
    """One migrated store (8 s), copied for each test."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("DVC_ROOT", str(folder))
        tracking.prepare_store()
    return folder / "mlflow.db"


@pytest.fixture
def project(tmp_path, monkeypatch, migrated):
    """An empty project folder with a store, as the current directory."""
    for variable in ("MLFLOW_TRACKING_URI", "DVC_ROOT"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / ".dvc").mkdir()
    shutil.copy(migrated, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def runs(scale="smoke"):
    client = tracking._client()
    experiment = client.get_experiment_by_name(f"lolm-{scale}")
    return [] if experiment is None else client.search_runs([experiment.experiment_id])


def points(run):
    """All points of an MLflow run: (key, step, value), counted."""
    client = tracking._client()
    history = [client.get_metric_history(run.info.run_id, key) for key in run.data.metrics]
    return Counter((p.key, p.step, p.value) for series in history for p in series)


def expected(lines):
    return Counter((k, line["step"], v) for line in lines for k, v in line.items() if "/" in k)


def finished_run(**kwargs):
    return write_run(Path("artifacts/smoke/runs/lolm-1"), rows(20), finished=True, **kwargs)


def test_run_is_complete_and_readable(project):
    tracking.sync_run(finished_run(), finished=True)
    (run,) = runs()
    assert run.info.run_name == "lolm · smoke · seed 1"
    assert run.info.status == "FINISHED"
    assert run.info.end_time - run.info.start_time == 10_000  # 20 lines of half a second
    assert points(run) == expected(rows(20))
    assert run.data.params["training.steps"] == "40"
    assert run.data.params["training.betas"] == "[0.9, 0.95]"
    assert run.data.params["parameters.by_part.surface"] == "900000"
    assert run.data.params["flops_per_token.training"] == "6000000.0"
    tags = run.data.tags
    wanted = {"stage": "train", "arm": "lolm", "seed": "1", "scale": "smoke", "fingerprint": "f00d", "kernels": "cpu"}
    assert wanted.items() <= tags.items()
    assert tags["data.shards"] == "abc"
    assert tags["dvc.path"] == "artifacts/smoke/runs/lolm-1"
    assert tags["model.md5"] == "63f4f1e9b725370f459720575cd5f953"  # md5 of the word "weights"
    artifacts = {file.path for file in tracking._client().list_artifacts(run.info.run_id)}
    assert artifacts == {"config.json", "summary.json"}
    assert (project / "mlartifacts").is_dir()


def test_repeated_syncs_add_nothing(project):
    folder = finished_run()
    first = tracking.sync_run(folder, finished=True)
    assert tracking.sync_run(folder, finished=True) == first
    assert tracking.sync_scale("smoke") == 0
    (run,) = runs()
    assert points(run) == expected(rows(20))


def test_nothing_new_needs_no_mlflow(project):
    finished_run()
    assert tracking.sync_scale("smoke") == 1
    code = "import sys; from lolm import tracking; assert tracking.sync_scale('smoke') == 0; assert 'mlflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})


def test_run_in_progress_becomes_the_finished_one(project):
    scratch = Path(".scratch/f00d")
    ids = {tracking.sync_run(write_run(scratch, rows(n), finished=False), finished=False) for n in (5, 12)}
    (run,) = runs()
    assert run.info.status == "RUNNING"
    assert points(run) == expected(rows(12))
    ids.add(tracking.sync_run(finished_run(), finished=True))
    (run,) = runs()
    assert ids == {run.info.run_id}
    assert run.info.status == "FINISHED"
    assert points(run) == expected(rows(20))


@pytest.mark.parametrize("call", range(1, 19))
def test_killed_between_any_two_calls(project, monkeypatch, call):
    """The process dies right after the n-th call to the store, training resumes, and every point is there once."""
    scratch = write_run(Path(".scratch/f00d"), rows(12), finished=False)
    write_json(Path("artifacts/smoke/evaluate/lolm-1.json"), evaluation())
    write_json(Path("artifacts/smoke/ablate/lolm-1.json"), ablation())
    tracking.sync_run(write_run(scratch, rows(5), finished=False), finished=False)
    write_run(scratch, rows(12), finished=False)

    class Killed(BaseException):
        pass

    def train_on():
        tracking.sync_run(scratch, finished=False)
        tracking.sync_run(finished_run(), finished=True)

    made = 0
    client = type(tracking._client())

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
        for name in ("create_run", "log_batch", "set_tag", "log_artifact", "set_terminated", "update_run"):
            patch.setattr(client, name, dying(getattr(client, name)))
        with pytest.raises(Killed):
            train_on()
    train_on()
    (run,) = runs()
    trained = Counter({p: n for p, n in points(run).items() if not p[0].startswith(("eval/", "ablate/"))})
    assert trained == expected(rows(20))
    assert set(points(run).values()) == {1}
    assert run.data.metrics["eval/test_nats"] == 4.5
    assert tracking.sync_scale("smoke") == 0


def test_killed_in_the_first_sync_then_begun_anew(project, monkeypatch):
    """Lines were sent but not acknowledged, and the scratch folder was deleted: the new execution must not mix with them."""
    scratch = write_run(Path(".scratch/f00d"), rows(5), finished=False)
    client = type(tracking._client())
    original = client.log_batch

    def dying(self, run_id, metrics=(), params=(), **kwargs):
        original(self, run_id, metrics=metrics, params=params, **kwargs)
        if metrics:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(client, "log_batch", dying)
        with pytest.raises(KeyboardInterrupt):
            tracking.sync_run(scratch, finished=False)
    write_run(scratch, rows(8, pace=0.9), finished=False)
    tracking.sync_run(scratch, finished=False)
    (run,) = runs()
    assert points(run) == expected(rows(8, pace=0.9))


def test_forced_rerun_replaces_the_run(project):
    old = tracking.sync_run(finished_run(), finished=True)
    again = write_run(Path("artifacts/smoke/runs/lolm-1"), rows(20, pace=0.7), finished=True)
    assert tracking.sync_run(again, finished=True) != old
    (run,) = runs()
    assert points(run) == expected(rows(20, pace=0.7))


def test_restored_records_fill_an_empty_store(project):
    for arm, fingerprint in (("lolm", "f00d"), ("transformer", "beef")):
        write_run(Path(f"artifacts/smoke/runs/{arm}-1"), rows(20), finished=True, arm=arm, fingerprint=fingerprint)
        write_json(Path(f"artifacts/smoke/evaluate/{arm}-1.json"), evaluation(fingerprint, arm=arm))
    assert tracking.sync_scale("smoke") == 2
    assert tracking.sync_scale("smoke") == 0
    assert sorted(run.info.run_name for run in runs()) == ["lolm · smoke · seed 1", "transformer · smoke · seed 1"]
    assert all(run.data.metrics["eval/test_nats"] == 4.5 for run in runs())


def test_measurements_join_later_and_stale_ones_are_left_out(project):
    first = tracking.sync_run(finished_run(), finished=True)
    write_json(Path("artifacts/smoke/evaluate/lolm-1.json"), evaluation(fingerprint="of an older run"))
    assert tracking.sync_scale("smoke") == 0
    write_json(Path("artifacts/smoke/evaluate/lolm-1.json"), evaluation())
    assert tracking.sync_scale("smoke") == 1
    (run,) = runs()
    assert run.info.run_id == first
    assert run.data.metrics["eval/test_nats"] == 4.5
    write_json(Path("artifacts/smoke/evaluate/lolm-1.json"), evaluation(nats=4.4))  # measured again, on more tokens say
    assert tracking.sync_scale("smoke") == 1
    (run,) = runs()
    assert [n for n in points(run) if n[0] == "eval/test_nats"] == [("eval/test_nats", 40, 4.4)]


def test_report_run(project):
    claims = [
        {"id": "gate-mean", "verdict": "fails", "sound": {"value": 0.31, "interval": [0.3, 0.32], "n_seeds": 3}},
        {"id": "scaling", "verdict": "not testable at this scale", "sound": None},
    ]
    write_json(Path("reports/smoke/main/claims.json"), claims)
    write_text("reports/smoke/main/claims.md", "| claim | verdict |\n")
    write_text("reports/smoke/main/report.html", "<html></html>")
    write_text("params.yaml", "scale: smoke\n")
    write_json(Path("artifacts/smoke/evaluate/lolm-1.json"), evaluation())
    assert tracking.sync_scale("smoke") == 1
    assert tracking.sync_scale("smoke") == 0
    (run,) = runs()
    assert run.info.run_name == "report · smoke · main"
    assert run.data.tags["study"] == "main"
    assert run.data.params == {"verdict.gate-mean": "fails", "verdict.scaling": "not testable at this scale"}
    assert run.data.metrics["claim/gate-mean_low"] == 0.3
    assert run.data.metrics["mean/lolm_test_nats"] == 4.5
    assert run.data.tags["mlflow.note.content"].startswith("| claim")
    artifacts = {file.path for file in tracking._client().list_artifacts(run.info.run_id)}
    assert artifacts == {"claims.json", "claims.md", "report.html", "params.yaml"}
    # A new state of dvc.lock refreshes this run; another scale's entries don't.
    write_text("dvc.lock", "stages:\n  train@tiny-lolm-1: {cmd: x}\n")
    assert tracking.sync_scale("smoke") == 0
    write_text("dvc.lock", "stages:\n  report@smoke-main: {cmd: x}\n")
    assert tracking.sync_scale("smoke") == 1
    assert len(runs()) == 1
    # Another study of the same runs has a report of its own.
    shutil.copytree("reports/smoke/main", "reports/smoke/wide")
    assert tracking.sync_scale("smoke") == 1
    assert sorted(run.info.run_name for run in runs()) == ["report · smoke · main", "report · smoke · wide"]


def test_names_and_axes():
    evaluated = {p[0]: p for p in evaluation_points(evaluation(), 40, 20.0)}
    assert set(evaluated) == {"eval/tokens", "eval/test_nats", "eval/test_bits_per_byte", "eval/gate_mean"}
    ablated = {(key, step) for key, _, step, _ in ablation_points(ablation(), 20.0) if key.endswith("/nats")}
    sweep = {("ablate/gate/nats", 100), ("ablate/gate/nats", 25)}  # per cent, final weights only
    trajectory = {(f"ablate/{name}/nats", step) for name in ("none", "gate_1") for step in (10, 40)}
    assert ablated == sweep | trajectory
    assert claim_points([{"id": "a", "sound": {"value": None}}]) == []


def test_of_the_ablations_the_main_ones_and_the_inversion_over_training_are_sent():
    def row(step, kind, value, nats):
        return {"step": step, "intervention": kind, "value": value, "nats": nats}

    controls = ["latent_zero+match_norm", "split_0_first", "latent_dimensions_random_0", "gate_swapped", "surface_gaussian"]
    conditions = [row(step, kind, None, 9.0) for step in (10, 40) for kind in controls]
    for step, growth in ((10, 0.1), (40, 0.5)):
        conditions += [row(step, "latent_mean", None, 4.0 + growth), row(step, "surface_mean", None, 4.0)]
        conditions += [row(step, "gate", 1.0, 3.0 + 2 * growth), row(step, "gate", 0.0, 3.0)]
    found = {(key, step): value for key, value, step, _ in ablation_points({"conditions": conditions}, 1.0)}
    assert not [key for key, _ in found if any(control in key for control in controls)]
    over_training = {key: value for key, value in found.items() if "inversion" in key[0]}
    assert over_training == pytest.approx(
        {
            ("ablate/inversion_mean", 10): 0.1, ("ablate/inversion_mean", 40): 0.5,
            ("ablate/inversion_gate", 10): 0.2, ("ablate/inversion_gate", 40): 1.0,
        }
    )  # fmt: skip
    assert found["ablate/latent_mean/nats", 40] == 4.5


def test_tables_of_an_evaluation_become_series():
    score = {"nats": 3.0, "bits_per_byte": 1.5, "accuracy": 0.4}
    edges = [0, *(2**k for k in range(12))]
    wide = evaluation() | {
        "positions": {
            "bins": [{"start": a, "stop": b} | score for a, b in zip(edges, edges[1:], strict=False)],
            "early": score, "late": score, "change": score,
        },
        "lengths": {
            "windows": {str(n): {"seq_len": 64 * n, "tokens": 9, "beyond": {"tokens": 4} | score} | score for n in (1, 2, 4)},
            "left_out": {"8": "too short"},
        },
        "samples": {"texts": 4, "generated": {"distinct_2": 0.8}, "real": {"distinct_2": None}, "examples": [{"prompt": "x"}]},
        "horizons": [{"step": s, "seconds": 1.0 * s, "validation": score, "test": score} for s in (10, 20, 40)],
    }  # fmt: skip
    found = evaluation_points(wide, 40, 20.0)
    by_key = {}
    for key, value, step, _ in found:
        by_key.setdefault(key, []).append((step, value))
    assert by_key["position/nats"] == [(start, 3.0) for start in edges[:-1]]
    assert by_key["length/beyond_nats"] == [(64, 3.0), (128, 3.0), (256, 3.0)]
    assert by_key["eval/annealed_test_nats"] == [(10, 3.0), (20, 3.0), (40, 3.0)]
    assert by_key["eval/positions_change_bits_per_byte"] == [(40, 1.5)]
    assert by_key["eval/samples_generated_distinct_2"] == [(40, 0.8)]
    assert len(by_key) <= 40  # series, not a metric for each bin


def test_recall_reaches_mlflow(project):
    folder = finished_run()
    path = folder / "config.json"
    made = json.loads(path.read_text())
    made["run"] |= {"architecture": {"family": "lolm"}, "size": {"d_model": 32}}
    write_json(path, made)
    scores = {"accuracy": 0.75, "nats": 0.5, "chance": 0.01, "steps": 100}
    record = {"arm": "lolm", "seed": 1, "model": fingerprint_of({"family": "lolm"}, {"d_model": 32}), "tasks": {"mqar": scores}}
    write_json(Path("artifacts/smoke/recall/lolm-1.json"), record)
    assert {point[0] for point in recall_points(record, 40, 1.0)} == {
        "recall/mqar_accuracy",
        "recall/mqar_nats",
        "recall/mqar_chance",
    }
    assert tracking.sync_scale("smoke") == 1
    assert tracking.sync_scale("smoke") == 0
    (run,) = runs()
    assert run.data.metrics["recall/mqar_accuracy"] == 0.75
    again = record | {"tasks": {"mqar": scores | {"accuracy": 0.8}}}
    write_json(Path("artifacts/smoke/recall/lolm-1.json"), again)
    assert tracking.sync_scale("smoke") == 1  # trained again: the new accuracy replaces the old one
    (run,) = runs()
    assert [p for p in points(run) if p[0] == "recall/mqar_accuracy"] == [("recall/mqar_accuracy", 40, 0.8)]
    write_json(Path("artifacts/smoke/recall/lolm-1.json"), again | {"model": "of another size"})
    assert Records.load(folder, finished=True).recall is None


def test_ends_of_annealed_copies_are_added_to_what_was_sent(project):
    """They're read in the order of steps, but were written last: nothing that was sent before is sent anew."""
    scratch = Path(".scratch/f00d")
    first = tracking.sync_run(write_run(scratch, rows(20), finished=False), finished=False)
    end = {"step": 40, "tokens": 1, "flops": 1, "seconds": 10.0, "annealed/nats": 4.0}
    copies = [end, *(end | {"step": s, "seconds": s / 4, "annealed/nats": 5.0} for s in (10, 21))]
    for count in (1, 2, 3):
        written = write_run(scratch, rows(20) + copies[:count], finished=False)
        assert tracking.sync_run(written, finished=False) == first
    (run,) = runs()
    assert points(run) == expected(rows(20) + copies)
    assert run.data.metrics["annealed/nats"] == 4.0


def test_means_are_over_seeds(tmp_path):
    for seed, nats in ((1, 4.0), (2, 5.0)):
        write_json(tmp_path / f"lolm-{seed}.json", evaluation(nats=nats))
    assert ("mean/lolm_test_nats", 4.5, 0, 0.0) in mean_points(tmp_path)


def test_failure_is_one_warning(project, monkeypatch, capsys):
    Path("mlflow.db").write_bytes(b"this is no database" * 100)
    monkeypatch.setattr(tracking, "_warned", False)
    folder = finished_run()
    tracking.try_sync(folder, finished=True)
    tracking.try_sync(folder, finished=True)
    error = capsys.readouterr().err
    assert error.count("warning: MLflow was not filled") == 1
    assert "python -m pipeline.track" in error


def test_broken_record_is_named(project):
    folder = finished_run()
    (folder / "metrics.jsonl").write_text('{"step": 1', encoding="utf-8")
    with pytest.raises(RecordError, match=r"metrics\.jsonl: line 1"):
        tracking.sync_run(folder, finished=True)
    assert runs() == []


def test_short_runs_do_not_pay_for_mlflow(project):
    scratch = write_run(Path(".scratch/f00d"), rows(5), finished=False)
    tracking.try_sync(scratch, min_interval=1e9)
    assert runs() == []
    tracking.try_sync(scratch, min_interval=0.0)
    assert [run.info.status for run in runs()] == ["RUNNING"]
    tracking.try_sync(finished_run(), min_interval=1e9)  # the summary says that it is finished
    assert [run.info.status for run in runs()] == ["FINISHED"]


def test_stages_of_the_runner_leave_it_to_the_runner(project):
    """A short run under the runner ends without loading MLflow; without a runner it fills MLflow itself."""
    finished_run()
    code = (
        "import sys; from lolm import tracking; tracking.try_sync('artifacts/smoke/runs/lolm-1'); print('mlflow' in sys.modules)"
    )
    for environment, loaded in (({tracking.RUNNER: "1"}, "False"), ({}, "True")):
        done = subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
            capture_output=True,
            text=True,
        )
        assert done.stdout.strip() == loaded, done.stderr
        assert len(runs()) == (loaded == "True")


@pytest.mark.slow
def test_two_processes_prepare_the_store(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    environment |= {"DVC_ROOT": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", "from lolm import tracking; tracking.prepare_store(); print(tracking.experiment_id('tiny'))"]
    both = [subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=300)[0].strip() for process in both] == ["None", "None"]
    assert [process.returncode for process in both] == [0, 0]
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        assert database.execute("SELECT count(*) FROM experiments").fetchone() == (1,)  # MLflow's own "Default"
    assert {file.name for file in tmp_path.iterdir() if "mlflow.db" in file.name} <= {"mlflow.db", "mlflow.db.lock"}
