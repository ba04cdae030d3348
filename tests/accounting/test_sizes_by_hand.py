"""Every arm of ``params.yaml`` counted by formulas that share no line with the models', and the sizes of published models."""

import math

import pytest
import torch
from builders import PARAMS, SIZES

from lolm.accounting.count import account, account_run
from lolm.accounting.resolve import resolve_run
from lolm.config import (
    ArchitectureConfig,
    BlockConfig,
    LatentConfig,
    MixerConfig,
    RecipeConfig,
    RunConfig,
    SizeConfig,
    StackConfig,
    arms_of,
    to_mapping,
)
from lolm.models.decoder import Decoder

# Each gives (parameters, weights that are multiplied, other FLOPs per token); what multiplies costs 2 FLOPs a weight.


def attention(d, heads, length, output=True, kv_heads=None, head_width=None, window=None, out_bias=False, conv=0, **_):
    k, p = kv_heads or heads, head_width or d // heads
    weights = d * heads * p + 2 * d * k * p + heads * p * d * output
    met = sum(min(t + 1, window or length) for t in range(length)) / length
    mixed = (heads + 2 * k) * p * (conv > 0)
    return weights + d * out_bias + (conv + 1) * mixed, weights, 4 * heads * p * met + 2 * conv * mixed


def gated_conv(d, d_inner=None, expand=2, d_conv=4):
    i = d_inner or expand * d
    return 3 * d * i + (d_conv + 1) * i, 3 * d * i, 2 * d_conv * i + 2 * i


def mamba1(d, d_inner=None, expand=2, d_state=16, d_conv=4, dt_rank=None, inner_norms=False, output=True, **_):
    i, r = d_inner or expand * d, dt_rank or math.ceil(d / 16)
    weights = 2 * d * i + i * (r + 2 * d_state) + r * i + i * d * output
    others = (d_conv + 1) * i + i + i * d_state + i + (r + 2 * d_state) * inner_norms
    return weights + others, weights, 2 * d_conv * i + 9 * i * d_state + 4 * i


def mamba2(d, d_inner=None, expand=2, d_state=64, head_width=64, groups=1, d_conv=4, **_):
    i = d_inner or expand * d
    heads, conv = i // head_width, i + 2 * groups * d_state
    weights = d * (i + conv + heads) + i * d
    return weights + (d_conv + 1) * conv + 3 * heads + i, weights, 2 * d_conv * conv + 6 * i * d_state + 4 * i


def rglru(d, heads, width=None, blocks=None, d_conv=4, **_):
    w, b = width or d, blocks or heads
    weights = 3 * d * w + 2 * w * w // b
    return weights + 2 * w + d + (d_conv + 1) * w + 2 * w + w, weights, 2 * d_conv * w + 10 * w


def hymba(d, heads, length, d_inner=None, expand=2, d_conv=3, kv_heads=None, window=None, **options):
    i = d_inner or expand * d
    attended = attention(d, heads, length, output=False, kv_heads=kv_heads, head_width=i // heads, window=window)
    scanned = mamba1(d, d_inner=i, d_conv=d_conv, inner_norms=True, output=False, **options)
    own = (2 * i + i * d, i * d, 0)
    return tuple(sum(column) for column in zip(attended, scanned, own, strict=True))


def plain_ssm(d, d_state=16, expand=2):
    i = expand * d
    weights = 2 * d * i + i * i + 2 * i * d_state + i * d
    return weights + i + i * d_state + i, weights, 9 * i * d_state + 4 * i


def mixer(name, d, heads, length, options):
    own = {"attention": (d, heads, length), "hymba": (d, heads, length), "rglru": (d, heads)}.get(name, (d,))
    return {f.__name__: f for f in (attention, gated_conv, mamba1, mamba2, rglru, hymba)}[name](*own, **options)


def block(config, size, length):
    """(parameters, active parameters, FLOPs)."""
    d, f = size.d_model, size.d_ff
    options = config.mixer.options | size.mixers.get(config.mixer.name, {})
    params, weights, rest = mixer(config.mixer.name, d, size.n_heads, length, options)
    norm = 2 * d if config.norm == "layernorm" else d
    if config.mlp == "none":
        return params + norm, params + norm, 2 * weights + rest
    gated = config.mlp != "gelu"
    one = (3 if gated else 2) * d * f
    biases = ((2 if gated else 1) * f + d) * config.mlp_bias
    experts, chosen = (config.experts, config.experts_per_token) if config.experts else (1, 1)
    router = d * experts if config.experts else 0
    both = params + 2 * norm + router
    return both + experts * (one + biases), both + chosen * (one + biases), 2 * (weights + router + chosen * one) + rest


def by_hand(run: RunConfig):
    """Parameters, active parameters and forward FLOPs per token of an arm, from the configuration alone."""
    a, s, length, d = run.architecture, run.size, run.training.seq_len, run.size.d_model
    names = [a.surface.pattern[i % len(a.surface.pattern)] for i in range(s.n_layers)]
    total, active, flops = (sum(c) for c in zip(*(block(a.surface.blocks[n], s, length) for n in names), strict=True))
    others = run.vocab_size * d + (2 * d if a.surface.final_norm == "layernorm" else d)
    others += {"none": 0, "rmsnorm": d, "layernorm": 2 * d}[a.recipe.head_norm]
    flops += 2 * run.vocab_size * d
    maps = 0  # weights that every token is multiplied with
    if a.family == "decoder":
        maps += d * d * a.output_projection
    else:
        latent, memory, regime = a.latent.form != "none", a.memory.enabled, a.regime.enabled
        e = s.regime.width if s.regime else 0
        if latent:
            k, n = s.latent.layers, s.latent.d_state
            maps += d * d
            if a.latent.form == "transformer":
                layer = BlockConfig(MixerConfig("attention", {"conv": a.latent.conv}), "gelu", "layernorm")
                inner, _, cost = block(layer, SizeConfig(d, k, s.n_heads, 0.0, s.latent.d_ff), length)
                norms = 1
            else:
                form = {"mamba": mamba1, "plain": plain_ssm, "conv": gated_conv}[a.latent.form]
                states = {} if form is gated_conv else {"d_state": n}
                inner, weights, rest = form(d, **states, expand=s.latent.expand)
                cost = 2 * weights + rest
                norms = {"chain": 0, "postnorm": k, "prenorm": k + 1}[a.latent.wiring]
            others += k * inner + norms * 2 * d
            flops += k * cost
        if memory:
            b, m = s.memory.banks, s.memory.slots
            maps += 2 * b * d * d  # query, combine
            others += b * (m * d + d * d + 2 * (d * m + m))
            chunks = s.memory.chunks if a.memory.chunking == "count" else math.ceil(length / s.memory.chunk_tokens)
            flops += 4 * b * m * d + (chunks - 1) / length * (2 * b * d * (d + 2 * m) + 3 * b * m * d)
        if regime:
            c, kernel = s.regime.codes, a.regime.neighbour_conv
            maps += 3 * d * c + c * e + kernel * c * c
            others += (c + 1) * bool(kernel)
        if a.gate.form in ("dimension", "scalar"):
            outputs = d if a.gate.form == "dimension" else 1
            maps += (3 * d + e) * 2 * d + 2 * d * outputs
            others += outputs
        others += {"static_dimension": d, "static_scalar": 1}.get(a.gate.form, 0)
        maps += d * d * (1 + latent + memory + 2 * (a.gate.form == "concat")) + d * e * regime
        others += 4 * d * (latent and a.gate.branch_norm)
    return total + others + maps, active + others + maps, flops + 2 * maps


# Arms of one shape, which differ in their name or in what gradients pass, are counted once.
NO_SHAPE = {"label", "detach"}


def shape_of(arm: str) -> str:
    architecture = to_mapping(PARAMS.architectures[arm])
    return repr(([value for key, value in architecture.items() if key not in NO_SHAPE], PARAMS.sizes.get(arm)))


SHAPES = set({shape_of(arm): arm for arm in PARAMS.architectures}.values())
CASES = [(scale, arm) for scale in SIZES for arm in arms_of(PARAMS, scale) if arm in SHAPES]


@pytest.mark.parametrize(("scale", "arm"), CASES)
def test_every_arm_by_hand(scale, arm):
    run = resolve_run(PARAMS, scale, arm, 1)
    found = account_run(run)
    total, active, flops = by_hand(run)
    assert (found.parameters.total, found.parameters.active) == (total, active)
    assert found.flops_per_token.forward == pytest.approx(flops, rel=1e-12)


# ------------------------------------------------------------------------------------------ published models

MAMBA = BlockConfig(MixerConfig("mamba1"), "none", "rmsnorm")
SAMBA = {
    "mamba": BlockConfig(MixerConfig("mamba1"), "swiglu", "rmsnorm"),
    "local": BlockConfig(MixerConfig("attention", {"window": 2048}), "swiglu", "rmsnorm"),
}
LOCAL = {"kv_heads": 1, "rope": 0.5, "window": 2048, "out_bias": True}
GRIFFIN = {
    "recurrent": BlockConfig(MixerConfig("rglru"), "geglu", "rmsnorm", mlp_bias=True),
    "local": BlockConfig(MixerConfig("attention", LOCAL), "geglu", "rmsnorm", mlp_bias=True),
}
INNER = MixerConfig("mamba1", {"inner_norms": True})
JAMBA = {
    "mamba": BlockConfig(INNER, "swiglu", "rmsnorm"),
    "attention": BlockConfig(MixerConfig("attention", {"kv_heads": 8, "rope": 0.0}), "swiglu", "rmsnorm"),
    "experts": BlockConfig(INNER, "swiglu", "rmsnorm", experts=16, experts_per_token=2),
}
SAMBA_ORDER, GRIFFIN_ORDER = ("mamba", "local"), ("recurrent", "recurrent", "local")
JAMBA_ORDER = ("mamba", "experts", "mamba", "experts", "attention", "experts", "mamba", "experts")


def counts(blocks, pattern, vocab_size, d, layers, heads=1, d_ff=0) -> tuple[int, int]:
    """Parameters and active parameters of a decoder of ours, with a tied head."""
    recipe = RecipeConfig("scaled", "none", "matrices")
    architecture = ArchitectureConfig(
        "decoder", "published", recipe, StackConfig(blocks, pattern, "rmsnorm"), latent=LatentConfig()
    )
    with torch.device("meta"):
        model = Decoder(architecture, SizeConfig(d, layers, heads, 0.0, d_ff), vocab_size)
    found = account(model, None, 1024).parameters
    assert found.total == sum(p.numel() for p in model.parameters())
    return found.total, found.active


@pytest.mark.parametrize(
    ("arguments", "published", "exact"),
    [
        # 50,277 tokens padded to a multiple of 8, as in the released checkpoints.
        pytest.param((({"m": MAMBA}), ("m",), 50_280, 768, 24), 129.1e6, 129_135_360, id="Mamba-130M"),
        pytest.param((({"m": MAMBA}), ("m",), 50_280, 2048, 48), 1.372e9, 1_372_178_432, id="Mamba-1.4B"),
        pytest.param((SAMBA, SAMBA_ORDER, 32_000, 1536, 12, 12, 4096), 421.8e6, 421_793_280, id="Samba-421M"),
        pytest.param((SAMBA, SAMBA_ORDER, 32_000, 2304, 18, 18, 6144), 1.330e9, 1_330_207_488, id="Samba-1.3B"),
        pytest.param((GRIFFIN, GRIFFIN_ORDER, 256_000, 2560, 26, 10, 7680), 2.68e9, 2_682_862_080, id="RecurrentGemma-2B"),
    ],
)
def test_published_sizes(arguments, published, exact):
    total, active = counts(*arguments)
    digits = len(f"{published:g}".replace(".", "").split("e")[0])
    assert float(f"{total:.{digits}g}") == published
    assert active == total
    assert total == exact


def test_published_size_of_jamba():
    """Its head is untied, so it holds V · d parameters beside the embedding that ours shares; both count as active."""
    total, active = counts(JAMBA, JAMBA_ORDER, 65_536, 4096, 32, 32, 14_336)
    head = 65_536 * 4096
    assert (total + head) / 1e9 == pytest.approx(51.57, abs=0.005)
    assert (active + head) / 1e9 == pytest.approx(12.11, abs=0.005)
