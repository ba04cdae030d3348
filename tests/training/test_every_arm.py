"""Every arm of params.yaml trains through the one loop, comes back from its folder, and repeats its bits after a kill."""

import math

import pytest
from builders import PARAMS
from runs import Killed, files, make_trainer, records, short_run, train

from lolm.accounting.resolve import resolve_run
from lolm.training.checkpoint import load_run

SHORT = {"steps": 4, "checkpoint_every": 2, "eval_every": 2, "log_every": 1, "snapshots": ()}


def run_of(arm: str):
    """At the arm's own depth, so that every block of its pattern takes part."""
    return short_run(arm, training=SHORT, size={"n_layers": resolve_run(PARAMS, "smoke", arm, 1).size.n_layers})


@pytest.mark.parametrize("arm", PARAMS.architectures)
def test_trains_and_comes_back(arm, tmp_path):
    run = run_of(arm)
    summary = train(run, tmp_path)
    assert summary.step == 4
    losses = [row["val/nats"] for row in records(tmp_path) if "val/nats" in row]
    assert all(map(math.isfinite, losses))
    assert losses[-1] != losses[0]
    trained = load_run(tmp_path / "run", tmp_path / "weights")
    assert trained.run == run
    assert make_trainer(run, tmp_path).evaluate(trained.model)["val/nats"] == summary.val_nats
    for name, parameter in trained.model.named_parameters():
        assert parameter.isfinite().all(), name


@pytest.mark.parametrize("arm", ["mamba2", "griffin", "jamba_moe", "hymba", "lolm_concat", "lolm_transformer_latent"])
def test_a_kill_changes_nothing(arm, tmp_path):
    for name in ("straight", "killed"):
        (tmp_path / name).mkdir()
    train(run_of(arm), tmp_path / "straight")
    with pytest.raises(Killed):
        train(run_of(arm), tmp_path / "killed", stop_before=3)
    train(run_of(arm), tmp_path / "killed")
    assert files(tmp_path / "straight") == files(tmp_path / "killed")
    assert records(tmp_path / "straight") == records(tmp_path / "killed")


def test_the_target_of_the_gate_is_logged_beside_it_also_where_no_loss_pulls_it_there(tmp_path):
    train(run_of("lolm_free_gate"), tmp_path)
    rows = [row for row in records(tmp_path) if "train/loss" in row]
    assert len(rows) == 4
    for row in rows:
        assert {"gate/mean", "gate/target"} <= set(row)
        assert 0 < row["gate/target"] < 1
        assert "train/competitive" not in row
        without = ("future", 0.5), ("change", 0.1), ("regime", 0.3), ("memory", 0.05)
        total = row["train/loss"] + sum(weight * row[f"train/{term}"] for term, weight in without)
        assert row["train/total"] == pytest.approx(total, rel=1e-5)


def test_the_load_of_experts_is_in_the_records(tmp_path):
    train(run_of("jamba_moe"), tmp_path)
    rows = [row for row in records(tmp_path) if "moe/load_max" in row]
    assert len(rows) == 4
    for row in rows:
        assert 1 / 16 <= row["moe/load_max"] <= 1
        assert 0 < row["moe/load_entropy"] <= math.log(16)
        assert row["train/router"] >= 1 - 1e-6
