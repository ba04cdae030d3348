"""Decoders of ours are the same models as native classes: same logits, and same damages by layer and type."""

import pytest
import torch

transformers = pytest.importorskip("transformers")

from builders import VOCAB, make_model, random_tokens  # noqa: E402

from lolm.analysis.layers import damage, share, statistic  # noqa: E402
from lolm.config import ExternalConfig, LayersConfig, StackConfig, from_mapping  # noqa: E402
from lolm.export.native import NotNativeError, from_native, lacking, to_native  # noqa: E402
from lolm.external import ExternalModel, TextWindows, load_model  # noqa: E402
from lolm.laboratory.layers import measure_layers  # noqa: E402

TEXT, OTHERS = (TextWindows(random_tokens(4, 25, seed=seed).numpy(), 150, VOCAB) for seed in (1, 2))
CONFIG = LayersConfig(tokens=96, batch_size=4, draws=1)


def hybrid(**size):
    """Mamba-2, attention, Mamba-2, attention, each with an MLP: a Bamba of this project's parts."""
    block = {"mlp": "swiglu", "norm": "rmsnorm"}
    mamba = {"mixer": {"name": "mamba2", "options": {"d_state": 8, "head_width": 8, "chunk": 16}}} | block
    attention = {"mixer": {"name": "attention", "options": {"kv_heads": 1, "rope": 0.5}}} | block
    surface = {"blocks": {"m": mamba, "a": attention}, "pattern": ["m", "a"], "final_norm": "rmsnorm"}
    return make_model("transformer_modern", surface=from_mapping(StackConfig, surface), size={"n_layers": 4, "d_ff": 48} | size)


def scrambled(model):
    """With weights that are large and differ everywhere, norms and biases too, so that no map can be left out unseen."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


MODELS = {
    "llama": lambda: make_model("transformer_modern"),
    "mamba": lambda: make_model("mamba"),
    "mamba2": lambda: make_model("mamba2"),
    "jamba": lambda: make_model("jamba_moe", size={"n_layers": 6}),
    "bamba": hybrid,
}


@torch.no_grad()
@pytest.mark.parametrize("name", [*MODELS, "nemotronh"])
def test_weights_come_back(name):
    def make():
        return make_model("mamba2", scale="nano", size={"n_layers": 2}) if name == "nemotronh" else MODELS[name]()

    ours, back = scrambled(make()), make()
    native = to_native(ours)
    assert type(native).__name__.lower().startswith(name)
    tokens = random_tokens(2, 70)
    torch.testing.assert_close(native(tokens, use_cache=False).logits, ours(tokens), rtol=1e-5, atol=1e-5)
    tensors = native.state_dict()
    if name == "nemotronh":  # its head is not tied, so it could have been trained apart
        with pytest.raises(NotNativeError, match="a head that is no longer its embedding"):
            from_native(back, tensors | {"lm_head.weight": tensors["lm_head.weight"] + 1})
    else:
        tensors.pop("lm_head.weight")  # a file has tied weights once
    from_native(back, tensors)
    for (key, mine), theirs in zip(ours.named_parameters(), back.parameters(), strict=True):
        torch.testing.assert_close(theirs, mine, rtol=2**-23 if name == "jamba" and "x_proj" in key else 0, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_logits_and_damages_are_the_same(name, tmp_path):
    ours = scrambled(MODELS[name]())
    native = to_native(ours)
    assert type(native).__name__.lower().startswith(name)
    tokens = random_tokens(2, 90)  # longer than a chunk of the scan
    torch.testing.assert_close(native(tokens, use_cache=False).logits, ours(tokens), rtol=1e-5, atol=1e-5)
    assert sum(p.numel() for p in native.parameters()) == sum(p.numel() for p in ours.parameters())
    native.save_pretrained(tmp_path)
    theirs = load_model("mine", ExternalConfig(str(tmp_path)))
    mine, found = (measure_layers(model, TEXT, OTHERS, CONFIG, seed=1, step=0) for model in (ours, theirs))
    assert [(s.site, s.kind, s.type, s.parameters) for s in found.sites] == [
        (s.site, s.kind, s.type, s.parameters) for s in mine.sites
    ]
    assert [row.sites for row in found.removals] == [row.sites for row in mine.removals]
    for row, same in zip(found.removals, mine.removals, strict=True):
        assert row.nats == pytest.approx(same.nats, abs=2e-5), (row.sites, row.by)
    assert max(abs(found.damage(row.sites, row.by)) for row in found.removals) > 0.01


@pytest.mark.parametrize(
    ("arm", "has"),
    [
        ("samba", "attention in windows"),
        ("griffin", "blocks of Attention and RGLRU with its MLPs"),
        ("transformer", "an output projection"),
        ("transformer_conv", "attention with a convolution"),
        ("lolm", "the streams of LOLM"),
    ],
)
def test_what_no_class_computes_is_refused(arm, has):
    with pytest.raises(NotNativeError, match=f"^no class of the transformers library computes this model: it has .*{has}") as no:
        to_native(make_model(arm))
    assert lacking(make_model(arm)) == no.value.has, "what the card says"


def test_a_window_is_refused():
    model = hybrid()
    for block in model.stack.blocks[1::2]:
        block.mixer.window = 8
    with pytest.raises(NotNativeError, match="attention in windows"):
        to_native(model)


# ---------------------------------------------------------------------------------------------- a planted bypass


@torch.no_grad()
def spoken_by(model, windows: int, seed: int, length: int = 24) -> TextWindows:
    """Text drawn from the model itself: to it, whatever it computes with is worth having, so removals cost loss."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(VOCAB, (windows, 1), generator=generator)
    for _ in range(length):
        chances = model(input_ids=tokens, use_cache=False).logits[:, -1].softmax(-1)
        tokens = torch.cat((tokens, torch.multinomial(chances, 1, generator=generator)), dim=1)
    return TextWindows(tokens.numpy(), 100, VOCAB)


@torch.no_grad()
@pytest.mark.parametrize("bypassed", ["recurrent", "attention"])
def test_a_bypassed_type_is_found_out(bypassed):
    """A converted hybrid whose recurrent branch writes nothing looks like a hybrid from outside (arXiv 2510.05901)."""
    native = to_native(scrambled(hybrid()))
    native.model.final_layernorm.weight.mul_(8)  # a model that is sure of what it says
    for layer in native.model.layers:
        recurrent = hasattr(layer, "mamba")
        out = layer.mamba.out_proj if recurrent else layer.self_attn.o_proj
        out.weight.mul_(0 if recurrent == (bypassed == "recurrent") else 4)
    text, others = (spoken_by(native, 8, seed) for seed in (1, 2))
    found = measure_layers(ExternalModel(native), text, others, CONFIG, seed=1, step=0)
    other = {"recurrent": "attention", "attention": "recurrent"}[bypassed]
    for by in ("zero", "mean", "resample"):
        assert damage(found, bypassed, by) == 0.0
        assert damage(found, other, by) > 0.05
        assert (statistic(found, by) < 0) == (bypassed == "recurrent")
    assert share(found) == (0.0 if bypassed == "recurrent" else 1.0)
