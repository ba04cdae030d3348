"""Memory of a step, counted without data, against what the allocator gives out in a real one."""

from dataclasses import replace

import pytest
import torch
from builders import PARAMS, change, make_run, random_tokens
from torch.autograd.graph import saved_tensors_hooks

from lolm.accounting import memory
from lolm.accounting.memory import step_memory
from lolm.accounting.resolve import resolve_run
from lolm.mixers.attention import causal_attention
from lolm.models.build import build_model
from lolm.objectives import auxiliary_losses, build_heads, token_loss, total_loss
from lolm.ops.causal_conv import causal_conv
from lolm.ops.rms_norm import rms_norm
from lolm.ops.scan import selective_scan

LENGTH, BATCH = 256, 2


def small(arm: str, layers: int | None = None, **training):
    training = {"seq_len": LENGTH, "batch_size": BATCH} | training
    run = make_run(arm, "tiny", vocab_size=512, training=training)
    return change(run, size={} if layers is None else {"n_layers": layers})


def allocated(run) -> int:
    """Bytes at the peak of a step, weights and moments included, by the allocator's own trace."""
    model, heads = build_model(run).train(), build_heads(run.architecture, run.size)
    modules = [module for module in (model, heads) if module is not None]
    tokens_BT = random_tokens(BATCH, LENGTH, 512)

    def micro_batch() -> None:
        streams = model.streams(tokens_BT)
        o_BTD = model.fuse(streams)
        terms = auxiliary_losses(run.architecture.objectives, streams, heads)
        total = total_loss(run.architecture.objectives, token_loss(model, o_BTD, tokens_BT), terms)
        del streams, o_BTD, terms
        total.backward()

    micro_batch()  # tables, and compiled kernels
    for module in modules:
        module.zero_grad()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as trace:
        for _ in range(run.training.accumulation):
            micro_batch()
    events = (event for event in trace.profiler.kineto_results.events() if event.name() == "[memory]")
    alive = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    parameters = sum(p.nbytes for module in modules for p in module.parameters())
    return peak + 2 * parameters + sum(tensor.nbytes for module in modules for tensor in module.state_dict().values())


# The fewest layers with a block on either side of where the peak may lie; of Jamba one period.
LAYERS = {"lolm": 3, "transformer": 3, "transformer_modern": 3, "mamba": 3, "samba": 6, "jamba_moe": 8}


@pytest.mark.parametrize("arm", LAYERS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_peak_of_a_step_is_the_allocators(arm, checkpointing):
    run = small(arm, LAYERS[arm], activation_checkpointing=checkpointing, accumulation=1 + checkpointing)
    assert step_memory(run, gpu=False).peak == pytest.approx(allocated(run), rel=0.03)


@pytest.mark.parametrize(("arm", "layers"), [("lolm", 6), ("samba", 9)])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_two_small_depths_tell_the_memory_of_any(arm, layers, checkpointing):
    run = small(arm, layers, activation_checkpointing=checkpointing)
    whole = memory._step(run, gpu=True, held=False)
    found = step_memory(run, gpu=True)
    assert (found.activations, found.loss) == (whole["kept"], whole["loss"])
    assert found.peak == max(whole["forward"], whole["early"], whole["late"]) + 2 * whole["gradients"]


@pytest.mark.parametrize("arm", ["lolm", "samba"])
@pytest.mark.parametrize("gpu", [False, True])
def test_two_small_batches_tell_the_memory_of_any(arm, gpu, monkeypatch):
    run = small(arm, len(small(arm).architecture.surface.pattern), batch_size=640)
    found = []
    for few in (memory.FEW_TOKENS, 32768):
        monkeypatch.setattr(memory, "FEW_TOKENS", few)
        found.append(step_memory(run, gpu))
    assert found[1] != step_memory(change(run, training={"batch_size": 128}), gpu)
    for name in ("activations", "loss", "peak"):
        assert getattr(found[1], name) == pytest.approx(getattr(found[0], name), rel=0.005)


def test_the_largest_batch_that_can_be_asked_for_is_told_in_seconds():
    assert step_memory(small("transformer", 1, batch_size=2**20), gpu=False).peak > 2**40


def kept(function, *inputs) -> int:
    """Bytes that autograd keeps for the backward pass of an op, each storage once."""
    storages = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        function(*inputs)
    return sum(storages.values())


def normal(*shape):
    return torch.randn(*shape, requires_grad=True)


OPS = {
    "causal_conv": (causal_conv, lambda: (normal(2, 256, 32), normal(32, 4), normal(32))),
    "rms_norm": (rms_norm, lambda: (normal(2, 256, 32), normal(32), 1e-5)),
}


@pytest.mark.parametrize("name", OPS)
def test_what_stands_for_a_kernel_keeps_what_the_kernel_keeps(name):
    real, inputs = OPS[name]
    given = inputs()
    assert kept(memory.STAND_INS[name], *given) == kept(real, *given)


def test_what_stands_for_the_scan_keeps_states_less_often_than_the_cpus_kernel():
    A_IN, channels = -torch.rand(96, 16).requires_grad_(), (normal(96) for _ in range(2))
    given = (
        normal(2, 256, 96),
        normal(2, 256, 96),
        A_IN,
        normal(2, 256, 16),
        normal(2, 256, 16),
        next(channels),
        None,
        next(channels),
    )
    states = 4 * 2 * A_IN.numel()
    assert kept(selective_scan, *given) - kept(memory.STAND_INS["selective_scan"], *given) == states * (256 // 16 - 256 // 64)


def test_attention_keeps_what_flash_attention_keeps():
    q, k, v = (normal(2, 256, 4, 16) for _ in range(3))
    assert kept(memory.STAND_INS["causal_attention"], q, k, v) == kept(causal_attention, q, k, v)


def test_half_precision_devices_and_batch():
    """Autocast halves what is kept of linear maps; shards hold their part; activations grow with the micro-batch."""
    run = resolve_run(PARAMS, "20m", "transformer_modern", 1)
    whole = step_memory(run, gpu=True)
    many, twice = (change(run, training={"batch_size": batch}) for batch in (64, 128))  # whose logits are made block by block
    half, full = (step_memory(change(many, training={"precision": precision}), gpu=True) for precision in ("bf16", "fp32"))
    assert 0.5 < half.activations / full.activations < 0.8
    assert step_memory(twice, gpu=True).activations == pytest.approx(2 * full.activations, rel=0.01)
    four = step_memory(run, gpu=True, devices=4)
    assert four.weights == whole.weights // 4
    assert four.optimizer == 2 * whole.gradients // 4
    assert four.peak < whole.peak
    model = build_model(run)
    shared = whole.weights + whole.gradients + whole.optimizer
    outside = 4 * (
        sum(p.numel() for p in model.parameters()) - sum(p.numel() for b in model.stack.blocks for p in b.parameters())
    )
    two = 2 * 4 * sum(p.numel() for p in model.stack.blocks[0].parameters())
    held = step_memory(change(run, training={"accumulation": 2}), gpu=True)  # with gradients from the start, as several devices
    assert four.peak - (held.peak - shared * 3 / 4) == pytest.approx(2 * (outside + two), rel=0.01), "embedding and two blocks"
    assert step_memory(replace(run, size=replace(run.size, dropout=0.0)), gpu=True).activations < whole.activations


@pytest.mark.parametrize(("arm", "layers"), [("griffin", 2), ("jamba", 5), ("samba", 1)])
def test_a_stack_that_is_shallower_than_its_pattern(arm, layers):
    run = make_run(arm, size={"n_layers": layers})
    found = step_memory(run, gpu=False)
    assert found.weights == 4 * sum(p.numel() for p in build_model(run).parameters())
    assert found.peak > found.weights + found.gradients + found.optimizer
