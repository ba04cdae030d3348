import json

import pytest
from synthetic import write_results

from lolm import LolmError
from lolm.analysis.results import load_results
from lolm.records import RecordError


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
    with pytest.raises(RecordError, match="measures run 0000000000000000"):
        load_results(tmp_path)


def test_empty_metrics_and_stale_plan(tmp_path):
    write_results(tmp_path)
    (tmp_path / "reports/smoke/plan.json").write_text("{}")
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
