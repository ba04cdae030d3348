"""What is done to a trained model, against the fusion's formula worked out by hand."""

from dataclasses import replace

import pytest
import torch
from builders import make_model, random_tokens

from lolm.interventions import (
    Intervention,
    InterventionError,
    StreamMeans,
    blend_gate,
    force_gate,
    measure,
    remove_stream,
    skip_last_blocks,
    standard_set,
)
from lolm.laboratory.cached_activations import cached_activations

TOKENS = random_tokens(3, 24)


@pytest.fixture(params=["lolm", "lolm_published", "lolm_v0"])
def model(request):
    return make_model(request.param)


@torch.no_grad()
def fused(model, intervention: Intervention) -> torch.Tensor:
    return model.fuse(intervention.apply(model.streams(TOKENS)))


@torch.no_grad()
def test_a_gate_forced_to_its_own_values_changes_nothing(model):
    streams = model.streams(TOKENS)
    learned = model.logits(model.fuse(streams))
    assert torch.equal(model.logits(model.fuse(replace(streams, g=streams.g.clone()))), learned)
    assert torch.equal(model.logits(fused(model, Intervention("none"))), learned)
    assert torch.equal(model(TOKENS), learned)


@torch.no_grad()
@pytest.mark.parametrize("form", ["scalar", "static_dimension", "static_scalar", "fixed"])
def test_every_form_of_gate_can_be_forced_and_blended(form):
    model = make_model("lolm", gate={"form": form})
    s = model.streams(TOKENS)
    assert torch.equal(fused(model, force_gate(0.25)), model.fuse(replace(s, g=torch.full((3, 24, 32), 0.25))))
    torch.testing.assert_close(blend_gate(0.25, 1.0).apply(s).g, 0.25 + 0.75 * s.g)
    assert names(model) == names(make_model("lolm"))


@pytest.mark.parametrize("form", ["none", "concat"])
def test_without_a_gate_there_is_none_to_force(form):
    model = make_model("lolm", gate={"form": form})
    assert not any(name.startswith("gate") for name, _ in names(model))
    with pytest.raises(ValueError, match="no gate to change"):
        force_gate(0.5).apply(model.streams(TOKENS))


@torch.no_grad()
@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_a_forced_gate_weighs_the_branches_by_that_constant(model, value):
    s, fusion = model.streams(TOKENS), model.fusion
    u, v = s.h @ fusion.surface.weight.T, s.z @ fusion.latent.weight.T
    if model.fusion.branch_norm == "layernorm":  # weights 1 and biases 0 in a fresh model
        u, v = ((x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt() for x in (u, v))
    kept = {0.0: v, 1.0: u}.get(value, value * u + (1 - value) * v)  # one branch alone at the ends
    wanted = kept + s.m @ fusion.memory.weight.T + s.r @ fusion.regime.weight.T
    torch.testing.assert_close(fused(model, force_gate(value)), wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_blend_leads_from_the_learned_gate_to_the_constant(model):
    for target in (0.0, 1.0):
        assert torch.equal(fused(model, blend_gate(0.0, target)), fused(model, Intervention("none")))
        assert torch.equal(fused(model, blend_gate(1.0, target)), fused(model, force_gate(target)))
        s = model.streams(TOKENS)
        torch.testing.assert_close(blend_gate(0.25, target).apply(s).g, 0.25 * target + 0.75 * s.g)
    with pytest.raises(InterventionError, match="no blend of the gate to 0.7, only to 0 or 1"):
        blend_gate(0.5, 0.7)


@torch.no_grad()
@pytest.mark.parametrize("stream", ["memory", "regime"])
def test_removing_a_stream_takes_away_what_it_adds_at_the_fusion_and_nothing_else(model, stream):
    s = model.streams(TOKENS)
    field, weight = ("m", model.fusion.memory.weight) if stream == "memory" else ("r", model.fusion.regime.weight)
    added = getattr(s, field) @ weight.T
    full = fused(model, Intervention("none"))
    torch.testing.assert_close(fused(model, remove_stream(stream)), full - added, rtol=1e-4, atol=1e-5)
    means = measure(model, [TOKENS[:2], TOKENS[2:]]).streams  # batches of unequal size
    mean = getattr(s, field).mean(dim=(0, 1))
    torch.testing.assert_close(getattr(means, field), mean)
    torch.testing.assert_close(fused(model, remove_stream(stream, means)), full - added + mean @ weight.T, rtol=1e-4, atol=1e-5)
    changed = remove_stream(stream).apply(s)
    assert all(getattr(changed, name) is getattr(s, name) for name in ["h", "z", "g", "m", "r"] if name != field)


@torch.no_grad()
@pytest.mark.parametrize("arm", ["transformer", "transformer_modern"])
@pytest.mark.parametrize("count", [1, 3, 4])
def test_skipping_the_last_blocks_equals_a_model_without_them(arm, count):
    model = make_model(arm)
    layers = len(model.stack.layers)
    short = make_model(arm, size={"n_layers": layers - count}, seed=1)
    short.load_state_dict(
        {
            name: t
            for name, t in model.state_dict().items()
            if not any(f"layers.{i}." in name for i in range(layers - count, layers))
        }
    )
    assert torch.equal(
        model.fuse(model.streams(TOKENS, skip_last=skip_last_blocks(count).skip_last)), short.fuse(short.streams(TOKENS))
    )
    assert skip_last_blocks(count).value == count
    (cached,) = cached_activations(model, [(TOKENS, TOKENS)])
    for wrong, blocks in (
        (skip_last_blocks(count) | skip_last_blocks(layers), layers + count),
        (skip_last_blocks(-count), -count),
    ):
        with pytest.raises(InterventionError, match=f"cannot leave out {blocks} of the {layers} blocks of this model's stack"):
            cached.fused(model, wrong)


def names(model, means=None) -> list[tuple[str, float | None]]:
    means = measure(model, [TOKENS]).streams if means is None else means
    return [(i.name, i.value) for i in standard_set(model, [0.0, 0.5, 1.0], means)]


def test_the_set_for_lolm():
    assert names(make_model("lolm")) == [
        ("none", None), ("gate", 0.0), ("gate", 0.5), ("gate", 1.0),
        ("gate_blend_one", 0.25), ("gate_blend_one", 0.5), ("gate_blend_one", 0.75),
        ("gate_blend_zero", 0.25), ("gate_blend_zero", 0.5), ("gate_blend_zero", 0.75),
        ("memory_zero", None), ("memory_mean", None), ("regime_zero", None), ("regime_mean", None),
        ("gate+memory_zero+regime_zero", 1.0),
    ]  # fmt: skip


def test_the_set_for_a_decoder():
    blocks = [("skip_last_blocks", float(k)) for k in (1, 2, 3, 4)]
    assert names(make_model("transformer"), StreamMeans(None, None)) == [("none", None), *blocks]
    assert names(make_model("transformer_modern"), StreamMeans(None, None)) == [("none", None), *blocks]


def test_streams_that_are_off_are_not_intervened_on():
    model = make_model("lolm", regime={"enabled": False}, gate={"form": "none"})
    assert names(model) == [("none", None), ("memory_zero", None), ("memory_mean", None)]
    assert measure(model, [TOKENS]).streams.r is None
