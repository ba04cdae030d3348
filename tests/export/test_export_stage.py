"""`make export`: what is written, and what is not written twice."""

import pytest

pytest.importorskip("transformers")

from builders import ROOT
from synthetic import write_results, write_weights

from lolm.config import load_params
from lolm.export import ExportError
from lolm.records import RunKey, read, write_json, write_text
from pipeline import export
from pipeline.stage import Stage

KEY = RunKey("mamba", 1)

pytestmark = pytest.mark.slow


def test_a_run_is_written_held_against_itself_and_not_written_twice(tmp_path, monkeypatch):
    write_results(tmp_path, arms=("mamba",), seeds=(1,))
    write_weights(tmp_path, "mamba", 1)
    write_text(tmp_path / "params.yaml", (ROOT / "params.yaml").read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    stage = Stage(load_params().select("smoke", "main"))
    splits, sources = {"train": {"documents": 9, "bytes": 2_000_000}}, {"songs": {"train_documents": 9}}
    write_json(
        stage.layout.corpus_record, {"splits": splits, "sources": sources, "licences": [{"licence": "CC0", "documents": 9}]}
    )
    assert export.why(stage, KEY) == "not written"
    monkeypatch.setattr(export, "ROUNDING", 0.0)
    with pytest.raises(ExportError, match="MambaForCausalLM gives logits that differ from the run's by"):
        export.make(stage, KEY)
    assert export.why(stage, KEY) == "not written", "what was not found equal does not count"
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    export.make(stage, KEY)
    record = read(export.record_of(stage.layout, KEY), export.Exported)
    assert record.kind == "MambaForCausalLM"
    assert record.largest_difference < 1e-4
    assert record.tokens == export.WINDOWS * stage.preset.training.seq_len
    assert export.why(stage, KEY) is None
    write_text(stage.layout.reports / "claims.json", "[]")
    assert export.why(stage, KEY) == "other weights, records or code", "the card has the verdicts"
