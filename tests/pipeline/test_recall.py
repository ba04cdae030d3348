"""The recall stage, in a folder of its own."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from lolm.accounting.resolve import resolve_run
from lolm.config import RecallConfig, load_params
from lolm.data.synthetic import MQAR, Induction
from lolm.records import Layout, RunKey, read, write
from lolm.records.schema import Recall, Sweep
from pipeline import recall as stage
from pipeline.stage import Stage

ROOT = Path(__file__).parents[2]
KEY = RunKey("transformer_modern", 3)


def write_project(folder: Path, **recall) -> None:
    """params.yaml with other recall tasks at scale smoke, and the record of a sweep."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["scales"]["smoke"]["recall"] = recall
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    write(Layout("smoke", folder).sweep(KEY.arm), Sweep(KEY.arm, 2e-3, None, 0, (), (), ()))
    for package in ("lolm", "pipeline"):  # the stage hashes its own source
        if not (folder / package).exists():
            (folder / package).symlink_to(ROOT / package)


@pytest.fixture
def recall(tmp_path, monkeypatch):
    """Function that runs the stage in the project's folder and reads its record."""

    def _recall() -> Recall:
        monkeypatch.chdir(tmp_path)
        chosen = Stage(load_params().select("smoke"))
        assert stage.why(chosen, KEY) is not None
        stage.recall(chosen, KEY)
        assert stage.why(chosen, KEY) is None, "what was made is known as made"
        return read(chosen.layout.recall(*KEY), Recall)

    return _recall


def test_each_task_is_trained_measured_and_recorded(tmp_path, recall):
    size = {"steps": 12, "batch_size": 4, "seq_len": 24, "vocab_size": 32, "pairs": 3, "eval_sequences": 20}
    write_project(tmp_path, tasks=["mqar", "induction"], **size)
    record = recall()
    assert (record.arm, record.seed, record.name) == (*KEY, "transformer_modern · smoke · seed 3")
    assert record.state_elements == 4 * 2 * 24 * 32  # keys and values of four layers
    for name, task in {"mqar": MQAR(32, 24, 3), "induction": Induction(32, 24)}.items():
        found = record.tasks[name]
        assert (found.chance, found.order_zero) == (task.chance, task.order_zero)
        assert (found.steps, found.seq_len, found.diverged) == (12, 24, False)
        assert 0 <= found.accuracy <= 1
        assert 1 < found.nats < 6
    assert (record.tasks["mqar"].pairs, record.tasks["induction"].pairs) == (3, None)
    assert not list((tmp_path / ".scratch").glob("*"))
    write_project(tmp_path, tasks=["induction"], **size)
    alone = recall()
    assert alone.tasks == {"induction": record.tasks["induction"]}  # bit for bit, whatever was trained before
    assert (alone.fingerprint != record.fingerprint, alone.model == record.model) == (True, True)


def test_a_task_that_diverges_says_so_and_the_others_are_measured(tmp_path, recall, monkeypatch):
    write_project(
        tmp_path, tasks=["mqar", "induction"], steps=4, batch_size=2, seq_len=24, vocab_size=32, pairs=3, eval_sequences=4
    )
    original = stage.run_trial

    def diverging(run, sampler, *rest):
        if isinstance(sampler.stream, MQAR):
            raise stage.DivergenceError("loss = nan", step=1)
        return original(run, sampler, *rest)

    monkeypatch.setattr(stage, "run_trial", diverging)
    tasks = recall().tasks
    assert (tasks["mqar"].diverged, tasks["mqar"].accuracy, tasks["mqar"].nats) == (True, None, None)
    assert tasks["induction"].accuracy is not None


def test_without_tasks_the_record_is_empty(tmp_path, recall):
    write_project(tmp_path, tasks=[])
    record = recall()
    assert record.tasks == {}
    assert record.state_elements > 0


def test_a_task_is_trained_like_text_but_for_lengths_and_schedule():
    run = resolve_run(load_params(ROOT / "params.yaml"), "tiny", "lolm", 1)
    config = RecallConfig(tasks=("mqar",), steps=50, batch_size=8, seq_len=32, vocab_size=64, pairs=4)
    found = stage.task_run(run, config)
    assert (found.architecture, found.vocab_size) == (run.architecture, 64)
    assert found.size == replace(run.size, learning_rate=1e-3)  # the tasks' own rate, not the one tuned on text
    training = found.training
    assert (training.steps, training.warmup_steps, training.tokens_per_step, training.schedule) == (50, 5, 256, "cosine")
    assert (training.cooldowns, training.snapshots, training.accumulation) == ((), (), 1)
    assert (training.betas, training.weight_decay, training.clip) == (run.training.betas, run.training.weight_decay, 1.0)
