"""The whole model: causality, dependence on length, and every combination of streams."""

import pytest
import torch
import torch.nn.functional as F
from builders import ARMS, PARAMS, VOCAB, make_model, random_tokens

from lolm.config import ConfigError, LatentSize

GATED = ("dimension", "scalar", "static_dimension", "static_scalar", "fixed")
every_arm = pytest.mark.parametrize("arm", ARMS)


def has_experts(arm: str) -> bool:
    return any(block.experts for block in PARAMS.architectures[arm].surface.blocks.values())


def counts_chunks(arm: str) -> bool:
    architecture = PARAMS.architectures[arm]
    return architecture.family == "lolm" and architecture.memory.enabled and architecture.memory.chunking == "count"


@every_arm
def test_a_token_changes_no_earlier_logit(arm):
    model = make_model(arm)
    tokens = random_tokens(2, 40)
    with torch.no_grad():
        before = model(tokens)
    for position in (0, 15, 16, 39):
        changed = tokens.clone()
        changed[:, position] = (tokens[:, position] + 1) % VOCAB
        with torch.no_grad():
            after = model(changed)
        # An expert's other tokens may change how its product is summed, by rounding and no more.
        torch.testing.assert_close(before[:, :position], after[:, :position], rtol=0, atol=1e-6 if has_experts(arm) else 0)
        assert ((before[:, position] - after[:, position]).abs().amax(dim=-1) > 0).all(), position


def test_causality_holds_with_parallel_streams_and_in_training():
    model = make_model("lolm", latent={"input": "embedding"}).train()
    tokens = random_tokens(2, 40)
    changed = tokens.clone()
    changed[:, 20] = (tokens[:, 20] + 1) % VOCAB
    a, b = (model.fuse(model.streams(t, model.noise(t, torch.Generator().manual_seed(1)))) for t in (tokens, changed))
    torch.testing.assert_close(a[:, :20], b[:, :20], rtol=0, atol=0)


@pytest.mark.parametrize("arm", [arm for arm in ARMS if not counts_chunks(arm)])
def test_a_prefix_gives_what_the_whole_text_gives(arm):
    model = make_model(arm)
    tokens = random_tokens(2, 40)
    with torch.no_grad():
        whole = model(tokens)
        for length in (1, 5, 16, 17, 33, 39):
            torch.testing.assert_close(model(tokens[:, :length]), whole[:, :length], rtol=1e-4, atol=1e-5)


def test_a_fixed_number_of_chunks_makes_the_output_depend_on_the_length():
    """The published flaw (facts A11): the same token with the same past, in a longer text, gives another output."""
    model = make_model("lolm_published")
    with torch.no_grad():
        model.memory.slots.mul_(50)  # as trained slots are: at 0.02 all of memory is small
    tokens = random_tokens(1, 40)
    with torch.no_grad():
        difference = (model.streams(tokens[:, :20]).m - model.streams(tokens).m[:, :20]).abs().amax(dim=(0, 2))
    assert (difference[:5] < 1e-5).all()  # both still read the initial state
    assert (difference[5:10] > 1e-2).all()  # chunks of 5 have been written, chunks of 10 have not
    steady = make_model("lolm_published", memory={"chunking": "tokens"})
    steady.load_state_dict(model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(steady.streams(tokens[:, :20]).m, steady.streams(tokens).m[:, :20], rtol=1e-4, atol=1e-5)


def test_one_chunk_does_not_depend_on_the_length():
    model = make_model("lolm_v0")
    assert model.memory.bounds(40) == [(0, 40)]
    tokens = random_tokens(1, 40)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens[:, :20]), model(tokens)[:, :20], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("latent", ["mamba", "transformer", "none"])
@pytest.mark.parametrize("memory", [True, False])
@pytest.mark.parametrize("regime", [True, False])
@pytest.mark.parametrize("gate", [*GATED, "none", "concat"])
def test_every_combination_of_streams(latent, memory, regime, gate):
    parts = {"latent": {"form": latent}, "memory": {"enabled": memory}, "regime": {"enabled": regime}, "gate": {"form": gate}}
    if gate != "none" and latent == "none":
        with pytest.raises(ConfigError, match="set gate.form: none with latent.form: none"):
            make_model("lolm", **parts)
        return
    model = make_model("lolm", size={"latent": LatentSize(1, 8, d_ff=48)}, **parts)
    tokens = random_tokens(2, 20)
    streams = model.streams(tokens)
    present = {"z": latent != "none", "m": memory, "p": regime, "r": regime, "g": gate in GATED, "attention": memory}
    assert {name: getattr(streams, name) is not None for name in present} == present
    assert ("gate" in model.components()) == (gate in GATED)
    assert streams.g is None or streams.g.shape == (2, 20, 32)
    assert model(tokens).shape == (2, 20, VOCAB)
    parameters = (
        sum(p.num_params() for p in model.components().values()) + model.embedding.weight.numel() + model.head_norm_params
    )
    assert parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("part", ["latent", "memory", "regime"])
def test_a_stream_without_a_size_is_an_error(part):
    with pytest.raises(ConfigError, match=f"{part}.* is missing"):
        make_model("lolm", size={part: None})


def test_the_latent_stream_reads_the_surface_or_the_embedding():
    tokens = random_tokens(1, 20)
    serial, parallel = make_model("lolm"), make_model("lolm", latent={"input": "embedding"})
    for model, source in ((serial, serial.streams(tokens).h), (parallel, parallel.embedding(tokens))):
        torch.testing.assert_close(model.streams(tokens).z, model.latent(source))
    torch.testing.assert_close(serial.streams(tokens).h, parallel.streams(tokens).h)


def test_the_head_is_the_embedding():
    model = make_model("lolm_published")
    o = torch.randn(1, 3, 32)
    torch.testing.assert_close(model.logits(o), o @ model.embedding.weight.T)
    assert sum("embedding" in name or "head" in name for name, _ in model.named_parameters()) == 1
    assert sum(name.startswith("head_norm") for name, _ in make_model("lolm").named_parameters()) == 2


def transformer_latent(layers: int = 2, **latent):
    """LOLM whose latent stream is its Transformer control."""
    return make_model(
        "lolm", size={"latent": LatentSize(layers, d_ff=48)}, latent={"form": "transformer", "wiring": "prenorm"} | latent
    )


def test_the_transformer_in_the_latent_slot_by_its_equations():
    latent = transformer_latent().latent
    x = torch.randn(2, 9, 32)
    y = x @ latent.in_proj.weight.T
    for block in latent.layers:
        y = y + block.mixer(F.layer_norm(y, (32,), block.mixer_norm.weight, block.mixer_norm.bias))
        normed = F.layer_norm(y, (32,), block.mlp_norm.weight, block.mlp_norm.bias)
        y = y + F.gelu(normed @ block.mlp.up.weight.T) @ block.mlp.down.weight.T
    torch.testing.assert_close(latent(x), F.layer_norm(y, (32,)), rtol=1e-4, atol=1e-5)
    assert [(b.mixer.n_heads, b.mixer.rotated, b.mlp.d_ff) for b in latent.layers] == [(2, 16, 48)] * 2
    assert latent.num_params() == sum(p.numel() for p in latent.parameters())
    attention = 2 * 4 * 32**2 + 4 * 32 * 5  # maps; five keys on average of nine
    assert latent.flops_per_token(9) == 2 * 32**2 + 2 * (attention + 2 * 2 * 32 * 48)
    assert latent.state_size(9) == 2 * 2 * 32 * 9


@pytest.mark.parametrize("wiring", ["chain", "postnorm"])
def test_the_transformer_in_the_latent_slot_is_pre_norm_only(wiring):
    with pytest.raises(ConfigError, match=f"latent.wiring: '{wiring}' .* set prenorm"):
        transformer_latent(wiring=wiring)


def test_the_transformer_in_the_latent_slot_needs_a_width():
    with pytest.raises(ConfigError, match="latent.d_ff is missing"):
        make_model("lolm", latent={"form": "transformer", "wiring": "prenorm"})
