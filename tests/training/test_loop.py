"""The loop: what it writes, and that a run which is killed anywhere ends as if it had not been."""

import math
import multiprocessing
import os
import shutil
import signal
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from builders import ROOT, random_tokens
from filelock import FileLock
from runs import STEPS, Killed, files, fit, make_trainer, records, short_run, train

from lolm.data.batches import stream_seed
from lolm.objectives import token_loss
from lolm.records import RecordError, read, read_series, read_text
from lolm.records.schema import RunHeader, Summary
from lolm.training.checkpoint import CheckpointError, load_checkpoint, load_run
from lolm.training.optimizer import learning_rate_at
from lolm.training.progress import TrainingError
from lolm.training.scratch import FINISHED

ARMS = ["lolm", "lolm_published", "lolm_v0", "transformer"]


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> dict[str, Path]:
    """Each arm trained without interruption."""
    folders = {}
    for arm in ARMS:
        folders[arm] = tmp_path_factory.mktemp(arm)
        train(short_run(arm), folders[arm])
    return folders


def same(a: Path, b: Path) -> None:
    assert files(a) == files(b)
    assert len(files(a)) == 2  # the final weights and one snapshot
    assert records(a) == records(b)
    summaries = [read(f / "run" / "summary.json", Summary) for f in (a, b)]
    first, second = (replace(summary, seconds=0.0, tokens_per_second=0.0) for summary in summaries)
    assert first == second
    assert sorted(p.name for p in (a / "run").iterdir()) == sorted(p.name for p in (b / "run").iterdir())


# ------------------------------------------------------------------------------------------ what it writes


def test_files_of_a_finished_run(straight):
    folder = straight["lolm"]
    made = [p for name in ("run", "weights") for p in sorted(folder.glob(f"{name}/**/*")) if p.is_file()]
    assert [str(p.relative_to(folder)) for p in made] == [
        "run/config.json", "run/metrics.jsonl.xz", "run/summary.json", "weights/model.safetensors",
        "weights/snapshots/step-000006.safetensors",
    ]  # fmt: skip
    header = read(folder / "run" / "config.json", RunHeader)
    assert header.run == short_run("lolm")
    assert (folder / "scratch" / FINISHED).exists()
    assert not (folder / "scratch" / "checkpoint.pt").exists()


@pytest.mark.parametrize("arm", ARMS)
def test_axes_and_places_of_the_records(straight, arm):
    rows = read_series(straight[arm] / "run" / "metrics.jsonl.xz")
    assert [row["step"] for row in rows if "train/loss" in row] == [3, 6, 9, 12]
    assert [row["step"] for row in rows if "val/nats" in row] == [0, 5, 10, 12]
    for row in rows:
        assert row["tokens"] == row["step"] * 24 * 2
        assert row["flops"] == row["tokens"] * 1000.0
    assert sorted(row["seconds"] for row in rows) == [row["seconds"] for row in rows]
    logged = [row for row in rows if "train/loss" in row][-1]
    assert logged["train/lr"] == learning_rate_at(11, short_run(arm).training, 3e-3)
    assert ("gate/mean" in logged) == ("regime/alive" in logged) == ("annealed/gate_mean" in rows[-1]) == (arm != "transformer")


def test_the_total_is_the_weighted_sum_of_its_terms(straight):
    objectives = short_run("lolm").architecture.objectives
    for row in read_series(straight["lolm"] / "run" / "metrics.jsonl.xz"):
        if "train/loss" in row:
            terms = ("future", "change", "regime", "competitive", "memory", "manifest")
            total = row["train/loss"] + sum(getattr(objectives, f"{t}_weight") * row[f"train/{t}"] for t in terms)
            assert row["train/total"] == pytest.approx(total, rel=1e-5)


def test_a_logged_loss_is_the_mean_over_its_window(straight, tmp_path):
    train(short_run("transformer", training={"log_every": 1}), tmp_path)
    each = [row["train/loss"] for row in records(tmp_path) if "train/loss" in row]
    windows = [row["train/loss"] for row in records(straight["transformer"]) if "train/loss" in row]
    assert windows == pytest.approx([sum(each[i : i + 3]) / 3 for i in range(0, 12, 3)])
    assert read(straight["transformer"] / "run" / "summary.json", Summary).train_loss == pytest.approx(windows[-1])


def test_the_summary_repeats_the_last_values(straight):
    rows, summary = (
        read_series(straight["lolm"] / "run" / "metrics.jsonl.xz"),
        read(straight["lolm"] / "run" / "summary.json", Summary),
    )
    assert (summary.arm, summary.seed, summary.step, summary.tokens) == ("lolm", 1, STEPS, STEPS * 48)
    assert summary.val_nats == rows[-2]["val/nats"] == rows[-1]["annealed/nats"]
    assert summary.val_gate_mean == rows[-2]["val/gate_mean"]


@pytest.mark.parametrize("arm", ["lolm", "lolm_v0", "transformer"])
def test_a_finished_run_scores_as_its_last_evaluation_says(straight, arm):
    """Weights, heads and the regime's temperature come back as they were measured."""
    trained = load_run(straight[arm] / "run", straight[arm] / "weights")
    evaluate = make_trainer(short_run(arm), straight[arm]).evaluate
    assert evaluate(trained.model)["val/nats"] == read(straight[arm] / "run" / "summary.json", Summary).val_nats
    if arm == "lolm":
        assert float(trained.model.regime.tau) == pytest.approx(1 - 0.5 * STEPS / 100)
        assert float(trained.at(6).regime.tau) == pytest.approx(1 - 0.5 * 6 / 100)
        assert trained.steps == [6, 12]


def test_training_learns(tmp_path):
    run = short_run(
        "lolm", training={"steps": 60, "batch_size": 8, "checkpoint_every": 60, "eval_every": 60}, size={"dropout": 0.0}
    )
    summary = train(run, tmp_path)
    start = records(tmp_path)[0]["val/nats"]
    assert start == pytest.approx(math.log(61), abs=0.1)
    assert summary.val_nats < start - 0.5


# ------------------------------------------------------------------------------------------ the same bits again


@pytest.mark.parametrize("arm", ["lolm", "transformer"])
def test_two_runs_in_two_folders_are_equal(straight, arm, tmp_path):
    torch.manual_seed(123)  # whatever happened before
    train(short_run(arm), tmp_path)
    same(tmp_path, straight[arm])


def test_another_seed_is_another_run(straight, tmp_path):
    train(short_run("transformer", seed=2), tmp_path)
    assert files(tmp_path) != files(straight["transformer"])


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("stop", [3, 4, 7, 11])  # before any checkpoint, right after one, between two, near the end
def test_a_run_that_is_cut_off_ends_as_if_it_had_not_been(straight, arm, stop, tmp_path):
    with pytest.raises(Killed):
        train(short_run(arm), tmp_path, stop_before=stop)
    assert not (tmp_path / "run").exists()
    train(short_run(arm), tmp_path)
    same(tmp_path, straight[arm])


def test_cut_off_at_every_checkpoint(straight, tmp_path):
    """In ``on_checkpoint``, so right after a checkpoint was written, the last one included."""
    steps = []

    def cut(folder):
        steps.append(load_checkpoint(folder / "checkpoint.pt")["progress"]["step"])
        raise Killed

    for _ in range(3):
        with pytest.raises(Killed):
            fit(make_trainer(short_run("lolm"), tmp_path, cut), tmp_path)
    assert steps == [4, 8, 12]
    fit(make_trainer(short_run("lolm"), tmp_path), tmp_path)
    same(tmp_path, straight["lolm"])


def test_leftovers_of_a_kill_in_the_middle_of_a_write_do_not_stay(straight, tmp_path):
    with pytest.raises(Killed):
        train(short_run("transformer"), tmp_path, stop_before=9)
    for name in ("checkpoint.tmp", ".config.json.99999999.tmp"):
        (tmp_path / "scratch" / name).write_bytes(b"half")
    with open(tmp_path / "scratch" / "metrics.jsonl", "a") as file:
        file.write('{"step": 9, "tok')
    train(short_run("transformer"), tmp_path)
    same(tmp_path, straight["transformer"])


def train_and_be_killed(folder: Path, stop: int) -> None:
    with suppress(Killed):
        train(short_run(), folder, stop)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_goes_on_in_another(straight, tmp_path, capsys):
    """SIGKILL, which nothing can catch, between two checkpoints."""
    killed = multiprocessing.get_context("fork").Process(target=train_and_be_killed, args=(tmp_path, 6))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    capsys.readouterr()
    train(short_run(), tmp_path)
    assert "going on from step 4" in capsys.readouterr().err
    same(tmp_path, straight["lolm"])


# ------------------------------------------------------------------------------------------ arithmetic of a step


def test_accumulation_equals_the_large_batch(tmp_path):
    """The sampler hands out the same sequences either way; only sums are ordered differently."""
    for name, training in {"large": {"batch_size": 4}, "split": {"batch_size": 2, "accumulation": 2}}.items():
        (tmp_path / name).mkdir()
        train(short_run("transformer", training=training, size={"dropout": 0.0}), tmp_path / name)
    large, split = (load_run(tmp_path / name / "run", tmp_path / name / "weights").model for name in ("large", "split"))
    for (name, a), b in zip(large.named_parameters(), split.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-5, msg=name)
    for a, b in zip(records(tmp_path / "large"), records(tmp_path / "split"), strict=True):
        assert a == pytest.approx(b, rel=1e-4)


def test_first_step_by_hand(tmp_path):
    """Loss, clipped gradient and AdamW update of one step, from the seeds and the batch alone."""
    run = short_run("transformer", training={"steps": 1, "warmup_steps": 0, "clip": 0.05, "snapshots": ()}, size={"dropout": 0.0})
    trainer = make_trainer(run, tmp_path)
    x, y = trainer.sampler.batch(0)
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    loss = torch.nn.functional.cross_entropy(trainer.model(x).flatten(0, 1), y.flatten())
    gradients = dict(zip(before, torch.autograd.grad(loss, list(trainer.model.parameters())), strict=True))
    norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradients.values()))
    fit(trainer, tmp_path)
    row = records(tmp_path)[1]
    assert row["train/loss"] == pytest.approx(float(loss.detach()), rel=1e-6)
    assert row["train/grad_norm"] == pytest.approx(norm, rel=1e-5)
    after = dict(load_run(tmp_path / "run", tmp_path / "weights").model.named_parameters())
    assert norm > 0.05
    for name, start in before.items():
        g = gradients[name] * 0.05 / norm
        decay = 0.1 if start.ndim >= 2 else 0.0
        wanted = start * (1 - 3e-3 * decay) - 3e-3 * g / (g.abs() + 1e-8)
        certain = g.abs() > 1e-6  # where the sign of the gradient is not rounding
        torch.testing.assert_close(after[name][certain], wanted[certain], rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize(("clip", "groups"), [("separate", 2), ("joint", 1)])
def test_loss_heads_are_clipped_apart_or_together(clip, groups, tmp_path):
    trainer = make_trainer(short_run("lolm", recipe={"clip": clip}), tmp_path)
    assert len(trainer.clip_groups) == groups
    assert sum(len(g) for g in trainer.clip_groups) == len(list(trainer.model.parameters())) + len(
        list(trainer.heads.parameters())
    )


def test_the_objective_heads_are_trained_with_the_model(straight, tmp_path):
    untrained = make_trainer(short_run("lolm"), tmp_path).heads.state_dict()
    trained = load_run(straight["lolm"] / "run", straight["lolm"] / "weights").heads.state_dict()
    assert all(not torch.equal(untrained[name], trained[name]) for name in untrained)
    fixed = make_trainer(short_run("lolm_v0"), tmp_path).heads.state_dict()
    kept = load_run(straight["lolm_v0"] / "run", straight["lolm_v0"] / "weights").heads.state_dict()
    assert all(torch.equal(fixed[name], kept[name]) for name in fixed)  # v0 never trained its projection


def test_arms_see_the_same_batches(tmp_path):
    a, b = (make_trainer(short_run(arm), tmp_path).sampler for arm in ("lolm", "transformer"))
    assert all(torch.equal(x, y) for step in range(5) for x, y in zip(a.batch(step), b.batch(step), strict=True))
    assert stream_seed(1, "init") != stream_seed(1, "data/0")


def test_every_micro_batch_has_noise_of_its_own(tmp_path):
    trainer = make_trainer(short_run("lolm", training={"steps": 4, "warmup_steps": 0, "accumulation": 2}), tmp_path)
    losses, seeds = trainer._losses, []

    def spy(x, y, share):
        seeds.append((torch.initial_seed(), trainer.noise.initial_seed()))
        return losses(x, y, share)

    trainer._losses = spy
    fit(trainer, tmp_path)
    taken = seeds[-8:]  # a pass to warm up, which is thrown away, may come first
    assert len({seed for pair in taken for seed in pair}) == 16


def test_bfloat16_autocast_trains_float32_weights(tmp_path):
    summary = train(short_run("lolm", training={"precision": "bf16"}), tmp_path)
    assert math.isfinite(summary.train_loss)
    assert all(p.dtype == torch.float32 for p in load_run(tmp_path / "run", tmp_path / "weights").model.parameters())


# ------------------------------------------------------------------------------------------ what can go wrong


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_the_last_checkpoint(straight, tmp_path):
    run = short_run("lolm")

    def spoil(folder):
        trainer.model.fusion.surface.weight.data.fill_(float("nan"))

    trainer = make_trainer(run, tmp_path, spoil)
    with pytest.raises(TrainingError, match=r"not finite at step 5: .*train/loss = nan.*scratch/checkpoint\.pt.*learning_rate"):
        fit(trainer, tmp_path)
    assert load_checkpoint(tmp_path / "scratch" / "checkpoint.pt")["progress"]["step"] == 4
    train(run, tmp_path)
    same(tmp_path, straight["lolm"])


def test_a_loss_that_is_not_finite_before_any_checkpoint(tmp_path):
    trainer = make_trainer(short_run("transformer"), tmp_path)
    trainer.evaluate = lambda model: {"val/nats": 1.0}
    trainer.model.embedding.weight.data.fill_(float("inf"))
    with pytest.raises(TrainingError, match="not finite at step 1: .*no checkpoint was made yet"):
        fit(trainer, tmp_path)


def test_a_held_lock_is_named(tmp_path):
    with (
        FileLock(tmp_path / "scratch.lock"),
        pytest.raises(TrainingError, match=r"another process is training this run \(lock .*scratch\.lock\)"),
    ):
        train(short_run("transformer"), tmp_path)
    train(short_run("transformer", training={"steps": 3, "snapshots": ()}), tmp_path)  # and free again


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty"])
def test_a_broken_checkpoint_is_named(tmp_path, damage):
    with pytest.raises(Killed):
        train(short_run("transformer"), tmp_path, stop_before=5)
    path = tmp_path / "scratch" / "checkpoint.pt"
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[: len(whole) // 2], "garbage": b"garbage" * 100, "empty": b""}[damage])
    with pytest.raises(
        CheckpointError, match=r"scratch/checkpoint\.pt: cannot be read as a whole .*delete the folder .*scratch to start"
    ):
        train(short_run("transformer"), tmp_path)


def test_records_that_went_missing_under_a_checkpoint_are_named(tmp_path):
    with pytest.raises(Killed):
        train(short_run("transformer"), tmp_path, stop_before=5)
    (tmp_path / "scratch" / "metrics.jsonl").unlink()
    with pytest.raises(RecordError, match="0 bytes, but the checkpoint has seen"):
        train(short_run("transformer"), tmp_path)


def test_the_loss_in_training_is_the_loss_of_the_model(tmp_path):
    trainer = make_trainer(short_run("lolm", size={"dropout": 0.0}), tmp_path)
    trainer.model.eval()
    tokens = random_tokens(2, 25)
    _, terms, streams = trainer._losses(tokens[:, :-1], tokens[:, 1:])
    assert float(terms["loss"].detach()) == float(token_loss(trainer.model, trainer.model.fuse(streams), tokens[:, 1:]).detach())


def test_records_hold_no_absolute_path_or_time(straight):
    folder = straight["lolm"] / "run"
    text = "".join(read_text(folder / name) for name in ("config.json", "metrics.jsonl.xz", "summary.json"))
    assert str(ROOT) not in text
    assert str(straight["lolm"]) not in text


@pytest.mark.system
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_torch_compile_takes_the_same_steps_around_the_compiled_kernels(tmp_path):
    losses = []
    for compiled in (False, True):
        trainer = make_trainer(short_run("hymba", training={"compile": compiled}, size={"dropout": 0.0}), tmp_path)
        for _ in range(2):
            trainer._step(STEPS)
        trainer.collect()
        losses.append(trainer.progress.last_loss)
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_a_clip_group_without_gradients_has_a_norm_of_zero_where_the_others_have_theirs(tmp_path):
    """On a device without data, as on a GPU, what lies elsewhere cannot be stacked."""
    trainer = make_trainer(short_run("lolm_v0"), tmp_path)
    trainer.device = torch.device("meta")
    with_gradient, without = (torch.nn.Parameter(torch.zeros(3, device="meta")) for _ in range(2))
    with_gradient.grad = torch.zeros(3, device="meta")
    trainer.clip_groups, trainer._sums = [[with_gradient], [without]], {"loss": torch.zeros((), device="meta")}
    trainer.optimizer = torch.optim.SGD([with_gradient, without])
    assert (trainer._update().device.type, len(trainer._names)) == ("meta", 3)
    trainer.device, trainer.clip_groups, trainer._sums = torch.device("cpu"), [[without]], {}
    assert trainer._update().tolist() == [0.0]
