"""What the stages that remove layers record, on models that were hardly trained."""

from types import SimpleNamespace

import pytest
import torch
from builders import ArrayStream, make_model, make_run

from lolm.analysis import layers as by
from lolm.config import LayersConfig, RecallConfig
from lolm.data.synthetic import build_task
from lolm.records import Layout, read, write
from lolm.records.schema import Layers, References
from pipeline import layers as stage
from pipeline.context import RunContext
from pipeline.recall import task_run, train_on

CONFIG = LayersConfig(tokens=96, batch_size=2, draws=2)


class InMemory(RunContext):
    """A run whose text lies in memory: each split is another stream."""

    def stream(self, split):
        return ArrayStream(2000, seed=len(split))

    def references(self, sets):
        return {name: References(4.0, 3.0, 2.0, 1.0) for name in sets}


@pytest.mark.parametrize("arm", ["samba", "lolm"])
def test_the_record_of_a_run(arm, tmp_path):
    """Types at every checkpoint, single layers and controls at the end; LOLM's types are its stacks."""
    run = make_run(arm, training={"steps": 8, "seq_len": 24, "batch_size": 2, "snapshots": (0.5,), "cooldowns": ()})
    models = {step: make_model(arm, seed=step) for step in (4, 8)}
    trained = SimpleNamespace(run=run, steps=[4, 8], at=models.get, header=SimpleNamespace(fingerprint="f00d"))
    context = InMemory(Layout("smoke"), SimpleNamespace(layers=CONFIG), trained, "1234")
    write(tmp_path / "layers.json.xz", stage.measured(context))
    record = read(tmp_path / "layers.json.xz", Layers)
    found = record.measured
    assert (record.arm, record.inputs, record.split, found.tokens) == (arm, "1234", "test", 96)
    assert found.steps == (4, 8)
    assert all(by.statistic(found, how, step) is not None for how in ("zero", "mean", "resample", "gaussian") for step in (4, 8))
    assert by.permutation([found], "mean").p_value > 0
    assert all(by.beyond_random(found, kind, "number", "mean") is not None for kind in ("recurrent", "attention"))
    assert found.damage([found.mixers[0]], "mean") is not None
    assert found.damage([found.mixers[0]], "mean", 4) is None
    if arm == "lolm":
        assert {site.split(".")[0] for site in found.of_type["recurrent"]} == {"latent"}
        assert {site.split(".")[0] for site in found.of_type["attention"]} == {"surface"}


def test_statistics_are_of_validation_text(monkeypatch):
    context = InMemory(Layout("smoke"), SimpleNamespace(layers=CONFIG), SimpleNamespace(run=make_run("samba")), "1234")
    asked = []
    monkeypatch.setattr(stage, "measure_layers", lambda model, test, others, *a, **k: asked.append((test.stream, others.stream)))
    monkeypatch.setattr(InMemory, "stream", lambda self, split: ArrayStream(4000, seed=len(split)))
    monkeypatch.setattr(stage, "joined", lambda each: None)
    monkeypatch.setattr(stage, "Layers", lambda **fields: fields)
    trained = SimpleNamespace(run=context.run, steps=[1], at=lambda n: None, header=SimpleNamespace(fingerprint=""))
    stage.measured(InMemory(context.layout, context.preset, trained, "1234"))
    ((test, others),) = asked
    assert (test.tokens == ArrayStream(4000, seed=len("test")).tokens).all()
    assert (others.tokens == ArrayStream(4000, seed=len("validation")).tokens).all()


def test_recall_is_scored_without_each_type_and_training_stays_the_same(tmp_path, monkeypatch):
    config = RecallConfig(tasks=("mqar",), steps=4, batch_size=4, seq_len=16, vocab_size=32, pairs=4, eval_sequences=16)
    run = task_run(make_run("samba"), config)
    torch.set_num_threads(1)
    found = train_on(build_task("mqar", config), run, config, tmp_path / "a", "cpu")
    assert {row.type for row in found.removed} == {"recurrent", "attention", "mlp"}
    assert len(found.removed) == 3 * 4
    monkeypatch.setattr("pipeline.recall.recall_by_type", lambda *args: ())
    plain = train_on(build_task("mqar", config), run, config, tmp_path / "b", "cpu")
    assert (plain.nats, plain.accuracy, plain.removed) == (found.nats, found.accuracy, ())
