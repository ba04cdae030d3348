"""Decoders of this project as native classes of the ``transformers`` library: weight maps, tested for equal logits.

==================  =========================================================================
``MambaForCausalLM``  Mamba-1 blocks without an MLP (arm ``mamba``)
``LlamaForCausalLM``  attention with RoPE on whole heads and SwiGLU (arm ``transformer_modern``)
``BambaForCausalLM``  Mamba-2 and attention, interleaved at will, with SwiGLU everywhere
==================  =========================================================================

Not native: Griffin and Hawk (RecurrentGemma has one activation for the recurrent block, tanh-GELU, and the MLP, exact GELU here),
Jamba (one ε for all its norms, two here), Samba (no class has Mamba-1, windows and RoPE), Hymba and LOLM (no class).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from lolm.external.load import transformers
from lolm.external.model import ExternalError
from lolm.mixers.attention import Attention
from lolm.mixers.mamba1 import Mamba1
from lolm.mixers.mamba2 import Mamba2
from lolm.models.blocks import EPSILON, Block
from lolm.models.decoder import Decoder
from lolm.models.mlp import MLP
from lolm.ops.rms_norm import RMSNorm

Weights = Iterator[tuple[str, torch.Tensor]]


def to_native(model: Decoder) -> Any:
    """The same model as a class of the library, float32, in evaluation mode, with the same logits.

    Raises:
        ExternalError: no native class computes what this model does; the message says what it has that none has.
    """
    blocks = model.stack.blocks
    _demand(model.projection is None, "an output projection")
    _demand(isinstance(model.head_norm, torch.nn.Identity), "a norm before the head")
    _demand(
        all(isinstance(m, RMSNorm) for m in (model.stack.final_norm, *(b.mixer_norm for b in blocks))),
        "norms that are not RMSNorm",
    )
    mixers = {type(block.mixer) for block in blocks}
    if mixers == {Mamba1} and all(block.mlp is None for block in blocks):
        config, weights = _mamba(model), _stack(model, "backbone", "norm_f", _mamba_block)
    elif mixers <= {Attention, Mamba2} and all(isinstance(block.mlp, MLP) and block.mlp.kind == "swiglu" for block in blocks):
        _demand(not any(block.mlp.bias for block in blocks if isinstance(block.mlp, MLP)), "MLPs with biases")
        if mixers == {Attention}:
            config, weights = _llama(model), _stack(model, "model", "norm", _llama_block)
        else:
            config, weights = _bamba(model), _stack(model, "model", "final_layernorm", _bamba_block)
    else:
        _demand(False, f"blocks of {' and '.join(sorted(kind.__name__ for kind in mixers))} with its MLPs")
    native = transformers().AutoModelForCausalLM.from_config(config).float()
    native.load_state_dict({name: tensor.detach().clone() for name, tensor in weights}, strict=True)
    return native.eval()


def _demand(holds: bool, has: str) -> None:
    if not holds:
        raise ExternalError(f"no class of the transformers library computes this model: it has {has}")


# ---------------------------------------------------------------------------------------------- configurations


def _common(model: Decoder) -> dict[str, Any]:
    return {
        "vocab_size": model.vocab_size,
        "hidden_size": model.d_model,
        "num_hidden_layers": len(model.stack.blocks),
        "tie_word_embeddings": True,
        # SentencePiece's of this project: it has no token for padding and none that begins a text.
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": 1,
    }


def _one(blocks: list[Block], kind: type, *names: str) -> tuple[Any, ...]:
    """Options that all mixers of a kind have to share."""
    found = {tuple(getattr(block.mixer, name) for name in names) for block in blocks if isinstance(block.mixer, kind)}
    _demand(len(found) == 1, f"{kind.__name__} layers that differ in {', '.join(names)}")
    return found.pop()


def _attention(model: Decoder, partial: bool) -> dict[str, Any]:
    names = ("n_heads", "kv_heads", "head_width", "rotated", "rope_base", "window", "out_bias")
    heads, kv_heads, width, rotated, base, window, bias = _one(model.stack.blocks, Attention, *names)
    _demand(window is None, "attention in windows")
    _demand(not bias, "attention with an output bias")
    _demand(
        rotated == width or (partial and rotated > 0), "RoPE on a part of each head" if rotated else "attention without positions"
    )
    rope = {"rope_type": "default", "rope_theta": float(base)} | ({"partial_rotary_factor": rotated / width} if partial else {})
    return {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": width, "rope_parameters": rope}


def _d_ff(model: Decoder) -> int:
    widths = {block.mlp.down.in_features for block in model.stack.blocks if isinstance(block.mlp, MLP)}
    _demand(len(widths) == 1, "MLPs of different widths")
    return widths.pop()


def _llama(model: Decoder) -> Any:
    return transformers().LlamaConfig(
        **_common(model),
        **_attention(model, partial=False),
        intermediate_size=_d_ff(model),
        hidden_act="silu",
        rms_norm_eps=EPSILON,
    )


def _mamba(model: Decoder) -> Any:
    inner, states, kernel, rank, norms = _one(
        model.stack.blocks, Mamba1, "d_inner", "d_state", "d_conv", "dt_rank", "inner_norms"
    )
    _demand(not norms, "norms inside its Mamba mixers")
    return transformers().MambaConfig(
        **_common(model),
        state_size=states,
        conv_kernel=kernel,
        time_step_rank=rank,
        intermediate_size=inner,  # any width, where `expand` is whole
        layer_norm_epsilon=EPSILON,
    )


def _bamba(model: Decoder) -> Any:
    blocks = model.stack.blocks
    attention = [layer for layer, block in enumerate(blocks) if isinstance(block.mixer, Attention)]
    inner, heads, states, kernel, groups, chunk = _one(blocks, Mamba2, "d_inner", "heads", "d_state", "d_conv", "groups", "chunk")
    _demand(inner % model.d_model == 0, f"an inner width of {inner}, no multiple of {model.d_model}")
    return transformers().BambaConfig(
        **_common(model),
        **(_attention(model, partial=True) if attention else {}),
        attn_layer_indices=attention,
        intermediate_size=_d_ff(model),
        rms_norm_eps=EPSILON,
        mamba_expand=inner // model.d_model,
        mamba_n_heads=heads,
        mamba_d_head=inner // heads,
        mamba_d_state=states,
        mamba_d_conv=kernel,
        mamba_n_groups=groups,
        mamba_chunk_size=chunk,
    )


# ---------------------------------------------------------------------------------------------- weights


def _stack(model: Decoder, core: str, norm: str, block_weights: Any) -> Weights:
    embeddings = "embeddings" if core == "backbone" else "embed_tokens"
    yield f"{core}.{embeddings}.weight", model.embedding.weight
    yield "lm_head.weight", model.embedding.weight
    yield f"{core}.{norm}.weight", model.stack.final_norm.weight  # type: ignore[misc]
    for layer, block in enumerate(model.stack.blocks):
        for name, tensor in block_weights(block):
            yield f"{core}.layers.{layer}.{name}", tensor


def _mamba_block(block: Any) -> Weights:
    yield "norm.weight", block.mixer_norm.weight
    mixer: Mamba1 = block.mixer
    yield "mixer.A_log", mixer.A_log
    yield "mixer.D", mixer.skip
    yield from _conv(mixer, "mixer")
    yield "mixer.dt_proj.bias", mixer.dt_proj.bias
    for name in ("in_proj", "x_proj", "dt_proj", "out_proj"):
        yield f"mixer.{name}.weight", getattr(mixer, name).weight


def _llama_block(block: Any) -> Weights:
    yield "input_layernorm.weight", block.mixer_norm.weight
    yield "post_attention_layernorm.weight", block.mlp_norm.weight
    yield from attention_weights(block.mixer)
    yield from mlp_weights(block.mlp, "mlp")


def _bamba_block(block: Any) -> Weights:
    yield "input_layernorm.weight", block.mixer_norm.weight
    yield "pre_ff_layernorm.weight", block.mlp_norm.weight
    yield from mlp_weights(block.mlp, "feed_forward")
    yield from attention_weights(block.mixer) if isinstance(block.mixer, Attention) else mamba2_weights(block.mixer)


def attention_weights(attention: Attention, name: str = "self_attn") -> Weights:
    """q, k, v and o: rotated dimensions are paired (2i, 2i + 1) here and (i, i + R/2) there, so rows of q and k change places."""
    width, rotated = attention.head_width, attention.rotated
    order = torch.cat((torch.arange(0, rotated, 2), torch.arange(1, rotated, 2), torch.arange(rotated, width)))
    heads = attention.qkv.weight.unflatten(0, (-1, width))  # (H + 2K, P, D)
    q, k, v = heads.split([attention.n_heads, attention.kv_heads, attention.kv_heads])
    yield f"{name}.q_proj.weight", q[:, order].flatten(0, 1)
    yield f"{name}.k_proj.weight", k[:, order].flatten(0, 1)
    yield f"{name}.v_proj.weight", v.flatten(0, 1)
    yield f"{name}.o_proj.weight", attention.out.weight  # type: ignore[misc]


def mlp_weights(mlp: MLP, name: str) -> Weights:
    """Gate and up lie in one matrix here, in two there."""
    gate, up = mlp.up.weight.chunk(2)
    yield f"{name}.gate_proj.weight", gate
    yield f"{name}.up_proj.weight", up
    yield f"{name}.down_proj.weight", mlp.down.weight


def mamba2_weights(mixer: Mamba2, name: str = "mamba") -> Weights:
    """Maps, convolution, scan and gated norm; all but the convolution's shape are the same."""
    yield f"{name}.A_log", mixer.A_log
    yield f"{name}.D", mixer.skip
    yield f"{name}.dt_bias", mixer.dt_bias
    yield f"{name}.norm.weight", mixer.norm_weight
    yield f"{name}.in_proj.weight", mixer.in_proj.weight
    yield f"{name}.out_proj.weight", mixer.out_proj.weight
    yield from _conv(mixer, name)


def _conv(mixer: Mamba1 | Mamba2, name: str) -> Weights:
    yield f"{name}.conv1d.weight", mixer.conv_weight[:, None]
    yield f"{name}.conv1d.bias", mixer.conv_bias
