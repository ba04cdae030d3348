"""Several processes make the run that one makes: the same losses, records and weights but for the rounding of sums."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import make_run
from groups import together
from runs import Killed, files, fit, make_trainer, records, short_run, train
from safetensors.torch import load_file

from lolm import objectives
from lolm.config import BlockConfig, ConfigError, MixerConfig, RunConfig, StackConfig
from lolm.data.batches import IGNORED
from lolm.mixers.registry import MIXERS
from lolm.records import essence, read_rows
from lolm.training import ranks, steps
from lolm.training.checkpoint import CheckpointError
from pipeline.torchrun import ProcessesError, launch

TRAINING = {
    "steps": 20, "batch_size": 1, "accumulation": 2, "seq_len": 16, "log_every": 1, "eval_every": 20, "checkpoint_every": 20,
    "warmup_steps": 5, "snapshots": (0.5,),
}  # fmt: skip
OPTIONS = {"attention": {"window": 6}, "mamba2": {"head_width": 8, "chunk": 8}, "hymba": {"kv_heads": 2, "d_state": 4}}


def run_of(arm: str = "lolm", **training: Any) -> RunConfig:
    """A run of two micro-batches a step. ``mixers``: a decoder of every mixer once, and a mixture of experts."""
    if arm != "mixers":
        return short_run(arm, training=TRAINING | training)
    blocks = {name: BlockConfig(MixerConfig(name, OPTIONS.get(name, {})), mlp="none", norm="rmsnorm") for name in MIXERS}
    blocks["moe"] = BlockConfig(MixerConfig("attention"), mlp="swiglu", norm="layernorm", experts=3, experts_per_token=1)
    size = {"n_layers": len(blocks), "d_model": 16, "n_heads": 2, "d_ff": 8}
    return short_run("transformer_modern", training=TRAINING | training, size=size, surface=StackConfig(blocks, tuple(blocks)))


def trained(folder: str, names: list[str], stop: int | None = None, **training: Any) -> int:
    """Train runs in this process or its group, up to before a step if one is given; returns how many processes wrote."""
    writes: list[Path] = []
    for name in names:
        trainer = make_trainer(run_of(name, **training), Path(folder) / name, writes.append)
        original = trainer.sampler.batch

        def batch(index: int, trainer=trainer, original=original):
            if stop is not None and index >= stop * trainer.training.accumulation:
                raise Killed
            return original(index)

        trainer.sampler.batch = batch
        try:
            fit(trainer, Path(folder) / name)
        except Killed:
            if trainer.records is not None:
                trainer.records.close()  # or a process that is forked later writes what lies in the buffer
    return len(writes)


def close(a: Path, b: Path, tolerance: float = 1e-5) -> None:
    """The same rows within a relative tolerance; of terms that are differences of like numbers, within an absolute one."""
    assert len(records(a)) == len(records(b))
    for ours, theirs in zip(records(a), records(b), strict=True):
        assert ours == pytest.approx(theirs, rel=tolerance, abs=tolerance)


def close_weights(a: Path, b: Path, tolerance: float = 2e-4) -> None:
    assert files(a).keys() == files(b).keys()
    for name in files(a):
        ours, theirs = load_file(a / name), load_file(b / name)
        for key in theirs:
            assert ours[key].shape == theirs[key].shape
            torch.testing.assert_close(ours[key], theirs[key], rtol=0, atol=tolerance, msg=f"{name}: {key}")


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """What one process makes."""
    folder = tmp_path_factory.mktemp("alone")
    trained(str(folder), ["lolm", "mixers"])
    return folder


@pytest.mark.system
def test_two_processes_make_what_one_makes(alone, tmp_path):
    """Over 20 steps, for LOLM and for every mixer, with dropout and noise; an odd vocabulary leaves the last row its training."""
    wrote = together(2, tmp_path / "group", trained, str(tmp_path), ["lolm", "mixers"])
    assert wrote == [2, 0], "the lead alone writes"
    for arm in ("lolm", "mixers"):
        close(tmp_path / arm, alone / arm)
        close_weights(tmp_path / arm, alone / arm)
        start = make_trainer(run_of(arm), tmp_path).model.embedding.weight.detach()
        end = load_file(tmp_path / arm / "weights" / "model.safetensors")["embedding.weight"]
        assert len(end) == 61
        assert (end != start).any(dim=1).all()


@pytest.mark.system
def test_a_checkpoint_of_two_goes_on_on_one_and_on_four_and_of_one_on_four(tmp_path, capsys):
    """The next losses are the same; four have fewer rows of some weights than processes."""
    (tmp_path / "alone").mkdir()
    trained(str(tmp_path / "alone"), ["mixers"], **SHARED)
    scratch = tmp_path / "mixers" / "scratch"
    together(2, tmp_path / "group", up_to, str(tmp_path), 9)
    assert (scratch / "checkpoint" / ".metadata").exists()
    assert not (scratch / "checkpoint.pt").exists()
    shutil.copytree(tmp_path / "mixers", tmp_path / "direct" / "mixers")
    os.replace(scratch / "checkpoint", scratch / "checkpoint.new")  # as a kill between the last byte and the name leaves it
    shard = bytearray((scratch / "checkpoint.new" / "__1_0.distcp").read_bytes())
    shard[len(shard) // 2] ^= 1
    (scratch / "checkpoint.new" / "__1_0.distcp").write_bytes(shard)
    capsys.readouterr()
    up_to(str(tmp_path), 9)  # one process goes on, from the checkpoint before
    said = capsys.readouterr().err
    assert "scratch/checkpoint: the bytes of __1_0.distcp are not those that were written; the checkpoint before it" in said
    assert "going on from step 4" in said
    assert (scratch / "checkpoint.pt").exists()
    assert not list(scratch.glob("checkpoint*/"))
    together(4, tmp_path / "group", up_to, str(tmp_path), 12)  # right behind a checkpoint, so that every row is on the disk
    together(4, tmp_path / "group", up_to, str(tmp_path / "direct"), 12)  # from what two have written
    wanted = [row["train/loss"] for row in records(tmp_path / "alone" / "mixers") if "train/loss" in row]
    for folder in (scratch, tmp_path / "direct" / "mixers" / "scratch"):
        rows = [row for row in read_rows(folder / "metrics.jsonl") if "train/loss" in row]
        assert [row["step"] for row in rows] == list(range(1, 13))
        assert [row["train/loss"] for row in rows] == pytest.approx(wanted[:12], rel=1e-5)
    (scratch / "checkpoint" / "__0_0.distcp").write_bytes(b"garbage")
    with pytest.raises(CheckpointError, match=r"scratch/checkpoint: the bytes of __0_0.distcp .*delete .*scratch to start"):
        up_to(str(tmp_path), 14)


SHARED = {"steps": 16, "accumulation": 4, "checkpoint_every": 4, "eval_every": 16}


def up_to(folder: str, stop: int) -> int:
    return trained(folder, ["mixers"], stop, **SHARED)


# ------------------------------------------------------------------------------------------ traps, two processes


WSD = {"schedule": "wsd", "steps": 10, "cooldowns": (0.6,), "warmup_steps": 1, "checkpoint_every": 4, "eval_every": 10}
BF16 = {"steps": 4, "precision": "bf16", "activation_checkpointing": True, "eval_every": 4, "warmup_steps": 1}


def asked(trainer: Any) -> Any:
    """Micro-batches with unlike numbers of scored tokens, one of them with none."""
    original = trainer.sampler.batch

    def batch(index: int):
        x, y = original(index)
        return x, torch.where(torch.arange(y.shape[1]) < (3 * index) % 13, y, IGNORED)

    trainer.sampler.batch = batch
    return trainer


def traps(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    base = Path(folder)
    trained(folder, ["lolm"], **WSD)
    fit(asked(make_trainer(run_of("transformer", steps=6), base / "asked")), base / "asked")
    objectives.LOSS_BLOCK, kept = 8, objectives.LOSS_BLOCK  # the head is read again in the backward pass, block by block
    trained(folder, ["transformer"], steps=6)
    objectives.LOSS_BLOCK = kept
    trainer = make_trainer(run_of("lolm_v0", steps=2, warmup_steps=1), base / "v0")  # heads that are not trained
    fit(trainer, base / "v0")
    seen: list[torch.Tensor] = []
    trainer = make_trainer(run_of("lolm", **BF16), base / "bf16")
    mixer = trainer.model.latent.layers[0]
    hook = mixer.register_forward_pre_hook(lambda module, inputs: seen.append(ranks.whole(module.A_log.detach()).clone()))
    fit(trainer, base / "bf16")
    hook.remove()
    found["A_log"] = [str(seen[0].dtype), bool((seen[0].bfloat16() == seen[0]).all())]
    found["masters"] = sorted({str(p.dtype) for p in trainer.model.parameters()})
    trainer = make_trainer(run_of("transformer", steps=4, warmup_steps=1), base / "lost")
    losses = trainer._losses
    trainer._losses = lambda x, y, share: losses(x, y, share * (float("nan") if ranks.rank() == ranks.count() - 1 else 1.0))
    try:
        fit(trainer, base / "lost")
    except steps.DivergenceError as error:
        found["lost"] = str(error)
    return found


@pytest.mark.system
def test_traps(tmp_path):
    """Cooldowns, which go back to other weights; tokens that are not scored; the head read in blocks; heads that are not trained;
    bfloat16 with exact decay rates; a loss that is not finite on one process alone."""
    one, two = tmp_path / "one", tmp_path / "two"
    traps(str(one))
    found = together(2, tmp_path / "group", traps, str(two))
    for run in ("lolm", "asked", "transformer", "v0"):
        close(two / run, one / run)
        close_weights(two / run, one / run)
    close(two / "bf16", one / "bf16", 2e-2)
    for process in found:
        assert process["A_log"] == ["torch.float32", False]
        assert process["masters"] == ["torch.float32"]
        assert "not finite at step 1" in process["lost"], "every process sees it"


def test_devices_must_share_a_step_and_are_no_part_of_what_a_run_is():
    run = make_run("lolm", training={"batch_size": 16, "accumulation": 2})
    with pytest.raises(ConfigError, match=r"devices: 8 on 1 node.*the same 32 sequences: batch_size: 4, accumulation: 8"):
        make_run("lolm", training={"batch_size": 16, "accumulation": 2, "devices": 8})
    shared = make_run("lolm", training={"batch_size": 16, "accumulation": 2, "devices": 2})
    assert essence(shared) == essence(run)
    assert shared != run


# ------------------------------------------------------------------------------------------ started as the stage starts them


DRIVER = """
import sys
from pipeline.stage import main
from pipeline.torchrun import launch
main(lambda: launch("a run", [sys.executable, *sys.argv[1:]], 2, 1))
"""


@pytest.mark.system
def test_a_process_that_dies_ends_the_others_in_one_line_and_the_next_start_goes_on(tmp_path):
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": f"{here.parents[1]}:{here.parent}", "OMP_NUM_THREADS": "1"}

    def start(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", DRIVER, str(here / "rank_process.py"), str(tmp_path), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)

    killed = start("6")
    assert killed.returncode == 2, killed.stderr
    (line,) = [line for line in killed.stderr.splitlines() if line.startswith("error:")]
    assert "a run: process 1 of 2 ended with SIGKILL, and the others with it; the same command goes on" in line
    finished = start()
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr.count("going on from step 4") == 1
    (tmp_path / "alone").mkdir()
    train(short_run("transformer", training={"accumulation": 2}), tmp_path / "alone")
    close(tmp_path, tmp_path / "alone")


def test_nodes_need_a_place_to_meet(monkeypatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(ProcessesError, match=r"training\.nodes is 2; .*MASTER_ADDR=… srun --nodes 2 .* python -m x"):
        launch("a run", ["python", "-m", "x"], 1, 2)
