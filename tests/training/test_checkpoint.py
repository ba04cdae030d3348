"""Weights and checkpoints on disk."""

import pytest
import torch
from builders import make_model, make_run
from runs import header_of, make_trainer, short_run

from lolm.objectives import build_heads
from lolm.records import RecordError, write
from lolm.training.checkpoint import CheckpointError, load_checkpoint, load_run, load_weights, save_checkpoint, save_weights


def parts(arm: str = "lolm", seed: int = 0):
    run = make_run(arm)
    return make_model(arm, seed=seed), build_heads(run.architecture, run.size)


def test_weights_come_back_bit_for_bit(tmp_path):
    model, heads = parts(seed=0)
    model.set_step(37)
    save_weights(tmp_path / "deep" / "w.safetensors", model, heads)
    other, other_heads = parts(seed=1)
    load_weights(tmp_path / "deep" / "w.safetensors", other, other_heads)
    for a, b in ((model, other), (heads, other_heads)):
        assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    assert other.regime.tau == model.regime.tau
    load_weights(tmp_path / "deep" / "w.safetensors", other, None)  # heads are optional


def test_bytes_do_not_depend_on_the_name(tmp_path):
    model, heads = parts()
    save_weights(tmp_path / "a.safetensors", model, heads)
    save_weights(tmp_path / "b.safetensors", model, heads)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]  # no temporary file stays


def test_weights_that_cannot_be_used_are_named(tmp_path):
    model, heads = parts()
    with pytest.raises(CheckpointError, match=r"none\.safetensors: no such file"):
        load_weights(tmp_path / "none.safetensors", model, heads)
    save_weights(tmp_path / "w.safetensors", *parts("transformer"))
    with pytest.raises(CheckpointError, match=r"w\.safetensors: does not fit the model"):
        load_weights(tmp_path / "w.safetensors", model, heads)
    (tmp_path / "w.safetensors").write_bytes(b"garbage")
    with pytest.raises(CheckpointError, match=r"w\.safetensors: does not fit"):
        load_weights(tmp_path / "w.safetensors", model, heads)


def test_a_checkpoint_replaces_the_last_one_only_when_it_is_whole(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"step": 1, "tensor": torch.arange(3)})
    with pytest.raises((AttributeError, TypeError, RuntimeError)):
        save_checkpoint(path, {"step": (i for i in range(3))})  # cannot be pickled
    assert load_checkpoint(path)["step"] == 1


def test_a_flipped_byte_of_a_checkpoint_is_found_or_changes_nothing(tmp_path):
    """At 200 places: PyTorch itself reads most of them without a word."""
    path, state = tmp_path / "checkpoint.pt", {"step": 7, "tensor": torch.arange(2000.0)}
    save_checkpoint(path, state)
    raw, found = path.read_bytes(), 0
    for place in range(0, len(raw), max(1, len(raw) // 200)):
        flipped = bytearray(raw)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            read = load_checkpoint(path)
        except CheckpointError as error:
            assert "checkpoint.pt: " in str(error)  # noqa: PT017 - other places raise nothing
            found += 1
        else:
            assert read["step"] == 7
            assert torch.equal(read["tensor"], state["tensor"]), place
    assert found > 150


def test_a_checkpoint_is_data_and_never_code(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "trapped"), "w"))

    torch.save({"step": Trap()}, tmp_path / "checkpoint.pt")
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: cannot be read"):
        load_checkpoint(tmp_path / "checkpoint.pt")
    assert not (tmp_path / "trapped").exists()


def test_a_run_is_opened_from_its_folder(tmp_path, capsys):
    with pytest.raises(RecordError, match=r"config\.json: no such record"):
        load_run(tmp_path, tmp_path)
    trainer = make_trainer(short_run("transformer"), tmp_path)
    run = trainer.run
    write(tmp_path / "config.json", header_of(trainer))
    with pytest.raises(CheckpointError, match=r"model\.safetensors: no such file"):
        load_run(tmp_path, tmp_path)
    model = trainer.model
    save_weights(tmp_path / "model.safetensors", model, None)
    trained = load_run(tmp_path, tmp_path)
    assert "warning:" in (said := capsys.readouterr().err), "its record has no checksums"
    assert f"{tmp_path}: not verified" in said
    assert trained.run == run
    assert not trained.model.training
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), trained.model.parameters(), strict=True))
    with pytest.raises(CheckpointError, match=r"step-000010\.safetensors: no such file"):
        trained.at(10)
