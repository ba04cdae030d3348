"""What the ablation stage writes, for arms with and without the parts it looks at, on models that were never trained."""

from types import SimpleNamespace

import pytest
import torch
from builders import ArrayStream, make_model, make_run

from lolm.config import AblationConfig
from lolm.data.batches import BatchSampler
from pipeline import ablate as stage
from pipeline.opening import Opened
from pipeline.stage import Paths

CONFIG = AblationConfig(
    tokens=192, batch_size=2, gate_values=(0.0, 0.5, 1.0), calibration_tokens=96, dimension_shares=(0.25,), dimension_draws=1,
    split_draws=2, refit_tokens=192, refit_steps=2, fine_tune_steps=1,
)  # fmt: skip
REMOVED = ["surface_mean", "latent_mean"]


class InMemory(Opened):
    """A run whose text lies in memory: each split is another stream."""

    def stream(self, split):
        return ArrayStream(2000, seed=len(split))

    def references(self, sets):
        return {name: {"uniform": 4.0} for name in sets}


@pytest.fixture
def ablate(monkeypatch):
    """Function that runs the stage on an arm with two kept sets of weights; returns the metrics and the record."""

    def _ablate(arm, **changes):
        run = make_run(
            arm, training={"steps": 8, "seq_len": 24, "batch_size": 2, "snapshots": (0.5,), "cooldowns": ()}, **changes
        )
        models = {step: make_model(arm, seed=step, **changes) for step in (4, 8)}
        trained = SimpleNamespace(run=run, steps=[4, 8], at=models.get, header={"fingerprint": "f00d"})
        opened = InMemory(Paths("smoke"), SimpleNamespace(ablation=CONFIG), trained)
        written = []
        monkeypatch.setattr(stage, "open_run", lambda args: opened)
        monkeypatch.setattr(stage, "arguments", lambda *args, **kwargs: None)
        monkeypatch.setattr(stage, "write_json", lambda path, record: written.append(record))
        monkeypatch.setattr(stage.Tokenizer, "load", lambda path: None)
        monkeypatch.setattr(stage, "gate_by_class", lambda model, *args: [{"class": "all", "of": model is models[8]}])
        before = {step: {k: v.clone() for k, v in model.state_dict().items()} for step, model in models.items()}
        stage.ablate()
        for step, model in models.items():
            assert all(torch.equal(value, before[step][name]) for name, value in model.state_dict().items())
        return written

    return _ablate


def test_the_record_of_a_lolm(ablate):
    metrics, record = ablate("lolm")
    assert (record["split"], record["tokens"], record["fingerprint"]) == ("test", 192, "f00d")
    rows = {step: [row for row in record["conditions"] if row["step"] == step] for step in (4, 8)}
    names = {step: [(row["intervention"], row["value"]) for row in rows[step]] for step in rows}
    assert names[4] == names[8]
    assert len(set(names[8])) == len(names[8])
    ways = [f"{branch}_{by}{end}" for branch in ("surface", "latent") for by in ("zero", "mean", "resample", "gaussian")
            for end in ("", "+match_norm")]  # fmt: skip
    splits = [f"split_{draw}_{end}" for draw in (0, 1) for end in ("first", "second")]
    wanted = [(name, None) for name in (*ways, *splits, "none", "memory_mean", "regime_mean")]
    wanted += [("gate", value) for value in CONFIG.gate_values] + [("gate+match_norm", value) for value in (0.0, 1.0)]
    assert set(wanted) <= set(names[8])
    keys = {"step", "intervention", "value", "nats", "bits_per_byte", "accuracy", "kl_to_full", "top1_agreement", "temperature",
            "nats_fitted"}  # fmt: skip
    assert all(set(row) == keys for row in record["conditions"])

    assert [row["step"] for row in record["contributions"]] == [4, 8]
    shares = record["contributions"][1]
    assert 0 < shares["gate"] < 1
    assert set(shares["addends"]) == {"surface", "latent", "memory", "regime"}
    assert set(shares["addends"]["latent"]) == {"mean_norm", "variance_share", "logit", "logit_centred"}

    interventions = [("none", None), *((name, None) for name in REMOVED), ("gate", 0.0), ("gate", 1.0)]
    readouts = ["temperature", "affine", "head", "head_scratch", "fine_tune"]
    found = [(row["intervention"], row["value"], row["readout"]) for row in record["readouts"]]
    assert found == [(*intervention, readout) for intervention in interventions for readout in readouts]
    keys = {"step", "intervention", "value", "readout", "full", "damaged", "refitted", "recovered", "temperature"}
    assert all(set(row) == keys and row["step"] == 8 for row in record["readouts"])
    at = dict(zip(names[8], rows[8], strict=True))
    for row in record["readouts"]:  # the same text is scored, so the laboratory's parts must agree
        assert row["full"] == pytest.approx(at["none", None]["nats"], rel=1e-6)
        assert row["damaged"] == pytest.approx(at[row["intervention"], row["value"]]["nats"], rel=1e-6)
    assert record["token_classes"] == [{"step": 8, "class": "all", "of": True}]

    assert set(metrics) == {"nats", "inversion", "uniform"}
    assert metrics["inversion"]["mean"] == at["latent_mean", None]["nats"] - at["surface_mean", None]["nats"]
    assert metrics["inversion"]["gate"] == at["gate", 1.0]["nats"] - at["gate", 0.0]["nats"]
    assert metrics["nats"]["gate=0"] == at["gate", 0.0]["nats"]
    assert len(metrics["nats"]) == 13


def test_means_come_from_validation_text_and_not_from_what_is_scored(ablate, monkeypatch):
    asked = []
    original = stage.measure
    monkeypatch.setattr(stage, "measure", lambda model, batches: asked.append(list(batches)) or original(model, asked[-1]))
    ablate("lolm")
    validation = torch.from_numpy(ArrayStream(2000, seed=len("validation")).tokens)
    for batches in asked:
        assert sum(x.numel() for x in batches) == CONFIG.tokens
        assert torch.equal(batches[0][0], validation[:24])
    assert len(asked) == 2
    assert len("validation") != len("test")


def test_a_fusion_without_a_gate_is_not_forced(ablate):
    metrics, record = ablate("lolm_sum")
    assert not any("gate" in row["intervention"] for row in record["conditions"] + record["readouts"])
    assert {row["intervention"] for row in record["readouts"]} == {"none", *REMOVED}
    assert record["contributions"][0]["gate"] is None
    assert set(metrics["inversion"]) == {"zero", "mean", "resample", "gaussian"}


def test_a_fusion_without_a_latent_branch_has_nothing_to_choose_between(ablate):
    metrics, record = ablate("lolm_no_latent")
    assert record["readouts"] == []
    assert set(record["contributions"][0]["addends"]) == {"surface", "memory", "regime"}
    assert "inversion" not in metrics


def test_a_plain_stack_has_its_blocks_skipped(ablate):
    metrics, record = ablate("transformer")
    assert record["contributions"] == record["readouts"] == record["token_classes"] == []
    assert {row["intervention"] for row in record["conditions"]} == {"none", "skip_last_blocks"}
    assert set(metrics) == {"nats", "uniform"}
    assert set(metrics["nats"]) == {"none", "skip_last_blocks=1"}


def test_training_batches_are_those_that_would_have_come_next():
    run = make_run("lolm", training={"steps": 8, "seq_len": 24, "batch_size": 2, "accumulation": 3, "cooldowns": ()})
    opened = InMemory(Paths("smoke"), SimpleNamespace(ablation=CONFIG), SimpleNamespace(run=run))

    sampler = BatchSampler(ArrayStream(2000, seed=len("train")), 2, 24, run.seed)
    found = opened.training_batches(100)
    assert len(found) == 2
    assert all(torch.equal(x, sampler.batch(24 + i)[0]) for i, (x, _) in enumerate(found))
