"""Initial values by recipe, and what the published chain of blocks does to the latent signal."""

import math

import pytest
import torch
from builders import make_model, make_run

from lolm.config import BlockConfig, LatentConfig, LatentSize, MixerConfig, SizeConfig, StackConfig
from lolm.mixers.base import keeps_init
from lolm.mixers.registry import MIXERS
from lolm.models.blocks import Block
from lolm.models.build import build_model
from lolm.models.latent import Latent

WIDE = {"d_model": 64, "d_ff": 256, "n_layers": 3}


def uniform_bound(layer: torch.nn.Linear) -> float:
    return layer.in_features**-0.5


def kept(module: torch.nn.Module, name: str) -> bool:
    owner, _, own = name.rpartition(".")
    return keeps_init(module.get_submodule(owner), own)


def std(parameter: torch.Tensor) -> float:
    return float(parameter.detach().std())


def test_framework_recipe_by_value():
    model = make_model("lolm_published", vocab_size=500, size=WIDE)
    assert std(model.embedding.weight) == pytest.approx(1.0, rel=0.03)
    maps = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not model.latent.layers[0].dt_proj]
    assert len(maps) > 15
    for layer in maps:
        assert layer.weight.abs().max() <= uniform_bound(layer)
        assert std(layer.weight) == pytest.approx(uniform_bound(layer) / math.sqrt(3), rel=0.1)
    assert (model.gate.out.bias == -0.5).all()
    assert std(model.regime.codebook) == pytest.approx(1.0, rel=0.2)
    assert std(model.memory.slots) == pytest.approx(0.02, rel=0.1)


def test_scaled_recipe_by_value():
    model = make_model("lolm", vocab_size=500, size=WIDE)
    assert std(model.embedding.weight) == pytest.approx(0.02, rel=0.03)
    residual = {id(m) for layer in model.stack.layers for m in (layer.mixer.out, layer.mlp.down)}
    assert len(residual) == 6
    inside_ssm = {id(m) for layer in model.latent.layers for m in layer.modules()}
    for layer in (m for m in model.modules() if isinstance(m, torch.nn.Linear)):
        if id(layer) in inside_ssm:
            assert layer.weight.abs().max() <= uniform_bound(layer)
            continue
        wanted = 0.02 / math.sqrt(2 * 3) if id(layer) in residual else 0.02
        assert std(layer.weight) == pytest.approx(wanted, rel=0.08)
        if layer.bias is not None and layer is not model.gate.out:
            assert (layer.bias == 0).all()
    assert (model.gate.out.bias == -0.5).all()
    for norm in (m for m in model.modules() if isinstance(m, torch.nn.LayerNorm)):
        assert (norm.weight == 1).all()
        assert (norm.bias == 0).all()
    mixer = model.latent.layers[0]
    assert torch.equal(mixer.skip, torch.ones_like(mixer.skip))
    step = torch.nn.functional.softplus(mixer.dt_proj.bias)
    assert step.min() > 0.99e-3
    assert step.max() < 0.101
    assert std(model.regime.codebook) == pytest.approx(1.0, rel=0.2)
    assert std(model.memory.slots) == pytest.approx(0.02, rel=0.1)
    assert std(model.regime.conv.weight) == pytest.approx((7 * 8) ** -0.5 / math.sqrt(3), rel=0.1)


@pytest.mark.parametrize(
    ("mixer", "mlp", "writes"),
    [("mamba1", "none", 1), ("mamba2", "none", 1), ("mamba1", "swiglu", 2), ("rglru", "geglu", 2)],
)
def test_mixers_with_an_initialisation_of_their_own_are_scaled_by_the_writes_of_the_stack(mixer, mlp, writes):
    """As constructed, divided by √L in a pure stack of Mamba blocks (upstream's rule) and by √(2L) where blocks have an MLP."""
    options = {"head_width": 16} if mixer == "mamba2" else {}
    block = BlockConfig(MixerConfig(mixer, options), mlp=mlp, norm="rmsnorm")
    models = {}
    for init in ("framework", "scaled"):
        changes = {"surface": StackConfig({"layer": block}, ("layer",)), "recipe": {"init": init}}
        models[init] = make_model("transformer_modern", size=WIDE | {"d_ff": 96}, **changes)
    for as_built, scaled in zip(models["framework"].stack.blocks, models["scaled"].stack.blocks, strict=True):
        plain = dict(as_built.mixer.named_parameters())
        names = [n for n, p in scaled.mixer.named_parameters() if any(p is m.weight for m in scaled.residual_outputs)]
        assert len(names) == 1
        for name, parameter in scaled.mixer.named_parameters():
            if name in names:
                assert std(parameter) == pytest.approx(std(plain[name]) / math.sqrt(3 * writes), rel=0.05)
            elif kept(scaled.mixer, name) and parameter.numel() > 2000:
                assert std(parameter) == pytest.approx(std(plain[name]), rel=0.05, abs=1e-6)
        if mlp != "none":
            assert std(scaled.mlp.down.weight) == pytest.approx(0.02 / math.sqrt(3 * writes), rel=0.05)


def test_writes_are_counted_over_a_mixed_stack_and_every_expert_is_scaled():
    blocks = {
        "mamba": BlockConfig(MixerConfig("mamba1"), mlp="none"),
        "moe": BlockConfig(MixerConfig("attention"), mlp="swiglu", experts=4),
    }
    model = make_model("transformer_modern", size=WIDE, surface=StackConfig(blocks, ("mamba", "moe")))
    mamba, moe, _ = model.stack.blocks
    writes = 1 + 2 + 1
    assert mamba.mixer.out_proj.weight.abs().max() <= uniform_bound(mamba.mixer.out_proj) / math.sqrt(writes)
    assert len(moe.residual_outputs) == 1 + 4
    for layer in moe.residual_outputs:
        assert std(layer.weight) == pytest.approx(0.02 / math.sqrt(writes), rel=0.05)
    assert std(moe.mlp.router.weight) == pytest.approx(0.02, rel=0.15)
    assert std(moe.mlp.mlps[3].up.weight) == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("mixer", MIXERS)
def test_every_mixer_has_one_map_into_the_residual_stream(mixer):
    block = Block(BlockConfig(MixerConfig(mixer), mlp="none"), SizeConfig(64, 1, 2, 0.0))
    (output,) = block.residual_outputs
    assert output.out_features == 64


def test_first_version_keeps_the_framework_default_of_the_gate_bias():
    bias = make_model("lolm_v0").gate.out.bias
    assert 0 < bias.abs().max() <= 64**-0.5
    assert bias.unique().numel() > 1


def test_untrained_sound_models_start_at_the_uniform_loss_and_published_ones_far_above():
    from builders import random_tokens

    x, y = random_tokens(8, 40, 500), random_tokens(8, 40, 500, seed=1)

    def loss(arm):
        with torch.no_grad():
            logits = make_model(arm, vocab_size=500, size=WIDE)(x)
        return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten()))

    for arm in ("lolm", "transformer", "transformer_modern"):
        assert loss(arm) == pytest.approx(math.log(500), abs=0.1)
    for arm in ("lolm_published", "transformer_published", "lolm_v0"):
        assert loss(arm) > math.log(500) + 1


def test_weights_are_a_function_of_the_random_state_alone():
    run = make_run("lolm")
    models = []
    for noise in (1, 2):
        torch.randn(noise)
        torch.manual_seed(7)
        models.append(build_model(run))
    assert all(torch.equal(a, b) for a, b in zip(*(m.state_dict().values() for m in models), strict=True))


def latent_rms(wiring: str, layers: int) -> float:
    torch.manual_seed(0)
    latent = Latent(LatentConfig("mamba", wiring), LatentSize(layers, 8), 64)
    with torch.no_grad():
        return float(latent(torch.randn(2, 48, 64)).square().mean().sqrt())


def test_the_published_chain_shrinks_the_latent_signal_with_every_block():
    """Stock blocks without residual or norm (spec A3, SSM-M); four of them, as at 304M, leave about 3e-7."""
    rms = [latent_rms("chain", layers) for layers in range(1, 7)]
    assert all(after < before / 10 for before, after in zip(rms, rms[1:], strict=False))
    assert rms[3] < 1e-5
    assert rms[0] < 0.1
    for layers in range(1, 7):
        assert latent_rms("prenorm", layers) == pytest.approx(1.0, abs=1e-3)
        assert latent_rms("postnorm", layers) == pytest.approx(1.0, abs=1e-3)


def test_the_branch_norm_does_not_restore_a_starved_latent_stream():
    """Its ε of 1e-5 is far above the variance that four chained blocks leave."""
    shares = {}
    for wiring in ("chain", "prenorm"):
        model = make_model("lolm_published", size={"latent": LatentSize(4, 8)}, latent={"wiring": wiring})
        with torch.no_grad():
            streams = model.streams(torch.arange(40)[None])
            u, v = model.fusion.branches(streams.h, streams.z)
        shares[wiring] = float(v.square().mean().sqrt() / u.square().mean().sqrt())
    assert shares["chain"] < 1e-3
    assert shares["prenorm"] > 0.9


@pytest.mark.parametrize(("arm", "bias"), [("lolm", -0.5), ("lolm_bias_zero", 0.0), ("lolm_bias_plus", 0.5)])
def test_bias_of_the_gate(arm, bias):
    found = make_model(arm).gate.out.bias
    assert torch.equal(found, torch.full_like(found, bias))


def test_a_gate_bias_of_zero_is_the_frameworks_under_the_published_recipe():
    found = make_model("lolm_published", gate={"bias": 0.0}).gate.out.bias
    assert 0 < found.abs().max() <= 1 / math.sqrt(64)  # U(±1/√fan_in), fan_in = 2 D
