"""Annealed copies: each equals a shorter run of its own, and a kill anywhere changes nothing."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from runs import Killed, files, fit, make_trainer, records, short_run, train
from safetensors.torch import load_file

from lolm.config import ConfigError, TrainingConfig, from_mapping
from lolm.records import RecordError, read, read_rows, read_series
from lolm.records.schema import Summary
from lolm.training.checkpoint import CheckpointError, load_checkpoint, load_run
from lolm.training.optimizer import learning_rate_at
from lolm.training.scratch import FINISHED, clear_finished, remove

WSD = {"schedule": "wsd", "decay_fraction": 0.4, "cooldowns": (0.5, 0.75), "steps": 20, "warmup_steps": 2}


def branched(arm: str = "lolm", **training):
    return short_run(arm, training=WSD | training)


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("straight")
    train(branched(), folder)
    return folder


@pytest.mark.parametrize("horizon", [10, 15])
def test_a_copy_is_bit_for_bit_the_shorter_run(straight, horizon, tmp_path):
    alone = branched(steps=horizon, cooldowns=(), snapshots=())
    train(alone, tmp_path)
    wanted = load_file(tmp_path / "weights" / "model.safetensors")
    found = load_file(straight / "weights" / "cooldowns" / f"step-{horizon:06d}.safetensors")
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    end = [row for row in records(tmp_path) if "annealed/nats" in row]
    ours = [row for row in records(straight) if "annealed/nats" in row and row["step"] == horizon]
    assert ours == end


def test_the_run_itself_is_untouched_by_its_copies(straight, tmp_path):
    train(branched(cooldowns=()), tmp_path)
    assert (tmp_path / "weights" / "model.safetensors").read_bytes() == (straight / "weights" / "model.safetensors").read_bytes()
    plain = [row for row in records(straight) if "annealed/nats" not in row or row["step"] == 20]
    assert plain == records(tmp_path)


def test_records_and_summary(straight):
    rows = read_series(straight / "run" / "metrics.jsonl.xz")
    assert [row["step"] for row in rows if "annealed/nats" in row] == [10, 15, 20]
    assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)
    ends = {row["step"]: row for row in rows if "annealed/nats" in row}
    course = {row["step"]: row for row in rows if "val/nats" in row}
    assert ends[20]["annealed/nats"] == course[20]["val/nats"]
    assert ends[10]["annealed/nats"] != course[10]["val/nats"]
    for step, row in ends.items():
        assert row["tokens"] == step * 48
    summary = read(straight / "run" / "summary.json", Summary)
    assert (summary.step, summary.seconds) == (20, ends[20]["seconds"])
    assert summary.annealing_seconds > 0
    trained = load_run(straight / "run", straight / "weights")
    assert trained.schedule_ends == [10, 15, 20]
    evaluate = make_trainer(branched(), straight).evaluate
    for step in trained.schedule_ends:
        assert evaluate(trained.at_end(step))["val/nats"] == ends[step]["annealed/nats"]


@pytest.mark.parametrize("stop", [(0, 5), (0, 17), (1, 8), (1, 9), (2, 10), (2, 14)])
def test_a_run_that_is_cut_off_in_any_leg_ends_as_if_it_had_not_been(straight, stop, tmp_path):
    trainer = make_trainer(branched(), tmp_path)
    batch = trainer.sampler.batch

    def cut(index: int):
        if (trainer.progress.schedule, index) == stop and trainer.progress.step == index:  # not the warm-up's batch
            raise Killed
        return batch(index)

    trainer.sampler.batch = cut
    with pytest.raises(Killed):
        fit(trainer, tmp_path)
    fit(make_trainer(branched(), tmp_path), tmp_path)
    assert files(tmp_path) == files(straight)
    assert records(tmp_path) == records(straight)


def test_cut_off_at_every_checkpoint(straight, tmp_path):
    places = []

    def cut(folder):
        progress = load_checkpoint(folder / "checkpoint.pt")["progress"]
        places.append((progress["schedule"], progress["step"]))
        raise Killed

    for _ in range(20):
        try:
            fit(make_trainer(branched(), tmp_path, cut), tmp_path)
        except Killed:
            continue
        break
    assert places == [(0, 4), (0, 8), (0, 12), (0, 16), (0, 20), (1, 6), (1, 8), (1, 10), (2, 9), (2, 12), (2, 15)]
    assert files(tmp_path) == files(straight)
    assert records(tmp_path) == records(straight)


def test_where_the_newest_checkpoint_is_broken_the_one_before_is_taken(straight, tmp_path, capsys):
    """In the trunk, and where the newest is a cooldown's: the same bits in the end."""
    saved = []

    def cut(folder):
        path = folder / "checkpoint.pt"
        saved.append(load_checkpoint(path)["progress"]["schedule"])
        if (older := folder / "checkpoint.before.pt").exists():
            load_checkpoint(older)  # a broken one never takes the place of a good one
        if len(saved) % 3 == 2:
            raw = bytearray(path.read_bytes())
            raw[len(raw) // 2] ^= 1
            path.write_bytes(raw)
        raise Killed

    for _ in range(40):
        try:
            fit(make_trainer(branched(), tmp_path, cut), tmp_path)
        except Killed:
            continue
        break
    broken = [schedule for i, schedule in enumerate(saved, 1) if i % 3 == 2]
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(said) == len(broken)
    assert set(broken) == {0, 1, 2}
    assert all("scratch/checkpoint.pt: the bytes of " in line and "; the checkpoint before it is taken" in line for line in said)
    assert files(tmp_path) == files(straight)
    assert records(tmp_path) == records(straight)


def test_weights_that_were_changed_are_refused(straight, tmp_path):
    """Whole and of the right shapes, but for one bit of a number."""
    copy = shutil.copytree(straight, tmp_path / "run")
    assert load_run(copy / "run", copy / "weights").at_end(20)
    for name, ask in (("cooldowns/step-000010.safetensors", lambda: load_run(copy / "run", copy / "weights").at_end(10)),
                      ("model.safetensors", lambda: load_run(copy / "run", copy / "weights"))):  # fmt: skip
        raw = bytearray((copy / "weights" / name).read_bytes())
        raw[-1] ^= 1
        (copy / "weights" / name).write_bytes(raw)
        with pytest.raises(CheckpointError, match=rf"{name}: its bytes are not those that were trained; `dvc checkout`"):
            ask()


def test_a_finished_run_that_was_lost_is_given_again(straight, tmp_path, capsys):
    first = train(branched("transformer"), tmp_path)
    kept = files(tmp_path)
    for path in (tmp_path / "run").rglob("*"):
        if path.is_file():
            path.unlink()
    capsys.readouterr()
    assert train(branched("transformer"), tmp_path, stop_before=0) == first  # no batch is asked for
    assert "finished already" in capsys.readouterr().err
    assert files(tmp_path) == kept


def test_schedules_agree_until_the_shorter_one_decays():
    training = TrainingConfig(steps=100, seq_len=4, batch_size=1, warmup_steps=10, schedule="wsd", cooldowns=(0.5,))
    assert training.cooldown_steps == (50,)
    assert training.decay_starts(50) == 40
    rates = [[learning_rate_at(step, training, 1.0, end) for step in range(50)] for end in (50, 100)]
    assert rates[0][:40] == rates[1][:40]
    assert rates[0][40:] == pytest.approx([1 - 0.9 * k / 10 for k in range(1, 11)])
    alone = replace(training, steps=50, cooldowns=())
    assert rates[0] == [learning_rate_at(step, alone, 1.0) for step in range(50)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": "cosine"}, "cooldowns: need schedule: wsd"),
        ({"cooldowns": (1.0,)}, "below 1, got 1.0"),
        ({"cooldowns": (0.1,), "warmup_steps": 9}, "decay starts after the warm-up of 9 steps"),
        ({"cooldowns": (0.5, 0.501)}, "different shares"),
        ({"cooldowns": (0.999,)}, "which end at .100. of 100 steps"),
        ({"cooldowns": (0.02,), "warmup_steps": 0, "decay_fraction": 1.0}, "different shares"),
        ({"decay_fraction": 1.5}, "decay_fraction: must be above 0 and at most 1, got 1.5"),
    ],
)
def test_cooldowns_that_cannot_be(changes, message):
    values = {"steps": 100, "seq_len": 4, "batch_size": 1, "schedule": "wsd", "cooldowns": (0.5,)} | changes
    with pytest.raises(ConfigError, match=message):
        from_mapping(TrainingConfig, values)


def test_the_file_keeps_copies_after_the_run(straight):
    assert [row["step"] for row in read_rows(straight / "run" / "metrics.jsonl.xz")[-3:]] == [20, 10, 15]


def test_a_kill_at_the_very_end_loses_nothing(straight, tmp_path, monkeypatch):
    """After the last step, before the run is published: nothing is trained again."""
    monkeypatch.setattr("lolm.training.loop.publish", lambda *folders: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        train(branched(), tmp_path)
    monkeypatch.undo()
    (tmp_path / "scratch" / "checkpoint.pt").write_bytes(b"left over")
    leftover = tmp_path / ".run.99999999.tmp"
    leftover.mkdir()
    train(branched(), tmp_path, stop_before=0)
    assert files(tmp_path) == files(straight)
    assert records(tmp_path) == records(straight)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run", "scratch", "scratch.lock", "weights"]
    assert not (tmp_path / "weights" / "checkpoint.pt").exists()


def test_half_a_finished_folder_is_never_published(tmp_path):
    summary = train(branched("transformer"), tmp_path)
    (tmp_path / "scratch" / "summary.json").unlink()
    with pytest.raises(RecordError, match="summary.json"):
        train(branched("transformer"), tmp_path)
    assert read(tmp_path / "run" / "summary.json", Summary) == summary  # what was there stays
    remove(tmp_path / "scratch")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run", "weights"]


def test_training_again_from_scratch_leaves_published_records_alone(tmp_path):
    train(branched("transformer"), tmp_path)
    kept = (tmp_path / "run" / "metrics.jsonl.xz").read_bytes()
    (tmp_path / "scratch" / FINISHED).unlink()
    with pytest.raises(Killed):
        train(branched("transformer"), tmp_path, stop_before=3)
    assert (tmp_path / "run" / "metrics.jsonl.xz").read_bytes() == kept


def test_finished_runs_are_cleared_after_a_while(tmp_path):
    train(branched("transformer"), tmp_path)
    clear_finished(tmp_path, seconds=600)
    assert (tmp_path / "scratch").exists()
    clear_finished(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run", "weights"]
    assert (tmp_path / "weights" / "model.safetensors").exists()


def test_a_branch_that_went_missing_is_named(tmp_path):
    trainer = make_trainer(branched(), tmp_path)
    end_schedule = trainer._end_schedule

    def lose_the_branches():
        end_schedule()
        for branch in (tmp_path / "scratch" / "branches").iterdir():
            branch.unlink()

    trainer._end_schedule = lose_the_branches
    with pytest.raises(CheckpointError, match=r"branches/step-000010\.pt: no such file; delete the folder .*scratch to start"):
        fit(trainer, tmp_path)
