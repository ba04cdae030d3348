"""Decoders against the transformers package and against the equations written out."""

import pytest
import torch
import torch.nn.functional as F
from builders import VOCAB, make_model, random_tokens

from lolm.config import BlockConfig, MixerConfig, SizeConfig, StackConfig
from lolm.models.blocks import Block
from lolm.models.mlp import MLP


def test_the_modern_decoder_equals_llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    model = make_model("transformer_modern")
    size = len(model.stack.layers)
    d, heads = model.d_model, model.stack.layers[0].mixer.n_heads
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=d, intermediate_size=model.stack.layers[0].mlp.d_ff, num_hidden_layers=size,
        num_attention_heads=heads, tie_word_embeddings=True, rms_norm_eps=1e-5, attn_implementation="eager",
    )  # fmt: skip
    llama = LlamaForCausalLM(config).eval()

    def halves(weight: torch.Tensor) -> torch.Tensor:
        """Rows of a query or key map from adjacent pairs to the pairs (i, i + P/2) that Llama rotates."""
        return weight.view(heads, d // heads // 2, 2, d).transpose(1, 2).reshape(d, d)

    weights = {"model.embed_tokens.weight": model.embedding.weight, "lm_head.weight": model.embedding.weight}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 0.3 * torch.randn_like(parameter))  # norms that are not 1, maps large enough to matter
        for i, layer in enumerate(model.stack.layers):
            q, k, v = layer.mixer.qkv.weight.mul_(5).chunk(3)
            gate, up = layer.mlp.up.weight.chunk(2)
            name = f"model.layers.{i}."
            weights |= {
                name + "self_attn.q_proj.weight": halves(q), name + "self_attn.k_proj.weight": halves(k),
                name + "self_attn.v_proj.weight": v, name + "self_attn.o_proj.weight": layer.mixer.out.weight.mul_(20),
                name + "mlp.gate_proj.weight": gate, name + "mlp.up_proj.weight": up,
                name + "mlp.down_proj.weight": layer.mlp.down.weight.mul_(20),
                name + "input_layernorm.weight": layer.mixer_norm.weight,
                name + "post_attention_layernorm.weight": layer.mlp_norm.weight,
            }  # fmt: skip
    llama.load_state_dict(weights | {"model.norm.weight": model.stack.final_norm.weight})
    tokens = random_tokens(2, 40)
    ours, theirs = model(tokens), llama(tokens).logits
    assert (ours - model.logits(model.embedding(tokens))).abs().max() > 0.01  # the blocks do matter
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.detach().abs().max()))


def test_the_published_decoder_by_its_equations():
    model = make_model("transformer_published")
    tokens = random_tokens(2, 15)
    x = model.embedding.weight[tokens]
    for layer in model.stack.layers:
        x = x + layer.mixer(F.layer_norm(x, (32,), layer.mixer_norm.weight, layer.mixer_norm.bias, 1e-5))
        hidden = F.layer_norm(x, (32,), layer.mlp_norm.weight, layer.mlp_norm.bias, 1e-5) @ layer.mlp.up.weight.T
        x = x + (hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))) @ layer.mlp.down.weight.T
    o = F.layer_norm(x, (32,)) @ model.projection.map.weight.T
    torch.testing.assert_close(model(tokens), o @ model.embedding.weight.T, rtol=1e-4, atol=1e-3)
    sound = make_model("transformer")
    o = sound.fuse(sound.streams(tokens))
    torch.testing.assert_close(sound(tokens), F.layer_norm(o, (32,)) @ sound.embedding.weight.T)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", ["gelu", "swiglu", "geglu"])
def test_mlp_by_its_equation(kind, bias):
    torch.manual_seed(0)
    mlp = MLP(kind, 6, 10, 0.0, bias)
    x = torch.randn(3, 6)
    b, c = (mlp.up.bias, mlp.down.bias) if bias else (torch.zeros(20), torch.zeros(6))

    def gelu(y):
        return y * torch.distributions.Normal(0, 1).cdf(y)

    if kind == "gelu":
        hidden = gelu(x @ mlp.up.weight.T + b[:10])
    else:
        gate, value = x @ mlp.up.weight[:10].T + b[:10], x @ mlp.up.weight[10:].T + b[10:]
        hidden = value * (gate * gate.sigmoid() if kind == "swiglu" else gelu(gate))
    torch.testing.assert_close(mlp(x), hidden @ mlp.down.weight.T + c)
    assert mlp.num_params() == sum(p.numel() for p in mlp.parameters())
    assert mlp.flops_per_token(9) == 2 * (mlp.up.weight.numel() + mlp.down.weight.numel())  # a bias is no product


def test_a_size_sets_options_of_a_mixer_over_those_of_the_architecture():
    block = BlockConfig(MixerConfig("mamba1", {"d_state": 8, "inner_norms": True}), mlp="none")
    mixer = Block(block, SizeConfig(32, 1, 2, 0.0, mixers={"mamba1": {"d_inner": 48, "d_state": 4}})).mixer
    assert (mixer.d_inner, mixer.d_state, mixer.inner_norms) == (48, 4, True)


def test_a_pattern_repeats_over_the_layers():
    blocks = {"a": BlockConfig(MixerConfig("attention")), "m": BlockConfig(MixerConfig("mamba1"), mlp="none", norm="rmsnorm")}
    model = make_model("transformer", size={"n_layers": 5}, surface=StackConfig(blocks, ("m", "m", "a")))
    assert [type(layer.mixer).__name__ for layer in model.stack.layers] == ["Mamba1", "Mamba1", "Attention", "Mamba1", "Mamba1"]
    assert model.stack.layers[0].mlp is None
    assert model.stack.num_params() == sum(p.numel() for p in model.stack.parameters())


def test_dropout_lies_on_embedding_attention_and_mlp_output():
    model = make_model("transformer_published", size={"dropout": 0.5}).train()
    torch.manual_seed(0)
    embedded = model._embed(random_tokens(1, 200))
    zeros = float((embedded == 0).float().mean())
    assert 0.45 < zeros < 0.55
    kept = embedded[embedded != 0] / model.embedding(random_tokens(1, 200))[embedded != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 2.0))
    mlp_out = model.stack.layers[0].mlp(torch.randn(1, 100, 32))
    assert 0.4 < float((mlp_out == 0).float().mean()) < 0.6
    attended = model.stack.layers[0].mixer(torch.randn(1, 100, 32))[:, 20:]  # with few keys all may be dropped
    assert (attended != 0).all()  # none on attention's output
    model.eval()
    assert torch.equal(model(random_tokens(1, 20)), model(random_tokens(1, 20)))


def test_activation_checkpointing_changes_neither_loss_nor_gradients():
    gradients = []
    for on in (False, True):
        model = make_model("transformer", size={"dropout": 0.2}, training={"activation_checkpointing": on}).train()
        torch.manual_seed(5)
        model(random_tokens(2, 9)).logsumexp(dim=-1).sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
