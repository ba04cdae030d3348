import json
from dataclasses import asdict, replace

import pytest
from synthetic import CORPUS, Truth, write_results

from lolm import LolmError
from lolm.accounting.resolve import resolve_run
from lolm.records import Layout, RecordError, RunKey, read, read_json, recorded_scales, write, write_json, write_rows
from lolm.records.results import load_results, load_run
from lolm.records.schema import Divergence, Downstream, Recall, RecallTask, RunHeader


def changed(path, **values):
    path.write_text(json.dumps(read_json(path) | values))


def test_reads_what_params_ask_for(tmp_path):
    write_results(tmp_path, arms=("lolm", "transformer"), seeds=(2, 1))
    results = load_results(tmp_path)
    assert (results.subject, results.baseline) == ("lolm", "transformer")
    assert results.seeds == (1, 2)
    assert [(a.seed, b.seed) for a, b in results.pairs("lolm", "transformer")] == [(1, 1), (2, 2)]
    run = results.of("lolm")[0]
    assert run.name == "lolm · smoke · seed 1"
    assert run.condition("gate", 1.0).step == run.ablation_steps[-1] == 400
    assert run.condition("gate", 1.0, 40).step == 40
    assert run.condition("gate", 0.123) is None
    assert run.damage("none") == 0
    assert run.contribution().step == 400
    assert run.contribution(40).addends["latent"].variance_share == pytest.approx(0.05, abs=0.002)
    assert recorded_scales(tmp_path) == ["smoke"]


def test_a_record_of_the_corpus_that_is_no_mapping_is_named(tmp_path):
    write_results(tmp_path, seeds=(1,))
    for text, says in (("[]", "not a mapping"), (json.dumps(CORPUS | {"splits": {"train": 5}}), "splits.train: expected dict")):
        Layout("smoke", tmp_path).corpus_record.write_text(text)
        with pytest.raises(RecordError, match=rf"corpus\.json: {says}"):
            load_results(tmp_path)


def test_a_run_that_was_not_made_is_listed_and_stops_no_other(tmp_path):
    write_results(tmp_path, not_run=("lolm-2", "transformer"))
    results = load_results(tmp_path)
    assert [str(key) for key in results.missing] == ["lolm-2", "transformer-1", "transformer-2", "transformer-3"]
    assert [run.seed for run in results.of("lolm")] == [1, 3]
    assert (results.arms, results.baseline, results.pairs("lolm", "transformer")) == (("lolm",), None, ())


def test_a_run_that_diverged_is_listed_and_stops_no_other(tmp_path):
    write_results(tmp_path, diverged=("transformer-2",))
    results = load_results(tmp_path)
    assert [(run.arm, run.seed, run.step) for run in results.diverged] == [("transformer", 2, 133)]
    assert results.missing == ()
    assert [run.seed for run in results.of("transformer")] == [1, 3]
    assert load_run(Layout("smoke", tmp_path), RunKey("transformer", 2)) is None


def test_a_run_that_diverged_under_other_parameters_counts_as_not_made(tmp_path):
    layout = Layout("smoke", write_results(tmp_path, seeds=(1,), diverged=("transformer",)))
    params = load_results(tmp_path).params
    expected = {arm: resolve_run(params, "smoke", arm, 0) for arm in ("lolm", "transformer")}
    longer = replace(expected["transformer"].training, steps=2 * expected["transformer"].training.steps)
    edited = expected | {"transformer": replace(expected["transformer"], training=longer)}
    found = lambda expected: load_results(tmp_path, expected=expected)  # noqa: E731
    assert ([failed.arm for failed in found(expected).diverged], found(expected).missing) == (["transformer"], ())
    assert (found(edited).diverged, found(edited).missing) == ((), (RunKey("transformer", 1),))
    failed = read(layout.divergence("transformer", 1), Divergence)
    write(layout.divergence("transformer", 1), replace(failed, header=None))  # from before the record had them
    assert ([failed.arm for failed in found(edited).diverged], found(edited).missing) == (["transformer"], ())


def test_stages_that_were_not_made_are_none(tmp_path):
    write_results(tmp_path, left_out=("ablate/lolm-2", "recall", "sweep/lolm"))
    results = load_results(tmp_path)
    assert [run.ablation is None for run in results.of("lolm")] == [False, True, False]
    assert all(run.recall is None and run.accuracy("mqar") is None for run in results.runs)
    assert set(results.sweeps) == {"transformer"}
    assert results.of("lolm")[1].ablation_steps == ()


def test_a_run_of_other_parameters_counts_as_not_made(tmp_path):
    write_results(tmp_path, seeds=(1, 2))
    params = load_results(tmp_path).params
    expected = {arm: resolve_run(params, "smoke", arm, 0) for arm in ("lolm", "transformer")}
    assert load_results(tmp_path, expected=expected).missing == ()
    header = Layout("smoke", tmp_path).header("lolm", 2)
    record = read_json(header)
    record["run"]["training"]["weight_decay"] = 0.2
    header.write_text(json.dumps(record))
    results = load_results(tmp_path, expected=expected)
    assert results.missing == (RunKey("lolm", 2),)
    assert [run.seed for run in results.of("lolm")] == [1]
    assert load_results(tmp_path).missing == ()  # whoever asks for no configuration gets what was recorded


def test_a_run_on_other_text_counts_as_not_made(tmp_path):
    layout = Layout("smoke", write_results(tmp_path, seeds=(1, 2)))
    params = load_results(tmp_path).params
    expected = {arm: resolve_run(params, "smoke", arm, 0) for arm in ("lolm", "transformer")}
    counts = {"dtype": "uint16", "train": {"tokens": 5}}
    data = asdict(read(layout.header("lolm", 1), RunHeader).data)
    for record in (counts, counts | {"checksums": data}):  # the first is from before they were taken
        write_json(layout.shards_record, record)
        assert load_results(tmp_path, expected=expected).missing == ()
    header = read(layout.header("lolm", 2), RunHeader)
    write(layout.header("lolm", 2), replace(header, data=replace(header.data, validation="other")))
    results = load_results(tmp_path, expected=expected)
    assert results.missing == (RunKey("lolm", 2),)
    assert [str(run.key) for run in results.runs] == ["lolm-1", "transformer-1", "transformer-2"]
    assert load_results(tmp_path).missing == ()
    write_json(layout.shards_record, counts | {"checksums": data | {"train": "other"}})
    assert len(load_results(tmp_path, expected=expected).missing) == 4
    write_json(layout.shards_record, counts | {"checksums": {"train": "other"}})
    with pytest.raises(RecordError, match=r"shards\.json: .*validation"):
        load_results(tmp_path, expected=expected)


def test_a_learning_rate_that_a_sweep_chose_is_as_expected(tmp_path):
    write_results(tmp_path, seeds=(1,))
    params = load_results(tmp_path).params
    expected = {arm: resolve_run(params, "smoke", arm, 7, 0.123) for arm in ("lolm", "transformer")}
    assert load_results(tmp_path, expected=expected).missing == ()


def test_a_run_that_is_recorded_in_part_is_named(tmp_path):
    write_results(tmp_path)
    (tmp_path / "reports/smoke/train/lolm-2/summary.json").unlink()
    with pytest.raises(RecordError, match="lolm-2/summary.json: no such record; run `make repro SCALE=smoke`"):
        load_results(tmp_path)


def test_a_measurement_of_other_weights_counts_as_not_made(tmp_path):
    layout = Layout("smoke", write_results(tmp_path))
    scored = {"harness": "", "max_length": 8, "limit": None, "tasks": {}}
    write(layout.downstream("lolm", 1), Downstream("lolm", 1, "lolm", "0" * 16, **scored))
    write(layout.downstream("lolm", 2), Downstream("lolm", 2, "lolm", load_results(tmp_path).of("lolm")[1].fingerprint, **scored))
    changed(layout.evaluation("lolm", 1), fingerprint="0" * 16)
    first, second, _ = load_results(tmp_path).of("lolm")
    assert (first.stale, second.stale) == (("evaluate", "downstream"), ())
    assert first.evaluation is first.text is first.downstream is None
    assert first.ablation is not None
    assert second.downstream is not None


def test_recall_of_another_model_counts_as_not_made(tmp_path):
    write_results(tmp_path)
    changed(tmp_path / "reports/smoke/recall/lolm-1.json", model="0" * 16)
    run = load_results(tmp_path).of("lolm")[0]
    assert (run.recall, run.stale) == (None, ("recall",))


def test_a_run_of_another_rate_than_its_sweeps_counts_as_not_made(tmp_path):
    write_results(tmp_path, seeds=(1, 2))
    sweep = tmp_path / "reports/smoke/sweep/transformer.json"
    changed(sweep, chosen=2 * read_json(sweep)["chosen"])
    results = load_results(tmp_path)
    assert results.missing == (RunKey("transformer", 1), RunKey("transformer", 2))
    assert [str(run.key) for run in results.runs] == ["lolm-1", "lolm-2"]
    sweep.unlink()
    assert load_results(tmp_path).missing == ()


def test_a_recall_task_that_diverged_has_no_accuracy(tmp_path):
    layout = Layout("smoke", write_results(tmp_path, seeds=(1,)))
    path = layout.recall("lolm", 1)
    record = read(path, Recall)
    record.tasks["mqar"] = RecallTask(100, 64, 8, 1 / 64, 1 / 8, None, None, diverged=True)
    write(path, record)
    run = load_results(tmp_path).of("lolm")[0]
    assert run.accuracy("mqar") is None
    assert run.diverged_tasks == ("mqar",)
    assert run.accuracy("induction") > 0.8


def test_studies_share_runs(tmp_path):
    write_results(tmp_path, seeds=(1, 2), studies={"one": {"arms": ("lolm",), "seeds": (2,)}})
    results = load_results(tmp_path, study="one")
    assert (results.study, results.arms, results.seeds) == ("one", ("lolm",), (2,))
    assert (results.subject, results.baseline) == ("lolm", None)
    assert load_results(tmp_path).study == "main"
    with pytest.raises(LolmError, match="no study 'ones' under 'studies'"):
        load_results(tmp_path, study="ones")


def test_ends_of_schedule(tmp_path):
    write_results(tmp_path, truth=Truth(recall=False, swept=False))
    results = load_results(tmp_path)
    run = results.of("lolm")[0]
    steps, nats = run.annealed("test")
    assert steps == [100, 140, 200, 280, 400]
    assert nats[-1] == run.test_nats
    assert run.annealed("validation", "tokens")[0] == [1024 * step for step in steps]
    assert run.rows[-1]["step"] == 400
    assert run.evaluation.lengths.windows["2"].beyond.tokens == 2048
    assert results.sweeps == {}


def test_an_empty_series_is_named(tmp_path):
    write_results(tmp_path)
    write_rows(Layout("smoke", tmp_path).series("lolm", 1), [])
    with pytest.raises(RecordError, match=r"metrics\.jsonl\.xz: is empty"):
        load_results(tmp_path)


def test_unknown_scale_and_missing_params(tmp_path):
    write_results(tmp_path)
    with pytest.raises(LolmError, match="no scale 'smokey'"):
        load_results(tmp_path, "smokey")
    with pytest.raises(LolmError, match="no such file"):
        load_results(tmp_path / "elsewhere")
