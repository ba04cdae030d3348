import json

import pytest
import yaml
from synthetic import Truth, write_results

from lolm import LolmError
from lolm.records import RecordError
from lolm.records.results import load_results


def test_reads_what_params_ask_for(tmp_path):
    write_results(tmp_path, arms=("lolm", "transformer"), seeds=(2, 1))
    results = load_results(tmp_path)
    assert (results.subject, results.baseline) == ("lolm", "transformer")
    assert results.seeds == (1, 2)
    assert [(a.seed, b.seed) for a, b in results.pairs("lolm", "transformer")] == [(1, 1), (2, 2)]
    run = results.of("lolm")[0]
    assert run.name == "lolm · smoke · seed 1"
    assert run.condition("gate", 1.0)["step"] == run.ablation_steps[-1] == 400
    assert run.condition("gate", 1.0, 40)["step"] == 40
    assert run.condition("gate", 0.123) is None
    assert run.damage("none") == 0


def test_a_missing_run_is_named(tmp_path):
    write_results(tmp_path)
    (tmp_path / "artifacts/smoke/runs/lolm-2/summary.json").unlink()
    with pytest.raises(RecordError, match="lolm-2/summary.json: no such record; run `dvc repro`"):
        load_results(tmp_path)


def test_a_measurement_of_other_weights_is_refused(tmp_path):
    write_results(tmp_path)
    path = tmp_path / "artifacts/smoke/evaluate/lolm-1.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"fingerprint": "0" * 16}))
    with pytest.raises(RecordError, match=r"evaluate/lolm-1\.json: measures another model than .*lolm-1/config\.json"):
        load_results(tmp_path)


def test_recall_of_another_model_and_a_stale_sweep_are_refused(tmp_path):
    write_results(tmp_path)
    path = tmp_path / "artifacts/smoke/recall/lolm-1.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"model": "0" * 16}))
    with pytest.raises(RecordError, match=r"recall/lolm-1\.json: measures another model"):
        load_results(tmp_path)
    path.unlink()
    sweep = tmp_path / "artifacts/smoke/sweep/transformer.json"
    sweep.write_text(json.dumps(json.loads(sweep.read_text()) | {"chosen": 0.5}))
    with pytest.raises(RecordError, match="chose the learning rate 0.5, but transformer · smoke · seed 1 was trained with"):
        load_results(tmp_path)


def test_studies_share_runs(tmp_path):
    write_results(tmp_path, arms=("lolm", "transformer"), seeds=(1, 2))
    params = yaml.safe_load((tmp_path / "params.yaml").read_text())
    params["studies"]["one"] = {"arms": ["lolm"], "seeds": [2], "subject": "lolm", "baseline": "transformer"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    plan = tmp_path / "reports/smoke/one/plan.json"
    plan.parent.mkdir()
    plan.write_text((tmp_path / "reports/smoke/main/plan.json").read_text())
    results = load_results(tmp_path, study="one")
    assert (results.study, results.arms, results.seeds) == ("one", ("lolm",), (2,))
    assert (results.subject, results.baseline) == ("lolm", None)
    assert load_results(tmp_path).study == "main"
    with pytest.raises(LolmError, match="no study 'ones' under 'studies'"):
        load_results(tmp_path, study="ones")


def test_ends_of_schedule_and_what_may_be_absent(tmp_path):
    write_results(tmp_path, truth=Truth(recall=False, swept=False))
    results = load_results(tmp_path)
    run = results.of("lolm")[0]
    steps, nats = run.annealed("test")
    assert steps == [100, 140, 200, 280, 400]
    assert nats[-1] == run.test_nats
    assert run.annealed("validation", "tokens")[0] == [1024 * step for step in steps]
    assert run.rows[-1]["step"] == 400
    assert run.measured("lengths", "windows", "2", "beyond", "tokens") == 2048
    assert run.measured("lengths", "windows", "4", "nats") is None
    assert run.accuracy("mqar") is None
    assert results.sweeps == {}


def test_empty_metrics_and_stale_plan(tmp_path):
    write_results(tmp_path)
    (tmp_path / "reports/smoke/main/plan.json").write_text("{}")
    with pytest.raises(RecordError, match="no entry for arm 'lolm'"):
        load_results(tmp_path)
    (tmp_path / "artifacts/smoke/runs/lolm-1/metrics.jsonl").write_text("")
    with pytest.raises(RecordError, match="is empty"):
        load_results(tmp_path)


def test_unknown_scale_and_missing_params(tmp_path):
    write_results(tmp_path)
    with pytest.raises(LolmError, match="no scale 'smokey'"):
        load_results(tmp_path, "smokey")
    with pytest.raises(LolmError, match="no such file"):
        load_results(tmp_path / "elsewhere")
