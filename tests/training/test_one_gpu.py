"""What a step on a GPU rests on, as far as a CPU can show it: no wait for the device, float32 islands under autocast,
recomputation, micro-batches cut to what fits, grouped experts."""

from __future__ import annotations

import shutil
from collections import Counter

import pytest
import torch
from builders import make_model, random_tokens
from runs import fit, make_trainer, records, short_run
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

from lolm.config import FutureSize
from lolm.models.experts import Experts
from lolm.models.language_model import half_precision
from lolm.objectives import FutureHeads, future_cpc
from lolm.records import read
from lolm.records.schema import RunHeader
from lolm.training.checkpoint import load_weights
from lolm.training.progress import TrainingError


class Waits(TorchDispatchMode):
    """Counts what would make the host wait for a GPU: values that become Python's, and shapes that depend on values."""

    WAITS = ("_local_scalar_dense", "item", "nonzero", "masked_select", "equal", "bincount")

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().removeprefix("aten::").split(".")[0]
        if name in self.WAITS:
            self.seen[name] += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("arm", ["lolm", "lolm_v0", "griffin", "jamba_moe", "mamba2"])
def test_no_step_waits_for_the_device_between_two_rows(arm, tmp_path, monkeypatch):
    monkeypatch.setattr(Experts, "looped", Experts.grouped)  # as on a GPU
    trainer = make_trainer(short_run(arm, training={"accumulation": 2, "log_every": 4}), tmp_path)
    calls: list[str] = []
    for method in ("tolist", "cpu"):
        original = getattr(torch.Tensor, method)
        monkeypatch.setattr(torch.Tensor, method, lambda x, original=original, method=method: calls.append(method) or original(x))
    trainer._step(12)
    with Waits() as waits:
        for _ in range(3):
            trainer._step(12)
    assert not waits.seen
    assert not calls
    assert trainer._last_streams is not None, "of the step that has a row"
    assert not any(part.requires_grad for part in vars(trainer._last_streams).values() if isinstance(part, torch.Tensor))
    with Waits() as waits:
        assert trainer.progress.last_loss == 0.0
        trainer.collect()
    assert trainer.progress.last_loss > 0.0
    assert not waits.seen
    assert calls == ["tolist"], "one transfer, and no number by number"


def test_contrastive_similarities_stay_exact_under_autocast():
    """In bfloat16 they are wrong by some hundredths of a nat."""
    torch.manual_seed(0)
    heads = FutureHeads("cpc", FutureSize(horizon=2, hidden=16, width=16, positions=30, temperature=0.05), 16)
    heads.reset_parameters()
    heads.z, heads.h = torch.nn.Identity(), torch.nn.Identity()
    z, h = torch.randn(2, 60, 16).bfloat16().float(), torch.randn(2, 60, 16).bfloat16().float()
    wanted = future_cpc(z, h, heads)
    with torch.autocast("cpu", torch.bfloat16):
        assert future_cpc(z, h, heads) == wanted
        rough = torch.nn.functional.normalize(z, dim=-1) @ torch.nn.functional.normalize(h, dim=-1).transpose(1, 2)
    assert rough.dtype == torch.bfloat16  # what autocast makes of such a product elsewhere


@pytest.mark.parametrize("arm", ["lolm", "lolm_v0", "lolm_transformer_latent"])
def test_recomputed_blocks_and_latent_layers_change_no_bit(arm, tmp_path):
    """All of them: the same gradients, and nothing of a layer's inside is kept."""
    found = []
    for again in (False, True):
        trainer = make_trainer(short_run(arm, training={"activation_checkpointing": again}), tmp_path)
        calls = Counter()
        for number, unit in enumerate(trainer.model.units()):
            unit.register_forward_pre_hook(lambda module, inputs, number=number, calls=calls: calls.update([number]))
        trainer._step(12)
        assert set(calls.values()) == {1 + again}
        assert len(calls) == len(trainer.model.stack.layers) + len(trainer.model.latent.layers)
        found.append([p.detach().clone() for p in trainer.model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
def test_grouped_experts_are_the_experts(bias, autocast):
    torch.manual_seed(0)
    mixture = Experts("swiglu", 16, 24, 0.0, bias, 5, 2)
    x = torch.randn(1, 40, 16)
    counts = torch.tensor([11, 0, 20, 4, 5])  # one expert without a token
    outputs, gradients = [], []
    for grouped in (False, True):
        mixture.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = (mixture.grouped if grouped else mixture.looped)(x[0], counts)
        y.float().square().sum().backward()
        outputs.append(y.detach().float())
        gradients.append([p.grad.clone() for mlp in mixture.mlps for p in mlp.parameters()])
    tolerance = {"rtol": 2e-2, "atol": 2e-2} if autocast else {}
    torch.testing.assert_close(*outputs, **tolerance)
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, **tolerance)


def test_a_micro_batch_that_does_not_fit_is_cut_and_the_step_stays_the_same(tmp_path):
    """Of a model without statistics of a batch, the same gradient; the record says it."""
    whole = short_run("transformer", training={"batch_size": 4, "snapshots": ()}, size={"dropout": 0.0})
    for name in ("whole", "cut"):
        trainer = make_trainer(whole, tmp_path / name)
        losses = trainer._losses

        def small(x, y, share, losses=losses):
            if len(x) > 1:
                raise torch.OutOfMemoryError("stand-in")
            return losses(x, y, share)

        if name == "cut":
            trainer._losses = small
        fit(trainer, tmp_path / name)
        header = read(tmp_path / name / "run" / "config.json", RunHeader)
        assert (trainer.pieces, header.micro_batch) == ((4, 1) if name == "cut" else (1, None))
    for ours, theirs in zip(records(tmp_path / "cut"), records(tmp_path / "whole"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    trainer._losses = lambda x, y, share: small(x.repeat(2, 1), y, share)
    with pytest.raises(TrainingError, match="a micro-batch of 4 x 24 tokens does not fit .*lower training.batch_size and raise"):
        trainer.warm_up()


def test_older_weights_of_the_regime_layer_are_read(tmp_path):
    model = make_model("lolm")
    assert model.regime.conv_weight.shape == (1,)
    old = {name: t.reshape(()) if name == "regime.conv_weight" else t for name, t in model.state_dict().items()}
    old["regime.conv_weight"] = torch.tensor(0.25)
    save_file({name: t.contiguous() for name, t in old.items()}, tmp_path / "w.safetensors")
    assert load_file(tmp_path / "w.safetensors")["regime.conv_weight"].shape == ()
    load_weights(tmp_path / "w.safetensors", model, None)
    assert model.regime.conv_weight.tolist() == [0.25]


def test_models_are_measured_in_half_precision_on_a_gpu_alone():
    model, tokens = make_model("lolm"), random_tokens(2, 20)
    with torch.no_grad(), half_precision("cpu", "bf16"):
        assert not torch.is_autocast_enabled("cpu")
        exact = model(tokens)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, cache_enabled=False):  # as on a GPU
        rough = model(tokens).float()
        model.load_state_dict({name: t * 0 for name, t in model.state_dict().items()})
        assert (model(tokens) == 0).all(), "weights of another step are not taken from a cache"
    assert not torch.equal(exact, rough)
    torch.testing.assert_close(exact.softmax(-1), rough.softmax(-1), rtol=0.05, atol=2e-3)


@pytest.mark.system
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_regime_and_gate_compile_without_a_break():
    """The noise is an input; with a generator inside PyTorch could not."""
    model, tokens = make_model("lolm").train(), random_tokens(2, 20)
    x = torch.randn(2, 20, model.d_model)
    noise = model.noise(tokens, torch.Generator().manual_seed(1))
    compiled = torch.compile(model.regime, fullgraph=True, options={"cpp.vec_isa_ok": False})  # vectors take C++ twice as long
    for ours, theirs in zip(compiled(x, x, x, noise), model.regime(x, x, x, noise), strict=True):
        torch.testing.assert_close(ours, theirs)
