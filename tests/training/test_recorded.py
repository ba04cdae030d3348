"""Steps that are recorded once and replayed, as a CUDA graph does; here by a tape of the operations below autograd."""

from __future__ import annotations

import pytest
import torch
from runs import make_trainer, short_run
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lolm.config import ConfigError
from lolm.training import steps
from lolm.training.recorded import WARM_UP, refuse_recording


class Tape(TorchDispatchMode):
    """Records operations with the tensors that they read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[tuple] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        outputs = function(*args, **(kwargs or {}))
        self.entries.append((function, args, kwargs or {}, outputs))
        return outputs

    def replay(self) -> None:
        """Compute again, into the same memory, without a line of the step's Python."""
        with torch.no_grad():
            for function, args, kwargs, outputs in self.entries:
                again = function(*args, **kwargs)
                for kept, new in zip(tree_leaves(outputs), tree_leaves(again), strict=True):
                    if torch.is_tensor(kept) and kept.data_ptr() != new.data_ptr():  # else a view, or changed in place
                        kept.copy_(new)


class Taped:
    """Stands for :class:`lolm.training.recorded.Recorded`; counts how often the step itself ran."""

    runs = 0

    def __init__(self, step, generators) -> None:
        self.step, self.tape = step, None

    def __call__(self):
        if self.tape is None:
            Taped.runs += 1
            with Tape() as self.tape:
                self.outputs = self.step()
            copied = [f.name() for f, *_ in self.tape.entries if f.name() == "aten::lift_fresh"]
            assert not copied, "a number of the host, whose copy to a GPU may not be recorded"
        else:
            self.tape.replay()
        return self.outputs


@pytest.mark.parametrize("arm", ["lolm", "lolm_half", "lolm_v0", "transformer", "samba"])
def test_a_replayed_step_is_the_step_bit_by_bit(arm, tmp_path, monkeypatch):
    """With rates, temperature, batches, dropout and Gumbel noise that differ from step to step."""
    monkeypatch.setattr(steps, "Recorded", Taped)
    monkeypatch.setattr(steps, "learning_rate_at", lambda step, *rest: 2.0 ** -(8 + step % 3))  # the same in float32
    monkeypatch.setattr(Taped, "runs", 0)
    run = short_run(arm, training={"kernels": "reference", "log_every": 1}, size={"dropout": 0.1})
    found = []
    for recording in (False, True):
        trainer = make_trainer(run, tmp_path)
        trainer.recording = recording
        rows = []
        for _ in range(WARM_UP + 4):
            trainer._step(100)
            rows += trainer._pending
            streams = [s for s in vars(trainer._last_streams).values() if torch.is_tensor(s)]
            rows += [s.clone() for s in streams]
        found.append([*rows, *(p.detach() for p in trainer.model.parameters())])
    assert Taped.runs == 1
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_it_is_recorded_anew_when_a_checkpoint_was_read(tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "Recorded", Taped)
    trainer = make_trainer(short_run("transformer", training={"kernels": "reference"}), tmp_path)
    trainer.recording, trainer.scratch = True, tmp_path
    for _ in range(WARM_UP + 1):
        trainer._step(100)
    trainer.checkpoint = tmp_path / "checkpoint.pt"
    trainer._save()
    assert trainer._recorded is not None
    trainer._restore(trainer.checkpoint)
    assert trainer._recorded is None
    for _ in range(WARM_UP + 1):
        trainer._step(100)
    assert trainer._recorded is not None


@pytest.mark.parametrize(
    ("arm", "training", "key"),
    [
        ("lolm", {"accumulation": 2}, "accumulation is 2"),
        ("lolm", {"activation_checkpointing": True}, "activation_checkpointing"),
        ("jamba_moe", {}, "mixtures of experts"),
    ],
)
def test_what_a_recording_would_not_repeat_is_refused(arm, training, key, tmp_path):
    run = short_run(arm, training=training, size={"n_layers": 2})
    with pytest.raises(ConfigError, match=f"cuda_graph: .*{key}"):
        refuse_recording(run, make_trainer(run, tmp_path).model)
    refuse_recording(short_run("lolm"), make_trainer(short_run("lolm"), tmp_path).model)
