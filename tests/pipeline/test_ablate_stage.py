"""What the ablation stage measures, for arms with and without the parts it looks at, on models that were never trained."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from builders import ArrayStream, make_model, make_run

from lolm.config import AblationConfig, load_params
from lolm.data.batches import BatchSampler
from lolm.records import Layout, read, write
from lolm.records.schema import Ablation, References, TokenClass
from pipeline import ablate as stage
from pipeline.context import RunContext

CONFIG = AblationConfig(
    tokens=192, batch_size=2, gate_values=(0.0, 0.5, 1.0), calibration_tokens=96, dimension_shares=(0.25,), dimension_draws=1,
    split_draws=2, refit_tokens=192, refit_validation_tokens=96, refit_steps=2, fine_tune_steps=1,
)  # fmt: skip
REMOVED = ["surface_mean", "latent_mean"]


class InMemory(RunContext):
    """A run whose text lies in memory: each split is another stream."""

    def stream(self, split):
        return ArrayStream(2000, seed=len(split))

    def references(self, sets):
        return {name: References(4.0, 3.0, 2.0, 1.0) for name in sets}


def context_of(run, trained):
    return InMemory(Layout("smoke"), SimpleNamespace(ablation=CONFIG), SimpleNamespace(run=run, **trained), "1234")


@pytest.fixture
def ablate(monkeypatch, tmp_path):
    """Function that measures an arm with two kept sets of weights; returns the record as it is read back."""

    def _ablate(arm, **changes):
        run = make_run(
            arm, training={"steps": 8, "seq_len": 24, "batch_size": 2, "snapshots": (0.5,), "cooldowns": ()}, **changes
        )
        models = {step: make_model(arm, seed=step, **changes) for step in (4, 8)}
        trained = {"steps": [4, 8], "at": models.get, "header": SimpleNamespace(fingerprint="f00d")}

        def by_class(model, *args, step):
            return [TokenClass(step, "all", 7 if model is models[8] else 0, None, None, None, None, None)]

        monkeypatch.setattr(stage, "tokenizer_of", lambda layout, vocab_size: None)
        monkeypatch.setattr(stage, "gate_by_class", by_class)
        before = {step: {k: v.clone() for k, v in model.state_dict().items()} for step, model in models.items()}
        write(tmp_path / "ablation.json.xz", stage.ablation(context_of(run, trained)))
        for step, model in models.items():
            assert all(torch.equal(value, before[step][name]) for name, value in model.state_dict().items())
        return read(tmp_path / "ablation.json.xz", Ablation)

    return _ablate


def test_the_record_of_a_lolm(ablate):
    record = ablate("lolm")
    assert (record.split, record.tokens, record.fingerprint, record.inputs) == ("test", 192, "f00d", "1234")
    rows = {step: [row for row in record.conditions if row.step == step] for step in (4, 8)}
    names = {step: [(row.intervention, row.value) for row in rows[step]] for step in rows}
    through = {(f"{branch}_{kind}_{by}", None) for branch in ("surface", "latent") for by in ("zero", "resample")
               for kind in ("total", "indirect", "into_latent")}  # fmt: skip
    assert names[4] == [row for row in names[8] if row not in through]  # at the final weights alone
    assert len(set(names[8])) == len(names[8])
    ways = [f"{branch}_{by}" for branch in ("surface", "latent") for by in ("zero", "mean", "resample", "gaussian")]
    ways += [f"{branch}_{kind}_{by}" for branch in ("surface", "latent") for kind in ("total", "indirect")
             for by in ("mean", "zero", "resample")]  # fmt: skip
    ways += ["surface_into_latent_mean", "latent_alone", "surface_alone", "latent_alone+gate_mean_dimension"]
    splits = [f"split_{draw}_{end}" for draw in (0, 1) for end in ("first", "second")]
    wanted = [(name, None) for name in (*ways, *splits, "none", "memory_mean", "regime_mean")]
    wanted += [("gate", value) for value in CONFIG.gate_values]
    assert set(wanted) <= set(names[8])
    assert not any("match_norm" in name for name, _ in names[8])  # its head has a norm
    assert all(row.temperature is not None and row.nats_fitted is not None for row in record.conditions)
    by_window = {(row.step, row.intervention, row.value) for row in record.conditions if row.window_nats}
    assert by_window == {(8, name, None) for name in ways[:8]} | {(8, "gate", 0.0), (8, "gate", 1.0)}
    for row in record.conditions:
        if row.window_nats:
            assert np.mean(row.window_nats) == pytest.approx(row.nats, abs=1e-6)

    assert [row.step for row in record.contributions] == [4, 8]
    addends = record.contributions[1]
    assert 0 < addends.gate < 1
    assert set(addends.addends) == {"surface", "latent", "memory", "regime"}

    interventions = [("none", None), *((name, None) for name in REMOVED), ("gate", 0.0), ("gate", 1.0)]
    readouts = ["temperature", "affine", "head", "head_scratch", "fine_tune"]
    found = [(row.intervention, row.value, row.readout) for row in record.readouts]
    assert found == [(*intervention, readout) for intervention in interventions for readout in readouts]
    assert all(row.step == 8 for row in record.readouts)
    assert all(row.intact is not None and (row.kept is None) == (row.readout == "temperature") for row in record.readouts)
    at = dict(zip(names[8], rows[8], strict=True))
    for row in record.readouts:  # the same text is scored, so the laboratory's parts must agree
        assert row.full == pytest.approx(at["none", None].nats, rel=1e-6)
        assert row.damaged == pytest.approx(at[row.intervention, row.value].nats, rel=1e-6)
    assert [(row.step, row.token_class, row.tokens) for row in record.token_classes] == [(8, "all", 7)]


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
    record = ablate("lolm_sum")
    assert not any("gate" in row.intervention for row in (*record.conditions, *record.readouts))
    assert {row.intervention for row in record.readouts} == {"none", *REMOVED}
    assert record.contributions[0].gate is None


def test_a_fusion_without_a_latent_branch_has_nothing_to_choose_between(ablate):
    record = ablate("lolm_no_latent")
    assert record.readouts == ()
    assert set(record.contributions[0].addends) == {"surface", "memory", "regime"}


def test_v0_has_no_norm_to_refit(ablate):
    assert {readout.readout for readout in ablate("lolm_v0").readouts} == {"temperature", "head", "head_scratch", "fine_tune"}


def test_a_plain_stack_has_its_blocks_skipped(ablate):
    record = ablate("transformer")
    assert record.contributions == record.readouts == record.token_classes == ()
    assert {row.intervention for row in record.conditions} == {"none", "skip_last_blocks"}


def test_training_batches_are_those_that_would_have_come_next():
    run = make_run("lolm", training={"steps": 8, "seq_len": 24, "batch_size": 2, "accumulation": 3, "cooldowns": ()})
    context = context_of(run, {})
    sampler = BatchSampler(ArrayStream(2000, seed=len("train")), 2, 24, run.seed)
    found = context.training_batches(100)
    assert len(found) == 2
    assert all(torch.equal(x, sampler.batch(24 + i)[0]) for i, (x, _) in enumerate(found))


@pytest.mark.parametrize("arm", ["lolm", "transformer"])
def test_annealed_weights_under_the_settings_of_the_study_over_sizes(arm):
    """At ends of schedules in place of snapshots, without random halves, groups of dimensions and refits; and at boundaries."""
    own = load_params(Path(__file__).resolve().parents[2] / "params.yaml").scales["budget_nano"].ablation
    short = {"refit_tokens": 96, "refit_validation_tokens": 96, "refit_steps": 1, "refit_checks": 1, "fine_tune_steps": 1}
    config = replace(own, tokens=96, batch_size=2, calibration_tokens=48, boundary_tokens=96, **short)
    run = make_run(
        arm,
        training={
            "steps": 8,
            "seq_len": 24,
            "batch_size": 2,
            "snapshots": (),
            "schedule": "wsd",
            "warmup_steps": 1,
            "cooldowns": (0.5,),
        },
    )
    models = {step: make_model(arm, seed=step) for step in (4, 8)}
    trained = {"schedule_ends": [4, 8], "at_end": models.get, "header": SimpleNamespace(fingerprint="f00d")}
    context = InMemory(Layout("smoke"), SimpleNamespace(ablation=config), SimpleNamespace(run=run, **trained), "1234")
    texts = [b"", b"\n", b".", *(b" word" for _ in range(200))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "tokenizer_of", lambda layout, vocab_size: SimpleNamespace(texts=texts, eos_id=0))
        patch.setattr(stage, "gate_by_class", lambda *args, step: [])
        record = stage.ablation(context)
    assert record.annealed
    assert record.steps == (4, 8)
    found = {row.intervention for row in record.conditions}
    assert not any(name.startswith("split_") for name in found)
    assert all(row.tokens > 0 for row in record.boundaries)
    assert record.boundaries
    if arm == "lolm":
        assert {"latent_mean", "surface_mean"} <= found
        assert {row.step for row in record.contributions} == {4, 8}
        assert all(0 <= row.share <= 1 and 0 <= row.gate <= 1 for row in record.boundaries)
    else:
        assert all(row.gate is None and row.damage_latent is None for row in record.boundaries)
